"""How a process joins the others of its run."""

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import jax
from jax.extend.backend import register_backend_factory

from funcnet import errors

COORDINATOR, PROCESSES, PROCESS = (
    f"FUNCNET_{name}" for name in ("COORDINATOR", "PROCESSES", "PROCESS")
)
"""Environment variables by which the launcher tells a process of the others."""

NO_CLUSTER = "coordinator_address should be defined"
"""What JAX says where neither arguments nor a cluster tell of other processes."""

TOO_LATE = "must be called before"
"""What JAX says once its devices are in use."""


def initialize(
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    devices: Sequence[int] | None = None,
    timeout: int = 300,
) -> None:
    """Joins this process to the others of its run, so that `jax.devices()` are those of all.

    Call it first in the script, before JAX is used. Who the others are is said by the arguments;
    else by `python -m funcnet.distributed.launch`; else by the cluster, where JAX knows it: SLURM,
    Open MPI, Kubernetes, Cloud TPU. Where nothing says that there are others, there are none, and
    nothing is done: the same script runs alone. A second call does nothing.

    An error that nobody catches ends its process at once, without waiting for the others.

    Args:
        coordinator: address of process 0, `"10.0.0.1:1234"`; the port must be free there. On a
            loopback address nothing listens beyond this machine.
        processes: how many there are.
        process: which one this is, from 0.
        devices: which of this machine's GPUs are this process's; all, or what the cluster says,
            unless given.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: some of coordinator, processes and process are given, but not all; or they can't
            be right.
        RuntimeError: JAX has been used already.

    Example:
        >>> import funcnet.distributed
        >>> funcnet.distributed.initialize(coordinator="10.0.0.1", processes=2, process=0)
        Traceback (most recent call last):
        ValueError: `initialize`: coordinator must be an address with a port, got '10.0.0.1'. \
Say '10.0.0.1:1234'.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    check_given(given)
    if Joined.once or jax.distributed.is_initialized():
        return
    if coordinator is None:
        coordinator, processes, process = told_by_launcher()
    known = coordinator is not None
    if "JAX_ENABLE_PREEMPTION_SERVICE" not in os.environ:
        # it would take SIGTERM for itself, and the process would no longer end by it
        jax.config.update("jax_enable_preemption_service", False)
    local = is_loopback(coordinator)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            devices,
            cluster_detection_method="deactivate" if known else None,
            coordinator_bind_address=coordinator if local else None,
            initialization_timeout=timeout,
        )
    except ValueError as error:
        if known or NO_CLUSTER not in str(error):
            raise
    except RuntimeError as error:
        if TOO_LATE not in str(error):
            raise
        raise RuntimeError(
            "`initialize`: it must be called before JAX is used, got a process whose devices are "
            "in use. Call it first in the script, before any array is made."
        ) from error
    else:
        if local:
            collectives_on_loopback()
        leave_at_errors()
    Joined.once = True


class Joined:
    """Whether `initialize` has done its work in this process."""

    once = False


def check_given(given: dict[str, Any]) -> None:
    """Raises unless all of the arguments are given and right, or none."""
    without = [name for name, value in given.items() if value is None]
    if len(without) == len(given):
        return
    if without:
        raise ValueError(
            "`initialize`: coordinator, processes and process must be given together, got no "
            f"{', '.join(without)}. Give all three, or none to take what the cluster says."
        )
    errors.positive("initialize", processes=given["processes"])
    process, processes, coordinator = given["process"], given["processes"], given["coordinator"]
    if isinstance(process, bool) or not isinstance(process, int) or not 0 <= process < processes:
        raise ValueError(
            f"`initialize`: process must lie in 0 .. {processes - 1}, got {process!r}. "
            "Count from 0."
        )
    if not isinstance(coordinator, str) or not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(
            f"`initialize`: coordinator must be an address with a port, got {coordinator!r}. "
            "Say '10.0.0.1:1234'."
        )


def told_by_launcher() -> tuple[str | None, int | None, int | None]:
    """Coordinator, number of processes and which one this is, if the launcher has started it."""
    if COORDINATOR not in os.environ:
        return None, None, None
    return os.environ[COORDINATOR], int(os.environ[PROCESSES]), int(os.environ[PROCESS])


def is_loopback(coordinator: str | None) -> bool:
    """Whether an address can be reached from this machine alone."""
    host = (coordinator or "").rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def collectives_on_loopback() -> None:
    """Has CPU devices listen for each other on loopback, not where the host's name points."""
    from jax._src import distributed, xla_bridge  # JAX has no public way to say where
    from jax._src.lib import _jax  # type: ignore[attr-defined] # meant for JAX alone

    def make_client() -> Any:
        collectives = _jax.make_gloo_tcp_collectives(
            distributed_client=distributed.global_state.client, hostname="127.0.0.1"
        )
        return xla_bridge.make_cpu_client(collectives=collectives)

    register_backend_factory("cpu", make_client, priority=0, fail_quietly=False)


def leave_at_errors() -> None:
    """Ends the process at an error that nobody caught, once it has been shown.

    JAX would wait at its exit for the others, who wait for this process in a computation.
    """
    shown = sys.excepthook

    def leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        shown(kind, error, trace)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(130 if issubclass(kind, KeyboardInterrupt) else 1)

    sys.excepthook = leave


def is_main() -> bool:
    """Whether this process is the one to print and to write files: process 0.

    Example:
        >>> import funcnet.distributed
        >>> funcnet.distributed.is_main()
        True
    """
    return jax.process_index() == 0
