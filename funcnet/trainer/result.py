"""What a fit gives back."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from funcnet.stopping import Reason
from funcnet.types import TrainState


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
        best = {name: v[self.best_epoch] for name, v in self.history.items() if v.ndim == 1}
        values = ", ".join(f"{name}={value:.4g}" for name, value in best.items())
        return f"Result({self.message}; best in epoch {self.best_epoch + 1}: {values})"
