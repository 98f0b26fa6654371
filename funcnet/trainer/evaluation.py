"""Evaluation and prediction over whole data sets, in padded batches of one shape."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from funcnet import errors, tree
from funcnet.data.arrays import (
    Columns,
    Staged,
    check_columns,
    check_parts,
    examples,
    pad,
    rows,
)
from funcnet.data.blocks import fits
from funcnet.placement import memory
from funcnet.trainer.checks import check_labels, check_state, labels_of
from funcnet.trainer.programs import Programs
from funcnet.training.averaging import evaluated_params
from funcnet.training.step import Accumulators, merge
from funcnet.types import Metrics, TrainState


def evaluate(programs: Programs, state: TrainState, data: Any, batch_size: int) -> Metrics:
    """See `Trainer.evaluate`."""
    if programs.placement is not None:
        programs.placement.check_batch("evaluate", batch_size)
    blocks = padded("evaluate", data, batch_size, programs.everywhere)
    check_state("evaluate", programs, state, rows(blocks[0][0], slice(0, 1)))
    state = programs.brought(state)
    expected = labels_of(programs, state, rows(blocks[0], slice(0, 1)))
    for block in blocks:
        check_labels("evaluate", expected, block)
    return over(programs, state, blocks, batch_size)


def padded(function: str, data: Any, batch_size: int, where: Any = None) -> list[Columns]:
    """Evaluation data as blocks of whole batches, all of the same length but for streams.

    Data in memory is one block, on the device if a quarter of its memory can hold it, and else
    several that are sent there each time.
    """
    errors.positive(function, batch_size=batch_size)
    if function == "fit":
        function = "fit(validation=...)"
        if not isinstance(data, tuple | list | Staged) and not is_batches(data):
            raise TypeError(
                "`fit`: validation must be data, or the fraction of it to hold out as a float "
                f"between 0 and 1, got {errors.describe(data)}. Give a tuple (x, y), or 0.2 say."
            )
    if is_batches(data):
        return [pad(batch, batch_size) for batch in checked_batches(function, data)]
    columns = check_columns(function, data)
    whole = pad(columns, batch_size)
    if not isinstance(data, Staged) and fits(whole, memory()):
        placed: Columns = jax.device_put(whole, where)
        return [placed]
    block = batch_size * max(1, examples(whole) // batch_size // 16)
    whole = pad(whole, block)
    return [rows(whole, slice(at, at + block)) for at in range(0, examples(whole), block)]


def checked_batches(function: str, batches: Iterable[Any]) -> Iterator[Columns]:
    """The batches of a stream, once it is known that there are any and that they are alike."""
    first: Columns | None = None
    for batch in batches:
        columns = check_columns(function, batch)
        one = rows(columns[:2], slice(0, 1))
        first = first or one
        if errors.differences(tree.spec(first), tree.spec(one)):
            raise ValueError(
                f"`{function}`: examples must have the same shapes and dtypes in all batches, "
                f"got {errors.describe(one)} after {errors.describe(first)}. "
                "Prepare all batches in the same way."
            )
        yield columns
    if first is None:
        raise ValueError(
            f"`{function}`: data must give at least one batch, got none. An iterator can be passed "
            "through once: make a new one, or give a list."
        )


def is_batches(data: Any) -> bool:
    """Whether `data` gives batches, rather than being the columns themselves."""
    if isinstance(data, list):
        return all(isinstance(part, tuple) or is_listed_batch(part) for part in data)
    in_memory = isinstance(data, tuple | Staged | dict | str) or hasattr(data, "shape")
    return not in_memory and hasattr(data, "__iter__")


def is_listed_batch(part: Any) -> bool:
    """Whether `part` is a batch as PyTorch's loaders give it, a list `[x, y]` of arrays."""
    return (
        isinstance(part, list)
        and len(part) in (2, 3)
        and all(getattr(each, "shape", ()) for each in part)
    )


def over(programs: Programs, state: TrainState, blocks: list[Columns], batch_size: int) -> Metrics:
    """The metrics over blocks of whole batches, on the host."""
    program = programs.evaluate(batch_size)
    params = evaluated_params(state)
    found: Accumulators | None = None
    for block in blocks:
        with told_of_weight(programs):
            more = program(params, state.model_state, block)
        found = more if found is None else merge(programs.metrics, found, more)
    assert found is not None  # data of no example has been refused
    return report(programs.compute()(found))


@contextmanager
def told_of_weight(programs: Programs) -> Iterator[None]:
    """Adds to an error of an objective that batches have a weight here."""
    try:
        yield
    except Exception as error:
        if programs.loss is None:
            error.add_note(
                "Outside training every batch is (x, y, weight), since the last one is filled up "
                "with examples of weight 0. The objective takes it apart with `fn.unpack(batch)`."
            )
        raise


def report(metrics: Metrics) -> Metrics:
    """Values on the host, the loss first: plain numbers, or NumPy arrays."""
    on_host = jax.device_get(metrics)
    names = sorted(on_host, key=lambda name: name != "loss")
    return {
        name: on_host[name].item() if np.ndim(on_host[name]) == 0 else on_host[name]
        for name in names
    }


def predict(programs: Programs, state: TrainState, x: Any, batch_size: int) -> Any:
    """See `Trainer.predict`."""
    errors.positive("predict", batch_size=batch_size)
    (x,) = check_parts("predict", (x,))
    check_state("predict", programs, state, rows(x, slice(0, 1)))
    state = programs.brought(state)
    n, params = examples((x,)), evaluated_params(state)
    parts = [
        programs.predict()(params, state.model_state, part)
        for part in batches(x, min(batch_size, n))
    ]
    return jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves)[:n], *parts)


def batches(x: Any, batch_size: int) -> Iterator[Any]:
    """Batches of one size; the last one is filled up with its last example."""
    whole = pad((x, ()), batch_size)[0]
    for at in range(0, examples((whole,)), batch_size):
        yield rows(whole, slice(at, at + batch_size))
