"""Equinox guests against Equinox itself."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

import funcnet as fn
from tests.nn.guests.training import KEY, TRAINING, X, compiled, images, trained

eqx = pytest.importorskip("equinox")


class Net(eqx.Module):
    """A convolution with batch norm and dropout, then a dense layer."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear
    rows: jax.Array

    def __init__(self, rate=0.1, *, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, 4, kernel_size=3, padding=1, key=first)
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch", momentum=0.9)
        self.dropout = eqx.nn.Dropout(rate)
        self.out = eqx.nn.Linear(24, 3, key=second)
        self.rows = jnp.arange(6)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(jnp.moveaxis(x, -1, 0)), state)
        x = jax.nn.relu(x)[:, self.rows].mean(axis=2)
        return self.out(self.dropout(x.ravel(), key=key)), state


def net(key):
    return eqx.nn.make_with_state(Net)(key=key)


def silent(key):
    return eqx.nn.make_with_state(Net)(0.0, key=key)


def mlp(key):
    return eqx.nn.MLP(5, 3, 4, 1, activation=lambda x: x * x, key=key)


def values(state):
    leaves, names = state.tree_flatten()
    return dict(zip(names, leaves, strict=True))


def test_a_network_with_batch_norm_trains():
    x, y = images()
    result = trained(fn.as_model(net), x, y)
    assert set(result.last.model_state) == {"arrays", "state"}


def test_inference_equals_equinox():
    x, _ = images()
    model = fn.as_model(net)
    module, state = net(KEY)
    over = jax.vmap(
        eqx.nn.inference_mode(module), in_axes=(0, None), out_axes=(0, None), axis_name="batch"
    )
    chex.assert_trees_all_equal(
        compiled(model.apply, *model.init(KEY, x), x)[0], compiled(over, x, state)[0]
    )


def test_running_statistics_equal_those_of_equinox():
    x, _ = images()
    model = fn.as_model(silent)
    params, model_state = model.init(KEY, x)
    module, state = silent(KEY)
    over = jax.vmap(module, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    for _ in range(2):
        y, model_state = compiled(model.apply, params, model_state, x, key=TRAINING)
        want, state = compiled(over, x, state)
        chex.assert_trees_all_equal(y, want)
    chex.assert_trees_all_equal(model_state["state"], values(state))


def test_params_are_the_inexact_arrays_in_the_modules_own_tree():
    params, model_state = fn.as_model(net).init(KEY, jax.ShapeDtypeStruct((2, 6, 6, 1), "float32"))
    module, state = net(KEY)
    chex.assert_trees_all_equal(params, eqx.filter(module, eqx.is_inexact_array))
    assert list(fn.tree.paths(params)) == [
        "conv/weight", "conv/bias", "norm/weight", "norm/bias", "out/weight", "out/bias",
    ]  # fmt: skip
    assert list(fn.tree.paths(model_state["arrays"])) == ["rows"]
    assert sorted(model_state["state"]) == sorted(values(state))


def test_functions_made_anew_by_the_factory_leave_the_tree_as_it_is():
    model = fn.as_model(mlp)
    first, second = (model.init(jax.random.key(i), X)[0] for i in range(2))
    chex.assert_trees_all_equal_structs(first, second)
    chex.assert_shape(model.apply(first, {}, X)[0], (6, 3))
    assert model.init(KEY, X)[1] == {}


def test_each_example_has_a_key_of_its_own():
    model = fn.as_model(lambda key: eqx.nn.Dropout(0.5))
    ones = jnp.ones((4, 50))
    y, _ = model.apply(*model.init(KEY, ones), ones, key=KEY)
    keys = jax.random.split(KEY, 4)
    want = jax.vmap(lambda x, k: eqx.nn.Dropout(0.5)(x, key=k))(ones, keys)
    chex.assert_trees_all_equal(y, want)
    assert (y[0] != y[1]).any()


def test_the_callers_state_can_be_used_again():
    x, _ = images()
    model = fn.as_model(net)
    params, model_state = model.init(KEY, x)
    before = fn.tree.copy(model_state)
    first = model.apply(params, model_state, x, key=TRAINING)
    second = model.apply(params, model_state, x, key=TRAINING)
    chex.assert_trees_all_equal(first, second)
    chex.assert_trees_all_equal(model_state, before)


def test_jit_grad_and_keys_under_vmap():
    x, _ = images(4)
    model = fn.as_model(net)
    params, model_state = model.init(KEY, x)

    @jax.jit
    def slope(params, key):
        return jax.grad(lambda p: model.apply(p, model_state, x, key=key)[0].sum())(params)

    keys = jax.random.split(KEY, 3)
    stacked = jax.vmap(slope, in_axes=(None, 0))(params, keys)
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[1], stacked), slope(params, keys[1]), atol=1e-5
    )


class Block(eqx.Module):
    dense: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.dense = eqx.nn.Linear(5, 5, key=key)
        self.norm = eqx.nn.BatchNorm(5, axis_name="batch", mode="batch")

    def __call__(self, x, ctx):
        return self.norm(self.dense(x), ctx)


def block(key):
    return eqx.nn.make_with_state(Block)(key)


def test_a_guest_in_a_row_and_in_a_stack():
    model = fn.sequential(fn.dense(5), fn.layer_stack(fn.as_model(block), 3), fn.dense(3))
    params, model_state = model.init(KEY, X)
    kernels = params["1"].dense.weight
    chex.assert_shape(kernels, (3, 5, 5))
    assert (kernels[0] != kernels[1]).any()
    y, after = model.apply(params, model_state, X, key=TRAINING)
    chex.assert_shape(y, (6, 3))
    chex.assert_trees_all_equal_shapes_and_dtypes(model_state, after)


