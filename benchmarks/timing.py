"""Contenders timed in turns, compared by their minima, with the spread of a twin beside it."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

Times: TypeAlias = dict[str, np.ndarray]
"""Seconds of each round by contender, float64[rounds]."""

PAUSE = 0.05
"""Seconds between two contenders, in which threads that still spin come to rest."""

RESAMPLED = 1000
"""Draws of rounds from which the spread of a ratio is taken."""


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> Times:
    """Times every contender once a round; the order is reversed in every second round.

    Args:
        contenders: what is timed, by name; each returns when its work is done, has been compiled
            and has run before.
        rounds: how often.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds):
        order = list(contenders) if k % 2 == 0 else list(reversed(contenders))
        for name in order:
            gc.collect()
            time.sleep(PAUSE)
            begin = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - begin)
    return {name: np.array(values) for name, values in times.items()}


def best(times: np.ndarray) -> float:
    """The minimum over the rounds: what is added to it is other processes' doing."""
    return float(times.min())


def spread(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The 5th and 95th percentile of `min(a) / min(b)` over rounds drawn with replacement.

    Args:
        a: seconds of one contender, float64[rounds].
        b: seconds of its twin, which is the same program entered a second time.
    """
    drawn = np.random.default_rng(0).integers(len(a), size=(RESAMPLED, len(a)))
    low, high = np.percentile(a[drawn].min(1) / b[drawn].min(1), (5, 95))
    return float(low), float(high)


def tolerance(low: float, high: float, least: float) -> float:
    """How far above 1 a ratio may lie: `least`, or the spread of a twin if that is more."""
    return max(least, high - 1, 1 - low)
