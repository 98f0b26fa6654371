"""What several processes of one program agree on; with one process there is nothing to do."""

import jax
import numpy as np

HOUR = 3_600_000
"""Milliseconds that a process waits for the others, who may still be writing."""


def first() -> bool:
    """Whether this is the process that writes what there is to be one of."""
    return bool(jax.process_index() == 0)


def several() -> bool:
    """Whether there are others."""
    return bool(jax.process_count() > 1)


def barrier(name: str) -> None:
    """Waits until all processes are here; on the host alone, so that a thread may.

    Args:
        name: the same in each process, and another each time.
    """
    if several():
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=f"funcnet/{name}", timeout_ms=HOUR)


def agree(good: bool) -> bool:
    """Whether all processes say so; to be called by the thread that trains, in each of them."""
    if not several():
        return good
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(good))))
