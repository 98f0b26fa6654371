"""`sweep`: many settings of hyperparameters, trained and compared."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from funcnet.data.arrays import Columns, check_columns, split
from funcnet.stopping import Mode, Stopping, early_stopping
from funcnet.studies.bench import Bench, Outcome
from funcnet.studies.ledger import Ledger, Trial, digest
from funcnet.studies.members import Way, check_way
from funcnet.studies.rungs import Halving, climb
from funcnet.studies.space import (
    Choices,
    Point,
    Range,
    as_space,
    chosen,
    distributions,
    label,
    labels,
    points,
    values,
)
from funcnet.studies.sweep_checks import (
    check,
    check_metric,
    check_study,
    check_together,
    compared_by,
)
from funcnet.studies.swept import Sweep
from funcnet.trainer.runs import MakeTrainer, RunResult, as_maker
from funcnet.training.state import ORDER, stream

if TYPE_CHECKING:
    from funcnet.trainer.trainer import Trainer

ASKED = 8
"""Settings that an optuna study is asked for at a time."""


def sweep(
    make_trainer: "MakeTrainer | Trainer",
    space: Mapping[str, Any],
    data: Any,
    *,
    epochs: int,
    validation: Any = None,
    batch_size: int = 32,
    shuffle: bool = True,
    stopping: Stopping | None = None,
    trials: int | None = None,
    seed: int = 0,
    metric: str | None = None,
    mode: Mode | None = None,
    halving: Halving | None = None,
    file: str | PathLike[str] | None = None,
    study: Any = None,
    by: Way | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Trains a model with many settings of its hyperparameters, and compares them.

    Each trial is the training that `fit` does with the same arguments and the same seed, so that
    trials differ in nothing but their hyperparameters: they share initial params, the order of the
    examples, and the examples held out.

    Floats and arrays are traced: however many of their values are tried, there is one compilation.
    All else (integers, bools, strings, functions) is fixed while tracing, and trials are grouped by
    it: a compilation for each combination. In a list that mixes floats and integers all are floats.

    Args:
        make_trainer: `make_trainer(hyperparameters) -> trainer`, given a dict with a value for each
            name of the space but `batch_size`, which is for the run.
        space: from names to lists of choices, `fn.uniform` and `fn.log_uniform`.
        data: `(x, y)` or `(x, y, weight)`, arrays.
        epochs: the most epochs of a trial.
        validation: data of the same form; or a fraction in 0 .. 1, that share of the examples
            drawn at random and held out, the same for all.
        batch_size: examples a batch, where the space does not say.
        shuffle: whether each epoch has an order of its own.
        stopping: when to stop a trial before, from `fn.early_stopping`.
        trials: how many settings to draw at random; the same seed draws the same, and more leave
            the first as they are. Without it, the full grid of lists in the order of
            `itertools.product`.
        seed: what all randomness comes from, that of the draws too.
        metric: the name in the history of what trials are compared by, each after its best epoch:
            that of `stopping`, else `val_loss`, else `loss`. Without `stopping` it also tells
            which epoch is best.
        mode: `"min"` or `"max"`; told from the name if it can be.
        halving: from `fn.halving`: most trials stop early. A finalist has trained as it would have
            alone.
        file: where to write a line for each finished trial. With the same arguments again, what is
            there is not trained again; more `trials` may be asked for, except with `halving`,
            which goes on from the first rung with all that had not stopped. That `make_trainer` is
            the same can't be checked.
        study: an optuna study, which then chooses the settings, `at_once` (or 8) at a time.
        by: `"loop"`, one trial after the other, or `"vmap"`, many at once; `None` takes what is
            faster on the platform.
        at_once: trials at once under `"vmap"`, on each device; as many as fit its memory unless
            given.
        progress: whether to show a bar; `None` means in a terminal.

    Returns:
        The sweep: `.table()`, `.best`, `.result()`, and a picture by `fn.plot`. It keeps the
        histories of all trials, and the states of the best.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing has been trained then.

    Example:
        >>> import jax.numpy as jnp, optax, funcnet as fn
        >>> def make_trainer(chosen):
        ...     return fn.Trainer(
        ...         fn.dense(1),
        ...         loss=optax.losses.squared_error,
        ...         optimizer=optax.sgd(chosen["rate"]),
        ...     )
        >>> x = jnp.linspace(-1, 1, 64)[:, None]
        >>> swept = fn.sweep(make_trainer, {"rate": [0.01, 0.1, 0.5]}, (x, 2 * x + 1), epochs=10)
        >>> swept.best.hyperparameters
        {'rate': 0.5}
        >>> fit = make_trainer({"rate": 0.5}).fit((x, 2 * x + 1), epochs=10)
        >>> bool(abs(fit.history["loss"] - swept.result(2).history["loss"]).max() < 1e-6)
        True
    """
    found = as_space(space)
    check(epochs, batch_size, stopping, trials, seed)
    check_together(halving, epochs, file, study, trials)
    check_way(by, at_once)
    key = jax.random.key(int(seed))
    columns, held = both(data, validation, key)
    name, better = compared_by(metric, mode, stopping, held is not None)
    bench = Bench(
        as_maker("sweep", make_trainer), found, key, columns, held, epochs, batch_size, shuffle,
        stopping, name, better, by, at_once,
    )  # fmt: skip
    if metric is not None:
        check_metric(bench)
        if stopping is None:
            kept = early_stopping(name, patience=np.iinfo(np.int32).max, mode=better)
            bench = dataclasses.replace(bench, stopping=kept, runs={})
    if study is not None:
        check_study(study, better)
        return asked(bench, study, trials or 0, progress)
    drawn = dict(enumerate(points(found, int(seed), trials)))
    ledger = Ledger(file, description(bench, seed, trials, halving)) if file is not None else None
    collection = Collection(bench, drawn, ledger)
    with tqdm(total=len(drawn), **bar_of(progress)) as bar:
        collection.take(outcomes(collection, halving), bar)
    return collection.sweep()


