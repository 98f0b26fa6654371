"""Every kind of params that a function under study may take, and functions of any of them."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Layer(NamedTuple):
    kernel: Any
    bias: Any


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "bias"], meta_fields=["name"])
@dataclass
class Block:
    kernel: Any
    bias: Any
    name: str = "block"


def draw(*shape, dtype=None, seed=0):
    """Numbers between -1 and 1, in the widest dtype that is on unless told."""
    values = np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)
    return jnp.asarray(values, dtype or jnp.result_type(float))


TREES = {
    "array": lambda: draw(5),
    "rank 0": lambda: draw(),
    "dict": lambda: {"kernel": draw(2, 3), "bias": draw(2)},
    "list": lambda: [draw(3), draw(2, seed=1)],
    "tuple": lambda: (draw(3), draw(1, 2)),
    "NamedTuple": lambda: Layer(draw(2, 2), draw(2)),
    "dataclass": lambda: Block(draw(2, 2), draw(2)),
    "nested": lambda: {
        "encoder": [Layer(draw(2, 2), draw()), (draw(3),)],
        "head": Block(draw(2), None),
    },
    "numpy": lambda: {"a": np.asarray(draw(3)), "b": np.asarray(draw(2, 2))},
    "mixed floats": lambda: {"narrow": draw(3, dtype=jnp.float32), "wide": draw(2)},
    "integers": lambda: {"a": draw(3), "steps": jnp.arange(2), "z": [draw(), jnp.array(7)]},
    "bools and keys": lambda: {"a": draw(3), "key": jax.random.key(0), "on": jnp.array(True)},
}
"""Functions, so that the arrays are of the precision that is on when they are called."""


def floating(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def flat(params):
    """The float leaves as one vector, and the way back: an oracle, with no code of funcnet."""
    leaves, structure = jax.tree.flatten(params)
    at = [k for k, leaf in enumerate(leaves) if floating(leaf)]
    ends = np.cumsum([np.size(leaves[k]) for k in at])[:-1]

    def rebuild(vector):
        found = list(leaves)
        for k, part in zip(at, jnp.split(vector, ends), strict=True):
            found[k] = part.reshape(np.shape(leaves[k])).astype(leaves[k].dtype)
        return jax.tree.unflatten(structure, found)

    wide = jnp.result_type(float)
    vector = jnp.concatenate([jnp.ravel(jnp.asarray(leaves[k], wide)) for k in at])
    return vector, rebuild


def like(params, seed=1):
    """Another tree of that kind, to multiply with."""
    vector, rebuild = flat(params)
    return rebuild(draw(vector.size, seed=seed))


def outputs(params, scale=1.0):
    """A tree of outputs, each curved in every float leaf; integers, bools and keys take part."""
    leaves = jax.tree.leaves(params)
    total, twist = 0.0, 1.0
    for k, leaf in enumerate(leaves):
        if floating(leaf):
            total = total + jnp.sum(jnp.sin((k + 1.5) * leaf))
            twist = twist + jnp.sum(leaf**2)
        elif jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            total = total + jax.random.uniform(leaf)
        else:
            total = total + jnp.sum(leaf)
    waves = jnp.stack([jnp.sin(total), jnp.cos(total * twist), twist * scale])
    return {"waves": waves, "level": jnp.exp(total / 8) * scale}


def objective(params, scale=1.0):
    """A scalar whose Hessian has no zeros."""
    found = outputs(params, scale)
    return jnp.sum(found["waves"] ** 2) + found["level"] * found["waves"][0]
