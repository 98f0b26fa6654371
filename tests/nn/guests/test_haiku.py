"""Haiku guests against Haiku itself."""

import chex
import jax
import jax.numpy as jnp
import pytest

import funcnet as fn
from tests.nn.guests.training import KEY, TRAINING, X, compiled, images, trained

hk = pytest.importorskip("haiku")


def network(x, is_training):
    """A convolution with batch norm and dropout, then a dense layer."""
    x = hk.Conv2D(4, kernel_shape=3)(x)
    x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training)
    x = jax.nn.relu(x).mean(axis=2)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.05, x)
    return hk.Linear(3)(hk.Flatten()(x))


NET = hk.transform_with_state(network)


def test_a_network_with_batch_norm_trains():
    x, y = images()
    result = trained(fn.as_model(NET), x, y)
    assert "batch_norm/~/mean_ema" in result.last.model_state


def test_inference_equals_haiku():
    x, _ = images()
    model = fn.as_model(NET)
    params, state = model.init(KEY, x)
    want, _ = compiled(NET.apply, params, state, None, x, is_training=False)
    chex.assert_trees_all_equal(compiled(model.apply, params, state, x)[0], want)


def test_params_are_those_of_haiku():
    x, _ = images()
    params, state = fn.as_model(NET).init(KEY, x)
    want, want_state = jax.jit(lambda key: NET.init(key, x, is_training=True))(KEY)
    chex.assert_trees_all_equal(params, want)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, want_state)


def test_running_statistics_equal_those_of_haiku():
    x, _ = images()
    model = fn.as_model(NET)
    params, state = model.init(KEY, x)
    chex.assert_trees_all_equal(
        compiled(model.apply, params, state, x, key=TRAINING),
        compiled(NET.apply, params, state, TRAINING, x, is_training=True),
    )


def test_a_function_without_state():
    f = hk.transform(lambda x: hk.dropout(hk.next_rng_key(), 0.5, hk.Linear(3)(x)))
    model = fn.as_model(f)
    params, model_state = model.init(KEY, X)
    assert model_state == {}
    y, model_state = model.apply(params, model_state, X, key=KEY)
    chex.assert_trees_all_equal(y, f.apply(params, KEY, X))
    assert model_state == {}


def test_what_runs_outside_training_has_no_key_and_leaves_no_trace():
    def f(x):
        calls = hk.get_state("calls", (), jnp.int32, init=jnp.zeros)
        hk.set_state("calls", calls + 1)
        return x if hk.maybe_next_rng_key() is None else 2 * x

    model = fn.as_model(hk.transform_with_state(f))
    params, model_state = model.init(KEY, X)
    chex.assert_trees_all_equal(
        model.apply(params, model_state, X, key=KEY, training=False), (X, model_state)
    )
    y, after = model.apply(params, model_state, X, key=KEY)
    chex.assert_trees_all_equal((y, int(after["~"]["calls"])), (2 * X, 1))


@pytest.mark.parametrize("make", [hk.transform, hk.transform_with_state])
def test_a_guest_whose_rng_was_taken_away(make):
    guest = hk.without_apply_rng(make(lambda x, train: hk.Linear(3)(x) * (2 if train else 1)))
    model = fn.as_model(guest)
    params, model_state = model.init(KEY, X)
    once, _ = model.apply(params, model_state, X)
    twice, _ = model.apply(params, model_state, X, key=KEY)
    chex.assert_trees_all_close(2 * once, twice)


def test_a_guest_in_a_row_and_in_a_stack():
    block = fn.as_model(hk.transform_with_state(
        lambda x, is_training: hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training)
    ))  # fmt: skip
    model = fn.sequential(fn.dense(5), fn.layer_stack(block, 3), fn.dense(3))
    params, model_state = model.init(KEY, X)
    kernels = params["1"]["linear"]["w"]
    chex.assert_shape(kernels, (3, 5, 5))
    assert (kernels[0] != kernels[1]).any()
    y, after = model.apply(params, model_state, X, key=TRAINING)
    chex.assert_shape(y, (6, 3))
    chex.assert_trees_all_equal_shapes_and_dtypes(model_state, after)


def test_jit_grad_and_keys_under_vmap():
    x, _ = images(4)
    model = fn.as_model(NET)
    params, model_state = model.init(KEY, x)

    @jax.jit
    def slope(params, key):
        return jax.grad(lambda p: model.apply(p, model_state, x, key=key)[0].sum())(params)

    keys = jax.random.split(KEY, 3)
    stacked = jax.vmap(slope, in_axes=(None, 0))(params, keys)
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[1], stacked), slope(params, keys[1]), atol=1e-5
    )


def test_several_inputs_are_a_tuple_and_a_dict_is_one():
    model = fn.as_model(hk.transform(lambda a, b: hk.Linear(2)(a) + b["b"]))
    x = (X, {"b": jnp.ones((6, 2))})
    params, _ = model.init(KEY, x)
    chex.assert_shape(model.apply(params, {}, x)[0], (6, 2))


def test_the_first_averages_are_those_of_standard_normal_numbers():
    f = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, is_training=True))
    model = fn.as_model(f)
    first = model.init(KEY, jax.ShapeDtypeStruct((1000, 5), X.dtype))
    chex.assert_trees_all_equal(first, model.init(KEY, 9 * jnp.ones((1000, 5))))
    mean, var = (first[1][f"batch_norm/~/{name}_ema"]["average"] for name in ("mean", "var"))
    chex.assert_trees_all_close((mean, var), (0 * mean, 1 + 0 * var), atol=0.15)


def test_several_functions_to_apply_are_refused():
    def two():
        module = hk.Linear(3)
        return module, (module, module)

    with pytest.raises(TypeError, match="one function") as raised:
        fn.as_model(hk.multi_transform(two))
    assert str(raised.value) == (
        "`as_model`: a Haiku guest must have one function to apply, got MultiTransformed. "
        "Give `hk.transform_with_state` of the one that trains."
    )


def test_two_training_flags_are_refused():
    with pytest.raises(TypeError, match="at most one") as raised:
        fn.as_model(hk.transform(lambda x, train, is_training: x))
    assert str(raised.value) == (
        "`as_model`: a Haiku function must have at most one training flag, got is_training, train "
        "in its parameters. Give it one and pass that on inside."
    )
