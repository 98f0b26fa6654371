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


class Subset(NamedTuple):
    """Some examples of columns, by index: made by `subset`."""

    columns: Columns
    rows: Any
    n: Any


def subset(data: Any, index: Any, n: Any = None) -> Subset:
    """Some examples of data, without a copy of them: the fold of a cross-validation, a resample.

    `fn.make_run`'s runs train on it as on a copy, to the bit. Index and length may be traced, so
    that many subsets of one data set are one program, and `jax.vmap` maps over them.

    Args:
        data: `(x, y)` or `(x, y, weight)`, arrays.
        index: int32[m], which examples, in their order; an example may come more than once.
        n: how many of them count, from the first on; all unless given.

    Raises:
        TypeError, ValueError: `index` does not hold whole numbers, is empty, or points beyond.

    Example:
        >>> import numpy as np, funcnet as fn
        >>> x = np.arange(5.0)
        >>> part = fn.data.subset((x, x), [4, 0, 0])
        >>> fn.data.examples(part)
        3
    """
    columns = check_columns("subset", data)
    index = index if isinstance(index, jax.Array) else np.asarray(index)
    if index.ndim != 1 or not jnp.issubdtype(index.dtype, jnp.integer) or not index.size:
        raise TypeError(
            "`subset`: index must be a list of whole numbers, one or more, "
            f"got {errors.describe(index)}. Of a mask, say `np.flatnonzero(mask)`."
        )
    length = examples(columns)
    known = not isinstance(index, jax.core.Tracer)
    if known and (int(index.min()) < 0 or int(index.max()) >= length):
        raise ValueError(
            f"`subset`: index must lie in 0 .. {length - 1}, the examples of the data, "
            f"got {int(index.min())} .. {int(index.max())}. Count from 0."
        )
    if n is None:
        n = index.size
    dtype = n.dtype if hasattr(n, "dtype") else np.asarray(n).dtype
    if not jnp.issubdtype(dtype, jnp.integer) or np.shape(n):
        raise TypeError(
            f"`subset`: n must be a whole number, got {errors.describe(n)}. "
            "Leave it out to take all."
        )
    if not isinstance(n, jax.core.Tracer) and not 1 <= int(n) <= index.size:
        raise ValueError(
            f"`subset`: n must lie in 1 .. {index.size}, the length of index, got {n!r}. "
            "Leave it out to take all."
        )
    return Subset(columns, index.astype(np.int32), n)


def taken(part: Subset) -> Columns:
    """The examples of a subset as `(x, y, weight)`: all of its index, with weight 0 from `n` on."""
    columns: Columns = rows(jax.tree.map(jnp.asarray, part.columns), part.rows)
    counted = (jnp.arange(len(part.rows)) < part.n).astype(jnp.int32)
    return *columns[:2], counted * columns[2] if len(columns) == 3 else counted


def check_columns(function: str, data: Any) -> Columns:
    """`data` as columns of arrays, once everything that can be wrong with it has been refused."""
    if isinstance(data, Staged):
        return data.columns
    if isinstance(data, Subset):
        whole: Columns = rows(data.columns, data.rows[: int(data.n)])
        return whole
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise TypeError(
            f"`{function}`: data must be a tuple (x, y) or (x, y, weight), "
            f"got {errors.describe(data)}. Where there is no y, give x in its place."
        )
    columns = check_parts(function, tuple(data))
    check_weight(function, columns)
    return columns


def check_parts(function: str, parts: tuple[Any, ...]) -> Columns:
    """The parts of data, `(x,)` alone too, as arrays of the same number of examples."""
    columns = tuple(
        jax.tree.map(lambda leaf: as_array(function, leaf), part, is_leaf=is_one_array)
        for part in parts
    )
    if not all(map(jax.tree.leaves, columns)):
        raise TypeError(
            f"`{function}`: each part of the data must hold an array, "
            f"got {errors.describe(columns)}. Where there is no y, give x in its place."
        )
    lengths = {path: leaf.shape[:1] for path, leaf in named(columns).items()}
    without = [path for path, length in lengths.items() if not length]
    if without:
        raise ValueError(
            f"`{function}`: each array of the data must have the examples along its first axis, "
            f"got a single number for {listed(without)}. Make an array of one example with "
            "`x[None]`; a tuple is several arrays, a list of numbers one."
        )
    if len(set(lengths.values())) > 1:
        words = listed([f"{path}: {length[0]}" for path, length in lengths.items()])
        raise ValueError(
            f"`{function}`: all arrays of the data must hold the same number of examples, "
            f"got {words}. Check how they were cut; a tuple or a list of arrays is several arrays, "
            "`np.stack` makes them one."
        )
    if next(iter(lengths.values())) == (0,):
        raise ValueError(
            f"`{function}`: data must hold at least one example, "
            f"got {errors.describe(columns[0])} for x. Check how it was read."
        )
    return columns


