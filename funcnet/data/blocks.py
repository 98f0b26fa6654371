"""What a chunk of steps reads: whole arrays on the device, or a block of successive batches."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from funcnet import errors, tree
from funcnet.data import arrays
from funcnet.data.arrays import Columns, Subset
from funcnet.data.order import batch_indices, order_words
from funcnet.distributed.arrays import joined
from funcnet.types import Batch

T = TypeVar("T")


class Resident(NamedTuple):
    """Whole columns on the device; batches are gathered from them by index."""

    columns: Columns


class Block(NamedTuple):
    """Successive batches: columns of whole batches, the first of which is that of step `start`."""

    columns: Columns
    start: Any


class Divided(NamedTuple):
    """Successive batches `[n, B, ...]` from that of step `start`, divided among devices along B."""

    columns: Columns
    start: Any


class Listed(NamedTuple):
    """Whole columns, and the indices of successive batches `[n, B]` from that of step `start`."""

    columns: Columns
    index: Any
    start: Any


Source: TypeAlias = Resident | Subset | Block | Divided


def look_ahead(
    source: Source, key: jax.Array, step: Any, n: int, batch_size: int, shuffle: bool
) -> Listed | Block | Divided:
    """What `n` steps from `step` on read, their indices computed at once: it is cheaper so.

    Args:
        source: where the data is; a block has its order already.
        key: the order's stream of the run's key.
        step: the first step, may be traced.
        n: how many steps.
        batch_size: examples a batch.
        shuffle: whether each epoch has an order of its own.
    """
    if isinstance(source, Block | Divided):
        return source
    words = order_words(key)
    if isinstance(source, Subset):
        examples, rows = source.n, source.rows
    else:
        examples, rows = len(jax.tree.leaves(source.columns)[0]), None

    index = batch_indices(words, step, batch_size, examples, shuffle=shuffle, xp=jnp, steps=n)
    index = index if rows is None else rows[index]
    return Listed(source.columns, index.reshape(n, batch_size), step)


def take(source: Listed | Block | Divided, step: Any, batch_size: int) -> Batch:
    """The batch of `step`: a pure function, for use inside compiled loops."""
    k = step - source.start
    if isinstance(source, Block):
        return nth(source.columns, k * batch_size, batch_size)
    if isinstance(source, Divided):
        divided: Batch = jax.tree.map(lambda leaf: leaf[k], source.columns)
        return divided
    batch: Batch = arrays.rows(source.columns, source.index[k])
    return batch


def nth(columns: Columns, begin: Any, size: int) -> Batch:
    """`size` examples of `columns` from `begin` on; a view inside a compiled loop."""
    batch: Batch = jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, size), columns
    )
    return batch


def gather_block(
    columns: Columns,
    words: np.ndarray,
    start: int,
    n: int,
    *,
    batch_size: int,
    capacity: int,
    shuffle: bool,
    where: Sharding | None = None,
) -> Block | Divided:
    """Batches `start .. start + n - 1` of arrays in the host's memory, put on the device.

    With a sharding of `[n, B]`, each process gathers and sends only what its devices hold.
    """
    examples = len(jax.tree.leaves(columns)[0])
    index = batch_indices(words, start, batch_size, examples, shuffle=shuffle, steps=n)
    if where is None:
        return to_block([arrays.rows(columns, index)], start, capacity * batch_size)
    divide = partial(gather_divided, index.reshape(n, batch_size), capacity, where)
    return Divided(jax.tree.map(divide, columns), np.int32(start))


def gather_divided(index: np.ndarray, capacity: int, where: Sharding, leaf: Any) -> jax.Array:
    """The rows of one array at `index` `[n, B]`, as `[capacity, B, ...]`, divided among devices."""

    @cache
    def some(begin: int, end: int) -> np.ndarray:
        rows = np.asarray(leaf[index[:, begin:end]])
        space = np.zeros((capacity, *rows.shape[1:]), rows.dtype)
        space[: len(rows)] = rows
        return space

    def part(at: Any) -> np.ndarray:
        return some(*at[1].indices(index.shape[1])[:2])

    shape = capacity, index.shape[1], *leaf.shape[1:]
    return jax.make_array_from_callback(shape, where, part)


def to_block(parts: list[Columns], start: int, size: int) -> Block:
    """A block of `size` examples that begins with `parts`; what lies behind them is never read."""

    def join(*leaves: Any) -> np.ndarray:
        arrays = [np.asarray(leaf) for leaf in leaves]
        space = np.zeros((size, *arrays[0].shape[1:]), arrays[0].dtype)
        np.concatenate(arrays, out=space[: sum(map(len, arrays))])
        return space

    return Block(jax.device_put(jax.tree.map(join, *parts)), np.int32(start))


def to_divided(parts: list[Columns], start: int, capacity: int, where: Sharding) -> Divided:
    """Room for `capacity` batches that begins with `parts`, this process's part of each batch."""

    def join(*leaves: Any) -> np.ndarray:
        space = np.zeros((capacity, *leaves[0].shape), leaves[0].dtype)
        np.stack(leaves, out=space[: len(leaves)])
        return space

    return Divided(joined(jax.tree.map(join, *parts), where), np.int32(start))


def group(
    batches: Iterable[Batch], capacity: int, start: int, where: Sharding | None = None
) -> Iterator[tuple[Block | Divided, int, int]]:
    """Blocks of up to `capacity` successive batches of one shape: `(block, steps, batch_size)`.

    A batch of another shape, such as a shorter last one, begins a block of its own. With a sharding
    of `[n, B]`, `batches` are this process's parts of them.
    """
    held: list[Batch] = []
    for batch in batches:
        batch = jax.tree.map(np.asarray, batch)
        if held and (
            len(held) == capacity or errors.differences(tree.spec(held[0]), tree.spec(batch))
        ):
            yield close(held, start, capacity, where)
            start, held = start + len(held), []
        held.append(batch)
    if held:
        yield close(held, start, capacity, where)


def close(
    held: list[Batch], start: int, capacity: int, where: Sharding | None
) -> tuple[Block | Divided, int, int]:
    """The block of the batches `held`, their number, and the size of each."""
    batch_size = len(jax.tree.leaves(held[0])[0])
    if where is not None and (not where.is_fully_addressable or is_even(where, batch_size)):
        divided = to_divided(held, start, capacity, where)
        return divided, len(held), jax.tree.leaves(divided.columns)[0].shape[1]
    return to_block(held, start, capacity * batch_size), len(held), batch_size


def is_even(where: Sharding, batch_size: int) -> bool:
    """Whether batches can be divided evenly among devices; else XLA divides them with padding."""
    try:
        where.shard_shape((1, batch_size))
    except ValueError:
        return False
    return True


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by a thread of its own while the one before it is in use."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def fits(columns: Columns, limit: int | None) -> bool:
    """Whether columns may live on the device: they fill a quarter of its memory at most."""
    return limit is None or tree.nbytes(columns) <= limit // 4
