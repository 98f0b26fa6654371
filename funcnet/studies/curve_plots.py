"""Pictures of a cross-validation, of bias and variance, and of a learning curve."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnet.inspect.style import (
    GREY,
    TRAIN,
    VALIDATION,
    caption,
    frame,
    grid,
    label_ends,
    new_figure,
    scale,
    title,
)
from funcnet.studies.reports import plus_minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from funcnet.studies.bias import BiasVariance
    from funcnet.studies.curves import LearningCurve
    from funcnet.studies.validation import CrossValidation

PARTS = {
    "bias_squared": ("bias²", TRAIN),
    "bias_squared_and_noise": ("bias² + noise", TRAIN),
    "variance": ("variance", VALIDATION),
    "noise": ("noise", "#009E73"),
    "total": ("sum", "#222222"),
}
"""The label and the colour of each part of the error."""


def draw_cross_validation(scores: "CrossValidation") -> "Figure":
    """A panel for each metric: a dot for each fold, and the mean with its standard error."""
    scalars = {name: v for name, v in scores.metrics.items() if v.ndim == 1}
    figure, panels = panels_of(scalars, per_row=3)
    fold = np.arange(len(scores.folds))
    for axes, curves in panels:
        frame(axes, "fold left out")
        axes.set_xlim(-0.5, len(fold) - 0.5)
        axes.set_xticks(few(fold))
        ends = []
        for name, label, color in curves:
            mean, error = scores.mean[name], scores.standard_error[name]
            axes.axhspan(mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
            axes.axhline(mean, color=color, linewidth=1.6)
            axes.plot(fold, scalars[name], color=color, linestyle="none", marker="o", markersize=5)
            words = " ± ".join(plus_minus(mean, error))
            ends.append((mean, f"{label}\n{words}".strip(), color))
        label_ends(axes, ends, gap=0.2)
    at = f"the best epoch by {scores.runs.monitor}" if scores.at == "best" else "the last epoch"
    caption(
        figure,
        f"{len(fold)} folds at {at}. Lines are means over the folds, bands one standard error.",
    )
    return figure


def draw_bias_variance(found: "BiasVariance") -> "Figure":
    """Bias², variance, noise and their sum over the sizes; the measured error as dots."""
    figure = new_figure("plot", 6.4, 4.2)
    axes = figure.add_subplot()
    frame(axes, "size")
    where = horizontal(axes, found.sizes)
    parts = {name: found.parts[name] for name in PARTS if name in found.parts}
    scale(axes, [*parts.values(), found.measured])
    ends = []
    for name, values in parts.items():
        label, color = PARTS[name]
        error = found.standard_error[name]
        style: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.6}
        if name == "noise":
            style = {"linestyle": "--", "linewidth": 1.6}
        elif name == "total":
            style = {"linewidth": 2.2}
        axes.fill_between(where, values - error, values + error, color=color, alpha=0.12, lw=0)
        axes.plot(where, values, color=color, **style)
        ends.append((values[-1], label, color))
    axes.set_ylabel("squared error", color=GREY)
    words = f"{found.repeats} networks of each size. "
    if found.noise is None:
        words += "The sum is the error measured on the test data. "
    else:
        words += "Dots are the error measured on examples that no network has seen. "
        axes.errorbar(
            where, found.measured, found.standard_error["measured"], color=PARTS["total"][1],
            linestyle="none", marker="o", markersize=5.5, markerfacecolor="white", capsize=2,
            zorder=3,
        )  # fmt: skip
    label_ends(axes, ends, gap=0.06)
    caption(figure, words + "Bands and bars are one standard error.")
    return figure


def draw_learning_curve(curve: "LearningCurve") -> "Figure":
    """A panel for each metric: means over the repeats with bands, on training and validation."""
    scalars = {name: v for name, v in curve.metrics.items() if v.ndim == 2}
    figure, panels = panels_of(scalars, per_row=3)
    for axes, curves in panels:
        frame(axes, "training examples")
        where = horizontal(axes, curve.sizes.tolist())
        scale(axes, [curve.mean[name] for name, *_ in curves])
        ends = []
        for name, label, color in curves:
            mean, error = curve.mean[name], curve.standard_error[name]
            axes.fill_between(where, mean - error, mean + error, color=color, alpha=0.15, lw=0)
            axes.plot(where, mean, color=color, linewidth=1.6, marker="o", markersize=4)
            ends.append((mean[-1], label, color))
        label_ends(axes, ends, gap=0.09)
    repeats = len(curve.runs.epochs) // len(curve.sizes)
    caption(
        figure,
        f"Means over {repeats} trainings of each size, bands one standard error.",
    )
    return figure


def panels_of(
    scalars: dict[str, Any], per_row: int
) -> tuple["Figure", list[tuple["Axes", list[tuple[str, str, str]]]]]:
    """A figure with a panel for each metric, and the names, labels and colours drawn in each."""
    titles = list(dict.fromkeys(name.removeprefix("val_") for name in scalars))
    rows, columns = grid(len(titles), most=per_row)
    figure = new_figure("plot", max(4.2 * columns, 5.0), 2.9 * rows + 0.5)
    panels = []
    for i, name in enumerate(titles):
        axes = figure.add_subplot(rows, columns, i + 1)
        title(axes, name, pad=10)
        twins = (name, "train", TRAIN), (f"val_{name}", "validation", VALIDATION)
        panels.append((axes, [twin for twin in twins if twin[0] in scalars]))
    return figure, panels


def horizontal(axes: "Axes", sizes: list[Any]) -> np.ndarray:
    """Where the sizes stand: at their numbers, logarithmic if far apart, or one after the other."""
    numbers = all(isinstance(size, int | float) and size > 0 for size in sizes)
    where = np.asarray(sizes if numbers else range(len(sizes)), float)
    steps = np.diff(where)
    if numbers and where.max() >= 8 * where.min() and steps.max() > 2 * steps.min():
        axes.set_xscale("log")
    axes.set_xticks(few(where), few([str(size) for size in sizes]))
    axes.minorticks_off()
    return where


def few(items: Any, most: int = 12) -> Any:
    """The items, or every second, third, ... of them: `most` of them at the most."""
    return items[:: math.ceil(len(items) / most)]
