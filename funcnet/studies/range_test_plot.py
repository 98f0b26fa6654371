"""The picture of a range test: the loss over the learning rate, and what rate to begin with."""

from typing import TYPE_CHECKING

import numpy as np

from funcnet.inspect.style import (
    GREY,
    PALE,
    TRAIN,
    VALIDATION,
    caption,
    frame,
    new_figure,
    spans_decades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from funcnet.studies.range_test import LrRange


def draw_lr_range(found: "LrRange") -> "Figure":
    """The loss of each step as dots, its running mean as a line, the suggestion as a mark."""
    if not len(found.rates):
        raise ValueError(
            "`plot`: a range test must hold at least one step, got none with a finite loss. "
            "Begin with a smaller rate, `low=1e-8` say."
        )
    figure = new_figure("plot", 6.4, 3.6)
    axes = figure.add_subplot()
    frame(axes, "learning rate")
    axes.set_ylabel("loss", color=GREY)
    axes.set_xscale("log")
    shown = found.losses <= max(found.losses[0], found.smoothed.max())
    if spans_decades(np.concatenate([found.losses[shown], found.smoothed])):
        axes.set_yscale("log")
    axes.plot(
        found.rates[shown], found.losses[shown], color=PALE, linestyle="none", marker="o",
        markersize=2.5,
    )  # fmt: skip
    axes.plot(found.rates, found.smoothed, color=TRAIN, linewidth=1.8)
    words = "Dots are losses of single batches, the line is their running mean."
    rate = found.suggestion
    if rate is None:
        words += " It never fell, so that no rate is suggested."
    else:
        mark(axes, rate, float(np.interp(rate, found.rates, found.smoothed)))
        words += f" Suggested is {rate:.2g}, half way down its longest fall."
    caption(figure, words)
    return figure


def mark(axes: "Axes", rate: float, loss: float) -> None:
    """Circles the suggestion, with its number above."""
    axes.axvline(rate, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
    axes.plot(
        rate, loss, color=VALIDATION, marker="o", markersize=10, markeredgewidth=1.6,
        fillstyle="none",
    )  # fmt: skip
    axes.text(
        rate, 1.02, f"{rate:.2g}", transform=axes.get_xaxis_transform(), color=VALIDATION,
        fontsize=9, ha="center",
    )  # fmt: skip
