"""Trees that tests save, and what they must come back as."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import tree


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclass
class Point:
    x: Any
    y: Any


def small(scale=1.0):
    """A tree of few leaves and kinds."""
    return {"w": jnp.arange(6.0).reshape(2, 3) * scale, "key": jax.random.key(3)}


def varied():
    """A tree with a leaf of each kind that can be saved."""
    return {
        "nested": {"list": [jnp.ones(2), (jnp.zeros((0, 3)), np.int64(2**40))]},
        "pair": Pair(jnp.ones((), jnp.int32), None),
        "point": Point(np.linspace(0, 1, 3), np.array([np.nan, -0.0, np.inf])),
        "keys": (jax.random.key(1), jax.random.split(jax.random.key(2, impl="rbg"), 3)),
        "python": [True, -3, 2.5, float("nan"), float("-inf"), 10**30, "hé\n", ""],
        "none": None,
        "empty": {},
        "f16": jnp.ones(3, jnp.bfloat16) / 3,
        "f8": jnp.ones(3, jnp.float8_e4m3fn),
        "mask": jnp.array([True, False]),
        "big": np.arange(10, dtype=np.uint64)[::-2],
        "x64": np.float64(1) / 3,
        "complex": np.ones((2, 2), np.complex128) * 1j,
    }


def bits(leaf):
    """A leaf as something that can be compared bit for bit."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
    if hasattr(leaf, "dtype"):
        host = np.asarray(leaf)
        return type(leaf).__module__, str(host.dtype), host.shape, host.tobytes()
    return type(leaf), repr(leaf)


def same(one, other):
    """Whether two trees are bit for bit the same."""
    alike = jax.tree.structure(one) == jax.tree.structure(other)
    one, other = tree.paths(one), tree.paths(other)
    return alike and {p: bits(v) for p, v in one.items()} == {p: bits(v) for p, v in other.items()}
