"""The area under the ROC curve: binned over batches, and exact over scores that are at hand."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.metrics.metric import Accumulator, Metric, make_metric
from funcnet.metrics.reading import binary_logits
from funcnet.metrics.sums import at_positions, bin_of, cells, example_weight, real


def auc(bins: int = 200, *, logits: bool = True) -> Metric:
    """The area under the ROC curve of binary logits, from their probabilities in bins.

    It is the chance that a positive example scores above a negative one, where two in the same bin
    count 1/2. The bins are of equal width: bin m is (m / bins, (m + 1) / bins] of sigmoid(y_pred),
    and the first has 0 too. So it differs from `roc_auc` by at most half the chance that a positive
    and a negative example share a bin without sharing a score, and is exact where none do. That is
    small where scores spread over the bins, not where all lie near 0 or 1: take more bins then.

    A NaN score ranks as wrong as can be, in the last bin for a negative example and in the first
    for a positive one. Labels other than 0 and 1 are left out. Where an example has several
    positions, each counts with the example's weight. Without examples of both labels it is NaN.

    Args:
        bins: how many; the accumulator is int32[2, bins].
        logits: False if the model gives probabilities, which are put into bins as they are.

    Raises:
        TypeError: if `bins` isn't a whole number; at the update, if y_pred doesn't hold floats or y
            doesn't hold integer or boolean labels.
        ValueError: if `bins` isn't positive; at the update, if y_pred and y don't have the same
            shape `(B, ...)`.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.auc()
        >>> y_pred, y = jnp.array([-2.0, 0.5, -1.0, 3.0]), jnp.array([0, 0, 1, 1])
        >>> float(metric.compute(metric.update(metric.init(), y_pred, y)))
        0.75

    Source: `sklearn.metrics.roc_auc_score`, of scores rounded to their bins.
    """
    errors.positive("auc", bins=bins)

    def init() -> Accumulator:
        return jnp.zeros((2, bins), jnp.int32)

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        scores, true = binary_logits("auc", y_pred, y)
        weight = example_weight("auc", weight, true)
        scores = nan_is_wrong(scores, true)
        p = jax.nn.sigmoid(scores) if logits else scores
        return cells((2, bins), at_positions(weight, true), true, bin_of(p, bins))

    return make_metric(init, contribution, area)


def roc_auc(scores: Any, y: Any, weight: Any = None) -> jax.Array:
    """The exact area under the ROC curve: the chance that a positive scores above a negative.

    A tie counts 1/2. Only the order of the scores matters: logits and probabilities will do. NaN
    scores count as wrong: -inf for a positive example, inf for a negative one. It can be jitted,
    unlike scikit-learn's.

    Args:
        scores: floats `(B, ...)`.
        y: integer or boolean labels of the same shape; others than 0 and 1 are left out.
        weight: one number an example, `(B,)`; 0 leaves it out, `None` weighs all alike.

    Returns:
        A scalar, NaN without examples of both labels.

    Raises:
        TypeError: if the scores aren't floats or y isn't integers or booleans, in arrays.
        ValueError: if the shapes differ, or the weight isn't one number an example.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> scores, y = jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1])
        >>> float(fn.metrics.roc_auc(scores, y))
        0.875

    Source: `sklearn.metrics.roc_auc_score`; Hanley, McNeil 1982, The meaning and use of the area
    under a ROC curve.
    """
    scores, true = binary_logits("roc_auc", scores, y)
    each = at_positions(example_weight("roc_auc", weight, true), true).ravel()
    scores, true = nan_is_wrong(scores, true).ravel(), true.ravel()
    rank = jnp.searchsorted(jnp.sort(scores), scores)  # equal for equal scores
    return area(cells((2, scores.size), each, true, rank))


def nan_is_wrong(scores: jax.Array, true: jax.Array) -> jax.Array:
    """Scores with -inf for the NaN of a positive, inf for that of a negative example."""
    return jnp.where(jnp.isnan(scores), jnp.where(true == 1, -jnp.inf, jnp.inf), scores)


def area(counts: jax.Array) -> jax.Array:
    """The chance that a positive lies above a negative in `counts` `[2, ranks]`, ties 1/2."""
    negative, positive = counts
    below = jnp.cumsum(negative) - negative / 2
    pairs = real(jnp.sum(negative)) * real(jnp.sum(positive))
    return jnp.sum(positive * below) / pairs
