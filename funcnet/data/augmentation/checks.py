"""What every augmentation shares: its type, and the checks of strengths and examples."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors

Augmentation: TypeAlias = Callable[[jax.Array, Any], Any]
"""`f(key, x) -> x` on one example, of the same shapes and dtypes."""

Strength: TypeAlias = float | jax.Array
"""A number, or an array without axes, traced or not, whose range is not checked."""


def check_number(
    function: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf
) -> None:
    """Raises unless `value` is one number, and in `low .. high` where that can be known.

    Example:
        >>> check_number("rotate", "degrees", -1, 0)
        Traceback (most recent call last):
        ValueError: `rotate`: degrees must be a number, 0 or more, got -1.
    """
    span = f" in {low:g} .. {high:g}" if high < math.inf else f", {low:g} or more"
    span = "" if low == -math.inf else span
    words = f"`{function}`: {name} must be a number{span}, got {errors.describe(value)}."
    kinds = int | float | jax.Array | np.generic
    if isinstance(value, bool | str) or not isinstance(value, kinds) or jnp.ndim(value):
        raise TypeError(words)
    if not isinstance(value, jax.Array) and not low <= float(value) <= high:
        raise ValueError(words)


def check_whole(function: str, name: str, value: Any) -> None:
    """Raises unless `value` is a whole number of 0 or more, or an array whose value isn't known.

    Example:
        >>> check_whole("time_mask", "width", 2.5)
        Traceback (most recent call last):
        TypeError: `time_mask`: width must be a whole number, 0 or more, got 2.5.
    """
    words = f"`{function}`: {name} must be a whole number, 0 or more, got {errors.describe(value)}."
    if isinstance(value, jax.Array):
        if value.ndim or not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(words)
    elif isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(words)
    elif value < 0:
        raise ValueError(words)


def check_example(function: str, x: Any, axes: str, *, channels: int | None = None) -> None:
    """Raises unless `x` is one array with the axes named, such as `"(H, W, C)"`."""
    words = f"`{function}`: x must be one example {axes}, got {errors.describe(x)}."
    if not hasattr(x, "shape"):
        raise TypeError(f"{words} For a tree, write a function that calls this one on the array.")
    if len(x.shape) != axes.count(",") + 1:
        raise ValueError(f"{words} `fn.augment` gives it one of a batch; add what axis is missing.")
    if channels and x.shape[-1] != channels:
        raise ValueError(f"{words} Its last axis must be red, green and blue.")


def widened(function: str, x: jax.Array) -> jax.Array:
    """`x` in float32 at least, in which all is computed; raises unless it holds floats."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"`{function}`: x must hold floats, got {errors.describe(x)}. "
            "Convert it in a layer before, `lambda x: x / 255` say."
        )
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
