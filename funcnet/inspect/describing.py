"""`describe`: which part of each array lives on which device, as a table and as a picture."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from funcnet import errors, tree
from funcnet.inspect.style import new_figure
from funcnet.placement import Placement, spec_words
from funcnet.tables import Rows, as_html, human, in_columns, shortened
from funcnet.types import PyTree, TrainState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, SIDES = ("array", "whole", "divided as", "on a device", "bytes there"), "<<<<>"

DRAWN = 12
"""The most arrays in a picture, the largest ones."""


class Part(NamedTuple):
    """One array, and what a device has of it.

    Attributes:
        path: where it is in the tree.
        shape, dtype: of the whole array.
        sharding: how it is divided.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    sharding: NamedSharding

    @property
    def there(self) -> tuple[int, ...]:
        """The shape of what one device has."""
        found: tuple[int, ...] = self.sharding.shard_shape(self.shape)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of what one device has."""
        return math.prod(self.there) * int(self.dtype.itemsize)


@dataclass(frozen=True, repr=False)
class Description:
    """What `describe` gives; its `str` is a table, and `fn.plot` draws it.

    Attributes:
        placement: what was described.
        parts: a row for each array.
    """

    placement: Placement
    parts: tuple[Part, ...]

    @property
    def bytes_per_device(self) -> int:
        """Bytes of all the arrays on one device."""
        return sum(part.nbytes for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes of all the arrays, each counted once."""
        sizes = (math.prod(part.shape) * int(part.dtype.itemsize) for part in self.parts)
        return sum(sizes)

    def __repr__(self) -> str:
        return "\n".join([*in_columns(self.table(), SIDES), self.total()])

    def _repr_html_(self) -> str:
        return f"{as_html(self.table(), SIDES)}\n<p>{self.total()}</p>"

    def table(self) -> Rows:
        """A line for each array, below the head."""
        return [COLUMNS, None, *map(cells, self.parts), None]

    def plot(self) -> "Figure":
        """The picture that `fn.plot` draws."""
        return plot_description(self)

    def total(self) -> str:
        """What stands below the table."""
        axes = " x ".join(f"{name} {size}" for name, size in self.placement.mesh.shape.items())
        return (
            f"{human(self.bytes_per_device)} on each of {self.placement.mesh.size} devices "
            f"({axes}), {human(self.bytes)} in all"
        )


def describe(placement: Placement, state: PyTree) -> Description:
    """Tells of each array how it is divided among devices, and what of it one device has.

    Nothing is computed: `jax.eval_shape(trainer.init, key, x)` will do as a state.

    Args:
        placement: from `fn.data_parallel`, `fn.fully_sharded` or `fn.on_mesh`.
        state: a `fn.TrainState`, or params; of arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        The description: print it for the table, draw it with `fn.plot`.

    Raises:
        TypeError: `placement` is none.
        ValueError: a rule of the placement matches no param, or does not fit one.

    Example:
        >>> import jax, funcnet as fn
        >>> params = {"kernel": jax.ShapeDtypeStruct((512, 256), "float32")}
        >>> fn.describe(fn.data_parallel(jax.devices()[:1]), params)
        array   whole              divided as  on a device        bytes there
        ------  -----------------  ----------  -----------------  -----------
        kernel  float32[512, 256]  on each     float32[512, 256]     524.3 kB
        ------  -----------------  ----------  -----------------  -----------
        524.3 kB on each of 1 devices (data 1), 524.3 kB in all
    """
    if not isinstance(placement, Placement):
        raise TypeError(
            f"`describe`: placement must be a fn.Placement, got {errors.describe(placement)}. "
            "Say `fn.fully_sharded()`."
        )
    if wrong := [path for path, leaf in tree.paths(state).items() if not hasattr(leaf, "shape")]:
        raise TypeError(
            "`describe`: state must be a fn.TrainState or params, of arrays or shapes, got "
            f"something else at {wrong[0] or 'the top'}. Give `result.best` say."
        )
    if isinstance(state, TrainState):
        where = placement.of_state(state)
    else:
        specs = placement.of_params(state)
        found = [NamedSharding(placement.mesh, spec) for spec in specs.values()]
        where = jax.tree.unflatten(jax.tree.structure(state), found)
    shardings = jax.tree.leaves(where)
    parts = [
        Part(path, tuple(leaf.shape), leaf.dtype, sharding)
        for (path, leaf), sharding in zip(tree.paths(state).items(), shardings, strict=True)
    ]
    return Description(placement, tuple(parts))


def cells(part: Part) -> tuple[str, ...]:
    """One row of the table."""
    divided = spec_words(part.sharding.spec) if any(part.sharding.spec) else "on each"
    name = str(part.dtype)
    whole, there = (f"{name}{list(shape)}" for shape in (part.shape, part.there))
    return part.path, whole, divided, there, human(part.nbytes)


def plot_description(description: Description) -> "Figure":
    """Draws the largest arrays, each cut into its pieces, with the devices that have them."""
    parts = sorted(description.parts, key=lambda part: -math.prod(part.shape))[:DRAWN]
    parts = [part for part in parts if math.prod(part.shape)]
    columns = max(1, min(4, len(parts)))
    rows = -(-len(parts) // columns)
    figure = new_figure("plot", 3.1 * columns, 2.5 * rows + 0.4)
    for i, part in enumerate(parts):
        draw(figure.add_subplot(rows, columns, i + 1), part)
    left = len(description.parts) - len(parts)
    more = f"; {left} smaller arrays are not drawn" if left else ""
    figure.suptitle(description.total() + more, fontsize=9, x=0.01, ha="left")
    return figure


def draw(axes: "Axes", part: Part) -> None:
    """One array: its first axis downwards, the rest to the right."""
    from matplotlib.patches import Rectangle

    pieces: dict[tuple[float, ...], list[int]] = {}
    for device, index in part.sharding.devices_indices_map(part.shape).items():
        pieces.setdefault(box(index, part.shape), []).append(device.id)  # type: ignore[attr-defined] # untyped in JAX
    shades = np.linspace(0.15, 0.75, max(len(pieces), 2))
    for shade, ((x, y, width, height), devices) in zip(
        shades, sorted(pieces.items()), strict=False
    ):
        colour = (0.85 - 0.6 * shade, 0.92 - 0.4 * shade, 1.0 - 0.15 * shade)
        axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", lw=2))
        words = spans(sorted(devices))
        size = min(9.0, 130 * width / max(len(words), 3), 60 * height)
        centre = x + width / 2, y + height / 2
        axes.text(*centre, words, ha="center", va="center", fontsize=max(size, 4))
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"{shortened(part.path, 46)}\n{list(part.shape)}", fontsize=8, loc="left", parse_math=False
    )


def box(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[float, ...]:
    """Left, top, width and height of a piece, as shares of the whole.

    The axis downwards is the first, and the one to the right the first divided one after it, or
    else the last; an array of one axis lies on its side.
    """
    ends = [
        (s.start or 0, n if s.stop is None else s.stop) for s, n in zip(index, shape, strict=True)
    ]
    shares = [(a / n, (b - a) / n) for (a, b), n in zip(ends, shape, strict=True)]
    whole = (0.0, 1.0)
    if len(shares) < 2:
        (x, width), (y, height) = (*shares, whole)[0], whole
    else:
        (y, height) = shares[0]
        (x, width) = next((share for share in shares[1:] if share != whole), whole)
    return x, y, width, height


def spans(numbers: list[int]) -> str:
    """Numbers in few words: `0-3, 6`.

    Example:
        >>> spans([0, 1, 2, 3, 6])
        '0-3, 6'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
