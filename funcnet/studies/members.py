"""Many runs of one program: one after the other, mapped, in chunks, on one device or several."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from funcnet import errors, tree
from funcnet.data.arrays import Columns, Subset, check_columns
from funcnet.placement import memory
from funcnet.trainer.programs import Program
from funcnet.trainer.runs import Run, RunResult
from funcnet.types import PyTree, TrainState

Way: TypeAlias = Literal["loop", "vmap"]

WAYS: dict[str, Way] = {"cpu": "loop"}
"""How members are trained unless asked otherwise, by platform: measured by `benchmarks.studies`.

On two CPU cores 32 small trainings took 1.0 s in a loop over the compiled run, two at a time, and
1.7 s under vmap, which trains all members as long as the longest.
"""

OTHER_WAY: Way = "vmap"
"""The same on a GPU or TPU, which one small network can't fill."""

HOST_BYTES = 2**32
"""Memory that members trained at once may take where the device does not tell its own."""


Shared: TypeAlias = tuple[Columns, Columns | None, TrainState | None]
"""What all members have in common: data, validation data, and what they begin with."""


class Member(NamedTuple):
    """What sets one run apart from the others; stacked, with one more axis in each leaf.

    Attributes:
        key: the key of the run.
        hyperparameters: given to `make_trainer`.
        rows: int32[m], the examples to train on, or None for all.
        n: how many of `rows` count, or None for all.
        held: int32[v], the examples of the same data to validate on, or None.
        n_held: how many of `held` count, or None for all.
    """

    key: jax.Array
    hyperparameters: PyTree = None
    rows: Any = None
    n: Any = None
    held: Any = None
    n_held: Any = None


class Trained(NamedTuple):
    """Some members, and what has become of them.

    Attributes:
        which: the members' numbers.
        runs: their results, stacked in this order.
    """

    which: np.ndarray
    runs: RunResult


def train(
    run: Run,
    members: Member,
    data: Any,
    validation: Any = None,
    *,
    by: Way | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
    start: TrainState | None = None,
) -> Iterator[Trained]:
    """Trains members chunk by chunk, each as it would train alone.

    Args:
        run: from `make_run`; compiled once, and once more for a last chunk of another size.
        members: all of them, stacked.
        data: `(x, y)` or `(x, y, weight)`, that all train on, or choose their rows from.
        validation: data that all validate on; None where members hold out rows, or don't validate.
        by: `"loop"`, one after the other, or `"vmap"`, all of a chunk at once; `None` takes what
            is faster on the platform. Several devices each take their share of a chunk, unless
            the trainer has a placement: then they train one member after the other together.
        at_once: members a chunk under `"vmap"`; as many as a quarter of the memory holds, unless
            given.
        progress: whether to show a bar; `None` means in a terminal.
        start: whose params and model_state all begin with; each makes its own unless given.
    """
    check_way(by, at_once)
    data = jax.tree.map(jnp.asarray, check_columns("fit", data))
    if validation is not None:
        validation = jax.tree.map(jnp.asarray, check_columns("fit", validation))
    n = len(members.key)
    check_all(run, members, data, validation)
    way = way_of(by)
    chunks = apart if alone(run, by) else together
    with tqdm(total=n, unit="run", disable=None if progress is None else not progress) as bar:
        for index, runs in chunks(run, members, (data, validation, start), way, at_once):
            yield Trained(index, runs)
            bar.update(len(index))


def one_of(run: Run) -> Callable[[Member, Shared], RunResult]:
    """`(member, shared) -> result`, pure."""

    def one(member: Member, shared: Shared) -> RunResult:
        data, validation, start = shared
        chosen: Any = data
        if member.rows is not None:
            chosen = Subset(data, member.rows, size(member.rows, member.n))
        held: Any = validation
        if member.held is not None:
            held = Subset(data, member.held, size(member.held, member.n_held))
        return run(member.key, chosen, member.hyperparameters, held, start)

    return one


def size(index: Any, n: Any) -> Any:
    """How many of an index count."""
    return len(index) if n is None else n


