"""The order of examples: a keyed permutation with random access, in NumPy and JAX alike.

Batch `k` of size B holds examples `kB .. kB+B-1` of the concatenated permutations of successive
epochs. Nothing is stored: an index is computed from the key, the epoch and the position, so a run
can be taken up at any step, and on a device as on the host.
"""

from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Words: TypeAlias = Any
"""A key as uint32[2], of NumPy or JAX."""

ROUNDS = 8
"""Pairs of Feistel rounds; the tests of uniformity pass from 6 on."""

GOLDEN = 0x9E3779B9
"""2**32 divided by the golden ratio: successive multiples are far apart in every bit."""

SPLIT = 2**32 - 1
"""The epoch that no run reaches, whose order divides data into training and validation."""


def order_words(key: jax.Array) -> jax.Array:
    """The order's own key as plain words, uint32[2], of whatever kind `key` is."""
    return jax.random.bits(key, (2,), jnp.uint32)


def permute(words: Words, epoch: Any, position: Any, n: Any, xp: ModuleType = np) -> Any:
    """Example at `position` of the order of `epoch`: a permutation of `0 .. n-1` for each epoch.

    Args:
        words: the order's key, uint32[2].
        epoch: uint32[B], 0-based.
        position: uint32[B], below `n`.
        n: number of examples, from 1 to 2**31; may be a traced array.
        xp: `numpy` or `jax.numpy`; the result is the same, bit for bit.

    Returns:
        uint32[B], the examples' indices.

    Source:
        A Feistel network over a grid of about sqrt(n) x sqrt(n) cells with addition in place of
        exclusive or, as in Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002,
        method 3. Unlike theirs the grid has exactly `n` cells, its last row being shorter: each
        round turns every column (or row) by a number that depends on which one it is, within its
        own length. So no cycle has to be walked, and there is no loop whose length depends on data.

    Example:
        >>> import numpy as np
        >>> words = np.array([1, 2], np.uint32)
        >>> sorted(permute(words, [0], np.arange(5), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    u = xp.uint32
    n = xp.asarray(n, u)
    width = ceil_sqrt(n, xp)
    height = (n + width - u(1)) // width
    last = n - (height - u(1)) * width  # cells in the last row, 1 .. width
    position = xp.asarray(position, u)
    row, column = position // width, position % width
    mixed = mix((xp.asarray(epoch, u) + words[:1]), xp) ^ words[1:]

    def two_rounds(_: Any, at: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        row, column, mixed = at
        mixed = mix(mixed + u(GOLDEN), xp)
        row = turn(row, mixed ^ column, xp.where(column < last, height, height - u(1)), xp)
        mixed = mix(mixed + u(GOLDEN), xp)
        column = turn(column, mixed ^ row, xp.where(row < height - u(1), width, last), xp)
        return row, column, mixed

    row, column, mixed = repeat(ROUNDS, two_rounds, (row, column, mixed), xp)
    return row * width + column


def repeat(times: int, f: Any, at: Any, xp: ModuleType) -> Any:
    """`f(i, at)` that many times: in JAX as a loop, a tenth of the program to compile."""
    if xp is jnp:
        return jax.lax.fori_loop(0, times, f, at)
    for i in range(times):
        at = f(i, at)
    return at


def turn(place: Any, mixed: Any, length: Any, xp: ModuleType) -> Any:
    """`place` moved round a ring of `length` cells by a number that `mixed` decides."""
    u = xp.uint32
    place = place + ((mix(mixed, xp) >> u(16)) * length >> u(16))  # length is at most 2**16
    return xp.where(place >= length, place - length, place)


def mix(x: Any, xp: ModuleType) -> Any:
    """A bijection of uint32 that spreads each bit over all: C. Wellons' `lowbias32`, 2018."""
    u = xp.uint32
    x = (x ^ (x >> u(16))) * u(0x7FEB352D)
    x = (x ^ (x >> u(15))) * u(0x846CA68B)
    return x ^ (x >> u(16))


