"""One of two processes that save together: `python -m tests.checkpoint.processes port rank folder`.

Each has a device; the arrays are divided between them, or whole in both, or the process's own.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from funcnet.checkpoint import DamagedError, NotSavedError, Store, arrays, restore
from tests.checkpoint.trees import same


def tree(value=1.0):
    """A tree of arrays of all processes, and of this one's own."""
    mesh = jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    host = np.arange(16.0, dtype=np.float32).reshape(4, 4) * value

    def on(spec, data):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(data.shape, sharding, lambda index: data[index])

    return {
        "rows": on(("a",), host),
        "whole": on((), host),
        "own": jnp.arange(3) * int(value),
        "key": jax.random.key(3),
        "host": np.arange(5) * value,
        "step": 7,
    }


def parts(found):
    """What this process has of a tree."""
    return {
        name: [np.asarray(shard.data) for shard in leaf.addressable_shards]
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        else leaf
        for name, leaf in found.items()
    }


def main():
    port, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    jax.distributed.initialize(
        f"127.0.0.1:{port}", 2, rank, coordinator_bind_address=f"127.0.0.1:{port}"
    )
    with Store(folder) as store:
        store.save(1, tree(), {"processes": 2})
        store.wait()
        assert store.steps() == [1]
        assert same(parts(store.restore(tree(0.0)).tree), parts(tree()))
        if rank == 1:  # its disk is full, and the other's is not
            begin = arrays.begin
            arrays.begin = lambda *_: fail
        store.save(2, tree(2.0))
        try:
            store.wait()
        except NotSavedError as error:
            print("not saved:", error.__cause__)
        else:
            raise AssertionError("half a step was taken for a whole one")
        assert store.steps() == [1]
        if rank == 1:
            arrays.begin = begin
        store.save(3, tree(3.0))
        store.wait()
    try:
        Store(folder / f"step-{3:012d}" / "manifest.json" / "no folder")
    except NotSavedError as error:
        print("not opened:", error)
    if rank == 1:  # what one process can't read, neither uses
        arrays.read = lambda *_: fail()
    found = []
    for _ in range(2):
        try:
            found.append(restore(folder, tree(0.0)).step)
        except DamagedError:
            found.append(None)
        jax.effects_barrier()
    assert found == [None, None], found
    print("done")


def fail():
    raise OSError(28, "No space left on device")


if __name__ == "__main__":
    main()
