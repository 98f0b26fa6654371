"""Metrics of one of several outputs."""

from collections.abc import Callable
from typing import Any

from funcnet import errors
from funcnet.metrics.metric import Accumulator, Metric


def of(metric: Metric, select: Callable[[Any, Any], tuple[Any, Any]]) -> Metric:
    """A metric of what `select` takes, or makes, of the model's output and of y.

    Args:
        metric: any metric.
        select: `select(y_pred, y) -> (y_pred, y)`, traced; the weight stays the example's.

    Raises:
        TypeError: at the update, if `select` doesn't give two things.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.of(fn.metrics.mae(), lambda y_pred, y: (y_pred["age"], y["age"]))
        >>> y_pred = {"age": jnp.array([30.0, 40.0]), "name": jnp.zeros((2, 9))}
        >>> y = {"age": jnp.array([31.0, 43.0]), "name": jnp.array([8, 1])}
        >>> float(metric.compute(metric.update(metric.init(), y_pred, y)))
        2.0
    """

    def update(accumulator: Accumulator, y_pred: Any, y: Any, weight: Any = None) -> Accumulator:
        selected = select(y_pred, y)
        if not isinstance(selected, tuple) or len(selected) != 2:
            raise TypeError(
                f"`of`: select must give (y_pred, y), got {errors.describe(selected)}. "
                'Write `lambda y_pred, y: (y_pred["name"], y["name"])` say.'
            )
        return metric.update(accumulator, *selected, weight)

    return metric._replace(update=update)
