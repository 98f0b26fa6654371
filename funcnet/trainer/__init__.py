"""The trainer: the only loop, clock and output of the library."""

from funcnet.trainer.callbacks import Callback, Event, StopTraining, json_lines
from funcnet.trainer.limiting import Limits, limits
from funcnet.trainer.result import Result
from funcnet.trainer.runs import RunResult, make_run
from funcnet.trainer.trainer import Trainer

__all__ = [
    "Callback",
    "Event",
    "Limits",
    "Result",
    "RunResult",
    "StopTraining",
    "Trainer",
    "json_lines",
    "limits",
    "make_run",
]
