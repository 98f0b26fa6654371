"""How far confidence is from accuracy."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.metrics.metric import Accumulator, Metric, make_metric
from funcnet.metrics.reading import labels
from funcnet.metrics.sums import (
    at_positions,
    average,
    bin_of,
    cells,
    example_weight,
    weighted,
    widened,
)


def calibration_error(bins: int = 15, *, logits: bool = True) -> Metric:
    """The expected calibration error: the mean over bins of |accuracy - confidence|.

    Confidence is the probability of the predicted label: the largest of the softmax of scores
    `(B, ..., C)`, or the larger of p and 1 - p for binary logits `(B, ...)`, p their sigmoid. Bin m
    holds the confidences in (m / bins, (m + 1) / bins], and counts by the weight in it. Labels are
    read as in `accuracy`'s table; where an example has several positions, each counts with the
    example's weight. A NaN among the scores of an example with a weight makes it NaN.

    Args:
        bins: how many, of equal width.
        logits: False if the model gives probabilities.

    Raises:
        TypeError: if `bins` isn't a whole number; as `accuracy` does.
        ValueError: if `bins` isn't positive; as `accuracy` does.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.calibration_error(logits=False)
        >>> y_pred, y = jnp.array([0.75, 0.75, 0.75, 0.25]), jnp.array([1, 1, 0, 1])
        >>> float(metric.compute(metric.update(metric.init(), y_pred, y)))
        0.25

    Source: Guo, Pleiss, Sun, Weinberger 2017, On Calibration of Modern Neural Networks,
    equation 3. Confidence 0, which top labels never have, would lie in the first bin.
    """
    errors.positive("calibration_error", bins=bins)
    threshold = 0.0 if logits else 0.5

    def init() -> Accumulator:
        return weighted(jnp.zeros(bins), 0)

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        predicted, true, _ = labels("calibration_error", y_pred, y, threshold)
        weight = example_weight("calibration_error", weight, true)
        confidence = top_probability(widened(y_pred), true.shape, logits)
        each = at_positions(weight, true)
        gap = jnp.where(each == 0, 0, each * ((predicted == true) - confidence))
        total = cells((bins,), gap, bin_of(confidence, bins))
        return weighted(total, jnp.sum(weight) * math.prod(true.shape[1:]))

    def compute(accumulator: Accumulator) -> jax.Array:
        return average({**accumulator, "total": jnp.abs(accumulator["total"]).sum()})

    return make_metric(init, contribution, compute)


def top_probability(y_pred: jax.Array, shape: tuple[int, ...], logits: bool) -> jax.Array:
    """The probability of the predicted label, `shape`, from logits or from probabilities."""
    if y_pred.shape == shape:
        return jax.nn.sigmoid(jnp.abs(y_pred)) if logits else jnp.maximum(y_pred, 1 - y_pred)
    return jnp.max(jax.nn.softmax(y_pred) if logits else y_pred, axis=-1)
