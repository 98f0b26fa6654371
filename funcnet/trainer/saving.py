"""What a fit saves as it goes, and how another goes on from there."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from funcnet import errors, tree
from funcnet.data.arrays import Columns, Staged, check_columns
from funcnet.distributed.arrays import gathered, put
from funcnet.nn.model import pair_of
from funcnet.stopping import Stopping
from funcnet.trainer import evaluation
from funcnet.trainer.feeds import StreamFeed
from funcnet.trainer.settings import Settings
from funcnet.trainer.together import rule_of
from funcnet.training.guarding import calmed
from funcnet.types import PyTree

if TYPE_CHECKING:
    from funcnet.checkpoint import Policy
    from funcnet.trainer.fitting import Loop

REST_BYTES = 2**31
"""The most bytes of what is saved beside the states: losses, history, callbacks' memories."""


LOG = logging.getLogger("funcnet.trainer")


def unknown_part() -> Any:
    """Stands for what is saved beside the states."""
    from funcnet.checkpoint import unknown

    return unknown(at_most=REST_BYTES)


def policy_of(checkpoint: Any) -> "Policy":
    """When and where to save: `checkpoint` itself, or after each epoch in that directory."""
    from funcnet.checkpoint import Policy, every  # it stands on Orbax, which not all need

    return checkpoint if isinstance(checkpoint, Policy) else every(checkpoint)


class Saver:
    """Saves a fit where and when a policy says.

    Args:
        policy: from `fn.checkpoint.every`.
        stopping: whose monitored value tells which steps are the best.
        description: what a fit that goes on must have in common with this one.
        accept_changes: names in it that may differ.
        shared: whether other processes take part.
    """

    def __init__(
        self,
        policy: "Policy",
        stopping: Stopping,
        description: Mapping[str, Any],
        accept_changes: tuple[str, ...],
        shared: bool,
    ) -> None:
        self.policy, self.description, self.shared = policy, description, shared
        self.monitor, self.accept_changes = stopping.monitor, accept_changes
        self.store = policy.open(stopping.mode)
        self.saved: tuple[int, bool] | None = None
        self.gone_back_to: Any = None
        self.mark = self.now(0, 0)

    def now(self, step: int, epoch: int) -> Any:
        """How far the fit has come."""
        from funcnet.checkpoint import Mark

        return Mark(step, epoch, time.monotonic())

    def take_up(self, loop: "Loop") -> bool:
        """Whether something has been saved here before, and the fit been set to it."""
        from funcnet.checkpoint import NothingSavedError

        like = {
            "state": loop.state,
            "best": loop.state,
            "stop_state": loop.stop_state,
            "rest": unknown_part(),
        }
        with suppress(NothingSavedError):
            found = self.store.restore(
                like, description=self.description, accept_changes=self.accept_changes
            )
            put_back(loop, found.tree)
            self.saved = loop.step, loop.found is None
            self.mark = self.now(loop.step, loop.epochs)
            return True
        return False

    def go_back(self, loop: "Loop") -> bool:
        """Sets a fit's params and all that belongs to them to what was saved last, once."""
        from funcnet.checkpoint import NothingSavedError

        if self.gone_back_to == (self.saved, loop.epochs):
            return False
        like = {"state": loop.state} | dict.fromkeys(("best", "stop_state", "rest"), unknown_part())
        try:
            found = self.store.restore(like).tree["state"]
        except NothingSavedError:
            return False
        state = loop.programs.copy()(found)
        opt_state = calmed(state.opt_state, now=loop.state.opt_state)
        loop.state = state._replace(step=loop.state.step, opt_state=opt_state)
        self.gone_back_to = self.saved, loop.epochs
        LOG.warning("step %d: gone back to the params of step %d", loop.step, int(found.step))
        return True

    def steps_left(self, step: int) -> int:
        """The most steps to take before it may be time to save."""
        left = self.policy.steps_left(step)
        return np.iinfo(np.int32).max if left is None else left

    def due(self, loop: "Loop") -> bool:
        """Whether it is time to save, as all processes see it."""
        due = self.policy.due(self.mark, self.now(loop.step, loop.epochs))
        if self.shared and self.policy.minutes is not None:
            due = bool(multihost_utils.broadcast_one_to_all(np.int32(due)))
        return due

    def failed(self, error: OSError) -> bool:
        """Whether an error is that a step could not be saved."""
        from funcnet.checkpoint import NotSavedError

        return isinstance(error, NotSavedError)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.store.__exit__(kind, error, trace)

    def save(self, loop: "Loop", closed: bool) -> None:
        """Saves the fit as it stands, `closed` if its last epoch has been evaluated."""
        if self.saved == (loop.step, closed):
            return
        line = loop.history.get(self.monitor)
        metric = line[-1] if closed and line and not np.ndim(line[-1]) else None
        self.store.save(loop.step, carried(loop), self.description, metric)
        self.saved, self.mark = (loop.step, closed), self.now(loop.step, loop.epochs)


def carried(loop: "Loop") -> PyTree:
    """All that a fit carries from chunk to chunk."""
    named = {
        callback.name: memory
        for callback, memory in zip(loop.callbacks, loop.memories, strict=True)
        if callback.name
    }
    return {
        "state": loop.state,
        "best": loop.state if loop.best is None else loop.best,
        "stop_state": loop.stop_state,
        "rest": {
            "best_epoch": -1 if loop.best_epoch is None else loop.best_epoch,
            "found": {} if loop.found is None else gathered(loop.found),
            "history": {name: np.stack(values) for name, values in loop.history.items()},
            "losses": np.concatenate([np.zeros(0, np.float32), *loop.losses]),
            "callbacks": named,
            "place": written(getattr(loop.feed, "place", None)),
        },
    }


