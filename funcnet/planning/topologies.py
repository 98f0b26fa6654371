"""Devices to plan for: a TPU slice that this machine does not have, a mesh, or what is here."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import jax
from jax.sharding import Mesh

from funcnet import errors

NAME = re.compile(r"[a-z0-9]+:\d+(x\d+)*")

QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu otherwise asks of a machine that is no TPU's, or keeps other processes from.

It asks once, when it is loaded. The type does not decide what is compiled for.
"""


def devices_of(function: str, topology: Any) -> list[Any] | None:
    """The devices that a topology names; None for None."""
    if topology is None:
        return None
    if isinstance(topology, Mesh):
        return list(topology.devices.flat)
    if isinstance(topology, Sequence) and topology and all(map(is_device, topology)):
        return list(topology)
    if isinstance(topology, str) and NAME.fullmatch(topology):
        return slice_of(function, topology)
    words = (
        f"`{function}`: topology must be a TPU's name and grid, a jax.sharding.Mesh or None, got "
        f"{errors.describe(topology)}. Say 'v5e:4x4' or 'v5p:4x4x8'."
    )
    raise ValueError(words) if isinstance(topology, str) else TypeError(words)


def is_device(value: Any) -> bool:
    """Whether a value is one of JAX's devices, real or not."""
    return hasattr(value, "device_kind") and hasattr(value, "platform")


def slice_of(function: str, name: str) -> list[Any]:
    """The devices of a TPU slice, such as its compiler knows them; they can hold nothing."""
    from jax.experimental import topologies

    check_libtpu(function)
    settings: dict[str, Any] = {}
    if name.startswith("v4:"):  # a chip has two cores, which run as one device
        settings["chip_config_name"] = "megacore"
    if set(name.partition(":")[2].split("x")) == {"1"}:  # taken for four chips otherwise
        settings["chips_per_host_bounds"] = [1, 1, 1]
    try:
        with set_meanwhile(QUIET):
            found = topologies.get_topology_desc(platform="tpu", topology_name=name, **settings)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"`{function}`: topology must be one that the TPU compiler knows, got {name!r}: "
            f"{str(error).splitlines()[0]}. Known are v4, v5e, v5p and v6e, with grids such as "
            "v5e:2x2, v5e:4x4, v5e:16x16 or v5p:2x2x1, v5p:4x4x8."
        ) from error
    return list(found.devices)


def check_libtpu(function: str) -> None:
    """Raises unless the TPU compiler is installed."""
    if find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise ImportError(
            f"`{function}`: the TPU compiler must be installed to plan for a TPU, got no libtpu. "
            "Install it with `pip install 'funcnet[plan]'`."
        )


@contextmanager
def set_meanwhile(values: dict[str, str]) -> Iterator[None]:
    """Environment variables set while it lasts, where they are not set already."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
