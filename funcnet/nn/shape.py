"""Layers that move elements about: axes joined, cut, swapped, stretched."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.eager import outcome, outline
from funcnet.nn.combinators import Layer, lift
from funcnet.nn.model import check_rank, stateless
from funcnet.types import Model, ModelState, Params

Method = Literal["nearest", "linear", "cubic", "lanczos3", "lanczos5"]


def flatten() -> Model:
    """Joins all axes but the batch into one, `(B, ...) -> (B, features)`.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> fn.flatten().apply({}, {}, jnp.ones((8, 4, 4, 3)))[0].shape
        (8, 48)
    """

    def flatten(x: jax.Array) -> jax.Array:
        check_rank("flatten", x, 1, "(B, ...)")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    return stateless(flatten)


def reshape(*shape: int) -> Model:
    """Gives each example another shape, `(B, ...) -> (B, *shape)`.

    Args:
        *shape: lengths of the axes after the batch; one may be -1, which is then computed.

    Raises:
        ValueError: the example does not have as many elements.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> fn.reshape(4, -1).apply({}, {}, jnp.ones((8, 12)))[0].shape
        (8, 4, 3)
    """
    if (
        not all(isinstance(n, int | np.integer) and (n > 0 or n == -1) for n in shape)
        or shape.count(-1) > 1
    ):
        raise ValueError(
            "`reshape`: shape must be positive whole numbers, one of which may be -1, "
            f"got {', '.join(map(repr, shape))}. Leave the batch axis out: `fn.reshape(28, 28, 1)`."
        )

    def reshape(x: jax.Array) -> jax.Array:
        check_rank("reshape", x, 1, "(B, ...)")
        elements, known = math.prod(x.shape[1:]), math.prod(n for n in shape if n != -1)
        if elements % known if -1 in shape else elements != known:
            raise ValueError(
                f"`reshape`: an example must have as many elements as shape={shape}, got "
                f"{errors.describe(x)}, which has {elements} an example."
            )
        return x.reshape(x.shape[0], *(elements // known if n == -1 else n for n in shape))

    return stateless(reshape)


def permute(*axes: int) -> Model:
    """Puts the axes after the batch into another order, `y.shape[k] = x.shape[axes[k - 1]]`.

    Args:
        *axes: each of 1, 2, ... once; the batch, axis 0, stays the first.

    Raises:
        ValueError: `axes` is no such order, or `x` has another number of axes.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> fn.permute(3, 1, 2).apply({}, {}, jnp.ones((8, 28, 30, 3)))[0].shape
        (8, 3, 28, 30)
    """
    if not axes or set(axes) != set(range(1, len(axes) + 1)):
        raise ValueError(
            "`permute`: axes must name each axis after the batch once, counted from 1, got "
            f"{', '.join(map(repr, axes))}. `fn.permute(2, 1)` swaps the two of (B, T, C)."
        )

    def permute(x: jax.Array) -> jax.Array:
        check_rank("permute", x, 1, "(B, ...)")
        if x.ndim != len(axes) + 1:
            raise ValueError(
                f"`permute`: x must have {len(axes)} axes after the batch, "
                f"got {errors.describe(x)}."
            )
        return x.transpose(0, *axes)

    return stateless(permute)


def resize(spatial: Sequence[int], method: Method = "linear") -> Model:
    """Resamples each example to another size, `(B, *old, C) -> (B, *spatial, C)`.

    Args:
        spatial: lengths of the axes between batch and channels.
        method: `"nearest"`, `"linear"`, `"cubic"`, `"lanczos3"` or `"lanczos5"`. All but the first
            smooth before they make an example smaller, as `jax.image.resize` does.

    Raises:
        ValueError: a length is not positive, or `x` has other axes.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> fn.resize((14, 14)).apply({}, {}, jnp.ones((8, 28, 28, 3)))[0].shape
        (8, 14, 14, 3)
    """
    if not isinstance(spatial, Sequence):
        raise TypeError(
            f"`resize`: spatial must be a length for each spatial axis, got {spatial!r}. "
            "Say `fn.resize((14, 14))`."
        )
    sizes = tuple(spatial)
    for n in sizes:
        errors.positive("resize", spatial=n)
    check_method("resize", method)

    def resize(x: jax.Array) -> jax.Array:
        check_rank("resize", x, 1, "(B, *spatial, C)")
        if x.ndim != len(sizes) + 2:
            raise ValueError(
                f"`resize`: x must have {len(sizes)} axes between batch and channels, "
                f"got {errors.describe(x)}. Give a length for each of them."
            )
        y: jax.Array = jax.image.resize(x, (x.shape[0], *sizes, x.shape[-1]), method)
        whole = jnp.issubdtype(x.dtype, jnp.integer)
        return (jnp.round(y) if whole else y).astype(x.dtype)

    return stateless(resize)


def upsample(factor: int, method: Method = "nearest") -> Model:
    """Makes each spatial axis `factor` times as long, `(B, *old, C) -> (B, *(factor * old), C)`.

    Args:
        factor: how many times.
        method: as for `resize`; `"nearest"` repeats each element.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> fn.upsample(2).apply({}, {}, x)[0].ravel().tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    errors.positive("upsample", factor=factor)
    check_method("upsample", method)

    def upsample(x: jax.Array) -> jax.Array:
        check_rank("upsample", x, 3, "(B, *spatial, C)")
        if method != "nearest":
            larger = tuple(factor * n for n in x.shape[1:-1])
            y: jax.Array = resize(larger, method).apply({}, {}, x)[0]
            return y
        for axis in range(1, x.ndim - 1):
            x = jnp.repeat(x, factor, axis)
        return x

    return stateless(upsample)


def check_method(function: str, method: Any) -> None:
    """Raises unless `method` is one of `jax.image.resize`'s."""
    if method not in get_args(Method):
        raise ValueError(
            f"`{function}`: method must be one of {', '.join(map(repr, get_args(Method)))}, got "
            f"{method!r}. {errors.did_you_mean(str(method), get_args(Method))}"
        )


def time_distributed(layer: Layer) -> Model:
    """Applies a layer to each step of a sequence alone, `(B, T, ...) -> (B, T, ...)`.

    The layer sees `B * T` examples, so that batch norm takes its statistics over all steps.

    Args:
        layer: a model or function of single steps, such as `fn.conv` for videos. `fn.dense` and the
            like need no help, since they act on the last axis anyway.

    Returns:
        The model; its trees are those of `layer`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.time_distributed(fn.sequential(fn.conv(4, (3, 3)), fn.global_avg_pool()))
        >>> video = jnp.ones((2, 5, 8, 8, 3))
        >>> y, _ = model.apply(*model.init(jax.random.key(0), video), video)
        >>> y.shape
        (2, 5, 4)
    """
    one = lift("time_distributed", layer)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_rank("time_distributed", x, 2, "(B, T, ...)")
        return one.init(key, outcome(lambda x: x.reshape(-1, *x.shape[2:]), outline(x)))

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_rank("time_distributed", x, 2, "(B, T, ...)")
        steps = x.reshape(-1, *x.shape[2:])
        y, model_state = one.apply(params, model_state, steps, key=key, training=training)
        y = jax.tree.map(lambda leaf: leaf.reshape(*x.shape[:2], *leaf.shape[1:]), y)
        return y, model_state

    return Model(init, apply)
