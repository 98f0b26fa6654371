"""What a metric is: pure functions of an accumulator. What is measured lives beside it."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from funcnet.types import PyTree, maker

Accumulator: TypeAlias = PyTree
"""Sums over examples: int32 where they count, else floats of 32 bits or more."""

Merge: TypeAlias = Callable[[Accumulator, Accumulator], Accumulator]


class Update(Protocol):
    """A function that adds a batch to an accumulator."""

    def __call__(
        self, accumulator: Accumulator, y_pred: Any, y: Any, weight: Any = None
    ) -> Accumulator:
        """`weight` has one number an example, `(B,)`; 0 leaves it out, `None` weighs all alike."""


class Metric(NamedTuple):
    """Pure functions that gather a quantity over batches, exactly as over their union.

    An example of weight 0 changes nothing, even if its numbers are NaN, so that a last batch may
    be filled up. All four functions can be traced.

    Attributes:
        init: `init() -> accumulator`, of no examples.
        update: `update(accumulator, y_pred, y, weight=None) -> accumulator`. Counters are int32
            (up to 2**31 - 1) while the weights are whole numbers, and float after the first float
            weight; `zeros` makes a loop's first carry of the right shapes and dtypes.
        compute: `compute(accumulator) -> value`; NaN for no examples.
        merge: `merge(a, b) -> accumulator`, of the examples of both: the leafwise sum, but for
            `r2`, whose means and squares combine by another formula.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.accuracy()
        >>> accumulator = metric.update(metric.init(), jnp.eye(3), jnp.array([0, 1, 1]))
        >>> accumulator
        {'total': Array(2, dtype=int32), 'weight': Array(3, dtype=int32)}
        >>> round(float(metric.compute(accumulator)), 3)
        0.667
    """

    init: Callable[[], Accumulator]
    update: Update
    compute: Callable[[Accumulator], Any]
    merge: Merge

    def __repr__(self) -> str:
        return f"Metric({maker(self.init)})"


def zeros(metric: Metric, contribution: Accumulator) -> Accumulator:
    """`metric.init()` in the shapes and dtypes of `contribution`, which stay fixed in a loop.

    Args:
        metric: any metric.
        contribution: what `metric.update` gives for a batch, or `jax.eval_shape` says it would.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.accuracy()
        >>> y_pred, y, weight = jnp.eye(2), jnp.array([0, 1]), jnp.array([0.5, 1.0])
        >>> contribution = jax.eval_shape(metric.update, metric.init(), y_pred, y, weight)
        >>> fn.metrics.zeros(metric, contribution)
        {'total': Array(0., dtype=float32), 'weight': Array(0., dtype=float32)}
    """

    def alike(zero: Any, leaf: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(zero, leaf.dtype), leaf.shape)

    return jax.tree.map(alike, metric.init(), contribution)


def add(a: Accumulator, b: Accumulator) -> Accumulator:
    """The leafwise sum."""
    return jax.tree.map(jnp.add, a, b)


def make_metric(
    init: Callable[[], Accumulator],
    contribution: Callable[[Any, Any, Any], Accumulator],
    compute: Callable[[Accumulator], Any],
    merge: Merge = add,
) -> Metric:
    """A metric whose update merges in what one batch contributes."""

    def update(accumulator: Accumulator, y_pred: Any, y: Any, weight: Any = None) -> Accumulator:
        return merge(accumulator, contribution(y_pred, y, weight))

    return Metric(init, update, compute, merge)
