"""Pictures of a finished training and of a confusion matrix; matplotlib is loaded on first use."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from funcnet import errors
from funcnet.stopping import Reason
from funcnet.trainer import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALIDATION, GREY = "#0072B2", "#D55E00", "#666666"
"""Blue and vermilion of Okabe and Ito, told apart with every kind of colour vision."""

ALL_MARKED = 40
"""The most epochs that each get a marker; beyond it only those without a neighbour do."""


class Curve(NamedTuple):
    """A line of a panel: its label, its colour, and a value for each epoch."""

    label: str
    color: str
    values: np.ndarray


def plot(result: Any) -> "Figure":
    """Draws loss and metrics over the epochs, one panel for each with its validation twin.

    The best epoch is marked in all panels, and circled in that of the monitored value; so is the
    last one if training stopped before its time. An epoch whose value is not finite has a cross at
    the upper edge. An axis is logarithmic where its values span more than a factor of 1,000. A run
    that ended within its first epoch shows the loss of each step.

    A sweep, a cross-validation and whatever else has a picture of its own is drawn as that.

    Args:
        result: what `Trainer.fit` gave back. Entries of its history that are not one number an
            epoch are left out. Or a value with a method `plot()`.

    Returns:
        The figure, which no pyplot knows: save it with `figure.savefig("training.png")`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `result` is no `Result`.
        ValueError: there is nothing to draw, for no step was taken.

    Example:
        >>> import jax.numpy as jnp, optax, funcnet as fn
        >>> x = jnp.linspace(0, 1, 32)[:, None]
        >>> trainer = fn.Trainer(fn.dense(1), loss=optax.squared_error, optimizer=optax.sgd(0.1))
        >>> result = trainer.fit((x, 2 * x), validation=0.25, epochs=5, batch_size=8)
        >>> [axes.get_title(loc="left") for axes in fn.plot(result).axes]
        ['loss']
    """
    if not isinstance(result, Result) and hasattr(result, "plot"):
        figure: Figure = result.plot()
        return figure
    panels, unit = panels_of(result)
    columns = math.ceil(len(panels) / math.ceil(len(panels) / 3))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure("plot", max(4.2 * columns, 5.0), 2.9 * rows + 0.5)
    for i, (name, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        draw(axes, curves, first=int(unit == "epoch"))
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", pad=20)
        axes.set_xlabel(unit, color=GREY)
        if unit == "epoch":
            circle_best(axes, result, name, curves)
            mark_ends(axes, result, len(curves[0].values))
    words = textwrap.fill(story(result, panels, unit), int(15 * figure.get_figwidth()))
    figure.suptitle(words, x=0.01, ha="left", fontsize=9, color=GREY, parse_math=False)
    return figure


def plot_confusion(matrix: Any, labels: Sequence[Any] | None = None) -> "Figure":
    """Draws a confusion matrix: counts as numbers, the share of each true class as colour.

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
    axes.set_xticks(range(len(names)), names, rotation=90 * upright, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=25, ticks=[0, 0.5, 1], format="%g")
    bar.set_label("share of the true class", color=GREY)
    bar.outline.set_visible(False)
    return figure


def new_figure(function: str, width: float, height: float) -> "Figure":
    """An empty figure of a size in inches."""
    try:
        from funcnet.inspect.canvas import Canvas
    except ImportError as error:
        raise ImportError(
            f"`{function}`: matplotlib must be installed, got {error}. "
            "Install it with `pip install 'funcnet[plots]'`."
        ) from error
    return Canvas(figsize=(width, height), layout="constrained", facecolor="white")


def panels_of(result: Any) -> tuple[dict[str, list[Curve]], str]:
    """The curves of each panel by name, and what their horizontal axis counts."""
    if not isinstance(result, Result):
        raise TypeError(
            "`plot`: result must be what `Trainer.fit` gives back, or have a picture of its own, "
            f"got {errors.describe(result)}. Say `result = trainer.fit(...)`, then "
            "`fn.plot(result)`."
        )
    scalars = {
        name: np.asarray(values, float)
        for name, values in result.history.items()
        if np.ndim(values) == 1 and len(values)
    }
    if scalars:
        names = dict.fromkeys(name.removeprefix("val_") for name in scalars)
        last = [name for name in names if name == "learning_rate"]
        ordered = [name for name in names if name not in last] + last
        return {name: pair(name, scalars) for name in ordered}, "epoch"
    if len(result.losses):
        return {"loss": [Curve("", TRAIN, np.asarray(result.losses, float))]}, "step"
    raise ValueError(
        "`plot`: result must hold at least one step, got an empty history and no losses. "
        "Train for one step at least."
    )


def pair(name: str, scalars: Mapping[str, np.ndarray]) -> list[Curve]:
    """The curves of one panel, labelled where validation is among them."""
    twin = f"val_{name}"
    label = "train" if twin in scalars else ""
    curves = [Curve(label, TRAIN, scalars[name])] if name in scalars else []
    if twin in scalars:
        curves.append(Curve("validation", VALIDATION, scalars[twin]))
    return curves


