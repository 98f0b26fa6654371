"""`conv` against XLA's convolution and PyTorch's, on every branch; its words and its lowering."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from funcnet.nn.conv import conv, convolve, convolve_xla, forward
from funcnet.nn.windows import checked
from funcnet.types import Model

# spatial axes, channels, features, kernel, further arguments
ROWS = {
    "1d": ((9,), 3, 4, (3,), {}),
    "1d valid dilated": ((9,), 3, 4, (3,), {"padding": "valid", "dilation": 2}),
    "1d even, strided": ((10,), 2, 4, (4,), {"strides": 3}),
    "1d groups": ((5,), 4, 6, (2,), {"groups": 2}),
    "1d depthwise": ((5,), 3, 3, (2,), {"groups": 3, "padding": ((0, 1),)}),
    "2d": ((6, 7), 3, 4, (3, 3), {}),
    "2d valid": ((6, 7), 3, 4, (3, 2), {"padding": "valid"}),
    "2d pairs": ((5, 6), 2, 3, (3, 3), {"padding": [(2, 0), (1, 3)]}),
    "2d pairs beyond the kernel": ((3, 3), 2, 3, (2, 2), {"padding": ((3, 3), (0, 4))}),
    "2d even": ((5, 6), 2, 3, (2, 4), {}),
    "2d strided": ((7, 8), 2, 3, (3, 3), {"strides": 2}),
    "2d strides over the kernel": ((8, 9), 2, 3, (2, 2), {"strides": (3, 4), "padding": "valid"}),
    "2d strides over the kernel, same": ((8, 9), 2, 3, (2, 2), {"strides": (3, 4)}),
    "2d dilated": ((7, 8), 2, 3, (3, 2), {"dilation": (2, 3)}),
    "2d strided and dilated": ((9, 8), 2, 3, (2, 3), {"strides": (2, 3), "dilation": (3, 2)}),
    "2d kernel over the image": ((3, 4), 2, 3, (5, 7), {}),
    "2d one channel": ((6, 5), 1, 4, (3, 3), {}),
    "2d one channel, strided": ((6, 5), 1, 4, (5, 5), {"strides": 2}),
    "2d groups": ((6, 5), 4, 6, (3, 3), {"groups": 2}),
    "2d groups, all else": (
        (9, 8), 6, 9, (2, 3),
        {"groups": 3, "strides": (2, 1), "dilation": (1, 2), "padding": ((1, 0), (0, 2))},
    ),
    "2d depthwise": ((6, 5), 3, 3, (3, 3), {"groups": 3}),
    "2d depthwise times two": ((6, 5), 3, 6, (3, 3), {"groups": 3, "strides": 2}),
    "2d pointwise": ((5, 4), 3, 4, (1, 1), {}),
    "2d pointwise, strided and padded": (
        (5, 4), 3, 4, (1, 1), {"strides": 2, "padding": ((1, 0), (0, 1))},
    ),
    "2d pointwise groups": ((5, 4), 4, 6, (1, 1), {"groups": 2}),
    "3d": ((4, 5, 3), 2, 3, (3, 2, 3), {}),
    "3d all": (
        (6, 5, 4), 4, 4, (2, 3, 2),
        {"strides": (2, 1, 1), "dilation": (1, 1, 2), "groups": 2, "padding": "valid"},
    ),
}  # fmt: skip


@pytest.fixture(params=ROWS.values(), ids=ROWS)
def row(request):
    with jax.enable_x64(True):
        yield request.param


def setup(spatial, channels, features, kernel, arguments):
    """The model, random params and a random x; drawn by numpy, which compiles nothing."""
    model = conv(features, kernel, **arguments)
    draw, dtype = np.random.default_rng(0).normal, jnp.result_type(float)
    x = jnp.asarray(draw(size=(2, *spatial, channels)), dtype)
    specs, model_state = jax.eval_shape(model.init, jax.random.key(0), x)
    assert model_state == {}
    return model, jax.tree.map(lambda spec: jnp.asarray(draw(size=spec.shape), dtype), specs), x


def output(model: Model, params, x):
    return model.apply(params, {}, x)[0]


def oracle(kernel, arguments, params, x):
    """XLA's convolution, called without any of funcnet's helpers."""
    dims, given = len(kernel), dict(arguments)
    each = lambda v: (v,) * dims if isinstance(v, int) else v  # noqa: E731 (one line, used twice)
    padding = given.get("padding", "same")
    spatial = "XYZ"[:dims]
    y = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        each(given.get("strides", 1)),
        padding.upper() if isinstance(padding, str) else padding,
        rhs_dilation=each(given.get("dilation", 1)),
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=given.get("groups", 1),
    )
    return y + jnp.broadcast_to(params["bias"], y.shape)


def with_gradients(f, *arguments):
    """The output, the gradients of a curved sum of it and a directional derivative."""
    scalar = lambda *a: jnp.sum(jnp.sin(f(*a)))  # noqa: E731
    tangents = jax.tree.map(jnp.cos, arguments)
    return (
        f(*arguments),
        jax.grad(scalar, range(len(arguments)))(*arguments),
        jax.jvp(f, arguments, tangents)[1],
    )


def test_outputs_and_gradients_are_those_of_xla(row):
    kernel, arguments = row[3:]
    model, params, x = setup(*row)
    actual = jax.jit(partial(with_gradients, partial(output, model)))(params, x)
    expected = jax.jit(partial(with_gradients, partial(oracle, kernel, arguments)))(params, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch copies x
def test_outputs_and_gradients_are_those_of_pytorch(row):
    torch = pytest.importorskip("torch")
    kernel, arguments = row[3:]
    padding = arguments.get("padding", "same")
    if padding == "same" and arguments.get("strides", 1) != 1:
        pytest.skip('PyTorch has no padding="same" with strides')
    model, params, x = setup(*row)
    first = lambda a: torch.tensor(np.moveaxis(np.array(a), -1, 1), requires_grad=True)  # noqa: E731
    xt, bias = first(x), torch.tensor(np.array(params["bias"]))
    weight = torch.tensor(
        np.moveaxis(np.array(params["kernel"]), (-1, -2), (0, 1)), requires_grad=True
    )
    given = {name: arguments[name] for name in ("dilation", "groups") if name in arguments}
    if isinstance(padding, str):
        xp, given["padding"] = xt, padding
    else:
        xp = torch.nn.functional.pad(xt, [n for pair in padding[::-1] for n in pair])
    convolution = getattr(torch.nn.functional, f"conv{len(kernel)}d")
    y = convolution(xp, weight, bias, stride=arguments.get("strides", 1), **given)
    torch.sin(y).sum().backward()
    actual, (param_grads, x_grad), _ = with_gradients(partial(output, model), params, x)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    close(np.moveaxis(np.array(actual), -1, 1), y.detach().numpy())
    close(np.moveaxis(np.array(x_grad), -1, 1), xt.grad.numpy())
    close(np.moveaxis(np.array(param_grads["kernel"]), (-1, -2), (0, 1)), weight.grad.numpy())


@pytest.mark.parametrize(
    ("name", "modes"),
    [("2d strided and dilated", ["fwd", "rev"]), ("1d groups", ["rev"]), ("1d depthwise", ["fwd"])],
)
def test_second_derivatives_check(name, modes):
    with jax.enable_x64(True):
        model, params, x = setup(*ROWS[name])
        check_grads(jax.jit(partial(output, model)), (params, x[:1]), 2, modes)


@pytest.mark.parametrize("name", ["1d even, strided", "2d groups, all else", "3d all"])
def test_the_way_of_other_platforms_gives_the_same(name):
    with jax.enable_x64(True):
        *_, kernel, given = ROWS[name]
        _, params, x = setup(*ROWS[name])
        padding, dilation = given.get("padding", "same"), given.get("dilation", 1)
        where = checked("conv", "kernel", kernel, given["strides"], padding, dilation)
        y = convolve_xla(x, params["kernel"], where, given.get("groups", 1))
        params["bias"] = jnp.zeros_like(params["bias"])
        chex.assert_trees_all_close(y, oracle(kernel, given, params, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["2d strided", "2d one channel", "2d groups", "2d depthwise"])
def test_jit_vmap_and_eager_agree(name):
    model, params, x = setup(*ROWS[name])
    f = partial(output, model)
    expected = f(params, x)
    chex.assert_trees_all_close(jax.jit(f)(params, x), expected, atol=1e-6)
    alone = jax.jit(jax.vmap(lambda x: f(params, x[None])[0]))(x)
    chex.assert_trees_all_close(alone, expected, atol=1e-6)
    twins = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    both = jax.jit(jax.vmap(f, (0, None)))(twins, x)
    chex.assert_trees_all_close(both, jnp.stack([expected, 2 * expected]), atol=1e-5)


def test_gradients_inside_and_through_loops_agree_with_a_python_loop():
    with jax.enable_x64(True):
        model, params, x = setup((5, 5), 3, 3, (3, 3), {})
        turn = lambda params, x: jnp.sin(output(model, params, x))  # noqa: E731

        def unrolled(params):
            return turn(params, turn(params, turn(params, x))).sum()

        def scanned(params):
            return jax.lax.scan(lambda c, _: (turn(params, c), None), x, length=3)[0].sum()

        def descend(params, objective):
            grads = jax.grad(objective)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

        actual = jax.lax.fori_loop(0, 3, lambda _, p: descend(p, scanned), params)
        expected, step = params, jax.jit(partial(descend, objective=unrolled))
        for _ in range(3):
            expected = step(expected)
        chex.assert_trees_all_close(actual, expected, rtol=1e-10)


def lowered(f, platform, *arguments):
    return jax.jit(f).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def in_loop(f):
    return lambda *a: jax.lax.fori_loop(0, 3, lambda _, c: jax.tree.map(jnp.add, c, f(*c)), a)


def vmapped(f):
    return lambda params, x: jax.vmap(f, (None, 0))(params, x[None])


@pytest.mark.parametrize("wrap", [lambda f: f, in_loop, vmapped], ids=["plain", "loop", "vmap"])
@pytest.mark.parametrize("name", ["1d", "2d", "2d one channel", "2d groups", "2d depthwise", "3d"])
def test_only_other_platforms_get_a_convolution(name, wrap):
    model, params, x = setup(*ROWS[name])
    forward = lambda params, x: output(model, params, x)  # noqa: E731
    gradient = wrap(jax.grad(lambda params, x: jnp.sin(forward(params, x)).sum(), (0, 1)))
    assert "stablehlo.convolution" not in lowered(forward, "cpu", params, x)
    assert "stablehlo.convolution" not in lowered(gradient, "cpu", params, x)
    for platform in ("cuda", "tpu"):
        assert "stablehlo.convolution" in lowered(forward, platform, params, x)
        assert lowered(gradient, platform, params, x).count("stablehlo.convolution") >= 2


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_a_pointwise_convolution_is_a_matrix_product_everywhere(platform):
    model, params, x = setup(*ROWS["2d pointwise"])
    text = lowered(partial(output, model), platform, params, x)
    assert "stablehlo.convolution" not in text
    assert text.count("stablehlo.dot_general") == 1


@pytest.mark.parametrize(
    ("name", "products", "joins"),
    [("2d", 1, 1), ("2d one channel", 9, 0), ("2d groups", 1, 1), ("2d depthwise", 0, 0)],
)
def test_slices_are_joined_for_one_product_where_there_are_many_channels(name, products, joins):
    model, params, x = setup(*ROWS[name])
    text = lowered(partial(output, model), "cpu", params, x)
    assert text.count("stablehlo.dot_general") == products
    assert text.count("stablehlo.concatenate") == joins


def test_gradients_keep_nothing_but_the_input_and_the_kernel():
    x, kernel = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 5))
    where = checked("conv", "kernel", (3, 3), 1, "same")
    _, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, where, 1), x, kernel)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size"))
    assert kept <= x.size + kernel.size + 2  # and the number of the platform


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["2d", "2d one channel", "2d groups", "2d depthwise"])
def test_dtype_is_kept(name, dtype):
    model, *wide = setup(*ROWS[name])
    params, x = jax.tree.map(lambda a: a.astype(dtype), wide)
    specs, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    y, dy = jax.jit(lambda p, x: jax.jvp(partial(output, model), (p, x), (p, x)))(params, x)
    grads = jax.eval_shape(jax.grad(lambda p: output(model, p, x).sum()), params)
    chex.assert_type([*jax.tree.leaves((specs, grads)), y, dy], dtype)
    expected = output(model, *jax.tree.map(lambda a: a.astype(jnp.float32), (params, x)))
    # up to 27 products of size 4 at most, each sum of them rounded by half an eps
    tolerance = 27 * 4 * float(jnp.finfo(dtype).eps) / 2
    chex.assert_trees_all_close(y.astype(jnp.float32), expected, atol=tolerance)


def test_integers_get_params_of_the_default_dtype():
    model, params, x = setup(*ROWS["2d"])
    pixels = (100 * x).astype(jnp.int8)
    specs, _ = jax.eval_shape(model.init, jax.random.key(0), pixels)
    y = output(model, params, pixels)
    chex.assert_type([specs["kernel"], y], jnp.float32)
    chex.assert_trees_all_equal(y, output(model, params, pixels.astype(jnp.float32)))


def test_init_needs_only_a_shape_and_draws_as_flax_does():
    spec = jax.ShapeDtypeStruct((1, 32, 32, 16), jnp.float32)
    params, model_state = conv(64, (3, 3), groups=2).init(jax.random.key(0), spec)
    assert model_state == {}
    assert jax.tree.map(jnp.shape, params) == {"bias": (64,), "kernel": (3, 3, 8, 64)}
    assert not params["bias"].any()
    # 4608 draws: the standard deviation of the estimate is about 1 %
    np.testing.assert_allclose(params["kernel"].std(), (3 * 3 * 8) ** -0.5, rtol=0.05)


def test_without_bias_there_is_none_and_the_state_passes_through():
    model, x = conv(4, (3,), bias=False), jnp.ones((2, 5, 3))
    params, model_state = model.init(jax.random.key(0), x)
    assert list(params) == ["kernel"]
    assert model.apply(params, model_state, x, key=jax.random.key(0))[1] is model_state
    np.testing.assert_allclose(output(model, params, x)[0, 2], params["kernel"].sum((0, 1)), 1e-5)


def test_initialisers_are_the_ones_given():
    ones, twos = jax.nn.initializers.ones, jax.nn.initializers.constant(2)
    model = conv(4, (3,), kernel_init=ones, bias_init=twos)
    params, _ = model.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    assert (params["kernel"] == 1).all()
    assert (params["bias"] == 2).all()


def test_a_second_call_traces_nothing():
    model, params, x = setup(*ROWS["2d"])
    f = jax.jit(chex.assert_max_traces(lambda params, x: output(model, params, x), n=1))
    chex.assert_trees_all_equal(f(params, x), f(params, x))


def test_a_call_outside_jit_is_one_program_traced_once():
    model, params, x = setup((11, 13), 3, 4, (3, 3), {})  # axes that no other test has
    before = forward._cache_size()
    for layer in (model, conv(4, (3, 3))):
        output(layer, params, x)
        assert forward._cache_size() == before + 1


def test_an_empty_batch_gives_an_empty_batch():
    model, params, x = setup(*ROWS["2d"])
    assert output(model, params, x[:0]).shape == (0, 6, 7, 4)


WANTED_KERNEL = (
    "`conv`: kernel must be a tuple of 1 to 3 positive whole numbers, one for each spatial axis, "
    "got {}. Write `(3, 3)` for 3 x 3 windows over (B, H, W, C)."
)
WANTED_EACH = (
    "`conv`: {} must be a positive whole number, or a tuple of one for each of the 2 spatial "
    "axes, got {}."
)
WANTED_PADDING = (
    '`conv`: padding must be "same", "valid" or a (low, high) pair of whole numbers from 0 for '
    "each of the 2 spatial axes, got {}."
)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"features": 0}, ValueError, "`conv`: features must be a positive whole number, got 0."),
        (
            {"features": 2.0},
            TypeError,
            "`conv`: features must be a positive whole number, got 2.0.",
        ),
        ({"groups": -1}, ValueError, "`conv`: groups must be a positive whole number, got -1."),
        (
            {"groups": 3},
            ValueError,
            "`conv`: groups must divide features, got groups=3 and features=4. Choose groups "
            "among the divisors of 4.",
        ),
        ({"kernel": 3}, TypeError, WANTED_KERNEL.format("3")),
        ({"kernel": ()}, TypeError, WANTED_KERNEL.format("()")),
        ({"kernel": (3, True)}, TypeError, WANTED_KERNEL.format("(3, True)")),
        ({"kernel": (3, 0)}, ValueError, WANTED_KERNEL.format("(3, 0)")),
        ({"kernel": (3, 3, 3, 3)}, ValueError, WANTED_KERNEL.format("(3, 3, 3, 3)")),
        ({"strides": 0}, ValueError, WANTED_EACH.format("strides", "0")),
        ({"strides": (1, 2, 3)}, ValueError, WANTED_EACH.format("strides", "(1, 2, 3)")),
        ({"strides": 1.5}, TypeError, WANTED_EACH.format("strides", "1.5")),
        ({"dilation": (1, "2")}, TypeError, WANTED_EACH.format("dilation", "(1, '2')")),
        (
            {"padding": "smae"},
            ValueError,
            WANTED_PADDING.format("'smae'") + " Did you mean 'same'?",
        ),
        (
            {"padding": "circular"},
            ValueError,
            WANTED_PADDING.format("'circular'") + " Known are: 'same', 'valid'.",
        ),
        ({"padding": 1}, TypeError, WANTED_PADDING.format("1")),
        ({"padding": (1, 1)}, TypeError, WANTED_PADDING.format("(1, 1)")),
        ({"padding": ((1, 1, 1), (1, 1))}, TypeError, None),
        ({"padding": ((1, 1.0), (1, 1))}, TypeError, None),
        ({"padding": ((1, -1), (1, 1))}, ValueError, None),
        ({"padding": ((1, 1),)}, ValueError, WANTED_PADDING.format("((1, 1),)")),
    ],
)
def test_arguments_are_checked_at_construction(arguments, kind, message):
    message = message or WANTED_PADDING.format(arguments["padding"])
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        conv(**{"features": 4, "kernel": (3, 3), **arguments})


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (
            (np.ones(3, np.float32), None),
            TypeError,
            "`conv`: x must be one array (B, H, W, C), got (float32[3], None). "
            "Take the array out with a function before this layer, `lambda x: x[0]` say.",
        ),
        (
            np.ones((8, 28, 28), np.float32),
            ValueError,
            "`conv`: x must have the axes (B, H, W, C), got float32[8, 28, 28]. Add a missing "
            "batch axis with `x[None]`, a missing channel axis with `x[..., None]`.",
        ),
        (
            np.ones((8, 5, 3, 6), np.float32),
            ValueError,
            "`conv`: the spatial axes of x must hold one window, which reaches over (5, 5), got "
            'float32[8, 5, 3, 6]. Use padding="same" or a smaller window.',
        ),
        (
            np.ones((8, 5, 0, 6), np.float32),
            ValueError,
            "`conv`: the spatial axes of x must hold one window, which reaches over (5, 5), got "
            'float32[8, 5, 0, 6]. Use padding="same" or a smaller window.',
        ),
    ],
)
def test_x_is_checked_at_init_and_apply(x, kind, message):
    model = conv(4, (3, 3), dilation=2, padding="valid", groups=2)
    params, _ = model.init(jax.random.key(0), jnp.ones((1, 5, 5, 6)))
    for call in (partial(model.init, jax.random.key(0)), partial(model.apply, params, {})):
        with pytest.raises(kind, match=f"^{re.escape(message)}$"):
            call(x)


def test_channels_are_checked_at_init_and_apply():
    model = conv(4, (3, 3), groups=2)
    params, _ = model.init(jax.random.key(0), jnp.ones((1, 5, 5, 6)))
    x = np.ones((1, 5, 5, 3), np.float32)
    message = (
        "`conv`: groups must divide the channels, the last axis of x, got groups=2 and "
        "float32[1, 5, 5, 3]. Choose groups among the divisors of 3."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.init(jax.random.key(0), x)
    message = (
        "`conv`: x must have 6 channels in its last axis, as at `init`, got float32[1, 5, 5, 3]. "
        "Give `init` an x of the same shape as `apply`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.apply(params, {}, x)
