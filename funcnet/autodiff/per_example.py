"""Gradients of each example of a batch: themselves, their sizes, and what is made of them.

All take `f(params, example)`, which gives a real number, and a batch: a tree with the examples
along the first axis of each leaf. They compute as many examples at once as go into `chunk_bytes` by
what one of them holds at most, one at least; what is given back comes on top. What f needs besides,
a model's state or a key, it closes over; a key an example is a leaf of batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff import chunks, gradients, probes
from funcnet.autodiff.gradients import Wrt
from funcnet.autodiff.matrices import CHUNK_BYTES
from funcnet.types import Params, PyTree


class ClippedSum(NamedTuple):
    """What `clipped_sum` gives.

    Attributes:
        grads: the sum of the clipped gradients, a tree like params.
        share: float32[], the share of the examples that were clipped.
    """

    grads: PyTree
    share: jax.Array


class NoiseScale(NamedTuple):
    """What `noise_scale` gives; each is float32[], or float64[].

    Attributes:
        noise_scale: `trace / squared_norm`, in examples; inf where `squared_norm` is not positive.
        squared_norm: the estimate of |G|², unbiased and so perhaps negative.
        trace: the estimate of tr(Σ), unbiased.
    """

    noise_scale: jax.Array
    squared_norm: jax.Array
    trace: jax.Array


def per_example_grads(
    f: Callable[[Params, Any], Any],
    params: Params,
    batch: PyTree,
    *,
    wrt: Wrt = None,
    chunk_bytes: int | None = None,
) -> PyTree:
    """Gives the gradient of each example, `g_i = ∇ f(params, example_i)`, stacked.

    Cost: the gradient of each example once, B in all; memory for B trees like params.

    Args:
        f: `f(params, example)`, a real number.
        params: any tree; gradients of leaves that are not floats are zeros.
        batch: a tree with B examples along the first axis of each leaf.
        wrt: the leaves to differentiate, as in `value_and_grad`.
        chunk_bytes: bytes that values computed at once may take; unless given 64 MiB on CPU,
            whose caches then hold them, and 256 MiB elsewhere.

    Returns:
        A tree like params, each leaf `(B, ...)` and of its own dtype.

    Raises:
        TypeError: f does not give a real scalar; params are not real, or hold no floats.
        ValueError: leaves of batch differ in length, or hold no example.

    Example:
        >>> import jax.numpy as jnp
        >>> def f(w, example):
        ...     return (w @ example["x"] - example["y"]) ** 2 / 2
        >>> batch = {"x": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "y": jnp.array([1.0, 0.0])}
        >>> per_example_grads(f, jnp.array([1.0, 1.0]), batch).tolist()
        [[2.0, 4.0], [21.0, 28.0]]

    Source: Goodfellow 2015, Efficient Per-Example Gradient Computations, for the question; the
    answer here is `vmap` of `grad`, which knows any f.
    """
    stacked, batch, rest = prepared("per_example_grads", f, params, batch, wrt)
    size = chunks.chunk_size("per_example_grads", chunk_bytes, stacked, batch)
    grads = chunks.mapped(stacked, batch, size)
    return jax.vmap(lambda one: gradients.whole(one, rest))(grads)


def per_example_norms(
    f: Callable[[Params, Any], Any],
    params: Params,
    batch: PyTree,
    *,
    wrt: Wrt = None,
    chunk_bytes: int | None = None,
) -> jax.Array:
    """Gives the norm of each example's gradient over all leaves, `|g_i|`.

    Cost: the gradient of each example once, B in all. With `chunk_bytes` they are never all held.
    Where a gradient is 0, so is the derivative of its norm.

    Args:
        f: `f(params, example)`, a real number.
        params: any tree.
        batch: a tree with B examples along the first axis of each leaf.
        wrt: the leaves to differentiate, as in `value_and_grad`.
        chunk_bytes: bytes that values computed at once may take; unless given 64 MiB on CPU,
            whose caches then hold them, and 256 MiB elsewhere.

    Returns:
        float32[B], or float64[B] where params are.

    Raises:
        TypeError: f does not give a real scalar; params are not real, or hold no floats.
        ValueError: leaves of batch differ in length, or hold no example.

    Example:
        >>> import jax.numpy as jnp
        >>> per_example_norms(lambda w, x: w @ x, jnp.ones(2), jnp.array([[3.0, 4.0]])).tolist()
        [5.0]
    """
    stacked, batch, _ = prepared("per_example_norms", f, params, batch, wrt)

    def of_rows(examples: PyTree) -> jax.Array:
        return jax.vmap(probes.norm)(stacked(examples))

    size = chunks.chunk_size("per_example_norms", chunk_bytes, of_rows, batch)
    found: jax.Array = chunks.mapped(of_rows, batch, size)
    return found


def gram(
    f: Callable[[Params, Any], Any],
    params: Params,
    batch: PyTree,
    *,
    wrt: Wrt = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> jax.Array:
    """Gives the inner products of the examples' gradients, `K_ij = <g_i, g_j>`.

    It is J Jᵀ of the Jacobian J of the examples' values: the empirical neural tangent kernel where
    f is a network's output, the empirical Fisher's other half where it is a loss.

    Cost: the gradient of each example once, B in all, if one chunk holds them; with k half
    chunks, two of which are held at once, each is computed k + 1 times.

    Args:
        f: `f(params, example)`, a real number.
        params: any tree.
        batch: a tree with B examples along the first axis of each leaf.
        wrt: the leaves to differentiate, as in `value_and_grad`.
        chunk_bytes: bytes that values computed at once may take, 256 MiB unless given.

    Returns:
        float32[B, B], or float64[B, B] where params are.

    Raises:
        TypeError: f does not give a real scalar; params are not real, or hold no floats.
        ValueError: leaves of batch differ in length, or hold no example.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> gram(lambda w, x: w @ x, jnp.ones(2), x).tolist()
        [[1.0, 1.0], [1.0, 5.0]]

    Source: Jacot, Gabriel, Hongler 2018, Neural Tangent Kernel, equation 4.
    """
    stacked, batch, _ = prepared("gram", f, params, batch, wrt)
    size = chunks.chunk_size("gram", chunk_bytes, stacked, batch)
    if size >= chunks.rows(batch):
        grads = stacked(batch)
        return inner(grads, grads)
    half = max(1, size // 2)

    def of_rows(examples: PyTree) -> jax.Array:
        grads = stacked(examples)
        columns: jax.Array = chunks.mapped(lambda x: inner(stacked(x), grads), batch, half)
        return columns.T

    products: jax.Array = chunks.mapped(of_rows, batch, half)
    return products


def clipped_sum(
    f: Callable[[Params, Any], Any],
    params: Params,
    batch: PyTree,
    *,
    norm: Any,
    wrt: Wrt = None,
    chunk_bytes: int | None = None,
) -> ClippedSum:
    """Gives the sum of the examples' gradients, each scaled to a norm of at most `norm`.

    `sum_i g_i min(1, norm / |g_i|)`, with the norm over all leaves. Adding or removing one example
    moves it by at most `norm`: DP-SGD adds noise of that scale. It adds none itself. A gradient
    whose norm is not finite makes the sum NaN, to be seen, not hidden.

    Cost: the gradient of each example once, B in all. With `chunk_bytes` they are never all held.

    Args:
        f: `f(params, example)`, a real number.
        params: any tree; gradients of leaves that are not floats are zeros.
        batch: a tree with B examples along the first axis of each leaf.
        norm: the bound, a positive number; it may be traced. With inf nothing is clipped.
        wrt: the leaves to differentiate, as in `value_and_grad`.
        chunk_bytes: bytes that values computed at once may take; unless given 64 MiB on CPU,
            whose caches then hold them, and 256 MiB elsewhere.

    Returns:
        The sum, a tree like params, added in float32 at least, and the share of examples clipped.

    Raises:
        TypeError: f does not give a real scalar; params are not real, or hold no floats.
        ValueError: leaves of batch differ in length, or hold no example; norm is not
            positive.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[0.0, 0.5], [6.0, 8.0]])
        >>> grads, share = clipped_sum(lambda w, x: w @ x, jnp.ones(2), x, norm=5.0)
        >>> grads.tolist(), float(share)
        ([3.0, 4.5], 0.5)

    Source: Abadi et al. 2016, Deep Learning with Differential Privacy, algorithm 1.
    """
    errors.positive_number("clipped_sum", "norm", norm)
    stacked, batch, rest = prepared("clipped_sum", f, params, batch, wrt)

    def of_rows(examples: PyTree) -> tuple[PyTree, jax.Array]:
        grads = stacked(examples)
        sizes = jax.vmap(probes.norm)(grads)
        above = sizes > norm
        scale = jnp.where(above, norm / jnp.where(above, sizes, 1), 1)
        scale = jnp.where(jnp.isfinite(sizes), scale, jnp.nan)

        def scaled(leaf: jax.Array) -> jax.Array:
            return leaf * chunks.beside(scale, leaf).astype(chunks.widened(leaf.dtype))

        return jax.tree.map(scaled, grads), above

    size = chunks.chunk_size("clipped_sum", chunk_bytes, of_rows, batch)
    sums, clipped = chunks.total(of_rows, batch, size)
    dtypes = jax.eval_shape(stacked, chunks.first_rows(batch, 1))
    grads = jax.tree.map(lambda leaf, sum_: sum_.astype(leaf.dtype), dtypes, sums)
    return ClippedSum(gradients.whole(grads, rest), clipped / chunks.rows(batch))


def noise_scale(
    f: Callable[[Params, Any], Any],
    params: Params,
    batch: PyTree,
    *,
    wrt: Wrt = None,
    chunk_bytes: int | None = None,
) -> NoiseScale:
    """Estimates the simple noise scale `tr(Σ) / |G|²`, the batch size where noise equals signal.

    G is the mean and Σ the covariance of an example's gradient. Far below it, doubling the batch
    halves the steps needed; far above it, the batch is wasted. Both estimates are unbiased, their
    ratio is not: average them over several batches, then divide.

    Cost: the gradient of each example once, B in all; with `chunk_bytes` they are never all held,
    but for two trees like params.

    Args:
        f: `f(params, example)`, a real number.
        params: any tree.
        batch: a tree with B examples along the first axis of each leaf, two or more.
        wrt: the leaves to differentiate, as in `value_and_grad`.
        chunk_bytes: bytes that values computed at once may take; unless given 64 MiB on CPU,
            whose caches then hold them, and 256 MiB elsewhere.

    Returns:
        The ratio, and the two estimates of which it is made.

    Raises:
        TypeError: f does not give a real scalar; params are not real, or hold no floats.
        ValueError: leaves of batch differ in length, or hold fewer than two examples.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0.0], [3.0, 0.0]])
        >>> found = noise_scale(lambda w, x: w @ x, jnp.ones(2), x)
        >>> float(found.trace), float(found.squared_norm)
        (2.0, 3.0)

    Source: McCandlish, Kaplan, Amodei et al. 2018, An Empirical Model of Large-Batch Training,
    equation 2.9 and appendix A.1, with batches of 1 and B: tr(Σ) is the examples' variance.
    """
    stacked, batch, _ = prepared("noise_scale", f, params, batch, wrt)
    count = chunks.rows(batch)
    if count < 2:
        raise ValueError(
            "`noise_scale`: batch must hold two examples or more, got one. "
            "The spread of gradients can't be told from one."
        )
    size = chunks.chunk_size("noise_scale", chunk_bytes, stacked, batch)
    mean, squares = chunks.moments(stacked, batch, size)
    trace = chunks.added(jax.tree.map(jnp.sum, squares)) / (count - 1)
    squared_norm = probes.vdot(mean, mean) - trace / count
    known = squared_norm > 0
    scale = jnp.where(known, trace / jnp.where(known, squared_norm, 1), jnp.inf)
    return NoiseScale(jnp.where(jnp.isnan(squared_norm), jnp.nan, scale), squared_norm, trace)


def prepared(
    function: str, f: Callable[[Params, Any], Any], params: Params, batch: PyTree, wrt: Wrt
) -> tuple[Callable[[PyTree], PyTree], PyTree, PyTree]:
    """The gradients of a batch, stacked, as a function of it; the batch as arrays; other leaves."""
    errors.function(function, f)
    chosen, rest = gradients.split(function, params, wrt)
    batch = jax.tree.map(jnp.asarray, batch)
    check_batch(function, batch)

    def value(chosen: PyTree, example: PyTree) -> Any:
        return gradients.scalar(function, f(tree.combine(chosen, rest), example))

    def stacked(examples: PyTree) -> PyTree:
        return jax.vmap(jax.grad(value), (None, 0))(chosen, examples)

    return stacked, batch, rest


def check_batch(function: str, batch: PyTree) -> None:
    """Raises unless the leaves of a batch hold the same number of examples, one or more."""
    leaves = jax.tree.leaves(batch)
    if not leaves or any(not leaf.shape for leaf in leaves) or len({len(x) for x in leaves}) > 1:
        raise ValueError(
            f"`{function}`: the leaves of batch must have as many examples along their first axis, "
            f"got {errors.describe(batch)}. Close over what all examples share."
        )
    if len(leaves[0]) == 0:
        raise ValueError(
            f"`{function}`: batch must hold an example or more, got {errors.describe(batch)}. "
            "Leave out empty batches."
        )


def inner(left: PyTree, right: PyTree) -> jax.Array:
    """The inner products of the rows of two stacks of trees, `(rows left, rows right)`."""

    def of_leaf(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)  # (B, size), (C, size)
        wide = chunks.widened(a.dtype)
        return jnp.matmul(a, b.T, precision="highest", preferred_element_type=wide)

    return chunks.added(jax.tree.map(of_leaf, left, right))
