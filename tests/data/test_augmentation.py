"""Augmentations: each law once, over a table of rows; closed forms; messages whole."""

import colorsys
import math
from functools import cache
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.data import augmentation
from funcnet.data.augmentation import geometry, values

IMAGE = (9, 8, 3)
SEQUENCE = (12, 5)
KEYS = jax.random.split(jax.random.key(7), 200)
STILL = {"degrees": 0.0, "scale": 1.0, "shear": 0.0, "shift": (0.0, 0.0), "fill": 0.0}
compiled_warp = jax.jit(lambda x, given: geometry.warp(x, **given))
turn_hue, saturate, stretch = map(jax.jit, (values.turn_hue, values.saturate, values.stretch))


def warp(x, **given):
    """The warp with plain numbers, compiled once a shape."""
    return compiled_warp(x, STILL | jax.tree.map(float, given))


class Row(NamedTuple):
    """An augmentation under test.

    Attributes:
        make: makes it for a strength.
        strength: one at which every key gives something else.
        shape: of an example.
        none: the strength at which it is the identity.
        whole: whether the strength is a whole number.
        traced: whether the strength may be traced.
        floats: whether the example must hold floats.
    """

    make: Any
    strength: Any
    shape: tuple[int, ...] = IMAGE
    none: float = 0.0
    whole: bool = False
    traced: bool = True
    floats: bool = True


def everything(strength):
    return augmentation.affine(
        degrees=90 * strength,
        scale=(1 - strength / 2, 1 + strength),
        shear=30 * strength,
        shift=5 * strength,
        fill=0.5,
    )


def colors(strength):
    return augmentation.color(
        brightness=strength, contrast=strength, saturation=strength, hue=strength / 2
    )


def chained(strength):
    return augmentation.chain(augmentation.rotate(90 * strength), augmentation.noise(strength))


def sometimes(strength):
    return augmentation.apply_with(strength, augmentation.brightness(1.0))


ROWS = {
    "affine": Row(everything, 0.5),
    "rotate": Row(augmentation.rotate, 90.0),
    "scale": Row(lambda s: augmentation.scale(1 - s / 2, 1 + s), 0.9),
    "shift": Row(augmentation.shift, 3.0),
    "crop": Row(augmentation.crop, 5, none=0, whole=True, traced=False, floats=False),
    "flip": Row(lambda p: augmentation.flip(p=p), 0.5, floats=False),
    "brightness": Row(augmentation.brightness, 0.5),
    "contrast": Row(augmentation.contrast, 0.5),
    "saturation": Row(augmentation.saturation, 0.5),
    "hue": Row(augmentation.hue, 0.5),
    "color": Row(colors, 0.5),
    "noise": Row(augmentation.noise, 0.5),
    "cutout": Row(augmentation.cutout, 4, floats=False),
    "time_shift": Row(augmentation.time_shift, 4, SEQUENCE, 0, whole=True, floats=False),
    "time_mask": Row(augmentation.time_mask, 6, SEQUENCE, 0, whole=True, floats=False),
    "frequency_mask": Row(augmentation.frequency_mask, 4, SEQUENCE, 0, whole=True, floats=False),
    "chain": Row(chained, 0.5),
    "apply_with": Row(sometimes, 0.5),
}
FLOATS = [pytest.param(row, id=name) for name, row in ROWS.items() if row.floats]


def example(row, dtype=jnp.float32):
    """Elements that all differ, in 0.1 .. 1, so that no 0 of a fill is one of them."""
    return jax.random.uniform(jax.random.key(1), row.shape, minval=0.1).astype(dtype)


def over_keys(f, x, keys=KEYS[:20]):
    """`f(key, x)` for each of the keys, as one compiled program."""
    return jax.jit(jax.vmap(f, (0, None)))(keys, x)


@cache
def program(name):
    """`(strength, keys, x) -> ys`, compiled once for each dtype that is asked for."""
    row = ROWS[name]

    def run(strength, keys, x):
        return jax.vmap(lambda key: row.make(strength)(key, x))(keys)

    return jax.jit(run, static_argnums=() if row.traced else 0)


def strength_of(row, value):
    """`value` as an array, where it may be traced."""
    if not row.traced:
        return value
    return jnp.asarray(value, jnp.int32 if row.whole else jnp.float32)


def results(name, dtype=jnp.float32, keys=KEYS[:20]):
    """What a row makes of its example with each of 20 keys, and that example."""
    row, x = ROWS[name], example(ROWS[name], dtype)
    return program(name)(strength_of(row, row.strength), keys, x), x


# -------------------------------------------------------------------------------- laws of every row


@pytest.mark.parametrize("name", ROWS)
def test_same_key_same_result_and_other_keys_others(name):
    ys, _ = results(name)
    chex.assert_trees_all_equal(ys, results(name)[0])
    chex.assert_trees_all_equal(ys[::-1], results(name, keys=KEYS[:20][::-1])[0])
    assert len({y.tobytes() for y in np.asarray(ys)}) > 1


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_strength_0_is_the_identity_exactly(name, dtype):
    row, x = ROWS[name], example(ROWS[name], dtype)
    ys = program(name)(strength_of(row, row.none), KEYS[:20], x)
    chex.assert_trees_all_equal(ys, jnp.stack([x] * 20))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shape_and_dtype_are_kept_and_all_is_finite(name, dtype):
    ys, x = results(name, dtype)
    chex.assert_shape(ys, (20, *x.shape))
    chex.assert_type(ys, dtype)
    chex.assert_tree_all_finite(ys)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("chain", "color")])
