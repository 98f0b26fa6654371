"""How often the predicted label, or one of the first few, is the true one."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.metrics.metric import Accumulator, Metric, make_metric
from funcnet.metrics.reading import NO_LABEL, check_ignore, class_scores, labels
from funcnet.metrics.sums import average, example_weight, tally, weighted


def accuracy(*, threshold: Any = 0.0, ignore: int | None = None) -> Metric:
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
        ignore: the label of positions that are left out, such as those that fill up a sequence.

    Raises:
        TypeError: if `ignore` isn't a whole number; at the update, if y_pred or y isn't an array of
            the kind in the table.
        ValueError: at the update, if their shapes are none of the table's.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.accuracy()
        >>> logits, y = jnp.array([2.0, -1.0, 0.5, -3.0]), jnp.array([1, 0, 0, 0])
        >>> float(metric.compute(metric.update(metric.init(), logits, y)))
        0.75
    """
    check_ignore("accuracy", ignore)

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        predicted, true, _ = labels("accuracy", y_pred, y, threshold)
        weight = example_weight("accuracy", weight, true)
        right = (predicted == true) & (predicted != NO_LABEL)
        if ignore is None:
            return share(right, weight)
        counted, further = true != ignore, tuple(range(1, true.ndim))
        return tally((right & counted).sum(further), weight, positions=counted.sum(further))

    return make_metric(lambda: weighted(0, 0), contribution, average)


def top_k(k: int) -> Metric:
    """Averages over examples whether the true label is among the k largest scores.

    Of equal scores the first ranks first, so that `top_k(1)` is `accuracy`. A NaN among an
    example's scores makes it wrong, and so does a label that no score stands for.

    Args:
        k: how many scores may stand at or above the true label's, itself counted.

    Raises:
        TypeError: if k isn't a whole number; at the update, if y_pred doesn't hold floats or y
            doesn't hold integer labels.
        ValueError: if k isn't positive; at the update, if y_pred isn't `(B, ..., C)` for y
            `(B, ...)`, or if k is more than C.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.top_k(2)
        >>> scores, y = jnp.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), jnp.array([1, 0])
        >>> float(metric.compute(metric.update(metric.init(), scores, y)))
        0.5

    Source: `sklearn.metrics.top_k_accuracy_score`, where of equal scores the last ranks first.
    """
    errors.positive("top_k", k=k)

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        scores, true = class_scores("top_k", y_pred, y)
        classes = scores.shape[-1]
        if k > classes:
            raise ValueError(
                f"`top_k`: k must be at most the number of scores, got {k} and "
                f"y_pred {errors.describe(y_pred)}. Choose a k of at most {classes}."
            )
        weight = example_weight("top_k", weight, true)
        label = true[..., None]
        own = jnp.take_along_axis(scores, jnp.clip(label, 0, classes - 1), axis=-1)
        index = jnp.expand_dims(jnp.arange(classes), tuple(range(true.ndim)))
        before = (scores > own) | ((scores == own) & (index < label))
        known = (true >= 0) & (true < classes) & ~jnp.isnan(scores).any(-1)
        return share(known & (before.sum(-1) < k), weight)

    return make_metric(lambda: weighted(0, 0), contribution, average)


def share(right: jax.Array, weight: jax.Array) -> Accumulator:
    """Counts of the positions that are right, `(B, ...)`, and of all."""
    further = tuple(range(1, right.ndim))
    return tally(right.sum(further), weight, positions=math.prod(right.shape[1:]))
