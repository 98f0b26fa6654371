"""`show`: what is in a tree of arrays, as a table in a terminal and to unfold in a notebook."""

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.tables import Rows, as_html, human, in_columns
from funcnet.types import PyTree

COLUMNS = ("path", "array", "bytes", "mean", "deviation", "least", "most", "zeros", "not finite")
SIDES = "<<>>>>>>>"

SHOWN = 100
"""The most rows of the table."""


@dataclass(frozen=True, repr=False)
class Shown:
    """What `show` gives: its `str` is a table, and a notebook shows the tree to unfold.

    Attributes:
        tree: what is shown.
    """

    tree: PyTree

    def __repr__(self) -> str:
        return "\n".join(in_columns(self.table(), SIDES))

    def _repr_html_(self) -> str:
        try:
            import treescope
        except ImportError:
            return as_html(self.table(), SIDES, total=True)
        pictures = treescope.active_autovisualizer.set_scoped(treescope.ArrayAutovisualizer())
        with pictures, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what has no picture, arrays of NaN say, is text
            page: str = treescope.render_to_html(self.tree, ignore_exceptions=True)
        return page

    def table(self) -> Rows:
        """A line for each array, between head and total."""
        leaves = tree.paths(self.tree)
        rows: list[tuple[str, ...] | None] = [
            row(path, leaf) for path, leaf in list(leaves.items())[:SHOWN]
        ]
        if len(leaves) > SHOWN:
            rows.append((f"... {len(leaves) - SHOWN:,} more", *[""] * (len(COLUMNS) - 1)))
        arrays = [leaf for leaf in leaves.values() if hasattr(leaf, "dtype")]
        words = f"{sum(map(size, arrays)):,} in {len(arrays):,} array{'s' * (len(arrays) != 1)}"
        total = ("total", words, human(sum(map(nbytes, arrays))), *[""] * (len(COLUMNS) - 3))
        return [COLUMNS, None, *rows, None, total]


def show(tree: PyTree) -> Shown:
    """Shows what is in any pytree: params, gradients, a `fn.TrainState`, a batch.

    In a terminal it is a table: of each array its dtype and shape, its bytes, mean, standard
    deviation, least and most, how many of its numbers are exactly zero, and how many NaN or
    infinite. In a notebook it is the tree to unfold, with each array as a picture, where treescope
    is installed (it is part of `funcnet[notebooks]`), and else the table.

    Args:
        tree: of arrays or `jax.ShapeDtypeStruct`s; what else is in it is shown as it is.

    Returns:
        A value to `print`, or to end a notebook's cell with.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> from funcnet.inspect import show
        >>> show({"kernel": jnp.array([[0.0, 2.0], [4.0, jnp.nan]]), "step": jnp.int32(7)})
        path    array          bytes  mean  deviation  least  most  zeros  not finite
        ------  -------------  -----  ----  ---------  -----  ----  -----  ----------
        kernel  float32[2, 2]   16 B     2       1.63      0     4      1           1
        step    int32[]          4 B     7          0      7     7      0           0
        ------  -------------  -----  ----  ---------  -----  ----  -----  ----------
        total   5 in 2 arrays   20 B
    """
    return Shown(tree)


def row(path: str, leaf: Any) -> tuple[str, ...]:
    """The line of one leaf."""
    if not hasattr(leaf, "dtype"):
        words = " ".join(repr(leaf).split())
        return path, words if len(words) <= 40 else f"{words[:39]}…", *[""] * (len(COLUMNS) - 2)
    return path, errors.describe(leaf), human(nbytes(leaf)), *statistics(leaf)


def statistics(leaf: Any) -> tuple[str, ...]:
    """Numbers about an array's numbers; empty words where it has none."""
    nothing = ("",) * 6
    if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct) or gone(leaf):
        return nothing
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or not size(leaf):
        return nothing
    values = np.asarray(leaf)
    if values.dtype.kind in "OUSMmc":
        return nothing
    values = values.astype(float)
    finite = values[np.isfinite(values)]
    broken = f"{values.size - finite.size:,}"
    zeros = f"{int((values == 0).sum()):,}"
    if not finite.size:
        return *nothing[:4], zeros, broken
    found = finite.mean(), finite.std(), finite.min(), finite.max()
    return *(f"{number:.3g}" for number in found), zeros, broken


def gone(leaf: Any) -> bool:
    """Whether an array's buffer was given away, or lies in other processes too."""
    if not isinstance(leaf, jax.Array):
        return False
    return leaf.is_deleted() or not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def size(leaf: Any) -> int:
    """How many numbers an array has."""
    return int(np.prod(leaf.shape, dtype=np.int64))


def nbytes(leaf: Any) -> int:
    """How many bytes they take."""
    return size(leaf) * int(leaf.dtype.itemsize)
