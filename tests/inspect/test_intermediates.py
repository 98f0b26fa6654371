"""`intermediates`: the outputs of all layers, by the paths that `summary` shows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.inspect.insides import Intermediates, intermediates

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def towers(parts, x):
    both = parts.tower(x) + parts.tower(2 * x)
    return parts.head(parts.pair(both))


def mixed():
    block = fn.residual(fn.sequential(fn.dense(3), jnp.tanh))
    return fn.sequential(
        first=fn.branches(fn.dense(3), jnp.square),
        join=lambda ys: ys[0] + ys[1],
        stack=fn.layer_stack(fn.remat(block), 3),
        noisy=fn.dropout(0.5),
        guest=fn.as_model(nn.Dense(3)),
        wired=fn.wire(
            towers,
            tower=fn.sequential(fn.dense(2), jax.nn.relu),
            pair=fn.branches(jnp.sin, jnp.cos),
            head=lambda ys: ys[0] * ys[1],
        ),
        end=fn.mixed_precision(fn.sequential(fn.dense(1), fn.layer_norm())),
    )


@pytest.fixture(scope="module")
def made():
    model = mixed()
    return model, *model.init(jax.random.key(0), X)


def test_the_paths_and_kinds_are_those_of_the_summary(made):
    found = intermediates(*made, X)
    rows = fn.summary(made[0], X).rows
    first_calls = [path for path in found if "@" not in path]
    assert first_calls == [row.path for row in rows]
    assert [found.kinds[path] for path in first_calls] == [row.kind for row in rows]
    assert [path for path in found if "@" in path] == [
        "wired/tower@2", "wired/tower/0@2", "wired/tower/1@2"
    ]  # fmt: skip


def test_the_values_are_what_each_layer_gives(made):
    model, params, model_state = made
    found = jax.jit(lambda *args: intermediates(model, *args))(params, model_state, X)
    assert isinstance(found, Intermediates)
    assert isinstance(found["first"], tuple)
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(found["first/1"], X**2, **close)
    x = found["join"]
    for k in range(3):
        dense = jax.tree.map(lambda leaf, k=k: leaf[k], params["stack"]["block"]["0"])
        y = np.tanh(x @ dense["kernel"] + dense["bias"][None])
        np.testing.assert_allclose(found["stack/block/1"][k], y, **close)
        x = x + y
    np.testing.assert_allclose(found["stack"], x, **close)
    tower = params["wired"]["tower"]["0"]
    for path, factor in (("wired/tower/0", 1), ("wired/tower/0@2", 2)):
        y = factor * found["guest"] @ tower["kernel"] + tower["bias"][None]
        np.testing.assert_allclose(found[path], y, **close)
    np.testing.assert_allclose(found["end"], model.apply(params, model_state, X)[0], **close)


def test_in_training_the_noise_is_that_of_the_key(made):
    key = jax.random.key(3)
    found = intermediates(*made, X, key=key)
    np.testing.assert_allclose(
        found["end"], made[0].apply(*made[1:], X, key=key)[0], rtol=1e-5, atol=1e-6
    )
    dropped = np.asarray(found["noisy"] == 0)
    assert 0 < dropped.mean() < 1
    assert not (np.asarray(intermediates(*made, X)["noisy"]) == 0).any()


def test_it_can_be_mapped_and_differentiated(made):
    def last(x):
        return intermediates(*made, x)["stack"].sum()

    expected = jax.grad(lambda x: made[0].apply(*made[1:], x)[0].sum())
    both = jax.jit(jax.vmap(last))(jnp.stack([X, 2 * X]))
    last = jax.jit(last)
    np.testing.assert_allclose(both, [last(X), last(2 * X)], rtol=1e-5)
    found = jax.jit(jax.grad(lambda x: intermediates(*made, x)["end"].sum()))(X)
    np.testing.assert_allclose(found, jax.jit(expected)(X), rtol=1e-4, atol=1e-6)


def test_stacks_in_stacks_have_an_axis_each():
    model = fn.layer_stack(fn.layer_stack(fn.sequential(lambda x: x + 1), 2), 3)
    found = intermediates(
        model, *model.init(jax.random.key(0), jnp.zeros((1, 1))), jnp.zeros((1, 1))
    )
    assert found["0"].squeeze((2, 3)).tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_a_single_layer_is_the_model_itself():
    found = intermediates(fn.flatten(), {}, {}, jnp.ones((2, 3, 4)))
    assert list(found) == [""]
    assert found.kinds == {"": "flatten"}
    assert found[""].shape == (2, 12)


def test_the_table_shows_what_is_not_finite():
    model = fn.sequential(jnp.log, lambda x: x.astype(jnp.bfloat16), lambda x: x > 0)
    x = jnp.array([[1.0, -1.0, 0.0, jnp.e]])
    found = intermediates(model, {}, {}, x)
    assert repr(found) == (
        "layer  kind      output          min  mean  max  not finite\n"
        "-----  --------  --------------  ---  ----  ---  ----------\n"
        "0      log       float32[1, 4]     0   0.5    1      50.0 %\n"
        "1      <lambda>  bfloat16[1, 4]    0   0.5    1      50.0 %\n"
        "2      <lambda>  bool[1, 4]"
    )
    assert "<td style='text-align: left'>log</td>" in found._repr_html_()


def test_the_table_has_no_ranges_of_what_has_none():
    model = fn.sequential(lambda x: x + 1j, lambda x: x.real[:, :0])
    found = repr(intermediates(model, {}, {}, X)).splitlines()[2:]
    assert [line.split() for line in found] == [
        ["0", "<lambda>", "complex64[4,", "3]"],
        ["1", "<lambda>", "float32[4,", "0]", "0"],
    ]


def test_a_derivative_of_its_own_stays():
    inner = fn.sequential(fn.dense(2), jnp.tanh)

    @jax.custom_vjp
    def reversed_gradient(params, x):
        return inner.apply(params, {}, x)[0]

    def forward(params, x):
        return jax.vjp(reversed_gradient.__wrapped__, params, x)

    def backward(pullback, g):
        return pullback(-g)

    reversed_gradient.defvjp(forward, backward)

    def apply(params, model_state, x, *, key=None, training=None):
        return reversed_gradient(params, x), model_state

    model = fn.sequential(fn.Model(inner.init, apply), jnp.square)
    params, _ = model.init(jax.random.key(0), X)
    by_name = jax.grad(lambda params: intermediates(model, params, {}, X)["1"].sum())(params)
    expected = jax.grad(lambda params: model.apply(params, {}, X)[0].sum())(params)
    jax.tree.map(np.testing.assert_array_equal, by_name, expected)
    assert "0/1" in intermediates(model, params, {}, X)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (jnp.tanh, X, "`intermediates`: model must be a funcnet model, got"),
        (
            fn.dense(2),
            jax.ShapeDtypeStruct((4, 3), "float32"),
            "`intermediates`: x must be a batch of arrays, got float32[4, 3]. Give some of the "
            "data, `x[:8]` say.",
        ),
        (fn.dense(2), (), "`intermediates`: x must be a batch of arrays, got (). Give some"),
    ],
)
def test_what_is_refused(model, x, message):
    with pytest.raises(TypeError) as caught:
        intermediates(model, {}, {}, x)
    assert str(caught.value).startswith(message)
