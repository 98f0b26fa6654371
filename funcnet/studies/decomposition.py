"""Arithmetic of the expected squared error: bias², variance and noise of given outputs."""

from typing import Any

import numpy as np

from funcnet import errors
from funcnet.studies.reports import standard_error


def decompose(
    outputs: np.ndarray, target: np.ndarray, noise: tuple[float, float] | None
) -> dict[str, tuple[float, float]]:
    """The parts of the expected squared error and their standard errors, by name.

    With `m` the mean and `s²` the variance of R outputs, `E (m - t)² = (E f - t)² + E s² / R`, so
    `(m - t)² - s² / R` is bias² without bias, and `bias² + s²` the mean of `(f - t)²`.

    Args:
        outputs: `[repeats, examples, ...]`.
        target: `[examples, ...]`, the truth, or labels.
        noise: the variance of labels about the truth with its standard error, where known.
    """
    n = len(outputs)
    away = (outputs - target).reshape(n, -1).astype(float)
    mean, ss = away.mean(0), away.var(0) * n
    bias, variance = bias_and_variance(mean, ss, n)
    without = [
        bias_and_variance((n * mean - f) / (n - 1), ss - (f - mean) ** 2 * n / (n - 1), n - 1)
        for f in away
    ]
    jackknife = np.std(without, axis=0) * np.sqrt(n - 1)
    known, error = noise or (0.0, 0.0)
    _, of_both = mean_and_error((away**2).mean(1))
    return {
        "bias_squared" if noise else "bias_squared_and_noise": (bias, float(jackknife[0])),
        "variance": (variance, float(jackknife[1])),
        **({"noise": noise} if noise else {}),
        "total": (bias + variance + known, float(np.hypot(of_both, error))),
    }


def bias_and_variance(mean: np.ndarray, ss: np.ndarray, n: int) -> tuple[float, float]:
    """Of the mean of `n` numbers and the sum of their squared distances from it, at each point."""
    variance = ss / (n - 1)
    return float(np.mean(mean**2 - variance / n)), float(np.mean(variance))


def matched(y: Any, y_pred: np.ndarray) -> np.ndarray:
    """`y` as numbers of the shape of `y_pred`: classes become one-hot."""
    y = np.asarray(y)
    if y.dtype.kind in "iu" and y_pred.shape[:-1] == y.shape:
        classes = y_pred.shape[-1]
        if y.size and (y.min() < 0 or y.max() >= classes):
            raise ValueError(
                f"`bias_variance`: labels must lie in 0 .. {classes - 1}, since there are "
                f"{classes} outputs, got {y.min()} .. {y.max()}. Number the classes from 0."
            )
        one_hot: np.ndarray = np.eye(classes)[y]
        return one_hot
    if y.shape != y_pred.shape:
        raise ValueError(
            f"`bias_variance`: outputs and y, or the truth, must have one shape, got "
            f"{errors.describe(y_pred)} and {errors.describe(y)}. Reshape one, `y[:, None]` say."
        )
    return as_numbers(y)


def as_numbers(values: Any) -> np.ndarray:
    """Values on the host, in double precision."""
    return np.asarray(values, float)


def mean_and_error(values: Any) -> tuple[float, float]:
    """The mean of some numbers, and its standard error."""
    each = np.asarray(values)
    return float(each.mean()), float(standard_error(each))
