"""Guests and oracles: Linen modules through `as_model`, and our layers against Flax's."""

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 5))


def flagged(name, on):
    """A Linen module whose call has the training flag `name`, which is `on` in training."""

    class Module(linen.Module):
        @linen.compact
        def call(self, x, flag):
            trains = flag == on
            return linen.Dropout(0.5, deterministic=not trains)(x)

    scope = {}
    exec(f"def __call__(self, x, {name}):\n    return self.call(x, {name})", scope)
    Module.__call__ = scope["__call__"]
    return Module()


@pytest.mark.parametrize(
    ("name", "on"),
    [
        ("train", True),
        ("training", True),
        ("is_training", True),
        ("deterministic", False),
        ("use_running_average", False),
    ],
)
def test_each_training_flag_is_found_and_set_in_its_own_sense(name, on):
    model = fn.as_model(flagged(name, on))
    params, model_state = model.init(KEY, X)
    same, _ = model.apply(params, model_state, X)
    chex.assert_trees_all_equal(same, X)
    noisy, _ = model.apply(params, model_state, X, key=KEY)
    assert (noisy == 0).any()


def test_two_training_flags_are_refused():
    class Two(linen.Module):
        def __call__(self, x, train, deterministic):
            return x

    with pytest.raises(TypeError) as raised:
        fn.as_model(Two())
    assert str(raised.value) == (
        "`as_model`: a Linen module must have at most one training flag, got deterministic, train "
        "in Two.__call__. Give it one and pass that on inside."
    )


class Sower(linen.Module):
    @linen.compact
    def __call__(self, x):
        count = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
        if not self.is_initializing():
            count.value += 1
        y = linen.Dense(3)(x)
        self.sow("intermediates", "y", y)
        return y


def test_collections_are_model_state_and_what_is_sown_is_dropped():
    model = fn.as_model(Sower())
    params, model_state = model.init(KEY, X)
    assert (list(params), list(model_state)) == (["Dense_0"], ["counts"])
    for _ in range(3):
        _, model_state = model.apply(params, model_state, X, training=True)
    chex.assert_trees_all_equal(model_state, {"counts": {"calls": jnp.array(3, jnp.int32)}})
    _, same = model.apply(params, model_state, X)
    chex.assert_trees_all_equal(same, model_state)


def test_a_guest_with_batch_norm_trains_inside_a_row():
    class Guest(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = linen.BatchNorm(use_running_average=not train)(linen.Dense(8)(x))
            return linen.Dropout(0.1, deterministic=not train)(linen.relu(x))

    model = fn.sequential(fn.dense(6), fn.as_model(Guest()), fn.dense(2))
    trainer = fn.Trainer(
        model,
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-2),
    )
    result = trainer.fit((X, (X[:, 0] > 0).astype(int)), epochs=60, batch_size=6)
    assert result.history["loss"][-1] < 0.5 * result.history["loss"][0]
    assert "batch_stats" in result.last.model_state["1"]


def test_a_tuple_is_several_inputs_of_a_guest():
    class Sum(linen.Module):
        @linen.compact
        def __call__(self, a, b):
            return linen.Dense(2)(a) + linen.Dense(2)(b)

    model = fn.as_model(Sum())
    params, _ = model.init(KEY, (X, X[:, :2]))
    assert model.apply(params, {}, (X, X[:, :2]))[0].shape == (6, 2)


def test_what_is_no_guest_is_refused():
    with pytest.raises(TypeError, match="needs its init") as raised:
        fn.as_model(lambda params, x: x)
    assert str(raised.value).startswith(
        "`as_model`: a function f(params, x) needs its init(key, x) -> params, got init=None."
    )
    with pytest.raises(TypeError, match="Make an instance if it is a class"):
        fn.as_model(linen.Dense)


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
