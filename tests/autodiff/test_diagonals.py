"""Diagonals and traces, against the matrix they are of."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from funcnet.autodiff.diagonals import diagonal, estimate_diagonal, estimate_trace, trace
from funcnet.autodiff.operators import LinearOperator, hessian_operator

SPEC = {"kernel": (jax.ShapeDtypeStruct((2, 3), jnp.float32), None), "bias": [jnp.zeros(())]}
SIZE = 7


def matrix(seed=0):
    return np.random.default_rng(seed).normal(size=(SIZE, SIZE))


def operator(dense, dtype=jnp.float32, symmetric=False):
    """The operator of a matrix on trees; positions are those of `ravel_pytree`."""
    spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), SPEC)

    def product(v):
        flat, unravel = ravel_pytree(v)
        return unravel(jnp.asarray(dense, flat.dtype) @ flat)

    return LinearOperator(product, spec, spec, symmetric)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("chunk_bytes", [2**28, 500, 1])
def test_diagonal_and_trace_are_those_of_the_matrix(chunk_bytes):
    with jax.enable_x64(True):
        a = operator(matrix(), jnp.float64)
        found = jax.jit(lambda: diagonal(a, chunk_bytes=chunk_bytes))()
        chex.assert_trees_all_equal_shapes_and_dtypes(found, a.input)
        np.testing.assert_array_equal(flat(found), np.diag(matrix()))
        whole = trace(a, chunk_bytes=chunk_bytes)
        np.testing.assert_allclose(whole, np.trace(matrix()), rtol=1e-14)


def test_diagonal_of_a_hessian_of_mixed_dtypes_and_its_derivative():
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0], jnp.bfloat16), "n": jnp.array(4)}

    def f(params):
        return jnp.sum(params["a"] ** 3) * params["b"][0].astype(jnp.float32) ** 2

    found = jax.jit(lambda params: diagonal(hessian_operator(f, params)))(params)
    assert found["n"] is None
    np.testing.assert_allclose(found["a"], [54, 108])
    assert found["b"] == 18
    assert found["b"].dtype == jnp.bfloat16
    total = jax.jit(lambda params: trace(hessian_operator(f, params)))(params)
    assert (total, total.dtype) == (180, jnp.float32)

    def sharpness(x):
        return trace(hessian_operator(lambda x: jnp.sum(x**4), x), chunk_bytes=1)

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(sharpness)))(jnp.array([[1.0, 2.0]]))
    np.testing.assert_allclose(values, [60])
    np.testing.assert_allclose(slopes, [[24, 48]])


def test_elements_that_are_not_finite_spoil_no_other():
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    a = LinearOperator(lambda v: jnp.where(v == 1, 2 * v, jnp.inf), spec, spec)
    np.testing.assert_array_equal(diagonal(a), [2, 2])


@pytest.mark.parametrize("chunk_bytes", [2**28, 3000])
def test_estimates_have_the_variance_of_the_closed_form(chunk_bytes):
    dense = matrix() + matrix().T
    off = dense - np.diag(np.diag(dense))
    samples = 4000
    a, key = operator(dense), jax.random.key(0)

    @jax.jit
    def both():
        settings = {"key": key, "samples": samples, "chunk_bytes": chunk_bytes}
        return estimate_diagonal(a, **settings), estimate_trace(a, **settings)

    along, total = both()
    chex.assert_trees_all_equal_shapes_and_dtypes(along.estimate, along.standard_error, a.input)
    error = np.sqrt((off**2).sum(1) / samples)  # sum over j ≠ i of A_ij²
    np.testing.assert_allclose(flat(along.standard_error), error, rtol=0.05)
    assert (abs(flat(along.estimate) - np.diag(dense)) < 4 * error).all()
    error = np.sqrt(2 * (off**2).sum() / samples)
    np.testing.assert_allclose(total.standard_error, error, rtol=0.1)
    assert abs(total.estimate - np.trace(dense)) < 4 * error


def test_the_standard_error_is_that_of_the_samples():
    # two samples x, y have the mean (x + y) / 2 and the error |x - y| / 2
    dense = matrix()
    signs = np.array(np.meshgrid(*[[-1, 1]] * SIZE)).reshape(SIZE, -1).T
    possible = np.array([s @ dense @ s for s in signs])
    with jax.enable_x64(True):
        for chunk_bytes in (2**28, 1):
            a = operator(dense, jnp.float64)
            two = estimate_trace(a, key=jax.random.key(3), samples=2, chunk_bytes=chunk_bytes)
            mean, error = map(float, two)
            assert error > 0
            for value in (mean - error, mean + error):
                assert abs(possible - value).min() < 1e-12


def test_of_a_diagonal_matrix_one_sample_is_exact():
    dense = np.diag(np.arange(SIZE))
    found = estimate_diagonal(operator(dense), key=jax.random.key(0), samples=2)
    np.testing.assert_array_equal(flat(found.estimate), np.arange(SIZE))
    np.testing.assert_array_equal(flat(found.standard_error), 0)
    total = estimate_trace(operator(dense), key=jax.random.key(0), samples=2)
    assert total == (21, 0)


def test_estimates_in_bfloat16_are_averaged_in_float32():
    a = operator(np.eye(SIZE) + 1, jnp.bfloat16)
    found = estimate_diagonal(a, key=jax.random.key(0), samples=300, chunk_bytes=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    total = estimate_trace(a, key=jax.random.key(0), samples=300, chunk_bytes=1)
    assert abs(total.estimate - 14) < 4 * total.standard_error < 3


def test_estimates_are_differentiated_even_where_the_error_is_zero():
    def error(x):
        a = hessian_operator(lambda x: jnp.sum(x**4), x)
        return estimate_trace(a, key=jax.random.key(0), samples=3)

    grads = jax.jit(jax.jacobian(error))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(grads.estimate, [24, 48])
    np.testing.assert_array_equal(grads.standard_error, [0, 0])


def rectangular():
    one, two = (jax.ShapeDtypeStruct((n,), jnp.float32) for n in (1, 2))
    return LinearOperator(lambda v: v[:1], two, one)


def empty():
    nothing = jax.ShapeDtypeStruct((0,), jnp.float32)
    return LinearOperator(lambda v: v, nothing, nothing)


KEY = jax.random.key(0)
ERRORS = {
    "not square": (
        lambda: diagonal(rectangular()),
        "`diagonal`: the operator's output must be like its input, got float32[1] in place "
        "of float32[2]. Take a square one.",
    ),
    "empty": (
        lambda: trace(empty()),
        "`trace`: the operator's input must have an element or more, got float32[0]. Leave "
        "out what is empty.",
    ),
    "one sample": (
        lambda: estimate_trace(operator(matrix()), key=KEY, samples=1),
        "`estimate_trace`: samples must be 2 or more, got 1. One sample tells nothing of its "
        "error.",
    ),
    "no sample": (
        lambda: estimate_diagonal(operator(matrix()), key=KEY, samples=0),
        "`estimate_diagonal`: samples must be a positive whole number, got 0.",
    ),
    "chunk": (
        lambda: diagonal(operator(matrix()), chunk_bytes=-1),
        "`diagonal`: chunk_bytes must be a positive whole number, got -1.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, words = ERRORS[name]
    with pytest.raises(ValueError, match=r"^`") as caught:
        call()
    assert str(caught.value) == words
