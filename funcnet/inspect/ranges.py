"""How large the numbers of many arrays are, a row for each: `plot_histograms` of a deep network."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnet.inspect.style import GREY, SERIES, caption, frame, new_figure
from funcnet.tables import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = 150
"""The most rows of a picture."""

AT_ONCE = 4
"""The most trees in a row; of more some are taken, evenly, the first and the last among them."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def draw_ranges(trees: Sequence[Mapping[str, Any]], names: Sequence[str]) -> "Figure":
    """For each array a dot at the median absolute value, a bar for half of them, a line for 90 %.

    Args:
        trees: `Numbers` by path, of the same paths.
        names: of the trees.
    """
    which = np.linspace(0, len(trees) - 1, min(len(trees), AT_ONCE)).round().astype(int)
    taken, called = [trees[i] for i in which], [names[i] for i in which]
    paths = list(trees[0])[:ROWS]
    labels = [shortened(path, 44) for path in paths]
    across = 5.0 + 0.075 * max(map(len, labels))
    figure = new_figure("plot_histograms", across, max(2.5, 0.19 * len(paths) + 1.2))
    axes = figure.add_subplot()
    frame(axes)
    axes.grid(axis="x", color="#EEEEEE")
    axes.set_xscale("log")
    axes.set_xlabel("absolute value", color=GREY)
    axes.set_yticks(range(len(paths)), labels, fontsize=7, family="monospace", parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(paths) - 0.4, -0.6)
    for i, each in enumerate(taken):
        aside = 0.7 * ((i + 0.5) / len(taken) - 0.5)
        draw_rows(axes, [each[path] for path in paths], aside, SERIES[i])
    write_faults(axes, [[each[path] for each in taken] for path in paths])
    for i, name in enumerate(called):
        axes.text(
            i / len(called), 1.005, name, transform=axes.transAxes, color=SERIES[i], fontsize=8,
            va="bottom", parse_math=False,
        )  # fmt: skip
    caption(figure, story(len(trees[0]), len(trees), len(taken)))
    return figure


def draw_rows(axes: "Axes", rows: Sequence[Any], aside: float, color: str) -> None:
    """The ranges of one tree."""
    ends = {
        i: np.quantile(np.abs(numbers.values), QUANTILES)
        for i, numbers in enumerate(rows)
        if len(numbers.values)
    }
    if not ends:
        return
    where = np.array(list(ends)) + aside
    low, left, middle, right, high = np.array(list(ends.values())).T
    axes.hlines(where, low, high, color=color, linewidth=0.8)
    axes.hlines(where, left, right, color=color, linewidth=3, alpha=0.5)
    axes.plot(middle, where, color=color, marker="o", markersize=3, linestyle="none")


def write_faults(axes: "Axes", rows: Sequence[Sequence[Any]]) -> None:
    """Writes beside each row what of it can't be drawn."""
    for i, row in enumerate(rows):
        size, zeros = (sum(getattr(each, name) for each in row) for name in ("size", "zeros"))
        broken = sum(each.broken for each in row)
        words = [f"{broken:,} not finite"] if broken else []
        words += [f"{share(zeros, size)} zeros"] if zeros else []
        if words:
            axes.text(
                1.01, i, ", ".join(words), transform=axes.get_yaxis_transform(), va="center",
                fontsize=7, color=SERIES[1] if broken else GREY,
            )  # fmt: skip


def share(part: int, whole: int) -> str:
    """A part of a whole in percent, never 0 or 100 unless it is.

    Example:
        >>> share(1, 3), share(1, 10_000), share(9_999, 10_000), share(2, 2)
        ('33 %', '<1 %', '>99 %', 'all')
    """
    if part == whole:
        return "all"
    percent = 100 * part / whole
    return "<1 %" if percent < 1 else ">99 %" if percent > 99 else f"{percent:.0f} %"


def story(count: int, given: int, taken: int) -> str:
    """What the rows are."""
    words = (
        f"{count} arrays. Dots are medians of the absolute values other than 0, bars hold half of "
        "them, lines 90 %."
    )
    if count > ROWS:
        words += f" The first {ROWS} are drawn: choose others with `pattern`."
    if taken < given:
        words += f" {taken} of {given} trees."
    return words
