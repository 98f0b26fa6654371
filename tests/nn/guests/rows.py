"""The guests that obey the laws of all layers: dropout, batch norm and params of each make."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
from flax import nnx
from jax.example_libraries import stax

import funcnet as fn


class NNXGuest(nnx.Module):
    def __init__(self, rngs):
        dtype = jnp.result_type(float)
        self.dense = nnx.Linear(6, 5, rngs=rngs, param_dtype=dtype)
        self.norm = nnx.BatchNorm(5, rngs=rngs, param_dtype=dtype)
        self.norm.mean = nnx.BatchStat(jnp.zeros(5, dtype))  # of float32 whatever the dtype
        self.norm.var = nnx.BatchStat(jnp.ones(5, dtype))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.dense(x)))


def allowed(pair):
    """A pair of stax, which leaves it to JAX to widen a bias."""
    init_fun, apply_fun = pair

    def apply(params, x, rng=None):
        with jax.numpy_rank_promotion("allow"):
            return apply_fun(params, x, rng=rng)

    return init_fun, apply


def stax_guest(training):
    mode = "train" if training else "test"
    return allowed(stax.serial(stax.Dense(5), stax.Tanh, stax.Dropout(0.5, mode=mode)))


def nnx_model():
    return fn.as_model(NNXGuest)


def stax_model():
    return fn.as_model(stax_guest)


GUESTS = {"nnx": (nnx_model, {"batch": True}), "stax": (stax_model, {})}
"""A function that makes the model, and what its row of the laws says of it, by library."""

if find_spec("equinox"):
    import equinox as eqx

    class EquinoxGuest(eqx.Module):
        dense: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        dropout: eqx.nn.Dropout

        def __init__(self, key):
            self.dense = eqx.nn.Linear(6, 5, key=key)
            self.norm = eqx.nn.BatchNorm(5, axis_name="batch", mode="batch")
            self.dropout = eqx.nn.Dropout(0.5)

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.dense(x), state)
            return self.dropout(x, key=key), state

    def equinox_model():
        return fn.as_model(lambda key: eqx.nn.make_with_state(EquinoxGuest)(key))

    GUESTS["equinox"] = (equinox_model, {"batch": True})

if find_spec("haiku"):
    import haiku as hk

    def haiku_guest(x, is_training):
        x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(
            hk.Linear(5)(x), is_training
        )
        return hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x

    def haiku_model():
        return fn.as_model(hk.transform_with_state(haiku_guest))

    GUESTS["haiku"] = (haiku_model, {"batch": True})
