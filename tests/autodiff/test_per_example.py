"""Gradients of each example, against backpropagation written out in numpy."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from funcnet.autodiff.per_example import (
    clipped_sum,
    gram,
    noise_scale,
    per_example_grads,
    per_example_norms,
)

BATCH = 7
NORM = 1.5
FUNCTIONS = {
    "per_example_grads": per_example_grads,
    "per_example_norms": per_example_norms,
    "gram": gram,
    "clipped_sum": partial(clipped_sum, norm=NORM),
    "noise_scale": noise_scale,
}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)
CHUNKS = pytest.mark.parametrize("chunk_bytes", [2**28, 1100, 1])


def loss(params, example):
    hidden = jnp.tanh(example["x"] @ params["in"])
    return (hidden @ params["out"] + params["bias"] - example["y"]) ** 2 / 2


def ready(dtype=np.float64, size=BATCH):
    random = np.random.default_rng(0)
    shapes = {"bias": (), "in": (4, 3), "out": (3,)}
    params = {k: np.asarray(random.normal(size=s), dtype) for k, s in shapes.items()}
    batch = {"x": random.normal(size=(size, 4)), "y": random.normal(size=size)}
    return params, {k: v.astype(dtype) for k, v in batch.items()}


def by_hand(params, batch):
    """Every gradient, by the chain rule."""
    hidden = np.tanh(batch["x"] @ params["in"])  # (B, 3)
    error = hidden @ params["out"] + params["bias"] - batch["y"]  # (B,)
    before = error[:, None] * params["out"][None] * (1 - hidden**2)  # (B, 3)
    return {
        "bias": error,
        "in": batch["x"][:, :, None] * before[:, None, :],
        "out": error[:, None] * hidden,
    }


def expected(name, params, batch):
    """What each function gives, from the matrix of all gradients."""
    grads = by_hand(params, batch)
    rows = np.concatenate([g.reshape(len(g), -1) for g in grads.values()], 1)
    norms = np.linalg.norm(rows, axis=1)
    match name:
        case "per_example_grads":
            return grads
        case "per_example_norms":
            return norms
        case "gram":
            return rows @ rows.T
        case "clipped_sum":
            scale = np.minimum(1, NORM / norms)
            sums = {k: np.tensordot(scale, g, 1) for k, g in grads.items()}
            return sums, np.float32(np.mean(norms > NORM))
        case "noise_scale":  # the appendix's two equations, with batches of 1 and B
            big, small = np.sum(rows.mean(0) ** 2), np.mean(norms**2)
            squared = (len(rows) * big - small) / (len(rows) - 1)
            trace = (small - big) / (1 - 1 / len(rows))
            return trace / squared, squared, trace


@EVERY
@CHUNKS
def test_against_the_chain_rule_by_hand(name, chunk_bytes):
    with jax.enable_x64(True):
        params, batch = ready()
        found = jax.jit(partial(FUNCTIONS[name], loss, chunk_bytes=chunk_bytes))(params, batch)
        want = expected(name, params, batch)
        for leaf, value in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
            rtol = 1e-11 if leaf.dtype == np.float64 else 1e-6  # the share is float32
            np.testing.assert_allclose(leaf, value, rtol=rtol)


def test_the_table_clips_some_and_not_all():
    assert 0 < expected("clipped_sum", *ready())[1] < 1


@EVERY
def test_derivatives_of_chunks_in_both_modes(name):
    with jax.enable_x64(True):
        params, batch = ready(size=3)
        function = partial(FUNCTIONS[name], loss, batch=batch, chunk_bytes=1)
        check_grads(jax.jit(function), (params,), order=1)


@EVERY
def test_vmap_over_params_is_a_loop_over_them(name):
    params, batch = ready(np.float32, 3)
    several = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf, -leaf]), params)
    function = jax.jit(partial(FUNCTIONS[name], loss, batch=batch, chunk_bytes=1))
    together = jax.jit(jax.vmap(function))(several)
    for k in range(3):
        one = function(jax.tree.map(lambda leaf, k=k: leaf[k], several))
        got = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        chex.assert_trees_all_close(got, one, rtol=1e-4, atol=1e-5)


@EVERY
@pytest.mark.parametrize("x64", [False, True])
def test_dtypes_are_those_of_params(name, x64):
    with jax.enable_x64(x64):
        params, batch = ready(np.float32, 3)
        shapes = jax.eval_shape(partial(FUNCTIONS[name], loss, chunk_bytes=1), params, batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclass
class Layer:
    kernel: Any
    steps: Any


TREES = {
    "array": jnp.ones(2),
    "scalar": 2.0,
    "list": [jnp.ones(2), jnp.ones(())],
    "tuple": (jnp.ones(2), (jnp.ones((1, 2)),)),
    "named tuple": Pair(jnp.ones(2), None),
    "dataclass": Layer(jnp.ones(2), jnp.array(3)),
    "mixed": {"low": jnp.ones(2, jnp.bfloat16), "high": jnp.ones(2), "on": jnp.array([True])},
    "key": {"kernel": jnp.ones(2), "count": 3},
}


def weighted(params, x):
    return sum(jnp.sum(x * leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", TREES)
def test_trees_of_every_kind(name):
    params, batch = jax.tree.map(jnp.asarray, TREES[name]), jnp.array([1.0, 2.0, 3.0])

    @jax.jit
    def together(params):
        return (
            per_example_grads(weighted, params, batch, chunk_bytes=1),
            clipped_sum(weighted, params, batch, norm=jnp.inf),
            per_example_norms(weighted, params, batch),
        )

    grads, (summed, share), norms = together(params)

    def want(leaf):
        by = batch if jnp.issubdtype(leaf.dtype, jnp.floating) else 0 * batch
        return (by.reshape(3, *[1] * leaf.ndim) * jnp.ones((1, *leaf.shape))).astype(leaf.dtype)

    stacked = jax.tree.map(want, params)
    chex.assert_trees_all_equal(grads, stacked, strict=True)
    total = jax.tree.map(lambda leaf: leaf.sum(0, dtype=leaf.dtype), stacked)
    chex.assert_trees_all_equal(summed, total, strict=True)
    assert share == 0
    size = sum(
        leaf.size for leaf in jax.tree.leaves(params) if leaf.dtype.name[:3] not in "intbool"
    )
    np.testing.assert_allclose(norms, batch * np.sqrt(size), rtol=1e-6)


def test_chosen_leaves_alone_are_differentiated():
    params, batch = ready(np.float32)
    grads = per_example_grads(loss, params, batch, wrt="out")
    want = by_hand(params, batch)["out"]
    np.testing.assert_allclose(grads["out"], want, rtol=1e-5)
    assert not grads["in"].any()
    assert grads["in"].shape == (BATCH, 4, 3)
    norms = per_example_norms(loss, params, batch, wrt="out")
    np.testing.assert_allclose(norms, np.linalg.norm(want, axis=1), rtol=1e-5)


def test_sums_of_low_precision_are_taken_in_float32():
    # 300 in bfloat16 steps of 2: ones added one by one would stop at 256
    params, batch = jnp.ones((), jnp.bfloat16), jnp.ones(300, jnp.bfloat16)
    grads, _ = clipped_sum(lambda w, x: w * x, params, batch, norm=2.0, chunk_bytes=1)
    assert grads == 300
    assert grads.dtype == jnp.bfloat16
    found = gram(lambda w, x: jnp.sum(w * x), jnp.ones(300, jnp.bfloat16), batch[:1, None])
    np.testing.assert_array_equal(found, [[300.0]])
    assert per_example_norms(lambda w, x: jnp.sum(w * x), jnp.ones(300, jnp.bfloat16), batch[:1])[
        0
    ] == np.sqrt(np.float32(300))


def test_a_key_an_example_may_be_a_leaf_of_batch():
    keys = jax.random.split(jax.random.key(0), 5)

    def f(w, example):
        return w * jax.random.normal(example["key"])

    grads = per_example_grads(f, jnp.ones(()), {"key": keys}, chunk_bytes=8)
    np.testing.assert_allclose(grads, jax.vmap(jax.random.normal)(keys), rtol=1e-6)


@EVERY
def test_what_is_computed_at_once_keeps_to_the_bound(name):
    params = {"in": jnp.ones((64, 64)), "out": jnp.ones(64), "bias": jnp.ones(())}
    batch = {"x": jnp.ones((100, 64)), "y": jnp.ones(100)}

    def temporary(chunk_bytes):
        function = jax.jit(partial(FUNCTIONS[name], loss, chunk_bytes=chunk_bytes))
        return function.lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    result = 100 * 64 * 64 * 4 if name == "per_example_grads" else 0  # the loop's own buffer
    trees = 5 * 64 * 64 * 4  # means and sums over examples, float32
    assert temporary(2**18) < 2**18 + result + trees
    if name != "per_example_grads":
        assert temporary(2**28) > 2**20


def test_arrays_of_numpy_in_64_bits_are_taken_in_32():
    params, batch = ready(np.float64)
    with jax.enable_x64(False):
        norms = jax.jit(lambda: per_example_norms(loss, params, batch, chunk_bytes=1))()
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, expected("per_example_norms", params, batch), rtol=1e-5)


def test_one_example():
    params, batch = ready(np.float32, 1)
    for name in list(FUNCTIONS)[:4]:
        found = jax.jit(partial(FUNCTIONS[name], loss))(params, batch)
        want = expected(name, params, batch)
        leaves = zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True)
        for leaf, value in leaves:
            np.testing.assert_allclose(leaf, value, rtol=1e-4, atol=1e-6)


def test_where_a_gradient_is_zero_so_is_the_derivative_of_its_norm():
    x = jnp.zeros((2, 3))

    def size(w):
        return per_example_norms(lambda w, x: jnp.sum(w * w * x), w, x).sum()

    np.testing.assert_array_equal(jax.grad(size)(jnp.ones(3)), np.zeros(3))
    grads, share = clipped_sum(lambda w, x: w @ x, jnp.ones(3), x, norm=1.0)
    np.testing.assert_array_equal(grads, np.zeros(3))
    assert share == 0


def test_one_example_moves_the_clipped_sum_by_the_norm_at_most():
    w, x = jnp.ones(3), jax.random.normal(jax.random.key(0), (6, 3)).at[2].multiply(1e6)
    whole, _ = clipped_sum(lambda w, x: w @ x, w, x, norm=0.5)
    for k in (0, 2, 5):
        less, _ = clipped_sum(lambda w, x: w @ x, w, jnp.delete(x, k, 0), norm=0.5)
        assert jnp.linalg.norm(whole - less) < 0.5 * (1 + 1e-5)


def test_the_norm_of_clipping_may_be_traced_and_be_infinite():
    x = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    run = jax.jit(lambda norm: clipped_sum(lambda w, x: w @ x, jnp.ones(2), x, norm=norm))
    np.testing.assert_allclose(run(2.5).grads, [1.5, 3.0], rtol=1e-6)
    np.testing.assert_allclose(run(jnp.inf).grads, [3.0, 5.0], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_seen(bad):
    x = jnp.array([[bad, 0.0], [1.0, 1.0]])
    grads, _ = clipped_sum(lambda w, x: w @ x, jnp.ones(2), x, norm=1.0)
    assert jnp.isnan(grads).all()
    assert jnp.isnan(noise_scale(lambda w, x: w @ x, jnp.ones(2), x).noise_scale)


def test_norms_do_not_overflow():
    x = jnp.array([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]])
    norms = per_example_norms(lambda w, x: w @ x, jnp.ones(2), x)
    np.testing.assert_allclose(norms, [5e30, 5e-30, 0], rtol=1e-6)
    grads, share = clipped_sum(lambda w, x: w @ x, jnp.ones(2), x, norm=5.0)
    np.testing.assert_allclose(grads, [3, 4], rtol=1e-6)
    np.testing.assert_allclose(share, 1 / 3, rtol=1e-6)


def test_noise_scale_is_infinite_where_no_gradient_shows():
    found = noise_scale(lambda w, x: w * x, jnp.ones(()), jnp.array([1.0, -1.0]))
    assert found == (jnp.inf, -1.0, 2.0)


def test_noise_scale_of_like_gradients_loses_no_digits():
    # 1000 ± 0.001: a difference of mean squares would be lost in float32
    x = jnp.array([1000.0, 1000.0, 1000.0, 1000.0]) + jnp.array([0.0, 0.0, 1.0, 1.0]) / 1024
    for chunk_bytes in (2**28, 24):  # all at once, two at a time
        found = noise_scale(lambda w, x: w * x, jnp.ones(()), x, chunk_bytes=chunk_bytes)
        np.testing.assert_allclose(found.trace, (1 / 2048) ** 2 * 4 / 3, rtol=1e-5)


def test_noise_scale_is_unbiased():
    # gradients N(1, 4) in 3 dimensions: |G|² = 3, tr(Σ) = 12
    x = 1 + 2 * jax.random.normal(jax.random.key(0), (4000, 5, 3))
    found = jax.jit(jax.vmap(lambda x: noise_scale(lambda w, x: w @ x, jnp.ones(3), x)))(x)
    for values, want in ((found.squared_norm, 3), (found.trace, 12)):
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - want) < 4 * error < 0.2 * want


X = jnp.ones((3, 2))
ERRORS = {
    "not a scalar": (
        lambda: per_example_grads(lambda w, x: w * x, jnp.ones(2), X),
        TypeError,
        None,
    ),
    "lengths": (
        lambda: gram(lambda w, e: w, 1.0, {"x": X, "y": jnp.ones(4)}),
        ValueError,
        "`gram`: the leaves of batch must have as many examples along their first axis, got "
        "{'x': float32[3, 2], 'y': float32[4]}. Close over what all examples share.",
    ),
    "a number": (
        lambda: per_example_norms(lambda w, e: w, 1.0, (X, jnp.ones(()))),
        ValueError,
        "`per_example_norms`: the leaves of batch must have as many examples along their first "
        "axis, got (float32[3, 2], float32[]). Close over what all examples share.",
    ),
    "no leaves": (
        lambda: per_example_norms(lambda w, e: w, 1.0, ()),
        ValueError,
        "`per_example_norms`: the leaves of batch must have as many examples along their first "
        "axis, got (). Close over what all examples share.",
    ),
    "no example": (
        lambda: clipped_sum(lambda w, e: w, 1.0, X[:0], norm=1),
        ValueError,
        "`clipped_sum`: batch must hold an example or more, got float32[0, 2]. Leave out empty "
        "batches.",
    ),
    "one example": (
        lambda: noise_scale(lambda w, x: w @ x, jnp.ones(2), X[:1]),
        ValueError,
        "`noise_scale`: batch must hold two examples or more, got one. The spread of gradients "
        "can't be told from one.",
    ),
    "norm": (
        lambda: clipped_sum(lambda w, x: w @ x, jnp.ones(2), X, norm=0),
        ValueError,
        "`clipped_sum`: norm must be a positive number, got 0. Give 1.0 say.",
    ),
    "norms": (
        lambda: clipped_sum(lambda w, x: w @ x, jnp.ones(2), X, norm=jnp.ones(2)),
        ValueError,
        "`clipped_sum`: norm must be a positive number, got float32[2]. Give 1.0 say.",
    ),
    "chunk": (
        lambda: gram(lambda w, x: w @ x, jnp.ones(2), X, chunk_bytes=0),
        ValueError,
        "`gram`: chunk_bytes must be a positive whole number, got 0.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, kind, words = ERRORS[name]
    if words is None:
        with pytest.raises((TypeError, ValueError), match="`per_example_grads`: f must") as caught:
            call()
    else:
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == words


def test_empty_params_are_refused():
    with pytest.raises(ValueError, match="`gram`: params must hold"):
        gram(lambda w, x: x.sum(), {}, X)
    with pytest.raises(TypeError, match="`clipped_sum`: params must hold floats"):
        clipped_sum(lambda w, x: x.sum(), {"steps": 3}, X, norm=1.0)
