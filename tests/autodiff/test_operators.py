"""The linear operator itself, and each operator against dense matrices that JAX or numpy makes."""

import builtins
from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.autodiff.curvature import (
    empirical_fisher_operator,
    fisher_operator,
    gauss_newton_operator,
)
from funcnet.autodiff.operators import (
    LinearOperator,
    hessian_operator,
    jacobian_operator,
    spec_of,
)
from tests.autodiff import trees


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def loss(outputs):
    return jnp.sum(jnp.cosh(outputs["waves"])) * jnp.exp(outputs["level"])


def vector_of(outputs):
    return jnp.concatenate([outputs["level"][None], outputs["waves"]])


def log_probs(params, scale=1.0):
    return vector_of(trees.outputs(params, scale))


def jacobian_of(f, vector, rebuild):
    return jax.jacfwd(lambda v: f(rebuild(v)))(vector)


def gauss_newton_of(vector, rebuild):
    jac = jacobian_of(log_probs, vector, rebuild)
    at = log_probs(rebuild(vector))
    inner = jax.hessian(lambda o: loss({"level": o[0], "waves": o[1:]}))(at)
    return jac.T @ inner @ jac


def gram_of(vector, rebuild):
    jac = jacobian_of(log_probs, vector, rebuild)
    return jac.T @ jac


# the operator of params, and its matrix by other means; both with the params of a row
OPERATORS = {
    "jacobian": (
        partial(jacobian_operator, trees.outputs),
        partial(jacobian_of, log_probs),
    ),
    "hessian": (
        partial(hessian_operator, trees.objective),
        lambda vector, rebuild: jax.hessian(lambda v: trees.objective(rebuild(v)))(vector),
    ),
    "gauss_newton": (partial(gauss_newton_operator, trees.outputs, loss), gauss_newton_of),
    "gaussian fisher": (partial(fisher_operator, trees.outputs, "gaussian"), gram_of),
    "empirical fisher": (partial(empirical_fisher_operator, log_probs), gram_of),
}


FEW = ["nested", "mixed floats", "integers"]  # the products and matrices have all kinds


@pytest.mark.parametrize("kind", [*FEW, "rank 0", "dataclass", "bools and keys"])
def test_operators_are_the_dense_matrices(kind):
    params = trees.TREES[kind]()
    vector, rebuild = trees.flat(params)
    tolerance = 1e-5 if kind == "mixed floats" else 1e-9
    rows = [name for name in OPERATORS if kind in FEW or name in ("jacobian", "hessian")]

    @jax.jit
    def both(params):
        found = {name: OPERATORS[name][0](params).to_dense() for name in rows}
        return found, {name: OPERATORS[name][1](vector, rebuild) for name in rows}

    found, expected = both(params)
    for name in rows:
        scale = float(jnp.max(jnp.abs(expected[name])))
        np.testing.assert_allclose(
            found[name], expected[name], rtol=tolerance, atol=tolerance * scale, err_msg=name
        )


@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("name", OPERATORS)
def test_products_and_transposes_have_the_trees_of_their_spaces(kind, name):
    params = trees.TREES[kind]()
    made = []

    def products(params):
        made.append(OPERATORS[name][0](params))
        v, u = (
            jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), each)
            for each in (made[0].input, made[0].output)
        )
        return made[0] @ v, made[0].T @ u

    forward, backward = jax.eval_shape(products, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(forward, made[0].output)
    chex.assert_trees_all_equal_shapes_and_dtypes(backward, made[0].input)
    floats = sum(map(trees.floating, jax.tree.leaves(params)))
    assert len(jax.tree.leaves(made[0].input)) == floats
    assert made[0].symmetric == (name != "jacobian")
    assert made[0].positive_semidefinite == ("fisher" in name)


def test_an_input_is_the_very_tree_of_params_where_all_are_floats():
    params = trees.TREES["nested"]()
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jacobian_operator(trees.outputs, params).input, params
    )
    assert jax.tree.structure(
        hessian_operator(trees.objective, params).input
    ) == jax.tree.structure(params)


def test_a_block_of_chosen_leaves():
    params = {"a": trees.draw(2), "b": trees.draw(3), "n": jnp.array(2)}
    of_b = hessian_operator(trees.objective, params, wrt="b")
    assert of_b.input == {"a": None, "b": jax.ShapeDtypeStruct((3,), jnp.float64), "n": None}
    whole = jax.jit(lambda p: hessian_operator(trees.objective, p).to_dense())(params)
    np.testing.assert_allclose(of_b.to_dense(), whole[2:, 2:], rtol=1e-10)
    for make, _ in OPERATORS.values():
        assert (
            jax.eval_shape(lambda p, make=make: make(p, wrt="a").to_dense(), params).shape[1] == 2
        )


