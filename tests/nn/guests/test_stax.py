"""Pairs of stax as guests, against stax itself."""

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.example_libraries import stax

import funcnet as fn
from tests.nn.guests.training import KEY, TRAINING, X, compiled, images, trained


@pytest.fixture(autouse=True)
def no_rank_promotion():
    """stax leaves it to JAX to widen a bias."""
    return


def network(mode="train"):
    return stax.serial(
        stax.Conv(4, (3, 3)), stax.BatchNorm(), stax.Relu, stax.Flatten,
        stax.Dropout(0.9, mode=mode), stax.Dense(3),
    )  # fmt: skip


def by_mode(training):
    return network("train" if training else "test")


QUIET = stax.serial(stax.Dense(4), stax.Tanh, stax.Dense(3))


def test_a_network_trains():
    x, y = images()
    assert trained(fn.as_model(by_mode), x, y, rate=5e-3).last.model_state == {}


def test_a_pair_equals_stax():
    model = fn.as_model(QUIET)
    params, model_state = model.init(KEY, jax.ShapeDtypeStruct(X.shape, X.dtype))
    _, want = QUIET[0](KEY, X.shape)
    chex.assert_trees_all_equal(params, want)
    chex.assert_trees_all_equal(model.apply(params, {}, X)[0], QUIET[1](params, X))
    assert model_state == {}


def test_a_factory_serves_both_modes():
    x, _ = images()
    model = fn.as_model(by_mode)
    params, _ = jax.jit(lambda key: model.init(key, x))(KEY)
    chex.assert_trees_all_equal(
        compiled(model.apply, params, {}, x)[0], compiled(network("test")[1], params, x, rng=KEY)
    )
    chex.assert_trees_all_equal(
        compiled(model.apply, params, {}, x, key=TRAINING)[0],
        compiled(network()[1], params, x, rng=TRAINING),
    )


def test_a_tuple_of_inputs_is_one_argument():
    model = fn.as_model(stax.serial(stax.parallel(stax.Dense(3), stax.Dense(3)), stax.FanInSum))
    x = (X, X[:, :2])
    params, _ = model.init(KEY, x)
    chex.assert_shape(model.apply(params, {}, x)[0], (6, 3))


def test_a_pair_of_ones_own_needs_no_rng():
    model = fn.as_model((lambda key, shape: (shape, jnp.ones(())), lambda params, x: params * x))
    chex.assert_trees_all_equal(model.apply(*model.init(KEY, X), X, key=KEY)[0], X)


def test_a_guest_in_a_row_and_in_a_stack():
    block = fn.as_model(stax.serial(stax.Dense(5), stax.Tanh))
    model = fn.sequential(fn.dense(5), fn.layer_stack(block, 3), fn.dense(3))
    params, _ = model.init(KEY, X)
    chex.assert_shape(params["1"][0][0], (3, 5, 5))
    chex.assert_shape(model.apply(params, {}, X)[0], (6, 3))


def test_a_fixed_mode_is_refused_outside_training():
    model = fn.as_model(network())
    x, _ = images()
    params, _ = model.init(KEY, x)
    model.apply(params, {}, x, key=KEY)
    with pytest.raises(ValueError, match="fixed mode") as raised:
        model.apply(params, {}, x)
    assert str(raised.value) == (
        "`apply`: a stax pair with dropout must come for each mode, got one of a fixed mode "
        "outside training. Give `as_model` a factory, `lambda training: stax.serial(..., "
        "stax.Dropout(rate, mode='train' if training else 'test'))` say."
    )


def test_training_without_a_key_is_refused():
    x, _ = images()
    model = fn.as_model(by_mode)
    params, _ = model.init(KEY, x)
    with pytest.raises(ValueError, match="key must be given") as raised:
        model.apply(params, {}, x, training=True)
    assert str(raised.value) == (
        "`apply`: key must be given in training to a stax model with dropout, got key=None for "
        "by_mode. Pass `key=jax.random.key(0)` say."
    )


def test_a_factory_of_something_else_is_refused():
    def make(training):
        return 3

    with pytest.raises(TypeError, match="must make the pair") as raised:
        fn.as_model(make)
    assert str(raised.value) == (
        "`as_model`: a factory whose parameter is named training must make the pair "
        "(init_fun, apply_fun) of stax, got int from make. Return `stax.serial(...)` say."
    )
