"""A computation graph as a figure of matplotlib: the picture that `Graph.svg` gives a notebook."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from funcnet.inspect.graph_drawing import COLOURS, HIGH, ROUND, Spot, captions, curve, drawing
from funcnet.inspect.style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = 96
"""Of an inch."""

LARGEST = 60.0
"""The greatest side of a figure in inches; a larger graph is drawn smaller."""


def draw_graph(nodes: Sequence[Any], edges: Sequence[Any]) -> "Figure":
    """The nodes as boxes, coloured by kind, and the arrays between them as arrows."""
    made = drawing(nodes, edges)
    shrunk = min(1.0, PIXELS * LARGEST / max(made.width, made.height))
    figure = new_figure("plot", *(shrunk * side / PIXELS for side in (made.width, made.height)))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, made.width), ylim=(made.height, 0))
    axes.axis("off")
    letters = 7.6 * shrunk
    for words, x in made.key:
        box(axes, Spot(x + 6, 16), 12, 12, 3, COLOURS.get(words, "white"), words == "backward")
        axes.text(x + 17, 16, words, fontsize=letters, va="center")
    for way in made.ways.values():
        arrow(axes, way, shrunk)
    for node in nodes:
        spot, width = made.boxes[node.name], made.widths[node.name]
        corner = HIGH / 2 if node.kind in ROUND else 5
        box(axes, spot, width, HIGH, corner, COLOURS[node.kind], node.backward)
        write(axes, spot, captions(node), letters)
    return figure


def box(
    axes: "Axes", middle: Spot, width: float, high: float, corner: float, fill: str, dashed: bool
) -> None:
    """A rounded box about its middle."""
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (middle.x - width / 2, middle.y - high / 2), width, high,
            boxstyle=f"round,pad=0,rounding_size={min(corner, width / 2)}", facecolor=fill,
            edgecolor="#7a7a7a", linewidth=0.8, linestyle="--" if dashed else "-", zorder=2,
        )
    )  # fmt: skip


def write(axes: "Axes", middle: Spot, lines: tuple[str, str], letters: float) -> None:
    """The two lines in a box: what it does, and what comes out."""
    above, below = lines
    style: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 3, "parse_math": False}
    axes.text(middle.x, middle.y - 6, above, fontsize=letters, color="#222222", **style)
    axes.text(middle.x, middle.y + 9, below, fontsize=0.8 * letters, color="#666666", **style)


def arrow(axes: "Axes", way: Sequence[Spot], shrunk: float) -> None:
    """An edge, from the foot of one box to the head of the other."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    points = [Spot(way[0].x, way[0].y + HIGH / 2), *(spot for part in curve(way) for spot in part)]
    codes = [Path.MOVETO, *[Path.CURVE4] * (len(points) - 1)]
    axes.add_patch(
        FancyArrowPatch(
            path=Path(points, codes), arrowstyle="-|>", mutation_scale=7 * shrunk,
            color="#9a9a9a", linewidth=0.9 * shrunk, zorder=1,
        )
    )  # fmt: skip