@pytest.mark.parametrize("name", OPERATORS)
def test_further_arguments_reach_the_function(name):
    dense = jax.jit(lambda *args: OPERATORS[name][0](*args).to_dense())
    assert not np.allclose(dense(trees.draw(3), 1.0), dense(trees.draw(3), 2.0))


def test_a_function_is_traced_once_for_all_products():
    calls = []

    def f(x):
        calls.append(x)
        return jnp.sin(x)

    a = jacobian_operator(f, trees.draw(3))
    for seed in range(3):
        a @ trees.draw(3, seed=seed), a.T @ trees.draw(3, seed=seed)
    a.to_dense()
    assert len(calls) == 1


# --- the operator itself

MATRIX = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def example():
    spec = {"y": jax.ShapeDtypeStruct((2,), jnp.float64)}, jax.ShapeDtypeStruct((3,), jnp.float64)
    return LinearOperator(lambda v: {"y": MATRIX @ v}, spec[1], spec[0])


def test_transposing_twice_gives_the_first():
    a = example()
    np.testing.assert_array_equal(a.to_dense(), MATRIX)
    np.testing.assert_array_equal(a.T.to_dense(), MATRIX.T)
    np.testing.assert_array_equal(a.T.T.to_dense(), MATRIX)
    assert (a.T.input, a.T.output) == (a.output, a.input)
    symmetric = replace(a, symmetric=True)
    assert symmetric.T is symmetric


def test_numbers_and_numpy_arrays_are_taken():
    a = example()
    np.testing.assert_array_equal((a @ np.ones(3))["y"], [6, 15])
    b = hessian_operator(lambda x: x**3, 2.0)
    assert float(b @ 1.0) == 12.0


def test_products_compose_with_jit_vmap_and_grad():
    a = example()
    v = trees.draw(4, 3)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda v: a @ v))(v)["y"], v @ MATRIX.T)
    grads = jax.grad(lambda v: jnp.sum((a @ v)["y"] ** 2))(v[0])
    np.testing.assert_allclose(grads, 2 * MATRIX.T @ MATRIX @ np.asarray(v[0]))


def test_lineax_solves_with_it():
    lineax = pytest.importorskip("lineax")
    params = {"a": trees.draw(3), "n": jnp.array(2), "b": [trees.draw(2)]}
    h = gauss_newton_operator(
        lambda params, m: m @ jnp.concatenate([params["a"], params["b"][0]]),
        lambda y: jnp.sum(y**2),
        params,
        trees.draw(6, 5),
    )
    b = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), h.input)
    definite = replace(h, positive_semidefinite=True)
    solver = lineax.CG(rtol=1e-12, atol=1e-12)
    solution = lineax.linear_solve(definite.to_lineax(), b, solver)
    expected = np.linalg.solve(h.to_dense(), np.ones(5))
    np.testing.assert_allclose(trees.flat(solution.value)[0], expected, rtol=1e-8)
    chex.assert_trees_all_close(h.to_lineax().mv(b), h @ b)
    assert lineax.is_symmetric(h.to_lineax())
    assert not lineax.is_positive_semidefinite(h.to_lineax())
    jac = jacobian_operator(jnp.sin, trees.draw(3)).to_lineax()
    assert not lineax.is_symmetric(jac)
    np.testing.assert_allclose(jac.as_matrix(), np.diag(np.cos(trees.draw(3))))
    np.testing.assert_allclose(jac.T.as_matrix(), np.diag(np.cos(trees.draw(3))))


def test_without_lineax_there_are_words(monkeypatch):
    missing = builtins.__import__

    def importing(name, *args, **kwargs):
        if name == "lineax":
            raise ImportError(name)
        return missing(name, *args, **kwargs)

    monkeypatch.setattr("funcnet.autodiff.operators.import_module", importing)
    with pytest.raises(ImportError) as found:
        example().to_lineax()
    assert str(found.value) == (
        "`LinearOperator.to_lineax`: lineax must be installed. "
        "Run `pip install 'funcnet[solvers]'`."
    )


def test_the_spec_of_a_function_is_that_of_its_output():
    spec = spec_of(lambda x: {"y": x[0]}, jnp.ones((2, 3)))
    assert spec == {"y": jax.ShapeDtypeStruct((3,), jnp.float64)}


