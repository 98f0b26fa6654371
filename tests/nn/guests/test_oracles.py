"""Our layers against Flax's and numpy's, and what their errors say."""

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from tests.nn.guests.training import KEY, X

IMAGES = jax.random.normal(jax.random.key(2), (4, 5, 5, 3))


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_against_flax(training):
    oracle = linen.BatchNorm(momentum=0.9, epsilon=1e-5)
    variables = oracle.init(KEY, IMAGES, use_running_average=True)
    want, updated = oracle.apply(
        variables, IMAGES, use_running_average=not training, mutable=["batch_stats"]
    )
    model = fn.batch_norm(momentum=0.9)
    y, model_state = model.apply(*model.init(KEY, IMAGES), IMAGES, training=training)
    chex.assert_trees_all_close(y, want, atol=1e-5)
    chex.assert_trees_all_close(model_state, updated["batch_stats"], atol=1e-6)


def test_layer_norm_against_flax():
    oracle = linen.LayerNorm()
    want = oracle.apply(oracle.init(KEY, IMAGES), IMAGES)
    model = fn.layer_norm()
    chex.assert_trees_all_close(model.apply(*model.init(KEY, IMAGES), IMAGES)[0], want, atol=1e-5)


def test_dense_against_flax():
    oracle = linen.Dense(7)
    params = oracle.init(KEY, IMAGES)["params"]
    chex.assert_trees_all_close(
        fn.dense(7).apply(params, {}, IMAGES)[0],
        oracle.apply({"params": params}, IMAGES),
        atol=1e-6,
    )


def test_embedding_against_numpy_and_out_of_range():
    model = fn.embedding(5, 2)
    tokens = jnp.array([[0, 4], [5, -1]])
    params, _ = model.init(KEY, tokens)
    y = np.asarray(model.apply(params, {}, tokens)[0])
    np.testing.assert_array_equal(y[0], np.asarray(params["embedding"])[[0, 4]])
    assert np.isnan(y[1]).all()


def test_initialisers_have_the_variance_they_name():
    kernel = fn.dense(500).init(KEY, jnp.ones((1, 400)))[0]["kernel"]
    assert float(kernel.std()) == pytest.approx(400**-0.5, rel=0.01)
    table = fn.embedding(1000, 64).init(KEY, jnp.ones((1, 1), int))[0]["embedding"]
    assert float(table.std()) == pytest.approx(64**-0.5, rel=0.02)


def test_dropout_keeps_the_mean_and_drops_its_rate():
    x = jnp.ones((100, 1000))
    y, _ = fn.dropout(0.3).apply({}, {}, x, key=KEY)
    assert float((y == 0).mean()) == pytest.approx(0.3, abs=0.01)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.01)
    everything, _ = fn.dropout(1.0).apply({}, {}, x, key=KEY)
    assert not everything.any()


def test_a_layer_that_returns_no_pair_is_told_so():
    def init(key, x):
        return {}

    def apply(params, model_state, x, *, key=None, training=None):
        return x

    with pytest.raises(TypeError) as raised:
        fn.sequential(fn.Model(init, apply)).init(KEY, X)
    assert str(raised.value) == (
        "`init`: a layer's init must return (params, model_state), got {}. Return `{}` for what it "
        "does not have, and model_state as it came if it is unchanged."
    )
    with pytest.raises(TypeError) as raised:
        fn.sequential(fn.Model(init, apply)).apply({}, {}, X)
    assert str(raised.value).startswith(
        "`apply`: a layer's apply must return (y, model_state), got float32[6, 5]."
    )


def test_missing_params_are_told_of():
    with pytest.raises(KeyError) as raised:
        fn.sequential(fn.dense(3)).apply({}, {}, X)
    assert raised.value.__notes__ == [
        "params or model_state miss this name: give those that `init` made",
        "in layer '0' (dense) of `sequential`: float32[6, 5]",
    ]
