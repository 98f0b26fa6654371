"""Errors of predicted numbers."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.metrics.means import mean_of
from funcnet.metrics.metric import Accumulator, Metric, make_metric
from funcnet.metrics.reading import numbers
from funcnet.metrics.sums import example_weight, widened


def mse() -> Metric:
    """The mean of (y_pred - y)**2 over examples; further axes are averaged first.

    Raises:
        TypeError: at the update, if y_pred and y aren't arrays of real numbers.
        ValueError: at the update, if they don't have the same shape `(B, ...)`.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.mse()
        >>> y_pred, y = jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0])
        >>> float(metric.compute(metric.update(metric.init(), y_pred, y)))
        5.0

    Source: `sklearn.metrics.mean_squared_error`.
    """

    def squares(y_pred: Any, y: Any) -> jax.Array:
        y_pred, y = numbers("mse", y_pred, y)
        return jnp.square(y_pred - y)

    return mean_of("mse", squares)


def mae() -> Metric:
    """The mean of |y_pred - y| over examples; further axes are averaged first.

    Raises:
        TypeError: at the update, if y_pred and y aren't arrays of real numbers.
        ValueError: at the update, if they don't have the same shape `(B, ...)`.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.mae()
        >>> y_pred, y = jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0])
        >>> float(metric.compute(metric.update(metric.init(), y_pred, y)))
        2.0

    Source: `sklearn.metrics.mean_absolute_error`.
    """

    def sizes(y_pred: Any, y: Any) -> jax.Array:
        y_pred, y = numbers("mae", y_pred, y)
        return jnp.abs(y_pred - y)

    return mean_of("mae", sizes)


def r2() -> Metric:
    """The share of y's variance that is explained: 1 - sum (y - y_pred)**2 / sum (y - mean y)**2.

    For `(B, k)` it is the mean over the k outputs. Where y is constant, it is 1 if y_pred is always
    right, else 0. Its sums would lose digits where y is far from 0, so that the accumulator has one
    of the y, `origin`, the mean from there, `mean`, and the sum of squares about that mean,
    `squares`. `merge` combines these by Chan's formula, and is not the leafwise sum: accumulators
    of several devices can't be added up by `psum`.

    Raises:
        TypeError: at the update, if y_pred and y aren't arrays of real numbers.
        ValueError: at the update, if they don't have the same shape, `(B,)` or `(B, k)`.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.r2()
        >>> y_pred, y = jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 2.0, 3.0])
        >>> float(metric.compute(metric.update(metric.init(), y_pred, y)))
        0.5

    Source: `sklearn.metrics.r2_score`, which gives NaN for a single example, where this takes it
    for a constant y. Chan, Golub, LeVeque 1979, Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances, equation 2.1.
    """

    def init() -> Accumulator:
        return {"weight": jnp.zeros((), jnp.int32)} | {
            name: jnp.zeros(()) for name in ("origin", "mean", "squares", "residual")
        }

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        y_pred, y = numbers("r2", y_pred, y)
        if y.ndim > 2:
            raise ValueError(
                "`r2`: y_pred and y must be (B,) or (B, k), got y_pred "
                f"{errors.describe(y_pred)} and y {errors.describe(y)}. Reshape each to "
                "(len(y), -1), or choose the positions that are compared."
            )
        weight = example_weight("r2", weight, y)
        each = weight if y.ndim == 1 else weight[:, None]
        kept = each != 0
        first = kept & (jnp.cumsum(kept, axis=0) == 1)
        origin = jnp.sum(jnp.where(first, y, 0), axis=0, keepdims=True)
        away = jnp.where(kept, y - origin, 0)
        total = jnp.sum(each)
        mean = jnp.sum(each * away, axis=0, keepdims=True) / jnp.where(total == 0, 1, total)
        missed = jnp.where(kept, y - y_pred, 0)
        return {
            "weight": widened(total),
            "origin": origin[0],
            "mean": mean[0],
            "squares": jnp.sum(each * jnp.square(away - mean), axis=0),
            "residual": jnp.sum(each * jnp.square(missed), axis=0),
        }

    return make_metric(init, contribution, explained, combine)


def combine(a: Accumulator, b: Accumulator) -> Accumulator:
    """Means and squares of two sets of examples as those of both."""
    dtype = jnp.result_type(a["mean"], b["mean"])
    weight = a["weight"] + b["weight"]
    of_a, of_b = a["weight"].astype(dtype), b["weight"].astype(dtype)
    part = of_b / jnp.where(weight == 0, 1, of_a + of_b)
    origin = jnp.where(of_a == 0, b["origin"], a["origin"])
    gap = jnp.where(of_b == 0, 0, b["origin"] - origin + b["mean"] - a["mean"])
    return {
        "weight": weight,
        "origin": origin,
        "mean": a["mean"] + gap * part,
        "squares": a["squares"] + b["squares"] + jnp.square(gap) * of_a * part,
        "residual": a["residual"] + b["residual"],
    }


def explained(accumulator: Accumulator) -> jax.Array:
    """R squared, the mean over outputs."""
    squares, residual = accumulator["squares"], accumulator["residual"]
    constant = (squares == 0) & jnp.isfinite(residual)
    score = 1 - residual / jnp.where(constant, 1, squares)
    score = jnp.where(constant, residual == 0, score)
    return jnp.where(accumulator["weight"] == 0, jnp.nan, jnp.mean(score))
