"""`plot_histograms`: how the numbers of a tree are spread, array by array."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from funcnet import errors, tree
from funcnet.inspect.ranges import draw_ranges, share
from funcnet.inspect.style import GREY, SERIES, caption, frame, grid, new_figure
from funcnet.tables import shortened
from funcnet.types import PyTree, TrainState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 24
"""The most arrays that get a panel each; of more the ranges are drawn, a row for each."""

OVERLAID = 4
"""The most trees that are drawn over one another; more stand one before the other."""


class Numbers(NamedTuple):
    """The numbers of one array, sorted out.

    Attributes:
        words: dtype and shape of the array.
        size: how many there are.
        zeros: how many are exactly zero.
        broken: how many are NaN or infinite.
        values: all others.
    """

    words: str
    size: int
    zeros: int
    broken: int
    values: np.ndarray


def plot_histograms(
    first: PyTree,
    *more: PyTree,
    labels: Sequence[Any] | None = None,
    pattern: str = "**",
    bins: int = 60,
) -> "Figure":
    r"""Draws how the numbers of each array of a tree are spread: of params, gradients or updates.

    Several trees of the same paths, before and after training say, are drawn over one another, and
    from five on one before the other, the first one at the back. Exact zeros and what is not finite
    are left out of the bars, and counted above them. Where a few numbers lie far beyond all others,
    the bars show the others, and the far ones are counted.

    Of more than 24 arrays there is a row for each instead: the range of the absolute values, on
    a logarithmic axis. A layer whose gradients vanish or explode stands out.

    Args:
        first: any pytree of arrays; of a `fn.TrainState` the params are taken. Arrays of whole
            numbers are left out.
        *more: further trees with the same paths.
        labels: what each tree is called, "before" and "after" say; their numbers if left out.
        pattern: which paths to draw, `"**/kernel"` say.
        bins: the most bars of a histogram; small arrays have fewer.

    Returns:
        The figure, which no pyplot knows: save it with `figure.savefig("params.png")`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: what is given holds something other than arrays.
        ValueError: there is nothing to draw; the trees have other paths; there are more or fewer
            labels than trees.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> from funcnet.inspect import plot_histograms
        >>> params, _ = fn.dense(10).init(jax.random.key(0), jnp.ones((1, 64)))
        >>> figure = plot_histograms(params, labels=["at first"])
        >>> [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes]
        ['bias', 'kernel']
    """
    errors.positive("plot_histograms", bins=bins)
    trees = [numbers_of(each, pattern) for each in (first, *more)]
    check_paths(trees)
    names = check_labels(labels, len(trees))
    if len(trees[0]) > PANELS:
        return draw_ranges(trees, names)
    rows, columns = grid(len(trees[0]), most=4)
    figure = new_figure("plot_histograms", max(3.1 * columns, 4.0), 2.3 * rows + 0.5)
    for i, path in enumerate(trees[0]):
        axes = figure.add_subplot(rows, columns, i + 1)
        draw_panel(axes, path, [each[path] for each in trees], names, bins)
    caption(figure, story(trees, names))
    return figure


def numbers_of(given: PyTree, pattern: str) -> dict[str, Numbers]:
    """The numbers of each array of floats by path, in the order of the layers."""
    leaves = tree.select(
        "plot_histograms", given.params if isinstance(given, TrainState) else given, pattern
    )
    wrong = [path for path, leaf in leaves.items() if not is_numbers(leaf)]
    if wrong:
        raise TypeError(
            "`plot_histograms`: a tree must hold arrays, got "
            f"{errors.describe(leaves[wrong[0]])} at {wrong[0] or 'the top'}. "
            "Give `result.best.params` say."
        )
    floats = {path: leaf for path, leaf in leaves.items() if tree.is_float(leaf)}
    if not floats:
        raise ValueError(
            "`plot_histograms`: a tree must hold at least one array of floats, got "
            f"{errors.describe(given)}. Give params, gradients or updates."
        )
    return {path: sorted_out(floats[path]) for path in sorted(floats, key=in_order)}


def is_numbers(leaf: Any) -> bool:
    """Whether a leaf is an array of numbers, or a key, or one number."""
    known = isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex)
    kind = getattr(getattr(leaf, "dtype", None), "kind", "f")
    return known and kind not in "OUSMm"


def in_order(path: str) -> list[tuple[bool, int, str]]:
    """A key that puts layer 10 after layer 9.

    Example:
        >>> sorted(["10/bias", "9/kernel", "9/bias"], key=in_order)
        ['9/bias', '9/kernel', '10/bias']
    """
    parts = re.split(r"(\d+)", path)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]


def sorted_out(leaf: Any) -> Numbers:
    """The numbers of an array, without zeros and what is not finite."""
    array = np.asarray(leaf)
    words = errors.describe(array)
    values = array.astype(np.promote_types(np.float32, array.dtype), copy=False).ravel()
    finite = np.isfinite(values)
    kept = values[finite & (values != 0)]
    broken = int(len(values) - finite.sum())
    return Numbers(words, len(values), len(values) - broken - len(kept), broken, kept)


def check_paths(trees: Sequence[dict[str, Numbers]]) -> None:
    """Raises unless all trees have the paths of the first."""
    for i, each in enumerate(trees[1:], start=1):
        if list(each) != list(trees[0]):
            odd = sorted(set(each) ^ set(trees[0]))
            raise ValueError(
                f"`plot_histograms`: all trees must have the same paths, got tree {i}, which "
                f"differs from the first at {', '.join(odd[:3])}. "
                "Give the same kind of tree several times."
            )


def check_labels(labels: Sequence[Any] | None, count: int) -> list[str]:
    """What the trees are called."""
    names = [str(name) for name in (range(count) if labels is None else labels)]
    if isinstance(labels, str) or len(names) != count:
        raise ValueError(
            f"`plot_histograms`: labels must name each of the {count} trees, got {labels!r}. "
            "Give a list, in the order of the trees."
        )
    return names if count > 1 or labels is not None else [""]


def draw_panel(
    axes: "Axes", path: str, found: Sequence[Numbers], names: Sequence[str], bins: int
) -> None:
    """The histograms of one array."""
    frame(axes)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=6)
    head = shortened(path or "the array", 34)
    axes.set_title(
        f"{head}\n{found[0].words}", loc="left", fontsize=8.5, pad=4, parse_math=False
    )  # fmt: skip
    low, high = span([each.values for each in found])
    few = max(10, int(2 * np.sqrt(found[0].size)))
    edges = np.linspace(low, high, min(bins, few) + 1)
    heights = [100 * np.histogram(each.values, edges)[0] / max(each.size, 1) for each in found]
    if len(found) > OVERLAID:
        draw_behind(axes, edges, heights, names)
    else:
        draw_over(axes, edges, heights)
    notes(axes, found, names, (low, high))
    axes.set_xlim(low, high)


def span(several: Sequence[np.ndarray]) -> tuple[float, float]:
    """The ends of the bars: all values, or where few lie far beyond all others, the others."""
    values = np.concatenate(several)
    if not len(values):
        return -1.0, 1.0
    low, high = float(values.min()), float(values.max())
    near, far = np.quantile(values, [0.005, 0.995]).tolist()
    if high - low > 5 * (far - near) > 0:
        low, high = near - 0.5 * (far - near), far + 0.5 * (far - near)
    margin = 0.02 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def draw_over(axes: "Axes", edges: np.ndarray, heights: Sequence[np.ndarray]) -> None:
    """Histograms upon one another."""
    for bars, color in zip(heights, SERIES, strict=False):
        axes.stairs(bars, edges, color=color, alpha=0.25, fill=True, linewidth=0)
        axes.stairs(bars, edges, color=color, linewidth=1.2)
    highest = max(float(bars.max()) for bars in heights)
    axes.set_ylim(0, 1.3 * highest or 1)
    axes.yaxis.set_major_formatter("{x:.3g} %")
    axes.locator_params(axis="y", nbins=4)
    if not highest:
        axes.set(xticks=[], yticks=[])


def draw_behind(
    axes: "Axes", edges: np.ndarray, heights: Sequence[np.ndarray], names: Sequence[str]
) -> None:
    """Histograms one before the other, the first at the back and at the top."""
    count = len(heights)
    tall = 4.0 / max(1e-9, max(float(bars.max()) for bars in heights))
    for i, bars in enumerate(heights):
        foot, shade = float(count - 1 - i), 0.25 + 0.6 * i / count
        color = (0.85 - 0.85 * shade, 0.92 - 0.55 * shade, 1.0 - 0.4 * shade)
        middles = (edges[:-1] + edges[1:]) / 2
        axes.fill_between(middles, foot, foot + tall * bars, color=color, linewidth=0, zorder=i)
        axes.plot(middles, foot + tall * bars, color="white", linewidth=0.8, zorder=i)
    step = -(-count // 6)
    shown = range(0, count, step)
    words = [shortened(names[i], 10) for i in shown]
    axes.set_yticks([count - 1 - i for i in shown], words, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_ylim(-0.2, count + 4.5)


def notes(
    axes: "Axes", found: Sequence[Numbers], names: Sequence[str], ends: tuple[float, float]
) -> None:
    """Writes the name of each tree and what its bars leave out."""
    if len(found) > OVERLAID:
        lines = [(together(found, ends), GREY)]
    else:
        colors = SERIES if len(found) > 1 else (GREY,)
        lines = [
            (f"{name}  {left_out(each, ends)}".strip(), color)
            for each, name, color in zip(found, names, colors, strict=False)
        ]
    for i, (words, color) in enumerate(line for line in lines if line[0]):
        axes.text(
            0.99, 0.99 - 0.1 * i, words, transform=axes.transAxes, ha="right", va="top", fontsize=8,
            color=color, parse_math=False, zorder=100,
        )  # fmt: skip


def left_out(numbers: Numbers, ends: tuple[float, float]) -> str:
    """The numbers of one array that no bar shows."""
    if not numbers.size:
        return "empty"
    words = []
    if numbers.zeros:
        words.append(f"{share(numbers.zeros, numbers.size)} zeros")
    if numbers.broken:
        words.append(f"{numbers.broken:,} not finite")
    beyond = int(((numbers.values < ends[0]) | (numbers.values > ends[1])).sum())
    if beyond:
        words.append(f"{beyond:,} beyond, to {np.abs(numbers.values).max():.2g}")
    return ", ".join(words)


def together(found: Sequence[Numbers], ends: tuple[float, float]) -> str:
    """The same of an array of many trees, in one line."""
    zeros, broken = sum(each.zeros for each in found), sum(each.broken for each in found)
    size = sum(each.size for each in found)
    values = np.concatenate([each.values for each in found])
    return left_out(Numbers("", size, zeros, broken, values), ends)


def story(trees: Sequence[dict[str, Numbers]], names: Sequence[str]) -> str:
    """What the bars are."""
    count = len(trees[0])
    words = f"{count} array{'s' * (count > 1)}; bars are shares of an array's numbers."
    if len(trees) > OVERLAID:
        words += f" From back to front: {names[0]} to {names[-1]}."
    if any(each.zeros or each.broken for found in trees for each in found.values()):
        words += " Zeros and what is not finite are counted, not drawn."
    return words
