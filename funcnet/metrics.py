"""Metrics as accumulators: pytrees of sums that add up over batches, devices and processes.

What a metric is computed from, and when, is the trainer's; losses are optax's.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.types import PyTree

Accumulator: TypeAlias = PyTree
"""Sums over examples: int32 where they count, else floats of 32 bits or more."""


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
            weight; `zeros` makes a loop's first carry of the right dtypes.
        compute: `compute(accumulator) -> value`; NaN for no examples.
        merge: `merge(a, b) -> accumulator`, the leafwise sum.

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
    merge: Callable[[Accumulator, Accumulator], Accumulator]


def mean(f: Callable[[Any, Any], Any]) -> Metric:
    """Averages `f(y_pred, y)` over examples, by their weights.

    Args:
        f: gives one number an example, `(B,)`, or an array `(B, ...)` whose further axes are
            averaged first. Most losses of optax will do.

    Raises:
        ValueError: at the update, if `f` gives no axis of examples, if it broadcast `(B, 1)`
            against `(B,)`, or if the weight isn't one number an example.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.mean(lambda y_pred, y: jnp.abs(y_pred - y))
        >>> y_pred, y = jnp.array([1.0, 3.0, jnp.nan]), jnp.array([0.0, 0.0, 0.0])
        >>> accumulator = metric.update(metric.init(), y_pred, y, jnp.array([1, 1, 0]))
        >>> float(metric.compute(accumulator))
        2.0
    """

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        values = jnp.asarray(f(y_pred, y))
        _check_values(values, y_pred, y)
        weight = _example_weight("mean", weight, values)
        further = tuple(range(1, values.ndim))
        return _tally(jnp.mean(_widened(values), axis=further), weight)

    return _metric(lambda: weighted(0.0, 0), contribution, average)


def accuracy(*, threshold: Any = 0.0) -> Metric:
    """Averages over examples whether the predicted label is the true one.

    | y_pred, floats | y, integers or booleans | predicted label |
    | --- | --- | --- |
    | `(B, ..., C)`, C > 1: scores of classes | `(B, ...)` | the first largest score |
    | `(B, ...)`: binary logits | `(B, ...)`, the same shape | 1 above `threshold`, else 0 |
    | `(B, ..., 1)` | `(B, ...)` | refused: squeeze y_pred if it has logits |
    | `(B, ..., C)` | `(B, ..., C)` in floats, one-hot | refused: take `y.argmax(-1)` |
    | any other | | refused |

    Whole numbers can't tell one-hot labels from several binary ones an example: in the same shape
    as y_pred they are read as binary. A NaN among an example's scores makes it wrong, and so does a
    label that no score stands for. Where an example has several positions, each counts with the
    example's weight.

    Args:
        threshold: the logit above which the label is 1; 0.5 if the model gives probabilities.

    Raises:
        TypeError: at the update, if y_pred or y isn't an array of the kind in the table.
        ValueError: at the update, if their shapes are none of the table's.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.accuracy()
        >>> logits, y = jnp.array([2.0, -1.0, 0.5, -3.0]), jnp.array([1, 0, 0, 0])
        >>> float(metric.compute(metric.update(metric.init(), logits, y)))
        0.75
    """

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        predicted, true, _ = _labels("accuracy", y_pred, y, threshold)
        weight = _example_weight("accuracy", weight, true)
        right = (predicted == true) & (predicted != _NO_LABEL)
        further = tuple(range(1, true.ndim))
        return _tally(right.sum(further), weight, positions=math.prod(true.shape[1:]))

    return _metric(lambda: weighted(0, 0), contribution, average)


def confusion_matrix(classes: int, *, threshold: Any = 0.0) -> Metric:
    """Counts examples by true label (rows) and predicted label (columns): `[classes, classes]`.

    Labels are read as in `accuracy`'s table. An example (or position) whose true label is outside
    0 to classes - 1, or whose scores have a NaN, is in no cell; `accuracy` counts it as wrong.

    Args:
        classes: the number of scores an example, or 2 for binary logits.
        threshold: the binary logit above which the predicted label is 1.

    Raises:
        TypeError: if `classes` isn't a whole number; as `accuracy` does.
        ValueError: if `classes` isn't positive or not the number of scores; as `accuracy` does.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.confusion_matrix(2)
        >>> logits, y = jnp.array([2.0, -1.0, 0.5, -3.0]), jnp.array([1, 0, 0, 0])
        >>> metric.compute(metric.update(metric.init(), logits, y)).tolist()
        [[2, 1], [0, 1]]

    Source: the convention of `sklearn.metrics.confusion_matrix(..., labels=range(classes))`.
    """
    errors.positive("confusion_matrix", classes=classes)

    def init() -> Accumulator:
        return jnp.zeros((classes, classes), jnp.int32)

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        predicted, true, found = _labels("confusion_matrix", y_pred, y, threshold)
        if found != classes:
            raise ValueError(
                "`confusion_matrix`: classes must be the number of scores, or 2 for binary logits, "
                f"got {classes} and y_pred {errors.describe(y_pred)}. Pass classes={found}."
            )
        weight = _example_weight("confusion_matrix", weight, true)
        each = jnp.expand_dims(weight, tuple(range(1, true.ndim)))  # (B, 1, ...)
        cells = jnp.zeros((classes, classes), weight.dtype).at[true, predicted]
        return cells.add(each, mode="drop", wrap_negative_indices=False)

    return _metric(init, contribution, lambda counts: counts)


def weighted(total: Any, weight: Any) -> Accumulator:
    """The accumulator of a mean whose sum is `total` and whose sum of weights is `weight`.

    Example:
        >>> import funcnet as fn
        >>> float(fn.metrics.average(fn.metrics.weighted(total=6.0, weight=4)))
        1.5
    """
    return {"total": _widened(total), "weight": _widened(weight)}


def average(accumulator: Accumulator) -> jax.Array:
    """The mean that `weighted` described: total / weight, NaN where both are 0.

    Example:
        >>> import funcnet as fn
        >>> float(fn.metrics.average(fn.metrics.weighted(total=0.0, weight=0)))
        nan
    """
    total = accumulator["total"]
    if jnp.issubdtype(total.dtype, jnp.integer):  # int32 by int32 is float32 even in x64
        total = total.astype(jnp.result_type(float))
    return jnp.divide(total, accumulator["weight"])


def zeros(metric: Metric, contribution: Accumulator) -> Accumulator:
    """`metric.init()` in the dtypes of `contribution`, to which they stay fixed in a loop.

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
    return jax.tree.map(lambda zero, c: jnp.asarray(zero, c.dtype), metric.init(), contribution)


