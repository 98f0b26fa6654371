"""A table of each epoch's values, as a file that every spreadsheet reads."""

import csv
import json
import math
import os
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from funcnet import errors
from funcnet.monitoring.points import first_new
from funcnet.trainer.callbacks import Callback, Event, leads

Row = dict[str, str]
"""Cells by column."""


def csv_lines(path: str | PathLike[str]) -> Callback:
    """Appends each epoch's values to a CSV file, a row each under one header; for `callbacks=`.

    The columns are `epoch`, `step` and the names of the history, with what callbacks before it in
    the list have added. A number is written so that it is read back exactly; NaN and the infinities
    are `nan`, `inf` and `-inf`; an array is one cell of JSON.

    A fit that goes on, from a checkpoint or a state, takes out the rows of the steps that it takes
    again. One that begins anew appends to what is there. A name that comes new becomes a column at
    the end, empty in the rows before. Of several processes one writes.

    Args:
        path: the file; it and its directory are made where they are not there.

    Raises:
        TypeError: `path` is no path.
        ValueError: at the first epoch, where there is a file that has no such header.

    Example:
        >>> import tempfile, jax.numpy as jnp, optax, funcnet as fn
        >>> from pathlib import Path
        >>> from funcnet.monitoring import csv_lines
        >>> trainer = fn.Trainer(
        ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.0)
        ... )
        >>> x = jnp.ones((8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "history.csv"
        ...     _ = trainer.fit((x, 0 * x), epochs=2, callbacks=[csv_lines(path)])
        ...     lines = path.read_text().splitlines()
        >>> lines[0], len(lines)
        ('epoch,step,loss', 3)
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(
            f"`csv_lines`: path must be a path, got {errors.describe(path)}. "
            "Say `fn.csv_lines('history.csv')`."
        )
    file = Path(path)

    def update(start: int | None, event: Event) -> int | None:
        """Memory: the step at which the fit began; None once a row is written."""
        if event.kind == "start":
            return event.step
        if event.kind != "epoch" or not leads(event):
            return start
        row = row_of(event)
        if start is not None:
            prepare(file, row, 0 if start == 0 else first_new(start, event))
        with file.open("a", encoding="utf-8", newline="") as out:
            csv.writer(out, lineterminator="\n").writerow(
                row.get(name, "") for name in header(file)
            )
        return None

    return Callback(lambda: None, update, writes=True)


def row_of(event: Event) -> Row:
    """The cells of an epoch."""
    values = {"epoch": event.epoch, "step": event.step, **event.metrics}
    return {name: cell(value) for name, value in values.items()}


def cell(value: Any) -> str:
    """A value as text that is read back as it was.

    Example:
        >>> cell(0.1), cell(float("inf")), cell(np.array([[3, 1], [0, 4]]))
        ('0.1', 'inf', '[[3, 1], [0, 4]]')
    """
    if np.ndim(value) == 0:
        return repr(np.asarray(value).item())
    return json.dumps(np.asarray(value).tolist())


def prepare(file: Path, row: Row, first: int) -> None:
    """Makes a file ready for rows like this one: with their columns, and none from step `first`.

    Rows are taken from the end up to one of an earlier step; none if `first` is 0.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    there = file.exists() and file.stat().st_size > 0
    names, rows = read(file) if there else ([], [])
    torn = there and not file.read_bytes().endswith(b"\n")
    kept = [row for row in rows if None not in row.values()]
    while first and kept and step_of(kept[-1]) >= first:
        kept.pop()
    columns = [*names, *(name for name in row if name not in names)]
    if torn or columns != names or len(kept) != len(rows):
        write(file, columns, kept)


def read(file: Path) -> tuple[list[str], list[Row]]:
    """The columns and rows of a file."""
    with file.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines)
        names = list(table.fieldnames or [])
        if names[:2] != ["epoch", "step"]:
            raise ValueError(
                f"`csv_lines`: the file must begin with the columns epoch and step, got "
                f"{', '.join(names[:4])} in {file}. Give another path."
            )
        return names, list(table)


def header(file: Path) -> list[str]:
    """The columns of a file."""
    with file.open(encoding="utf-8", newline="") as lines:
        return next(csv.reader(lines))


def write(file: Path, columns: list[str], rows: Iterable[Row]) -> None:
    """Puts a table in place of a file, whole or not at all."""
    new = file.with_name(f"{file.name}.new")
    with new.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, columns, restval="", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    os.replace(new, file)


def step_of(row: Row) -> float:
    """The step of a row; one that has none counts as the last."""
    try:
        return int(row["step"])
    except (TypeError, ValueError):
        return math.inf
