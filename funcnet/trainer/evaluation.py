"""Evaluation and prediction over whole data sets, in padded batches of one shape."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from funcnet import errors, tree
from funcnet.data.arrays import (
    Columns,
    Staged,
    Subset,
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
from funcnet.trainer.flight import Flight
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


def checked_batches(
    function: str,
    batches: Iterable[Any],
    columns_of: Callable[[str, Any], Columns] = check_columns,
) -> Iterator[Columns]:
    """The batches of a stream, once it is known that there are any and that they are alike."""
    first: Columns | None = None
    for batch in batches:
        columns = columns_of(function, batch)
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
    parts = batches("predict", x, batch_size, programs.placement)
    with told_of_inputs(x):
        check_state("predict", programs, state, rows(parts.first, slice(0, 1)))
    state = brought(programs.placement, state)
    params, flight = evaluated_params(state), programs.flight

    def run(part: Any) -> Any:
        return flight.launch(programs.predict(), params, state.model_state, part)

    return own(outputs_of("predict", run, parts, flight))


class Batches(NamedTuple):
    """Inputs as batches of one size.

    Attributes:
        first: the first of them.
        parts: all of them, each with the number of its examples that count; to be taken once.
    """

    first: Any
    parts: Iterator[tuple[Any, int]]


def batches(function: str, x: Any, batch_size: int, placement: Placement | None = None) -> Batches:
    """Inputs of any form as batches of one size; the last is filled up with its last example.

    The size is `batch_size`, or as many as there are in `x`, or in the first batch of a stream.
    With a placement, each batch is divided among its devices.
    """
    errors.positive(function, batch_size=batch_size)
    wholes = inputs_of(function, x, placement)
    opening = next(wholes)
    shares = 1 if placement is None else placement.shares
    size = -(-min(batch_size, examples((opening,))) // shares) * shares

    def cut() -> Iterator[tuple[Any, int]]:
        for whole in chain([opening], wholes):
            n = examples((whole,))
            for at in range(0, n, size):
                part = pad((rows(whole, slice(at, at + size)), ()), size)[0]
                yield divided(part, placement), min(size, n - at)

    parts = cut()
    first = next(parts)
    return Batches(first[0], chain([first], parts))


def divided(part: Any, placement: Placement | None) -> Any:
    """A batch with its examples divided among the devices of a placement, or on one device."""
    if placement is not None:
        return put(part, NamedSharding(placement.mesh, PartitionSpec(placement.batch or None)))
    if any(is_spread(leaf) for leaf in jax.tree.leaves(part)):
        return put(part, jax.local_devices()[0])
    return part


def inputs_of(function: str, x: Any, placement: Placement | None) -> Iterator[Any]:
    """The inputs in `x`: those of each batch of a stream, or all that there are at once."""
    if isinstance(x, Staged | Subset):
        x = check_columns(function, x)[0]
    if not is_stream(x):
        yield check_parts(function, (x,))[0]
        return
    found = checked_batches(function, x, inputs_of_batch)
    if placement is not None and is_shared(placement.mesh):
        found = whole_batches(function, found, placement)
    for columns in found:
        yield columns[0]


def is_stream(x: Any) -> bool:
    """Whether inputs come batch by batch; a tuple, a dict or a list of arrays is several inputs."""
    if isinstance(x, list):
        return bool(x) and all(is_listed(part) for part in x)
    return is_batches(x)


def is_listed(part: Any) -> bool:
    """Whether a part of a list is a batch: a tuple, list or dict that holds arrays."""
    kind = isinstance(part, tuple | dict) or is_listed_batch(part)
    return kind and any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(part))


def inputs_of_batch(function: str, batch: Any) -> Columns:
    """The inputs of one batch of a stream, as the only column."""
    if isinstance(batch, tuple) or is_listed_batch(batch):
        if not 1 <= len(batch) <= 3:
            raise TypeError(
                f"`{function}`: a batch of a stream must be inputs, (x,), (x, y) or (x, y, weight),"
                f" got {errors.describe(batch)}. Put several inputs together, `((a, b),)` say."
            )
        batch = batch[0]
    return check_parts(function, (batch,))


@contextmanager
def told_of_inputs(x: Any) -> Iterator[None]:
    """Adds to an error about inputs of a stream which part of its batches they are."""
    try:
        yield
    except Exception as error:
        if is_stream(x):
            error.add_note(
                "A tuple that a stream gives is (x, y) or (x, y, weight), as in `fit`, and only x "
                "is used. Where the model has several inputs, let it give `((a, b),)`."
            )
        raise


def outputs_of(
    function: str, run: Callable[[Any], Any], given: Batches, flight: Flight, axis: int = 0
) -> Any:
    """What `run` gives for all examples, along `axis`: on the device, if a quarter of it is enough.

    What is more goes to the host as it comes, and is NumPy arrays.
    """
    limit, size, on_host = memory(), 0, False
    found: list[Any] = []
    for part, n in given.parts:
        y = run(part)
        if not found:
            check_outputs(function, y, examples((part,)), axis)
        found.append(y if n == examples((part,)) else begun(y, n, axis))
        size += tree.nbytes(found[-1])
        if limit is not None and size > limit // 4:
            begin = -2 if on_host else 0  # the last one is still being computed
            found[begin:-1] = [gathered(each) for each in found[begin:-1]]
            on_host = True
    flight.land()
    if on_host:
        found[-1] = gathered(found[-1])
    if len(found) == 1:
        return found[0]
    xp: Any = np if on_host else jax.numpy
    return jax.tree.map(lambda *leaves: xp.concatenate(leaves, axis=axis), *found)


def begun(outputs: Any, n: int, axis: int) -> Any:
    """Outputs of the first `n` examples."""
    return jax.tree.map(lambda leaf: jax.lax.slice_in_dim(leaf, 0, n, axis=axis), outputs)


def check_outputs(function: str, outputs: Any, n: int, axis: int) -> None:
    """Raises unless each output is per example."""
    wrong = [leaf for leaf in jax.tree.leaves(outputs) if np.shape(leaf)[axis : axis + 1] != (n,)]
    if wrong:
        raise ValueError(
            f"`{function}`: each output must have the examples along its first axis, {n} in this "
            f"batch, got {errors.describe(outputs)}. Let the model give what is per example, or "
            "call `model.apply` yourself."
        )


def own(outputs: Any) -> Any:
    """`outputs` as arrays of this process, which it can look at without the others."""
    leaves = jax.tree.leaves(outputs)
    if all(leaf.is_fully_addressable for leaf in leaves if isinstance(leaf, jax.Array)):
        return outputs
    return jax.tree.map(jax.numpy.asarray, gathered(outputs))
