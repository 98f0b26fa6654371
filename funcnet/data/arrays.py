"""Data in memory: columns of examples checked, sized, split, and padded for evaluation."""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.data.order import SPLIT, order_words, permute
from funcnet.types import PyTree

Columns: TypeAlias = tuple[PyTree, ...]
"""`(x, y)` or `(x, y, weight)`: pytrees of arrays whose first axis is the examples."""


class Staged(NamedTuple):
    """Columns that stay in the host's memory and reach the device block by block."""

    columns: Columns


def staged(*columns: Any) -> Staged:
    """Keeps data in the host's memory, and sends it to the device in blocks ahead of their use.

    `fit` does this by itself on an accelerator whose memory the data would fill by more than a
    quarter. Training on it gives the same batches.

    Args:
        *columns: `x, y` or `x, y, weight`; NumPy arrays, memory-mapped ones too.

    Example:
        >>> import numpy as np, funcnet as fn
        >>> data = fn.data.staged(np.zeros((100, 3)), np.zeros(100))
        >>> fn.data.examples(data)
        100
    """
    return Staged(check_columns("staged", columns))


def check_columns(function: str, data: Any) -> Columns:
    """`data` as columns of arrays, once everything that can be wrong with it has been refused."""
    if isinstance(data, Staged):
        return data.columns
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise TypeError(
            f"`{function}`: data must be a tuple (x, y) or (x, y, weight), "
            f"got {errors.describe(data)}. Where there is no y, give x in its place."
        )
    columns = tuple(jax.tree.map(as_array, part) for part in data)
    lengths = {path: leaf.shape[:1] for path, leaf in named(columns).items()}
    without = [path for path, length in lengths.items() if not length]
    if without or not lengths:
        raise ValueError(
            f"`{function}`: each array of the data must have the examples along its first axis, "
            f"got a single number for {' and '.join(without) or 'no array at all'}. "
            "Make an array of one example with `x[None]`."
        )
    if len(set(lengths.values())) > 1:
        words = ", ".join(f"{path}: {length[0]}" for path, length in lengths.items())
        raise ValueError(
            f"`{function}`: all arrays of the data must hold the same number of examples, "
            f"got {words}. Check how they were cut."
        )
    if next(iter(lengths.values())) == (0,):
        raise ValueError(
            f"`{function}`: data must hold at least one example, "
            f"got {errors.describe(columns[0])} for x. Check how it was read."
        )
    check_weight(function, columns)
    return columns


def check_weight(function: str, columns: Columns) -> None:
    """Raises unless the weights, if there are any, are one number of at least 0 an example."""
    if len(columns) < 3:
        return
    weight = columns[2]
    if not hasattr(weight, "shape") or weight.ndim != 1 or weight.dtype.kind not in "biuf":
        raise ValueError(
            f"`{function}`: weight must hold one real number an example, "
            f"got {errors.describe(weight)}. Flatten it with `weight.reshape(-1)`."
        )
    if not bool((weight >= 0).all()):
        raise ValueError(
            f"`{function}`: weight must be 0 or more everywhere, got {float(weight.min())!r} "
            "as its least. Leave an example out with the weight 0."
        )


def as_array(leaf: Any) -> Any:
    """`leaf` as an array in JAX's own dtypes: float64 becomes float32 where 64 bits are off."""
    if isinstance(leaf, jax.Array):
        return leaf
    array = np.asarray(leaf)
    if array.dtype.kind in "OUSMm":
        raise TypeError(
            f"`fit`: data must hold numbers, got {errors.describe(array)}. "
            "Convert it, categories to integers say, before training."
        )
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def named(columns: Columns) -> dict[str, Any]:
    """The arrays of the columns by path: `x`, `y`, `weight`, and `x/0` or `x/image` inside."""
    parts = dict(zip(("x", "y", "weight"), columns, strict=False))
    return tree.paths(parts)


def examples(data: Any) -> int:
    """Number of examples in columns of arrays."""
    columns = data.columns if isinstance(data, Staged) else data
    return len(jax.tree.leaves(columns)[0])


def rows(columns: PyTree, index: Any) -> PyTree:
    """The examples at `index` of each array."""
    return jax.tree.map(lambda leaf: leaf[index], columns)


def split(columns: Columns, fraction: float, key: jax.Array) -> tuple[Columns, Columns]:
    """Training and validation examples: a share drawn at random by the order's `key`.

    Both keep the order of the data. The draw is the order of an epoch that no run reaches.
    """
    n = examples(columns)
    held = round(n * fraction)
    if not 0 < held < n:
        raise ValueError(
            f"`fit`: validation={fraction!r} must leave examples on both sides, got {held} of {n} "
            "for validation. Give another fraction, or the data itself as a tuple."
        )
    words = np.asarray(order_words(key))
    drawn = np.zeros(n, bool)
    drawn[permute(words, [SPLIT], np.arange(held), n)] = True
    return rows(columns, ~drawn), rows(columns, drawn)


def pad(columns: Columns, batch_size: int) -> Columns:
    """`(x, y, weight)` of whole batches: the last example repeated with weight 0.

    A weight that was not given is int32, so that counts stay exact.
    """
    n = examples(columns)
    weight = columns[2] if len(columns) == 3 else np.ones(n, np.int32)
    extra = -n % batch_size

    def lengthen(leaf: Any) -> Any:
        xp = jnp if isinstance(leaf, jax.Array) else np
        return xp.concatenate([leaf, xp.repeat(leaf[-1:], extra, axis=0)]) if extra else leaf

    x, y = jax.tree.map(lengthen, columns[:2])
    return x, y, np.concatenate([np.asarray(weight), np.zeros(extra, weight.dtype)])
