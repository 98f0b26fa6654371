"""Flax NNX guests against NNX itself."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import funcnet as fn
from tests.nn.guests.training import KEY, TRAINING, X, compiled, images, trained


class CNN(nnx.Module):
    """Two convolutions with batch norm, dropout and pooling, then two dense layers."""

    def __init__(self, rate=0.05, *, rngs):
        self.conv1 = nnx.Conv(1, 4, kernel_size=(3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate)
        self.conv2 = nnx.Conv(4, 6, kernel_size=(3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(6, momentum=0.9, rngs=rngs)
        self.pool = functools.partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.hidden = nnx.Linear(6, 8, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = nnx.relu(self.norm1(self.dropout1(self.conv1(x), rngs=rngs)))
        x = self.pool(nnx.relu(self.norm2(self.conv2(self.pool(x)))))
        x = self.dropout2(nnx.relu(self.hidden(x.reshape(len(x), -1))))
        return self.out(x)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.Sequential(nnx.Linear(5, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.layers(x))


class Calling(nnx.Module):
    """Keeps nothing but what each test asks for."""

    def __init__(self, call):
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.call = call

    def __call__(self, x):
        return self.call(self, x)


def test_a_cnn_trains():
    x, y = images()
    result = trained(fn.as_model(CNN), x, y)
    assert set(result.last.model_state) == {"norm1", "norm2"}


def test_inference_equals_nnx():
    x, _ = images()
    model = fn.as_model(CNN)
    module = CNN(rngs=nnx.Rngs(KEY))
    module.eval()
    chex.assert_trees_all_equal(
        compiled(model.apply, *model.init(KEY, x), x)[0], nnx.jit(lambda m, x: m(x))(module, x)
    )


def test_running_statistics_equal_those_of_nnx():
    x, _ = images()
    model = fn.as_model(functools.partial(CNN, 0.0))
    params, model_state = model.init(KEY, x)
    module = CNN(0.0, rngs=nnx.Rngs(KEY))
    module.train()
    for _ in range(2):
        y, model_state = compiled(model.apply, params, model_state, x, key=TRAINING)
        chex.assert_trees_all_equal(y, nnx.jit(lambda m, x: m(x))(module, x))
    chex.assert_trees_all_equal(model_state, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))


def test_trees_are_plain_dicts_by_attribute():
    params, model_state = fn.as_model(Block).init(KEY, X)
    assert list(fn.tree.paths(params)) == [
        f"layers/layers/{name}" for name in ("0/bias", "0/kernel", "1/bias", "1/scale")
    ]
    assert list(fn.tree.paths(model_state)) == [
        f"layers/layers/1/{name}" for name in ("mean", "var")
    ]
    leaves = jax.tree.leaves((params, model_state))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


def test_the_callers_arrays_do_not_change():
    model = fn.as_model(Block)
    params, model_state = model.init(KEY, X)
    before = fn.tree.copy((params, model_state))
    _, after = model.apply(params, model_state, X, key=TRAINING)
    chex.assert_trees_all_equal((params, model_state), before)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), after, model_state)
    assert all(jax.tree.leaves(changed))


def test_each_call_draws_from_its_key_alone():
    model = fn.as_model(lambda rngs: nnx.Dropout(0.5, rngs=rngs))
    ones = jnp.ones((4, 50))
    first, _ = model.apply({}, {}, ones, key=KEY)
    chex.assert_trees_all_equal(first, model.apply({}, {}, ones, key=KEY)[0])
    assert (first != model.apply({}, {}, ones, key=TRAINING)[0]).any()


def test_what_runs_outside_training_has_no_key_and_leaves_no_trace():
    def call(self, x):
        self.count[...] += 1
        return x + jax.random.normal(self.rngs(), x.shape)

    def make(rngs):
        module = Calling(call)
        module.rngs = rngs
        return module

    model = fn.as_model(make)
    params, model_state = model.init(KEY, X)
    outside = model.apply(params, model_state, X)
    chex.assert_trees_all_equal(
        outside, model.apply(params, model_state, X, key=TRAINING, training=False)
    )
    chex.assert_trees_all_equal(outside[1], model_state)


def test_two_streams_differ():
    class Two(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x, rngs=None):
            return self.a(x), self.b(x), self.a(x, rngs=rngs)

    ones = jnp.ones((4, 50))
    a, b, c = fn.as_model(Two).apply({}, {}, ones, key=KEY)[0]
    assert (a != b).any()
    assert (b != c).any()
    assert (a != c).any()
    chex.assert_trees_all_equal(fn.as_model(Two).apply({}, {}, ones)[0], (ones, ones, ones))


def test_jit_grad_and_keys_under_vmap():
    model = fn.as_model(Block)
    params, model_state = model.init(KEY, X)

    @jax.jit
    def slope(params, key):
        return jax.grad(lambda p: model.apply(p, model_state, X, key=key)[0].sum())(params)

    keys = jax.random.split(KEY, 3)
    stacked = jax.vmap(slope, in_axes=(None, 0))(params, keys)
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[1], stacked), slope(params, keys[1]), atol=1e-5
    )


def test_a_guest_in_a_row_and_in_a_stack():
    model = fn.sequential(fn.dense(5), fn.layer_stack(fn.as_model(Block), 3), fn.dense(3))
    params, model_state = model.init(KEY, X)
    kernels = params["1"]["layers"]["layers"][0]["kernel"]
    chex.assert_shape(kernels, (3, 5, 5))
    assert (kernels[0] != kernels[1]).any()
    y, after = model.apply(params, model_state, X, key=TRAINING)
    chex.assert_shape(y, (6, 3))
    chex.assert_trees_all_equal_shapes_and_dtypes(model_state, after)


def test_a_module_that_vmaps_its_own_layers_has_streams_with_axes():
    class Deep(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap
            def make(rngs):
                return Block(rngs)

            self.blocks = make(rngs)

        def __call__(self, x):
            return nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
                x, self.blocks
            )

    model = fn.as_model(Deep)
    params, model_state = model.init(KEY, X)
    y, after = model.apply(params, model_state, X, key=TRAINING)
    chex.assert_trees_all_equal(y, model.apply(params, model_state, X, key=TRAINING)[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(model_state, after)
    assert (y != model.apply(params, model_state, X)[0]).any()


def test_a_flag_in_the_call_is_found_by_name():
    class Flagged(nnx.Module):
        def __call__(self, x, is_training):
            return 2 * x if is_training else x

    model = fn.as_model(lambda rngs: Flagged())
    chex.assert_trees_all_equal(model.apply({}, {}, X)[0], X)
    chex.assert_trees_all_equal(model.apply({}, {}, X, training=True)[0], 2 * X)


def test_several_inputs_are_a_tuple_and_a_dict_is_one():
    class Sum(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(5, 2, rngs=rngs)

        def __call__(self, a, b):
            return self.dense(a) + b["b"]

    model = fn.as_model(Sum)
    x = (X, {"b": jnp.ones((6, 2))})
    chex.assert_shape(model.apply(*model.init(KEY, x), x)[0], (6, 2))


@pytest.mark.filterwarnings("ignore:.*sow.*:DeprecationWarning")  # 2026-11: of flax 0.12
def test_what_is_sown_is_dropped():
    def call(self, x):
        self.count[...] += 1
        self.sow(nnx.Intermediate, "x", x)
        return x

    model = fn.as_model(lambda rngs: Calling(call))
    _, model_state = model.init(KEY, X)
    for _ in range(2):
        _, model_state = model.apply({}, model_state, X, training=True)
    chex.assert_trees_all_equal(model_state, {"count": jnp.array(2, jnp.int32)})


def test_a_variable_made_in_the_call_is_refused():
    def call(self, x):
        self.late = nnx.BatchStat(x)
        return x

    model = fn.as_model(lambda rngs: Calling(call))
    with pytest.raises(ValueError, match="new ones") as raised:
        model.apply(*model.init(KEY, X), X, training=True)
    assert str(raised.value) == (
        "`apply`: an NNX module must make all its variables in __init__, got new ones in the call "
        "of Calling: late. Make them there, with their shape."
    )


def test_training_without_a_key_is_refused_where_there_is_noise():
    model = fn.as_model(Block)
    with pytest.raises(ValueError, match="key must be given") as raised:
        model.apply(*model.init(KEY, X), X, training=True)
    assert str(raised.value) == (
        "`apply`: key must be given in training to an NNX module that keeps streams of randomness, "
        "got key=None for Block. Pass `key=jax.random.key(0)` say."
    )
    norm = fn.as_model(lambda rngs: nnx.BatchNorm(5, rngs=rngs))
    norm.apply(*norm.init(KEY, X), X, training=True)


def test_a_cell_that_draws_for_a_carry_of_zeros_runs_outside_training():
    model = fn.as_model(lambda rngs: nnx.RNN(nnx.SimpleCell(5, 4, rngs=rngs)))
    x = jnp.ones((2, 3, 5))
    chex.assert_shape(model.apply(*model.init(KEY, x), x)[0], (2, 3, 4))


REFUSED = {
    "an instance": (
        lambda: CNN(rngs=nnx.Rngs(0)),
        "an NNX module must come as a factory with one required parameter, rngs, since it holds "
        "its arrays and can't be made anew from a key, got an instance of CNN. "
        "Give its class or a function, `lambda rngs: CNN(...)` say.",
    ),
    "a class with more parameters": (
        lambda: nnx.Linear,
        "a factory must have one required parameter, rngs, got in_features, out_features, rngs in "
        "Linear. Bind the others, `lambda rngs: Linear(..., rngs=rngs)` say.",
    ),
    "a class with none": (
        lambda: nnx.List,
        "a factory must have one required parameter, rngs, got none in List. "
        "Bind the others, `lambda rngs: List(..., rngs=rngs)` say.",
    ),
    "a function with more": (
        lambda: lambda features, rngs: nnx.Linear(5, features, rngs=rngs),
        "a factory must have one required parameter, rngs, got features, rngs in <lambda>. "
        "Bind the others, `lambda rngs: <lambda>(..., rngs=rngs)` say.",
    ),
    "a factory of something else": (
        lambda: lambda rngs: 3,
        "a factory whose parameter is named rngs must make a flax.nnx.Module that can be called, "
        "got int from <lambda>. Return the module.",
    ),
    "two flags": (
        lambda: lambda rngs: TwoFlags(),
        "an NNX module must have at most one training flag, got deterministic, train in "
        "TwoFlags.__call__. Give it one and pass that on inside.",
    ),
}


class TwoFlags(nnx.Module):
    def __call__(self, x, train, deterministic):
        return x


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_factory_is_refused(case):
    make, words = REFUSED[case]
    with pytest.raises(TypeError) as raised:
        fn.as_model(make())
    assert str(raised.value) == "`as_model`: " + words
