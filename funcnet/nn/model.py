"""What every layer shares: the training flag, stateless models, dtypes of params, kinds."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.types import Model, ModelState, Params, TrainState, maker

Start: TypeAlias = TrainState | tuple[Params, ModelState]
"""What a model begins with in place of what its `init` makes: a state, or a pair of its trees."""


def is_training(key: jax.Array | None, training: bool | None) -> bool:
    """Whether `apply` runs for training: `training` itself, or whether there is a `key`.

    Example:
        >>> is_training(None, None), is_training(None, True)
        (False, True)
    """
    return key is not None if training is None else training


def stateless(f: Callable[[Any], Any]) -> Model:
    """Makes a `Model` without arrays of a function `x -> y`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = stateless(jax.nn.relu)
        >>> model.init(jax.random.key(0), jnp.ones(3))
        ({}, {})
    """

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return {}, {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        return f(x), model_state

    init.__qualname__ = f"{getattr(f, '__name__', type(f).__name__)}.<locals>.init"
    return Model(init, apply)


def sized(name: str, of: Callable[[Any], Model]) -> Model:
    """The model `of(x)`, made anew for each `x`: for layers whose parts depend on its shape."""

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return of(x).init(key, x)

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        return of(x).apply(params, model_state, x, key=key, training=training)

    return named(name, Model(init, apply))


def named(name: str, model: Model) -> Model:
    """`model`, whose kind is `name` in errors and summaries."""
    setattr(model.init, "__qualname__", f"{name}.<locals>.init")  # noqa: B010 - a protocol has none
    return model


def kind(model: Model) -> str:
    """The name of the function that made `model`, such as `"dense"`.

    Example:
        >>> import funcnet as fn
        >>> kind(fn.dense(3))
        'dense'
    """
    return maker(model.init)


def param_dtype(x: Any) -> Any:
    """The dtype that params get for input `x`: its own where that is real, else the default."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)


def along_last(leaf: jax.Array, x: jax.Array) -> jax.Array:
    """A vector with axes of length 1 before it, to meet `x` without a promotion of ranks."""
    return leaf.reshape(*[1] * (x.ndim - 1), -1)


def check_rank(function: str, x: Any, least: int, axes: str) -> None:
    """Raises unless `x` is an array with at least the axes that `function` needs."""
    if not hasattr(x, "shape"):
        raise TypeError(
            f"`{function}`: x must be one array {axes}, got {errors.describe(x)}. "
            "Take the array out with a function before this layer, `lambda x: x[0]` say."
        )
    if len(x.shape) < least:
        raise ValueError(
            f"`{function}`: x must have the axes {axes}, got {errors.describe(x)}. "
            "The first axis is the batch: add it to a single example with `x[None]`."
        )


def pair_of(function: str, start: Start) -> tuple[Params, ModelState]:
    """The params and model_state of a `start`."""
    given = (start.params, start.model_state) if isinstance(start, TrainState) else start
    if type(given) is not tuple or len(given) != 2:
        raise TypeError(
            f"`{function}`: start must be a fn.TrainState, or a pair (params, model_state), got "
            f"{errors.describe(start)}. Give `result.best`, or what `model.init` makes."
        )
    return given


def started(function: str, model: Model, start: Start, x: Any) -> tuple[Params, ModelState]:
    """The params and model_state that a model is to begin with; raises unless they are its own.

    Args:
        function: the public function that asks.
        model: whose they must be.
        start: a `TrainState`, or a pair as `model.init` gives it.
        x: a batch of inputs, or what describes one.
    """
    given = pair_of(function, start)
    want = jax.eval_shape(lambda: model.init(jax.random.key(0), tree.spec(x)))
    names = "params", "model_state"
    wrong = errors.differences(*(dict(zip(names, each, strict=True)) for each in (want, given)))
    if wrong:
        raise ValueError(
            f"`{function}`: start must have the params and model_state of the model, got\n  "
            + "\n  ".join(sorted(wrong))
            + "\nGive what its `init` makes, or a state of this very model, `result.best` say."
        )
    return given
