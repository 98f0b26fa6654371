"""What a fit gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from funcnet.stopping import Reason
from funcnet.tables import as_html, in_columns
from funcnet.training.watching import is_norm
from funcnet.types import TrainState

COLUMNS, LAST = 8, 3
"""The most values that a result's table shows, and how many of the last epochs."""


@dataclass(frozen=True)
class Result:
    """What a fit gives back.

    Attributes:
        best: the state after the epoch with the best monitored value; the last one before any
            epoch was complete.
        last: the state at the end.
        history: values of each epoch by name, `history["val_loss"][epoch]`; `loss` and the metrics
            are averages over the epoch's batches as they were seen, `val_` ones are of the state
            after it. The last epoch may have been cut short by `steps`.
        losses: float32[steps], the loss of each step.
        best_epoch: index of `best` in the history, or None before any epoch was complete.
        monitor: the name of the monitored value.
        reason: why training stopped; `reason.words` says it.
        message: one sentence about the end.
    """

    best: TrainState
    last: TrainState
    history: Mapping[str, np.ndarray]
    losses: np.ndarray
    best_epoch: int | None
    monitor: str
    reason: Reason
    message: str

    def __repr__(self) -> str:
        if self.best_epoch is None:
            return f"Result({self.message})"
        shown = {name: v for name, v in self.history.items() if v.ndim == 1 and not is_norm(name)}
        best = {name: v[self.best_epoch] for name, v in shown.items()}
        values = ", ".join(f"{name}={value:.4g}" for name, value in best.items())
        story = f"Result({self.message}; best in epoch {self.best_epoch + 1}: {values})"
        rows = self.table()
        return "\n".join([story, *in_columns(rows, sides(rows))])

    def _repr_html_(self) -> str:
        rows = self.table()
        return f"<p>{escape(self.message)}</p>\n{as_html(rows, sides(rows))}"

    def table(self) -> list[list[str]]:
        """The first epoch, the best and the last ones in words, below their head."""
        shown = {name: v for name, v in self.history.items() if v.ndim == 1 and not is_norm(name)}
        names = list(shown)[:COLUMNS]
        epochs = len(next(iter(shown.values()), ()))
        chosen = {0, self.best_epoch, *range(epochs - LAST, epochs)} & set(range(epochs))
        rows = [["epoch", *names, ""]]
        for before, epoch in pairwise([-1, *sorted(chosen)]):
            rows += [["...", *[""] * len(names), ""]] if epoch > before + 1 else []
            values = [f"{shown[name][epoch]:.4g}" for name in names]
            rows.append([str(epoch + 1), *values, "best" if epoch == self.best_epoch else ""])
        return rows


def sides(rows: list[list[str]]) -> str:
    """Numbers to the right in their columns, the last word to the left."""
    return ">" * (len(rows[0]) - 1) + "<"
