"""What is kept of each trial of a sweep, and the file that keeps it: JSON, a trial a line."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.stopping import Reason


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One training of a sweep, without its states.

    Attributes:
        number: its place in the sweep, from 0 on.
        hyperparameters: values by name, as `make_trainer` was given them, and the batch size where
            the space holds it.
        value: the metric after the best epoch; NaN where no epoch was best.
        epochs: epochs taken.
        best_epoch: index of the best one in the history, or None.
        reason: why it stopped; `fn.Reason.LIMIT` where successive halving stopped it.
        history: values of each epoch by name.
        rungs: the metric after each rung of successive halving that it has reached.
        chunk: the trials that were trained at once with it, in one program.
    """

    number: int
    hyperparameters: Mapping[str, Any]
    value: float
    epochs: int
    best_epoch: int | None
    reason: Reason
    history: Mapping[str, np.ndarray]
    rungs: tuple[float, ...] = ()
    chunk: tuple[int, ...] = ()

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={value!r}" for name, value in self.hyperparameters.items())
        return f"Trial({self.number}: {self.value:.4g} after {self.epochs} epochs; {words})"


class Ledger:
    """A file with a line for the study, and one for each finished trial."""

    def __init__(self, path: str | PathLike[str], study: Mapping[str, Any]) -> None:
        """Reads what is there.

        Raises:
            ValueError: it is of another study, or no file of a sweep.
        """
        self.path = Path(path)
        first, *self.lines = opened(self.path, json.loads(json.dumps(study)))
        del first

    def trials(self, hyperparameters: Mapping[int, Mapping[str, Any]]) -> dict[int, Trial]:
        """The finished trials by number, of those whose hyperparameters are given."""
        found = {line["trial"]: line for line in self.lines}
        return {i: read(found[i], hyperparameters[i]) for i in hyperparameters if i in found}

    def write(self, trial: Trial, labels: Mapping[str, Any]) -> None:
        """Appends a trial."""
        append(self.path, written(trial, labels))


def opened(path: Path, study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the file, the first of which is `study`; a torn last line is cut off."""
    text = path.read_bytes() if path.exists() else b""
    lines, size = whole_lines(path, text)
    begun = (json.dumps(study) + "\n").encode()
    if not lines and begun.startswith(text):
        path.write_bytes(begun)
        return [dict(study)]
    if not lines or "sweep" not in lines[0]:
        raise ValueError(
            f"`sweep`: file must be one that a sweep has written, got {str(path)!r}, which is not. "
            "Give the name of a file that is not there yet."
        )
    if lines[0] != study:
        raise ValueError(
            f"`sweep`: file must be of this sweep, got {str(path)!r}, which differs:\n  "
            + "\n  ".join(unlike(lines[0], study))
            + "\nGive the arguments of that sweep, or another file."
        )
    if size < len(text):
        with path.open("r+b") as file:
            file.truncate(size)
    return lines


def whole_lines(path: Path, text: bytes) -> tuple[list[dict[str, Any]], int]:
    """The objects in the lines of a file, and how many bytes they take without a torn last one."""
    lines, size = [], 0
    parts = text.splitlines(keepends=True)
    for i, part in enumerate(parts):
        try:
            line = json.loads(part)
        except ValueError:
            line = None
        if isinstance(line, dict) and part.endswith(b"\n"):
            lines.append(line)
            size += len(part)
        elif i < len(parts) - 1:
            raise ValueError(
                f"`sweep`: each line of file must be a JSON object, got {part[:40]!r} in line "
                f"{i + 1} of {str(path)!r}. Take the line out to train that trial again."
            )
    return lines, size


def unlike(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Every difference between two studies in words."""
    return [
        f"{name}: {there.get(name)!r} in the file, {here.get(name)!r} asked for"
        for name in dict.fromkeys([*here, *there])
        if there.get(name) != here.get(name)
    ]


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Adds a line, which is in the file when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def written(trial: Trial, labels: Mapping[str, Any]) -> dict[str, Any]:
    """A trial as JSON has it."""
    history = {
        name: [str(line.dtype), plain(line.tolist())] for name, line in trial.history.items()
    }
    return {
        "trial": trial.number,
        "hyperparameters": plain(labels),
        "value": plain(trial.value),
        "epochs": trial.epochs,
        "best_epoch": trial.best_epoch,
        "reason": trial.reason.name,
        "rungs": plain(list(trial.rungs)),
        "chunk": list(trial.chunk),
        "history": history,
    }


def read(line: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> Trial:
    """The trial that a line describes."""
    history = {
        name: np.array(number(values), jnp.dtype(dtype))
        for name, (dtype, values) in line["history"].items()
    }
    return Trial(
        number=line["trial"],
        hyperparameters=hyperparameters,
        value=number(line["value"]),
        epochs=line["epochs"],
        best_epoch=line["best_epoch"],
        reason=Reason[line["reason"]],
        history=history,
        rungs=tuple(number(line["rungs"])),
        chunk=tuple(line["chunk"]),
    )


def plain(value: Any) -> Any:
    """`value` with a word for each number that JSON does not have; floats keep all their bits."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def number(value: Any) -> Any:
    """The inverse of `plain`, for numbers and lists of them."""
    if isinstance(value, list):
        return [number(each) for each in value]
    return float(value) if isinstance(value, str) else value


def digest(columns: Any) -> dict[str, str]:
    """What tells data from other data: shapes, dtypes, and a hash of all bytes."""
    found = hashlib.sha256()
    for path, leaf in tree.paths(columns).items():
        array = np.ascontiguousarray(leaf)
        found.update(f"{path} {array.dtype} {array.shape}".encode())
        found.update(array.view(np.uint8).data if array.size else b"")
    return {"form": errors.describe(jax.tree.map(np.asarray, columns)), "sha256": found.hexdigest()}