class Collection:
    """The trials of a sweep as they come in."""

    def __init__(self, bench: Bench, points: dict[int, Point], ledger: Ledger | None) -> None:
        """Begins with those that the ledger has."""
        self.bench, self.points, self.ledger = bench, points, ledger
        self.trials: dict[int, Trial] = {}
        self.kept: tuple[int, RunResult] | None = None
        if ledger is not None:
            self.trials = ledger.trials({i: values(bench.space, p) for i, p in points.items()})

    def take(self, outcomes: Iterable[Outcome], bar: Any) -> None:
        """Takes in outcomes as they come, and keeps the states of the best."""
        bar.update(len(self.trials) - bar.n)
        for outcome in outcomes:
            trial = trial_of(outcome, values(self.bench.space, self.points[outcome.number]))
            self.trials[trial.number] = trial
            if self.ledger is not None:
                self.ledger.write(trial, labels(self.bench.space, self.points[trial.number]))
            if self.best == trial.number:
                self.kept = trial.number, outcome.take()
            bar.set_postfix({self.bench.metric: f"{self.trials[self.best].value:.4g}"})
            bar.update()

    @property
    def best(self) -> int:
        """The number of the best trial so far."""
        return min(self.trials, key=lambda i: self.bench.worth(self.trials[i].value, i))

    def sweep(self) -> Sweep:
        """All of it, in order."""
        trials = tuple(self.trials[i] for i in sorted(self.trials))
        kept = self.kept if self.kept is not None and self.kept[0] == self.best else None
        bench = self.bench
        return Sweep(bench.space, trials, bench.metric, bench.mode, bench, self.points, kept)


def trial_of(outcome: Outcome, hyperparameters: Mapping[str, Any]) -> Trial:
    """What is kept of a trial."""
    return Trial(
        number=outcome.number,
        hyperparameters=hyperparameters,
        value=outcome.value,
        epochs=outcome.epochs,
        best_epoch=None if outcome.best_epoch < 0 else outcome.best_epoch,
        reason=outcome.reason,
        history=outcome.history,
        rungs=outcome.rungs,
        chunk=outcome.chunk,
    )


