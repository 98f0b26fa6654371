"""Eigenpairs, against numpy's of the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.autodiff.operators import LinearOperator, hessian_operator
from funcnet.autodiff.spectrum import chosen, eigenpairs, power_iteration
from tests.autodiff.test_diagonals import empty, operator

KEY = jax.random.key(0)


def symmetric(values, seed=0):
    """a matrix with these eigenvalues."""
    random = np.random.default_rng(seed).normal(size=(len(values), len(values)))
    q, _ = np.linalg.qr(random)
    return (q * np.asarray(values)[None]) @ q.T


def of_array(dense, dtype=jnp.float32):
    spec = jax.ShapeDtypeStruct((len(dense),), dtype)
    return LinearOperator(lambda v: jnp.asarray(dense, dtype) @ v, spec, spec, True)


VALUES = [-6.0, -1.0, 0.5, 2.0, 3.0, 4.0, 5.0]
ORDER = {
    ("largest", 7): VALUES[::-1],
    ("smallest", 3): [-6, -1, 0.5],
    ("absolute", 3): [-6, 5, 4],
    ("ends", 3): [-6, 4, 5],
}


@pytest.mark.parametrize(("which", "k"), ORDER)
def test_all_iterations_are_exact_and_in_order(which, k):
    with jax.enable_x64(True):
        dense = symmetric(VALUES)
        a = operator(dense, jnp.float64, symmetric=True)
        found = jax.jit(lambda key: eigenpairs(a, k, key=key, which=which))(KEY)
    np.testing.assert_allclose(found.eigenvalues, ORDER[which, k], rtol=1e-12)
    leaves = jax.tree.leaves(found.eigenvectors)
    vectors = np.concatenate([np.reshape(leaf, (k, -1)) for leaf in leaves], 1)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-12)
    off = vectors @ dense - np.array(ORDER[which, k])[:, None] * vectors
    np.testing.assert_allclose(off, 0, atol=1e-12)
    assert (np.asarray(found.residuals) < 1e-12).all()


@pytest.mark.parametrize(
    ("which", "k", "want"),
    [
        ("largest", 2, [3, 2]),
        ("smallest", 2, [-4, -1]),
        ("absolute", 3, [-4, 3, 2]),
        ("ends", 1, [3]),
        ("ends", 2, [-4, 3]),
        ("ends", 4, [-4, -1, 2, 3]),
    ],
)
def test_which_are_wanted_and_their_order(which, k, want):
    values = jnp.array([-4.0, -1.0, 2.0, 3.0])
    np.testing.assert_array_equal(values[chosen(values, k, which)], want)


DEGENERATE = {
    "zero": np.zeros(8),
    "one": np.array([0, 0, 0, 0, 0, 0, 0, 3.0]),
    "identity": np.ones(8),
    "two": np.array([1, 1, 1, 1, 2, 2, 2, 2.0]),
    "signs": np.array([-1, -1, -1, -1, 1, 1, 1, 1.0]),
    "large": np.array([1e18, 1e18, 1, 1, 1, 1, 1, 1]),
    "small": np.array([1e-18, 1e-18, 2e-18, 2e-18, 0, 0, 0, 0]),
}


@jax.jit
def all_pairs(dense):
    return eigenpairs(of_array(dense, dense.dtype), 8, key=KEY, which="smallest")


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_few_distinct_eigenvalues_break_nothing(name, dtype):
    values = DEGENERATE[name]
    scale = max(abs(values).max(), 1e-30)
    rounding = float(jnp.finfo(dtype).eps)
    found = all_pairs(jnp.asarray(symmetric(values), dtype))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    got = np.asarray(found.eigenvalues, float) / scale
    np.testing.assert_allclose(got, np.sort(values) / scale, atol=20 * rounding)
    assert (np.asarray(found.residuals, float) / scale < 20 * rounding).all()
    assert found.eigenvectors.dtype == dtype
    assert found.eigenvalues.dtype == jnp.float32


def test_of_one_element_and_of_zero_a_single_iteration():
    one, nothing = of_array(np.array([[-4.0]])), of_array(np.zeros((5, 5)))
    found = jax.jit(lambda: eigenpairs(one, 1, key=KEY))()
    np.testing.assert_allclose((found.eigenvalues[0], found.residuals[0]), (-4, 0), atol=1e-6)
    found = jax.jit(lambda: eigenpairs(nothing, 1, key=KEY, iterations=1))()
    assert found.eigenvalues[0] == 0
    np.testing.assert_allclose(jnp.linalg.norm(found.eigenvectors), 1, rtol=1e-6)


def test_ends_of_a_large_matrix_converge_without_ghosts():
    # with 60 of 400 iterations the first of a separated end converge long before: Lanczos without
    # reorthogonalisation finds copies of them
    values = np.concatenate([np.linspace(-1, 1, 396), [5, 10, 20, 40]])
    a = of_array(symmetric(values))
    found = jax.jit(lambda: eigenpairs(a, 5, key=KEY, iterations=60))()
    np.testing.assert_allclose(found.eigenvalues[:4], [40, 20, 10, 5], rtol=1e-5)
    assert (found.residuals[:4] < 1e-4).all()
    assert 0.9 < found.eigenvalues[4] < 1.0001
    assert found.residuals[4] > 1e-4  # its own verdict: not converged


def test_residuals_bound_the_distance_to_an_eigenvalue():
    values = np.linspace(-1, 1, 50)
    a = of_array(symmetric(values))
    found = jax.jit(lambda: eigenpairs(a, 4, key=KEY, which="ends", iterations=10))()
    distance = abs(np.asarray(found.eigenvalues)[:, None] - values[None]).min(1)
    assert (distance <= found.residuals + 1e-6).all()
    assert (found.residuals > 1e-3).any()


def test_default_iterations_are_capped_by_the_elements():
    calls = []
    dense = jnp.asarray(symmetric(np.linspace(0, 1, 40)), jnp.float32)

    def product(v):
        jax.debug.callback(lambda: calls.append(1))
        return dense @ v

    spec = jax.ShapeDtypeStruct((40,), jnp.float32)
    a = LinearOperator(product, spec, spec, True)
    jax.block_until_ready(jax.jit(lambda: eigenpairs(a, 3, key=KEY))())
    jax.effects_barrier()
    assert len(calls) == 2 * 3 + 20 + 3  # iterations, and a product for each residual


def test_hessians_of_trees_with_mixed_dtypes_and_derivatives_by_what_they_depend_on():
    params = {"w": jnp.array([1.0, 2.0]), "low": jnp.ones(1, jnp.bfloat16), "n": jnp.array(1)}

    def top(scale):
        def f(params):
            low = params["low"].astype(jnp.float32)
            return (
                scale * params["w"] @ jnp.array([3.0, 1.0]) ** 2
                + scale * 4 * (params["w"][0] ** 2 + 2 * params["w"][1] ** 2) / 2
                + jnp.sum(low**2)
            )

        return eigenpairs(hessian_operator(f, params), 1, key=KEY)

    found, slopes = jax.jit(lambda scale: (top(scale), jax.jacfwd(top)(scale)))(1.5)
    assert found.eigenvectors["n"] is None
    assert found.eigenvectors["w"].shape == (1, 2)
    assert found.eigenvectors["low"].dtype == jnp.bfloat16
    np.testing.assert_allclose(found.eigenvalues, [12], rtol=1e-5)
    np.testing.assert_allclose(slopes.eigenvalues, [8], rtol=1e-5)
    assert not slopes.eigenvectors["w"].any()


def test_derivative_of_an_eigenvalue_is_that_of_numpys():
    with jax.enable_x64(True):
        base, change = symmetric(VALUES), symmetric(VALUES[::-1], 1)

        def top(t):
            values = eigenpairs(of_array(base + t * change, jnp.float64), 2, key=KEY).eigenvalues
            return values, values

        def numpys(t):
            return np.linalg.eigvalsh(base + t * change)[::-1][:2]

        slope = (numpys(1e-5) - numpys(-1e-5)) / 2e-5
        slopes, values = jax.jit(jax.vmap(jax.jacrev(top, has_aux=True)))(jnp.array([0.0, 0.3]))
        np.testing.assert_allclose(slopes[0], slope, rtol=1e-6)
        np.testing.assert_allclose(values, [numpys(0.0), numpys(0.3)], rtol=1e-10)


def test_power_iteration_finds_the_largest_by_size():
    with jax.enable_x64(True):
        dense = symmetric([-6.0, -1.0, 0.5, 2.0, 3.0, 4.0, 4.5])
        a = operator(dense, jnp.float64, symmetric=True)
        found = jax.jit(lambda key: power_iteration(a, key=key, iterations=120))(KEY)
        np.testing.assert_allclose(found.eigenvalues, -6, rtol=1e-12)
        assert found.residuals < 1e-12
        product = a @ found.eigenvectors
        error = jax.tree.map(lambda a, v: abs(a + 6 * v).max(), product, found.eigenvectors)
        assert max(jax.tree.leaves(error)) < 1e-12
        early = jax.jit(lambda key: power_iteration(a, key=key, iterations=2))(KEY)
        assert float(early.residuals) > 1e-2
    nothing = jax.jit(lambda: power_iteration(of_array(np.zeros((3, 3))), key=KEY, iterations=3))()
    assert (nothing.eigenvalues, nothing.residuals) == (0, 0)
    np.testing.assert_allclose(jnp.linalg.norm(nothing.eigenvectors), 1, rtol=1e-6)


def unmarked():
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    return LinearOperator(lambda v: v, spec, spec)


EYE = of_array(np.eye(3))
ERRORS = {
    "unmarked": (
        lambda: eigenpairs(unmarked(), 1, key=KEY),
        TypeError,
        "`eigenpairs`: the operator must be symmetric, got one that is not marked so. Make it "
        "with symmetric=True if it is.",
    ),
    "unmarked power": (
        lambda: power_iteration(unmarked(), key=KEY, iterations=3),
        TypeError,
        "`power_iteration`: the operator must be symmetric, got one that is not marked so. Make "
        "it with symmetric=True if it is.",
    ),
    "too many": (
        lambda: eigenpairs(EYE, 4, key=KEY),
        ValueError,
        "`eigenpairs`: k <= iterations <= elements of the input must hold, got k = 4, "
        "iterations = 3 and 3 elements.",
    ),
    "too few iterations": (
        lambda: eigenpairs(EYE, 2, key=KEY, iterations=1),
        ValueError,
        "`eigenpairs`: k <= iterations <= elements of the input must hold, got k = 2, "
        "iterations = 1 and 3 elements.",
    ),
    "which": (
        lambda: eigenpairs(EYE, 2, key=KEY, which="big"),
        ValueError,
        "`eigenpairs`: which must be one of 'largest', 'smallest', 'absolute', 'ends', got 'big'.",
    ),
    "k": (
        lambda: eigenpairs(EYE, 0, key=KEY),
        ValueError,
        "`eigenpairs`: k must be a positive whole number, got 0.",
    ),
    "iterations": (
        lambda: power_iteration(EYE, key=KEY, iterations=1.5),
        TypeError,
        "`power_iteration`: iterations must be a positive whole number, got 1.5.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == words


def test_an_empty_input_is_refused():
    nothing = empty()
    a = LinearOperator(nothing.mv, nothing.input, nothing.output, symmetric=True)
    with pytest.raises(ValueError, match="`eigenpairs`: the operator's input must have an element"):
        eigenpairs(a, 1, key=KEY)
