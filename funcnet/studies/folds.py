"""Index lists of folds: plain, stratified, grouped, or those of a splitter."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import jax
import numpy as np

from funcnet import errors
from funcnet.data.arrays import Columns, examples
from funcnet.data.order import SPLIT, order_words, permute
from funcnet.training.state import ORDER, stream

Fold: TypeAlias = tuple[np.ndarray, np.ndarray]
"""The rows to train on, and those held out."""


def make_folds(
    k: Any, data: Columns, key: jax.Array, *, groups: Any, stratify: Any, shuffle: bool
) -> list[Fold]:
    """The folds that `cross_validate` was asked for, once what is wrong with them was refused."""
    n = examples(data)
    if isinstance(k, int | np.integer) and not isinstance(k, bool):
        return of_number(int(k), data, key, groups, stratify, shuffle)
    if stratify is not False:
        raise TypeError(
            "`cross_validate`: stratify goes with a number of folds, got index lists as k. "
            "Let the splitter do it, scikit-learn's `StratifiedKFold` say."
        )
    return check_folds(list(split_by(k, data, groups)), n)


def of_number(
    k: int, data: Columns, key: jax.Array, groups: Any, stratify: Any, shuffle: bool
) -> list[Fold]:
    """`k` folds, each row held out in one of them."""
    n = examples(data)
    if not 2 <= k <= n:
        raise ValueError(
            f"`cross_validate`: k must lie in 2 .. {n}, the number of examples, got {k}. "
            "Take 5 or 10; `trainer.fit(..., validation=0.2)` holds out one part alone."
        )
    if groups is not None and stratify is not False:
        raise TypeError(
            "`cross_validate`: give either groups or stratify, got both. scikit-learn's "
            "`StratifiedGroupKFold(5)` as k keeps both as well as it can."
        )
    if groups is not None:
        return dealt(by_group(one_each("groups", groups, n), k), k)
    words = np.asarray(order_words(stream(key, ORDER)))
    order = np.arange(n)
    order = permute(words, [SPLIT], order, n).astype(int) if shuffle else order
    if stratify is not False:
        labels = data[1] if stratify is True else stratify
        return dealt(by_class(one_each("stratify", labels, n), order, k), k)
    return dealt(by_order(order, k), k)


def dealt(fold: np.ndarray, k: int) -> list[Fold]:
    """The index lists, from the number of the fold that holds out each row."""
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(k)]


def by_order(order: np.ndarray, k: int) -> np.ndarray:
    """Runs of an order, of the same length but for one row: `sklearn.model_selection.KFold`."""
    fold = np.empty(len(order), int)
    for i, rows in enumerate(np.array_split(order, k)):
        fold[rows] = i
    return fold


def by_class(labels: np.ndarray, order: np.ndarray, k: int) -> np.ndarray:
    """The share of each class kept in all folds: `sklearn.model_selection.StratifiedKFold`.

    Rows sorted by class would go to the folds in turn; within a class the first rows of `order` go
    to its first fold.
    """
    _, first, which, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    if counts.min() < k:
        rare = labels[first[counts.argmin()]].item()
        raise ValueError(
            f"`cross_validate`: stratify needs at least k = {k} examples of each class, got "
            f"{counts.min()} of class {rare!r}. Take fewer folds, or leave stratify out."
        )
    fold, begin = np.empty(len(order), int), 0
    for label in np.argsort(first):
        rows = order[which[order] == label]
        fold[rows] = np.sort(np.arange(begin, begin + len(rows)) % k)
        begin += len(rows)
    return fold


def by_group(groups: np.ndarray, k: int) -> np.ndarray:
    """No group on both sides: each, the largest first, goes to the fold that is the smallest yet.

    As `sklearn.model_selection.GroupKFold`.
    """
    _, which, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(counts) < k:
        raise ValueError(
            f"`cross_validate`: groups must name at least k = {k} groups, got {len(counts)}. "
            "Take fewer folds."
        )
    fold, sizes = np.empty(len(counts), int), np.zeros(k, int)
    for group in np.argsort(counts, kind="stable")[::-1]:
        fold[group] = sizes.argmin()
        sizes[fold[group]] += counts[group]
    return fold[which]


def one_each(name: str, values: Any, n: int) -> np.ndarray:
    """`values` as an array of one class or group an example."""
    array = np.asarray(values) if not isinstance(values, dict | tuple) else np.empty(())
    if array.shape != (n,):
        raise ValueError(
            f"`cross_validate`: {name} must hold one value for each of the {n} examples, "
            f"got {errors.describe(values)}. Flatten it with `.reshape(-1)`, or take a column."
        )
    if name == "stratify" and array.dtype.kind == "f":
        raise TypeError(
            f"`cross_validate`: stratify needs classes, got {errors.describe(array)}. Give whole "
            "numbers; of a number to be predicted, `np.digitize(y, bins)` say."
        )
    return array


def split_by(k: Any, data: Columns, groups: Any) -> Iterable[Any]:
    """The index lists of a splitter, or those that were given."""
    if hasattr(k, "split") and not hasattr(k, "shape"):
        x, y = (part if hasattr(part, "shape") else np.zeros(examples(data)) for part in data[:2])
        pairs: Iterable[Any] = k.split(np.asarray(x), np.asarray(y), groups)
        return pairs
    if groups is not None:
        raise TypeError(
            "`cross_validate`: groups goes with a number of folds or a splitter, got index lists "
            "as k. Give the splitter itself, `k=GroupKFold(5)` say."
        )
    if isinstance(k, str | bool | dict) or not hasattr(k, "__iter__"):
        raise TypeError(
            "`cross_validate`: k must be a whole number, a splitter, or pairs of index lists "
            f"(train, held out), got {errors.describe(k)}. Say `k=5`, or `k=KFold(5).split(x)`."
        )
    given: Iterable[Any] = k
    return given


def check_folds(pairs: list[Any], n: int) -> list[Fold]:
    """Index lists as arrays, once everything that can be wrong with them has been refused."""
    if len(pairs) < 2:
        raise ValueError(
            f"`cross_validate`: k must give at least two folds, got {len(pairs)}. "
            "An iterator can be passed through once: make a new one, or give a list."
        )
    return [check_fold(i, pair, n) for i, pair in enumerate(pairs)]


def check_fold(i: int, pair: Any, n: int) -> Fold:
    """One fold as arrays, or an error."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(
            "`cross_validate`: each fold must be a pair of index lists (train, held out), "
            f"got {errors.describe(pair)} as fold {i}. Make them with `KFold(5).split(x)` say."
        )
    train, held = (check_index(i, part, n) for part in pair)
    both = np.intersect1d(train, held)
    if len(both):
        raise ValueError(
            "`cross_validate`: no row may be trained on and held out in one fold, got "
            f"{len(both)} such rows in fold {i}, row {both[0]} the first. "
            "The score would tell how well they were learnt by heart."
        )
    return train, held


def check_index(i: int, index: Any, n: int) -> np.ndarray:
    """One index list as an array, or an error."""
    rows = np.asarray(index)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size:
        raise TypeError(
            "`cross_validate`: index lists must hold whole numbers, one or more, "
            f"got {errors.describe(rows)} in fold {i}. Of a mask, say `np.flatnonzero(mask)`."
        )
    if rows.min() < 0 or rows.max() >= n:
        raise ValueError(
            f"`cross_validate`: index lists must lie in 0 .. {n - 1}, the examples of the data, "
            f"got {rows.min()} .. {rows.max()} in fold {i}. Count from 0."
        )
    return rows


def even(lists: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists as int32[lists, longest], each filled up with its last row, and how many count."""
    lists = list(lists)
    sizes = np.array([len(rows) for rows in lists], np.int32)
    filled = [np.pad(rows, (0, sizes.max() - len(rows)), mode="edge") for rows in lists]
    return np.stack(filled).astype(np.int32), sizes
