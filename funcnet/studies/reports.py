"""How numbers of a study are written: means with their errors, aligned columns, tables."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from funcnet import tables


def standard_error(values: np.ndarray, axis: int = 0) -> Any:
    """Of the mean along an axis."""
    return values.std(axis, ddof=1) / np.sqrt(values.shape[axis])


def aligned(values: dict[str, tuple[Any, Any]]) -> list[str]:
    """Lines `name mean ± error`, with the decimal points one under the other."""
    words = {name: plus_minus(float(mean), float(error)) for name, (mean, error) in values.items()}
    before = max((len(mean.split(".")[0]) for mean, _ in words.values()), default=0)
    wide = max(map(len, words), default=0)
    lines = []
    for name, (mean, error) in words.items():
        indent = " " * (before - len(mean.split(".")[0]))
        lines.append(f"  {name:{wide}}  {indent}{mean} ± {error}")
    return lines


def plus_minus(mean: float, error: float) -> tuple[str, str]:
    """A mean and its error, as far as the error lets the digits mean something.

    Example:
        >>> plus_minus(0.95312, 0.00414), plus_minus(1234.5, 67.8), plus_minus(0.5, 0.0123)
        (('0.953', '0.004'), ('1234', '68'), ('0.500', '0.012'))
    """
    if not np.isfinite(mean) or not 1e-9 < error < 1e9 or abs(mean) > 1e9:
        return f"{mean:.4g}", f"{error:.1g}"
    leading = int(f"{error:e}"[0])
    places = max(0, -int(f"{error:e}".split("e")[1]) + (leading == 1))
    return f"{mean:.{places}f}", f"{error:.{places}f}"


def as_table(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Any:
    """Columns as a pandas DataFrame where pandas is installed, else as a list of dicts."""
    plain = {name: np.asarray(values).tolist() for name, values in columns.items()}
    try:
        pandas = import_module("pandas")
    except ImportError:
        return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    return pandas.DataFrame(plain)


def in_columns(columns: Sequence[Sequence[str]]) -> list[str]:
    """Lines of right-aligned columns, each of which begins with its head."""
    rows = list(zip(*columns, strict=True))
    return [f"  {line}" for line in tables.in_columns(rows, ">" * len(columns))]
