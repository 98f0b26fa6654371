"""What is told of a fit as it goes: the callback protocol, JSON lines, and the progress bar."""

import json
import math
import sys
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np

from funcnet.data.arrays import Columns
from funcnet.distributed.joining import is_main
from funcnet.training.watching import is_norm
from funcnet.types import Metrics, TrainState, maker

Memory: TypeAlias = Any


class Event(NamedTuple):
    """A moment of a fit.

    Attributes:
        kind: `"start"`, `"chunk"` (some steps are done), `"epoch"` (with its metrics), `"end"`.
        epoch: epochs that are complete.
        step: steps done.
        steps: steps asked for, or None if that is not known, as of a stream.
        metrics: this epoch's values; the last loss at a chunk, `{"loss": ...}`; with what the
            callbacks before have added.
        history: values of all epochs by name.
        state: the state now. Its buffers are taken over by the next step: whoever keeps it makes a
            copy, `fn.tree.copy(event.state)`.
        losses: float32[n], the loss of each of a chunk's steps.
        batch: shapes and dtypes of its batches; of the first one, where there is none yet.
    """

    kind: Literal["start", "chunk", "epoch", "end"]
    epoch: int
    step: int
    steps: int | None
    metrics: Metrics
    history: Mapping[str, list[Any]]
    state: TrainState
    losses: np.ndarray = np.zeros(0, np.float32)
    batch: Columns | None = None


class Callback(NamedTuple):
    """Something done at every event, as two functions whose memory is a value.

    A plain function of an `Event` serves as well: it is called at the end of each epoch.

    Where several processes train together, it is called in each, so that it may compute with the
    state, which is divided among them; `fn.distributed.is_main()` tells which one is to print.
    What one process alone raises ends the fit in all.

    Attributes:
        init: `init() -> memory`.
        update: `update(memory, event) -> memory`. To end the fit it raises `StopTraining`.
        name: under which the memory is kept in a checkpoint, or "" to begin anew where a fit goes
            on. A memory that is kept is a pytree of arrays, numbers and strings, of the structure
            that `init` gives.
        adds: `adds(memory) -> metrics`, what the callbacks after it find among `event.metrics` as
            well, or None. The history has none of it.
        writes: whether it leaves something behind, so that a trial run goes without it.

    Example:
        >>> counter = Callback(init=lambda: 0, update=lambda memory, event: memory + 1)
        >>> counter.init()
        0
    """

    init: Callable[[], Memory]
    update: Callable[[Memory, Event], Memory]
    name: str = ""
    adds: Callable[[Memory], Metrics] | None = None
    writes: bool = False

    def __repr__(self) -> str:
        return f"Callback({maker(self.update)}{self.name and f', kept as {self.name!r}'})"


def leads(event: Event) -> bool:
    """Whether this process is the one to write, of those that train together.

    A process that trains alone writes for itself, however many others there are.
    """
    leaves = jax.tree.leaves(event.state)
    alone = all(leaf.is_fully_addressable for leaf in leaves if isinstance(leaf, jax.Array))
    return alone or is_main()


class StopTraining(Exception):  # noqa: N818 - it is no error but a wish
    """Raised by a callback to end the fit after what has been done; its words are the message."""


def as_callback(callback: Any) -> Callback:
    """`callback` itself, or a plain function of an event made one."""
    if isinstance(callback, Callback):
        return callback
    if not callable(callback) or isinstance(callback, type):
        raise TypeError(
            f"`fit`: a callback must be a fn.Callback or a function of an event, got {callback!r}. "
            "Call it first if it is a function that makes one."
        )

    def update(memory: Memory, event: Event) -> Memory:
        if event.kind == "epoch":
            callback(event)
        return memory

    return Callback(lambda: None, update)


def json_lines(path: str | PathLike[str]) -> Callback:
    """Appends each epoch's metrics to a file, a JSON object a line; of several processes one does.

    Numbers that JSON does not have (NaN, infinities) are written as null.

    Args:
        path: the file; it is created if it is not there, and never overwritten.

    Example:
        >>> import funcnet as fn
        >>> callback = fn.json_lines("history.jsonl")
    """

    def update(memory: Memory, event: Event) -> Memory:
        if event.kind == "epoch" and leads(event):
            values = {name: plain(value) for name, value in event.metrics.items()}
            line = json.dumps({"epoch": event.epoch, "step": event.step, **values})
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return memory

    return Callback(lambda: None, update, writes=True)


def plain(value: Any) -> Any:
    """A number or array as JSON has it."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float) else plain(np.asarray(value).tolist())


def progress(shown: bool | None = None) -> Callback:
    """A bar of tqdm over all steps, with the epoch and its metrics; of several processes one's.

    Args:
        shown: whether to show it; `None` means when standard error is a terminal.
    """
    from tqdm import tqdm  # the bar is made only where it is seen

    visible = sys.stderr.isatty() if shown is None else shown

    def update(bar: Any, event: Event) -> Any:
        if not visible:
            return None
        if event.kind == "start" and leads(event):
            bar = tqdm(total=event.steps, initial=event.step, unit="step", dynamic_ncols=True)
        if bar is None:
            return None
        bar.update(event.step - bar.n)
        if event.kind == "epoch":
            bar.set_description(f"epoch {event.epoch}", refresh=False)
        if event.metrics:
            bar.set_postfix(
                {
                    name: f"{value:.4g}"
                    for name, value in event.metrics.items()
                    if not np.ndim(value) and not is_norm(name)
                }
            )
        if event.kind == "end":
            bar.close()
        return bar

    return Callback(lambda: None, update)
