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
        TypeError: `metric` is none, or `select` no function; at the update, if that doesn't give
            two things.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.of(fn.metrics.mae(), lambda y_pred, y: (y_pred["age"], y["age"]))
        >>> y_pred = {"age": jnp.array([30.0, 40.0]), "name": jnp.zeros((2, 9))}
        >>> y = {"age": jnp.array([31.0, 43.0]), "name": jnp.array([8, 1])}
        >>> float(metric.compute(metric.update(metric.init(), y_pred, y)))
        2.0
    """
    if not isinstance(metric, Metric) or not callable(select):
        raise TypeError(
            "`of`: give a metric and a function select(y_pred, y), "
            f"got {errors.describe(metric)} and {errors.describe(select)}."
        )

    def update(accumulator: Accumulator, y_pred: Any, y: Any, weight: Any = None) -> Accumulator:
        selected = select(y_pred, y)
        if not isinstance(selected, tuple) or len(selected) != 2:
            raise TypeError(
                f"`of`: select must give (y_pred, y), got {errors.describe(selected)}. "
                'Write `lambda y_pred, y: (y_pred["name"], y["name"])` say.'
            )
        return metric.update(accumulator, *selected, weight)

    return metric._replace(update=update)
