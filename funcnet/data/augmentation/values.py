"""What the elements of an example are worth: the colours of an image, noise on any array."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcnet.data.augmentation.checks import (
    Augmentation,
    Strength,
    check_example,
    check_number,
    widened,
)
from funcnet.data.augmentation.combine import chain


def color(
    *,
    brightness: Strength = 0.0,
    contrast: Strength = 0.0,
    saturation: Strength = 0.0,
    hue: Strength = 0.0,
) -> Augmentation:
    """Changes the colours of an image at random, `(H, W, C) -> (H, W, C)`.

    The four changes come in the order of the arguments, each with an own key. Values are meant to
    lie in 0 .. 1, but nothing is clipped: all but the hue may leave that range, and all serve as
    well on images whose mean has been taken off. Clip with a layer after, `lambda x: x.clip(0, 1)`,
    where the model needs it.

    Args:
        brightness: see `brightness`, and so on; a plain 0 leaves a change out.
        contrast: in `0 .. 1`.
        saturation: in `0 .. 1`; this and the hue need three channels.
        hue: in `0 .. 0.5`.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one image of floats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> f = fn.augmentation.color(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
        >>> f(jax.random.key(0), jnp.ones((8, 8, 3))).shape
        (8, 8, 3)
    """
    strengths = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    for name, strength in strengths.items():
        check_number("color", name, strength, 0, ADJUSTMENTS[name].most)
    given = {
        name: strength
        for name, strength in strengths.items()
        if isinstance(strength, jax.Array) or strength != 0
    }
    return chain(*(varied("color", ADJUSTMENTS[name], given[name]) for name in given))


def brightness(strength: Strength) -> Augmentation:
    """Adds a random number to all of an image, `(H, W, C) -> (H, W, C)`.

    Nothing is clipped: values may leave 0 .. 1 by the strength.

    Args:
        strength: the number is drawn uniformly from `-strength .. strength`; 0 or more.

    Raises:
        TypeError, ValueError: `strength` is not as above; `x` is not one image of floats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> y = fn.augmentation.brightness(0.2)(jax.random.key(0), jnp.zeros((2, 2, 1)))
        >>> bool((y == y[0, 0, 0]).all()), -0.2 <= float(y[0, 0, 0]) <= 0.2
        (True, True)
    """
    return single("brightness", strength)


def contrast(strength: Strength) -> Augmentation:
    """Stretches each channel of an image about its mean at random, `(H, W, C) -> (H, W, C)`.

    Nothing is clipped: values may leave 0 .. 1. The mean is each channel's own, as in
    `tf.image.adjust_contrast`; torchvision takes one mean, that of the grey image.

    Args:
        strength: the factor is drawn uniformly from `1 - strength .. 1 + strength`; in `0 .. 1`.

    Raises:
        TypeError, ValueError: `strength` is not as above; `x` is not one image of floats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> x = jnp.array([0.25, 0.75]).reshape(1, 2, 1)
        >>> float(fn.augmentation.contrast(0.5)(jax.random.key(0), x).mean())
        0.5
    """
    return single("contrast", strength)


def saturation(strength: Strength) -> Augmentation:
    """Moves each pixel away from its grey, or towards it, at random, `(H, W, 3) -> (H, W, 3)`.

    Nothing is clipped: values may leave 0 .. 1. The grey is the luma of Rec. 601, 0.299 red +
    0.587 green + 0.114 blue, which does not change.

    Args:
        strength: the factor is drawn uniformly from `1 - strength .. 1 + strength`; in `0 .. 1`.

    Raises:
        TypeError, ValueError: `strength` is not as above; `x` is not one image of floats with three
            channels.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> y = fn.augmentation.saturation(0.5)(jax.random.key(0), jnp.full((2, 2, 3), 0.5))
        >>> bool(jnp.allclose(y, 0.5))  # grey stays grey
        True
    """
    return single("saturation", strength)


def hue(strength: Strength) -> Augmentation:
    """Turns the hue of all pixels by one random angle, `(H, W, 3) -> (H, W, 3)`.

    Hue is that of HSV; value and chroma stay, so that no channel leaves the range of its pixel.

    Args:
        strength: the angle is drawn uniformly from `-strength .. strength`, in whole turns; in
            `0 .. 0.5`, where 0.5 may give any hue.

    Raises:
        TypeError, ValueError: `strength` is not as above; `x` is not one image of floats with three
            channels.

    Source:
        Smith, "Color gamut transform pairs", 1978, for the hue of a pixel; the way back is the
        closed form f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + H / 60) mod 6, n = 5, 3, 1.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> red = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 3)
        >>> y = fn.augmentation.hue(0.5)(jax.random.key(0), red)
        >>> float(y.min()), float(y.max())
        (0.0, 1.0)
    """
    return single("hue", strength)


def noise(std: Strength) -> Augmentation:
    """Adds normal noise to each element, of an array of any shape.

    Nothing is clipped.

    Args:
        std: standard deviation of the noise, 0 or more.

    Raises:
        TypeError, ValueError: `std` is not as above; `x` is not an array of floats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> y = fn.augmentation.noise(0.1)(jax.random.key(0), jnp.zeros((100, 100)))
        >>> round(float(y.std()), 2)
        0.1
    """
    check_number("noise", "std", std, 0)

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        wide = widened("noise", x)
        return (wide + std * jax.random.normal(key, wide.shape, wide.dtype)).astype(x.dtype)

    return change


# ------------------------------------------------------------------------- one pixel of each colour


def add(x: jax.Array, amount: jax.Array) -> jax.Array:
    """Each element and `amount`."""
    return x + amount


def stretch(x: jax.Array, amount: jax.Array) -> jax.Array:
    """`1 + amount` times the distance of each element from the mean of its channel."""
    return x + amount * (x - x.mean((0, 1), keepdims=True))


def saturate(x: jax.Array, amount: jax.Array) -> jax.Array:
    """`1 + amount` times the distance of each pixel from its grey."""
    luma = jnp.array([0.299, 0.587, 0.114], x.dtype).reshape(1, 1, 3)
    return x + amount * (x - (luma * x).sum(-1, keepdims=True))


def turn_hue(x: jax.Array, turns: jax.Array) -> jax.Array:
    """Each pixel with its hue turned by `turns`; exactly itself for 0."""
    red, green, blue = jnp.split(x, 3, -1)  # (H, W, 1)
    value = x.max(-1, keepdims=True)
    chroma = value - x.min(-1, keepdims=True)
    safe = jnp.where(chroma > 0, chroma, 1)  # grey has no hue: any will do
    sixth = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    k = jnp.array([5, 3, 1], x.dtype).reshape(1, 1, 3) + sixth + 6 * turns
    k = k - 6 * jnp.floor(k / 6)  # k % 6, which XLA does not vectorise on CPU
    turned = value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return jnp.where(turns == 0, x, turned)


class Adjustment(NamedTuple):
    """A change of colour: `f(x, amount)`, the greatest strength, the channels that it needs."""

    f: Callable[[jax.Array, jax.Array], jax.Array]
    most: float
    channels: int | None = None


ADJUSTMENTS = {
    "brightness": Adjustment(add, math.inf),
    "contrast": Adjustment(stretch, 1),
    "saturation": Adjustment(saturate, 1, 3),
    "hue": Adjustment(turn_hue, 0.5, 3),
}


def single(name: str, strength: Strength) -> Augmentation:
    """The augmentation that makes one adjustment, by a random amount up to `strength`."""
    check_number(name, "strength", strength, 0, ADJUSTMENTS[name].most)
    return varied(name, ADJUSTMENTS[name], strength)


def varied(function: str, adjustment: Adjustment, strength: Strength) -> Augmentation:
    """`single` in the name of the public `function`."""

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        check_example(function, x, "(H, W, C)", channels=adjustment.channels)
        wide = widened(function, x)
        amount = strength * jax.random.uniform(key, (), wide.dtype, -1, 1)
        return adjustment.f(wide, amount).astype(x.dtype)

    return change