def check_weight(function: str, columns: Columns) -> None:
    """Raises unless the weights, if there are any, are one number of at least 0 an example."""
    if len(columns) < 3:
        return
    weight = columns[2]
    if not hasattr(weight, "shape") or weight.ndim != 1 or not is_real(weight.dtype):
        raise ValueError(
            f"`{function}`: weight must hold one real number an example, "
            f"got {errors.describe(weight)}. Flatten it with `weight.reshape(-1)`."
        )
    if isinstance(weight, jax.core.Tracer):  # its values are not known yet
        return
    if not bool((weight >= 0).all()):
        raise ValueError(
            f"`{function}`: weight must be 0 or more everywhere, got {float(weight.min())!r} "
            "as its least. Leave an example out with the weight 0."
        )


def is_real(dtype: Any) -> bool:
    """Whether an array of `dtype` holds real numbers."""
    kinds = jnp.bool_, jnp.integer, jnp.floating
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def is_one_array(part: Any) -> bool:
    """Whether `part` is a list of numbers, or of such lists, rather than one of arrays."""
    return isinstance(part, list) and not any(hasattr(each, "shape") for each in part)


def as_array(function: str, leaf: Any) -> Any:
    """`leaf` as an array in JAX's own dtypes: float64 becomes float32 where 64 bits are off."""
    if isinstance(leaf, jax.Array):
        return leaf
    try:
        array = np.asarray(leaf)
    except ValueError as error:
        raise ValueError(
            f"`{function}`: the lists in data must hold as many numbers each, got lists of "
            "different lengths. Fill them up, or cut them, to one length."
        ) from error
    if array.dtype.kind in "OUSMm" or array.dtype.names:
        raise TypeError(
            f"`{function}`: data must hold numbers, got {errors.describe(array)}. "
            "Convert it, categories to integers say, before training."
        )
    own = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    if array.dtype.kind in "iu" and own.dtype != array.dtype and bool((own != array).any()):
        wrong = array[own != array]
        raise ValueError(
            f"`{function}`: integers of data must fit {own.dtype}, got {wrong[0]}. "
            "Number them anew from 0, or switch 64 bits on in JAX."
        )
    return own


def listed(words: list[str]) -> str:
    """The first few words, and how many there are beyond them."""
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


def named(columns: Columns) -> dict[str, Any]:
    """The arrays of the columns by path: `x`, `y`, `weight`, and `x/0` or `x/image` inside."""
    parts = dict(zip(("x", "y", "weight"), columns, strict=False))
    return tree.paths(parts)


def examples(data: Any) -> int:
    """Number of examples in columns of arrays, or of a subset where its length is known."""
    if isinstance(data, Subset):
        return len(data.rows) if isinstance(data.n, jax.core.Tracer) else int(data.n)
    columns = data.columns if isinstance(data, Staged) else data
    return len(jax.tree.leaves(columns)[0])


def rows(columns: PyTree, index: Any) -> PyTree:
    """The examples at `index` of each array."""
    return jax.tree.map(lambda leaf: leaf[index], columns)


def split(
    function: str, columns: Columns, fraction: float, key: jax.Array
) -> tuple[Columns, Columns]:
    """Training and validation examples: a share drawn at random by the order's `key`.

    Both keep the order of the data. The draw is the order of an epoch that no run reaches.
    """
    n = examples(columns)
    if not 0 < fraction < 1:
        raise ValueError(
            f"`{function}`: validation must lie between 0 and 1 where it is a fraction, "
            f"got {fraction!r}. Give the share of the examples to hold out, or the data itself as "
            "a tuple."
        )
    held = round(n * fraction)
    if not 0 < held < n:
        raise ValueError(
            f"`{function}`: validation={fraction!r} must leave examples on both sides, "
            f"got {held} of {n} for validation. Give another fraction, or the data itself as a "
            "tuple."
        )
    traced = isinstance(key, jax.core.Tracer)
    if traced:
        columns = jax.tree.map(jnp.asarray, columns)
    xp: Any = jnp if traced else np
    words = order_words(key) if traced else np.asarray(order_words(key))
    place = permute(words, [SPLIT], xp.arange(n), n, xp)
    return rows(columns, xp.sort(place[held:])), rows(columns, xp.sort(place[:held]))


def pad(columns: Columns, batch_size: int) -> Columns:
    """`(x, y, weight)` of whole batches: the last example repeated with weight 0.

    A weight that was not given is int32, so that counts stay exact.
    """
    n = examples(columns)
    if len(columns) == 2:
        columns = *columns, np.ones(n, np.int32)
    if not (extra := -n % batch_size):
        return columns
    on_device = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(columns))
    longer: Columns = jit_lengthen(columns, extra) if on_device else lengthen(columns, extra, np)
    return longer


def lengthen(columns: Columns, extra: int, xp: Any = jnp) -> Columns:
    """`(x, y, weight)` with the last example another `extra` times, of weight 0."""

    def again(leaf: Any) -> Any:
        return xp.concatenate([leaf, xp.repeat(leaf[-1:], extra, axis=0)])

    x, y = jax.tree.map(again, columns[:2])
    weight = xp.concatenate([columns[2], xp.zeros(extra, columns[2].dtype)])
    return x, y, weight


jit_lengthen = jax.jit(lengthen, static_argnums=1)
"""The same for arrays on the device: one program, rather than one for each operation."""
