"""Sums by weight: of a mean, of cells, in dtypes that can add up."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.metrics.metric import Accumulator


def weighted(total: Any, weight: Any) -> Accumulator:
    """The accumulator of a mean whose sum is `total` and whose sum of weights is `weight`.

    Example:
        >>> import funcnet as fn
        >>> float(fn.metrics.average(fn.metrics.weighted(total=6.0, weight=4)))
        1.5
    """
    return {"total": widened(total), "weight": widened(weight)}


def average(accumulator: Accumulator) -> jax.Array:
    """The mean that `weighted` described: total / weight, NaN where both are 0.

    Example:
        >>> import funcnet as fn
        >>> float(fn.metrics.average(fn.metrics.weighted(total=0.0, weight=0)))
        nan
    """
    return jnp.divide(real(accumulator["total"]), accumulator["weight"])


def tally(values: jax.Array, weight: jax.Array, positions: Any = 1) -> Accumulator:
    """Sums `values` `(B,)` by `weight` `(B,)`; whatever has weight 0 may be NaN.

    `positions`, one number or one an example, says how many positions each value is the sum of.
    """
    kept = jnp.where(weight == 0, 0, values)
    return weighted(jnp.sum(kept * weight), jnp.sum(weight * positions))


def cells(shape: tuple[int, ...], values: jax.Array, *indices: jax.Array) -> jax.Array:
    """Sums of `values` by cell; what lies outside of `shape` is in no cell."""
    empty = jnp.zeros(shape, values.dtype)
    return empty.at[indices].add(values, mode="drop", wrap_negative_indices=False)


def bin_of(p: jax.Array, bins: int) -> jax.Array:
    """The bin of `p` among `bins` of equal width: bin m is (m / bins, (m + 1) / bins].

    0 and less lie in the first; what is above 1, and NaN, in the last.
    """
    edges = jnp.asarray(np.arange(1, bins) / bins, p.dtype)
    return jnp.searchsorted(edges, p, side="left")


def example_weight(function: str, weight: Any, examples: jax.Array) -> jax.Array:
    """`weight` as counters or floats `(B,)`, ones for `None`."""
    shape = examples.shape[:1]
    if weight is None:
        return jnp.ones(shape, jnp.int32)
    weight = jnp.asarray(weight)
    if weight.shape != shape:
        raise ValueError(
            f"`{function}`: weight must have one number an example, shape {shape}, "
            f"got {errors.describe(weight)}. Pass None to weigh all alike."
        )
    return widened(weight)


def at_positions(weight: jax.Array, examples: jax.Array) -> jax.Array:
    """`weight` `(B,)` for every position of `examples` `(B, ...)`."""
    each = jnp.expand_dims(weight, tuple(range(1, examples.ndim)))  # (B, 1, ...)
    return jnp.broadcast_to(each, examples.shape)


def widened(value: Any) -> jax.Array:
    """`value` in a dtype that can add up: int32 for whole numbers, else 32 bits or more."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return array.astype(jnp.int32)


def real(array: jax.Array) -> jax.Array:
    """Counters as floats: int32 by int32 is float32 even in x64."""
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(jnp.result_type(float))
    return array
