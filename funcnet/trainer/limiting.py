"""Limits of one call of `fit`: its time, its steps, and how much of the data it sees."""

import time
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from funcnet import errors
from funcnet.data.arrays import Columns, check_columns, rows
from funcnet.trainer.evaluation import is_batches

if TYPE_CHECKING:
    from funcnet.trainer.settings import Settings


class Limits(NamedTuple):
    """Limits of one call of `fit`, from `fn.limits`.

    Attributes:
        seconds: of this call, or None.
        steps: of this call, or None.
        fast_dev_run: batches of a trial run, 0 where it is none.
        overfit_batches: batches to train on, or None for all.
    """

    seconds: float | None = None
    steps: int | None = None
    fast_dev_run: int = 0
    overfit_batches: int | None = None


def limits(
    *,
    seconds: float | None = None,
    steps: int | None = None,
    fast_dev_run: bool | int = False,
    overfit_batches: int | None = None,
) -> Limits:
    """Bounds one call of `fit`, as `fit(..., limits=fn.limits(seconds=3600))`.

    A call that comes to its time or its steps ends with the reason `fn.Reason.LIMIT`. It stops
    between two steps, without an evaluation of the epoch that it has begun; with a checkpoint it
    saves first, and the same call once more goes on to the bits of a run that was not limited.

    Args:
        seconds: of wall-clock time from the call on, compilation included. It is looked at after
            every call of the compiled steps, once a second or so. The first process whose time is
            up ends the fit in all.
        steps: the most steps of this call; those of `fit(steps=...)` are counted from step 0.
        fast_dev_run: tries everything once: `n` batches of training and of validation, 1 for
            `True`, as one epoch; without early stopping, checkpoint, and callbacks that write.
        overfit_batches: trains on the first so many batches alone, in the same order each epoch,
            and validates, if there is validation data, on them too: a model and a loss that are
            sound learn them by heart. To a checkpoint these batches are the data.

    Returns:
        The limits.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or not positive.

    Example:
        >>> import jax.numpy as jnp, optax, funcnet as fn
        >>> from funcnet.trainer.limiting import limits
        >>> limits(seconds=90)
        Limits(seconds=90, steps=None, fast_dev_run=0, overfit_batches=None)
    """
    if seconds is not None:
        errors.positive_number("limits", "seconds", seconds, say=3600)
    for name, value in {"steps": steps, "overfit_batches": overfit_batches}.items():
        if value is not None:
            errors.positive("limits", **{name: value})
    if not isinstance(fast_dev_run, bool):
        errors.positive("limits", fast_dev_run=fast_dev_run)
    return Limits(seconds, steps, int(fast_dev_run), overfit_batches)


class Ends:
    """Tells when a fit has come to its limits.

    Args:
        limits: of the call, which begins now.
    """

    def __init__(self, limits: Limits | None) -> None:
        self.limits = limits or Limits()
        self.began, self.first = time.monotonic(), 0

    @property
    def last(self) -> int | None:
        """The last step that this call may take, if it is bounded."""
        return None if self.limits.steps is None else self.first + self.limits.steps

    def steps_left(self, step: int) -> int:
        """The most steps to take before the limit."""
        return np.iinfo(np.int32).max if self.last is None else max(self.last - step, 0)

    def reached(self, step: int) -> bool:
        """Whether it is time to end, as this process sees it."""
        seconds = self.limits.seconds
        late = seconds is not None and time.monotonic() - self.began >= seconds
        return late or not self.steps_left(step)

    def words(self, step: int) -> str:
        """Which limit was reached; the same in all processes."""
        limit = f"{self.limits.seconds} seconds"
        if not self.steps_left(step):
            limit = f"{self.limits.steps} steps"
        return f"the limit of {limit} was reached, at step {step}"


def overfitted(
    data: Any, columns: Columns | None, validation: Any, settings: "Settings"
) -> tuple[Any, Columns | None, Any, "Settings"]:
    """The arguments of a fit, of the few batches that are to be learnt by heart if it is so."""
    assert settings.limits is not None  # who calls has seen to it
    if (n := settings.limits.overfit_batches) is None:
        return data, columns, validation, settings
    if columns is None:
        data = list(islice(data, n))
    else:
        data = columns = rows(columns, slice(0, n * settings.batch_size))
    return data, columns, None if validation is None else data, settings._replace(shuffle=False)


def tried(
    validation: Any, settings: "Settings", steps_per_epoch: int | None
) -> tuple[Any, "Settings"]:
    """Validation data and settings, those of a trial run if it is one."""
    assert settings.limits is not None  # who calls has seen to it
    if not (n := settings.limits.fast_dev_run):
        return validation, settings
    start = 0 if settings.state is None else int(settings.state.step)
    stopping = settings.stopping
    settings = settings._replace(
        epochs=1 if steps_per_epoch is None else start // steps_per_epoch + 1,
        steps=start + n,
        stopping=None if stopping is None else stopping._replace(update=lambda _, state: state),
        callbacks=[each for each in settings.callbacks if not getattr(each, "writes", False)],
        checkpoint=None,
        accept_changes=(),
    )
    return first_batches(validation, n, settings.batch_size), settings


def first_batches(validation: Any, n: int, batch_size: int) -> Any:
    """The first `n` batches of validation data, where there is any."""
    if validation is None:
        return None
    if is_batches(validation):
        return list(islice(validation, n))
    columns = check_columns("fit(validation=...)", validation)
    return rows(columns, slice(0, n * batch_size))
