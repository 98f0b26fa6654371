"""Rules of one's own: their values to the bit, their derivatives in each mode they have."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.autodiff import rules
from funcnet.autodiff.rules import (
    clip_gradient,
    reverse_gradient,
    score_function,
    stop_gradient,
    straight_through,
)

TREE = {"a": jnp.array([0.1, -2.7, 3.3]), "b": (jnp.float32(1.6),)}
HALF = jax.tree.map(lambda x: x / 2, TREE)


def both_modes(f, x):
    """The derivative of a sum of cosines, in reverse mode, and along `HALF` in forward mode."""

    def total(x):
        return sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(f(x)))

    return jax.grad(total)(x), jax.jvp(total, (x,), (HALF,))[1]


def dot(x, y):
    return sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (x, y)), strict=True))


SOFT = {
    "identity": (None, lambda x: x, jnp.ones_like),
    "tanh": (lambda x: jax.tree.map(jnp.tanh, x), jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2),
}


@pytest.mark.parametrize("name", SOFT)
def test_straight_through_has_the_value_of_one_and_the_slope_of_the_other(name):
    soft, _, slope = SOFT[name]
    f = straight_through(lambda x: jax.tree.map(jnp.round, x), soft)
    value = jax.jit(f)(TREE)
    chex.assert_trees_all_equal(value, jax.tree.map(jnp.round, TREE))
    want = jax.tree.map(lambda x: -jnp.sin(jnp.round(x)) * slope(x), TREE)
    grads, tangent = both_modes(f, TREE)
    chex.assert_trees_all_close(grads, want, rtol=1e-5)
    np.testing.assert_allclose(tangent, dot(want, HALF), rtol=1e-5)


def test_straight_through_of_any_order_dtype_and_under_vmap():
    f = straight_through(lambda x: x > 0, jnp.tanh)
    x = jnp.array([-0.5, 0.4])
    for order in range(4):
        soft, derivative = jnp.tanh, f
        for _ in range(order):
            soft, derivative = jax.grad(soft), jax.grad(derivative)
        got = jax.vmap(derivative)(x)
        want = jax.vmap(soft)(x) if order else jnp.array([0.0, 1.0])
        np.testing.assert_allclose(got, want, rtol=1e-5)
    second = jax.grad(jax.grad(lambda x: f(x) ** 2))(0.4)  # 2 soft'² + 2 hard soft''
    slope, bend = jax.grad(jnp.tanh)(0.4), jax.grad(jax.grad(jnp.tanh))(0.4)
    np.testing.assert_allclose(second, 2 * slope**2 + 2 * bend, rtol=1e-5)
    narrow = jnp.asarray(0.5, jnp.bfloat16)
    assert f(narrow).dtype == jnp.bfloat16
    assert jax.grad(f)(narrow).dtype == jnp.bfloat16


def test_what_has_no_derivative_at_all_can_be_hard():
    def outside(x):
        return jax.pure_callback(np.round, jax.ShapeDtypeStruct((), jnp.float32), x)

    assert jax.value_and_grad(straight_through(outside))(1.6) == (2.0, 1.0)


def test_straight_through_takes_arguments_and_what_it_closes_over():
    def loss(x, levels, scale):
        f = straight_through(
            lambda x, levels: jnp.round(x * levels) * scale, lambda x, levels: x * levels * scale
        )
        return f(x, levels)

    assert loss(0.3, 4.0, 2.0) == 2.0
    assert jax.grad(loss, (0, 1, 2))(0.5, 4.0, 2.0) == (8.0, 1.0, 2.0)


def test_a_gradient_is_reversed():
    scale = jnp.float32(0.5)
    chex.assert_trees_all_equal(reverse_gradient(TREE, scale), TREE)
    want = jax.tree.map(lambda x: 0.5 * jnp.sin(x), TREE)
    grads, tangent = both_modes(lambda x: jax.jit(reverse_gradient)(x, scale), TREE)
    chex.assert_trees_all_close(grads, want, rtol=1e-5)
    np.testing.assert_allclose(tangent, dot(want, HALF), rtol=1e-5)
    assert jax.grad(lambda s: reverse_gradient(3.0, s) ** 2)(0.5) == 0
    assert jax.grad(jax.grad(lambda x: reverse_gradient(x) ** 3))(2.0) == 12.0  # twice reversed
    np.testing.assert_array_equal(
        jax.vmap(jax.grad(lambda x: reverse_gradient(x, 2.0) ** 2))(jnp.arange(3.0)), [0, -4, -8]
    )


def test_integers_pass_through_every_rule():
    mixed = {"x": jnp.ones(2), "n": jnp.arange(3), "flag": True}
    for rule in (reverse_gradient, lambda t: clip_gradient(t, norm=1.0), stop_gradient):
        chex.assert_trees_all_equal(rule(mixed), mixed)
    grads = jax.grad(lambda t: reverse_gradient(t)["x"].sum(), allow_int=True)(mixed)
    np.testing.assert_array_equal(grads["x"], [-1, -1])


def clipped(g, **most):
    """What comes back to a tree where `g` comes in."""
    return jax.jit(jax.grad(lambda x: dot(clip_gradient(x, **most), g)))(TREE)


def test_gradients_are_clipped():
    g = {"a": jnp.array([3.0, 0.0, -4.0]), "b": (jnp.float32(12.0),)}  # of norm 13
    third = jax.tree.map(lambda leaf: leaf / 3, g)
    chex.assert_trees_all_close(clipped(g, norm=13 / 3), third, rtol=1e-6)
    chex.assert_trees_all_equal(clipped(g, norm=13.1), g)
    chex.assert_trees_all_equal(clipped(g, value=20.0), g)
    want = {"a": jnp.array([3.0, 0.0, -3.5]), "b": (jnp.float32(3.5),)}
    chex.assert_trees_all_equal(clipped(g, value=3.5), want)
    chex.assert_trees_all_equal(clip_gradient(TREE, norm=0.1), TREE)
    zeros = jax.tree.map(jnp.zeros_like, g)
    chex.assert_trees_all_equal(clipped(zeros, norm=0.0), zeros)
    assert np.isnan(clipped({**g, "b": (jnp.nan,)}, norm=1.0)["a"]).all()


@pytest.mark.parametrize(("scale", "norm"), [(1e20, 1.0), (3e38, 1.0), (1e-24, 1e-25), (1, 1e-3)])
def test_gradients_of_any_size_are_clipped(scale, norm):
    g = jax.grad(lambda x: (clip_gradient(x, norm=norm) * scale).sum())(jnp.ones(2))
    np.testing.assert_allclose(g / norm, [0.5**0.5] * 2, rtol=1e-6)


def test_clipping_is_per_example_under_vmap_keeps_dtypes_and_is_differentiated_again():
    def f(x, w):
        return clip_gradient(x, norm=1.0) @ w

    w = jnp.array([[3.0, 4.0], [0.3, 0.4]])
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(w, w), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)
    narrow = jnp.ones(2, jnp.bfloat16)
    assert jax.grad(f)(narrow, 4 * narrow).dtype == jnp.bfloat16
    inner = jax.grad(lambda x: clip_gradient(x, value=1.0) ** 2)
    assert jax.grad(inner)(0.25) == 2.0
    assert jax.grad(inner)(5.0) == 0.0
    still = jax.grad(lambda x: clip_gradient(x, norm=1.0) ** 2)
    assert jax.grad(still)(0.0) == 2.0


def test_leaves_are_stopped_by_path():
    params = {"encoder": {"kernel": 2.0, "bias": 1.0}, "head": {"kernel": 3.0, "bias": None}}

    def loss(params, *patterns):
        stopped = stop_gradient(params, *patterns)
        assert jax.tree.structure(stopped) == jax.tree.structure(params)
        return sum(leaf**2 for leaf in jax.tree.leaves(stopped))

    def slopes(*patterns):
        g = jax.grad(loss)(params, *patterns)
        tangent = jax.jvp(lambda p: loss(p, *patterns), (params,), (params,))[1]
        assert tangent == dot(g, params)
        return jax.tree.leaves(g)

    assert slopes("encoder/**") == [0.0, 0.0, 6.0]
    assert slopes("**/kernel") == [2.0, 0.0, 0.0]
    assert slopes("encoder/bias", "head/*") == [0.0, 4.0, 0.0]
    assert slopes() == [0.0, 0.0, 0.0]


LOGITS, COSTS = jnp.array([0.3, -0.5, 0.2]), jnp.array([11.0, 15.0, 8.0])


def sample(logits, *, key):
    return jax.random.categorical(key, logits)


def log_prob(logits, x):
    return jax.nn.log_softmax(logits)[x]


def cost(logits, x):
    return COSTS[x] * (1 + logits[0] ** 2)


def expected(logits):
    return jax.nn.softmax(logits) @ COSTS * (1 + logits[0] ** 2)


@pytest.mark.parametrize("baseline", [True, False])
def test_the_estimate_is_unbiased_over_all_draws(baseline, x64):
    n, logits = 2, LOGITS.astype(float)
    draws = jnp.array(list(itertools.product(range(3), repeat=n)))
    chance = jnp.exp(log_prob(logits, draws).sum(1))

    def of_draw(draw):
        def estimate(logits):
            costs, scores = cost(logits, draw), log_prob(logits, draw)
            return rules.surrogate(costs, scores, baseline)

        return estimate(logits), jax.grad(estimate)(logits), jax.hessian(estimate)(logits)

    each = jax.jit(jax.vmap(of_draw))(draws)
    mean = jax.tree.map(lambda each: jnp.tensordot(chance, each, 1), each)
    want = jax.jit(lambda p: (expected(p), jax.grad(expected)(p), jax.hessian(expected)(p)))(logits)
    chex.assert_trees_all_close(mean, want, rtol=1e-6)  # COSTS were made in float32


def test_many_samples_come_close_and_a_baseline_lowers_the_variance():
    keys = jax.random.split(jax.random.key(0), 2000)
    want, spread = jax.grad(expected)(LOGITS), {}
    for baseline in (True, False):
        estimate = score_function(cost, sample, log_prob, samples=8, baseline=baseline)
        slope = jax.jit(
            jax.vmap(lambda key, estimate=estimate: jax.grad(estimate)(LOGITS, key=key))
        )
        grads = np.asarray(slope(keys))
        error = grads.std(0) / len(keys) ** 0.5
        assert (np.abs(grads.mean(0) - want) < 4 * error).all()
        spread[baseline] = grads.std(0).sum()
    assert spread[True] < 0.9 * spread[False]


def test_the_value_is_the_mean_cost_and_samples_have_no_derivative():
    def reparametrised(mean, *, key):
        return mean + jax.random.normal(key)

    def far(mean, x):
        return -((x - mean) ** 2) / 2

    estimate = score_function(
        lambda mean, x: jax.lax.stop_gradient(x) ** 2, reparametrised, far, samples=20_000
    )
    key = jax.random.key(1)
    x = 0.5 + jax.vmap(jax.random.normal)(jax.random.split(key, 20_000))
    value, slope = jax.jit(jax.value_and_grad(lambda m: estimate(m, key=key)))(0.5)
    np.testing.assert_allclose(value, (x**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(slope, 1.0, atol=0.15)  # d(m² + 1)/dm; deviation 0.03
    tangent = jax.jvp(lambda m: estimate(m, key=key), (0.5,), (1.0,))[1]
    np.testing.assert_allclose(tangent, slope, rtol=1e-4)


def test_further_arguments_reach_all_three():
    estimate = score_function(
        lambda p, x, a: a * x,
        lambda p, a, *, key: jax.random.bernoulli(key, p),
        lambda p, x, a: jnp.where(x, jnp.log(p), jnp.log(1 - p)),
        samples=4,
    )
    value, slope = jax.value_and_grad(lambda a: estimate(0.3, a, key=jax.random.key(0)))(10.0)
    np.testing.assert_allclose(10 * slope, value, rtol=1e-6)


ERRORS = {
    "shape": (
        lambda: straight_through(lambda x: {"y": x["y"].sum()})({"y": jnp.ones(2)}),
        ValueError,
        "`straight_through`: hard must give a tree like that of soft, or of x, got y: expected "
        "float32[2], got float32[]. Give one number for each.",
    ),
    "both": (
        lambda: clip_gradient(1.0, norm=1.0, value=1.0),
        ValueError,
        "`clip_gradient`: one of norm and value must be given, got both. Give `norm=1.0` say.",
    ),
    "neither": (
        lambda: clip_gradient(1.0),
        ValueError,
        "`clip_gradient`: one of norm and value must be given, got neither. Give `norm=1.0` say.",
    ),
    "norm": (
        lambda: clip_gradient(1.0, norm=-1.0),
        ValueError,
        "`clip_gradient`: norm must be a number, 0 or more, got -1.0. Give 1.0 say.",
    ),
    "value": (
        lambda: jax.jit(lambda value: clip_gradient(1.0, value=value))(jnp.ones(2)),
        ValueError,
        "`clip_gradient`: value must be a number, 0 or more, got float32[2]. Give 1.0 say.",
    ),
    "word": (
        lambda: clip_gradient(1.0, norm="a"),
        TypeError,
        "`clip_gradient`: norm must be a number, 0 or more, got 'a'. Give 1.0 say.",
    ),
    "scale": (
        lambda: reverse_gradient(1.0, jnp.ones(2)),
        ValueError,
        "`reverse_gradient`: scale must be a number or a scalar array, got float32[2]. Give 1.0 "
        "say.",
    ),
    "patterns": (
        lambda: stop_gradient({"a": 1.0}, ["a"]),
        TypeError,
        "`stop_gradient`: each pattern must be a string, got ['a']. Give several one after the "
        "other: `stop_gradient(params, 'a', 'b/**')`.",
    ),
    "hard": (
        lambda: straight_through(3),
        TypeError,
        "`straight_through`: hard must be a function, got 3. Give it first, its arguments after "
        "it.",
    ),
    "path": (
        lambda: stop_gradient({"head": {"bias": 1.0}}, "had/*"),
        ValueError,
        "`stop_gradient`: a pattern must match some path of params, got 'had/*'. The paths are "
        "head/bias.",
    ),
    "samples": (
        lambda: score_function(cost, sample, log_prob, samples=0),
        ValueError,
        "`score_function`: samples must be a positive whole number, got 0.",
    ),
    "one sample": (
        lambda: score_function(cost, sample, log_prob, samples=1),
        ValueError,
        "`score_function`: samples must be 2 or more for a baseline, the mean of the others, got "
        "1. Draw more, or set baseline=False.",
    ),
    "cost": (
        lambda: score_function(lambda p, x: p, sample, log_prob, samples=2)(
            LOGITS, key=jax.random.key(0)
        ),
        ValueError,
        "`score_function`: cost must give a float scalar for one sample, got float32[3]. Sum it "
        "over the sample, or cast it.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_do(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value) == words


def test_forward_mode_of_a_clip_is_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: clip_gradient(x, norm=1.0), (1.0,), (1.0,))
