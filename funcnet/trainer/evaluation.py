"""Evaluation and prediction over whole data sets, in padded batches of one shape."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from funcnet import errors
from funcnet.data.arrays import Columns, Staged, check_columns, examples, pad, rows
from funcnet.data.blocks import fits
from funcnet.placement import memory
from funcnet.trainer.checks import check_labels, check_state
from funcnet.trainer.programs import Programs
from funcnet.training.advance import compute
from funcnet.training.step import Accumulators, merge
from funcnet.types import Metrics, TrainState


def evaluate(programs: Programs, state: TrainState, data: Any, batch_size: int) -> Metrics:
    """See `Trainer.evaluate`."""
    errors.positive("evaluate", batch_size=batch_size)
    blocks = padded("evaluate", data, batch_size)
    check_state("evaluate", programs, state, rows(blocks[0][0], slice(0, 1)))
    for block in blocks:
        check_labels("evaluate", programs, state, block)
    return over(programs, state, blocks, batch_size)


def padded(function: str, data: Any, batch_size: int) -> list[Columns]:
    """Evaluation data as blocks of whole batches, all of the same length but for streams.

    Data in memory is one block, on the device if a quarter of its memory can hold it, and else
    several that are sent there each time.
    """
    if not isinstance(data, tuple | list | Staged) or is_batches(data):
        return [pad(check_columns(function, batch), batch_size) for batch in data]
    columns = check_columns(function, data)
    whole = pad(columns, batch_size)
    if not isinstance(data, Staged) and fits(whole, memory()):
        placed: Columns = jax.device_put(whole)
        return [placed]
    block = batch_size * max(1, examples(whole) // batch_size // 16)
    whole = pad(whole, block)
    return [rows(whole, slice(at, at + block)) for at in range(0, examples(whole), block)]


def is_batches(data: Any) -> bool:
    """Whether `data` is a list of batches rather than the columns themselves."""
    return isinstance(data, list) and all(isinstance(part, tuple) for part in data)


def over(programs: Programs, state: TrainState, blocks: list[Columns], batch_size: int) -> Metrics:
    """The metrics over blocks of whole batches, on the host."""
    program = programs.evaluate(batch_size)
    found: Accumulators | None = None
    for block in blocks:
        more = program(state.params, state.model_state, block)
        found = more if found is None else merge(programs.metrics, found, more)
    assert found is not None  # data of no example has been refused
    return report(compute(programs.metrics, found))


def report(metrics: Metrics) -> Metrics:
    """Values on the host: plain numbers, or NumPy arrays."""
    on_host = jax.device_get(metrics)
    return {name: value.item() if np.ndim(value) == 0 else value for name, value in on_host.items()}


def predict(programs: Programs, state: TrainState, x: Any, batch_size: int) -> Any:
    """See `Trainer.predict`."""
    errors.positive("predict", batch_size=batch_size)
    (x, _) = check_columns("predict", (x, x))
    check_state("predict", programs, state, rows(x, slice(0, 1)))
    n = examples((x,))
    parts = [
        programs.predict()(state.params, state.model_state, part)
        for part in batches(x, min(batch_size, n))
    ]
    return jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves)[:n], *parts)


def batches(x: Any, batch_size: int) -> Iterator[Any]:
    """Batches of one size; the last one is filled up with its last example."""
    whole = pad((x, ()), batch_size)[0]
    for at in range(0, examples((whole,)), batch_size):
        yield rows(whole, slice(at, at + batch_size))
