"""Pooling against Flax's and PyTorch's, its rule for ties as a table, its words."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.test_util import check_grads

from funcnet.nn.pooling import avg_pool, global_avg_pool, global_max_pool, max_pool

# spatial axes, window, further arguments
ROWS = {
    "1d": ((8,), (2,), {}),
    "1d cropped": ((9,), (4,), {}),
    "1d overlapping": ((9,), (3,), {"strides": 2, "padding": "same"}),
    "2d": ((4, 6), (2, 3), {}),
    "2d cropped": ((5, 8), (2, 3), {}),
    "2d same": ((5, 7), (2, 3), {"padding": "same"}),
    "2d pairs": ((5, 7), (3, 3), {"padding": [(1, 2), (0, 1)]}),
    "2d strides are the window": ((5, 7), (2, 2), {"strides": 2}),
    "2d overlapping": ((6, 7), (3, 3), {"strides": 2}),
    "2d overlapping same": ((6, 7), (3, 2), {"strides": 1, "padding": "same"}),
    "2d overlapping pairs": ((6, 7), (3, 2), {"strides": (2, 1), "padding": ((1, 2), (1, 0))}),
    "2d overlapping on one axis": ((6, 7), (2, 3), {"strides": (2, 2)}),
    "2d strides over the window": ((7, 8), (2, 2), {"strides": 3}),
    "2d window over the image": ((2, 3), (4, 5), {"padding": "same"}),
    "3d": ((4, 5, 4), (2, 2, 2), {}),
    "3d overlapping": ((4, 5, 4), (3, 2, 2), {"strides": (1, 2, 1), "padding": "same"}),
}
POOLS = {"max": max_pool, "avg": avg_pool}


@pytest.fixture(params=ROWS.values(), ids=ROWS)
def row(request):
    with jax.enable_x64(True):
        yield request.param


def draw(spatial, dtype=np.float64):
    """Elements that all differ, negative all: padding with zeros would show."""
    shape = (2, *spatial, 3)
    values = np.random.default_rng(0).permutation(np.prod(shape)) - 1000
    return jnp.asarray(values.reshape(shape), dtype)


def pooled(model, x):
    return model.apply({}, {}, x)[0]


def with_gradient(f, x):
    """The output, and the gradient of a curved sum of it, by one program."""
    return jax.jit(lambda x: (f(x), jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))(x)))(x)


@pytest.mark.parametrize("name", POOLS)
def test_outputs_and_gradients_are_those_of_flax(name, row):
    spatial, window, given = row
    x = draw(spatial)
    strides = given.get("strides", window)
    strides = (strides,) * len(window) if isinstance(strides, int) else strides
    padding = given.get("padding", "valid")
    padding = padding.upper() if isinstance(padding, str) else padding
    of_flax = {"max": linen.max_pool, "avg": partial(linen.avg_pool, count_include_pad=False)}[name]
    expected = with_gradient(lambda x: of_flax(x, window, strides, padding), x)
    actual = with_gradient(partial(pooled, POOLS[name](window, **given)), x)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", POOLS)
def test_outputs_and_gradients_are_those_of_pytorch(name, row):
    torch = pytest.importorskip("torch")
    spatial, window, given = row
    if "padding" in given:
        pytest.skip("PyTorch has no padding by side")
    x = draw(spatial)
    xt = torch.tensor(np.moveaxis(np.array(x), -1, 1), requires_grad=True)
    of_torch = getattr(torch.nn.functional, f"{name}_pool{len(window)}d")
    y = of_torch(xt, window, given.get("strides", window))
    torch.sin(y).sum().backward()
    actual = with_gradient(partial(pooled, POOLS[name](window, **given)), x)
    expected = (y.detach().numpy(), xt.grad.numpy())
    first = [np.moveaxis(np.array(a), -1, 1) for a in actual]
    chex.assert_trees_all_close(tuple(first), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("strides", "padding", "x", "grads"),
    [
        # windows side by side: tied elements share the 1 of their window
        (2, "valid", [3, 1, 2, 2], [1, 0, 0.5, 0.5]),
        (2, "valid", [0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]),
        # the last element fills no window
        (2, "valid", [1, 1, 9], [0.5, 0.5, 0]),
        # padding has no share, however low the others are
        (2, "same", [-9, -9, -9], [0.5, 0.5, 1]),
        # overlapping windows: the shares of each add up
        (1, "valid", [2, 2, 2], [0.5, 1, 0.5]),
        (1, "valid", [1, 2, 1], [0, 2, 0]),
        (1, "same", [5, 5, 4], [0.5, 1.5, 1]),
    ],
)
def test_ties_share_the_gradient_equally(strides, padding, x, grads):
    model = max_pool((2,), strides=strides, padding=padding)
    x = jnp.array(x, jnp.float32)[None, :, None]
    actual = jax.grad(lambda x: pooled(model, x).sum())(x)
    assert actual[0, :, 0].tolist() == grads


def test_ties_of_a_whole_image_share_too():
    x = jnp.array([[1.0, 4.0], [4.0, 0.0]])[None, ..., None]
    grads = jax.grad(lambda x: pooled(global_max_pool(), x).sum())(x)
    assert grads[0, ..., 0].tolist() == [[0, 0.5], [0.5, 0]]


def test_a_mean_at_the_border_leaves_padding_out():
    x = jnp.array([3.0, 5.0, 7.0])[None, :, None]
    model = avg_pool((3,), strides=1, padding="same")
    assert pooled(model, x)[0, :, 0].tolist() == [4, 5, 6]


@pytest.mark.parametrize("name", ["2d same", "2d overlapping pairs"])
@pytest.mark.parametrize("pool", POOLS.values())
def test_second_derivatives_check(pool, name):
    with jax.enable_x64(True):
        spatial, window, given = ROWS[name]
        f = jax.jit(partial(pooled, pool(window, **given)))
        check_grads(f, (draw(spatial)[:1],), 2, modes=["fwd", "rev"])


@pytest.mark.parametrize("name", ["2d same", "2d overlapping pairs"])
@pytest.mark.parametrize("pool", POOLS.values())
def test_jit_vmap_scan_and_eager_agree(pool, name):
    spatial, window, given = ROWS[name]
    x, f = draw(spatial, np.float32), partial(pooled, pool(window, **given))
    y = f(x)
    chex.assert_trees_all_close(jax.jit(f)(x), y, rtol=1e-6)
    chex.assert_trees_all_close(jax.vmap(lambda x: f(x[None])[0])(x), y, rtol=1e-6)
    _, stacked = jax.lax.scan(lambda c, x: (c, f(x[None])[0]), None, x)
    chex.assert_trees_all_close(stacked, y, rtol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", ["2d", "2d same", "2d overlapping"])
@pytest.mark.parametrize("pool", POOLS.values())
def test_no_platform_gets_a_window_operation(pool, name, platform):
    spatial, window, given = ROWS[name]
    f = partial(pooled, pool(window, **given))
    x = draw(spatial, np.float32)
    for g in (f, jax.grad(lambda x: f(x).sum())):
        text = jax.jit(g).trace(x).lower(lowering_platforms=(platform,)).as_text()
        assert "reduce_window" not in text
        assert "select_and_scatter" not in text


@pytest.mark.parametrize("pool", POOLS.values())
def test_windows_side_by_side_are_one_reshape(pool):
    for strides, joins in ((2, 0), (1, 1)):
        f = jax.jit(partial(pooled, pool((2, 2), strides=strides)))
        assert f.lower(draw((4, 4), np.float32)).as_text().count("stablehlo.concatenate") == joins


ALL = {
    "max": max_pool((2, 2), padding="same"),
    "max overlapping": max_pool((3, 3), strides=2, padding="same"),
    "avg": avg_pool((2, 2), padding="same"),
    "avg overlapping": avg_pool((3, 3), strides=2, padding="same"),
    "global max": global_max_pool(),
    "global avg": global_avg_pool(),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("model", ALL.values(), ids=ALL)
def test_dtype_is_kept(model, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 3)), dtype)
    y, grads = with_gradient(partial(pooled, model), x)
    chex.assert_type([y, grads], dtype)
    wide = pooled(model, x.astype(jnp.float32))  # each mean is rounded once, to half an eps of 4
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(y.astype(jnp.float32), wide, atol=tolerance)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32, jnp.bool_])
def test_integers_have_a_largest_and_a_mean(dtype):
    x = jnp.array([0, 1, 1, 0, 0], dtype)[None, :, None]
    largest = pooled(max_pool((2,), padding="same"), x)
    chex.assert_type(largest, dtype)
    assert largest[0, :, 0].tolist() == [1, 1, 0]
    average = pooled(avg_pool((2,), padding="same"), x)
    chex.assert_type(average, jnp.float32)
    assert average[0, :, 0].tolist() == [0.5, 0.5, 0]


def test_negative_integers_are_above_padding():
    x = jnp.array([-3, -2, -7], jnp.int8)[None, :, None]
    assert pooled(max_pool((2,), padding="same"), x)[0, :, 0].tolist() == [-2, -7]


def test_minus_infinity_and_nan_pass_through():
    x = jnp.array([-jnp.inf, -jnp.inf, 1, jnp.nan])[None, :, None]
    y = pooled(max_pool((2,)), x)[0, :, 0]
    assert y[0] == -jnp.inf
    assert jnp.isnan(y[1])


def test_global_pools_are_numpys():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    chex.assert_trees_all_equal(pooled(global_max_pool(), x), x.max((1, 2)))
    chex.assert_trees_all_close(pooled(global_avg_pool(), x), x.mean((1, 2)), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(pooled(global_max_pool(), x[:, 0]), x[:, 0].max(1))


@pytest.mark.parametrize("model", ALL.values(), ids=ALL)
def test_pools_have_no_arrays(model):
    assert model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)) == (
        {},
        {},
    )
    model_state = {}
    _, after = model.apply({}, model_state, jnp.ones((1, 4, 4, 3)), key=jax.random.key(0))
    assert after is model_state


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"window": 2},
            TypeError,
            "window must be a tuple of 1 to 3 positive whole numbers, one for each spatial axis, "
            "got 2. Write `(3, 3)` for 3 x 3 windows over (B, H, W, C).",
        ),
        (
            {"window": (2, 0)},
            ValueError,
            "window must be a tuple of 1 to 3 positive whole numbers, one for each spatial axis, "
            "got (2, 0). Write `(3, 3)` for 3 x 3 windows over (B, H, W, C).",
        ),
        (
            {"strides": (2,)},
            ValueError,
            "strides must be a positive whole number, or a tuple of one for each of the 2 spatial "
            "axes, got (2,).",
        ),
        (
            {"padding": "vaild"},
            ValueError,
            'padding must be "same", "valid" or a (low, high) pair of whole numbers from 0 for '
            "each of the 2 spatial axes, got 'vaild'. Did you mean 'valid'?",
        ),
        (
            {"padding": ((0, 2), (1, 1))},
            ValueError,
            "padding must be smaller than the window (2, 2), so that no window holds padding "
            "alone, got ((0, 2), (1, 1)). Choose a larger window or less padding.",
        ),
    ],
)
def test_arguments_are_checked_at_construction(name, arguments, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(f'`{name}`: {message}')}$"):
        POOLS[name[:3]](**{"window": (2, 2), **arguments})


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.ones((8, 28, 28), np.float32),
            "x must have the axes (B, H, W, C), got float32[8, 28, 28]. Add a missing batch axis "
            "with `x[None]`, a missing channel axis with `x[..., None]`.",
        ),
        (
            np.ones((8, 1, 4, 3), np.float32),
            "the spatial axes of x must hold one window, which reaches over (2, 2), got "
            'float32[8, 1, 4, 3]. Use padding="same" or a smaller window.',
        ),
    ],
)
def test_x_is_checked_at_apply(name, x, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'`{name}`: {message}')}$"):
        pooled(POOLS[name[:3]]((2, 2)), x)


def test_an_empty_axis_has_no_largest_element():
    message = (
        "`max_pool`: the spatial axes of x must hold one window, which reaches over (2,), got "
        'float32[8, 0, 3]. Use padding="same" or a smaller window.'
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pooled(max_pool((2,), padding=((1, 1),)), np.ones((8, 0, 3), np.float32))


@pytest.mark.parametrize("name", ["global_max_pool", "global_avg_pool"])
def test_global_pools_check_x(name):
    model = {"global_max_pool": global_max_pool, "global_avg_pool": global_avg_pool}[name]()
    message = (
        f"`{name}`: x must have the axes (B, *spatial, C), got float32[8, 3]. "
        "The first axis is the batch: add it to a single example with `x[None]`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pooled(model, np.ones((8, 3), np.float32))
    message = (
        f"`{name}`: the spatial axes of x must not be empty, got float32[8, 0, 3]. "
        "Check the layers before this one."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pooled(model, np.ones((8, 0, 3), np.float32))