_NO_LABEL = -1
"""What is predicted from scores with a NaN."""


def _metric(
    init: Callable[[], Accumulator],
    contribution: Callable[[Any, Any, Any], Accumulator],
    compute: Callable[[Accumulator], Any],
) -> Metric:
    """A metric whose update merges in what one batch contributes."""

    def merge(a: Accumulator, b: Accumulator) -> Accumulator:
        return jax.tree.map(jnp.add, a, b)

    def update(accumulator: Accumulator, y_pred: Any, y: Any, weight: Any = None) -> Accumulator:
        return merge(accumulator, contribution(y_pred, y, weight))

    return Metric(init, update, compute, merge)


def _tally(values: jax.Array, weight: jax.Array, positions: int = 1) -> Accumulator:
    """Sums `values` `(B,)` by `weight` `(B,)`; whatever has weight 0 may be NaN."""
    kept = jnp.where(weight == 0, 0, values)
    return weighted(jnp.sum(kept * weight), jnp.sum(weight) * positions)


def _widened(value: Any) -> jax.Array:
    """`value` in a dtype that can add up: int32 for whole numbers, else 32 bits or more."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return array.astype(jnp.int32)


def _example_weight(function: str, weight: Any, examples: jax.Array) -> jax.Array:
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
    return _widened(weight)


def _check_values(values: jax.Array, y_pred: Any, y: Any) -> None:
    """Raises unless `f` gave an axis of examples, and didn't make it by broadcasting."""
    if values.ndim == 0:
        raise ValueError(
            "`mean`: f must give one number an example, or an array whose first axis is the "
            f"examples, got {errors.describe(values)}. Leave the mean over examples to the metric."
        )
    a, b = sorted((np.shape(y_pred), np.shape(y)), key=len) if _are_arrays(y_pred, y) else ((), ())
    if b == (*a, 1) and values.ndim > len(a):
        raise ValueError(
            "`mean`: f must not broadcast y_pred against y, got "
            f"{errors.describe(y_pred)} and {errors.describe(y)}, "
            f"and f gave {errors.describe(values)}. Squeeze the last axis of size 1."
        )


def _are_arrays(*values: Any) -> bool:
    return all(isinstance(value, jax.Array | np.ndarray) for value in values)


def _labels(function: str, y_pred: Any, y: Any, threshold: Any) -> tuple[jax.Array, jax.Array, int]:
    """Predicted labels, true labels and the number of classes, by the table of `accuracy`."""
    if not _are_arrays(y_pred, y):
        raise TypeError(
            f"`{function}`: y_pred and y must be arrays, got {errors.describe(y_pred)} and "
            f"{errors.describe(y)}. Choose one output of the model and its labels."
        )
    y_pred, y = jnp.asarray(y_pred), jnp.asarray(y)
    if not jnp.issubdtype(y_pred.dtype, jnp.floating):
        raise TypeError(
            f"`{function}`: y_pred must be scores or logits in floats, "
            f"got {errors.describe(y_pred)}. Pass what the model gives, not labels taken from it."
        )
    if not (y.dtype == bool or jnp.issubdtype(y.dtype, jnp.integer)):
        raise TypeError(
            f"`{function}`: y must be integer or boolean labels, got {errors.describe(y)}. "
            "Pass y.argmax(-1) for one-hot labels, y.astype(int) for whole numbers in floats."
        )
    if y.ndim and y_pred.shape == y.shape:
        label, unknown, classes = y_pred > threshold, jnp.isnan(y_pred), 2
    elif y.ndim and y_pred.shape[:-1] == y.shape and y_pred.shape[-1] > 1:
        label, unknown = jnp.argmax(y_pred, axis=-1), jnp.isnan(y_pred).any(-1)
        classes = y_pred.shape[-1]
    else:
        raise ValueError(_mismatch(function, y_pred, y))
    return jnp.where(unknown, _NO_LABEL, label).astype(jnp.int32), y.astype(jnp.int32), classes


def _mismatch(function: str, y_pred: jax.Array, y: jax.Array) -> str:
    if y_pred.shape == (*y.shape, 1):
        fix = "Pass y_pred.squeeze(-1) if it has binary logits."
    elif y.shape[-1:] == (1,):
        fix = "Pass y.squeeze(-1)."
    else:
        fix = "Pass one label for each row of scores, or for each logit."
    return (
        f"`{function}`: y_pred must have the shape of y (binary logits), or one more axis of at "
        f"least 2 (scores of classes), got y_pred {errors.describe(y_pred)} and "
        f"y {errors.describe(y)}. {fix}"
    )
