"""Computation graphs in the language of Graphviz, as SVG, and where their nodes stand."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from funcnet import errors
from funcnet.inspect.layout import Place, layout

COLOURS = {
    "input": "#dfe7f2",
    "constant": "#ececec",
    "output": "#c9d8ee",
    "layer": "#fde2c4",
    "matmul": "#f8c48f",
    "elementwise": "#d9ecd0",
    "reduction": "#f6d5dc",
    "movement": "#f3f1e4",
    "random": "#e6d9f2",
    "control": "#fff0a8",
    "call": "#d5eeee",
    "other": "#ffffff",
}
"""The fill of a node by its kind, in the order of the legend."""

ROUND = ("input", "output", "constant")
CHARACTER, HIGH, ROW = 6.7, 36.0, 66.0
"""Width of a letter, height of a node, distance of two layers, in pixels."""

STYLE = """\
text { font: 11px Helvetica, Arial, sans-serif; fill: #222; text-anchor: middle }
.small { font-size: 9px; fill: #666 }
.legend { text-anchor: start; font-size: 10px }
.node rect { stroke: #7a7a7a }
.back rect { stroke-dasharray: 4 2 }
.edge { fill: none; stroke: #9a9a9a; stroke-width: 1.1 }
.edge:hover, .node:hover rect { stroke: #d2691e; stroke-width: 2 }"""

TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0,1 L8,4 L0,7 z" fill="#888"/></marker>'
)


def dot(nodes: Sequence[Any], edges: Sequence[Any]) -> str:
    """The graph in the language of Graphviz: `dot -Tpng` draws it."""
    lines = ["digraph {", '  node [style="filled,rounded" shape=box fontname="Helvetica"];']
    for node in nodes:
        words = quoted("\n".join(part for part in captions(node) if part))
        style = ' style="filled,rounded,dashed"' if node.backward else ""
        shape = " shape=ellipse" if node.kind in ROUND else ""
        tip = quoted(tooltip(node))
        fill = COLOURS[node.kind]
        lines.append(
            f'  {quoted(node.name)} [label={words} fillcolor="{fill}" tooltip={tip}{shape}{style}];'
        )
    for edge in edges:
        words = quoted(errors.describe(edge.array))
        lines.append(f"  {quoted(edge.source)} -> {quoted(edge.target)} [tooltip={words}];")
    return "\n".join([*lines, "}"])


def quoted(words: str) -> str:
    r"""A string of the language.

    Example:
        >>> print(quoted('a "name"\nand more'))
        "a \"name\"\nand more"
    """
    escaped = words.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def captions(node: Any) -> tuple[str, str]:
    """The two lines in a node: what it does, and what comes out."""
    label = node.name if node.kind in ROUND else node.label
    one = len(node.outputs) == 1
    gives = errors.describe(node.outputs[0]) if one else f"{len(node.outputs) or 'no'} arrays"
    return shortened(label), shortened(gives)


def shortened(words: str, most: int = 34) -> str:
    """Words that fit into a box.

    Example:
        >>> shortened("a long name", 8)
        'a lo…ame'
    """
    half = (most - 1) // 2
    return words if len(words) <= most else f"{words[: most - 1 - half]}…{words[-half:]}"


def tooltip(node: Any) -> str:
    """All that is known of a node."""
    lines = [f"{node.name}: {node.label}" if node.label != node.name else node.name]
    if node.scope:
        lines.append(f"scope {node.scope}{', backward' if node.backward else ''}")
    if node.inputs and node.kind != "output":
        lines.append(f"of {', '.join(node.inputs)}")
    lines.append(f"gives {', '.join(map(errors.describe, node.outputs)) or 'no arrays'}")
    if node.operations:
        lines.append(f"{node.flops:,} FLOPs, {node.bytes:,} bytes read and written")
    if node.operations > 1:
        lines.append(f"{node.operations} operations")
    return "\n".join(lines)


class Spot(NamedTuple):
    """A point of the picture, in pixels from its left upper corner."""

    x: float
    y: float


class Drawing(NamedTuple):
    """Where everything stands, in pixels.

    Attributes:
        width, height: of the picture.
        boxes: the middle of each node.
        widths: of the nodes.
        ways: the middles that each edge passes, those of its two nodes among them.
        key: the words of the legend, and where each begins.
    """

    width: float
    height: float
    boxes: Mapping[str, Spot]
    widths: Mapping[str, float]
    ways: Mapping[tuple[str, str], Sequence[Spot]]
    key: Sequence[tuple[str, float]]


def drawing(nodes: Sequence[Any], edges: Sequence[Any]) -> Drawing:
    """Where everything stands."""
    widths = {n.name: CHARACTER * max(5, *map(len, captions(n))) + 16 for n in nodes}
    places, ways = layout(widths, list(dict.fromkeys((e.source, e.target) for e in edges)))
    sides = [(p.x - widths[n] / 2, p.x + widths[n] / 2) for n, p in places.items()]
    sides += [(p.x - 6, p.x + 6) for way in ways.values() for p in way]
    shift = 14 - min((left for left, _ in sides), default=0.0)
    right = max((right for _, right in sides), default=0.0) + shift

    def spot(place: Place) -> Spot:
        return Spot(place.x + shift, 44 + ROW * place.layer + HIGH / 2)

    key, key_width = legend(nodes)
    height = 44 + ROW * (1 + max((place.layer for place in places.values()), default=0))
    return Drawing(
        max(right + 14, key_width),
        height,
        {name: spot(place) for name, place in places.items()},
        widths,
        {pair: [spot(place) for place in way] for pair, way in ways.items()},
        key,
    )


def legend(nodes: Sequence[Any]) -> tuple[list[tuple[str, float]], float]:
    """The kinds that occur, with where each begins in a row, and the width of that."""
    kinds = [kind for kind in COLOURS if any(node.kind == kind for node in nodes)]
    backward = ["backward"] if any(node.backward for node in nodes) else []
    key, x = [], 14.0
    for words in [*kinds, *backward]:
        key.append((words, x))
        x += 17 + CHARACTER * len(words) + 14
    return key, x


def curve(way: Sequence[Spot]) -> list[tuple[Spot, Spot, Spot]]:
    """The Bezier curves of an edge, from the foot of one node to the head of the other.

    Each is its two control points and its end; it begins where the one before ends.
    """
    (x, y), last = way[0], way[-1]
    y += HIGH / 2
    curves = []
    for px, py in [*way[1:-1], (last.x, last.y - HIGH / 2 - 1)]:
        half = (y + py) / 2
        curves.append((Spot(x, half), Spot(px, half), Spot(px, py)))
        x, y = px, py
    return curves


def svg(nodes: Sequence[Any], edges: Sequence[Any]) -> str:
    """The graph as a picture."""
    made = drawing(nodes, edges)
    width, height = made.width, made.height
    arrays: dict[tuple[str, str], list[str]] = {pair: [] for pair in made.ways}
    for edge in edges:
        arrays[edge.source, edge.target].append(errors.describe(edge.array))
    key = [key_box(words, x) for words, x in made.key]
    body = [line(way, ", ".join(arrays[pair])) for pair, way in made.ways.items()]
    body += [box(node, made.boxes[node.name], made.widths[node.name]) for node in nodes]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}">',
            f"<style>{STYLE}</style>",
            f"<defs>{TIP}</defs>",
            '<rect width="100%" height="100%" fill="white"/>',
            *key,
            *body,
            "</svg>",
        ]
    )


def key_box(words: str, x: float) -> str:
    """A part of the legend."""
    fill = COLOURS.get(words, "white")
    dashes = ' stroke-dasharray="3 2"' if words == "backward" else ""
    return (
        f'<rect x="{x:.0f}" y="10" width="12" height="12" rx="3" fill="{fill}" '
        f'stroke="#7a7a7a"{dashes}/>'
        f'<text class="legend" x="{x + 17:.0f}" y="20">{words}</text>'
    )


def box(node: Any, spot: Spot, width: float) -> str:
    """A node."""
    x, y = spot
    above, below = captions(node)
    style = "node back" if node.backward else "node"
    corner = HIGH / 2 if node.kind in ROUND else 5
    return (
        f'<g class="{style}"><title>{escape(tooltip(node))}</title>'
        f'<rect x="{x - width / 2:.1f}" y="{y - HIGH / 2:.1f}" width="{width:.1f}" '
        f'height="{HIGH:.0f}" rx="{corner:.0f}" fill="{COLOURS[node.kind]}"/>'
        f'<text x="{x:.1f}" y="{y - 3:.1f}">{escape(above)}</text>'
        f'<text class="small" x="{x:.1f}" y="{y + 11:.1f}">{escape(below)}</text></g>'
    )


def line(way: Sequence[Spot], words: str) -> str:
    """An edge."""
    path = f"M{way[0].x:.1f},{way[0].y + HIGH / 2:.1f}"
    for each in curve(way):
        path += " C" + " ".join(f"{x:.1f},{y:.1f}" for x, y in each)
    title = f"<title>{escape(words)}</title>"
    return f'<path class="edge" d="{path}" marker-end="url(#tip)">{title}</path>'