def test_bfloat16_is_float32_rounded_once(name):
    # not so a chain, which rounds after each link; half a unit in the last place is 2**-9
    row, x = ROWS[name], example(ROWS[name], jnp.bfloat16)
    wide = program(name)(strength_of(row, row.strength), KEYS[:20], x.astype(jnp.float32))
    narrow = results(name, jnp.bfloat16)[0].astype(jnp.float32)
    chex.assert_trees_all_close(narrow, wide, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_jit_agrees_with_eager_and_a_traced_strength_with_a_plain_one(name):
    ys, x = results(name)
    # a rounding of the strength moves a place by 1e-6 pixels, and a value by as much
    chex.assert_trees_all_close(ys[1], ROWS[name].make(ROWS[name].strength)(KEYS[1], x), atol=1e-5)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.traced])
def test_a_traced_strength_is_not_retraced(name):
    row, x = ROWS[name], example(ROWS[name])
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def make(strength):
        return row.make(strength)(KEYS[0], x)

    traced = jax.jit(make)
    for strength in (row.strength, row.none):
        jax.eval_shape(traced, strength_of(row, strength))  # traces as a call does


@pytest.mark.parametrize("name", ["shift", "contrast", "cutout"])
def test_a_batch_in_augment_is_its_examples_each_with_a_key_of_its_own(name):
    row, x = ROWS[name], example(ROWS[name])
    key = jax.random.key(3)
    batch = jnp.stack([x] * 20)
    model = fn.augment(row.make(row.strength))
    ys, _ = jax.jit(lambda x: model.apply({}, {}, x, key=key))(batch)
    chex.assert_trees_all_close(ys, results(name, keys=jax.random.split(key, 20))[0], atol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_gradients_are_finite(name):
    row, x = ROWS[name], example(ROWS[name])
    flat = jnp.full(row.shape, 0.5)  # all channels alike: no hue, and no largest channel
    xs = jnp.stack([x, flat, 0 * flat])

    def size(x, strength, key):
        return (row.make(strength)(key, x) ** 2).sum()

    if row.traced and not row.whole:
        strengths = jnp.array([row.strength, row.none])
        grads = jax.grad(size, (0, 1))
        over = jax.vmap(jax.vmap(grads, (0, None, None)), (None, 0, None))
        chex.assert_tree_all_finite(jax.jit(over)(xs, strengths, KEYS[0]))
    else:
        over = jax.vmap(jax.grad(lambda x: size(x, row.strength, KEYS[0])))
        chex.assert_tree_all_finite(jax.jit(over)(xs))


@pytest.mark.parametrize("row", FLOATS)
def test_whole_numbers_are_refused_where_values_are_computed(row):
    with pytest.raises(TypeError) as raised:
        jax.eval_shape(row.make(row.strength), KEYS[0], jnp.ones(row.shape, jnp.uint8))
    assert str(raised.value).partition(": ")[2] == (
        "x must hold floats, got uint8[9, 8, 3]. Convert it in a layer before, "
        "`lambda x: x / 255` say."
    )


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.floats])
def test_whole_numbers_are_kept_where_elements_only_move(name):
    row = ROWS[name]
    x = (100 * example(row)).astype(jnp.uint8)
    ys = program(name)(strength_of(row, row.strength), KEYS[:20], x)
    chex.assert_type(ys, jnp.uint8)
    assert set(np.unique(ys)) <= {0, *np.unique(x)}


@pytest.mark.parametrize("name", ["shift", "crop", "cutout", "brightness", "time_shift"])
def test_a_numpy_array_serves_as_well(name):
    f, x = ROWS[name].make(ROWS[name].strength), example(ROWS[name])
    chex.assert_trees_all_equal(f(KEYS[0], np.asarray(x)), f(KEYS[0], x))


# -------------------------------------------------------------------------------- places, in images


def moved(x, down, right, fill):
    """`x` shifted by whole pixels, as numpy would: roll, then fill what came round."""
    y = np.roll(np.asarray(x), (down, right), (0, 1))
    rows, columns = np.arange(y.shape[0]) - down, np.arange(y.shape[1]) - right
    y[(rows < 0) | (rows >= y.shape[0])] = fill
    y[:, (columns < 0) | (columns >= y.shape[1])] = fill
    return y


PICTURE = example(Row(None, None, (8, 8, 2)))


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (0, -3), (-1, 4), (9, 1), (0, -20)])
@pytest.mark.parametrize("fill", [0.0, 0.25])
def test_a_shift_by_whole_pixels_is_a_roll(down, right, fill):
    y = warp(example(ROWS["shift"]), shift=(down, right), fill=fill)
    chex.assert_trees_all_equal(np.asarray(y), moved(example(ROWS["shift"]), down, right, fill))


