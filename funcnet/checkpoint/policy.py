"""How often a run saves and what it keeps, as one value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from funcnet import errors
from funcnet.checkpoint import files
from funcnet.checkpoint.store import Store, check_kept


class Mark(NamedTuple):
    """How far a run has come.

    Attributes:
        step: batches consumed.
        epoch: epochs completed.
        seconds: of any clock that only goes forward.
    """

    step: int
    epoch: int
    seconds: float


@dataclass(frozen=True)
class Policy:
    """How often a run saves and what it keeps; made by `fn.checkpoint.every`.

    Attributes:
        directory: where.
        steps, epochs, minutes: how often; what is None does not count.
        keep: how many of the newest steps are kept.
        keep_best: how many more, those with the best monitored value.
        asynchronous: whether a thread writes while training goes on.
    """

    directory: Path
    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    keep: int = 2
    keep_best: int = 0
    asynchronous: bool = True

    def open(self, mode: Literal["min", "max"] = "min") -> Store:
        """The store of this policy.

        Args:
            mode: which metric is better, where the best are kept.
        """
        return Store(
            self.directory,
            keep=self.keep,
            keep_best=self.keep_best,
            mode=mode,
            asynchronous=self.asynchronous,
        )

    def due(self, saved: Mark, now: Mark) -> bool:
        """Whether it is time to save.

        Args:
            saved: when the last save was, or the run began.
            now: where the run is.

        Example:
            >>> import funcnet as fn
            >>> policy = fn.checkpoint.every("runs/first", steps=100)
            >>> policy.due(Mark(0, 0, 0.0), Mark(99, 3, 60.0))
            False
            >>> policy.due(Mark(0, 0, 0.0), Mark(105, 3, 61.0))
            True
        """
        return (
            (self.steps is not None and now.step // self.steps > saved.step // self.steps)
            or (self.epochs is not None and now.epoch // self.epochs > saved.epoch // self.epochs)
            or (self.minutes is not None and now.seconds - saved.seconds >= 60 * self.minutes)
        )

    def steps_left(self, step: int) -> int | None:
        """Steps from this one to the next that is saved, if steps are counted.

        Example:
            >>> import funcnet as fn
            >>> fn.checkpoint.every("runs/first", steps=100).steps_left(130)
            70
        """
        return None if self.steps is None else self.steps - step % self.steps


def every(
    directory: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    keep: int = 2,
    keep_best: int = 0,
    asynchronous: bool = True,
) -> Policy:
    """Saves a run every so many steps, epochs or minutes; after each epoch unless one is given.

    Args:
        directory: where; each run has its own.
        steps: batches between two saves.
        epochs: epochs between two saves.
        minutes: minutes between two saves.
        keep: how many of the newest steps are kept. With 1, a disk that loses the newest file
            loses the run.
        keep_best: how many more are kept, those with the best monitored value.
        asynchronous: whether a thread writes while training goes on.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Example:
        >>> import funcnet as fn
        >>> fn.checkpoint.every("runs/first", minutes=10, keep_best=1).keep
        2
    """
    place = files.as_directory("every", directory)
    for name, value in {"steps": steps, "epochs": epochs}.items():
        if value is not None:
            errors.positive("every", **{name: value})
    if minutes is not None:
        errors.positive_number("every", "minutes", minutes, say=10)
    if steps is None and epochs is None and minutes is None:
        epochs = 1
    check_kept("every", keep, keep_best)
    return Policy(place, steps, epochs, minutes, keep, keep_best, bool(asynchronous))
