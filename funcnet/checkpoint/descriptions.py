"""What is said of a run beside its tree: names and values of JSON, compared entry by entry."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from funcnet import errors


def plain(function: str, description: Mapping[str, Any] | None) -> dict[str, Any]:
    """A description in JSON's own values.

    Raises:
        TypeError, ValueError: some of it is not; its path is named.

    Example:
        >>> plain("save", {"batch_size": np.int64(32), "data": {"shape": (8, 3)}})
        {'batch_size': 32, 'data': {'shape': [8, 3]}}
    """
    if description is not None and not isinstance(description, Mapping):
        raise TypeError(
            f"`{function}`: description must be a dict, got {errors.describe(description)}. "
            "Say `{'batch_size': 32}`."
        )
    found: dict[str, Any] = entry(function, "", dict(description or {}))
    return found


def entry(function: str, path: str, value: Any) -> Any:
    """One entry of a description, or a part of one, in JSON's own values."""
    if isinstance(value, np.generic):
        value = value.item()
    if path.count("/") > 16:
        raise ValueError(
            f"`{function}`: description must not nest so deeply, got {path}. Flatten it."
        )
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(
                f"`{function}`: names in the description must be strings, got {list(value)!r:.200}."
                " Write them as such."
            )
        return {name: entry(function, f"{path}/{name}", each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [entry(function, f"{path}/{i}", each) for i, each in enumerate(value)]
    if isinstance(value, int) and abs(value) < 2**64:
        return bool(value) if isinstance(value, bool) else int(value)
    if (
        value is None
        or isinstance(value, str)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise TypeError(
        f"`{function}`: the description must hold strings, finite numbers, bools, None, and lists "
        f"and dicts of them, got {errors.describe(value):.200} for {path[1:]}. "
        "Put it in words, or give its digest."
    )


def differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], accepted: Sequence[str]
) -> list[str]:
    """Every way in which two descriptions differ, but for names that are accepted.

    Raises:
        ValueError: an accepted name is in neither.
    """
    was, now = flat(saved), flat(wanted)
    for name in accepted:
        if not any(within_name(path, name) for path in {*was, *now}):
            raise ValueError(
                f"`restore`: accept_changes must name entries of the description, got {name!r}. "
                f"{errors.did_you_mean(name, sorted({*was, *now}))}"
            )
    lines = []
    for path in sorted({*was, *now}):
        same = path in was and path in now and was[path] == now[path]
        if not same and not any(within_name(path, name) for name in accepted):
            old, new = (repr(each[path]) if path in each else "none" for each in (was, now))
            lines.append(f"{path}: expected {new}, saved with {old}")
    return lines


def within_name(path: str, name: str) -> bool:
    """Whether an entry of a description goes by a name."""
    return path == name or path.startswith(f"{name}/")


def flat(description: Mapping[str, Any], below: str = "") -> dict[str, Any]:
    """The entries of a description by path; a list is one entry."""
    found: dict[str, Any] = {}
    for name, value in description.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{below}{name}/")
        else:
            found[f"{below}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def check_accepted(names: Any) -> None:
    """Raises unless names are given as a list."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"`restore`: accept_changes must be a list of names, got {names!r}. "
            "Say `accept_changes=('batch_size',)`."
        )