X = np.ones(3)
ERRORS = {
    "another shape": (
        lambda: example() @ jnp.ones(2),
        ValueError,
        "`LinearOperator`: v must be like its input, got float64[2] in place of "
        "float64[3]. Give an array of that shape and dtype for each leaf.",
    ),
    "another tree": (
        lambda: example().T @ {"y": jnp.ones(2), "z": 1.0},
        ValueError,
        "`LinearOperator`: v must be like its input, got z: not expected, got "
        "float64[]. Give an array of that shape and dtype for each leaf.",
    ),
    "another dtype": (
        lambda: hessian_operator(jnp.sum, jnp.ones(3)) @ jnp.ones(3, int),
        ValueError,
        "`LinearOperator`: v must be like its input, got int64[3] in place of "
        "float64[3]. Give an array of that shape and dtype for each leaf.",
    ),
    "hessian of a vector": (
        lambda: hessian_operator(jnp.sin, X),
        ValueError,
        "`hessian_operator`: f must return a real scalar, got float64[3]. Take its mean or sum, "
        "or ask `jacobian` for the derivative of each element.",
    ),
    "jacobian of integers": (
        lambda: jacobian_operator(lambda x: {"y": x, "n": jnp.argmax(x)}, X),
        TypeError,
        "`jacobian_operator`: f must return arrays of real floats, got {'y': float64[3], 'n': "
        "int64[]}. Integers have no derivative: is there a rounding, a comparison or an argmax at "
        "the end of f?",
    ),
    "jacobian of nothing": (
        lambda: jacobian_operator(lambda x: None, X),
        TypeError,
        "`jacobian_operator`: f must return arrays of real floats, got None.",
    ),
    "jacobian of complex numbers": (
        lambda: jacobian_operator(lambda x: x * 1j, X),
        TypeError,
        "`jacobian_operator`: f must return arrays of real floats, got complex128[3]. Take its "
        "real part, or the square of its modulus.",
    ),
    "a loss for each": (
        lambda: gauss_newton_operator(jnp.sin, jnp.square, X),
        ValueError,
        "`gauss_newton_operator`: loss must return a real scalar, got float64[3]. Take its mean or "
        "sum, or ask `jacobian` for the derivative of each element.",
    ),
    "a model of integers": (
        lambda: fisher_operator(jnp.argsort, "gaussian", X),
        TypeError,
        "`fisher_operator`: model must return arrays of real floats, got int64[3]. Integers have "
        "no derivative: is there a rounding, a comparison or an argmax at the end of model?",
    ),
    "a mean of log-probabilities": (
        lambda: empirical_fisher_operator(jnp.mean, X),
        ValueError,
        "`empirical_fisher_operator`: log_probs must return one number for each example, "
        "float[B], got float64[]. Sum the others over all axes but the first.",
    ),
    "a score for each element": (
        lambda: fisher_operator(
            jnp.sin,
            (lambda outputs, y: -((outputs - y) ** 2), lambda key, outputs: outputs),
            np.ones((3, 2)),
            key=jax.random.key(0),
        ),
        ValueError,
        "`fisher_operator`: log_prob must return one number for each example, float[3], "
        "got float64[3, 2]. Sum the others over all axes but the first.",
    ),
    "an unknown likelihood": (
        lambda: fisher_operator(jnp.sin, "categorial", X),
        ValueError,
        "`fisher_operator`: likelihood must be a known name or a pair, got 'categorial'. "
        "Did you mean 'categorical'?",
    ),
    "no likelihood": (
        lambda: fisher_operator(jnp.sin, jnp.sum, X),
        TypeError,
        f"`fisher_operator`: likelihood must be a name or a pair of functions (log_prob, sample), "
        f"got {jnp.sum!r}.",
    ),
    "no key": (
        lambda: fisher_operator(jnp.sin, (jnp.sum, jnp.sum), X),
        TypeError,
        "`fisher_operator`: key must be given to sample, got None. "
        "Give key=jax.random.key(0), say.",
    ),
    "a key for nothing": (
        lambda: fisher_operator(jnp.sin, "poisson", X, key=jax.random.key(0)),
        ValueError,
        "`fisher_operator`: key must be None for the likelihood 'poisson', which is exact, "
        "got key<fry>[]. To sample, give (log_prob, sample).",
    ),
    "no samples": (
        lambda: fisher_operator(jnp.sin, "poisson", X, samples=0),
        ValueError,
        "`fisher_operator`: samples must be a positive whole number, got 0.",
    ),
    "a pattern that matches nothing": (
        lambda: jacobian_operator(jnp.sin, X, wrt="head"),
        ValueError,
        "`jacobian_operator`: a pattern must match some path of params, got 'head'. "
        "It is one array, without a path.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_fault(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as found:
        call()
    assert str(found.value) == words
