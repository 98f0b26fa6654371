"""Successive halving: all trials begin, and the best share of them goes on, again and again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.stopping import Reason
from funcnet.studies.bench import Bench, Outcome, finished
from funcnet.studies.members import (
    Member,
    Shared,
    Way,
    alone,
    check_all,
    how_many,
    mapped,
    nth,
    one_of,
    way_of,
)
from funcnet.studies.space import Point
from funcnet.trainer.epochs import Progress
from funcnet.trainer.runs import Run


class Halving(NamedTuple):
    """When trials are compared, and how many go on: made by `halving`."""

    eta: int
    start: int

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which trials are compared, and the last one."""
        found = [self.start]
        while found[-1] < epochs:
            found.append(min(found[-1] * self.eta, epochs))
        return found


def halving(*, eta: int = 3, start: int = 1) -> Halving:
    """Successive halving, for `fn.sweep`: most trials stop early, so that many can begin.

    All trials take `start` epochs; the best `1 / eta` of them go on to `start * eta`, the best of
    these to `start * eta**2`, until some reach the last epoch. One at least goes on, and none whose
    metric is not finite.

    Args:
        eta: the share that goes on is `1 / eta`, rounded down.
        start: epochs that all take.

    Raises:
        TypeError, ValueError: they are not whole numbers, `eta` is below 2 or `start` below 1.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
        optimization" (2016), with the rounding of Li et al., "Hyperband" (2018).

    Example:
        >>> import funcnet as fn
        >>> fn.halving(eta=3, start=2).rungs(epochs=50)
        [2, 6, 18, 50]
    """
    errors.positive("halving", eta=eta, start=start)
    if eta == 1:
        raise ValueError(
            "`halving`: eta must be 2 or more, got 1, with which all would go on. "
            "Leave halving out."
        )
    return Halving(eta, start)


class Climber(NamedTuple):
    """A trial that may go on: what has become of it so far, and its run."""

    outcome: Outcome
    progress: Progress


class Work(NamedTuple):
    """A run on its way, and how far it shall go."""

    member: Member
    progress: Progress
    until: Any


class Board:
    """The best trials so far of one rung."""

    def __init__(self, places: int, worth: Callable[[float, int], Any]) -> None:
        """Makes an empty one."""
        self.places, self.worth = places, worth
        self.standing: dict[int, tuple[float, Climber | None]] = {}

    def enter(self, number: int, value: float, climber: Climber | None) -> list[Climber | None]:
        """Takes a trial in, and gives back the one that has no place any more, if there is one."""
        if not np.isfinite(value):
            return [climber]
        self.standing[number] = value, climber
        if len(self.standing) <= self.places:
            return []
        last = max(self.standing, key=lambda each: self.worth(self.standing[each][0], each))
        return [self.standing.pop(last)[1]]


def climb(
    bench: Bench,
    points: Mapping[int, Point],
    known: Mapping[int, Sequence[float]],
    halving: Halving,
) -> Iterator[Outcome]:
    """Trains from rung to rung, and gives each trial once it is clear that it stops.

    Of the states between two rungs only those are kept that may go on.

    Args:
        bench: where trials are trained.
        points: the trials by number.
        known: the metric after each rung of the trials that came to their end before.
        halving: when to compare, and how many go on.
    """
    rungs = halving.rungs(bench.epochs)
    values: dict[int, tuple[float, ...]] = dict.fromkeys(points, ())
    alive: dict[int, Progress | None] = dict.fromkeys(points)
    for rung, until in enumerate(rungs):
        final = until == rungs[-1]
        board = Board(max(1, len(alive) // halving.eta), bench.worth)
        for number in alive.keys() & known.keys():
            del alive[number]
            board.enter(number, known[number][rung], None)
        for climber in advance(bench, points, alive, until):
            number, value = climber.outcome.number, climber.outcome.value
            values[number] += (value,)
            for out in [climber] if final else board.enter(number, value, climber):
                if out is not None:
                    yield ended(out.outcome, values[out.outcome.number], final)
        alive = {
            number: climber and climber.progress
            for number, (_, climber) in sorted(board.standing.items())
            if climber or len(known[number]) > rung + 1
        }


def ended(outcome: Outcome, values: tuple[float, ...], final: bool) -> Outcome:
    """A trial that goes on no more, with its rungs and the reason."""
    if outcome.reason == Reason.GOING_ON:
        outcome = outcome._replace(reason=Reason.EPOCHS if final else Reason.LIMIT)
    return outcome._replace(rungs=values)


def advance(
    bench: Bench, points: Mapping[int, Point], alive: dict[int, Progress | None], until: int
) -> Iterator[Climber]:
    """Trains up to an epoch.

    Args:
        bench: where.
        points: all trials by number.
        alive: those to train, with their runs or None; they are taken out one by one.
        until: the epoch.
    """
    for run, numbers in bench.groups({i: points[i] for i in alive}):
        for part in parts(bench, run, [points[i] for i in numbers], numbers):
            members = bench.members([points[i] for i in part])
            runs = turn(bench, run, members, [alive.pop(i) for i in part], until)
            for number, progress in zip(part, runs, strict=True):
                host = jax.device_get(
                    (progress.history, progress.epoch, progress.best_epoch, progress.reason)
                )
                take = partial(finished(run), progress)
                yield Climber(bench.outcome(number, host, take), progress)


def parts(bench: Bench, run: Run, points: list[Point], numbers: list[int]) -> Iterator[list[int]]:
    """The trials of one run in chunks that are trained at once."""
    size, first = 1, bench.members(points[:1])
    data, validation, _ = bench.shared
    check_all(run, first, data, validation)
    if not alone(run, bench.by):
        member = nth(first, 0)
        at_once = bench.at_once or how_many(one_of(run), member, bench.shared)
        chunks = -(-len(numbers) // (at_once * jax.device_count()))
        size = -(-len(numbers) // chunks)
    for begin in range(0, len(numbers), size):
        yield numbers[begin : begin + size]


def turn(
    bench: Bench, run: Run, members: Member, runs: list[Progress | None], until: int
) -> list[Progress]:
    """A chunk of trials, trained up to an epoch; those that are None from the beginning."""
    begin, onward = programs(run, bench.by)
    n = len(runs)
    if alone(run, bench.by):
        member, first = nth(members, 0), runs[0]
        progress = begin(member, bench.shared) if first is None else first
        return [onward(Work(member, progress, np.int32(until)), bench.shared)]
    filled = np.minimum(np.arange(-(-n // jax.device_count()) * jax.device_count()), n - 1)
    members = nth(members, filled)
    if runs[0] is None:
        stacked = begin(members, bench.shared)
    else:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[runs[i] for i in filled])
    stacked = onward(Work(members, stacked, np.full(len(filled), until, np.int32)), bench.shared)
    return [nth(stacked, i) for i in range(n)]


def programs(run: Run, by: Way | None) -> tuple[Any, Any]:
    """The beginning of a run and its way on, compiled for one trial or for a chunk."""

    def begin(member: Member, shared: Shared) -> Progress:
        data, validation, _ = shared
        return run.init(member.key, data, member.hyperparameters, validation)

    def onward(work: Work, shared: Shared) -> Progress:
        data, validation, _ = shared
        hyperparameters = work.member.hyperparameters
        return run.advance(work.progress, data, hyperparameters, validation, work.until)

    if "rungs" not in run.made:
        run.made["rungs"] = tuple(
            jax.jit(one) if alone(run, by) else mapped(one, way_of(by), jax.devices())
            for one in (begin, onward)
        )
    found: tuple[Any, Any] = run.made["rungs"]
    return found
