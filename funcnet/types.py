"""Names of the values that flow between the parts of funcnet, and how they show themselves."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import optax

PyTree: TypeAlias = Any
"""Any nesting of dicts, lists, tuples and registered classes with arrays as leaves."""

Params: TypeAlias = PyTree
"""A model's learnt arrays, as `init` gives them and an optimizer changes them."""

ModelState: TypeAlias = PyTree
"""A model's other arrays, such as running statistics or a cache; an empty dict if it has none."""

Batch: TypeAlias = tuple[Any, ...]
"""The data of one step: `(x, y)` or `(x, y, weight)`, with the examples along the first axis."""

Loss: TypeAlias = Callable[[Any, Any], jax.Array]
"""`loss(y_pred, y)`: one number an example, or an array whose first axis is the examples."""

Metrics: TypeAlias = dict[str, Any]
"""Reported values by name, such as `{"loss": 0.3, "accuracy": 0.9}`."""


def maker(function: Any) -> str:
    """The name of the function that made another, such as `dense`; its own where none did.

    Example:
        >>> def dense(features):
        ...     return lambda x: features * x
        >>> maker(dense(3)), maker(dense)
        ('dense', 'dense')
    """
    name = str(getattr(function, "__qualname__", type(function).__name__))
    outer = name.rpartition(".<locals>.")[0]
    return (outer or name).rpartition(".")[2]


def sizes(tree: PyTree) -> str:
    """How much is in a tree, in few words.

    Example:
        >>> import numpy as np
        >>> sizes({"kernel": np.zeros((200, 10)), "bias": np.zeros(10)}), sizes({})
        ('2,010 in 2 arrays', 'none')
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return "none"
    if not all(hasattr(leaf, "shape") for leaf in leaves):
        return f"{len(leaves)} leaves"
    numbers = sum(math.prod(leaf.shape) for leaf in leaves)
    return f"{numbers:,} in {len(leaves)} array{'s' * (len(leaves) > 1)}"


def count(step: Any) -> str:
    """A number of steps, or the dtype and shape of what can't be read: traced, several, gone."""
    try:
        return f"{int(step):,}" if getattr(step, "shape", ()) == () else f"{step.dtype}{step.shape}"
    except (TypeError, RuntimeError):
        return f"{step.dtype}[]" if hasattr(step, "dtype") else str(step)


class Init(Protocol):
    """Makes a model's arrays; `x` is a batch, or `jax.ShapeDtypeStruct`s that describe one."""

    def __call__(self, key: jax.Array, x: Any, /) -> tuple[Params, ModelState]:
        """Gives the first params and model_state for inputs like `x`."""


class Apply(Protocol):
    """Computes a model's output and its next state; `training=None` means `key is not None`."""

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: Any,
        /,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        """Gives the output for `x` and the next model_state."""


class Model(NamedTuple):
    """A pair of pure functions: what every layer, network and guest of another library is.

    Attributes:
        init: `init(key, x) -> (params, model_state)`. The first axis of `x` is the batch.
        apply: `apply(params, model_state, x, *, key=None, training=None) -> (y, model_state)`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.dense(2)
        >>> params, model_state = model.init(jax.random.key(0), jnp.ones((8, 3)))
        >>> y, model_state = model.apply(params, model_state, jnp.ones((8, 3)))
        >>> y.shape
        (8, 2)
    """

    init: Init
    apply: Apply

    def __repr__(self) -> str:
        return f"Model({maker(self.init)})"


class TrainState(NamedTuple):
    """All that one step of training carries to the next.

    Attributes:
        step: int32[], batches consumed so far, those of skipped updates included.
        params: the learnt arrays.
        model_state: the model's other arrays, such as running statistics.
        opt_state: the optimizer's memory.
        key: the key of the whole run; it never changes.
    """

    step: jax.Array
    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    key: jax.Array

    def __repr__(self) -> str:
        names = "params", "model_state", "opt_state"
        words = ", ".join(f"{name}={sizes(getattr(self, name))}" for name in names)
        return f"TrainState(step={count(self.step)}, {words})"


class Objective(Protocol):
    """What is minimised, over one batch: `((sum, weight), (model_state, metrics))`.

    The mean `sum / weight` is differentiated with respect to `params`. A weight that is a plain
    number, not an array computed from the batch, can't be zero, and spares the step a test for it.
    `metrics` maps names to accumulators of the trainer's metrics, or to scalars, which are averaged
    over batches by their weight.
    """

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        /,
        *,
        key: jax.Array | None,
        training: bool,
    ) -> tuple[tuple[Any, Any], tuple[ModelState, Mapping[str, Any]]]:
        """Gives sum and weight over the batch, the next model_state and the metrics."""
