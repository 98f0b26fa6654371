"""The learning-rate range test: one short training in which the rate grows from step to step."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.nn.model import Start

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from funcnet.trainer.trainer import Trainer

Schedule = Callable[[Any], jax.Array]

SKIPPED = 10
"""One in so many of the steps, at the beginning, is not looked at for a suggestion."""

LAST = 5
"""As many at the end are not, where the loss may be leaving already."""


def lr_range(
    make_trainer: "Callable[[Schedule], Trainer]",
    data: Any,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
    start: Start | None = None,
    smoothing: float = 0.98,
    divergence: float = 4.0,
) -> "LrRange":
    """Trains for some steps with a rate that grows from `low` to `high`, and tells the losses.

    Where the smoothed loss falls, a rate is of use; where it explodes, it is too large. The curve
    ends at the step whose smoothed loss is more than `divergence` times the least before it, or
    not finite. Nothing is changed: the states of this training are given up.

    Args:
        make_trainer: `make_trainer(rate) -> trainer`, where `rate` is a schedule, to be given to
            the optimizer: `lambda rate: fn.Trainer(..., optimizer=optax.adamw(rate))`.
        data: as of `fit`.
        low: the first rate.
        high: the last one.
        steps: how many, 20 or more. Each has its own rate; they grow by the same factor.
        batch_size: examples a batch.
        shuffle: whether each epoch has an order of its own.
        seed: what all randomness comes from.
        start: whose params and model_state to begin with, as of `fit`.
        smoothing: the share of the running mean of losses that stays at each step.
        divergence: times the least loss at which the curve ends.

    Returns:
        The rates with their losses, and a rate to begin with.

    Raises:
        TypeError, ValueError: an argument is wrong; `make_trainer` does not use the rate.

    Source:
        Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3. Growth,
        smoothing and the end of the curve are as in fastai's and Lightning's `lr_find`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> x = jax.random.normal(jax.random.key(0), (256, 4))
        >>> def make_trainer(rate):
        ...     return fn.Trainer(
        ...         fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(rate)
        ...     )
        >>> found = fn.lr_range(make_trainer, (x, x.sum(1, keepdims=True)))
        >>> bool(1e-3 < found.suggestion < 1.0)
        True
    """
    check(low, high, steps, smoothing, divergence)
    asked: list[Any] = []

    def rate(count: Any) -> jax.Array:
        asked.append(count)
        grown: jax.Array = jnp.asarray(low, float) * (high / low) ** (count / (steps - 1))
        return grown

    trainer = made(make_trainer, rate)
    result = trainer.fit(
        data,
        steps=steps,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        start=start,
        progress=False,
    )
    if not asked:
        raise ValueError(
            "`lr_range`: make_trainer must give the rate to its optimizer, but nobody has asked "
            "for one. Say `lambda rate: fn.Trainer(..., optimizer=optax.adam(rate))`."
        )
    rates = low * (high / low) ** (np.arange(len(result.losses)) / (steps - 1))
    smoothed = smooth(result.losses, smoothing)
    end = end_of(smoothed, divergence)
    return LrRange(rates[:end], np.asarray(result.losses[:end], float), smoothed[:end])


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LrRange:
    """Losses over learning rates, up to where training diverges; `fn.plot` draws them.

    Attributes:
        rates: float[steps], the rate of each step.
        losses: float[steps], the loss of each step's batch, before its update.
        smoothed: float[steps], the running mean of losses, corrected for its beginning.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray

    @property
    def suggestion(self) -> float | None:
        """A rate to begin with: that of the `valley`, or None where the loss never fell."""
        return self.valley

    @property
    def valley(self) -> float | None:
        """The rate half way down the longest fall of the smoothed loss, much as fastai takes it."""
        inner = self.inner
        fall = longest_fall(self.smoothed[inner])
        return float(self.rates[inner][fall[len(fall) // 2]]) if len(fall) > 1 else None

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest, as Lightning takes it."""
        inner = self.inner
        if len(self.rates[inner]) < 2:
            return None
        slopes = np.gradient(self.smoothed[inner], np.log(self.rates[inner]))
        return float(self.rates[inner][slopes.argmin()]) if slopes.min() < 0 else None

    @property
    def inner(self) -> slice:
        """The steps that a suggestion may come from."""
        n = len(self.rates)
        return slice(n // SKIPPED, max(n - LAST, 0))

    def plot(self) -> "Figure":
        """Draws the loss over the rate, with the suggestion; see `fn.plot`."""
        from funcnet.studies.range_test_plot import draw_lr_range

        return draw_lr_range(self)

    def __repr__(self) -> str:
        n = len(self.rates)
        if not n:
            return "LrRange(no step had a finite loss)"
        least = int(self.smoothed.argmin())
        tried = f"{n} steps with rates {self.rates[0]:.2g} .. {self.rates[-1]:.2g}"
        words = f"least smoothed loss {self.smoothed[least]:.4g} at {self.rates[least]:.2g}"
        found = self.suggestion
        advice = "the loss never fell" if found is None else f"suggestion {found:.2g}"
        return f"LrRange({tried}; {words}; {advice})"


def smooth(losses: np.ndarray, share: float) -> np.ndarray:
    """The exponential moving average of losses, divided by the sum of its weights."""
    mean, found = 0.0, []
    for i, loss in enumerate(np.asarray(losses, float)):
        mean = share * mean + (1 - share) * loss
        found.append(mean / (1 - share ** (i + 1)))
    return np.array(found)


def end_of(smoothed: np.ndarray, divergence: float) -> int:
    """The first step whose loss is not finite, or too many times the least before it."""
    least = np.minimum.accumulate(np.abs(smoothed))
    over = smoothed > divergence * np.concatenate([[np.inf], least[:-1]])
    lost = ~np.isfinite(smoothed) | over
    return int(lost.argmax()) if lost.any() else len(smoothed)


def longest_fall(values: np.ndarray) -> list[int]:
    """Indices of the longest subsequence of values that fall, the earliest of several."""
    lengths, before = np.ones(len(values), int), np.full(len(values), -1)
    for i, value in enumerate(values):
        above = np.flatnonzero(values[:i] > value)
        if len(above):
            before[i] = above[lengths[above].argmax()]
            lengths[i] = lengths[before[i]] + 1
    fall, at = [], int(lengths.argmax()) if len(values) else -1
    while at >= 0:
        fall.append(at)
        at = int(before[at])
    return fall[::-1]


def made(make_trainer: Any, rate: Schedule) -> Any:
    """The trainer that is made of a rate."""
    if hasattr(make_trainer, "programs") or not callable(make_trainer):
        got = "a trainer" if hasattr(make_trainer, "programs") else errors.describe(make_trainer)
        raise TypeError(
            f"`lr_range`: make_trainer must be a function `rate -> trainer`, got {got}. "
            "Say `lambda rate: fn.Trainer(..., optimizer=optax.adam(rate))`."
        )
    trainer = make_trainer(rate)
    if not hasattr(trainer, "programs"):
        raise TypeError(
            f"`lr_range`: make_trainer must give a trainer, got {errors.describe(trainer)}. "
            "End it with `return fn.Trainer(...)`."
        )
    return trainer


def check(low: Any, high: Any, steps: Any, smoothing: Any, divergence: Any) -> None:
    """Raises unless the arguments of the test are right."""
    errors.positive("lr_range", steps=steps)
    if steps < 20:
        raise ValueError(f"`lr_range`: steps must be 20 or more, got {steps}. Give 100 say.")
    errors.positive_number("lr_range", "low", low, say=1e-7)
    errors.positive_number("lr_range", "high", high, say=10.0)
    if not low < high < np.inf:
        raise ValueError(
            f"`lr_range`: low must be below high, and high finite, got {low!r} and {high!r}. "
            "Swap them."
        )
    errors.positive_number("lr_range", "smoothing", smoothing, zero=True, say=0.98)
    if smoothing >= 1:
        raise ValueError(
            f"`lr_range`: smoothing must be below 1, got {smoothing!r}. Give 0.98 say."
        )
    errors.positive_number("lr_range", "divergence", divergence, say=4.0)
    if divergence <= 1:
        raise ValueError(
            f"`lr_range`: divergence must be above 1, got {divergence!r}. Give 4.0 say."
        )
