"""Layers beyond the basic ones, against Flax, numpy and closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import funcnet as fn

KEY = jax.random.key(0)
IMAGE = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))


def output(model, params, x, **settings):
    return model.apply(params, {}, x, **settings)[0]


def ready(model, x=IMAGE):
    return model, model.init(KEY, x)[0]


def some(params, seed=5):
    """Params of random numbers, so that scale and bias show."""
    return jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(seed), leaf.shape), params)


@pytest.mark.parametrize(
    ("model", "theirs"),
    [
        (fn.group_norm(2), linen.GroupNorm(2)),
        (fn.instance_norm(), linen.InstanceNorm()),
        (fn.rms_norm(), linen.RMSNorm()),
    ],
)
def test_norms_equal_flax(model, theirs):
    model, params = ready(model)
    params = some(params)
    want = theirs.apply({"params": params}, IMAGE)
    chex.assert_trees_all_close(output(model, params, IMAGE), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "shape", "out"),
    [
        ({"strides": 2}, (5, 6), (10, 12)),
        ({"padding": "valid", "strides": (2, 1)}, (5, 6), (11, 8)),
        ({"padding": ((1, 0), (2, 1)), "dilation": 2}, (5, 6), (8, 7)),
    ],
)
def test_transposed_convolution_is_the_transpose_of_convolution(settings, shape, out):
    model, params = ready(fn.conv_transpose(3, (3, 3), bias=False, **settings))
    y = output(model, params, IMAGE)
    chex.assert_shape(y, (2, *out, 3))
    z = jax.random.normal(jax.random.key(2), y.shape)
    there = output(fn.conv(4, (3, 3), bias=False, **settings), params, z)
    chex.assert_shape(there, IMAGE.shape)
    np.testing.assert_allclose(jnp.vdot(there, IMAGE), jnp.vdot(z, y), rtol=1e-4)


@pytest.mark.parametrize("strides", [1, 2])
def test_transposed_convolution_equals_pytorch(strides):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.ConvTranspose2d(4, 3, 3, stride=strides, padding=1)
    kernel, bias = (p.detach().numpy() for p in theirs.parameters())  # (C, F, kh, kw)
    model = fn.conv_transpose(3, (3, 3), strides=strides, padding=((1, 1), (1, 1)))
    params = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
    want = theirs(torch.tensor(np.asarray(IMAGE.transpose(0, 3, 1, 2)))).detach().numpy()
    y = output(model, params, IMAGE)
    chex.assert_trees_all_close(y, want.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_separable_convolution_is_a_convolution_with_a_product_as_kernel():
    model, params = ready(fn.separable_conv(5, (3, 3), multiplier=2, strides=2))
    depth, point = params["depthwise"]["kernel"], params["pointwise"]["kernel"]
    depth = depth[:, :, 0].reshape(3, 3, 4, 2)
    kernel = jnp.einsum("hwcm,cmf->hwcf", depth, point[0, 0].reshape(4, 2, 5))
    whole = {"kernel": kernel, "bias": params["pointwise"]["bias"]}
    want = output(fn.conv(5, (3, 3), strides=2), whole, IMAGE)
    chex.assert_trees_all_close(output(model, params, IMAGE), want, rtol=1e-4, atol=1e-5)


def test_layers_that_move_elements():
    np.testing.assert_array_equal(
        output(fn.upsample(2), {}, IMAGE), np.repeat(np.repeat(IMAGE, 2, 1), 2, 2)
    )
    np.testing.assert_array_equal(
        output(fn.permute(3, 1, 2), {}, IMAGE), np.transpose(IMAGE, (0, 3, 1, 2))
    )
    np.testing.assert_array_equal(output(fn.reshape(-1, 8), {}, IMAGE), IMAGE.reshape(2, 15, 8))
    linear = output(fn.resize((9, 6)), {}, IMAGE)
    chex.assert_trees_all_close(linear, jax.image.resize(IMAGE, (2, 9, 6, 4), "linear"))
    chex.assert_trees_all_close(output(fn.upsample(3, "linear"), {}, IMAGE).shape, (2, 15, 18, 4))


def test_time_distributed_is_the_layer_at_each_step():
    video = jax.random.normal(KEY, (2, 3, 5, 6, 4))
    model, params = ready(fn.time_distributed(fn.conv(2, (3, 3))), video)
    y = output(model, params, video)
    for t in range(3):
        one = output(fn.conv(2, (3, 3)), params, video[:, t])
        chex.assert_trees_all_close(y[:, t], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "shared"), [(fn.spatial_dropout(0.5), (1, 2)), (fn.stochastic_depth(0.5), (1, 2, 3))]
)
def test_what_is_dropped_together(model, shared):
    x = jnp.ones((64, 5, 6, 4))
    y = np.asarray(output(model, {}, x, key=KEY))
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (y == y.max(shared, keepdims=True)).all()
    assert 0.3 < (y == 0).mean() < 0.7


def test_stochastic_depth_leaves_out_the_block():
    block = fn.residual(fn.sequential(lambda x: 10 * x, fn.stochastic_depth(0.5)))
    y = output(block, {}, jnp.ones((64, 3)), key=KEY)
    assert set(np.unique(y)) == {1.0, 21.0}


def test_gaussian_noise_has_its_deviation_and_may_be_traced():
    x = jnp.zeros((1000, 10))

    @jax.jit
    def std(s):
        return output(fn.gaussian_noise(s), {}, x, key=KEY).std()

    np.testing.assert_allclose([std(0.5), std(2.0)], [0.5, 2.0], rtol=0.05)


def test_wired_parts_are_shared_and_have_noise_of_their_own():
    def forward(parts, x):
        return parts.layer(x[0]), parts.layer(x[1]), parts.drop(x[0]), parts.drop(x[0])

    model = fn.wire(forward, layer=fn.dense(3), drop=fn.dropout(0.5))
    x = jnp.ones((8, 4)), jnp.ones((8, 4))
    params, state = model.init(KEY, x)
    assert list(params) == ["layer"]
    (a, b, c, d), _ = model.apply(params, state, x, key=KEY)
    chex.assert_trees_all_equal(a, b)
    assert bool((c != d).any())


def test_wired_state_goes_from_call_to_call():
    model = fn.wire(lambda parts, x: parts.norm(x) + parts.norm(3 * x), norm=fn.batch_norm())
    x = jax.random.normal(KEY, (8, 2)) + 1
    params, state = model.init(KEY, x)
    _, after = model.apply(params, state, x, training=True)
    alone, own = fn.batch_norm(), state["norm"]
    for each in (x, 3 * x):
        _, own = alone.apply(params["norm"], own, each, training=True)
    chex.assert_trees_all_close(after["norm"], own, rtol=1e-6)


def test_rematerialisation_changes_no_gradient():
    plain = fn.sequential(fn.dense(6), jnp.tanh, fn.dropout(0.5), fn.dense(2))
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    params, state = plain.init(KEY, x)

    def grads(model):
        return jax.grad(lambda p: model.apply(p, state, x, key=KEY)[0].sum())(params)

    for keep in ("nothing", "dots", "dots_without_batch", "everything", ["dense"]):
        chex.assert_trees_all_close(grads(fn.remat(plain, keep)), grads(plain), rtol=1e-6)

    def residuals(model):
        f = jax.vjp(lambda p: model.apply(p, state, x, key=KEY)[0], params)[1]
        return fn.tree.size(jax.tree.leaves(f))

    assert residuals(fn.remat(plain)) < residuals(plain)


def test_mixed_precision_computes_in_bfloat16_alone():
    seen = []

    def watch(x):
        seen.append(x.dtype)
        return x

    model = fn.mixed_precision(fn.sequential(fn.dense(4), watch, fn.batch_norm(), watch))
    x = jnp.ones((8, 3))
    params, state = model.init(KEY, x)
    seen.clear()
    y, after = model.apply(params, state, x, training=True)
    assert seen == [jnp.bfloat16] * 2
    assert y.dtype == jnp.float32
    chex.assert_trees_all_equal_dtypes(after, state, jax.tree.map(jnp.float32, state))
    grads = jax.grad(lambda p: model.apply(p, state, x, training=True)[0].sum())(params)
    chex.assert_trees_all_equal_dtypes(grads, params)


@pytest.mark.parametrize("model", [fn.sinusoidal_positions(), fn.learned_positions(5)])
def test_positions_of_integers_are_floats(model):
    x = jnp.ones((2, 5, 4), int)
    params = some(model.init(KEY, x)[0])
    floats = output(model, params, x.astype(float))
    np.testing.assert_array_equal(output(model, params, x), floats)


def test_integer_images():
    x = (10 * jnp.arange(8, dtype=jnp.uint8)).reshape(1, 2, 4, 1)
    model, params = ready(fn.conv_transpose(3, (3, 3)), x)
    want = output(model, params, x.astype(float))
    np.testing.assert_allclose(output(model, params, x), want, rtol=1e-6)
    thin = output(fn.resize((2, 2)), {}, x + jnp.uint8(1))
    wide = output(fn.resize((2, 2)), {}, x.astype(float) + 1)
    np.testing.assert_array_equal(thin, jnp.round(wide))


def test_reshape_of_nothing():
    assert output(fn.reshape(-1, 6), {}, jnp.ones((0, 12))).shape == (0, 2, 6)
    assert output(fn.reshape(np.int64(2), 6), {}, jnp.ones((1, 12))).shape == (1, 2, 6)


REFUSED = {
    "one length for resize": (
        lambda: fn.resize(14),
        "`resize`: spatial must be a length for each spatial axis, got 14. "
        "Say `fn.resize((14, 14))`.",
    ),
    "a method misspelt": (
        lambda: fn.upsample(2, method="linaer"),
        "`upsample`: method must be one of 'nearest', 'linear', 'cubic', 'lanczos3', 'lanczos5', "
        "got 'linaer'. Did you mean 'linear'?",
    ),
    "an axis by name": (
        lambda: fn.permute("a", 1),
        "`permute`: axes must name each axis after the batch once, counted from 1, got 'a', 1. "
        "`fn.permute(2, 1)` swaps the two of (B, T, C).",
    ),
    "a dtype by nickname": (
        lambda: fn.mixed_precision(fn.dense(2), "bf16"),
        "`mixed_precision`: compute must be a floating dtype, got 'bf16'. Take `jnp.bfloat16` say.",
    ),
    "nothing to keep": (
        lambda: fn.remat(fn.dense(2), keep=None),
        "`remat`: keep must be one of 'nothing', 'dots', 'dots_without_batch', 'everything' or a "
        "list of kinds of layers, got None.",
    ),
    "dropout of integers": (
        lambda: fn.dropout(0.5).apply({}, {}, jnp.ones((2, 3), int), key=KEY),
        "`dropout`: x must hold floats in training, got int32[2, 3]. "
        "Convert it in a layer before, `lambda x: x / 255` say.",
    ),
    "augmentation of unequal parts": (
        lambda: fn.augment(lambda key, x: x).apply(
            {}, {}, (jnp.ones((2, 3)), jnp.ones((3, 3))), key=KEY
        ),
        "`augment`: all of x must hold as many examples, got (float32[2, 3], float32[3, 3]).",
    ),
    "groups that do not divide": (
        lambda: ready(fn.group_norm(3)),
        "`group_norm`: groups must divide the channels, the last axis of x, got groups=3 and "
        "float32[2, 5, 6, 4]. Choose among the divisors of 4.",
    ),
    "too much cut off": (
        lambda: ready(fn.conv_transpose(3, (3,), padding=((5, 5),)), jnp.ones((2, 3, 1))),
        "`conv_transpose`: padding must leave something of y, got padding=((5, 5),) for lengths "
        "(5,). Cut off less.",
    ),
    "other channels": (
        lambda: output(*ready(fn.conv_transpose(3, (3, 3))), IMAGE[..., :2]),
        "`conv_transpose`: x must have 4 channels in its last axis, as at `init`, got "
        "float32[2, 5, 6, 2]. Give `init` an x of the same shape.",
    ),
    "a reshape that does not fit": (
        lambda: ready(fn.sequential(fn.reshape(7, -1))),
        "`reshape`: an example must have as many elements as shape=(7, -1), got "
        "float32[2, 5, 6, 4], which has 120 an example.",
    ),
    "a reshape with the batch": (
        lambda: fn.reshape(-1, -1),
        "`reshape`: shape must be positive whole numbers, one of which may be -1, got -1, -1. "
        "Leave the batch axis out: `fn.reshape(28, 28, 1)`.",
    ),
    "no permutation": (
        lambda: fn.permute(0, 1),
        "`permute`: axes must name each axis after the batch once, counted from 1, got 0, 1. "
        "`fn.permute(2, 1)` swaps the two of (B, T, C).",
    ),
    "a negative deviation": (
        lambda: fn.gaussian_noise(-1.0),
        "`gaussian_noise`: std must be a number of at least 0, got -1.0. "
        "It is a standard deviation.",
    ),
    "a rate above 1": (
        lambda: fn.stochastic_depth(2),
        "`stochastic_depth`: rate must lie in 0 .. 1, got 2. It is the fraction dropped.",
    ),
    "a part never called": (
        lambda: ready(fn.wire(lambda parts, x: parts.a(x), a=fn.dense(2), b=fn.dense(2))),
        "`wire`: forward must call every part, got no call of b. Leave out what is not used.",
    ),
    "a policy misspelt": (
        lambda: fn.remat(fn.dense(2), "dot"),
        "`remat`: keep must be one of 'nothing', 'dots', 'dots_without_batch', 'everything' or a "
        "list of kinds of layers, got 'dot'.",
    ),
    "an integer precision": (
        lambda: fn.mixed_precision(fn.dense(2), jnp.int8),
        f"`mixed_precision`: compute must be a floating dtype, got {jnp.int8!r}. "
        "Take `jnp.bfloat16` say.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_words_of_errors(case):
    act, words = REFUSED[case]
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    assert str(caught.value) == words
