"""Spaces of hyperparameters: choices and ranges, their grid, and draws from them."""

import itertools
import math
import numbers
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors

Point: TypeAlias = dict[str, Any]
"""A place in a space: a number for each range, and for each list the index of a choice."""


class Range(NamedTuple):
    """Numbers from `low` to `high`, even or even in their logarithms: made by `uniform`."""

    low: float
    high: float
    log: bool

    def at(self, share: float) -> float:
        """The number that has this share of the range below it."""
        if not self.log:
            return self.low + share * (self.high - self.low)
        power = math.log(self.low) + share * (math.log(self.high) - math.log(self.low))
        return min(max(math.exp(power), self.low), self.high)

    def __repr__(self) -> str:
        return f"{'log_' * self.log}uniform({self.low!r}, {self.high!r})"


class Choices(NamedTuple):
    """Values of which a trial takes one; where floats and integers are mixed, all are floats."""

    values: tuple[Any, ...]

    def at(self, share: float) -> int:
        """The index of the choice that has this share of them below it."""
        return int(share * len(self.values))

    @property
    def labels(self) -> list[Any]:
        """The values as a table has them, no two alike."""
        plain = [label(value) for value in self.values]
        often = Counter(map(repr, plain))
        return [each if often[repr(each)] == 1 else f"{each} ({i})" for i, each in enumerate(plain)]

    def __repr__(self) -> str:
        return repr(self.labels)


Space: TypeAlias = dict[str, Range | Choices]


def uniform(low: float, high: float) -> Range:
    """A range of numbers for `fn.sweep`, each as likely as any other.

    Args:
        low: the least.
        high: the greatest.

    Raises:
        TypeError, ValueError: they are not finite numbers, or `low` is not below `high`.

    Example:
        >>> import funcnet as fn
        >>> fn.uniform(0.0, 0.5)
        uniform(0.0, 0.5)
    """
    return Range(*checked("uniform", low, high), log=False)


def log_uniform(low: float, high: float) -> Range:
    """A range of numbers for `fn.sweep` whose logarithms are equally likely: for learning rates.

    Args:
        low: the least, above 0.
        high: the greatest.

    Raises:
        TypeError, ValueError: they are not finite numbers, `low` is not above 0 or not below
            `high`.

    Example:
        >>> import funcnet as fn
        >>> round(fn.log_uniform(1e-4, 1e-1).at(0.5), 6)  # halfway
        0.003162
    """
    ends = checked("log_uniform", low, high)
    if ends[0] <= 0:
        raise ValueError(
            f"`log_uniform`: low must be above 0, got {low!r}. "
            "Take a small positive number, or `fn.uniform`."
        )
    return Range(*ends, log=True)


def checked(function: str, low: Any, high: Any) -> tuple[float, float]:
    """Two finite numbers in their order, or an error."""
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(
                f"`{function}`: {name} must be a number, got {errors.describe(value)}. "
                f"Say `fn.{function}(0.001, 0.1)`."
            )
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"`{function}`: low must be below high and both finite, got {low!r} and {high!r}. "
            f"Say `fn.{function}(0.001, 0.1)`."
        )
    return float(low), float(high)


def as_space(space: Any) -> Space:
    """The space of `sweep`'s argument, once everything that can be wrong has been refused."""
    if not isinstance(space, Mapping) or not space:
        raise TypeError(
            "`sweep`: space must be a dict from names to choices or ranges, one at least, "
            f'got {space!r}. Say `{{"rate": fn.log_uniform(1e-4, 1e-1), "width": [16, 64]}}`.'
        )
    found = {name: part(name, given) for name, given in space.items()}
    sizes = found.get("batch_size")
    if isinstance(sizes, Range):
        raise TypeError(
            f"`sweep`: batch_size must be a list of whole numbers, got {sizes!r}. "
            "Each size is a program of its own: say `[32, 64]`."
        )
    for size in sizes.values if sizes else ():
        errors.positive("sweep", batch_size=size)
    return found


