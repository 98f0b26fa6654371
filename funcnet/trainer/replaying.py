"""A run taken up at one of its saved steps, to see any other, or to see that it comes out again."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.distributed.arrays import gathered
from funcnet.trainer.saving import policy_of
from funcnet.types import TrainState

if TYPE_CHECKING:
    from funcnet.trainer.trainer import Trainer


@dataclass(frozen=True)
class Verified:
    """What `Trainer.verify_resume` found; true if every bit came out again.

    Attributes:
        since: the step that was replayed from, 0 for the beginning.
        step: the step at which the two were compared.
        differences: of each leaf that differs, by path, how many of its numbers do.
    """

    since: int
    step: int
    differences: dict[str, int]

    def __bool__(self) -> bool:
        return not self.differences

    def __repr__(self) -> str:
        if not self.differences:
            return f"Verified(steps {self.since} to {self.step} came out again, bit for bit)"
        leaves = ", ".join(f"{path} in {n}" for path, n in self.differences.items())
        return f"Verified(steps {self.since} to {self.step} came out otherwise: {leaves})"


def state_at(
    trainer: "Trainer", step: int, data: Any, checkpoint: Any, arguments: dict[str, Any]
) -> TrainState:
    """See `Trainer.state_at`."""
    errors.positive("state_at", step=step)
    return replay(trainer, "state_at", step, step, data, checkpoint, arguments)[1]


def verify_resume(
    trainer: "Trainer", data: Any, checkpoint: Any, steps: int, arguments: dict[str, Any]
) -> Verified:
    """See `Trainer.verify_resume`."""
    from funcnet.checkpoint import restore, unknown
    from funcnet.checkpoint import steps as saved_steps

    errors.positive("verify_resume", steps=steps)
    directory = policy_of(checkpoint).directory
    there = saved_steps(directory)
    if not there:
        raise ValueError(
            f"`verify_resume`: a step must have been saved in {directory}, got none. "
            "Check the path."
        )
    step = there[-1]
    since, found = replay(
        trainer, "verify_resume", step, max(step - steps, 0), data, checkpoint, arguments
    )
    rest = {name: unknown(at_most=2**40) for name in ("best", "stop_state", "rest")}
    saved = restore(directory, {"state": found, **rest}, step=step).tree["state"]
    return Verified(since, step, differences(saved, found))


def replay(
    trainer: "Trainer",
    function: str,
    step: int,
    since: int,
    data: Any,
    checkpoint: Any,
    arguments: dict[str, Any],
) -> tuple[int, TrainState]:
    """The state at a step, by a run from the last one saved up to `since`; and which that was.

    What was saved is not touched: the run has a directory of its own.
    """
    from funcnet.checkpoint import steps as saved_steps
    from funcnet.checkpoint.files import step_name

    directory = policy_of(checkpoint).directory
    before = max((each for each in saved_steps(directory) if each <= since), default=0)
    with tempfile.TemporaryDirectory() as place:
        if before:
            shutil.copytree(directory / step_name(before), Path(place) / step_name(before))
        settings = arguments | {"checkpoint": place, "steps": step, "epochs": None}
        if (limits := arguments.get("limits")) is not None:
            settings["limits"] = limits._replace(seconds=None, steps=None)
        last = trainer.fit(data, **settings | {"callbacks": (), "progress": False}).last
    if int(last.step) != step:
        raise ValueError(
            f"`{function}`: step must be one that the run came to, got {step}: it ended at step "
            f"{int(last.step)}. Ask for that, or for one before."
        )
    return before, last


def differences(saved: TrainState, found: TrainState) -> dict[str, int]:
    """Of each leaf that differs how many of its numbers do, to the bit."""
    counts = {
        path: int(np.sum(bits(a) != bits(b)))
        for (path, a), b in zip(tree.paths(saved).items(), jax.tree.leaves(found), strict=True)
    }
    return {path: count for path, count in counts.items() if count}


def bits(leaf: Any) -> np.ndarray:
    """The bytes of an array's numbers, one row a number."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    whole = np.atleast_1d(gathered(leaf))
    return whole.reshape(-1).view(f"V{whole.dtype.itemsize}")
