"""`plot_confusion`: which class was taken for which, as counts and as colours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnet import errors
from funcnet.inspect.style import GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ALL_WRITTEN, FEW_PERCENT = 50, 0.02
"""The most classes whose counts are all written; the share that a count has that is written."""


def plot_confusion(matrix: Any, labels: Sequence[Any] | None = None) -> "Figure":
    """Draws a confusion matrix: counts as numbers, the share of each true class as colour.

    Of more than 50 classes, only counts of 2 % of their class or more are written.

    Args:
        matrix: `[classes, classes]`, rows are true classes and columns predicted ones, as
            `fn.metrics.confusion_matrix` counts them.
        labels: a name for each class; their numbers if left out.

    Returns:
        The figure, which no pyplot knows: save it with `figure.savefig("confusion.png")`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the matrix is not square, or holds something other than counts; there are more
            or fewer labels than classes.

    Example:
        >>> import funcnet as fn
        >>> figure = fn.plot_confusion([[8, 2], [1, 9]], labels=["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['8', '2', '1', '9']
    """
    counts = check_matrix(matrix)
    names = check_names(labels, len(counts))
    cell = min(0.6, 16 / len(counts))
    side = cell * len(counts) + 1.4
    figure = new_figure("plot_confusion", max(side + 0.8, 3.6), max(side, 2.8))
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), np.finfo(float).tiny)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    write_counts(axes, counts, shares, cell)
    size = min(10, 50 * cell)
    upright = max(map(len, names)) * size > 90 * cell
    plain: dict[str, Any] = {"fontsize": size, "parse_math": False}
    axes.set_xticks(range(len(names)), names, rotation=90 * upright, **plain)
    axes.set_yticks(range(len(names)), names, **plain)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=25, ticks=[0, 0.5, 1], format="%g")
    bar.set_label("share of the true class", color=GREY)
    bar.outline.set_visible(False)
    return figure


def write_counts(axes: "Axes", counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    """Writes each count into its cell, in a size that fits cells of `cell` inches."""
    words = [[f"{count:.4g}" if count % 1 else f"{count:.0f}" for count in row] for row in counts]
    longest = max(len(word) for row in words for word in row)
    size = min(11, 72 * cell / (0.7 * longest + 0.5))
    least = FEW_PERCENT if len(counts) > ALL_WRITTEN else 0
    for i, row in enumerate(words):
        for j, word in enumerate(row):
            if shares[i, j] < least:
                continue
            color = "white" if shares[i, j] > 0.55 else "#222222" if counts[i, j] else "#BBBBBB"
            axes.text(
                j, i, word, ha="center", va="center", color=color, fontsize=size, in_layout=False
            )


def check_matrix(matrix: Any) -> np.ndarray:
    """The matrix as floats, or an error if it is no confusion matrix."""
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(
            f"`plot_confusion`: matrix must be [classes, classes], got {errors.describe(counts)}. "
            "Make it with `fn.metrics.confusion_matrix(classes)`."
        )
    if counts.dtype.kind not in "uif" or not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError(
            f"`plot_confusion`: matrix must hold counts, finite and not negative, got {matrix!r}. "
            "Make it with `fn.metrics.confusion_matrix(classes)`."
        )
    return counts.astype(float)


def check_names(labels: Sequence[Any] | None, classes: int) -> list[str]:
    """The names of the classes."""
    names = [str(name) for name in (range(classes) if labels is None else labels)]
    if len(names) != classes:
        raise ValueError(
            f"`plot_confusion`: labels must name each of the {classes} classes, got {len(names)}: "
            f"{', '.join(names)}. Give them in the order of the rows."
        )
    return names
