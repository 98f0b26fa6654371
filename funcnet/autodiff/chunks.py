"""Functions of rows evaluated a chunk at a time, so that memory has a bound.

A function of rows takes a tree with `size` rows along the first axis of each leaf. The last chunk
begins early enough to be full, so that there is one shape and nothing is padded; rows that it takes
a second time are written again, or not counted again. Every loop has a fixed number of turns: all
is differentiable in both modes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.autodiff.matrices import CHUNK_BYTES, COPIES, peak_bytes
from funcnet.types import PyTree

Carry = TypeVar("Carry")


CACHED = {"cpu": 2**26}
"""Bytes of a chunk of rows, by platform; `CHUNK_BYTES` elsewhere.

XLA writes the gradients of a dense layer for each example, and then writes them again in another
order. 32 examples of a 784-256-10 network took 5.8 ms at once, and 2.2 in chunks that stay in the
caches, whose size hardly matters (16 to 64 MiB).
"""


class Moments(NamedTuple):
    """Mean over rows, and the sum of squares of what differs from it, elementwise, float32 up."""

    mean: PyTree
    squares: PyTree


def chunk_size(
    function: str, chunk_bytes: int | None, of_rows: Callable[[PyTree], Any], xs: PyTree
) -> int:
    """Rows in a chunk: as many as `chunk_bytes` allows, one at least.

    A row counts with what `of_rows` holds at once for a single one, by its jaxpr, as often as XLA
    may hold it.

    Args:
        function: the public function that asks, named in its error.
        chunk_bytes: the bound; the platform's own if None.
        of_rows: the function of rows.
        xs: its rows.
    """
    if chunk_bytes is None:
        chunk_bytes = CACHED.get(jax.default_backend(), CHUNK_BYTES)
    errors.positive(function, chunk_bytes=chunk_bytes)
    of_one = COPIES * peak_bytes(jax.make_jaxpr(of_rows)(first_rows(xs, 1)))
    return max(1, min(rows(xs), chunk_bytes // of_one))


def rows(xs: PyTree) -> int:
    """Number of rows of a tree."""
    return int(jax.tree.leaves(xs)[0].shape[0])


def first_rows(xs: PyTree, count: int) -> PyTree:
    """`jax.ShapeDtypeStruct`s of as many rows."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), xs)


def fold(step: Callable[..., Carry], carry: Carry, xs: PyTree, size: int) -> Carry:
    """What becomes of `carry` after `step(carry, chunk, fresh, begin)` over the chunks of `xs`.

    `fresh` is bool[size]: whether a row of the chunk is seen for the first time. `begin` is the
    place of its first row.
    """
    count = rows(xs)
    if size >= count:
        return step(carry, xs, jnp.ones(count, bool), 0)

    def body(k: Any, carry: Carry) -> Carry:
        begin = jnp.minimum(k * size, count - size)
        chunk = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, begin, size), xs)
        return step(carry, chunk, begin + jnp.arange(size) >= k * size, begin)

    after: Carry = jax.lax.fori_loop(0, -(-count // size), body, carry)
    return after


def mapped(of_rows: Callable[[PyTree], PyTree], xs: PyTree, size: int) -> PyTree:
    """`of_rows(xs)`, computed in chunks of `size` rows.

    Example:
        >>> mapped(lambda x: 2 * x, jnp.arange(5), 2).tolist()
        [0, 2, 4, 6, 8]
    """
    if size >= rows(xs):
        return of_rows(xs)

    def write(out: PyTree, chunk: PyTree, fresh: Any, begin: Any) -> PyTree:
        del fresh
        write_leaf = jax.lax.dynamic_update_slice_in_dim
        return jax.tree.map(lambda o, y: write_leaf(o, y, begin, 0), out, of_rows(chunk))

    shapes = jax.eval_shape(of_rows, xs)
    out = jax.tree.map(lambda shape: jax.lax.empty(shape.shape, shape.dtype), shapes)
    return fold(write, out, xs, size)


def total(of_rows: Callable[[PyTree], PyTree], xs: PyTree, size: int) -> PyTree:
    """The sum of `of_rows(xs)` over the rows, in float32 at least.

    Example:
        >>> float(total(lambda x: 2 * x, jnp.arange(5.0), 2))
        20.0
    """

    def add(sums: PyTree, chunk: PyTree, fresh: jax.Array, begin: Any) -> PyTree:
        del begin

        def more(so_far: jax.Array, y: jax.Array) -> jax.Array:
            return so_far + jnp.sum(y, 0, dtype=so_far.dtype, where=beside(fresh, y))

        return jax.tree.map(more, sums, of_rows(chunk))

    return fold(add, zeros_of_row(of_rows, xs), xs, size)


def moments(of_rows: Callable[[PyTree], PyTree], xs: PyTree, size: int) -> Moments:
    """Mean and squares of `of_rows(xs)` over the rows: no difference of large sums is taken.

    Source: Chan, Golub, LeVeque 1979, Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances, equation 2.1.

    Example:
        >>> mean, squares = moments(lambda x: x, jnp.array([1.0, 2.0, 6.0]), 2)
        >>> float(mean), float(squares)
        (3.0, 14.0)
    """

    def merge(carry: Any, chunk: PyTree, fresh: jax.Array, begin: Any) -> Any:
        del begin
        before, so_far = carry
        more = jnp.sum(fresh)
        after = before + more

        def of_leaf(y: jax.Array, mean: jax.Array, squares: jax.Array) -> tuple[Any, Any]:
            y, known = y.astype(mean.dtype), beside(fresh, y)
            here = jnp.sum(y, 0, where=known) / more.astype(mean.dtype)
            away = here - mean
            within = jnp.sum(jnp.square(y - here[None]), 0, where=known)
            share = (more / after).astype(mean.dtype)
            between = jnp.square(away) * before.astype(mean.dtype) * share
            return mean + away * share, squares + within + between

        pairs = jax.tree.map(of_leaf, of_rows(chunk), so_far.mean, so_far.squares)
        mean, squares = jax.tree.transpose(
            jax.tree.structure(so_far.mean), jax.tree.structure((0, 0)), pairs
        )
        return after, Moments(mean, squares)

    zeros = zeros_of_row(of_rows, xs)
    return fold(merge, (jnp.array(0), Moments(zeros, zeros)), xs, size)[1]


def zeros_of_row(of_rows: Callable[[PyTree], PyTree], xs: PyTree) -> PyTree:
    """Zeros like one row of what `of_rows` gives, in float32 at least."""
    shapes = jax.eval_shape(of_rows, first_rows(xs, 1))
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape[1:], widened(shape.dtype)), shapes)


def widened(dtype: Any) -> Any:
    """The dtype in which numbers of this one are summed: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def beside(weight: jax.Array, y: jax.Array) -> jax.Array:
    """A weight per row with as many axes as `y`, all of length 1 but the first."""
    return weight.reshape(-1, *[1] * (y.ndim - 1))


def added(parts: PyTree) -> jax.Array:
    """The sum of the leaves, in the dtype of them together."""
    first, *others = jax.tree.leaves(parts)
    return jnp.asarray(sum(others, first))