def apart(
    run: Run, members: Member, shared: Shared, way: Way, at_once: Any
) -> Iterator[tuple[np.ndarray, RunResult]]:
    """One member after the other; on CPU one on each core, which a small network can't share."""
    one = one_of(run)

    def chunk_of_one(members: Member, i: jax.Array, shared: Shared) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], one(nth(members, i), shared))

    program = run.made.setdefault("apart", Program(chunk_of_one))
    compiled = program.compile(members, np.int32(0), shared)

    def train_one(i: int) -> Any:
        return jax.block_until_ready(compiled(members, np.int32(i), shared))

    n = len(members.key)
    several = n > 1 and jax.default_backend() == "cpu" and not run.placed
    with ThreadPoolExecutor(os.cpu_count() if several else 1) as pool:
        try:
            for i, runs in enumerate(pool.map(train_one, range(n))):
                yield np.array([i]), runs
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def together(
    run: Run, members: Member, shared: Shared, way: Way, at_once: Any
) -> Iterator[tuple[np.ndarray, RunResult]]:
    """Chunks of members, each as one program, spread over all devices."""
    n, devices = len(members.key), jax.devices()
    if at_once is None:
        at_once = how_many(one_of(run), nth(members, 0), shared)
    chunks = -(-n // (at_once * len(devices)))
    chunk = -(-n // (chunks * len(devices))) * len(devices)  # a share for each, and no rest
    program = run.made.setdefault(("together", way), mapped(one_of(run), way, devices))
    for begin in range(0, n, chunk):
        index = np.arange(begin, begin + chunk)
        runs = program(nth(members, np.minimum(index, n - 1)), shared)
        kept = index < n
        # on one device, where whatever takes a result expects it
        yield index[kept], jax.device_put(runs[: int(kept.sum())], devices[0])


def mapped(one: Any, way: Way, devices: list[Any]) -> Any:
    """The program of a chunk, `(members, shared) -> results`."""

    def chunk(members: Member, shared: Shared) -> Any:
        def of_member(member: Member) -> RunResult:
            found: RunResult = one(member, shared)
            return found

        return jax.lax.map(of_member, members) if way == "loop" else jax.vmap(of_member)(members)

    if len(devices) == 1:
        return jax.jit(chunk)
    each, all_of = PartitionSpec("members"), PartitionSpec()
    mesh = Mesh(np.array(devices), ("members",))
    return jax.jit(
        jax.shard_map(chunk, mesh=mesh, in_specs=(each, all_of), out_specs=each, check_vma=False)
    )


def how_many(one: Any, member: Member, shared: Shared) -> int:
    """Members that a quarter of a device's memory holds: their states, and room to train them."""
    limit = (memory() or HOST_BYTES) // 4
    out = jax.eval_shape(one, member, shared)
    states = tree.nbytes((out.best.params, out.best.model_state, out.best.opt_state))
    # the states of the loop and of its result; the gradient, updates and activations of a step
    return max(1, limit // (8 * states + tree.nbytes(out.history) + 1))


def nth(members: PyTree, index: Any) -> Any:
    """One member, or some."""
    return jax.tree.map(lambda leaf: leaf[index], members)


def way_of(by: Way | None) -> Way:
    """How members are trained: as asked, or as is faster on the platform."""
    return by or WAYS.get(jax.default_backend(), OTHER_WAY)


def alone(run: Run, by: Way | None) -> bool:
    """Whether one member is trained after the other."""
    return run.placed or (way_of(by) == "loop" and jax.device_count() == 1)


def check_way(by: Any, at_once: Any) -> None:
    """Raises unless the two are what `train` takes."""
    if by not in (None, "loop", "vmap"):
        raise ValueError(
            f"`by` must be 'loop', 'vmap' or None, got {by!r}. None takes what is faster here."
        )
    if at_once is not None:
        errors.positive("at_once", at_once=at_once)


def check_all(run: Run, members: Member, data: Columns, validation: Columns | None) -> None:
    """Refuses what the run would refuse, before anything is compiled."""
    first = nth(members, 0)
    run.arguments(first.key, data, first.hyperparameters, validation)


def gather(chunks: Iterator[Trained]) -> RunResult:
    """All members' results as one, in their order."""
    runs = [chunk.runs for chunk in chunks]
    if len(runs) == 1:
        return runs[0]
    found: RunResult = jax.tree.map(joined, *runs)
    return found


def joined(*leaves: jax.Array) -> jax.Array:
    """Stacks of arrays as one, by way of the host: there is nothing to compile for their number."""
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        data = [np.asarray(jax.random.key_data(leaf)) for leaf in leaves]
        impl = jax.random.key_impl(leaves[0])
        found: jax.Array = jax.random.wrap_key_data(jnp.asarray(np.concatenate(data)), impl=impl)
        return found
    return jnp.asarray(np.concatenate([np.asarray(leaf) for leaf in leaves]))


def keys(seed: Any, n: int) -> jax.Array:
    """One key a member: `fold_in(key, i)`, so that more members leave the first as they are."""
    key = jax.random.key(int(seed)) if isinstance(seed, int | np.integer) else seed
    found: jax.Array = jit_fold_in(key, np.arange(n, dtype=np.uint32))
    return found


jit_fold_in = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))
"""`(key, numbers) -> keys`, one program."""
