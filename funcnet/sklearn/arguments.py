"""What the arguments of estimators must be, asked when they are fitted."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from sklearn.utils import check_array, check_random_state

from funcnet import errors
from funcnet.placement import Placement


def check_arguments(name: str, given: dict[str, Any]) -> None:
    """Raises unless the constructor's arguments, which it stored as they came, make sense."""
    errors.positive(name, epochs=given["epochs"], batch_size=given["batch_size"])
    rate = given["learning_rate"]
    if not callable(rate):
        errors.positive_number(name, "learning_rate", rate, zero=True, say=1e-3)
    errors.positive_number(name, "l2", given["l2"], zero=True, say=1e-4)
    for flag in ("shuffle", "early_stopping", "warm_start", "verbose"):
        if not isinstance(given[flag], bool | np.bool_):
            raise TypeError(f"`{name}`: {flag} must be True or False, got {given[flag]!r}.")
    if given["early_stopping"]:
        check_stopping(name, given)
    if given["model"] is None:
        check_activation(name, given["activation"])
    if not (given["loss"] is None or callable(given["loss"])):
        raise TypeError(
            f"`{name}`: loss must be a function loss(y_pred, y), got {given['loss']!r}. "
            "Take one of `optax.losses`, `optax.losses.huber_loss` say."
        )
    if not isinstance(given["placement"], Placement | None):
        raise TypeError(
            f"`{name}`: placement must be a fn.Placement, got "
            f"{errors.describe(given['placement'])}. Say `placement=fn.data_parallel()`."
        )


def check_stopping(name: str, given: dict[str, Any]) -> None:
    """Raises unless what is asked of early stopping makes sense."""
    errors.positive(name, patience=given["patience"])
    errors.positive_number(name, "min_delta", given["min_delta"], zero=True, say=1e-4)
    fraction = given["validation_fraction"]
    if not isinstance(fraction, float | np.floating) or not 0 < fraction < 1:
        raise ValueError(
            f"`{name}`: validation_fraction must lie between 0 and 1, got {fraction!r}. "
            "Give the share of the examples to hold out, 0.1 say."
        )


def check_activation(name: str, activation: Any) -> None:
    """Raises unless it is the name of one of `jax.nn`."""
    if isinstance(activation, str) and callable(getattr(jax.nn, activation, None)):
        return
    known = [each for each in dir(jax.nn) if callable(getattr(jax.nn, each)) and each[0] != "_"]
    hint = errors.did_you_mean(str(activation), known)
    raise ValueError(
        f"`{name}`: activation must be the name of a function in jax.nn, got {activation!r}. "
        f"{hint if 'mean' in hint else 'Say relu, tanh or gelu.'}"
    )


def hidden_sizes(name: str, given: Any) -> tuple[int, ...]:
    """The sizes of hidden layers, one or several, as a tuple."""
    sizes: Any = (given,) if isinstance(given, int | float | np.number) else given
    if isinstance(sizes, str) or not isinstance(sizes, Sequence | np.ndarray):
        raise TypeError(
            f"`{name}`: hidden_layer_sizes must be a tuple of whole numbers, got {given!r}. "
            "Say `(100,)` for one layer."
        )
    for size in sizes:
        errors.positive(name, hidden_layer_sizes=size)
    return tuple(int(size) for size in sizes)


def seed_of(random_state: Any) -> int:
    """A seed: the number itself, or one drawn from a generator."""
    if isinstance(random_state, numbers.Integral):
        check_random_state(random_state)
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def weights_of(name: str, sample_weight: Any, examples: int) -> np.ndarray:
    """The weights of examples as float64, ones unless given."""
    if sample_weight is None:
        return np.ones(examples)
    weight = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weight.shape != (examples,):
        raise ValueError(
            f"`{name}`: sample_weight must hold one number for each of {examples} examples, "
            f"got {errors.describe(weight)}."
        )
    least = float(weight.min())
    if least < 0:
        raise ValueError(
            f"`{name}`: sample_weight must be 0 or more everywhere, got {least!r} as its least. "
            "Leave an example out with the weight 0."
        )
    return np.asarray(weight)