def put_back(loop: "Loop", saved: Mapping[str, Any]) -> None:
    """Sets a fit to what another, or itself, carried."""
    rest: Mapping[str, Any] = saved["rest"]
    copy = loop.programs.copy()  # into buffers that the steps may take over
    loop.state = copy(saved["state"])
    loop.step = int(loop.state.step)
    loop.stop_state = saved["stop_state"]
    if rest["best_epoch"] >= 0:
        loop.best, loop.best_epoch = copy(saved["best"]), rest["best_epoch"]
    history = within(rest, "history")
    loop.history = {
        name: history[name].tolist() if history[name].ndim == 1 else list(history[name])
        for name in loop.names
        if name in history
    }
    loop.losses = [rest["losses"]]
    if found := within(rest, "found"):
        loop.found = filled(loop, found)
    if isinstance(loop.feed, StreamFeed):
        loop.feed.place = read(rest["place"])
    for i, callback in enumerate(loop.callbacks):
        if callback.name:
            memory = within(rest, f"callbacks/{callback.name}")
            loop.memories[i] = remembered(callback.name, loop.memories[i], memory)


def within(rest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What stands below a name, by the rest of its path; by "" what stands there itself."""
    below = {path[len(name) + 1 :]: v for path, v in rest.items() if path.startswith(f"{name}/")}
    return below | ({"": rest[name]} if name in rest else {})


def remembered(name: str, new: PyTree, saved: Mapping[str, Any]) -> PyTree:
    """A callback's memory, of the structure that its `init` gives; its own if none was saved."""
    if not saved:
        return new
    if (paths := set(tree.paths(new))) != set(saved):
        raise ValueError(
            f"`fit`: the memory of callback {name!r} must have the leaves that were saved, got "
            f"{sorted(paths)}, saved with {sorted(saved)}. Give the callback another name."
        )
    return jax.tree.unflatten(jax.tree.structure(new), [saved[path] for path in tree.paths(new)])


def filled(loop: "Loop", saved: Mapping[str, Any]) -> PyTree:
    """The accumulators of an epoch that was begun."""
    shapes = loop.programs.trained(loop.state, loop.like_batch)
    named, before = (
        {path.split("/")[0] for path in found} for found in (tree.paths(shapes), saved)
    )
    if new := sorted(named - before):
        raise ValueError(
            "`fit`: an epoch that was begun must go on with the metrics that it began with, got "
            f"{', '.join(new)} as well. Add them once the epoch is complete."
        )
    leaves = [jnp.asarray(saved[path]) for path in tree.paths(shapes)]
    placement = loop.programs.placement
    found = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return put(found, None if placement is None else placement.whole)


def description_of(
    settings: Settings,
    key: jax.Array,
    data: Columns,
    validation: Any,
    stopping: Stopping,
) -> dict[str, Any]:
    """What a fit that goes on must have in common with the one that was saved."""
    found = {
        "batch_size": settings.batch_size,
        "shuffle": settings.shuffle,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "stopping": rule_of(stopping),
        "data": fingerprint(data),
        "validation": told(validation),
    }
    if settings.state is not None:
        found["state"] = fingerprint(settings.state)
    if settings.start is not None:
        found["start"] = fingerprint(pair_of("fit", settings.start))
    return found


def told(validation: Any) -> Any:
    """Validation data, or the fraction that is held out, in few words."""
    if validation is None or isinstance(validation, float):
        return validation
    if evaluation.is_batches(validation):
        return "a stream"
    columns = validation if isinstance(validation, Staged) else tuple(validation)
    return fingerprint(check_columns("fit(validation=...)", columns))


WHOLE = 2**30
"""Bytes of an array up to which all of them make its digest; else as many, evenly spaced."""


def fingerprint(arrays: PyTree) -> str:
    """Shapes and dtypes of arrays, and the beginning of a SHA-256 of their values."""
    sums = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        if not np.ndim(leaf):
            sums.update(np.asarray(plain(leaf)).tobytes())
            continue
        rows = max(1, WHOLE * len(leaf) // max(tree.nbytes(leaf), 1))
        every = max(1, -(-len(leaf) // rows))
        sums.update(np.ascontiguousarray(plain(leaf[::every])).tobytes())
    shapes = ", ".join(errors.describe(leaf) for leaf in jax.tree.leaves(tree.spec(arrays)))
    return f"{shapes} of digest {sums.hexdigest()[:16]}"


def plain(leaf: Any) -> np.ndarray:
    """An array on the host; a key as its data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(gathered(leaf))


def check_resumable(feed: StreamFeed, shared: bool) -> None:
    """Raises where nobody could find the place in the data again."""
    if shared or not feed.can_be_found:
        got = "a stream of several processes" if shared else errors.describe(feed.batches)
        raise TypeError(
            f"`fit`: checkpoint needs data whose place can be found again, got {got}. Give arrays, "
            "which may be memory-mapped (`fn.data.staged`), or in one process a dataset of Grain's."
        )


def written(place: Any) -> str:
    """A place in a stream as text."""
    if isinstance(place, bytes):
        return f"bytes {place.hex()}"
    return f"json {json.dumps(place)}"


def read(text: str) -> Any:
    """The place that was written."""
    kind, _, rest = text.partition(" ")
    return bytes.fromhex(rest) if kind == "bytes" else json.loads(rest)