def outcomes(collection: Collection, halving: Halving | None) -> Iterator[Outcome]:
    """Trains all trials that the collection does not have."""
    bench, known = collection.bench, collection.trials
    if halving is None:
        return bench.train({i: point for i, point in collection.points.items() if i not in known})
    rungs = {i: trial.rungs for i, trial in known.items()}
    return climb(bench, collection.points, rungs, halving)


def asked(bench: Bench, study: Any, trials: int, progress: bool | None) -> Sweep:
    """A sweep whose settings an optuna study chooses, some at a time, and is told how they did."""
    from optuna.trial import TrialState

    collection = Collection(bench, {}, None)
    size = bench.at_once or ASKED
    with tqdm(total=trials, **bar_of(progress)) as bar:
        for begin in range(0, trials, size):
            numbers = range(begin, min(begin + size, trials))
            asked = {i: study.ask(distributions(bench.space)) for i in numbers}
            new = {i: chosen(bench.space, each.params) for i, each in asked.items()}
            collection.points.update(new)
            collection.take(bench.train(new), bar)
            for i, each in asked.items():
                trial = collection.trials[i]
                each.set_user_attr("epochs", trial.epochs)
                good = np.isfinite(trial.value)
                study.tell(each, trial.value if good else None, None if good else TrialState.FAIL)
    return collection.sweep()


def bar_of(progress: bool | None) -> dict[str, Any]:
    """How the bar is shown."""
    return {"unit": "trial", "disable": None if progress is None else not progress}


def both(data: Any, validation: Any, key: jax.Array) -> tuple[Columns, Columns | None]:
    """The data to train on and those to validate on, on the device."""
    columns = check_columns("sweep", data)
    if isinstance(validation, float):
        if not 0 < validation < 1:
            raise ValueError(
                "`sweep`: validation must lie between 0 and 1 where it is a fraction, "
                f"got {validation!r}. Give the share of the examples to hold out, or the data."
            )
        columns, validation = split("sweep", columns, validation, stream(key, ORDER))
    elif validation is not None:
        validation = check_columns("sweep(validation=...)", validation)
    found: tuple[Columns, Columns | None] = jax.tree.map(jnp.asarray, (columns, validation))
    return found


def told(name: str, each: Range | Choices) -> str:
    """A part of a space in words, which differ where its values do.

    Raises:
        ValueError: a choice is a function without a name, which can't be told from another.
    """
    choices = each.values if isinstance(each, Choices) else ()
    if any(getattr(value, "__name__", "") == "<lambda>" for value in choices):
        raise ValueError(
            f"`sweep`: with a file each choice must be told from others by its value or its name, "
            f"got a lambda for {name!r}. Define a function, or choose between their names."
        )
    arrays = [leaf for leaf in jax.tree.leaves(choices) if isinstance(leaf, np.ndarray | jax.Array)]
    return f"{each!r} {digest(tuple(arrays))['sha256']}" if arrays else repr(each)


def description(
    bench: Bench, seed: Any, trials: int | None, halving: Halving | None
) -> dict[str, Any]:
    """What a file says of its sweep: all that its trials depend on, but for code."""
    held = None if bench.validation is None else digest(bench.validation)
    return {
        "sweep": [[name, told(name, each)] for name, each in bench.space.items()],
        "epochs": bench.epochs,
        "batch_size": bench.batch_size,
        "shuffle": bench.shuffle,
        "stopping": bench.stopping and rule(bench.stopping.update),
        "metric": bench.metric,
        "mode": bench.mode,
        "seed": int(seed),
        "draws": "grid" if trials is None else "random",
        "halving": halving and halving._asdict(),
        "trials": halving and trials,
        "data": digest(bench.data),
        "validation": held,
        "x64": bool(jax.config.read("jax_enable_x64")),
    }


def rule(function: Callable[..., Any]) -> dict[str, str]:
    """The numbers and words that a function closes over, and those that it calls."""
    found: dict[str, str] = {}
    for name, value in inspect.getclosurevars(function).nonlocals.items():
        found |= rule(value) if inspect.isfunction(value) else {name: str(label(value))}
    return dict(sorted(found.items()))