@pytest.mark.parametrize("quarters", [-3, -2, -1, 1, 2, 3, 4])
def test_a_turn_by_right_angles_is_rot90(quarters):
    # cos(90 degrees) is 4e-8 in float32: places are off by 1e-6 pixels, values by as much
    y = warp(PICTURE, degrees=90 * quarters)
    chex.assert_trees_all_close(y, jnp.rot90(PICTURE, quarters), atol=1e-5)


def test_a_turn_is_about_the_centre_of_an_image_that_is_no_square():
    x = example(ROWS["rotate"])
    chex.assert_trees_all_close(warp(x, degrees=180), x[::-1, ::-1], atol=1e-5)


def test_twice_as_large_repeats_by_linear_interpolation():
    x = jnp.arange(5.0).reshape(1, 5, 1)
    y = warp(x, scale=2)
    assert y[0, :, 0].tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]
    y = warp(x, scale=0.5, fill=9.0)
    assert y[0, :, 0].tolist() == [9.0, 0.0, 2.0, 4.0, 9.0]


def test_a_slant_moves_each_row_by_its_distance_from_the_middle():
    x = np.asarray(example(Row(None, None, (5, 7, 1))))
    y = warp(x, shear=45)
    rows = [moved(x[i : i + 1], 0, i - 2, 0.0) for i in range(5)]
    chex.assert_trees_all_close(y, np.concatenate(rows), atol=1e-5)


def test_half_a_pixel_is_the_mean_of_two_and_the_border_half_the_fill():
    x = jnp.array([1.0, 3.0, 5.0]).reshape(1, 3, 1)
    assert warp(x, shift=(0, 0.5), fill=7.0)[0, :, 0].tolist() == [4.0, 2.0, 4.0]


def test_affine_is_one_warp_in_the_order_size_slant_turn_shift():
    x = example(Row(None, None, (31, 31, 1)))
    x = jax.image.resize(x[::6, ::6], x.shape, "cubic")  # smooth: resampling twice differs little
    once = warp(x, degrees=20, scale=1.2, shear=10, shift=(2, -3))
    steps = warp(warp(warp(warp(x, scale=1.2), shear=10), degrees=20), shift=(2, -3))
    inner = slice(9, -9)
    chex.assert_trees_all_close(once[inner, inner], steps[inner, inner], atol=0.02)


def test_the_warp_agrees_with_dm_pix():
    dm_pix = pytest.importorskip("dm_pix")
    x = example(Row(None, None, (16, 16, 3)))
    with jax.numpy_rank_promotion("allow"):
        theirs = jax.jit(lambda x: dm_pix.rotate(x, math.radians(33.0), mode="constant"))(x)
    inner = slice(4, -4)  # they cut the image off sharply, here its border is half the fill
    chex.assert_trees_all_close(
        warp(x, degrees=33.0)[inner, inner], theirs[inner, inner], atol=1e-5
    )


@pytest.mark.parametrize(
    ("f", "least", "most"),
    [
        (lambda fill: augmentation.rotate(40, fill=fill), -40, 40),
        (lambda fill: augmentation.affine(degrees=40, fill=fill), -40, 40),
    ],
)
def test_angles_fill_their_range(f, least, most):
    row, column = jnp.indices((21, 21)) - 10.0
    x = jnp.stack([row, column], -1)  # each pixel says where it was
    ys = over_keys(f(0.0), x, KEYS)
    angle = np.degrees(np.arctan2(*np.moveaxis(np.asarray(ys[:, 10, 15]), -1, 0)))
    assert least <= angle.min() < 0.9 * least
    assert 0.9 * most < angle.max() <= most
    assert abs(angle.mean()) < 4 * most / math.sqrt(3 * len(KEYS))  # 4 standard errors


@pytest.mark.parametrize(
    ("f", "least", "most"),
    [
        (augmentation.scale(0.5, 2.0), 0.5, 2.0),
        (augmentation.affine(scale=(0.5, 2.0)), 0.5, 2.0),
        (augmentation.scale(1.1, 1.2), 1.1, 1.2),
    ],
)
def test_factors_fill_their_range(f, least, most):
    row, column = jnp.indices((21, 21)) - 10.0
    ys = over_keys(f, jnp.stack([row, column], -1), KEYS)
    factor = 2 / np.asarray(ys[:, 10, 12, 1])
    span = most - least
    assert least - 1e-5 <= factor.min() < least + 0.1 * span
    assert most - 0.1 * span < factor.max() <= most + 1e-5
    assert not np.asarray(ys[:, 10, 10]).any()


@pytest.mark.parametrize("f", [augmentation.shift(3.0), augmentation.affine(shift=3.0)])
def test_shifts_fill_their_range_along_both_axes(f):
    row, column = jnp.indices((21, 21)) - 10.0
    place = -np.asarray(over_keys(f, jnp.stack([row, column], -1), KEYS)[:, 10, 10])
    assert np.all(place.min(0) < -2.7)
    assert np.all(place.max(0) > 2.7)
    assert np.abs(place).max() <= 3
    assert abs(np.corrcoef(place.T)[0, 1]) < 0.3


