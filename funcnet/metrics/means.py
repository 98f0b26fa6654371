"""The mean over examples of any quantity that has one number an example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.metrics.metric import Accumulator, Metric, make_metric
from funcnet.metrics.reading import are_arrays
from funcnet.metrics.sums import average, example_weight, tally, weighted, widened


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

    def values(y_pred: Any, y: Any) -> jax.Array:
        found = jnp.asarray(f(y_pred, y))
        check_values(found, y_pred, y)
        return found

    return mean_of("mean", values)


def mean_of(function: str, values: Callable[[Any, Any], jax.Array]) -> Metric:
    """The mean of `values(y_pred, y)` `(B, ...)`, whose errors name `function`."""

    def init() -> Accumulator:
        return weighted(0.0, 0)

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        each = values(y_pred, y)
        weight = example_weight(function, weight, each)
        return tally(jnp.mean(widened(each), axis=tuple(range(1, each.ndim))), weight)

    init.__qualname__ = f"{function}.<locals>.init"
    return make_metric(init, contribution, average)


def check_values(values: jax.Array, y_pred: Any, y: Any) -> None:
    """Raises unless `f` gave an axis of examples, and didn't make it by broadcasting."""
    if values.ndim == 0:
        raise ValueError(
            "`mean`: f must give one number an example, or an array whose first axis is the "
            f"examples, got {errors.describe(values)}. Leave the mean over examples to the metric."
        )
    a, b = sorted((np.shape(y_pred), np.shape(y)), key=len) if are_arrays(y_pred, y) else ((), ())
    if b == (*a, 1) and values.ndim > len(a):
        raise ValueError(
            "`mean`: f must not broadcast y_pred against y, got "
            f"{errors.describe(y_pred)} and {errors.describe(y)}, "
            f"and f gave {errors.describe(values)}. Squeeze the last axis of size 1."
        )
