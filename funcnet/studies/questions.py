"""What networks of a bias-variance study are trained on, and what they are asked."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.data.arrays import Columns, check_columns, check_parts, examples, rows
from funcnet.studies.decomposition import as_numbers, matched, mean_and_error
from funcnet.types import PyTree

SETS, FRESH = 3, 4
"""Two more streams of a member's key: its training set, and the set that it is tested on."""


class Question(NamedTuple):
    """What networks are trained on, and what they are asked.

    Attributes:
        data: the examples of all members.
        rows: int32[repeats, examples], those of each.
        x: the test inputs.
        target: what bias is measured from: the truth there, or `y`.
        noise: its variance about the truth and the standard error of that; None if unknown.
        fresh: `(x, y)` of more sets for each member, `[repeats, examples, ...]`; None to measure on
            `target`.
    """

    data: Columns
    rows: Any
    x: PyTree
    target: np.ndarray
    noise: tuple[float, float] | None
    fresh: Columns | None


def from_samples(
    keys: jax.Array, sample: Any, x: Any, truth: Any, noise: Any, test: Any
) -> Question:
    """A set for each member, and another to test it on; the truth is known."""
    wanted = {"sample": sample, "x": x, "truth": truth}
    missing = [name for name, value in wanted.items() if value is None]
    if missing or test is not None:
        wrong = f"no {' and no '.join(missing)}" if missing else "test too"
        raise TypeError(
            "`bias_variance`: give sample, x and truth where the truth is known, or data=(x, y) "
            f"and test=(x, y) where it is not, got {wrong}."
        )
    check_functions(sample=sample, truth=truth)
    (x,) = check_parts("bias_variance", (x,))
    sets = sets_of(sample, jax.vmap(lambda key: jax.random.fold_in(key, SETS))(keys))
    if all(bool((leaf == leaf[:1]).all()) for leaf in jax.tree.leaves(sets)):
        check_noiseless(noise)
    repeats, n = len(keys), examples(rows(sets, 0))
    several = -(-examples((x,)) // n)  # fresh sets, to hold as many examples as x

    def fresh_keys(key: jax.Array) -> jax.Array:
        return jax.random.split(jax.random.fold_in(key, FRESH), several)

    fresh = sets_of(jax.vmap(sample), jax.vmap(fresh_keys)(keys))
    fresh = jax.device_get(flat(fresh, axes=2))
    target = as_numbers(truth(x))
    if noise is None:
        known = mean_and_error([away_from(truth, *rows(fresh[:2], i)) for i in range(repeats)])
    else:
        known = float(np.mean(as_numbers(noise(x) if callable(noise) else noise))), 0.0
        if not known[0] >= 0:
            raise ValueError(
                f"`bias_variance`: noise is a variance, 0 or more, got {known[0]}. "
                "Square a standard deviation; leave it out to have it measured."
            )
    index = jnp.arange(repeats * n).reshape(repeats, n)
    return Question(flat(sets, axes=1), index, x, target, known, fresh)


def check_noiseless(noise: Any) -> None:
    """Raises unless it was said that there is no noise: all training sets are the same."""
    if not (isinstance(noise, int | float) and noise == 0):
        raise TypeError(
            "`bias_variance`: sample must draw with its key, got the same set for each. NumPy's "
            "random numbers are drawn once for all: take `jax.random`. If nothing is random, say "
            "`noise=0.0`."
        )


def check_functions(**given: Any) -> None:
    """Raises unless each is a function."""
    for name, value in given.items():
        if not callable(value):
            raise TypeError(
                f"`bias_variance`: {name} must be a function, got {errors.describe(value)}. "
                "Say `lambda x: jnp.sin(x)` for a truth; a sample is drawn by `sample(key)`."
            )


def from_data(keys: jax.Array, data: Any, test: Any, others: dict[str, Any]) -> Question:
    """A bootstrap resample for each member, and held-out data."""
    given = [name for name, value in others.items() if value is not None]
    if given or test is None:
        wrong = f"{' and '.join(given)} too" if given else "no test"
        raise TypeError(
            "`bias_variance`: data goes with test=(x, y), and with nothing that is known of the "
            f"truth, got {wrong}. Hold out a part of the data."
        )
    columns = check_columns("bias_variance", data)
    held = check_columns("bias_variance(test=...)", test)
    if len(held) > 2:
        raise ValueError(
            "`bias_variance`: test must be (x, y), whose points count alike, got a weight too. "
            "Leave it out."
        )
    x, y = held
    n = examples(columns)

    def resample(key: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(key, SETS), (n,), 0, n)

    return Question(columns, jax.vmap(resample)(keys), x, np.asarray(y), None, None)


def sets_of(sample: Any, keys: jax.Array) -> Columns:
    """A set for each key, stacked."""

    def draw(key: jax.Array) -> Columns:
        return check_columns("bias_variance(sample=...)", sample(key))

    try:
        drawn: Columns = jax.jit(jax.vmap(draw))(keys)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise TypeError(
            "`bias_variance`: sample must be a function of JAX's, which is mapped over keys, "
            "got one that asks for the numbers of its key or of what is drawn. "
            "Draw with `jax.random`, and compute with `jax.numpy`."
        ) from error
    return drawn


def flat(sets: Columns, axes: int) -> Columns:
    """Stacked sets, whose first axes are `axes` of sets and one of examples, with one axis less."""
    columns: Columns = jax.tree.map(
        lambda leaf: leaf.reshape(*leaf.shape[: axes - 1], -1, *leaf.shape[axes + 1 :]), sets
    )
    return columns


def away_from(truth: Any, x: Any, y: Any) -> Any:
    """The mean squared distance of `y` from the truth."""
    expected = as_numbers(truth(x))
    return np.mean((matched(y, expected) - expected) ** 2)
