"""Layers that move elements and compute nothing."""

import math

import jax

from funcnet.nn.model import check_rank, stateless
from funcnet.types import Model


def flatten() -> Model:
    """Joins all axes but the batch into one, `(B, ...) -> (B, features)`.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> fn.flatten().apply({}, {}, jnp.ones((8, 4, 4, 3)))[0].shape
        (8, 48)
    """

    def flatten(x: jax.Array) -> jax.Array:
        check_rank("flatten", x, 1, "(B, ...)")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    return stateless(flatten)