def test_shear_fills_its_range():
    row, column = jnp.indices((21, 21)) - 10.0
    ys = over_keys(augmentation.affine(shear=30), jnp.stack([row, column], -1), KEYS)
    slope = np.asarray(ys[:, 14, 10, 1]) / 4
    assert math.tan(math.radians(27)) < slope.max() <= math.tan(math.radians(30)) + 1e-6
    assert -math.tan(math.radians(30)) - 1e-6 <= slope.min() < -math.tan(math.radians(27))


# numpy's names of the same paddings
@pytest.mark.parametrize("fill", [0.0, 0.5, "edge", "reflect"])
def test_a_crop_is_a_window_of_the_padded_image_and_each_comes(fill):
    x = example(Row(None, None, (5, 4, 1)))
    around = [(2, 2), (2, 2), (0, 0)]
    plain = {"mode": fill} if isinstance(fill, str) else {"constant_values": fill}
    padded = np.pad(np.asarray(x), around, **plain)
    windows = {padded[i : i + 5, j : j + 4].tobytes() for i in range(5) for j in range(5)}
    ys = over_keys(augmentation.crop(2, fill=fill), x, KEYS)
    assert {y.tobytes() for y in np.asarray(ys)} == windows


@pytest.mark.parametrize(("axis", "number"), [("horizontal", 1), ("vertical", 0)])
def test_a_flip_is_the_reversed_axis_with_its_probability(axis, number):
    x = example(ROWS["flip"])
    chex.assert_trees_all_equal(augmentation.flip(axis, 1.0)(KEYS[0], x), jnp.flip(x, number))
    ys = np.asarray(over_keys(augmentation.flip(axis, 0.3), x, KEYS))
    share = np.mean([np.array_equal(y, np.flip(x, number)) for y in ys])
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(KEYS))  # 4 standard errors


# ------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("turns", [-0.5, -0.2, 0.1, 1 / 3, 0.49])
def test_hue_is_that_of_colorsys(turns):
    x = np.asarray(example(Row(None, None, (6, 6, 3)))).copy()
    x[0, 0], x[0, 1], x[0, 2], x[0, 3] = 0.3, [1, 1, 0], [0, 0.5, 0.5], 0  # grey, ties, black
    y = turn_hue(jnp.asarray(x), jnp.float32(turns))
    want = np.zeros_like(x)
    for i, j in np.ndindex(6, 6):
        h, s, v = colorsys.rgb_to_hsv(*map(float, x[i, j]))
        want[i, j] = colorsys.hsv_to_rgb((h + turns) % 1, s, v)
    chex.assert_trees_all_close(np.asarray(y), want, atol=2e-6)  # 6 turns of 1e-7, times the chroma


def test_hue_and_contrast_agree_with_dm_pix():
    dm_pix = pytest.importorskip("dm_pix")
    x = example(ROWS["hue"])
    with jax.numpy_rank_promotion("allow"):
        theirs = jax.jit(dm_pix.adjust_hue)(x, 0.3), jax.jit(dm_pix.adjust_contrast)(x, 1.7)
    ours = turn_hue(x, jnp.float32(0.3)), stretch(x, jnp.float32(0.7))
    chex.assert_trees_all_close(ours, theirs, atol=2e-6)


def test_saturation_0_is_the_luma_and_keeps_it():
    x = example(ROWS["saturation"])
    luma = np.asarray(x) @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = saturate(x, jnp.float32(-1))
    chex.assert_trees_all_close(np.asarray(grey), np.repeat(luma[..., None], 3, -1), atol=1e-6)
    more = saturate(x, jnp.float32(0.5))
    chex.assert_trees_all_close(more, grey + 1.5 * (x - grey), atol=1e-6)


def ratios(name, strength):
    """What each key made of the distance from the mean, the grey, or 0."""
    x = example(ROWS["color"])
    ys = over_keys(getattr(augmentation, name)(strength), x, KEYS)
    match name:
        case "brightness":
            return np.asarray((ys - x[None])[:, 0, 0, 0])
        case "contrast":
            mean = x.mean((0, 1))
            return np.asarray((ys[:, 0, 0, 0] - mean[0]) / (x[0, 0, 0] - mean[0])) - 1
    difference = x[0, 0, 0] - x[0, 0, 1]
    return np.asarray((ys[:, 0, 0, 0] - ys[:, 0, 0, 1]) / difference) - 1


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_amounts_fill_their_range(name):
    amount = ratios(name, 0.4)
    assert -0.4 - 1e-4 < amount.min() < -0.36
    assert 0.36 < amount.max() < 0.4 + 1e-4
    assert abs(amount.mean()) < 4 * 0.4 / math.sqrt(3 * len(KEYS))  # 4 standard errors


def test_hues_fill_their_range():
    red = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 3)
    ys = np.asarray(over_keys(augmentation.hue(0.2), red, KEYS))
    hues = np.array([colorsys.rgb_to_hsv(*map(float, y[0, 0]))[0] for y in ys])
    hues = (hues + 0.5) % 1 - 0.5
    assert -0.2 - 1e-6 <= hues.min() < -0.18
    assert 0.18 < hues.max() <= 0.2 + 1e-6


