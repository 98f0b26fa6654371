"""What a sweep gives back: a table, the best trial, the states of any, a picture."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnet import tables
from funcnet.stopping import Mode, Reason
from funcnet.studies.bench import Bench
from funcnet.studies.ledger import Trial
from funcnet.studies.space import Point, Space, labels
from funcnet.trainer.result import Result
from funcnet.trainer.runs import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 5
"""Trials that a sweep shows of itself."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """What a sweep gives back: all its trials, and the states of any of them.

    Attributes:
        space: what was searched.
        trials: all of them in their order, `fn.studies.ledger.Trial`s.
        metric: what they are compared by, after each one's best epoch.
        mode: `"min"` or `"max"`, the direction that is better.
        bench: where they were trained.
        points: where in the space they are, by number.
        kept: number and result of the best one, which needs no second training.
    """

    space: Space
    trials: tuple[Trial, ...]
    metric: str
    mode: Mode
    bench: Bench
    points: Mapping[int, Point]
    kept: tuple[int, RunResult] | None

    @property
    def best(self) -> Trial:
        """The trial with the best metric, the first of several.

        Raises:
            ValueError: the metric is finite in no trial.
        """
        first = self.ranked[0]
        if not np.isfinite(first.value):
            raise ValueError(
                f"`sweep`: the best trial must have a finite {self.metric}, got none among "
                f"{len(self.trials)} trials. See `.table()` for their reasons; smaller learning "
                "rates often help."
            )
        return first

    @property
    def ranked(self) -> list[Trial]:
        """The trials from the best to the worst, those without a finite metric last."""
        return sorted(self.trials, key=lambda trial: self.bench.worth(trial.value, trial.number))

    def result(self, number: int | None = None) -> Result:
        """A trial as `fit` would have given it back; the best one unless a number is given.

        Only the best one's states are kept. Any other's are found by training it once more: by the
        same program, and so with the same bits; to rounding only where successive halving trained
        several at once.

        Raises:
            IndexError: there is no trial of this number.
        """
        if number is None:
            number = self.best.number
        if not 0 <= number < len(self.trials):
            raise IndexError(
                f"`result`: number must lie in 0 .. {len(self.trials) - 1}, got {number}. "
                "It is the first column of `.table()`."
            )
        if self.kept is not None and number == self.kept[0]:
            return self.kept[1].as_result()
        return self.bench.again(self.trials[number], self.points)

    def table(self, *, ranked: bool = False) -> Any:
        """A row for each trial: its number, hyperparameters, epochs, reason, and its best epoch.

        Args:
            ranked: whether the best come first, rather than in the order of the trials.

        Returns:
            A pandas DataFrame, or a list of dicts where pandas is not installed. The values of the
            history are those after the best epoch, which counts from 0.
        """
        rows = self.rows(self.ranked if ranked else self.trials)
        try:
            from pandas import DataFrame
        except ImportError:
            return rows
        return DataFrame(rows).set_index("trial")

    def rows(self, trials: Iterable[Trial]) -> list[dict[str, Any]]:
        """The rows of the table."""
        return [row(trial, self.labels(trial)) for trial in trials]

    def labels(self, trial: Trial) -> dict[str, Any]:
        """The hyperparameters of a trial in few words."""
        return labels(self.space, self.points[trial.number])

    def shown(self, trial: Trial) -> tuple[Any, ...]:
        """What is shown of a trial in a terminal."""
        chosen = self.labels(trial).values()
        return trial.number, trial.value, *chosen, trial.epochs, ending(trial)

    def plot(self) -> "Figure":
        """Draws the metric over each hyperparameter; see `fn.plot`."""
        from funcnet.studies.sweep_plot import draw_sweep

        return draw_sweep(self)

    def __len__(self) -> int:
        return len(self.trials)

    def __repr__(self) -> str:
        better = "smaller" if self.mode == "min" else "larger"
        n = len(self.trials)
        title = f"Sweep({n} trial{'s' * (n > 1)} by {self.metric}, {better} is better)"
        names = ["trial", self.metric, *self.space, "epochs", "reason"]
        rows = [list(map(cell, self.shown(trial))) for trial in self.ranked[:SHOWN]]
        if n > SHOWN:
            rows.append(["..."] + [""] * (len(names) - 1))
        return "\n".join([title, *tables.in_columns([names, *rows], ">" * len(names))])

    def _repr_html_(self) -> str | None:
        table = self.table(ranked=True)
        html: str | None = None if isinstance(table, list) else table.to_html(max_rows=20)
        return html


def row(trial: Trial, labelled: Mapping[str, Any]) -> dict[str, Any]:
    """A trial as a row of a table; a hyperparameter named as a column is gets a name of its own."""
    found: dict[str, Any] = {"epochs": trial.epochs, "best_epoch": trial.best_epoch}
    found["reason"] = ending(trial)
    for name, line in trial.history.items():
        if line.ndim == 1:
            found[name] = np.nan if trial.best_epoch is None else line[trial.best_epoch].item()
    taken = {"trial", *found}
    own = {name if name not in taken else f"{name}*": value for name, value in labelled.items()}
    return {"trial": trial.number, **own, **found}


def ending(trial: Trial) -> str:
    """Why a trial stopped, in a word or two."""
    if trial.reason == Reason.LIMIT:
        return "halved"
    return trial.reason.name.lower().replace("_", " ")


def cell(value: Any) -> str:
    """A value of a table in four digits at most."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
