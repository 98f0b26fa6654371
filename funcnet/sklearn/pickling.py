"""Estimators as bytes: states of training without devices, functions without their module."""

import dataclasses
import pickle
from typing import Any, NamedTuple

import jax
import numpy as np
from joblib import wrap_non_picklable_objects

from funcnet.sklearn.programs import Kind
from funcnet.trainer import Result
from funcnet.types import TrainState


@dataclasses.dataclass(frozen=True)
class StoredKey:
    """A key as numbers: a leaf of a tree that is to be stored."""

    data: np.ndarray
    impl: str


class Stored(NamedTuple):
    """A `Result` whose arrays are NumPy's."""

    result: Result


def stored(estimator: str, name: str, value: Any) -> Any:
    """An attribute of an estimator in a form that every pickler takes.

    Raises:
        TypeError: there is none.
    """
    if isinstance(value, Result):
        best, last = (jax.tree.map(as_numpy, state) for state in (value.best, value.last))
        return Stored(dataclasses.replace(value, best=best, last=last))
    if isinstance(value, TrainState):
        return jax.tree.map(as_numpy, value)
    if isinstance(value, Kind):
        value = value._replace(placement=None)  # it predicts wherever it is loaded
    try:
        pickle.dumps(value)
    except Exception:  # each kind of object has its own
        return by_value(estimator, name, value)
    return value


def by_value(estimator: str, name: str, value: Any) -> Any:
    """What Python's pickle refuses, a function within a function say, with its code and values."""
    wrapped = wrap_non_picklable_objects(value, keep_wrapper=False)
    try:
        pickle.dumps(wrapped)
    except Exception as error:
        raise TypeError(
            f"`{estimator}`: {name} must be something that can be pickled, got {value!r} "
            f"({error}). Give a function at the top level of a module, which is stored by its "
            "name; a placement is left out with `set_params(placement=None)`."
        ) from error
    return wrapped


def restored(value: Any) -> Any:
    """The inverse of `stored`, after pickling."""
    if isinstance(value, Stored):
        best, last = (jax.tree.map(as_jax, s) for s in (value.result.best, value.result.last))
        return dataclasses.replace(value.result, best=best, last=last)
    if isinstance(value, TrainState):
        return jax.tree.map(as_jax, value)
    return value


def as_numpy(leaf: Any) -> Any:
    """An array in the host's memory; a key as its numbers."""
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(leaf))
        return StoredKey(np.asarray(jax.random.key_data(leaf)), impl)
    return np.asarray(leaf)


def as_jax(leaf: Any) -> jax.Array:
    """The array, or the key, that was stored."""
    if isinstance(leaf, StoredKey):
        key: jax.Array = jax.random.wrap_key_data(jax.numpy.asarray(leaf.data), impl=leaf.impl)
        return key
    return jax.numpy.asarray(leaf)
