"""Pooling: the largest or the mean element of each window, or of the whole image."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.nn import windows
from funcnet.nn.model import check_rank, param_dtype, stateless
from funcnet.nn.windows import Padding, Windows
from funcnet.types import Model


def max_pool(
    window: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] | None = None,
    padding: Padding = "valid",
) -> Model:
    """Largest element of each window, `(B, *spatial, C) -> (B, *out, C)`.

    Padding never wins: it is the lowest value there is. Where several elements of a window are
    largest, each gets an equal share of the gradient, as in `jnp.max`; PyTorch and XLA's
    `reduce_window` give it all to one.

    Args:
        window: size of the window, a number for each of 1 to 3 spatial axes.
        strides: distance between windows, a number or one for each axis; `None` is `window`, so
            that windows neither overlap nor leave gaps.
        padding: `"same"`, `"valid"`, or a `(low, high)` pair for each axis, each smaller than the
            window. With `"valid"`, elements at the end that fill no window are left out.

    Returns:
        The model, which has neither params nor model_state.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` has other axes, or is smaller than
            the window.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> y, _ = fn.max_pool((2, 2)).apply({}, {}, x)
        >>> y[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    where = checked("max_pool", window, strides, padding)

    def max_pool(x: Any) -> Any:
        windows.check_input("max_pool", x, where)
        return largest(x, where)

    return stateless(max_pool)


def avg_pool(
    window: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] | None = None,
    padding: Padding = "valid",
) -> Model:
    """Mean of each window, `(B, *spatial, C) -> (B, *out, C)`.

    Padding does not count: at a border the mean is over the elements that there are, computed in
    float32 at least. PyTorch counts zeros unless told `count_include_pad=False`.

    Args:
        window: size of the window, a number for each of 1 to 3 spatial axes.
        strides: distance between windows, a number or one for each axis; `None` is `window`, so
            that windows neither overlap nor leave gaps.
        padding: `"same"`, `"valid"`, or a `(low, high)` pair for each axis, each smaller than the
            window. With `"valid"`, elements at the end that fill no window are left out.

    Returns:
        The model, which has neither params nor model_state.

    Raises:
        TypeError, ValueError: an argument is not as above; `x` has other axes, or is smaller than
            the window.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> y, _ = fn.avg_pool((2, 2)).apply({}, {}, x)
        >>> y[0, :, :, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    where = checked("avg_pool", window, strides, padding)

    def avg_pool(x: Any) -> Any:
        windows.check_input("avg_pool", x, where)
        return mean(x, where)

    return stateless(avg_pool)


def global_max_pool() -> Model:
    """Largest element of each channel, `(B, *spatial, C) -> (B, C)`.

    Elements that are largest together share the gradient equally, as in `max_pool`.

    Raises:
        TypeError, ValueError: `x` has no spatial axis, or an empty one.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> fn.global_max_pool().apply({}, {}, jnp.ones((8, 4, 4, 3)))[0].shape
        (8, 3)
    """

    def global_max_pool(x: Any) -> jax.Array:
        check_global("global_max_pool", x)
        return jnp.max(x, range(1, x.ndim - 1))

    return stateless(global_max_pool)


def global_avg_pool() -> Model:
    """Mean of each channel, `(B, *spatial, C) -> (B, C)`.

    Raises:
        TypeError, ValueError: `x` has no spatial axis, or an empty one.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> fn.global_avg_pool().apply({}, {}, jnp.ones((8, 4, 4, 3)))[0].shape
        (8, 3)

    Source:
        Lin, Chen, Yan, "Network in network", 2014, section 3.2.
    """

    def global_avg_pool(x: Any) -> jax.Array:
        check_global("global_avg_pool", x)
        return jnp.mean(x, range(1, x.ndim - 1))

    return stateless(global_avg_pool)


@partial(jax.jit, static_argnames="where", inline=True)
def largest(x: jax.Array, where: Windows) -> jax.Array:
    """The maximum over each window."""
    return reduce_windows(x, where, lowest(x.dtype), jnp.max)


@partial(jax.jit, static_argnames="where", inline=True)
def mean(x: jax.Array, where: Windows) -> jax.Array:
    """The mean over what each window holds of `x`, padding left out."""
    wide = jnp.promote_types(param_dtype(x), jnp.float32)
    total = reduce_windows(x, where, 0, partial(jnp.sum, dtype=wide))
    count = jnp.asarray(counts(x.shape[1:-1], where), wide)[None, ..., None]
    return (total / count).astype(param_dtype(x))


def reduce_windows(
    x: jax.Array, where: Windows, fill: Any, reducer: Callable[..., jax.Array]
) -> jax.Array:
    """`reducer` over each window of `x`, padded with `fill`.

    Windows side by side are cut out by one reshape, whose gradient is a reshape too.
    """
    x = windows.pad(x, where.pads(x.shape[1:-1]), fill)
    if where.strides == where.sizes:
        return reducer(tiles(x, where.sizes), axis=range(2, 2 * x.ndim - 3, 2))
    return reducer(jnp.stack(windows.shifts(x, where)), axis=0)


def tiles(x: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """`x` with each spatial axis cut in two, `(B, n_1, size_1, n_2, size_2, ..., C)`."""
    counts = [length // size for length, size in zip(x.shape[1:-1], sizes, strict=True)]
    pairs = list(zip(counts, sizes, strict=True))
    whole = x[:, *(slice(count * size) for count, size in pairs)]
    return whole.reshape(x.shape[0], *(n for pair in pairs for n in pair), x.shape[-1])


def counts(spatial: Sequence[int], where: Windows) -> Any:
    """How many elements of `x` lie in each window: float64[*out], from numpy."""

    def along(length: int, pair: tuple[int, int], size: int, stride: int) -> Any:
        inside = np.pad(np.ones(length), pair)
        return np.convolve(inside, np.ones(size), "valid")[::stride]

    pads = where.pads(tuple(spatial))
    axes = map(along, spatial, pads, where.sizes, where.strides)
    return reduce(np.multiply.outer, axes)


def lowest(dtype: Any) -> Any:
    """The value of `dtype` below all others."""
    if jnp.issubdtype(dtype, jnp.integer):
        return np.iinfo(dtype).min
    return False if jnp.issubdtype(dtype, jnp.bool_) else -np.inf


def checked(function: str, window: Any, strides: Any, padding: Any) -> Windows:
    """The windows that the arguments speak of, none of which holds nothing but padding."""
    strides = window if strides is None else strides
    where = windows.checked(function, "window", window, strides, padding)
    if isinstance(where.padding, tuple) and any(
        max(pair) >= size for pair, size in zip(where.padding, where.sizes, strict=True)
    ):
        raise ValueError(
            f"`{function}`: padding must be smaller than the window {where.sizes}, so that no "
            f"window holds padding alone, got {padding!r}. Choose a larger window or less padding."
        )
    return where


def check_global(function: str, x: Any) -> None:
    """Raises unless `x` has spatial axes with something in them."""
    check_rank(function, x, 3, "(B, *spatial, C)")
    if 0 in x.shape[1:-1]:
        raise ValueError(
            f"`{function}`: the spatial axes of x must not be empty, got {errors.describe(x)}. "
            "Check the layers before this one."
        )
