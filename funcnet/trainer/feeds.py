"""Where a fit's batches come from: arrays on the device, arrays on the host, or a stream."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from funcnet import errors, tree
from funcnet.data.arrays import Columns, Staged, check_columns, examples, named, rows
from funcnet.data.blocks import Divided, Resident, Source, ahead, fits, gather_block, group
from funcnet.data.order import order_words
from funcnet.distributed.arrays import holders, is_shared, put
from funcnet.placement import Placement, memory
from funcnet.trainer.evaluation import is_batches
from funcnet.training.state import ORDER, stream

BLOCK_BYTES = 2**26
"""The most bytes of a block that is sent to the device ahead of its use."""

BLOCK_STEPS = 64
"""The most steps of such a block."""


class Portion(NamedTuple):
    """Some steps of an epoch: where their batches are, how many, and the size of each."""

    source: Source
    steps: int
    batch_size: int


class Feed(Protocol):
    """A source of batches, epoch by epoch.

    Attributes:
        steps_per_epoch: None where it is not known.
        example: the first example, as a batch of one.
        batch: shapes and dtypes of a batch.
        check: raises where columns have labels that can't be; what comes late is checked then.
    """

    steps_per_epoch: int | None
    example: Columns
    batch: Columns
    check: Callable[[Columns], None]

    def epoch(self, step: int, last: int | None) -> Iterator[Portion]:
        """What is left of the epoch at `step`, up to step `last`."""


class ResidentFeed:
    """Arrays that live on the device."""

    steps_per_epoch: int | None
    check: Callable[[Columns], None]

    def __init__(
        self, columns: Columns, batch_size: int, placement: Placement | None = None
    ) -> None:
        self.source = Resident(put(columns, None if placement is None else placement.whole))
        self.batch_size = batch_size
        self.steps_per_epoch = self.per_epoch = -(-examples(columns) // batch_size)
        self.example = rows(columns, slice(0, 1))
        self.batch = of_size(self.example, batch_size)

    def epoch(self, step: int, last: int | None) -> Iterator[Portion]:
        """One portion: all the steps that are left."""
        yield Portion(self.source, left(step, self.per_epoch, last), self.batch_size)


class StagedFeed:
    """Arrays on the host, sent to the device in blocks that a thread makes ahead.

    Each of several processes has them all, and gathers and sends the rows of its own devices.
    """

    steps_per_epoch: int | None
    check: Callable[[Columns], None]

    def __init__(
        self,
        columns: Columns,
        key: jax.Array,
        batch_size: int,
        shuffle: bool,
        placement: Placement | None = None,
    ) -> None:
        self.columns, self.batch_size, self.shuffle = columns, batch_size, shuffle
        self.where = along_batches(placement)
        self.words = np.asarray(order_words(stream(key, ORDER)))
        self.steps_per_epoch = self.per_epoch = -(-examples(columns) // batch_size)
        self.example = rows(columns, slice(0, 1))
        self.batch = of_size(self.example, batch_size)
        self.capacity = min(self.per_epoch, block_steps(self.batch))

    def epoch(self, step: int, last: int | None) -> Iterator[Portion]:
        """Blocks of up to `capacity` steps."""
        return ahead(self.blocks(step, step + left(step, self.per_epoch, last)))

    def blocks(self, step: int, end: int) -> Iterator[Portion]:
        """The same, each made when it is asked for."""
        for start in range(step, end, self.capacity):
            n = min(self.capacity, end - start)
            block = gather_block(
                self.columns,
                self.words,
                start,
                n,
                batch_size=self.batch_size,
                capacity=self.capacity,
                shuffle=self.shuffle,
                where=self.where,
            )
            yield Portion(block, n, self.batch_size)


class StreamFeed:
    """An iterable of batches, passed through once an epoch, in its own order.

    In each of several processes it gives that process's part of each batch.

    Attributes:
        opening: the first batch.
        can_be_found: whether its iterators tell their place, and can be set to it, as Grain's do.
        place: after the last step that was taken, or None at the beginning of an epoch.
    """

    check: Callable[[Columns], None]
    place: Any = None

    def __init__(self, batches: Iterable[Any], placement: Placement | None = None) -> None:
        self.where, self.placement = along_batches(placement), placement
        self.even = placement is not None and (placement.mapped or is_shared(placement.mesh))
        self.parts = 1 if placement is None else len(holders(placement.mesh, placement.batch))
        if not is_batches(batches):  # an array or a dict could be passed through too
            check_columns("fit", batches)
        self.batches = batches
        self.steps_per_epoch = len(batches) if isinstance(batches, Sized) else None
        begun = iter(batches)
        first = next(begun, None)
        if first is None:
            raise ValueError(EMPTY)
        self.first: Iterable[Any] | None = chain([first], begun)
        self.opening = columns = check_columns("fit", first)
        self.example = rows(columns, slice(0, 1))
        self.batch = of_size(self.example, examples(columns) * self.parts)
        self.can_be_found = hasattr(begun, "get_state") and hasattr(begun, "set_state")
        self.places: deque[Any] = deque()

    def epoch(self, step: int, last: int | None) -> Iterator[Portion]:
        """Blocks of successive batches of the same shape."""
        batches = self.batches if self.first is None else self.first
        self.first = None  # the pass that `__init__` began, to see an example, serves one epoch
        if self.can_be_found:
            batches = self.noted()
        checked = map(self.checked, batches)
        within = checked if last is None else islice(checked, last - step)
        capacity = block_steps(self.batch)
        return ahead(Portion(*each) for each in group(within, capacity, step, self.where))

    def noted(self) -> Iterator[Any]:
        """The batches from where the last step was, each place noted."""
        iterator: Any = iter(self.batches)
        if self.place is not None:
            iterator.set_state(self.place)
        self.places.clear()
        for batch in iterator:
            self.places.append(iterator.get_state())
            yield batch

    def taken(self, steps: int) -> None:
        """Takes note of steps, so that `place` is that after the last of them."""
        for _ in range(steps if self.can_be_found else 0):
            self.place = self.places.popleft()

    def checked(self, batch: Any) -> Columns:
        """The columns of one batch, once they are known to be well."""
        columns = check_columns("fit", batch)
        if self.even and self.placement is not None:
            self.placement.check_batch("fit", examples(columns) * self.parts)
        self.check(columns)
        return columns


EMPTY = (
    "`fit`: data must give at least one batch, got none. An iterator can be passed through once: "
    "give a list or a loader, which begins anew at each epoch, or `epochs=1`."
)


def make_feed(
    data: Any,
    key: jax.Array,
    batch_size: int,
    shuffle: bool,
    columns: Columns | None,
    placement: Placement | None = None,
) -> Feed:
    """The feed for `data`, whose `columns` have been checked unless it is a stream."""
    errors.positive("fit", batch_size=batch_size)
    if columns is None:
        return StreamFeed(data, placement)
    if isinstance(data, Staged) or not fits(columns, memory()):
        return StagedFeed(columns, key, batch_size, shuffle, placement)
    return ResidentFeed(columns, batch_size, placement)


def along_batches(placement: Placement | None) -> NamedSharding | None:
    """Where the arrays of successive batches `[n, B, ...]` live, if they are divided."""
    if placement is None:
        return None
    return NamedSharding(placement.mesh, PartitionSpec(None, placement.batch or None))


def block_steps(batch: Columns) -> int:
    """How many batches like this one a block may hold."""
    return max(1, min(BLOCK_STEPS, BLOCK_BYTES // max(tree.nbytes(batch), 1)))


def of_size(example: Columns, size: int) -> Columns:
    """Shapes and dtypes of a batch of `size` examples like this one."""
    batch: Columns = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), example
    )
    return batch


def form_of(portion: Portion) -> Any:
    """Shapes and dtypes of a portion's batches, by path."""
    columns = portion.source.columns
    if isinstance(portion.source, Divided):
        columns = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), columns
        )
    return named(of_size(columns, portion.batch_size))


def words_of(portion: Portion | None) -> str:
    """How much a portion holds."""
    if portion is None:
        return "no batch"
    return f"{portion.steps} batches of {errors.describe(list(form_of(portion).values()))}"


def left(step: int, steps_per_epoch: int, last: int | None) -> int:
    """Steps from `step` to the end of its epoch, or to step `last` if that comes before."""
    end = (step // steps_per_epoch + 1) * steps_per_epoch
    return (end if last is None else min(end, last)) - step
