"""Models of other makes: `as_model` for plain functions and Flax Linen modules."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import jax

from funcnet.nn.model import is_training
from funcnet.types import Model, ModelState, Params

TRAINING_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""The names that Linen modules give to the training flag, and its value in training."""


def as_model(guest: Any, init: Callable[[jax.Array, Any], Params] | None = None) -> Model:
    """Makes a `Model` of a function with its initialiser, or of a Flax Linen module.

    A Linen module keeps its own trees: `params` is its collection of that name, `model_state` holds
    all other collections that `init` makes, such as `batch_stats`; values that it only sows are
    dropped. Its training flag is found by name (`train`, `training`, `is_training`,
    `deterministic`, `use_running_average`) and set from `training`; `key` serves all its
    streams of randomness. An `x` that is a tuple is given to it as several arguments.

    Args:
        guest: `f(params, x) -> y`, with `init`; or a `flax.linen.Module`.
        init: `init(key, x) -> params`, for a function. Its `x` may be a `jax.ShapeDtypeStruct`.

    Returns:
        The model.

    Raises:
        TypeError: `guest` is neither, or a function comes without `init`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> scale = fn.as_model(
        ...     lambda params, x: params["scale"] * x,
        ...     init=lambda key, x: {"scale": jnp.ones(x.shape[-1])},
        ... )
        >>> model = fn.sequential(fn.dense(3), scale)
        >>> model.init(jax.random.key(0), jnp.ones((8, 2)))[0]["1"]["scale"].tolist()
        [1.0, 1.0, 1.0]
    """
    linen = sys.modules.get("flax.linen")  # a guest can't be there before its library is
    if linen is not None and isinstance(guest, linen.Module):
        return from_linen(guest)
    if isinstance(guest, Model):
        return guest
    if not callable(guest) or isinstance(guest, type) or hasattr(guest, "init"):
        raise TypeError(
            "`as_model`: guest must be a flax.linen.Module or a function f(params, x), "
            f"got {guest!r}. Make an instance if it is a class."
        )
    if init is None:
        raise TypeError(
            "`as_model`: a function f(params, x) needs its init(key, x) -> params, got init=None. "
            "A function x -> y without params goes into `fn.sequential` as it is."
        )
    return from_function(guest, init)


def from_function(
    f: Callable[[Params, Any], Any], init_params: Callable[[jax.Array, Any], Params]
) -> Model:
    """The model of `f(params, x) -> y` and `init_params(key, x) -> params`."""

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return init_params(key, x), {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        return f(params, x), model_state

    return named(Model(init, apply), getattr(f, "__name__", type(f).__name__))


def from_linen(module: Any) -> Model:
    """The model of a `flax.linen.Module`."""
    flag = linen_flag(module)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        off = {} if flag is None else {flag: not TRAINING_FLAGS[flag]}
        variables = dict(module.lazy_init(key, *arguments(x), **off))
        params = variables.pop("params", {})
        variables.pop("intermediates", None)
        return params, variables

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        on = is_training(key, training)
        flags = {} if flag is None else {flag: on == TRAINING_FLAGS[flag]}
        variables = {"params": params, **model_state}
        mutable = list(model_state)  # some write at inference too: that is dropped
        y, new_state = module.apply(variables, *arguments(x), rngs=key, mutable=mutable, **flags)
        return y, (new_state if on else model_state)

    return named(Model(init, apply), type(module).__name__)


def linen_flag(module: Any) -> str | None:
    """The argument of a Linen module's call that says whether it trains, if it has one."""
    found = TRAINING_FLAGS.keys() & inspect.signature(type(module).__call__).parameters.keys()
    if len(found) > 1:
        raise TypeError(
            f"`as_model`: a Linen module must have at most one training flag, "
            f"got {', '.join(sorted(found))} in {type(module).__name__}.__call__. "
            "Give it one and pass that on inside."
        )
    return next(iter(found), None)


def arguments(x: Any) -> tuple[Any, ...]:
    """The arguments of a guest: a tuple is several inputs, anything else is one."""
    return x if isinstance(x, tuple) else (x,)


def named(model: Model, name: str) -> Model:
    """`model`, whose kind is `name` in errors and summaries."""
    setattr(model.init, "__qualname__", f"{name}.<locals>.init")  # noqa: B010 - a protocol has none
    return model