def ceil_sqrt(n: Any, xp: ModuleType) -> Any:
    """The smallest whole number whose square is at least `n`, for `n` up to 2**31."""
    u = xp.uint32
    root = xp.ceil(xp.sqrt(n.astype(xp.float32))).astype(u)  # off by one at the most
    root = xp.where((root - u(1)) * (root - u(1)) >= n, root - u(1), root)
    return xp.where(root * root < n, root + u(1), root)


def locate(step: Any, batch_size: int, n: Any, xp: ModuleType = np) -> tuple[Any, Any]:
    """Epoch and position in it of the first example of batch `step`, without overflow.

    `divmod(step * batch_size, n)`, whose product may need more than 32 bits: by way of `n` steps
    taking `batch_size` epochs where `n` is known and small enough, else bit by bit.

    Args:
        step: uint32[], the batch's number from 0; below 2**31.
        batch_size: examples a batch.
        n: number of examples, at most 2**31; may be a traced array.
        xp: `numpy` or `jax.numpy`.

    Returns:
        `(epoch, position)`, uint32[1] each; the epoch modulo 2**32.

    Example:
        >>> [int(part[0]) for part in locate(3, 32, 60)]
        [1, 36]
    """
    u = xp.uint32
    step = xp.asarray(step, u).reshape(1)
    batch = xp.asarray([batch_size], u)
    if isinstance(n, int) and n * batch_size < 2**32:
        size = u(n)
        examples = step % size * batch
        return step // size * batch + examples // size, examples % size
    n = xp.asarray(n, u)
    epochs, rest = batch // n, batch % n
    epoch, position = xp.zeros_like(step), xp.zeros_like(step)
    for bit in reversed(range(31)):
        epoch, position = carry(epoch + epoch, position + position, n, xp)
        more = (step >> u(bit)) & u(1)
        epoch, position = carry(epoch + more * epochs, position + more * rest, n, xp)
    return epoch, position


def carry(epoch: Any, position: Any, n: Any, xp: ModuleType) -> tuple[Any, Any]:
    """The same place with `position` below `n`, given one below `2n`."""
    over = position >= n
    return epoch + over.astype(xp.uint32), xp.where(over, position - n, position)


def batch_indices(
    words: Words,
    step: Any,
    batch_size: int,
    n: Any,
    *,
    shuffle: bool = True,
    xp: ModuleType = np,
    steps: int = 1,
) -> Any:
    """Indices of the examples of batch `step`, uint32[batch_size].

    Of several successive batches, uint32[steps * batch_size], which may be 2**31 at the most.

    Args:
        words: the order's key, uint32[2], from `order_words`.
        step: the batch's number from 0.
        batch_size: examples a batch; may exceed `n`.
        n: number of examples; may be a traced array.
        shuffle: whether each epoch has an order of its own, or all keep that of the data.
        xp: `numpy` or `jax.numpy`; the result is the same, bit for bit.
        steps: how many batches.

    Example:
        >>> import numpy as np
        >>> batch_indices(np.zeros(2, np.uint32), 1, 3, 5, shuffle=False).tolist()
        [3, 4, 0]
    """
    u = xp.uint32
    epoch, position = apart(locate(step, batch_size, n, xp), xp)
    n = xp.asarray(n, u)
    place = position + xp.arange(steps * batch_size, dtype=u)
    epoch, place = epoch + place // n, place % n
    return apart(permute(words, epoch, place, n, xp), xp) if shuffle else place


def apart(values: Any, xp: ModuleType) -> Any:
    """`values`, in JAX computed before what uses them.

    XLA would otherwise fuse these long chains of integer arithmetic into the gather that uses them,
    computing each link once for each use of it: compilation without end (jax 0.12, on CPU).
    """
    return jax.lax.optimization_barrier(values) if xp is jnp else values
