"""Mixtures of two examples of a batch, whose labels are mixed by the objective."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.data.augmentation.checks import Strength, check_number
from funcnet.data.augmentation.masks import centered_band

Mix: TypeAlias = Callable[[jax.Array, Any], tuple[Any, jax.Array, jax.Array]]
"""`mix(key, x) -> (x, partner, share)` over a batch."""


def mixup(alpha: Strength) -> Mix:
    """Averages each example with another one of its batch, by a share drawn for each.

    The share is drawn from Beta(alpha, alpha), and is the larger of itself and its complement: an
    example keeps at least half. The loss is `share * loss(y_pred, y) + (1 - share) * loss(y_pred,
    y[partner])`.

    Args:
        alpha: 0 or more; 0 mixes nothing, 1 draws shares uniformly, 0.2 is usual.

    Returns:
        `mix(key, x) -> (x, partner, share)`: `x` any tree of floats `(B, ...)`, `partner` int32[B],
        a permutation of the batch, `share` float32[B], the weight of each one's own label.

    Raises:
        TypeError, ValueError: `alpha` is not as above; `x` holds no floats, or no axis of examples.

    Source:
        Zhang et al., "mixup: beyond empirical risk minimization", 2018, equation 1. There is one
        share a batch there; the larger one is taken here, which changes no pair, only who of the
        two is called the partner, and lets a small alpha go over into the identity.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> x, partner, share = fn.augmentation.mixup(0.2)(jax.random.key(0), jnp.eye(4))
        >>> own = share[:, None]
        >>> bool(jnp.allclose(x, own * jnp.eye(4) + (1 - own) * jnp.eye(4)[partner]))
        True
    """
    check_number("mixup", "alpha", alpha, 0)

    def mix(key: jax.Array, x: Any) -> tuple[Any, jax.Array, jax.Array]:
        examples = check_batch(x)
        partner, drawn = draw(key, alpha, examples)
        share = jnp.maximum(drawn, 1 - drawn)

        def average(leaf: jax.Array) -> jax.Array:
            own = share.reshape(examples, *[1] * (leaf.ndim - 1))
            return (own * leaf + (1 - own) * leaf[partner]).astype(leaf.dtype)

        return jax.tree.map(lambda leaf: average(jnp.asarray(leaf)), x), partner, share

    return mix


def cutmix(alpha: Strength) -> Mix:
    """Pastes a rectangle of another image of the batch into each image, at the same place.

    The rectangle has the proportions of the image and any pixel as its centre, so that part of it
    may lie outside. The loss is `share * loss(y_pred, y) + (1 - share) * loss(y_pred, y[partner])`.

    Args:
        alpha: 0 or more; the area that the image keeps is drawn from Beta(alpha, alpha), before the
            rectangle is cut at the border. 0 mixes nothing, 1 draws it uniformly and is usual.

    Returns:
        `mix(key, x) -> (x, partner, share)`: images `(B, H, W, C)`, `partner` int32[B], a
        permutation of the batch, `share` float32[B], the exact share of pixels that each one keeps.

    Raises:
        TypeError, ValueError: `alpha` is not as above; `x` is not a batch of images.

    Source:
        Yun et al., "CutMix", 2019, equations 1 and 2. There is one share and one rectangle a batch
        there; here each image has its own.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> x = jnp.arange(2.0).reshape(2, 1, 1, 1) * jnp.ones((2, 8, 8, 1))  # all 0 and all 1
        >>> y, partner, share = fn.augmentation.cutmix(1.0)(jax.random.key(3), x)
        >>> partner.tolist(), share.tolist(), (1 - y[0].mean()).item()
        ([1, 0], [0.71875, 0.75], 0.71875)
    """
    check_number("cutmix", "alpha", alpha, 0)

    def mix(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        if not hasattr(x, "shape") or len(x.shape) != 4:
            kind = ValueError if hasattr(x, "shape") else TypeError
            raise kind(
                f"`cutmix`: x must be a batch of images (B, H, W, C), got {errors.describe(x)}. "
                "`mixup` mixes batches of any form."
            )
        examples, height, width, _ = x.shape
        for_share, for_place = jax.random.split(key)
        partner, kept = draw(for_share, alpha, examples)
        side = jnp.sqrt(1 - kept)  # (B,), as a fraction
        place = jax.random.uniform(for_place, (2, examples))
        bands = jax.vmap(centered_band, (None, 0, 0))
        rows = bands(height, place[0], jnp.round(height * side))  # (B, H)
        columns = bands(width, place[1], jnp.round(width * side))  # (B, W)
        pasted = rows[:, :, None, None] & columns[:, None, :, None]  # (B, H, W, 1)
        lost = rows.sum(1) * columns.sum(1)
        share = ((height * width - lost) / (height * width)).astype(jnp.float32)
        x = jnp.asarray(x)
        return jnp.where(pasted, x[partner], x), partner, share

    return mix


def draw(key: jax.Array, alpha: Strength, examples: int) -> tuple[jax.Array, jax.Array]:
    """A permutation, int32[B], and a share for each from Beta(alpha, alpha): 1 where alpha is 0."""
    for_partner, for_share = jax.random.split(key)
    partner = jax.random.permutation(for_partner, examples).astype(jnp.int32)
    some = jnp.asarray(alpha, jnp.float32)
    some = jnp.where(some > 0, some, 1)
    share = jax.random.beta(for_share, some, some, (examples,), jnp.float32)
    return partner, jnp.where(jnp.asarray(alpha) > 0, share, 1)


def check_batch(x: Any) -> int:
    """The number of examples in `x`; raises unless all its leaves are floats `(B, ...)`."""
    leaves = tree.paths(x)
    floats = {
        path: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        for path, leaf in leaves.items()
    }
    if not all(floats.values()):
        wrong = [
            f"{path or 'x'}: {errors.describe(leaf)}"
            for path, leaf in leaves.items()
            if not floats[path]
        ]
        raise TypeError(
            f"`mixup`: x must hold floats, got {', '.join(wrong)}. "
            "Convert images before; mix the embeddings of tokens, not their numbers."
        )
    firsts = {leaf.shape[:1] for leaf in leaves.values()}
    if len(firsts) != 1 or firsts == {()}:
        raise ValueError(
            f"`mixup`: all of x must have one first axis of examples, got {errors.describe(x)}. "
            "It acts on a batch, not on one example: call it in the objective, not in `fn.augment`."
        )
    ((examples,),) = firsts
    return int(examples)
