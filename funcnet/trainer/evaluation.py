"""Evaluation and prediction over whole data sets, in padded batches of one shape."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

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
from funcnet.distributed.agreement import same
from funcnet.distributed.arrays import gathered, holders, is_shared, put
from funcnet.placement import Placement, memory
from funcnet.trainer.checks import check_labels, check_state, labels_of
from funcnet.trainer.programs import Programs
from funcnet.training.averaging import evaluated_params
from funcnet.training.step import Accumulators, merge
from funcnet.types import Metrics, TrainState


def evaluate(programs: Programs, state: TrainState, data: Any, batch_size: int) -> Metrics:
    """See `Trainer.evaluate`."""
    if programs.placement is not None:
        programs.placement.check_batch("evaluate", batch_size)
    blocks = padded("evaluate", data, batch_size, programs.placement)
    check_state("evaluate", programs, state, rows(blocks[0][0], slice(0, 1)))
    state = brought(programs.placement, state)
    expected = labels_of(programs, state, rows(blocks[0], slice(0, 1)))
    for block in blocks:
        check_labels("evaluate", expected, block)
    return over(programs, state, blocks, batch_size)


def brought(placement: Placement | None, state: TrainState) -> TrainState:
    """`state`, from wherever it lives, to where the states of a trainer do."""
    if placement is not None:
        state = put(state, placement.of_state(state))
    elif any(is_spread(leaf) for leaf in jax.tree.leaves(state)):
        state = put(state, jax.local_devices()[0])
    return state


def is_spread(leaf: Any) -> bool:
    """Whether an array lives on several devices."""
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


def padded(
    function: str, data: Any, batch_size: int, placement: Placement | None = None
) -> list[Columns]:
    """Evaluation data as blocks of whole batches, all of the same length but for streams.

    Data in memory is one block, on the device if a quarter of its memory can hold it, and else
    several that are sent there each time. A stream gives in each of several processes that
    process's part of each batch.
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
        found = checked_batches(function, data)
        if placement is not None and is_shared(placement.mesh):
            found = whole_batches(function, found, placement)
        return [pad(batch, batch_size) for batch in found]
    columns = check_columns(function, data)
    whole = pad(columns, batch_size)
    if not isinstance(data, Staged) and fits(whole, memory()):
        placed: Columns = put(whole, None if placement is None else placement.whole)
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


def whole_batches(
    function: str, batches: Iterator[Columns], placement: Placement
) -> Iterator[Columns]:
    """The batches of which the stream of each process gives a part, whole in every process."""
    order = holders(placement.mesh, placement.batch)
    for k in count():
        with same(function, shared=True) as facts:
            part = next(batches, None)
            facts[f"batch {k} of the stream"] = errors.describe(part and tree.spec(part))
        if part is None:
            return
        stacked = multihost_utils.process_allgather(part)
        yield jax.tree.map(lambda leaf: np.concatenate([leaf[i] for i in order]), stacked)


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
            more = programs.flight.launch(program, params, state.model_state, block)
        found = more if found is None else merge(programs.metrics, found, more)
    assert found is not None  # data of no example has been refused
    programs.flight.land()
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
    on_host = gathered(metrics)
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
    state = brought(programs.placement, state)
    n, params = examples((x,)), evaluated_params(state)
    parts = [
        programs.flight.launch(programs.predict(), params, state.model_state, part)
        for part in batches(x, min(batch_size, n))
    ]
    programs.flight.land()
    whole = jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves)[:n], *parts)
    return own(whole)


def own(outputs: Any) -> Any:
    """`outputs` as arrays of this process, which it can look at without the others."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(outputs)):
        return outputs
    return jax.tree.map(jax.numpy.asarray, gathered(outputs))


def batches(x: Any, batch_size: int) -> Iterator[Any]:
    """Batches of one size; the last one is filled up with its last example."""
    whole = pad((x, ()), batch_size)[0]
    for at in range(0, examples((whole,)), batch_size):
        yield rows(whole, slice(at, at + batch_size))