def test_a_state_that_make_with_state_did_not_name_is_numbered():
    def make(key):
        module = Block(key)
        return eqx.nn.delete_init_state(module), eqx.nn.State(module)

    model = fn.as_model(make)
    params, model_state = model.init(KEY, X)
    assert list(model_state["state"]) == ["0", "1"]
    _, after = model.apply(params, model_state, X, key=TRAINING)
    assert int(after["state"]["0"]) == 1


def test_a_flag_in_the_call_is_found_unless_its_default_is_none():
    class Flagged(eqx.Module):
        def __call__(self, x, training=False, deterministic=None):
            assert deterministic is None
            return 2 * x if training else x

    model = fn.as_model(lambda key: Flagged())
    params, _ = model.init(KEY, X)
    chex.assert_trees_all_equal(model.apply(params, {}, X)[0], X)
    chex.assert_trees_all_equal(model.apply(params, {}, X, training=True)[0], 2 * X)


def test_several_inputs_are_a_tuple_and_a_dict_is_one():
    class Sum(eqx.Module):
        dense: eqx.nn.Linear

        def __call__(self, a, b):
            return self.dense(a) + b["b"]

    model = fn.as_model(lambda key: Sum(eqx.nn.Linear(5, 2, key=key)))
    x = (X, {"b": jnp.ones((6, 2))})
    chex.assert_shape(model.apply(*model.init(KEY, x), x)[0], (6, 2))


def other_axis(key):
    return eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, axis_name="n", mode="batch")


REFUSED = {
    "an instance": (
        lambda: mlp(KEY), TypeError,
        "an Equinox module must come as a factory with one required parameter, key, since it holds "
        "its arrays and can't be made anew from a key, got an instance of MLP. "
        "Give its class or a function, `lambda key: MLP(...)` say.",
    ),
    "a class with more parameters": (
        lambda: eqx.nn.Linear, TypeError,
        "a factory must have one required parameter, key, got in_features, out_features, key in "
        "Linear. Bind the others, `lambda key: Linear(..., key=key)` say.",
    ),
    "a partial class with more": (
        lambda: functools.partial(eqx.nn.Linear, 5), TypeError,
        "a factory must have one required parameter, key, got out_features, key in Linear. "
        "Bind the others, `lambda key: Linear(..., key=key)` say.",
    ),
    "hidden parameters": (
        lambda: eqx.nn.make_with_state(Net), TypeError,
        "the parameters of a factory must be seen, got make_with_state_impl(*args, **kwargs). "
        "Give a function of one, `lambda key: eqx.nn.make_with_state(Net)(..., key=key)` say.",
    ),
    "a factory of something else": (
        lambda: lambda key: jax.nn.relu, TypeError,
        "a factory whose parameter is named key must make an equinox.Module that can be called, or "
        "the pair of it and its equinox.nn.State, got custom_jvp from <lambda>. Return the module.",
    ),
    "a pair of something else": (
        lambda: lambda key: (mlp(key), 3), TypeError,
        "a factory whose parameter is named key must make an equinox.Module that can be called, or "
        "the pair of it and its equinox.nn.State, got (MLP, int) from <lambda>. Return the module.",
    ),
    "state left inside": (
        lambda: lambda key: Block(key), TypeError,
        "an Equinox module with state must come with it, got Block alone. "
        "Make the pair, `lambda key: eqx.nn.make_with_state(Net)(..., key=key)` say.",
    ),
    "another name of the batch": (
        lambda: other_axis, ValueError,
        "a batch norm of Equinox must name the axis of the batch 'batch', got 'n'. "
        "Build it with `axis_name='batch'`.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_factory_is_refused(case):
    make, kind, words = REFUSED[case]
    guest = make()
    with pytest.raises(kind) as raised:
        fn.as_model(guest)
    assert str(raised.value) == "`as_model`: " + words


class Counter(eqx.Module):
    """Counts in a state what `add` makes of an example, or returns no state."""

    index: eqx.nn.StateIndex
    add: object

    def __init__(self, add):
        self.index = eqx.nn.StateIndex(jnp.zeros(()))
        self.add = add

    def __call__(self, x, state):
        if self.add is None:
            return x
        return x, state.set(self.index, state.get(self.index) + self.add(x))


def counter(add):
    return fn.as_model(lambda key: eqx.nn.make_with_state(Counter)(add))


def test_a_state_that_differs_between_examples_is_refused():
    model = counter(lambda x: jax.lax.pmean(x.sum(), "batch"))
    params, model_state = model.init(KEY, X)
    chex.assert_trees_all_equal(model.apply(params, model_state, X), (X, model_state))
    _, after = model.apply(params, model_state, X, training=True)
    chex.assert_trees_all_close(*after["state"].values(), X.sum(1).mean(), atol=1e-5)
    chex.assert_trees_all_equal(counter(jnp.sum).apply(params, model_state, X)[0], X)
    with pytest.raises(ValueError, match="the same after each") as raised:
        counter(jnp.sum).apply(params, model_state, X, training=True)
    assert str(raised.value) == (
        "`apply`: the state of an Equinox module must be the same after each example of the batch, "
        "got one for each from Counter. "
        "Take the mean over the batch, `jax.lax.pmean(value, 'batch')`, before it is set."
    )


def test_a_module_that_forgets_its_state_is_told_so():
    model = counter(None)
    with pytest.raises(TypeError, match="must return") as raised:
        model.apply(*model.init(KEY, X), X, training=True)
    assert str(raised.value).startswith(
        "`apply`: an Equinox module that comes with state must return (y, state), got "
    )
    assert str(raised.value).endswith(
        " from Counter. Return the state too, as it came if unchanged."
    )