def test_color_is_the_four_in_their_order_each_with_its_key():
    x, a = example(ROWS["color"]), augmentation
    f = a.color(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.1)
    parts = a.chain(a.brightness(0.3), a.contrast(0.4), a.saturation(0.5), a.hue(0.1))
    chex.assert_trees_all_equal(f(KEYS[0], x), parts(KEYS[0], x))
    grey = x[..., :1]  # without saturation and hue, one channel will do
    chex.assert_trees_all_equal(
        a.color(contrast=0.4)(KEYS[0], grey), a.chain(a.contrast(0.4))(KEYS[0], grey)
    )


def test_nothing_is_clipped():
    f = augmentation.color(brightness=1.0)
    ys = over_keys(f, jnp.ones((2, 2, 3)), KEYS)
    assert ys.max() > 1.9
    assert over_keys(f, jnp.zeros((2, 2, 3)), KEYS).min() < -0.9


def test_noise_is_normal_with_its_deviation():
    drawn = augmentation.noise(0.5)(KEYS[0], jnp.ones((100, 100))) - 1
    assert abs(float(drawn.mean())) < 4 * 0.5 / 100  # 4 standard errors
    assert abs(float(drawn.std()) - 0.5) < 4 * 0.5 / math.sqrt(2 * 100**2)
    assert abs(float((abs(drawn) < 0.5).mean()) - 0.6827) < 4 * 0.4654 / 100


# -------------------------------------------------------------------------------------------- masks


def runs(hidden):
    """Start and length of the one stretch of true values; `(None, 0)` for none."""
    places = np.flatnonzero(hidden)
    assert len(places) == 0 or np.array_equal(places, np.arange(places[0], places[-1] + 1))
    return (int(places[0]), len(places)) if len(places) else (None, 0)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_cutout_hides_one_square_that_may_lie_half_outside(size):
    x = example(Row(None, None, (7, 6, 2)))
    ys = np.asarray(over_keys(augmentation.cutout(size, fill=-1.0), x, KEYS))
    assert np.array_equal(ys[ys != -1], np.broadcast_to(x, ys.shape)[ys != -1])
    firsts = set()
    for y in ys:
        hidden = (y == -1).all(-1)
        top, height = runs(hidden.any(1))
        left, width = runs(hidden.any(0))
        assert hidden.sum() == height * width == (y == -1).sum() / 2
        inside = top > 0 and left > 0 and top + height < 7 and left + width < 6
        assert (height == width == size) or not inside
        assert max(height, width) <= size
        assert min(height, width) >= size / 2 - 0.5
        firsts.add((top, height, left, width))
    assert len(firsts) == 7 * 6  # any pixel is the centre


@pytest.mark.parametrize(("name", "axis"), [("time_mask", 0), ("frequency_mask", 1)])
def test_a_mask_hides_one_stretch_of_each_length_at_each_place(name, axis):
    x = example(Row(None, None, (6, 6)))
    ys = np.asarray(over_keys(getattr(augmentation, name)(3, fill=-1.0), x, KEYS))
    found = set()
    for y in ys:
        hidden = (y == -1).all(1 - axis)
        assert (y == -1).sum() == 6 * hidden.sum()
        found.add(runs(hidden))
    places = {(first, size) for size in (1, 2, 3) for first in range(6 - size + 1)}
    assert found == {(None, 0), *places}


def test_a_mask_wider_than_the_sequence_hides_all_of_it_at_most():
    x = jnp.ones((3, 1))
    ys = np.asarray(over_keys(augmentation.time_mask(50), x, KEYS))
    assert {int(y.sum()) for y in ys} == {0, 1, 2, 3}


def test_a_time_shift_is_a_roll_and_each_comes():
    x = np.asarray(example(Row(None, None, (6, 2))))
    rolls = set()
    for steps in range(-2, 3):
        y = np.roll(x, steps, 0)
        y[:steps] = 9 if steps > 0 else y[:steps]
        y[len(y) + min(steps, 0) :] = 9
        rolls.add(y.tobytes())
    ys = np.asarray(over_keys(augmentation.time_shift(2, fill=9.0), x, KEYS))
    assert {y.tobytes() for y in ys} == rolls


# ----------------------------------------------------------------------------- chain and apply_with


def test_a_chain_is_its_links_in_order_with_keys_that_differ():
    keys = []

    def link(factor):
        def f(key, x):
            keys.append(jax.random.key_data(key).tolist())
            return factor * x + 1

        return f

    assert augmentation.chain(link(2.0), link(10.0))(KEYS[0], jnp.float32(3)) == 71
    assert len(set(map(tuple, keys))) == 2
    assert jax.random.key_data(KEYS[0]).tolist() not in keys
    x = jnp.ones(3)
    assert augmentation.chain()(KEYS[0], x) is x


def test_apply_with_changes_a_whole_tree_or_nothing_with_its_probability():
    x = {"a": jnp.ones(2), "b": jnp.zeros((), int)}
    f = augmentation.apply_with(0.3, lambda key, x: jax.tree.map(lambda leaf: leaf + 5, x))
    ys = over_keys(f, x, KEYS)
    changed = np.asarray(ys["b"] == 5)
    assert np.array_equal(np.asarray(ys["a"]), np.where(changed[:, None], [[6, 6]], 1))
    assert abs(changed.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(KEYS))  # 4 standard errors


