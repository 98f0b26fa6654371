"""Trees by position, random trees to multiply by, and inner products of trees.

Positions are counted over the leaves in the order of `jax.tree.leaves`, each in C order.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.autodiff.chunks import added, widened
from funcnet.types import PyTree


def positions(spec: PyTree) -> PyTree:
    """The positions of the elements of each leaf, int32[...]."""
    leaves, structure = jax.tree.flatten(spec)
    ends = np.cumsum([0] + [math.prod(leaf.shape) for leaf in leaves])
    parts = [
        jnp.arange(begin, end, dtype=jnp.int32).reshape(leaf.shape)
        for leaf, begin, end in zip(leaves, ends[:-1], ends[1:], strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def element(tree: PyTree, position: Any) -> jax.Array:
    """The element at a position, in the dtype of the tree's leaves together."""
    wide = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(tree)))
    parts = jax.tree.map(
        lambda leaf, here: jnp.sum(jnp.where(here == position, leaf.astype(wide), 0)),
        tree,
        positions(tree),
    )
    return added(parts)


def unflatten(flat: jax.Array, spec: PyTree) -> PyTree:
    """The tree like `spec` with the elements of `flat` by position."""
    return jax.tree.map(lambda leaf, here: flat[here].astype(leaf.dtype), spec, positions(spec))


def signs(key: jax.Array, spec: PyTree) -> PyTree:
    """A tree like `spec` of independent random signs, -1 and 1 (Rademacher)."""
    return drawn(jax.random.rademacher, key, spec)


def normal(key: jax.Array, spec: PyTree) -> PyTree:
    """A tree like `spec` of independent random numbers of a standard normal distribution."""
    return drawn(jax.random.normal, key, spec)


def drawn(draw: Callable[..., jax.Array], key: jax.Array, spec: PyTree) -> PyTree:
    """A tree like `spec` of which each leaf is drawn from a key of its own."""
    leaves, structure = jax.tree.flatten(spec)
    keys = jax.random.split(key, len(leaves))
    parts = [draw(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, parts)


def vdot(left: PyTree, right: PyTree) -> jax.Array:
    """The inner product over all leaves, summed in float32 at least."""

    def of_leaf(a: jax.Array, b: jax.Array) -> jax.Array:
        wide = widened(jnp.result_type(a, b))
        return jnp.sum(a.astype(wide) * b.astype(wide))

    return added(jax.tree.map(of_leaf, left, right))


def norm(x: PyTree) -> jax.Array:
    """The Euclidean norm over all leaves, in float32 at least, with a derivative of 0 at 0.

    It overflows only where it must.

    Example:
        >>> float(norm({"a": jnp.array([3e30]), "b": jnp.array([4e30])}) / 1e30)
        5.0
    """
    parts, by = scaled(x)
    return by * root(vdot(parts, parts))


def scaled(x: PyTree) -> tuple[PyTree, jax.Array]:
    """`x` over its largest element, in the widest dtype of all, and that element.

    0 and NaN are over 1, and what is close to overflow over a number whose inverse is no denormal.
    """
    wide = widened(jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(x))))
    x = jax.tree.map(lambda leaf: leaf.astype(wide), x)
    tops = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(x)]
    largest = jax.lax.stop_gradient(jnp.max(jnp.stack(tops)))
    most = float(jnp.finfo(wide).max) / 16  # type: ignore[no-untyped-call]
    by = jnp.where(largest > 0, jnp.minimum(largest, most), 1)
    return jax.tree.map(lambda leaf: leaf / by, x), by


def root(x: jax.Array) -> jax.Array:
    """The square root, with a derivative of 0 at 0."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))
