"""Arrays that several processes share: how they are put together, and looked at."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from funcnet.types import PyTree


def gathered(tree: PyTree) -> PyTree:
    """`tree` on the host, whole, in every process: to be saved, or looked at.

    Every process must call it, since each holds a part of what is divided. A key comes back as a
    key of this process's own.

    Args:
        tree: arrays of any placement; what is no array stays as it is.

    Example:
        >>> import jax.numpy as jnp, funcnet.distributed
        >>> funcnet.distributed.gathered({"bias": jnp.ones(2)})
        {'bias': array([1., 1.], dtype=float32)}
    """
    leaves = jax.tree.leaves(tree)
    if all(leaf.is_fully_addressable and not is_key(leaf) for leaf in leaves if is_array(leaf)):
        return jax.device_get(tree)  # all at once
    return jax.tree.map(to_host, tree)


def to_host(leaf: Any) -> Any:
    """One array, whole, on the host."""
    if not is_array(leaf):
        return leaf
    if is_key(leaf):
        data = to_host(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def put(tree: PyTree, where: Any) -> PyTree:
    """`tree`, the same in every process, put where a device, a sharding or a tree of them says.

    `jax.device_put` does it within one process; between several it would send all of it round to
    see that it is the same.
    """
    if where is None or jax.process_count() == 1:
        return jax.device_put(tree, where)
    if isinstance(where, jax.Device):
        where = SingleDeviceSharding(where)
    each = jax.tree.map(lambda _: where, tree) if isinstance(where, Sharding) else where
    return jax.tree.map(put_leaf, tree, each)


def put_leaf(leaf: Any, where: Sharding) -> Any:
    """One array put where a sharding says."""
    shared = is_array(leaf) and not leaf.is_fully_addressable
    if where.is_fully_addressable:
        return jax.device_put(to_host(leaf) if shared else leaf, where)
    if shared:
        return jax.device_put(leaf, where)
    if is_array(leaf) and is_key(leaf):
        data = put_leaf(jax.random.key_data(leaf), where)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])


def joined(parts: PyTree, where: Sharding) -> PyTree:
    """Arrays of which each process has its own part, as arrays of all: no byte is sent round."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(where, np.asarray(leaf)), parts
    )


def is_array(leaf: Any) -> bool:
    """Whether a leaf is one of JAX's arrays."""
    return isinstance(leaf, jax.Array)


def is_key(leaf: jax.Array) -> bool:
    """Whether an array holds typed keys."""
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_shared(mesh: Mesh) -> bool:
    """Whether the devices of a mesh are of several processes."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


def holders(mesh: Mesh, axes: Sequence[str]) -> list[int]:
    """A process for each part of what is divided among `axes` of a mesh, in their order.

    Processes among which nothing is divided hold the same part.
    """
    order = [mesh.axis_names.index(axis) for axis in axes]
    held: dict[int, list[tuple[int, ...]]] = {}
    for place, device in np.ndenumerate(mesh.devices):
        held.setdefault(device.process_index, []).append(tuple(place[i] for i in order))
    first: dict[tuple[int, ...], int] = {}
    for process in sorted(held):
        first.setdefault(min(held[process]), process)
    return [first[place] for place in sorted(first)]
