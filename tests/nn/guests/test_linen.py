"""Flax Linen guests against Linen itself."""

import functools

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import optax
import pytest

import funcnet as fn
from tests.nn.guests.training import KEY, TRAINING, X, compiled, images, trained


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


class Penalised(linen.Module):
    @linen.compact
    def __call__(self, x):
        y = linen.Dense(3)(x)
        self.sow("losses", "size", (y**2).mean())
        return y


@pytest.mark.parametrize("x", [X, jax.ShapeDtypeStruct(X.shape, X.dtype)], ids=["x", "its spec"])
def test_what_is_sown_under_any_name_is_dropped(x):
    model = fn.as_model(Penalised())
    params, model_state = model.init(KEY, x)
    assert model_state == {}
    assert model.apply(params, {}, X, training=True)[1] == {}


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


class ResNetBlock(linen.Module):
    """Two convolutions around which the input goes, projected where its shape differs."""

    filters: int
    conv: object
    norm: object
    strides: tuple[int, int] = (1, 1)

    @linen.compact
    def __call__(self, x):
        y = self.conv(self.filters, (3, 3), self.strides)(x)
        y = linen.relu(self.norm()(y))
        y = self.conv(self.filters, (3, 3))(y)
        y = self.norm(scale_init=linen.initializers.zeros_init())(y)
        if x.shape != y.shape:
            x = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(x)
            x = self.norm(name="norm_proj")(x)
        return linen.relu(x + y)


class ResNet(linen.Module):
    """Flax's residual network for ImageNet, with one block a stage."""

    stages: tuple[int, ...] = (1, 1)
    filters: int = 4

    @linen.compact
    def __call__(self, x, train: bool = True):
        conv = functools.partial(linen.Conv, use_bias=False)
        norm = functools.partial(
            linen.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5
        )
        x = linen.relu(norm(name="norm_init")(conv(self.filters, (3, 3), name="conv_init")(x)))
        for i, blocks in enumerate(self.stages):
            for j in range(blocks):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = ResNetBlock(self.filters * 2**i, conv, norm, strides)(x)
        return linen.Dense(3)(x.mean(axis=(1, 2)))


def test_a_residual_network_trains():
    x, y = images()
    result = trained(fn.as_model(ResNet()), x, y, epochs=8)
    assert set(result.last.model_state) == {"batch_stats"}


def test_a_residual_network_equals_linen_and_so_do_its_statistics():
    x, _ = images()
    model, module = fn.as_model(ResNet()), ResNet()
    params, model_state = jax.jit(model.init)(KEY, x)
    variables = {"params": params, **model_state}
    chex.assert_trees_all_equal(
        compiled(model.apply, params, model_state, x)[0],
        compiled(module.apply, variables, x, train=False),
    )
    chex.assert_trees_all_equal(
        compiled(model.apply, params, model_state, x, key=TRAINING),
        compiled(module.apply, variables, x, train=True, mutable=["batch_stats"]),
    )


class EncoderBlock(linen.Module):
    """Self-attention and a dense network, each after a norm and inside a shortcut."""

    rate: float

    @linen.compact
    def __call__(self, x, *, deterministic):
        y = linen.MultiHeadDotProductAttention(num_heads=2, dropout_rate=self.rate)(
            linen.LayerNorm()(x), deterministic=deterministic
        )
        x = x + linen.Dropout(self.rate)(y, deterministic=deterministic)
        y = linen.gelu(linen.Dense(16)(linen.LayerNorm()(x)))
        y = linen.Dense(x.shape[-1])(y)
        return x + linen.Dropout(self.rate)(y, deterministic=deterministic)


class Encoder(linen.Module):
    """A transformer that reads tokens and classifies them as a whole."""

    rate: float = 0.1

    @linen.compact
    def __call__(self, tokens, *, deterministic):
        x = linen.Embed(6, 8)(tokens)
        x = x + self.param("positions", linen.initializers.normal(0.02), (1, *x.shape[1:]))
        x = EncoderBlock(self.rate)(x, deterministic=deterministic)
        return linen.Dense(3)(linen.LayerNorm()(x).mean(axis=1))


TOKENS = jax.random.randint(KEY, (12, 4), 0, 6)


def test_a_transformer_trains():
    result = trained(fn.as_model(Encoder()), TOKENS, TOKENS[:, 0] // 2)
    assert result.last.model_state == {}


def test_a_transformer_equals_linen():
    model, module = fn.as_model(Encoder()), Encoder()
    params, _ = jax.jit(model.init)(KEY, TOKENS)
    chex.assert_trees_all_equal(
        compiled(model.apply, params, {}, TOKENS)[0],
        compiled(module.apply, {"params": params}, TOKENS, deterministic=True),
    )
