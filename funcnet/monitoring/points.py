"""What callbacks that write have in common: the points of an event, and the packages they need."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from funcnet import errors
from funcnet.trainer.callbacks import Event
from funcnet.types import Metrics


def scalars(metrics: Metrics) -> dict[str, float]:
    """Metrics as numbers by name: each entry of a vector has its own, larger arrays are left out.

    Example:
        >>> scalars({"loss": 0.5, "recall": np.array([1.0, 0.25]), "confusion": np.eye(2)})
        {'loss': 0.5, 'recall/0': 1.0, 'recall/1': 0.25}
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if np.ndim(value) == 0:
            found[name] = float(value)
        elif np.ndim(value) == 1:
            found |= {f"{name}/{i}": float(each) for i, each in enumerate(value)}
    return found


def step_losses(event: Event, every: int | None) -> dict[int, float]:
    """The losses of a chunk by step, of those that are multiples of `every`.

    Example:
        >>> losses = np.array([3.0, 2.0, 1.0], np.float32)
        >>> step_losses(Event("chunk", 0, 10, None, {}, {}, None, losses), every=5)
        {10: 1.0}
    """
    if every is None or event.kind != "chunk":
        return {}
    first = event.step - len(event.losses) + 1
    at = range(first + -first % every, event.step + 1, every)
    return {step: float(event.losses[step - first]) for step in at}


def first_new(start: int, event: Event) -> int:
    """The step from which on a fit that began at `start` writes anew what it finds written.

    `event` is the first one to be written. One that is told of the very step where the fit began
    is that of an epoch which was cut short there before.
    """
    return min(start + 1, event.step)


def check_every(function: str, every: Any) -> None:
    """Raises unless the number of steps between two points is None or positive."""
    if every is not None:
        errors.positive(function, every=every)


def check_names(function: str, argument: str, given: Any) -> dict[str, Any]:
    """A mapping by names as a dict; empty for None."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(
            f"`{function}`: {argument} must be a dict by name, got {errors.describe(given)}. "
            f'Say `{argument}={{"name": ...}}`.'
        )
    return dict(given)


def plain_values(function: str, argument: str, given: Any) -> dict[str, Any]:
    """Settings of a run by name: numbers, strings, truth values or None; an array of one is one."""
    found = {}
    for name, value in check_names(function, argument, given).items():
        one = value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value
        if not isinstance(one, str | bool | int | float | None):
            raise TypeError(
                f"`{function}`: {argument} must hold numbers, strings and truth values, got "
                f"{errors.describe(value)} for {name!r}. Say `str(...)` of it."
            )
        found[name] = one
    return found


def needed(function: str, package: str, extra: str) -> Any:
    """A package that not everyone installs."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"`{function}`: {package} must be installed, got {error}. "
            f"Install it with `pip install 'funcnet[{extra}]'`."
        ) from error
