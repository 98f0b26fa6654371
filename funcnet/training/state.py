"""How a run begins: its three streams of randomness and its first `TrainState`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from funcnet import errors, tree
from funcnet.eager import outline
from funcnet.types import Model, ModelState, Params, PyTree, TrainState

INIT, ORDER, NOISE, RESAMPLE = 0, 1, 2, 3
"""The streams of a run's key: initial params, order of examples, noise, and bootstrap resamples.

They never meet.
"""


def stream(key: jax.Array, which: int) -> jax.Array:
    """The key of one stream, `fold_in(key, which)`."""
    return jax.random.fold_in(key, which)


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    x: Any,
    start: tuple[Params, ModelState] | None = None,
) -> TrainState:
    """The state of step 0.

    Args:
        model: what is trained.
        optimizer: its memory is part of the state.
        key: the key of the whole run, from `jax.random.key(seed)`.
        x: a batch of inputs, or `jax.ShapeDtypeStruct`s that describe one.
        start: the params and model_state to begin with, those of `model.init` unless given.

    Raises:
        TypeError: `key` is not a key; a param is not floating.
    """
    check_key("init", key)
    first_of = model.init if start is None else lambda key, x: start
    params, model_state = first_of(stream(key, INIT), outline(x))
    check_params(params)
    state = TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), key)
    first: TrainState = strong(state)
    return first


def strong(state: PyTree) -> PyTree:
    """`state` without weak types, so that no step changes the type of a leaf."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)


def check_key(function: str, key: Any) -> None:
    """Raises unless `key` is one typed key."""
    if not (
        isinstance(key, jax.Array)
        and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        and key.ndim == 0
    ):
        raise TypeError(
            f"`{function}`: key must be one key, got {errors.describe(key)}. "
            "Make it with `jax.random.key(0)`."
        )


def check_params(params: PyTree) -> None:
    """Raises unless every param can be differentiated."""
    wrong = [
        f"{path}: {errors.describe(leaf)}"
        for path, leaf in tree.paths(params).items()
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating))
    ]
    if wrong:
        raise TypeError(
            f"`init`: params must be floating arrays, got {', '.join(wrong)}. "
            "Return what is not learnt as model_state."
        )
