"""What is hidden: a square of an image, a stretch of time, a band of channels."""

import jax
import jax.numpy as jnp

from funcnet.data.augmentation.checks import (
    Augmentation,
    Strength,
    check_example,
    check_number,
    check_whole,
)


def cutout(size: Strength, *, fill: Strength = 0.0) -> Augmentation:
    """Sets a square of an image to `fill`, `(H, W, C) -> (H, W, C)`.

    Its centre is any pixel, with equal probability, so that part of it may lie outside.

    Args:
        size: length of a side, in pixels, 0 or more.
        fill: what the square is filled with; the mean of the images is usual.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one image.

    Source:
        DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout",
        2017.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> y = fn.augmentation.cutout(3)(jax.random.key(0), jnp.ones((8, 8, 1)))
        >>> y[:, :, 0].astype(int).tolist()[2]
        [1, 1, 1, 1, 1, 1, 1, 1]
    """
    check_number("cutout", "size", size, 0)
    check_number("cutout", "fill", fill)

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        check_example("cutout", x, "(H, W, C)")
        height, width, _ = x.shape
        row, column = jax.random.uniform(key, (2,))
        rows = centered_band(height, row, size)
        columns = centered_band(width, column, size)
        hidden = rows[:, None] & columns[None, :]  # (H, W)
        return jnp.where(hidden[:, :, None], jnp.asarray(fill, x.dtype), x)

    return change


def time_mask(width: int | jax.Array, *, fill: Strength = 0.0) -> Augmentation:
    """Sets a stretch of at most `width` steps to `fill`, `(T, C) -> (T, C)`.

    Its length is drawn from `0 .. width`, then its place from all those within the sequence, each
    with equal probability.

    Args:
        width: the greatest length, in steps, a whole number.
        fill: what the stretch is filled with.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one sequence.

    Source:
        Park et al., "SpecAugment", 2019, section 2. The greatest length is drawn too.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> y = fn.augmentation.time_mask(4)(jax.random.key(1), jnp.ones((10, 1)))
        >>> y[:, 0].astype(int).tolist()
        [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    """
    return masked("time_mask", 0, width, fill)


def frequency_mask(width: int | jax.Array, *, fill: Strength = 0.0) -> Augmentation:
    """Sets a band of at most `width` neighbouring channels to `fill`, `(T, C) -> (T, C)`.

    As `time_mask`, along the last axis, for sequences whose channels are frequencies.

    Args:
        width: the greatest breadth, in channels, a whole number.
        fill: what the band is filled with.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` is not one sequence.

    Source:
        Park et al., "SpecAugment", 2019, section 2. The greatest breadth is drawn too.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> y = fn.augmentation.frequency_mask(4)(jax.random.key(1), jnp.ones((1, 10)))
        >>> y[0].astype(int).tolist()
        [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    """
    return masked("frequency_mask", 1, width, fill)


def masked(function: str, axis: int, width: int | jax.Array, fill: Strength) -> Augmentation:
    """An augmentation that sets a random band along `axis` of a sequence to `fill`."""
    check_whole(function, "width", width)
    check_number(function, "fill", fill)

    def change(key: jax.Array, x: jax.Array) -> jax.Array:
        check_example(function, x, "(T, C)")
        for_size, for_place = jax.random.split(key)
        length = x.shape[axis]
        size = jnp.minimum(jax.random.randint(for_size, (), 0, width + 1), length)
        first = jax.random.randint(for_place, (), 0, length - size + 1)
        hidden = jnp.expand_dims(band(length, first, size), 1 - axis)
        return jnp.where(hidden, jnp.asarray(fill, x.dtype), x)

    return change


def band(length: int, first: jax.Array, size: Strength) -> jax.Array:
    """Which of `length` places lie in `first .. first + size - 1`, as booleans."""
    places = jnp.arange(length)
    return (places >= first) & (places < first + size)


def centered_band(length: int, where: jax.Array, size: Strength) -> jax.Array:
    """Which of `length` places lie in a band of `size` about one of them, `where` in `0 .. 1`."""
    center = jnp.floor(where * length)
    return band(length, center - jnp.floor(jnp.asarray(size) / 2), size)
