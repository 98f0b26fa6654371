"""Diagonal and trace of a linear operator, from products alone: exact, and estimated."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff import chunks, probes
from funcnet.autodiff.matrices import CHUNK_BYTES, unit
from funcnet.autodiff.operators import LinearOperator, check_square
from funcnet.types import PyTree


class Estimate(NamedTuple):
    """A mean over random samples, and how far it may be off.

    Attributes:
        estimate: the mean.
        standard_error: its standard deviation, estimated from the samples: `s / sqrt(samples)`.
    """

    estimate: PyTree
    standard_error: PyTree


def diagonal(operator: LinearOperator, *, chunk_bytes: int = CHUNK_BYTES) -> PyTree:
    """Gives the diagonal of an operator exactly, `d_i = e_iᵀ A e_i`.

    Cost: as many products as there are elements in the input.

    Args:
        operator: a square operator, such as a Hessian.
        chunk_bytes: bytes that values computed at once may take, 256 MiB unless given.

    Returns:
        A tree like the operator's input.

    Raises:
        ValueError: output and input of the operator differ; the input is empty.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spec = jax.ShapeDtypeStruct((2,), jnp.float32)
        >>> A = LinearOperator(lambda v: jnp.array([[1.0, 2.0], [0.0, 3.0]]) @ v, spec, spec)
        >>> diagonal(A).tolist()
        [1.0, 3.0]
    """
    return probes.unflatten(flat_diagonal("diagonal", operator, chunk_bytes), operator.input)


def trace(operator: LinearOperator, *, chunk_bytes: int = CHUNK_BYTES) -> jax.Array:
    """Gives the trace of an operator exactly, `tr A = sum_i e_iᵀ A e_i`.

    Cost: as many products as there are elements in the input; `estimate_trace` needs few.

    Args:
        operator: a square operator, such as a Hessian.
        chunk_bytes: bytes that values computed at once may take, 256 MiB unless given.

    Returns:
        float32[], or float64[].

    Raises:
        ValueError: output and input of the operator differ; the input is empty.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spec = jax.ShapeDtypeStruct((2,), jnp.float32)
        >>> A = LinearOperator(lambda v: jnp.array([[1.0, 2.0], [0.0, 3.0]]) @ v, spec, spec)
        >>> float(trace(A))
        4.0
    """
    elements = flat_diagonal("trace", operator, chunk_bytes)
    return jnp.sum(elements, dtype=chunks.widened(elements.dtype))


def estimate_diagonal(
    operator: LinearOperator,
    *,
    key: jax.Array,
    samples: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Estimate:
    """Estimates the diagonal of an operator, `E[z ⊙ A z]` with random signs z.

    Unbiased. The variance of element i is `sum_{j≠i} A_ij²` a sample: it is zero, and one sample
    exact, where A is diagonal.

    Cost: `samples` products.

    Args:
        operator: a square operator, such as a Hessian.
        key: the randomness.
        samples: how many signs are drawn, two or more.
        chunk_bytes: bytes that values computed at once may take, 256 MiB unless given.

    Returns:
        Two trees like the operator's input, in float32 at least.

    Raises:
        ValueError: output and input of the operator differ; the input is empty; samples < 2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spec = jax.ShapeDtypeStruct((2,), jnp.float32)
        >>> A = LinearOperator(lambda v: jnp.array([[1.0, 2.0], [2.0, 3.0]]) @ v, spec, spec)
        >>> found = estimate_diagonal(A, key=jax.random.key(0), samples=1000)
        >>> bool((abs(found.estimate - jnp.array([1.0, 3.0])) < 4 * found.standard_error).all())
        True

    Source: Bekas, Kokiopoulou, Saad 2007, An Estimator for the Diagonal of a Matrix, equation 3;
    with signs its denominator is the number of samples.
    """

    def of_signs(z: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: tree.widen(a) * tree.widen(b), z, operator.mv(z))

    return estimate("estimate_diagonal", operator, of_signs, key, samples, chunk_bytes)


def estimate_trace(
    operator: LinearOperator,
    *,
    key: jax.Array,
    samples: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Estimate:
    """Estimates the trace of an operator, `E[zᵀ A z]` with random signs z.

    Unbiased. The variance is `2 sum_{i≠j} A_ij²` a sample for symmetric A: it is zero, and one
    sample exact, where A is diagonal.

    Cost: `samples` products. Outside of `jax.jit` each call compiles anew: compile what calls this
    often, with the making of the operator in it.

    Args:
        operator: a square operator, such as a Hessian.
        key: the randomness.
        samples: how many signs are drawn, two or more.
        chunk_bytes: bytes that values computed at once may take, 256 MiB unless given.

    Returns:
        Two numbers, float32[] or float64[].

    Raises:
        ValueError: output and input of the operator differ; the input is empty; samples < 2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spec = jax.ShapeDtypeStruct((2,), jnp.float32)
        >>> A = LinearOperator(lambda v: jnp.array([1.0, 3.0]) * v, spec, spec)
        >>> found = estimate_trace(A, key=jax.random.key(0), samples=2)
        >>> float(found.estimate), float(found.standard_error)
        (4.0, 0.0)

    Source: Hutchinson 1990, A Stochastic Estimator of the Trace of the Influence Matrix for
    Laplacian Smoothing Splines, section 2.
    """

    def of_signs(z: PyTree) -> jax.Array:
        return probes.vdot(z, operator.mv(z))

    return estimate("estimate_trace", operator, of_signs, key, samples, chunk_bytes)


def estimate(
    function: str,
    operator: LinearOperator,
    of_signs: Any,
    key: jax.Array,
    samples: int,
    chunk_bytes: int,
) -> Estimate:
    """The mean of `of_signs` over random signs like the operator's input."""
    check_square(function, operator)
    errors.positive(function, samples=samples)
    if samples < 2:
        raise ValueError(
            f"`{function}`: samples must be 2 or more, got {samples}. "
            "One sample tells nothing of its error."
        )

    def of_keys(keys: jax.Array) -> PyTree:
        return jax.vmap(lambda k: of_signs(probes.signs(k, operator.input)))(keys)

    keys = jax.random.split(key, samples)
    size = chunks.chunk_size(function, chunk_bytes, of_keys, keys)
    mean, squares = chunks.moments(of_keys, keys, size)
    error = jax.tree.map(lambda leaf: probes.root(leaf / (samples * (samples - 1))), squares)
    return Estimate(mean, error)


def flat_diagonal(function: str, operator: LinearOperator, chunk_bytes: int) -> jax.Array:
    """The diagonal by position."""
    check_square(function, operator)

    def of_positions(places: jax.Array) -> jax.Array:
        def entry(place: jax.Array) -> jax.Array:
            return probes.element(operator.mv(unit(operator.input, place)), place)

        return jax.vmap(entry)(places)

    places = jnp.arange(tree.size(operator.input), dtype=jnp.int32)
    size = chunks.chunk_size(function, chunk_bytes, of_positions, places)
    elements: jax.Array = chunks.mapped(of_positions, places, size)
    return elements
