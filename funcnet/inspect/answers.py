"""Labels and predictions in words, one for each example, and which predictions are wrong."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from funcnet import errors

NO_CLASS = np.iinfo(np.int64).min
"""What stands for scores among which there is a NaN, and so no largest."""

Names = Sequence[Any] | Mapping[Any, Any] | None
"""What classes are called: in their order, or by number."""


class Answers(NamedTuple):
    """What is known of each example.

    Attributes:
        true, predicted: in words; None where not given.
        wrong: which predictions are not the label; None where that can't be said.
    """

    true: list[str] | None
    predicted: list[str] | None
    wrong: np.ndarray | None


def answers(y: Any, y_pred: Any, names: Names, count: int) -> Answers:
    """The labels and predictions of `count` examples, in words."""
    true = None if y is None else read("y", y, count)
    predicted = None if y_pred is None else read("y_pred", y_pred, count)
    wrong = None
    if true is not None and predicted is not None and true.dtype.kind != "f":
        if predicted.dtype.kind == "f":
            predicted = of_binary_logits(predicted)
        true, predicted = alike(true, predicted, names)
        wrong = np.asarray(true != predicted)
    return Answers(
        None if true is None else in_words(true, names),
        None if predicted is None else in_words(predicted, names),
        wrong,
    )


def alike(true: np.ndarray, predicted: np.ndarray, names: Names) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of one kind: classes as numbers, unless either are names."""
    if is_class(true) and is_class(predicted):
        both_bool = true.dtype == predicted.dtype == bool
        return (true, predicted) if both_bool else (true.astype(int), predicted.astype(int))
    if not (is_class(true) or is_class(predicted)):
        return true, predicted
    if names is None:
        raise ValueError(
            "`plot_examples`: y and y_pred must both be names or both be numbers of classes, got "
            f"{errors.describe(true)} and {errors.describe(predicted)}. Say in labels what the "
            "classes are called."
        )
    return np.array(in_words(true, names)), np.array(in_words(predicted, names))


def of_binary_logits(logits: np.ndarray) -> np.ndarray:
    """The class that each logit stands for."""
    return np.where(np.isnan(logits), NO_CLASS, (logits > 0).astype(int))


def is_class(values: np.ndarray) -> bool:
    """Whether values are labels rather than quantities."""
    return values.dtype.kind in "iub"


def read(name: str, given: Any, count: int) -> np.ndarray:
    """One label, number or word for each example."""
    values = np.asarray(given)
    if values.dtype.kind == "V":  # bfloat16 and its kin
        values = values.astype(np.float32)
    if len(values.shape) < 1 or len(values) != count:
        raise ValueError(
            f"`plot_examples`: {name} must have one entry for each of the {count} examples, got "
            f"{errors.describe(values)}. Cut x, y and y_pred alike."
        )
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "fiub":
        best = values.argmax(1)
        broken = np.isnan(values.astype(float)).any(1)
        return np.where(broken, NO_CLASS, best)
    if values.ndim != 1 or values.dtype.kind not in "fiubUSO":
        raise ValueError(
            f"`plot_examples`: {name} must be a class, a number or scores of classes for each "
            f"example, got {errors.describe(values)}. Images are drawn as x."
        )
    return values


def in_words(values: np.ndarray, names: Names) -> list[str]:
    """Each value as people call it."""
    if values.dtype.kind == "f":
        return [f"{value:.4g}" for value in values]
    if values.dtype.kind == "b" and names is None:
        return [str(value) for value in values]
    if values.dtype.kind not in "iub":
        return [str(value) for value in values]
    return [called(int(value), names) for value in values]


def called(number: int, names: Names) -> str:
    """The name of a class; its number where it has none."""
    if number == NO_CLASS:
        return "NaN"
    if isinstance(names, Mapping):
        return str(names.get(number, number))
    known = names is not None and 0 <= number < len(names)
    return str(names[number]) if known and names is not None else str(number)


def verdict(found: Answers, i: int) -> list[str]:
    """What is written at an example: `cat`, `dog, not cat`, or `2.5, true 2`, in its parts."""
    if found.predicted is None:
        return [] if found.true is None else [found.true[i]]
    if found.true is None or (found.wrong is not None and not found.wrong[i]):
        return [found.predicted[i]]
    return [found.predicted[i], f"{'true' if found.wrong is None else 'not'} {found.true[i]}"]
