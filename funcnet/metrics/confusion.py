"""The table of true against predicted labels."""

from typing import Any

import jax.numpy as jnp

from funcnet import errors
from funcnet.metrics.metric import Accumulator, Metric, make_metric
from funcnet.metrics.reading import check_classes, labels
from funcnet.metrics.sums import at_positions, cells, example_weight


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
        predicted, true, found = labels("confusion_matrix", y_pred, y, threshold)
        check_classes("confusion_matrix", classes, found, y_pred)
        weight = example_weight("confusion_matrix", weight, true)
        return cells((classes, classes), at_positions(weight, true), true, predicted)

    return make_metric(init, contribution, lambda counts: counts)
