"""Augmentations made of augmentations: one after the other, or only now and then."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet.data.augmentation.checks import Augmentation, Strength, check_number


def chain(*fs: Augmentation) -> Augmentation:
    """Changes an example by each of `fs`, in this order, each with a key of its own.

    Args:
        fs: functions `f(key, x) -> x` of one example; none at all make the identity.

    Raises:
        TypeError: one of `fs` is not callable.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> f = fn.augmentation.chain(fn.augmentation.flip(), fn.augmentation.crop(2))
        >>> f(jax.random.key(0), jnp.ones((8, 8, 3))).shape
        (8, 8, 3)
    """
    for i, f in enumerate(fs):
        if not callable(f):
            raise TypeError(
                f"`chain`: every argument must be a function f(key, x), got {f!r} as number {i}."
            )

    def change(key: jax.Array, x: Any) -> Any:
        for i, f in enumerate(fs):
            x = f(jax.random.fold_in(key, i), x)
        return x

    return change


def apply_with(p: Strength, f: Augmentation) -> Augmentation:
    """Changes an example by `f` with probability `p`, and leaves it alone otherwise.

    Both are computed, since each example of a batch has its own luck.

    Args:
        p: the probability, in `0 .. 1`.
        f: a function `f(key, x) -> x` of one example, which may be any tree of arrays.

    Raises:
        TypeError, ValueError: `p` is not a number in 0 .. 1, or `f` not callable.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> f = fn.augmentation.apply_with(0.5, lambda key, x: -x)
        >>> ys = jax.vmap(f, (0, None))(jax.random.split(jax.random.key(0), 20), jnp.float32(1))
        >>> sorted(set(ys.tolist()))
        [-1.0, 1.0]
    """
    check_number("apply_with", "p", p, 0, 1)
    if not callable(f):
        raise TypeError(f"`apply_with`: f must be a function f(key, x), got {f!r}.")

    def change(key: jax.Array, x: Any) -> Any:
        luck, own = jax.random.split(key)
        chosen = jax.random.bernoulli(luck, p)
        return jax.tree.map(lambda new, old: jnp.where(chosen, new, old), f(own, x), x)

    return change
