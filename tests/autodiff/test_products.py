"""Products against dense matrices: JAX's on flat vectors, sums over outcomes, closed forms."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.autodiff.operators import hessian_operator
from funcnet.autodiff.products import (
    empirical_fisher_vp,
    fisher_vp,
    gauss_newton_vp,
    hvp,
    jvps,
    vjps,
)
from tests.autodiff import trees


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def loss(outputs):
    return jnp.sum(jnp.cosh(outputs["waves"])) * jnp.exp(outputs["level"])


def log_probs(params):
    found = trees.outputs(params)
    return jnp.concatenate([found["level"][None], found["waves"]])


PRODUCTS = {
    "hvp": partial(hvp, trees.objective),
    "gauss_newton_vp": partial(gauss_newton_vp, trees.outputs, loss),
    "fisher_vp": partial(fisher_vp, trees.outputs, "gaussian"),
    "empirical_fisher_vp": partial(empirical_fisher_vp, log_probs),
}


def oracles(params, v):
    """What the products must be, from dense matrices of a flat vector."""
    vector, rebuild = trees.flat(params)
    hessian = jax.hessian(lambda z: trees.objective(rebuild(z)))(vector)
    jac = jax.jacfwd(lambda z: log_probs(rebuild(z)))(vector)
    of_loss = jax.hessian(lambda o: loss({"level": o[0], "waves": o[1:]}))(log_probs(params))
    return {
        "hvp": hessian @ v,
        "gauss_newton_vp": jac.T @ (of_loss @ (jac @ v)),
        "fisher_vp": jac.T @ (jac @ v),
        "empirical_fisher_vp": jac.T @ (jac @ v),
    }


FEW = {"nested", "mixed floats", "integers"}  # the others differ in how they are split alone


@pytest.mark.parametrize("kind", trees.TREES)
def test_products_are_those_of_dense_matrices(kind):
    params = trees.TREES[kind]()
    v = trees.like(params)
    tolerance = 1e-5 if kind == "mixed floats" else 1e-9
    names = PRODUCTS if kind in FEW else ["hvp"]

    @jax.jit
    def both(params, v):
        wanted = oracles(params, trees.flat(v)[0])
        return {name: PRODUCTS[name](params, v) for name in names}, {n: wanted[n] for n in names}

    found, expected = both(params, v)
    for name in names:
        chex.assert_trees_all_equal_shapes_and_dtypes(
            found[name], jax.tree.map(jnp.asarray, params)
        )
        scale = float(jnp.max(jnp.abs(expected[name])))
        np.testing.assert_allclose(
            trees.flat(found[name])[0], expected[name], rtol=tolerance, atol=tolerance * scale
        )
        for leaf in jax.tree.leaves(found[name]):
            assert trees.floating(leaf) or bool(jnp.all(leaf == jnp.zeros_like(leaf)))


@pytest.mark.parametrize("kind", ["nested", "rank 0", "mixed floats", "integers", "bools and keys"])
def test_batches_of_products_are_those_of_the_jacobian(kind):
    params = trees.TREES[kind]()
    vector, rebuild = trees.flat(params)
    tolerance = 1e-5 if kind == "mixed floats" else 1e-9
    jac = np.asarray(jax.jit(jax.jacfwd(lambda z: log_probs(rebuild(z))))(vector))
    v, u = trees.draw(3, vector.size), trees.draw(5, 4)
    forward = jax.jit(partial(jvps, trees.outputs))(params, jax.vmap(rebuild)(v))
    found = np.concatenate([forward["level"][:, None], forward["waves"]], 1)
    np.testing.assert_allclose(found, v @ jac.T, rtol=tolerance, atol=tolerance)
    us = {"level": u[:, 0], "waves": u[:, 1:]}
    backward = jax.jit(partial(vjps, trees.outputs))(params, us)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(backward, stacked)
    floats = [x.reshape(5, -1) for x in jax.tree.leaves(backward) if trees.floating(x)]
    np.testing.assert_allclose(np.concatenate(floats, 1), u @ jac, rtol=tolerance, atol=tolerance)
    for leaf in jax.tree.leaves(backward):
        assert trees.floating(leaf) or bool(jnp.all(leaf == jnp.zeros_like(leaf)))


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_stands_at_integers_is_not_looked_at(name):
    params = {"a": trees.draw(2), "n": jnp.arange(2)}
    product = jax.jit(PRODUCTS[name])
    expected = product(params, {"a": trees.draw(2, seed=1), "n": jnp.arange(2)})
    for other in (None, jnp.ones(7), 3.5):
        found = product(params, {"a": trees.draw(2, seed=1), "n": other})
        chex.assert_trees_all_equal(found, expected)


def test_subtrees_of_integers_are_passed_by_whatever_stands_there():
    params = {"n": {"a": jnp.arange(1, 4), "b": 2}, "w": np.ones(2)}

    def f(params):
        return params["w"] ** 3 * params["n"]["a"][0] * params["n"]["b"]

    for other in (None, 0.0, {"a": jnp.arange(5), "b": "x"}):
        vs = {"n": other, "w": np.eye(2)}
        np.testing.assert_array_equal(jvps(f, params, vs), 6 * np.eye(2))
        v = {"n": other, "w": np.ones(2)}
        product = hvp(lambda params: jnp.sum(f(params)), params, v)
        np.testing.assert_array_equal(product["w"], [12, 12])
        assert product["n"]["b"] == 0
    operator = hessian_operator(lambda params: jnp.sum(f(params)), params)
    np.testing.assert_array_equal((operator @ v)["w"], [12, 12])


def test_a_number_of_python_has_the_dtype_that_is_expected():
    product = hvp(lambda x: x**3, jnp.float32(1), 1.0)
    assert (product, product.dtype) == (6, jnp.float32)


def test_further_arguments_reach_the_function():
    x, v, by = trees.draw(3), trees.draw(3, seed=1), jnp.array([1.0, 2.0, 3.0])
    f = lambda x, by: x**2 * by  # noqa: E731  # one line, used five times
    diagonal, v = np.asarray(2 * x * by), np.asarray(v)
    np.testing.assert_allclose(
        hvp(lambda x, by: jnp.sum(f(x, by)), x, v, by), 2 * np.asarray(by) * v
    )
    of_sum = gauss_newton_vp(f, lambda y: jnp.sum(y**2), x, v, by)
    np.testing.assert_allclose(of_sum, 2 * diagonal**2 * v)
    np.testing.assert_allclose(fisher_vp(f, "gaussian", x, v, by), diagonal**2 * v)
    np.testing.assert_allclose(empirical_fisher_vp(f, x, v, by), diagonal**2 * v)
    np.testing.assert_allclose(jvps(f, x, v[None], by), diagonal * v[None])
    np.testing.assert_allclose(vjps(f, x, v[None], by), diagonal * v[None])


# --- the Fisher information

WEIGHTS = trees.draw(2, 3, dtype=np.float32)


def linear(params, x):
    return jnp.tanh(x @ params["w"])


def poisson(logs, y):
    return y * logs - jnp.exp(logs) - jax.lax.lgamma(y + 1.0)


# log p(y | outputs) of one element or row, and the outcomes over which the expectation sums
FAMILIES = {
    "categorical": (lambda o, y: jax.nn.log_softmax(o)[y], np.arange(3)),
    "bernoulli": (lambda o, y: jnp.where(y, jax.nn.log_sigmoid(o), jax.nn.log_sigmoid(-o)), [0, 1]),
    "poisson": (poisson, np.arange(40.0)),
}


def enumerated(name, params, x):
    """The Fisher matrix as it is defined: the expectation, over all outcomes, of `g g'`."""
    log_prob, outcomes = FAMILIES[name]

    def each(w, y):
        outputs = linear({"w": w.reshape(2, 3)}, x)
        return log_prob(outputs, y) if name == "categorical" else jnp.ravel(log_prob(outputs, y))

    def each_row(w, y):
        outputs = linear({"w": w.reshape(2, 3)}, x)
        return jax.vmap(log_prob, (0, None))(outputs, y)

    by = each_row if name == "categorical" else each
    total = 0.0
    for y in outcomes:
        logs = by(params["w"].ravel(), y)
        scores = jax.jacfwd(by)(params["w"].ravel(), y)
        total += np.einsum("b,bi,bj->ij", jnp.exp(logs), scores, scores)
    return total


@pytest.mark.parametrize("name", FAMILIES)
def test_fisher_products_are_expectations_over_all_outcomes(name):
    params, x = {"w": trees.draw(2, 3)}, trees.draw(4, 2)
    v = trees.like(params)
    found = fisher_vp(linear, name, params, v, x)
    expected = enumerated(name, params, x) @ np.ravel(v["w"])
    np.testing.assert_allclose(np.ravel(found["w"]), expected, rtol=1e-9)


NEGATIVE_LOGS = {
    "categorical": lambda o: -jnp.sum(jax.nn.log_softmax(o)[:, 1]),
    "gaussian": lambda o: jnp.sum((o - 0.3) ** 2) / 2,
    "bernoulli": lambda o: -jnp.sum(jax.nn.log_sigmoid(o)),
    "poisson": lambda o: -jnp.sum(poisson(o, 2.0)),
}


@pytest.mark.parametrize("name", NEGATIVE_LOGS)
def test_fisher_products_by_name_are_those_of_gauss_newton(name):
    params, x = {"w": trees.draw(2, 3)}, trees.draw(4, 2)
    v = trees.like(params)
    found = fisher_vp(linear, name, params, v, x)
    chex.assert_trees_all_close(
        found, gauss_newton_vp(linear, NEGATIVE_LOGS[name], params, v, x), rtol=1e-10
    )


def log_softmax_at(outputs, y):
    return jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], 1)[:, 0]


def test_a_fisher_product_with_labels_for_draws_is_the_empirical_one():
    params, x = {"w": trees.draw(2, 3)}, trees.draw(4, 2)
    v, labels = trees.like(params), jnp.array([0, 2, 1, 1])
    log_probs = lambda params: log_softmax_at(linear(params, x), labels)  # noqa: E731
    likelihood = log_softmax_at, lambda key, outputs: labels
    key = jax.random.key(0)
    found = fisher_vp(linear, likelihood, params, v, x, key=key, samples=3)
    chex.assert_trees_all_close(found, empirical_fisher_vp(log_probs, params, v), rtol=1e-10)
    scores = np.asarray(jax.jacrev(log_probs)(params)["w"]).reshape(4, 6)
    expected = scores.T @ scores @ np.ravel(v["w"])
    np.testing.assert_allclose(np.ravel(found["w"]), expected, rtol=1e-10)


def test_a_sampled_fisher_product_has_the_exact_one_for_its_mean():
    params, x = {"w": trees.draw(2, 3)}, trees.draw(4, 2)
    v = trees.like(params)
    likelihood = log_softmax_at, jax.random.categorical
    sampled = jax.jit(
        lambda key: fisher_vp(linear, likelihood, params, v, x, key=key, samples=64)["w"]
    )
    draws = np.asarray(jax.vmap(sampled)(jax.random.split(jax.random.key(0), 200)))
    error = draws.std(0) / np.sqrt(200)
    exact = fisher_vp(linear, "categorical", params, v, x)["w"]
    assert np.all(np.abs(draws.mean(0) - exact) < 4 * error)
    assert np.all(error < 0.05 * np.abs(exact).max())
    again = sampled(jax.random.key(1))
    np.testing.assert_array_equal(again, sampled(jax.random.key(1)))
    assert not np.array_equal(again, sampled(jax.random.key(2)))


def test_each_example_has_its_own_score_in_trees_of_outputs():
    """Normals of unknown mean and scale: an exact oracle for a pair with two kinds of outputs."""
    params = {"mean": trees.draw(4, 2), "log_scale": trees.draw(4, 2, seed=1)}
    y = trees.draw(4, 2, seed=2)

    def log_prob(outputs, y):
        z = (y - outputs["mean"]) * jnp.exp(-outputs["log_scale"])
        return jnp.sum(-(z**2) / 2 - outputs["log_scale"], 1)

    v = trees.like(params)
    likelihood = log_prob, lambda key, outputs: y
    found = fisher_vp(lambda p: p, likelihood, params, v, key=jax.random.key(0))
    z = np.asarray((y - params["mean"]) * jnp.exp(-params["log_scale"]))
    of_mean, of_scale = z * np.exp(-np.asarray(params["log_scale"])), z**2 - 1
    along = np.sum(of_mean * v["mean"] + of_scale * v["log_scale"], 1, keepdims=True)
    np.testing.assert_allclose(found["mean"], of_mean * along, rtol=1e-10)
    np.testing.assert_allclose(found["log_scale"], of_scale * along, rtol=1e-10)


# --- dtypes, composition, cost


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_narrow_floats_come_out_narrow(dtype):
    params, x = {"w": trees.draw(2, 3, dtype=dtype)}, trees.draw(4, 2, dtype=dtype)
    v = {"w": trees.draw(2, 3, dtype=dtype, seed=1)}
    likelihood = log_softmax_at, jax.random.categorical
    key = jax.random.key(0)
    product = jax.jit(partial(fisher_vp, linear, "categorical"))
    sampled = jax.eval_shape(partial(fisher_vp, linear, likelihood, key=key), params, v, x)
    narrow = product(params, v, x)["w"]
    widened = (jax.tree.map(lambda leaf: leaf.astype(float), each) for each in (params, v, x))
    wide = product(*widened)["w"]
    assert narrow.dtype == sampled["w"].dtype == dtype
    scale = float(jnp.max(jnp.abs(wide)))
    np.testing.assert_allclose(narrow.astype(float), wide, atol=8 * jnp.finfo(dtype).eps * scale)


@pytest.mark.parametrize("name", ["hvp", "gauss_newton_vp"])
def test_products_compose_with_vmap_and_grad(name):
    params, v = trees.draw(3), trees.draw(4, 3)

    def of_ours(params, v):
        return PRODUCTS[name](params, v)

    def of_oracle(params, v):
        return oracles(params, v)[name]

    def composed(f):
        each = jax.vmap(f, (None, 0))(params, v)
        return each, jax.grad(lambda params: jnp.sum(f(params, v[0])))(params)

    both = jax.jit(lambda: (composed(of_ours), composed(of_oracle)))
    chex.assert_trees_all_close(*both(), rtol=1e-9)


def test_a_loop_of_unknown_length_has_jvps_and_a_rule_for_reverse_mode_alone_has_vjps():
    def doubled(x):
        return jax.lax.while_loop(lambda c: jnp.sum(c) < 100, lambda c: c * 2, x)

    x = jnp.ones(3)
    np.testing.assert_array_equal(jvps(doubled, x, jnp.eye(3)), 64 * np.eye(3))

    @jax.custom_vjp
    def reversed_only(x):
        return x

    reversed_only.defvjp(lambda x: (x, None), lambda _, u: (-u,))
    np.testing.assert_array_equal(vjps(reversed_only, x, jnp.eye(3)), -np.eye(3))


def test_a_hessian_vector_product_costs_about_two_gradients():
    def f(params, x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) ** 2)

    params, x = {"a": trees.draw(64, 128), "b": trees.draw(128, 64)}, trees.draw(32, 64)

    def flops(g, *args):
        return jax.jit(g).lower(*args).compile().cost_analysis()["flops"]

    one = flops(jax.grad(f), params, x)
    assert flops(partial(hvp, f), params, params, x) < 2.5 * one
    of_outputs = partial(gauss_newton_vp, lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], jnp.sum)
    assert flops(of_outputs, params, params, x) < 2.5 * one


X = np.ones(3)
TREE = {"a": np.ones(2), "b": [np.ones(3)], "n": np.arange(2)}
ERRORS = {
    "hvp of a vector": (
        lambda: hvp(jnp.sin, X, X),
        ValueError,
        "`hvp`: f must return a real scalar, got float64[3]. Take its mean or sum, or ask "
        "`jacobian` for the derivative of each element.",
    ),
    "hvp with other shapes": (
        lambda: hvp(trees.objective, TREE, {"a": np.ones(3), "b": [np.arange(3)], "n": 0}),
        ValueError,
        "`hvp`: v must be like params, got a: expected float64[2], got float64[3]; "
        "b/0: expected float64[3], got int64[3]. "
        "Give an array of that shape and dtype for each leaf.",
    ),
    "hvp with another tree": (
        lambda: hvp(trees.objective, TREE, {"a": np.ones(2), "n": 0, "c": 1.0}),
        ValueError,
        "`hvp`: v must be like params, got b/0: missing, expected float64[3]; "
        "c: not expected, got float64[]. Give an array of that shape and dtype for each leaf.",
    ),
    "hvp of an operator": (
        lambda: hvp(jnp.sum, X, hessian_operator(jnp.sum, X)),
        TypeError,
        "`hvp`: v must be like params, got leaves of LinearOperator. Give arrays alone.",
    ),
    "hvp of no function": (
        lambda: hvp(X, X, X),
        TypeError,
        "`hvp`: f must be a function, got float64[3]. Give it first, its arguments after it.",
    ),
    "gauss_newton_vp": (
        lambda: gauss_newton_vp(jnp.sin, jnp.sum, X, np.ones(2)),
        ValueError,
        "`gauss_newton_vp`: v must be like params, got float64[2] in place of "
        "float64[3]. Give an array of that shape and dtype for each leaf.",
    ),
    "fisher_vp": (
        lambda: fisher_vp(jnp.sin, "gauss", X, X),
        ValueError,
        "`fisher_vp`: likelihood must be a known name or a pair, got 'gauss'. "
        "Did you mean 'gaussian'?",
    ),
    "empirical_fisher_vp": (
        lambda: empirical_fisher_vp(lambda x: jnp.outer(x, x), X, X),
        ValueError,
        "`empirical_fisher_vp`: log_probs must return one number for each example, float[B], "
        "got float64[3, 3]. Sum the others over all axes but the first.",
    ),
    "jvps with one": (
        lambda: jvps(jnp.sin, X, X),
        ValueError,
        "`jvps`: vs must be like params with one more axis in front, got "
        "float64[3] in place of float64[3, 3]. "
        "Give an array of that shape and dtype for each leaf.",
    ),
    "jvps of two lengths": (
        lambda: jvps(trees.outputs, TREE, {"a": np.ones((4, 2)), "b": [np.ones((5, 3))], "n": 0}),
        ValueError,
        "`jvps`: vs must be like params with one more axis in front, got b/0: "
        "expected float64[4, 3], got float64[5, 3]. "
        "Give an array of that shape and dtype for each leaf.",
    ),
    "vjps of another tree": (
        lambda: vjps(trees.outputs, X, {"waves": np.ones((4, 3))}),
        ValueError,
        "`vjps`: us must be like what f returns with one more axis in front, got level: "
        "missing, expected float64[4]. Give an array of that shape and dtype for each leaf.",
    ),
    "vjps of integers": (
        lambda: vjps(jnp.argmax, X, np.ones(1)),
        TypeError,
        "`vjps`: f must return arrays of real floats, got int64[]. Integers have no derivative: "
        "is there a rounding, a comparison or an argmax at the end of f?",
    ),
    "no floats": (
        lambda: hvp(jnp.sum, np.arange(3), X),
        TypeError,
        "`hvp`: params must hold floats to be differentiated, got int64[3]. "
        "Integers have no derivative: convert with .astype(jnp.float32) what is learnt.",
    ),
    "nothing": (
        lambda: jvps(jnp.sum, [], []),
        ValueError,
        "`jvps`: params must hold at least one array, got []. There is nothing to "
        "differentiate by.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_fault(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as found:
        call()
    assert str(found.value) == words
