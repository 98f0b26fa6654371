"""Places for the nodes of a graph, in layers: Sugiyama's method, small.

No library is used: those of Python lack upkeep, or come as a program or under another licence,
and a picture in a notebook should need nothing installed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

GAP, DUMMY = 18.0, 10.0
"""Least distance of two nodes side by side, and the width that an edge takes between them."""

SWEEPS = 12


class Place(NamedTuple):
    """Where a node stands: the middle of its box, and the layer from the top."""

    x: float
    layer: int


def layout(
    widths: Mapping[str, float], edges: Sequence[tuple[str, str]]
) -> tuple[dict[str, Place], dict[tuple[str, str], list[Place]]]:
    """Places of nodes, and of the points that each edge passes on its way.

    Args:
        widths: of the nodes, which are in an order in which they can run.
        edges: from node to node, downwards in that order.

    Example:
        >>> places, _ = layout({"a": 40, "b": 40, "c": 40}, [("a", "b"), ("b", "c"), ("a", "c")])
        >>> [place.layer for place in places.values()]
        [0, 1, 2]

    Source: Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system
    structures" (1981): layers by longest path, order by barycentres.
    """
    depth = layers_of(widths, edges)
    sizes, bends, chains = dict(widths), dict(depth), {}
    links: list[tuple[str, str]] = []
    for source, target in dict.fromkeys(edges):
        names = [f"{source}\n{target}\n{k}" for k in range(depth[source] + 1, depth[target])]
        for k, name in enumerate(names, start=depth[source] + 1):
            sizes[name], bends[name] = DUMMY, k
        chain = [source, *names, target]
        chains[source, target] = chain
        links += pairwise(chain)
    rows = ordered(bends, links)
    x = placed(rows, sizes, links)
    places = {name: Place(x[name], bends[name]) for name in sizes}
    ways = {edge: [places[name] for name in chain] for edge, chain in chains.items()}
    return {name: places[name] for name in widths}, ways


def layers_of(names: Mapping[str, float], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The layer of each node: below all it needs, or close above its first user."""
    sources, targets = defaultdict(list), defaultdict(list)
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    depth: dict[str, int] = {}
    for name in names:
        depth[name] = max((depth[source] + 1 for source in sources[name]), default=0)
    lone: set[str] = set()
    for name in names:  # what hangs on a single thread from above can follow its first user
        thread = [s for s in sources[name] if s in lone and len(set(targets[s])) == 1]
        if len(thread) == len(sources[name]) <= 1:
            lone.add(name)
    for name in reversed(list(names)):
        if name in lone and targets[name]:
            depth[name] = min(depth[target] for target in targets[name]) - 1
    return depth


def ordered(depth: Mapping[str, int], links: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The nodes of each layer from left to right, with few crossings of edges."""
    rows: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, layer in depth.items():
        rows[layer].append(name)
    above, below = neighbours(links)
    best, least = [list(row) for row in rows], crossings(rows, links)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for row in rows if down else rows[::-1]:
            at = {n: k for other in rows for k, n in enumerate(other)}
            means = {n: mean([at[other] for other in near[n]], at[n]) for n in row}
            row.sort(key=means.__getitem__)
        found = crossings(rows, links)
        if found < least:
            best, least = [list(row) for row in rows], found
    return best


def mean(numbers: Sequence[float], otherwise: float) -> float:
    """The mean, or another number where there are none."""
    return sum(numbers) / len(numbers) if numbers else otherwise


def neighbours(
    links: Sequence[tuple[str, str]],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The nodes above and below each."""
    above, below = defaultdict(list), defaultdict(list)
    for source, target in links:
        above[target].append(source)
        below[source].append(target)
    return above, below


def crossings(rows: Sequence[Sequence[str]], links: Sequence[tuple[str, str]]) -> int:
    """How many pairs of edges cross."""
    at = {name: (layer, k) for layer, row in enumerate(rows) for k, name in enumerate(row)}
    by_layer = defaultdict(list)
    for source, target in links:
        by_layer[at[source][0]].append((at[source][1], at[target][1]))
    return sum(
        (a - c) * (b - d) < 0
        for pairs in by_layer.values()
        for k, (a, b) in enumerate(pairs)
        for c, d in pairs[:k]
    )


def placed(
    rows: Sequence[Sequence[str]], widths: Mapping[str, float], links: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """The middle of each node: near those of its neighbours, with room between boxes."""
    above, below = neighbours(links)
    x: dict[str, float] = {}
    for row in rows:
        x |= spread(row, widths, dict.fromkeys(row, 0.0))
    for sweep in range(2 * SWEEPS):
        near = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = {n: mean([x[other] for other in near[n]], x[n]) for n in row}
            x |= spread(row, widths, wanted)
    return x


def spread(
    row: Sequence[str], widths: Mapping[str, float], wanted: Mapping[str, float]
) -> dict[str, float]:
    """Places in a row's order, with room between boxes, the least squares from those wanted.

    Boxes that meet move as one block, to the mean of what they want.
    """
    blocks: list[tuple[float, int]] = []
    offsets, offset = [], 0.0
    for k, name in enumerate(row):
        if k:
            offset += (widths[row[k - 1]] + widths[name]) / 2 + GAP
        offsets.append(offset)
        blocks.append((wanted[name] - offset, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
    starts = [start for start, count in blocks for _ in range(count)]
    return {name: s + o for name, s, o in zip(row, starts, offsets, strict=True)}
