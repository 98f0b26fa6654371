"""What all pictures share: colours, an empty figure, a frame, a caption, labels at lines' ends."""

import math
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALIDATION, GREY, PALE = "#0072B2", "#D55E00", "#666666", "#B5B5B5"
"""Blue and vermilion of Okabe and Ito, told apart with every kind of colour vision; greys."""

SERIES = (TRAIN, VALIDATION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
"""The colours of lines that are alike, in turn: all of Okabe and Ito but the yellow."""

WIDE_SPREAD = 1000
"""The factor between values beyond which their axis is logarithmic."""


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


def grid(count: int, most: int) -> tuple[int, int]:
    """Rows and columns of `count` panels, at most so many in a row, the rows alike full.

    Example:
        >>> grid(4, most=3), grid(7, most=3)
        ((2, 2), (3, 3))
    """
    columns = math.ceil(count / math.ceil(count / most))
    return math.ceil(count / columns), columns


def frame(axes: "Axes", below: str = "") -> None:
    """Leaves of the frame what is read: two axes, faint lines across."""
    from matplotlib.ticker import StrMethodFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(which="both", color="#BBBBBB", labelcolor=GREY, labelsize=9)
    axes.grid(axis="y", color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.6g}"))
    axes.set_xlabel(below, color=GREY)


def title(axes: "Axes", words: str, pad: float = 6) -> None:
    """Writes what a panel shows above it."""
    axes.set_title(words, loc="left", fontsize=11, fontweight="bold", pad=pad, parse_math=False)


def caption(figure: "Figure", words: str) -> None:
    """Writes what the picture shows above it."""
    words = textwrap.fill(words, int(14 * figure.get_figwidth()))
    figure.suptitle(words, x=0.01, ha="left", fontsize=9, color=GREY, parse_math=False)


def spans_decades(values: np.ndarray) -> bool:
    """Whether values, all above 0, lie so far apart that their axis is to be logarithmic."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() > WIDE_SPREAD * finite.min())


def scale(axes: "Axes", lines: Iterable[np.ndarray]) -> None:
    """Makes the axis logarithmic where values above 0 span more than a factor of 1,000."""
    values = np.concatenate(list(lines))
    if spans_decades(values[values > 0]):
        axes.set_yscale("log")


def label_ends(axes: "Axes", ends: list[tuple[Any, str, str]], gap: float) -> None:
    """Writes each label to the right of its value, `gap` of the height apart at least.

    Args:
        axes: where; its scale and its limits stay as they are from here on.
        ends: the value, the label and the colour of each line.
        gap: a share of the panel's height.
    """
    axes.set_ylim(axes.get_ylim())
    labels = sorted((height(axes, value), label, color) for value, label, color in ends if label)
    heights = spread(np.array([place for place, *_ in labels]), gap)
    for place, (_, label, color) in zip(heights, labels, strict=True):
        axes.text(
            1.02, place, label, color=color, transform=axes.transAxes, va="center", fontsize=9,
            parse_math=False,
        )  # fmt: skip


def height(axes: "Axes", value: Any) -> float:
    """Where a value stands, as a share of the panel's height."""
    place = (axes.transScale + axes.transLimits).transform((1, value))[1]
    return float(np.clip(place, 0, 1)) if np.isfinite(place) else 0.0


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Sorted heights moved as little as it takes to lie a gap apart, and inside the panel."""
    moved = heights.copy()
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    moved -= max(0.0, moved[-1] - 1) if len(moved) else 0.0
    for i in range(len(moved) - 1, 0, -1):
        moved[i - 1] = min(moved[i - 1], moved[i] - gap)
    return moved