def part(name: Any, given: Any) -> Range | Choices:
    """What a space holds under one name."""
    if not isinstance(name, str):
        raise TypeError(
            f"`sweep`: the names of space must be strings, got {name!r}. "
            "They are the keys of the dict that make_trainer is given."
        )
    if isinstance(given, Range):
        return given
    if isinstance(given, range | np.ndarray) and np.ndim(given) == 1:
        given = np.asarray(given).tolist()
    if not isinstance(given, list):
        raise TypeError(
            f"`sweep`: space must hold lists of choices and ranges, got {errors.describe(given)} "
            f"for {name!r}. Say `[1, 2]` for these two, `fn.uniform(1, 2)` for what lies between."
        )
    if not given:
        raise ValueError(
            f"`sweep`: each list of space must hold a choice, got [] for {name!r}. "
            "Leave the name out, or give it one."
        )
    real = [isinstance(value, numbers.Real) and not isinstance(value, bool) for value in given]
    if all(real) and any(isinstance(value, float) for value in given):
        given = [float(value) for value in given]
    return Choices(tuple(given))


def points(space: Space, seed: int, trials: int | None) -> list[Point]:
    """The trials of a sweep: the full grid in the order of `itertools.product`, or draws."""
    if trials is not None:
        return [draw(space, seed, i) for i in range(trials)]
    ranges = [name for name, each in space.items() if isinstance(each, Range)]
    if ranges:
        raise ValueError(
            "`sweep`: trials must say how many settings to draw where the space holds a range, "
            f"got None with {ranges[0]!r} in {space[ranges[0]]!r}. Say `trials=32`, or give a list."
        )
    sizes = [range(len(each.values)) for each in space.values() if isinstance(each, Choices)]
    return [dict(zip(space, index, strict=True)) for index in itertools.product(*sizes)]


def draw(space: Space, seed: int, number: int) -> Point:
    """The random trial of this number: more of them leave the first as they are."""
    shares = np.random.default_rng([seed % 2**64, number]).random(len(space))
    return {
        name: each.at(float(share))
        for (name, each), share in zip(space.items(), shares, strict=True)
    }


def values(space: Space, point: Point) -> dict[str, Any]:
    """The hyperparameters at a point, by name."""
    return {
        name: each.values[point[name]] if isinstance(each, Choices) else point[name]
        for name, each in space.items()
    }


def labels(space: Space, point: Point) -> dict[str, Any]:
    """The same as a table has them."""
    return {
        name: each.labels[point[name]] if isinstance(each, Choices) else point[name]
        for name, each in space.items()
    }


def is_traced(value: Any) -> bool:
    """Whether a hyperparameter may change without a compilation: a float, or an array."""
    return isinstance(value, float | np.floating | np.ndarray | jax.Array)


def group(space: Space, point: Point) -> tuple[Any, ...]:
    """What trials must share to be of one program: all but the values of floats and arrays."""
    return tuple(
        (np.shape(value), str(jnp.result_type(value))) if is_traced(value) else point[name]
        for name, value in values(space, point).items()
    )


def label(value: Any) -> Any:
    """A value in few words, the same in every process: itself if plain, or its name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.size(value) < 100:
        return np.asarray(value).tolist() if np.ndim(value) == 0 else str(np.asarray(value))
    name = getattr(value, "__qualname__", getattr(value, "__name__", None))
    return name or re.sub(r" at 0x[0-9a-f]+", "", errors.describe(value))


def distributions(space: Space) -> dict[str, Any]:
    """The space as optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: FloatDistribution(each.low, each.high, log=each.log)
        if isinstance(each, Range)
        else CategoricalDistribution(each.labels)
        for name, each in space.items()
    }


def chosen(space: Space, params: Mapping[str, Any]) -> Point:
    """The point that optuna's `params` mean."""
    return {
        name: list(map(repr, each.labels)).index(repr(params[name]))
        if isinstance(each, Choices)
        else params[name]
        for name, each in space.items()
    }
