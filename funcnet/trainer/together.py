"""What a fit of several processes does that a fit of one need not: agree."""

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from funcnet.data.arrays import Columns, Staged, check_columns
from funcnet.distributed.agreement import Wish, digest, meet, told
from funcnet.distributed.arrays import is_shared
from funcnet.nn.model import pair_of
from funcnet.placement import Placement
from funcnet.stopping import Reason, Stopping
from funcnet.trainer import evaluation
from funcnet.trainer.callbacks import StopTraining
from funcnet.trainer.settings import Settings


def check_shared(placement: Placement | None) -> bool:
    """Whether other processes take part in a fit; raises unless all of them do, or none."""
    if placement is None or not is_shared(placement.mesh):
        return False
    taking_part = {device.process_index for device in placement.mesh.devices.flat}
    if len(taking_part) < jax.process_count():
        raise ValueError(
            "`fit`: a placement must be over the devices of all processes, or of one, got devices "
            f"of {len(taking_part)} of {jax.process_count()} processes. Start fewer processes."
        )
    return True


def facts_of(settings: Settings, columns: Columns | None, validation: Any) -> dict[str, str]:
    """What must be the same in all processes that train together, in words."""
    names = ("epochs", "steps", "batch_size", "shuffle", "seed", "limits")
    facts = {name: told(getattr(settings, name)) for name in names}
    if settings.stopping is not None:
        facts["stopping"] = rule_of(settings.stopping)
    if settings.state is not None:
        facts["state"] = f"of step {int(settings.state.step)}, {digest(settings.state)}"
    if settings.start is not None:
        facts["start"] = digest(pair_of("fit", settings.start))
    if columns is not None:
        facts["data"] = digest(columns)
    if evaluation.is_batches(validation):
        validation = "a stream"
    if isinstance(validation, tuple | list | Staged):
        facts["validation"] = digest(check_columns("fit(validation=...)", validation))
    else:
        facts["validation"] = told(validation)
    return facts


def rule_of(stopping: Stopping) -> str:
    """A rule for stopping, with a checksum of how it decides."""
    with jax.disable_jit(False):  # where all else runs eagerly, it is the same rule
        rule = str(jax.make_jaxpr(stopping.update)(0.0, stopping.init()))
    return f"{stopping.monitor!r}, {stopping.mode}, of checksum {zlib.crc32(rule.encode()):08x}"


class Together:
    """The process's wish to stop and its errors, kept until all processes meet.

    In a fit of one process nothing is kept, and nobody met.

    Args:
        shared: whether other processes take part.
    """

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.trouble: Exception | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds back an error that the other processes may not have."""
        try:
            yield
        except Exception as error:
            if not self.shared:
                raise
            self.trouble = self.trouble or error

    def meet(
        self,
        at: Callable[[], str],
        pressed: threading.Event | None = None,
        *,
        limited: bool = False,
    ) -> Reason:
        """Whether training is to stop, and why, as all processes agree.

        Args:
            at: says where this process is; the others must be there too.
            pressed: whether this process has been asked to stop.
            limited: whether it has come to a limit.

        Returns:
            `GOING_ON`, `LIMIT` or `INTERRUPTED`.

        Raises:
            StopTraining: some process's callback has raised it.
            RuntimeError: another process has met an error; its own is raised as it is.
        """
        asked = pressed is not None and pressed.is_set()
        if not self.shared:
            return REASONS[wish_of(None, asked, limited)[0]]
        own, self.trouble = self.trouble, None
        agreed = meet("fit", at(), *wish_of(own, asked, limited))
        if agreed.wish == Wish.FAIL:
            raise own or RuntimeError(
                f"`fit`: every process must go on, got an error in process {agreed.process}: "
                f"{agreed.words.rstrip('.')}. Mend it there."
            )
        if agreed.wish == Wish.STOP:
            raise StopTraining(agreed.words)
        return REASONS[agreed.wish]


REASONS = {
    Wish.GO_ON: Reason.GOING_ON,
    Wish.LIMIT: Reason.LIMIT,
    Wish.INTERRUPT: Reason.INTERRUPTED,
}
"""What training stops for by the wish of one process."""


def wish_of(trouble: Exception | None, asked: bool, limited: bool) -> tuple[Wish, str]:
    """What a process wants of all, and why."""
    if isinstance(trouble, StopTraining):
        return Wish.STOP, str(trouble)
    if trouble is not None:
        return Wish.FAIL, f"{type(trouble).__name__}: {trouble}"
    if asked:
        return Wish.INTERRUPT, ""
    return Wish.LIMIT if limited else Wish.GO_ON, ""
