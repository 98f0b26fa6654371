"""Where the elements of an example lie: an image turned, shifted, cropped; a sequence shifted."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.data.augmentation.checks import (
    Augmentation,
    Strength,
    check_example,
    check_number,
    check_whole,
    widened,
)


def affine(
    *,
    degrees: Strength = 0.0,
    scale: tuple[Strength, Strength] = (1.0, 1.0),
    shear: Strength = 0.0,
    shift: Strength = 0.0,
    fill: Strength = 0.0,
) -> Augmentation:
    """Resizes, slants, turns and shifts an image at random, `(H, W, C) -> (H, W, C)`.

    All of it is one warp: each new pixel is the bilinear mean of the four old ones around the place
    that it comes from, so that the image is resampled, and blurred, only once.

    Args:
        degrees: the greatest angle by which the image is turned about its centre, either way.
        scale: the least and the greatest factor of its size; above 1 enlarges.
        shear: the greatest angle by which upright lines are slanted, in degrees, at most 89.
        shift: the greatest distance moved along each axis, in pixels; fractions of them are drawn
            too.
        fill: what lies outside the image.

    Returns:
        `f(key, x) -> x` of one image of floats. Everything is drawn uniformly.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one image of floats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> f = fn.augmentation.affine(degrees=15, scale=(0.9, 1.1), shift=2)
        >>> model = fn.augment(f)
        >>> model.apply({}, {}, jnp.ones((32, 28, 28, 1)), key=jax.random.key(0))[0].shape
        (32, 28, 28, 1)
    """
    check_pair("affine", scale)
    check_number("affine", "degrees", degrees, 0)
    check_number("affine", "shear", shear, 0, 89)
    check_number("affine", "shift", shift, 0)
    return warped("affine", degrees, scale, shear, shift, fill)


def rotate(degrees: Strength, *, fill: Strength = 0.0) -> Augmentation:
    """Turns an image about its centre at random, `(H, W, C) -> (H, W, C)`.

    Give several changes of place to one `affine`: it resamples the image once.

    Args:
        degrees: the greatest angle, either way; the angle is drawn uniformly.
        fill: what lies outside the image.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one image of floats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> fn.augmentation.rotate(15)(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (28, 28, 1)
    """
    check_number("rotate", "degrees", degrees, 0)
    return warped("rotate", degrees=degrees, fill=fill)


def scale(low: Strength, high: Strength, *, fill: Strength = 0.0) -> Augmentation:
    """Resizes what is in an image about its centre at random, `(H, W, C) -> (H, W, C)`.

    Args:
        low: the least factor, above 0; below 1 makes smaller.
        high: the greatest factor; it is drawn uniformly between the two.
        fill: what lies outside the image.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one image of floats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> fn.augmentation.scale(0.8, 1.2)(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (28, 28, 1)
    """
    check_pair("scale", (low, high))
    return warped("scale", scale=(low, high), fill=fill)


def shift(pixels: Strength, *, fill: Strength = 0.0) -> Augmentation:
    """Moves an image along both axes at random, `(H, W, C) -> (H, W, C)`.

    Fractions of a pixel are drawn too, and blur a little; `crop` moves by whole pixels.

    Args:
        pixels: the greatest distance along each axis, either way; both are drawn uniformly.
        fill: what lies outside the image.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one image of floats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> fn.augmentation.shift(2)(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (28, 28, 1)
    """
    check_number("shift", "pixels", pixels, 0)
    return warped("shift", shift=pixels, fill=fill)


def crop(padding: int, *, fill: Strength | Literal["edge", "reflect"] = 0.0) -> Augmentation:
    """Takes a window of the padded image at random, of the image's own size.

    This moves the image by whole pixels, which blurs nothing.

    Args:
        padding: how many pixels are added on each side; a plain number, for it is a shape.
        fill: what they hold: a number, `"edge"` for the last pixel again, `"reflect"` for the
            image mirrored.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one image.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> fn.augmentation.crop(4, fill="reflect")(jax.random.key(0), jnp.ones((32, 32, 3))).shape
        (32, 32, 3)
    """
    check_whole("crop", "padding", padding)
    if isinstance(padding, jax.Array):
        raise TypeError(
            "`crop`: padding must be a plain number, for it is a shape, got "
            f"{errors.describe(padding)}."
        )
    if isinstance(fill, str) and fill not in ("edge", "reflect"):
        raise ValueError(f'`crop`: fill must be a number, "edge" or "reflect", got {fill!r}.')
    if not isinstance(fill, str):
        check_number("crop", "fill", fill)

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        check_example("crop", x, "(H, W, C)")
        around = [(padding, padding), (padding, padding), (0, 0)]
        if isinstance(fill, str):
            padded = jnp.pad(x, around, mode=fill)
        else:
            padded = jnp.pad(x, around, constant_values=jnp.asarray(fill, x.dtype))
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), x.shape)

    return change


def flip(axis: Literal["horizontal", "vertical"] = "horizontal", p: Strength = 0.5) -> Augmentation:
    """Mirrors an image with probability `p`, `(H, W, C) -> (H, W, C)`.

    Args:
        axis: `"horizontal"` swaps left and right, `"vertical"` top and bottom.
        p: the probability, in `0 .. 1`.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one image.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> x = jnp.arange(3).reshape(1, 3, 1)
        >>> fn.augmentation.flip(p=1.0)(jax.random.key(0), x)[0, :, 0].tolist()
        [2, 1, 0]
    """
    if axis not in ("horizontal", "vertical"):
        raise ValueError(f'`flip`: axis must be "horizontal" or "vertical", got {axis!r}.')
    check_number("flip", "p", p, 0, 1)

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        check_example("flip", x, "(H, W, C)")
        mirrored = jnp.flip(x, 1 if axis == "horizontal" else 0)
        return jnp.where(jax.random.bernoulli(key, p), mirrored, x)

    return change


def time_shift(steps: int | jax.Array, *, fill: Strength = 0.0) -> Augmentation:
    """Moves a sequence along time at random, `(T, C) -> (T, C)`.

    Args:
        steps: the greatest distance, either way, a whole number of steps; it is drawn uniformly.
        fill: what lies before the first step and after the last.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one sequence.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> x = jnp.arange(1, 6).reshape(5, 1)
        >>> fn.augmentation.time_shift(2)(jax.random.key(1), x)[:, 0].tolist()
        [2, 3, 4, 5, 0]
    """
    check_whole("time_shift", "steps", steps)
    check_number("time_shift", "fill", fill)

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        check_example("time_shift", x, "(T, C)")
        length = x.shape[0]
        old = jnp.arange(length) - jax.random.randint(key, (), -steps, steps + 1)
        there = (old >= 0) & (old < length)
        moved = jnp.asarray(x).at[old].get(mode="clip", wrap_negative_indices=False)
        return jnp.where(there[:, None], moved, jnp.asarray(fill, x.dtype))

    return change


# ------------------------------------------------------------------------------------- the one warp


def warped(
    function: str,
    degrees: Strength = 0.0,
    scale: tuple[Strength, Strength] = (1.0, 1.0),
    shear: Strength = 0.0,
    shift: Strength = 0.0,
    fill: Strength = 0.0,
) -> Augmentation:
    """The augmentation that warps an image by what it draws up to the strengths given."""
    check_number(function, "fill", fill)

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        check_example(function, x, "(H, W, C)")
        wide = widened(function, x)
        turn, slant, size, down, right = jax.random.uniform(key, (5,), wide.dtype, -1, 1)
        y = warp(
            wide,
            degrees=turn * degrees,
            scale=scale[0] + (scale[1] - scale[0]) * (size + 1) / 2,
            shear=slant * shear,
            shift=(down * shift, right * shift),
            fill=fill,
        )
        return y.astype(x.dtype)

    return change


def warp(
    image: jax.Array,
    *,
    degrees: Strength = 0.0,
    scale: Strength = 1.0,
    shear: Strength = 0.0,
    shift: tuple[Strength, Strength] = (0.0, 0.0),
    fill: Strength = 0.0,
) -> jax.Array:
    """Resizes and slants `image`, then turns it anticlockwise, then moves it down and right.

    For each new pixel the steps are undone in the opposite order, about the centre.
    """
    height, width, _ = image.shape
    row, column = jnp.indices((height, width), image.dtype)
    row = row - (height - 1) / 2 - shift[0]
    column = column - (width - 1) / 2 - shift[1]
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    row, column = cos * row + sin * column, cos * column - sin * row
    column = column - jnp.tan(jnp.deg2rad(shear)) * row
    return bilinear(image, row / scale + (height - 1) / 2, column / scale + (width - 1) / 2, fill)


def bilinear(image: jax.Array, row: jax.Array, column: jax.Array, fill: Strength) -> jax.Array:
    """The mean of the four pixels around each place `(H, W)`, weighted by nearness.

    `fill` lies around the image: half a pixel outside, half of it is mixed in.
    """
    height, width, channels = image.shape
    top, left = jnp.floor(row), jnp.floor(column)
    down, right = row - top, column - left  # (H, W), in 0 .. 1
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)

    def neighbour(channel: jax.Array, i: int, j: int) -> jax.Array:
        row, column = top + i, left + j
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        return jnp.where(inside, channel.at[place].get(mode="promise_in_bounds"), fill)

    def blend(channel: jax.Array) -> jax.Array:
        above = (1 - right) * neighbour(channel, 0, 0) + right * neighbour(channel, 0, 1)
        below = (1 - right) * neighbour(channel, 1, 0) + right * neighbour(channel, 1, 1)
        return (1 - down) * above + down * below

    # numbers by one index, not pixels nor two indices: 2 to 4 times as fast on CPU, jax 0.10
    flat = image.reshape(height * width, channels)
    return jnp.stack([blend(flat[:, c]) for c in range(channels)], -1)


def check_pair(function: str, pair: Any) -> None:
    """Raises unless `pair` holds two factors above 0, in order where that can be known."""
    words = f"`{function}`: scale must be a pair (low, high), 0 < low <= high, got {pair!r}."
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(words)
    for name, value in zip(("low", "high"), pair, strict=True):
        check_number(function, name, value, 0)
    known = [value for value in pair if not isinstance(value, jax.Array)]
    if 0 in known or known != sorted(known):
        raise ValueError(words)
