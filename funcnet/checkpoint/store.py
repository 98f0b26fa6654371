"""Where a run saves its steps: one at a time, whole or not at all, in a thread of its own."""

import contextlib
import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax

from funcnet import errors, tree
from funcnet.checkpoint import arrays, descriptions, files, leaves, processes, reading
from funcnet.checkpoint import manifest as manifests
from funcnet.checkpoint.failures import NotSavedError
from funcnet.checkpoint.manifest import Manifest
from funcnet.checkpoint.reading import Restored
from funcnet.types import PyTree

OPENED = itertools.count()
"""Numbers the stores of a process; all processes of a program open them in the same order."""


class Store:
    """A directory in which steps are saved, and from which they are restored.

    A step is written under a hidden name, brought to the disk with a manifest that has the SHA-256
    of every file of it, and only then renamed. Whenever the process ends, what is listed is whole.
    With several processes, all open the store and call the same methods.

    Args:
        directory: where; made if it is not there. One store at a time saves in it.
        keep: how many of the newest steps are kept.
        keep_best: how many more are kept, those with the best `metric`.
        mode: `"min"` or `"max"`, the metric that is better.
        asynchronous: whether `save` returns once the arrays have been copied, and a thread writes
            them.

    Raises:
        TypeError, ValueError: an argument is wrong.
        NotSavedError: the directory can't be made, or another store has it.

    Example:
        >>> import funcnet as fn, jax, jax.numpy as jnp, tempfile
        >>> directory = tempfile.mkdtemp()
        >>> tree = {"params": {"w": jnp.arange(3.0)}, "key": jax.random.key(0)}
        >>> with fn.checkpoint.Store(directory, keep=2) as store:
        ...     for step in (10, 20, 30):
        ...         store.save(step, tree, {"batch_size": 32})
        >>> fn.checkpoint.steps(directory)
        [20, 30]
        >>> fn.checkpoint.restore(directory, tree).tree["params"]["w"].tolist()
        [0.0, 1.0, 2.0]
    """

    def __init__(
        self,
        directory: Any,
        *,
        keep: int = 2,
        keep_best: int = 0,
        mode: Literal["min", "max"] = "min",
        asynchronous: bool = True,
    ) -> None:
        check_kept("Store", keep, keep_best)
        if mode not in ("min", "max"):
            raise ValueError(
                f"`Store`: mode must be 'min' or 'max', got {mode!r}. "
                f"{errors.did_you_mean(str(mode), ('min', 'max'))}"
            )
        self.directory = files.as_directory("Store", directory)
        self.keep, self.keep_best, self.mode = keep, keep_best, mode
        self.asynchronous = asynchronous
        self.number, self.saves = next(OPENED), itertools.count()
        self.pending: tuple[int, Future[None]] | None = None
        self.lock: Any = None
        error = attempt(self.take) if processes.first() else None
        if not processes.agree(error is None):
            raise error or NotSavedError(
                f"`Store`: the first process must be able to save in {self.directory}, but it is "
                "not. Its own error says why."
            )
        self.thread = ThreadPoolExecutor(1, "funcnet-checkpoint")

    def take(self) -> None:
        """Makes and cleans the directory, once it has the lock on it."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = files.lock(self.directory)
            if lock is not None:
                files.clean(self.directory)
        except OSError as error:
            raise NotSavedError(
                f"`Store`: {self.directory} must be a folder that can be written to, got: {error}. "
                "Choose another, or see to its permissions."
            ) from error
        if lock is None:
            raise NotSavedError(
                f"`Store`: one store at a time can save in {self.directory}, but another has it "
                "open. Close it, or wait for the end of the run that has it."
            )
        self.lock = lock

    def save(
        self,
        step: int,
        tree: PyTree,
        description: Mapping[str, Any] | None = None,
        metric: Any = None,
    ) -> None:
        """Saves a tree as a step, in place of what was saved as that step before.

        When it returns, the arrays may change or be donated. A save that is still being written is
        waited for first, so that there is one at a time.

        Args:
            step: its number.
            tree: any pytree of arrays, keys, and Python's bools, ints, floats and strings.
            description: what a later run must agree with: names and values that JSON has.
            metric: the number that `keep_best` judges the step by; NaN is never best.

        Raises:
            TypeError, ValueError: an argument is wrong; nothing is written.
            NotSavedError: this step, or with `asynchronous` the one before, could not be written.
        """
        manifest = drafted(step, tree, description, metric)
        self.check_open()
        self.wait()
        save = next(self.saves)
        name = f".saving-{manifest.step:012d}-{self.number % 2**16:04x}{save % 2**16:04x}"
        draft = self.directory / name  # the same in every process, and another for each save
        written = begun(draft, values_of(manifest, tree))
        job = self.thread.submit(self.commit, f"{self.number}/{save}", draft, manifest, written)
        self.pending = manifest.step, job
        if not self.asynchronous:
            self.wait()

    def commit(
        self, name: str, draft: Path, manifest: Manifest, written: Callable[[], None]
    ) -> None:
        """Makes a step of a draft once every process has written its part; runs in the thread."""
        final = self.directory / files.step_name(manifest.step)
        error = attempt(lambda: write_part(draft, written))
        processes.barrier(f"{name}/written")
        if processes.first():
            error = error or attempt(lambda: self.publish(draft, final, manifest))
            if error is not None:
                attempt(lambda: files.discard(draft, manifest.step))
        processes.barrier(f"{name}/published")
        if error is None and not final.is_dir():
            error = NotSavedError("another process could not write its part")
        if error is not None:
            files.LOG.error("step %d of %s is not saved: %s", manifest.step, self.directory, error)
            raise error

    def publish(self, draft: Path, final: Path, manifest: Manifest) -> None:
        """Seals a draft, gives it its name, and takes away what is not kept any more."""
        check_parts(draft)
        sealed = dataclasses.replace(manifest, files=files.seal(draft))
        with files.whole(draft / manifests.NAME) as path:
            path.write_bytes(manifests.to_bytes(sealed))
        files.put(draft, final, manifest.step)
        try:
            self.prune()
        except OSError as error:
            files.LOG.warning("old steps of %s can't be deleted: %s", self.directory, error)

    def prune(self) -> None:
        """Deletes the steps that are neither among the newest nor among the best."""
        metrics = {
            step: reading.look(self.directory, step).metric
            for step in reading.steps(self.directory)
        }
        sign = 1 if self.mode == "min" else -1
        judged = [
            (sign * metric, step)
            for step, metric in metrics.items()
            if metric is not None and not math.isnan(metric)
        ]
        best = {step for _, step in sorted(judged)[: self.keep_best]}
        for step in sorted(set(metrics) - best - set(sorted(metrics)[-self.keep :])):
            files.discard(self.directory / files.step_name(step), step)

    def wait(self) -> None:
        """Waits until what was given to `save` is on the disk.

        Raises:
            NotSavedError: it could not be written; what was saved before is as it was.
        """
        if self.pending is None:
            return
        step, job = self.pending
        try:
            job.result()
        except Exception as error:
            raise NotSavedError(
                f"`save`: step {step} must be written to {self.directory}, got: {error}. What was "
                f"saved before is as it was: {words_of(reading.steps(self.directory))}. See that "
                "the disk has room and the folder its permissions, and save again."
            ) from error
        finally:
            if job.done():
                self.pending = None

    def steps(self) -> list[int]:
        """The steps that are whole, oldest first; see `fn.checkpoint.steps`."""
        return reading.steps(self.directory)

    def restore(
        self,
        like: PyTree,
        *,
        step: int | None = None,
        description: Mapping[str, Any] | None = None,
        accept_changes: Sequence[str] = (),
    ) -> Restored:
        """The newest whole step as a tree like the one given; see `fn.checkpoint.restore`."""
        self.wait()
        return reading.restore(
            self.directory,
            like,
            step=step,
            description=description,
            accept_changes=accept_changes,
        )

    def close(self) -> None:
        """Waits for what is being written, and lets another store save here.

        Raises:
            NotSavedError: it could not be written.
        """
        try:
            self.wait()
        finally:
            self.thread.shutdown()
            if self.lock is not None:
                self.lock.close()

    def check_open(self) -> None:
        """Raises unless the store can still save."""
        if self.lock is not None and self.lock.closed:
            raise ValueError(
                f"`save`: the store of {self.directory} must be open, got one that was closed. "
                "Open another."
            )

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(NotSavedError):  # it is in the log; what came first is raised
            self.close()


def check_kept(function: str, keep: Any, keep_best: Any) -> None:
    """Raises unless these are numbers of steps to keep."""
    errors.positive(function, keep=keep)
    if keep_best != 0 or isinstance(keep_best, bool):
        errors.positive(function, keep_best=keep_best)


def drafted(step: Any, tree: PyTree, description: Any, metric: Any) -> Manifest:
    """The manifest of what is to be saved, before there are files."""
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if isinstance(step, bool) or not 0 <= number < manifests.MOST_STEPS:
        raise ValueError(
            f"`save`: step must be a whole number from 0 on, got {errors.describe(step)}. "
            "Give the state's, `int(state.step)`."
        )
    try:
        judged = None if metric is None else float(metric)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`save`: metric must be a number, got {errors.describe(metric)}. "
            "Give the monitored value, or leave it out."
        ) from error
    said = descriptions.plain("save", description)
    return Manifest(number, leaves.leaves_of("save", tree), said, judged, {})


def values_of(manifest: Manifest, saved: PyTree) -> dict[str, Any]:
    """The arrays to be written, by the name of their folder; keys as their data."""
    by_path = tree.paths(saved)
    return {
        folder: jax.random.key_data(by_path[path]) if leaf.kind != leaves.ARRAY else by_path[path]
        for path, (folder, leaf) in manifests.stored(manifest).items()
    }


def begun(draft: Path, values: Mapping[str, Any]) -> Callable[[], None]:
    """Begins to write a draft; the function that waits for the end, or raises what went wrong.

    An error comes out in the thread, where every process waits for the others.
    """
    try:
        draft.mkdir(exist_ok=True)
        return arrays.begin(draft, values)
    except (OSError, ValueError) as error:
        return partial(fail, error)


def fail(error: Exception) -> None:
    """Raises an error."""
    raise error


def attempt(work: Callable[[], None]) -> Exception | None:
    """The error that some work ends in, or None."""
    try:
        work()
    except Exception as error:
        return error
    return None


def write_part(draft: Path, written: Callable[[], None]) -> None:
    """Waits for this process's part of a draft, and leaves word for the first one."""
    written()
    if processes.several():
        (draft / f"part-{jax.process_index()}").touch()


def check_parts(draft: Path) -> None:
    """Raises unless every process has written its part; takes away the words that they left."""
    if not processes.several():
        return
    parts = [draft / f"part-{index}" for index in range(jax.process_count())]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise NotSavedError(f"other processes could not write: {', '.join(missing)}")
    for part in parts:
        part.unlink()


def words_of(steps: Sequence[int]) -> str:
    """Steps in words."""
    return f"step {', '.join(map(str, steps))}" if steps else "no step"