def test_the_luck_of_apply_with_is_not_the_noise_of_what_it_applies():
    f = augmentation.apply_with(0.5, lambda key, x: jax.random.uniform(key))
    ys = np.asarray(over_keys(f, jnp.float32(-1), KEYS))
    drawn = ys[ys >= 0]
    assert abs(drawn.mean() - 0.5) < 4 / math.sqrt(12 * len(drawn))  # 4 standard errors


# -------------------------------------------------------------------------------------------- pairs

BATCH = jax.random.uniform(jax.random.key(5), (16, 7, 5, 3), minval=0.1)
PAIRS = {"mixup": augmentation.mixup, "cutmix": augmentation.cutmix}


@cache
def mixer(name):
    """`(alpha, key, x) -> (x, partner, share)`, compiled."""
    return jax.jit(lambda alpha, key, x: PAIRS[name](alpha)(key, x))


@pytest.mark.parametrize("name", PAIRS)
class TestPairs:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_shapes_dtypes_ranges(self, name, dtype):
        x, partner, share = mixer(name)(1.0, KEYS[0], BATCH.astype(dtype))
        chex.assert_shape((x, partner, share), (BATCH.shape, (16,), (16,)))
        assert (x.dtype, partner.dtype, share.dtype) == (dtype, jnp.int32, jnp.float32)
        assert sorted(partner.tolist()) == list(range(16))
        chex.assert_tree_all_finite((x, share))
        assert 0 <= share.min() < share.max() <= 1

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_alpha_0_is_the_identity_exactly(self, name, dtype):
        x, _, share = mixer(name)(0.0, KEYS[0], BATCH.astype(dtype))
        chex.assert_trees_all_equal(x, BATCH.astype(dtype))
        assert share.tolist() == [1.0] * 16

    def test_same_key_same_result_other_key_other(self, name):
        first, again, other = (mixer(name)(1.0, KEYS[i], BATCH) for i in (0, 0, 1))
        chex.assert_trees_all_equal(first, again)
        assert all((a != b).any() for a, b in zip(first, other, strict=True))

    def test_jit_agrees_with_eager_and_a_traced_alpha_is_not_retraced(self, name):
        traces = mixer(name)._cache_size()
        for alpha in (0.0, 0.3):
            got = mixer(name)(alpha, KEYS[2], BATCH)
            chex.assert_trees_all_close(got, PAIRS[name](alpha)(KEYS[2], BATCH), atol=1e-5)
        assert mixer(name)._cache_size() <= max(traces, 1)

    @pytest.mark.parametrize("alpha", [1e-6, 1e-2, 1e3])
    def test_extreme_alphas_give_shares(self, name, alpha):
        x, _, share = mixer(name)(alpha, KEYS[0], BATCH)
        chex.assert_tree_all_finite((x, share))
        assert 0 <= share.min() <= share.max() <= 1

    def test_gradients_are_finite(self, name):
        grads = jax.grad(lambda x: (mixer(name)(0.5, KEYS[0], x)[0] ** 2).sum())(BATCH)
        chex.assert_tree_all_finite(grads)


def test_mixup_is_linear_over_any_tree():
    tree = {"a": BATCH, "b": (BATCH[:, 0, 0, 0], BATCH[:, 0])}
    x, partner, share = augmentation.mixup(0.4)(KEYS[1], tree)

    def mixed(leaf):
        own = np.asarray(share).reshape(-1, *[1] * (leaf.ndim - 1))
        return own * np.asarray(leaf) + (1 - own) * np.asarray(leaf)[np.asarray(partner)]

    chex.assert_trees_all_close(x, jax.tree.map(mixed, tree), atol=1e-6)
    assert share.min() >= 0.5


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_shares_of_mixup_are_the_larger_of_a_beta_and_its_complement(alpha):
    _, _, share = mixer("mixup")(alpha, KEYS[0], jnp.zeros((10_000, 1)))
    oracle = np.random.default_rng(0).beta(alpha, alpha, 100_000)
    oracle = np.maximum(oracle, 1 - oracle)
    levels = np.linspace(0.1, 0.9, 9)
    shares = np.mean(np.asarray(share).ravel()[:, None] < np.quantile(oracle, levels), 0)
    # 10,000 draws, and as many levels from 100,000: 5 standard errors
    assert np.all(abs(shares - levels) < 5 * np.sqrt(levels * (1 - levels) * 1.1e-4))


def test_cutmix_pastes_one_rectangle_and_its_share_is_counted():
    x = jnp.broadcast_to(jnp.arange(16.0).reshape(16, 1, 1, 1), (16, 9, 8, 2))
    mixed, partners, shares = over_keys(augmentation.cutmix(1.0), x, KEYS[:15])
    seen = set()
    for batch, partner, share in zip(*map(np.asarray, (mixed, partners, shares)), strict=True):
        for i, (image, other) in enumerate(zip(batch, partner, strict=True)):
            assert set(np.unique(image)) <= {i, other}
            if i == other:
                continue
            own = image[..., 0] == i
            assert np.array_equal(own, image[..., 1] == i)
            # XLA divides by 72 as a product with 1 / 72, itself rounded: two units of 2**-24
            assert abs(share[i] - own.sum() / 72) <= 2 * 2**-24
            (_, height), (_, width) = runs(~own.all(1)), runs(~own.all(0))
            assert (~own).sum() == height * width
            seen.add((height, width))
    assert len(seen) > 30  # of 72 that there are


