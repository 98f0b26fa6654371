"""Where the trials of a sweep are trained: one compiled run for all that share a program."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.data.arrays import Columns
from funcnet.stopping import Mode, Reason, Stopping
from funcnet.studies.ledger import Trial
from funcnet.studies.members import Member, Shared, Way, nth, train
from funcnet.studies.space import Point, Space, group, is_traced, values
from funcnet.trainer.result import Result
from funcnet.trainer.runs import MakeTrainer, Run, RunResult, in_order, make_run


class Outcome(NamedTuple):
    """What has become of a trial: its numbers in the host's memory, its states where they are.

    Attributes:
        number: of the trial.
        value: the metric after the best epoch; NaN where no epoch was best.
        epochs, best_epoch, reason: as of a `RunResult`.
        history: values of each epoch by name.
        take: gives the whole of it.
        rungs: the metric after each rung of successive halving.
        chunk: the trials that were trained at once with it.
    """

    number: int
    value: float
    epochs: int
    best_epoch: int
    reason: Reason
    history: Mapping[str, np.ndarray]
    take: Callable[[], RunResult]
    rungs: tuple[float, ...] = ()
    chunk: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Bench:
    """All that the trials of a sweep share.

    Attributes:
        make_trainer: makes the trainer of a trial's hyperparameters.
        space: what the trials' points mean.
        key: the key of every trial.
        data, validation: what all train and validate on.
        epochs, batch_size, shuffle, stopping: as of `make_run`.
        metric, mode: what trials are compared by.
        by, at_once: as of `train`.
        runs: those made so far, by what is fixed in them.
    """

    make_trainer: MakeTrainer
    space: Space
    key: jax.Array
    data: Columns
    validation: Columns | None
    epochs: int
    batch_size: int
    shuffle: bool
    stopping: Stopping | None
    metric: str
    mode: Mode
    by: Way | None = None
    at_once: int | None = None
    runs: dict[Any, Run] = dataclasses.field(default_factory=dict)

    @property
    def shared(self) -> Shared:
        """What all trials are given."""
        return self.data, self.validation, None

    def run(self, point: Point) -> Run:
        """The run of all trials that differ from this one in traced values alone."""
        which = group(self.space, point)
        if which not in self.runs:
            chosen = values(self.space, point)
            size = chosen.pop("batch_size", self.batch_size)

            def make(traced: Any) -> Any:
                return self.make_trainer({**chosen, **traced})

            self.runs[which] = make_run(
                make, epochs=self.epochs, batch_size=size, shuffle=self.shuffle,
                stopping=self.stopping,
            )  # fmt: skip
        return self.runs[which]

    def members(self, points: Sequence[Point]) -> Member:
        """Trials of one run, stacked: they share the key, and differ in their traced values."""
        chosen = [values(self.space, point) for point in points]
        traced = {
            name: jnp.asarray(np.stack([np.asarray(each[name]) for each in chosen]))
            for name, value in chosen[0].items()
            if is_traced(value)
        }
        return Member(jnp.stack([self.key] * len(points)), traced)

    def groups(self, points: Mapping[int, Point]) -> Iterator[tuple[Run, list[int]]]:
        """The runs that these trials need, each with the numbers of its trials."""
        found: dict[int, tuple[Run, list[int]]] = {}
        for number, point in points.items():
            run = self.run(point)
            found.setdefault(id(run), (run, []))[1].append(number)
        yield from found.values()

    def train(self, points: Mapping[int, Point]) -> Iterator[Outcome]:
        """Trains each trial to its end."""
        for run, numbers in self.groups(points):
            members = self.members([points[i] for i in numbers])
            size = 0
            for which, runs in train(
                run, members, self.data, self.validation, by=self.by, at_once=self.at_once,
                progress=False,
            ):  # fmt: skip
                size = size or len(which)  # of the program; the last chunk may not fill it
                filled = np.pad(which, (0, size - len(which)), mode="edge")
                chunk = tuple(numbers[i] for i in filled) if size > 1 else ()
                host = jax.device_get((runs.history, runs.epochs, runs.best_epoch, runs.reason))
                for j, i in enumerate(which):
                    outcome = self.outcome(numbers[i], nth(host, j), partial(nth, runs, j))
                    yield outcome._replace(chunk=chunk)

    def outcome(self, number: int, host: Any, take: Callable[[], RunResult]) -> Outcome:
        """What has become of a trial, from `(history, epochs, best_epoch, reason)` of its run."""
        history, epochs, best_epoch, reason = host
        epochs, best_epoch = int(epochs), int(best_epoch)
        taken = {name: np.array(history[name][:epochs]) for name in sorted(history, key=in_order)}
        value = float(taken[self.metric][best_epoch]) if best_epoch >= 0 else np.nan
        return Outcome(number, value, epochs, best_epoch, Reason(int(reason)), taken, take)

    def again(self, trial: Trial, points: Mapping[int, Point]) -> Result:
        """The result of a trial by training it once more, in the program that trained it."""
        if trial.rungs:
            until = trial.epochs if trial.reason == Reason.LIMIT else self.epochs
            return as_result(self.up_to(points[trial.number], until), trial)
        which = trial.chunk or (trial.number,)
        chunk = [points[i] for i in which]
        runs = next(
            train(
                self.run(chunk[0]), self.members(chunk), self.data, self.validation,
                by=self.by, at_once=-(-len(chunk) // jax.device_count()), progress=False,
            )
        ).runs  # fmt: skip
        return as_result(runs[which.index(trial.number)], trial)

    def up_to(self, point: Point, epochs: int) -> RunResult:
        """A trial trained up to some epoch, by itself."""
        run, member = self.run(point), nth(self.members([point]), 0)
        arguments = self.data, member.hyperparameters, self.validation
        progress = run.init(member.key, *arguments)
        return finished(run)(run.advance(progress, *arguments, epochs))

    def worth(self, value: float, number: int) -> tuple[bool, float, int]:
        """Sorts values from the best to the worst, NaN last, and the first of equals first."""
        if not np.isfinite(value):
            return True, 0.0, number
        return False, value if self.mode == "min" else -value, number


def finished(run: Run) -> Callable[[Any], RunResult]:
    """`progress -> result` of one run, compiled; on one device, where it is expected."""
    compiled = run.made.setdefault("finished", jax.jit(run.result))

    def result(progress: Any) -> RunResult:
        found: RunResult = jax.device_put(compiled(progress), jax.devices()[0])
        return found

    return result


def as_result(run: RunResult, trial: Trial) -> Result:
    """A run as `fit` gives it back, with the words of halving where that stopped it."""
    result = run.as_result()
    if trial.reason != Reason.LIMIT:
        return result
    words = f"successive halving stopped it after {trial.epochs} epochs: others were better"
    return dataclasses.replace(result, reason=Reason.LIMIT, message=words)
