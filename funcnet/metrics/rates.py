"""Precision, recall, F1 and intersection over union: rates of one set of counts by class."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.metrics.metric import Accumulator, Metric, make_metric
from funcnet.metrics.reading import NO_LABEL, check_classes, check_ignore, labels
from funcnet.metrics.sums import at_positions, cells, example_weight, real

Average: TypeAlias = Literal["binary", "macro", "micro"]


class Counts(NamedTuple):
    """Sums of weights by class, `(classes,)`, and of their examples three ways.

    Attributes:
        right: examples of the class that were predicted to be.
        predicted: examples predicted to be of the class.
        true: examples of the class.
    """

    right: jax.Array
    predicted: jax.Array
    true: jax.Array


Parts: TypeAlias = Callable[[Counts], tuple[jax.Array, jax.Array]]
"""The part and the whole of a rate, from counts as floats."""


def precision(classes: int = 2, *, average: Average = "binary", threshold: Any = 0.0) -> Metric:
    """How many of the examples predicted to be of a class are: right / predicted.

    Labels are read as in `accuracy`'s table.

    | average | the rate |
    | --- | --- |
    | `"binary"` | that of class 1, of 2 classes |
    | `"macro"` | the mean over the classes that occur, as true or as predicted labels |
    | `"micro"` | that of the counts summed over the classes |

    A rate whose whole is 0 is 0. A label outside 0 to classes - 1 makes a prediction wrong and
    counts for no class; scores with a NaN predict no class. Where an example has several positions,
    each counts with the example's weight.

    Args:
        classes: the number of scores an example, or 2 for binary logits.
        average: how classes are averaged, see the table.
        threshold: the binary logit above which the predicted label is 1; 0.5 if the model gives
            probabilities.

    Raises:
        TypeError: if `classes` isn't a whole number; as `accuracy` does.
        ValueError: if `classes` isn't positive, not the number of scores, or not 2 for
            `"binary"`; if `average` isn't in the table; as `accuracy` does.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.precision()
        >>> logits, y = jnp.array([2.0, -1.0, 0.5, -3.0]), jnp.array([1, 0, 0, 1])
        >>> float(metric.compute(metric.update(metric.init(), logits, y)))
        0.5

    Source: the conventions of `sklearn.metrics.precision_score(..., zero_division=0)`.
    """

    def parts(n: Counts) -> tuple[jax.Array, jax.Array]:
        return n.right, n.predicted

    return rate("precision", classes, average, threshold, parts)


def recall(classes: int = 2, *, average: Average = "binary", threshold: Any = 0.0) -> Metric:
    """How many of the examples of a class are predicted to be: right / true.

    Args:
        classes: as in `precision`.
        average: as in `precision`.
        threshold: as in `precision`.

    Raises:
        TypeError: as `precision` does.
        ValueError: as `precision` does.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.recall()
        >>> logits, y = jnp.array([2.0, -1.0, 0.5, -3.0]), jnp.array([1, 0, 0, 0])
        >>> float(metric.compute(metric.update(metric.init(), logits, y)))
        1.0

    Source: the conventions of `sklearn.metrics.recall_score(..., zero_division=0)`.
    """

    def parts(n: Counts) -> tuple[jax.Array, jax.Array]:
        return n.right, n.true

    return rate("recall", classes, average, threshold, parts)


def f1(classes: int = 2, *, average: Average = "binary", threshold: Any = 0.0) -> Metric:
    """The harmonic mean of precision and recall: 2 right / (predicted + true).

    `"macro"` is the mean of the classes' F1, not the F1 of mean precision and mean recall.

    Args:
        classes: as in `precision`.
        average: as in `precision`.
        threshold: as in `precision`.

    Raises:
        TypeError: as `precision` does.
        ValueError: as `precision` does.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.f1()
        >>> logits, y = jnp.array([2.0, -1.0, 0.5, -3.0]), jnp.array([1, 0, 0, 1])
        >>> float(metric.compute(metric.update(metric.init(), logits, y)))
        0.5

    Source: the conventions of `sklearn.metrics.f1_score(..., zero_division=0)`.
    """

    def parts(n: Counts) -> tuple[jax.Array, jax.Array]:
        return 2 * n.right, n.predicted + n.true

    return rate("f1", classes, average, threshold, parts)


def iou(classes: int, *, ignore: int | None = None, threshold: Any = 0.0) -> Metric:
    """Mean intersection over union: right / (predicted + true - right), over classes that occur.

    A class occurs if some position has it as its true or its predicted label. Labels are read as in
    `accuracy`'s table, such as a mask `(B, H, W)` for scores `(B, H, W, C)`; all positions of all
    examples are counted together, each with its example's weight.

    Args:
        classes: the number of scores a position, or 2 for binary logits: then the background is a
            class too.
        ignore: the label of positions that are left out, such as 255. Any other label outside 0 to
            classes - 1 makes a prediction wrong.
        threshold: as in `precision`.

    Raises:
        TypeError: if `classes` or `ignore` isn't a whole number; as `accuracy` does.
        ValueError: if `classes` isn't positive or not the number of scores; as `accuracy` does.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.iou(2)
        >>> logits, mask = jnp.array([[2.0, 1.0, -1.0, -1.0]]), jnp.array([[1, 0, 0, 0]])
        >>> round(float(metric.compute(metric.update(metric.init(), logits, mask))), 3)
        0.583

    Source: `sklearn.metrics.jaccard_score(..., average="macro")`; Long, Shelhamer, Darrell 2015,
    Fully Convolutional Networks for Semantic Segmentation, section 5, "mean IU".
    """

    def parts(n: Counts) -> tuple[jax.Array, jax.Array]:
        return n.right, n.predicted + n.true - n.right

    check_ignore("iou", ignore)
    return rate("iou", classes, "macro", threshold, parts, ignore)


def rate(
    function: str,
    classes: int,
    average: Average,
    threshold: Any,
    parts: Parts,
    ignore: int | None = None,
) -> Metric:
    """The metric that is part / whole of counts by class, averaged over the classes."""
    errors.positive(function, classes=classes)
    check_average(function, average, classes)

    def init() -> Accumulator:
        return Counts(*(jnp.zeros(classes, jnp.int32) for _ in Counts._fields))._asdict()

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        predicted, true, found = labels(function, y_pred, y, threshold)
        check_classes(function, classes, found, y_pred)
        each = at_positions(example_weight(function, weight, true), true)
        if ignore is not None:
            each = jnp.where(true == ignore, 0, each)
        right = jnp.where(predicted == true, true, NO_LABEL)
        return Counts(*(cells((classes,), each, c) for c in (right, predicted, true)))._asdict()

    def compute(accumulator: Accumulator) -> jax.Array:
        counts = Counts(**accumulator)
        occurs = (counts.predicted > 0) | (counts.true > 0)
        value = AVERAGES[average](parts, Counts(*map(real, counts)), occurs)
        return jnp.where(occurs.any(), value, jnp.nan)

    init.__qualname__ = f"{function}.<locals>.init"
    return make_metric(init, contribution, compute)


def of_class_1(parts: Parts, counts: Counts, occurs: jax.Array) -> jax.Array:
    """The rate of class 1."""
    return quotients(parts, counts)[1]


def over_classes(parts: Parts, counts: Counts, occurs: jax.Array) -> jax.Array:
    """The mean of the rates of the classes that occur."""
    return jnp.mean(quotients(parts, counts), where=occurs)


def pooled(parts: Parts, counts: Counts, occurs: jax.Array) -> jax.Array:
    """The rate of the counts summed over classes."""
    return quotients(parts, Counts(*(jnp.sum(count) for count in counts)))


AVERAGES: dict[str, Callable[[Parts, Counts, jax.Array], jax.Array]] = {
    "binary": of_class_1,
    "macro": over_classes,
    "micro": pooled,
}


def quotients(parts: Parts, counts: Counts) -> jax.Array:
    """Part / whole, 0 where the whole is 0."""
    part, whole = parts(counts)
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def check_average(function: str, average: Any, classes: int) -> None:
    """Raises unless `average` is known, and goes with this number of classes."""
    if average not in tuple(AVERAGES):
        raise ValueError(
            f"`{function}`: average must be 'binary', 'macro' or 'micro', got {average!r}. "
            "Choose 'macro' to weigh all classes alike, 'micro' to weigh all examples alike."
        )
    if average == "binary" and classes != 2:
        raise ValueError(
            f"`{function}`: classes must be 2 for average='binary', got {classes}. "
            "Pass average='macro' or average='micro'."
        )