def test_cutmix_keeps_a_uniform_share_before_the_border_cuts():
    # the mean share of uniform areas about uniform centres, by numpy in the continuum
    generator = np.random.default_rng(0)
    side, place = np.sqrt(generator.uniform(size=100_000)), generator.uniform(size=(2, 100_000))
    spans = np.minimum(place + side / 2, 1) - np.maximum(place - side / 2, 0)
    share = jax.jit(augmentation.cutmix(1.0))(KEYS[0], jnp.zeros((2000, 64, 64, 1)))[2]
    error = 4 * float(share.std()) / math.sqrt(2000) + 1 / 64  # 4 standard errors, and a pixel
    assert abs(float(share.mean()) - (1 - spans.prod(0)).mean()) < error


# ----------------------------------------------------------------------------------------- messages

A = augmentation
KEY = jax.random.key(0)
FLAT = jnp.ones((4, 4))
GIVE = "`fn.augment` gives it one of a batch; add what axis is missing."

REFUSED = {
    "a negative angle": (
        lambda: A.rotate(-1), ValueError,
        "`rotate`: degrees must be a number, 0 or more, got -1."),
    "an angle that is none": (
        lambda: A.rotate("15"), TypeError,
        "`rotate`: degrees must be a number, 0 or more, got '15'."),
    "a NaN": (
        lambda: A.shift(math.nan), ValueError,
        "`shift`: pixels must be a number, 0 or more, got nan."),
    "a strength with axes": (
        lambda: A.noise(jnp.ones(3)), TypeError,
        "`noise`: std must be a number, 0 or more, got float32[3]."),
    "a boolean": (
        lambda: A.cutout(True), TypeError,
        "`cutout`: size must be a number, 0 or more, got True."),
    "degrees of affine": (
        lambda: A.affine(degrees=-1), ValueError,
        "`affine`: degrees must be a number, 0 or more, got -1."),
    "shear of affine": (
        lambda: A.affine(shear=90), ValueError,
        "`affine`: shear must be a number in 0 .. 89, got 90."),
    "shift of affine": (
        lambda: A.affine(shift=-2), ValueError,
        "`affine`: shift must be a number, 0 or more, got -2."),
    "scale of affine": (
        lambda: A.affine(scale=1.2), TypeError,
        "`affine`: scale must be a pair (low, high), 0 < low <= high, got 1.2."),
    "a scale upside down": (
        lambda: A.scale(1.2, 0.8), ValueError,
        "`scale`: scale must be a pair (low, high), 0 < low <= high, got (1.2, 0.8)."),
    "a scale of 0": (
        lambda: A.scale(0, 1), ValueError,
        "`scale`: scale must be a pair (low, high), 0 < low <= high, got (0, 1)."),
    "a scale that is no number": (
        lambda: A.scale(None, 1), TypeError,
        "`scale`: low must be a number, 0 or more, got None."),
    "a fill that is no number": (
        lambda: A.rotate(1, fill="edge"), TypeError,
        "`rotate`: fill must be a number, got 'edge'."),
    "a fill of cutout": (
        lambda: A.cutout(1, fill="mean"), TypeError,
        "`cutout`: fill must be a number, got 'mean'."),
    "a fill of crop": (
        lambda: A.crop(1, fill="wrap"), ValueError,
        "`crop`: fill must be a number, \"edge\" or \"reflect\", got 'wrap'."),
    "a fill of crop that is no number": (
        lambda: A.crop(1, fill=None), TypeError,
        "`crop`: fill must be a number, got None."),
    "half a pixel of padding": (
        lambda: A.crop(0.5), TypeError,
        "`crop`: padding must be a whole number, 0 or more, got 0.5."),
    "a negative padding": (
        lambda: A.crop(-1), ValueError,
        "`crop`: padding must be a whole number, 0 or more, got -1."),
    "an array as padding": (
        lambda: A.crop(jnp.int32(2)), TypeError,
        "`crop`: padding must be a plain number, for it is a shape, got int32[]."),
    "an axis": (
        lambda: A.flip("left"), ValueError,
        "`flip`: axis must be \"horizontal\" or \"vertical\", got 'left'."),
    "a probability as the axis": (
        lambda: A.flip(0.5), ValueError,
        "`flip`: axis must be \"horizontal\" or \"vertical\", got 0.5."),
    "a probability": (
        lambda: A.flip(p=1.5), ValueError,
        "`flip`: p must be a number in 0 .. 1, got 1.5."),
    "brightness": (
        lambda: A.brightness(-0.1), ValueError,
        "`brightness`: strength must be a number, 0 or more, got -0.1."),
    "contrast": (
        lambda: A.contrast(1.1), ValueError,
        "`contrast`: strength must be a number in 0 .. 1, got 1.1."),
    "hue": (
        lambda: A.hue(30), ValueError,
        "`hue`: strength must be a number in 0 .. 0.5, got 30."),
    "saturation of color": (
        lambda: A.color(saturation=2), ValueError,
        "`color`: saturation must be a number in 0 .. 1, got 2."),
    "steps": (
        lambda: A.time_shift(1.5), TypeError,
        "`time_shift`: steps must be a whole number, 0 or more, got 1.5."),
    "a width of floats": (
        lambda: A.time_mask(jnp.float32(2)), TypeError,
        "`time_mask`: width must be a whole number, 0 or more, got float32[]."),
    "a negative width": (
        lambda: A.frequency_mask(-3), ValueError,
        "`frequency_mask`: width must be a whole number, 0 or more, got -3."),
    "a link": (
        lambda: A.chain(A.flip(), 3), TypeError,
        "`chain`: every argument must be a function f(key, x), got 3 as number 1."),
    "the p of apply_with": (
        lambda: A.apply_with(2, A.flip()), ValueError,
        "`apply_with`: p must be a number in 0 .. 1, got 2."),
    "the f of apply_with": (
        lambda: A.apply_with(0.5, None), TypeError,
        "`apply_with`: f must be a function f(key, x), got None."),
    "a batch for an image": (
        lambda: A.flip()(KEY, jnp.ones((2, 4, 4, 3))), ValueError,
        f"`flip`: x must be one example (H, W, C), got float32[2, 4, 4, 3]. {GIVE}"),
    "an image without channels": (
        lambda: fn.augment(A.rotate(5)).apply({}, {}, jnp.ones((2, 4, 4)), key=KEY), ValueError,
        f"`rotate`: x must be one example (H, W, C), got float32[4, 4]. {GIVE}"),
    "an image for a sequence": (
        lambda: A.time_mask(5)(KEY, jnp.ones((4, 4, 3))), ValueError,
        f"`time_mask`: x must be one example (T, C), got float32[4, 4, 3]. {GIVE}"),
    "a tree": (
        lambda: A.crop(5)(KEY, (FLAT, FLAT)), TypeError,
        "`crop`: x must be one example (H, W, C), got (float32[4, 4], float32[4, 4]). For a tree, "
        "write a function that calls this one on the array."),
    "noise on whole numbers": (
        lambda: A.noise(1)(KEY, jnp.ones(2, int)), TypeError,
        "`noise`: x must hold floats, got int32[2]. Convert it in a layer before, "
        "`lambda x: x / 255` say."),
    "hue of one channel": (
        lambda: A.hue(0.1)(KEY, jnp.ones((4, 4, 1))), ValueError,
        "`hue`: x must be one example (H, W, C), got float32[4, 4, 1]. Its last axis must be red, "
        "green and blue."),
    "saturation of one channel in color": (
        lambda: A.color(saturation=0.1)(KEY, jnp.ones((4, 4, 1))), ValueError,
        "`color`: x must be one example (H, W, C), got float32[4, 4, 1]. Its last axis must be "
        "red, green and blue."),
    "the alpha of mixup": (
        lambda: A.mixup(-1), ValueError,
        "`mixup`: alpha must be a number, 0 or more, got -1."),
    "the alpha of cutmix": (
        lambda: A.cutmix(None), TypeError,
        "`cutmix`: alpha must be a number, 0 or more, got None."),
    "mixup of whole numbers": (
        lambda: A.mixup(1)(KEY, jnp.ones((4, 2), jnp.uint8)), TypeError,
        "`mixup`: x must hold floats, got x: uint8[4, 2]. Convert images before; mix the "
        "embeddings of tokens, not their numbers."),
    "mixup of some whole numbers": (
        lambda: A.mixup(1)(KEY, {"a": FLAT, "b": [jnp.ones(4, int), 3.0]}), TypeError,
        "`mixup`: x must hold floats, got b/0: int32[4], b/1: 3.0. Convert images before; mix the "
        "embeddings of tokens, not their numbers."),
    "mixup of different batches": (
        lambda: A.mixup(1)(KEY, (FLAT, jnp.ones(3))), ValueError,
        "`mixup`: all of x must have one first axis of examples, got (float32[4, 4], float32[3]). "
        "It acts on a batch, not on one example: call it in the objective, not in `fn.augment`."),
    "mixup of a number": (
        lambda: A.mixup(1)(KEY, jnp.float32(3)), ValueError,
        "`mixup`: all of x must have one first axis of examples, got float32[]. "
        "It acts on a batch, not on one example: call it in the objective, not in `fn.augment`."),
    "cutmix of vectors": (
        lambda: A.cutmix(1)(KEY, FLAT), ValueError,
        "`cutmix`: x must be a batch of images (B, H, W, C), got float32[4, 4]. `mixup` mixes "
        "batches of any form."),
    "cutmix of a tree": (
        lambda: A.cutmix(1)(KEY, (FLAT, FLAT)), TypeError,
        "`cutmix`: x must be a batch of images (B, H, W, C), got (float32[4, 4], "
        "float32[4, 4]). `mixup` mixes batches of any form."),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_messages(name):
    call, kind, words = REFUSED[name]
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value) == words


def test_every_public_name_has_a_row_or_a_test_of_pairs():
    assert {name.partition("-")[0] for name in ROWS} | set(PAIRS) == set(augmentation.__all__)