def draw(axes: "Axes", curves: list[Curve], first: int) -> None:
    """Draws the curves of a panel from position `first` on, with their labels at their ends."""
    values = np.concatenate([curve.values for curve in curves])
    finite = values[np.isfinite(values)]
    clean(axes, first, first + max(len(curve.values) for curve in curves) - 1)
    if len(finite) and finite.min() > 0 and finite.max() > 1000 * finite.min():
        axes.set_yscale("log")
    for curve in curves:
        draw_curve(axes, curve, first)
    if not len(finite):
        axes.set_yticks([])
    axes.set_ylim(axes.get_ylim())
    axes.minorticks_off()
    label_ends(axes, curves)


def clean(axes: "Axes", first: int, last: int) -> None:
    """Leaves of the frame what is read: two axes, whole numbers below, faint lines across."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(color="#BBBBBB", labelcolor=GREY, labelsize=9)
    axes.grid(axis="y", color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.6g}"))
    margin = 0.03 * (last - first) or 0.5
    axes.set_xlim(first - min(margin, 0.9), last + margin)


def draw_curve(axes: "Axes", curve: Curve, first: int) -> None:
    """Draws one line, with gaps and crosses where it is not finite."""
    where = np.arange(first, first + len(curve.values))
    finite = np.isfinite(curve.values)
    edged = np.pad(finite, 1)
    marked = finite & ~(edged[:-2] | edged[2:]) if len(where) > ALL_MARKED else finite
    values = np.where(finite, curve.values, np.nan)
    marks = np.flatnonzero(marked).tolist()
    axes.plot(
        where, values, color=curve.color, linewidth=1.6, marker="o", markersize=3.5,
        markevery=marks, clip_on=False,
    )  # fmt: skip
    height = 0.98 if curve.color == TRAIN else 0.93
    axes.plot(
        where[~finite], np.full((~finite).sum(), height), color=curve.color, linestyle="none",
        marker="x", markersize=5, transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def label_ends(axes: "Axes", curves: list[Curve]) -> None:
    """Writes each label beside the last finite value of its curve, none upon another."""
    ends = []
    for curve in curves:
        finite = np.flatnonzero(np.isfinite(curve.values))
        if curve.label and len(finite):
            point = (1, curve.values[finite[-1]])
            ends.append(((axes.transScale + axes.transLimits).transform(point)[1], curve))
    ends.sort(key=lambda end: end[0])
    heights = np.array([height for height, _ in ends])
    if len(heights) == 2 and heights[1] - heights[0] < 0.09:
        heights = min(heights.mean(), 0.92) + np.array([-0.045, 0.045])
    for height, (_, curve) in zip(heights, ends, strict=True):
        axes.text(
            1.02, height, curve.label, color=curve.color, transform=axes.transAxes,
            va="center", fontsize=9,
        )  # fmt: skip


def circle_best(axes: "Axes", result: Result, name: str, curves: list[Curve]) -> None:
    """Circles the best value, where it is on one of these curves."""
    color = VALIDATION if result.monitor.startswith("val_") else TRAIN
    if result.best_epoch is None or result.monitor.removeprefix("val_") != name:
        return
    for curve in curves:
        if curve.color == color:
            axes.plot(
                result.best_epoch + 1, curve.values[result.best_epoch], marker="o", markersize=9,
                fillstyle="none", color=color, clip_on=False,
            )  # fmt: skip


def mark_ends(axes: "Axes", result: Result, last: int) -> None:
    """Marks the best epoch, and the last one where training stopped before its time."""
    marks: dict[int, list[str]] = {}
    if result.best_epoch is not None:
        marks[result.best_epoch + 1] = ["best"]
    if result.reason != Reason.EPOCHS:
        marks.setdefault(last, []).append("stop")
    for epoch, words in marks.items():
        axes.axvline(epoch, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
        near = words == ["best"] and last in marks and 0 < last - epoch < 0.15 * last
        axes.text(
            epoch, 1.03, ", ".join(words), transform=axes.get_xaxis_transform(), color=GREY,
            fontsize=8, ha="right" if near else "center",
        )  # fmt: skip


def story(result: Result, panels: Mapping[str, list[Curve]], unit: str) -> str:
    """Why training stopped, what was best and what the crosses are, in a line or two."""
    curves = [curve for panel in panels.values() for curve in panel]
    end = len(curves[0].values)
    words = f"Stopped after {end} {unit}{'s' * (end > 1)}: {result.message.rstrip('.')}."
    if result.best_epoch is not None:
        best = float(result.history[result.monitor][result.best_epoch])
        words += f" Best {result.monitor} {best:.4g} at epoch {result.best_epoch + 1}."
    if not all(np.isfinite(curve.values).all() for curve in curves):
        words += " Crosses mark values that are not finite."
    return words


def write_counts(axes: "Axes", counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    """Writes each count into its cell, in a size that fits cells of `cell` inches."""
    words = [[f"{count:.4g}" if count % 1 else f"{count:.0f}" for count in row] for row in counts]
    longest = max(len(word) for row in words for word in row)
    size = min(11, 72 * cell / (0.7 * longest + 0.5))
    for i, row in enumerate(words):
        for j, word in enumerate(row):
            color = "white" if shares[i, j] > 0.55 else "#222222" if counts[i, j] else "#BBBBBB"
            axes.text(j, i, word, ha="center", va="center", color=color, fontsize=size)


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
