"""A step read back: looked at, compared with what is wanted, checked, and only then loaded."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.checkpoint import arrays, descriptions, files, leaves, processes
from funcnet.checkpoint import manifest as manifests
from funcnet.checkpoint.failures import DamagedError, MismatchError, NothingSavedError
from funcnet.checkpoint.leaves import PYTHON, Leaf
from funcnet.checkpoint.manifest import Manifest
from funcnet.types import PyTree

T = TypeVar("T")


class Restored(NamedTuple):
    """What a step held.

    Attributes:
        step: its number.
        tree: the tree, of the structure that was asked for.
        description: what was saved beside it.
    """

    step: int
    tree: PyTree
    description: Mapping[str, Any]


@dataclass(frozen=True)
class Unknown:
    """Stands for a part of a tree whose names and shapes are not known; made by `unknown`."""

    at_most: int


def unknown(*, at_most: int = 2**26) -> Unknown:
    """Stands in `like` for a part of the tree whose names and shapes are not known beforehand.

    That part comes back as a dict from paths to values: NumPy arrays, keys, Python's own.

    Args:
        at_most: bytes that it may have; more is refused before anything is allocated.

    Example:
        >>> import funcnet as fn, jax.numpy as jnp, numpy as np, tempfile
        >>> directory = tempfile.mkdtemp()
        >>> tree = {"params": jnp.ones(2), "history": {"loss": np.array([3.0, 2.0])}}
        >>> with fn.checkpoint.Store(directory) as store:
        ...     store.save(1, tree)
        >>> like = {"params": jnp.zeros(2), "history": fn.checkpoint.unknown()}
        >>> fn.checkpoint.restore(directory, like).tree["history"]
        {'loss': array([3., 2.])}
    """
    errors.positive("unknown", at_most=at_most)
    return Unknown(at_most)


def steps(directory: Any) -> list[int]:
    """The steps of a directory that are whole, oldest first.

    Files are counted and measured, not read: `restore` does that.

    Args:
        directory: where a `fn.checkpoint.Store` has saved.
    """
    place = files.as_directory("steps", directory)
    return sorted(step for step in files.steps_in(place) if is_whole(place, step))


def is_whole(directory: Path, step: int) -> bool:
    """Whether a step has its manifest, and all files in their sizes."""
    try:
        look(directory, step)
    except (DamagedError, OSError):
        return False
    return True


def look(directory: Path, step: int) -> Manifest:
    """The manifest of a step, once all its files are there in their sizes.

    Raises:
        DamagedError: they are not.
    """
    place = directory / files.step_name(step)
    if place.is_symlink():
        raise DamagedError("it is a link to another place")
    found = manifests.from_bytes(files.read_bounded(place / manifests.NAME, manifests.MOST_BYTES))
    if found.step != step:
        raise DamagedError(f"the manifest is that of step {found.step}")
    there = files.contents(place, at_most=1000 + 3 * len(found.files))
    for name, (size, _) in found.files.items():
        if name not in there:
            raise DamagedError(f"{name} is missing")
        if there[name] != size:
            raise DamagedError(f"{name} has {there[name]} bytes, expected {size}")
    return found


def restore(
    directory: Any,
    like: PyTree,
    *,
    step: int | None = None,
    description: Mapping[str, Any] | None = None,
    accept_changes: Sequence[str] = (),
) -> Restored:
    """The newest step that is whole, every bit of it checked, as a tree like the one given.

    A step that is damaged is named in the log, and the one before it is taken. No dtype or shape is
    ever changed. Arrays come to live where those of `like` do, wherever they lived before.

    Args:
        directory: where a `fn.checkpoint.Store` has saved.
        like: a tree of arrays, or of `jax.ShapeDtypeStruct`s with shardings, whose values do not
            matter; `fn.checkpoint.unknown()` stands for a part that is not known.
        step: which one, the newest unless given; no other is taken in its place.
        description: what must be as it was when the tree was saved; not compared unless given.
        accept_changes: names in the description that may differ.

    Raises:
        NothingSavedError: there is no step.
        DamagedError: the steps that there are, or the one asked for, are damaged.
        MismatchError: tree or description differ from what was saved; all differences are named.

    Example:
        >>> import funcnet as fn, jax.numpy as jnp, tempfile
        >>> directory = tempfile.mkdtemp()
        >>> with fn.checkpoint.Store(directory) as store:
        ...     store.save(7, {"w": jnp.arange(3)}, {"batch_size": 32})
        >>> found = fn.checkpoint.restore(directory, {"w": jnp.zeros(3, jnp.int32)})
        >>> found.step, found.tree["w"].tolist(), found.description
        (7, [0, 1, 2], {'batch_size': 32})
    """
    place = files.as_directory("restore", directory)
    descriptions.check_accepted(accept_changes)

    def attempt(number: int) -> Restored:
        manifest = look(place, number)
        plan, wrong = compare(like, manifest)
        if description is not None:
            now = descriptions.plain("restore", description)
            wrong += descriptions.differences(manifest.description, now, accept_changes)
        if wrong:
            raise MismatchError(
                f"`restore`: step {number} of {place} must hold what is asked for, got\n  "
                + "\n  ".join(wrong)
                + "\nAsk for what was saved, name what may differ of the description in "
                "accept_changes, or take params alone with `fn.checkpoint.transfer`."
            )
        values = load(place / files.step_name(number), manifest, plan)
        return Restored(number, assemble(like, values), manifest.description)

    return newest("restore", place, step, attempt)


def newest(function: str, place: Path, step: int | None, attempt: Callable[[int], T]) -> T:
    """What `attempt` makes of the newest step that is not damaged, or of the one asked for."""
    there = files.steps_in(place)
    if not there:
        raise NothingSavedError(
            f"`{function}`: a step must have been saved in {place}, got none. "
            "Check the path, or save one."
        )
    if step is not None and step not in there:
        raise ValueError(
            f"`{function}`: step must be one of those saved in {place}, got {step!r}; there are "
            f"{', '.join(map(str, reversed(there)))}. Leave it out to take the newest."
        )
    reasons = []
    for number in there if step is None else [step]:
        reason, found = tried(attempt, number)
        if found is not None:
            return found
        files.LOG.warning("step %d of %s can't be used: %s", number, place, reason)
        reasons.append(f"step {number}: {reason}")
    rest = [] if step is None else [number for number in there if number != step]
    others = [number for number in rest if is_whole(place, number)]
    raise DamagedError(
        f"`{function}`: what was saved in {place} must be as it was written, got\n  "
        + "\n  ".join(reasons)
        + (
            f"\nTake another step, {others[0]} say."
            if others
            else "\nTake a copy of it from elsewhere, or begin anew in another directory."
        )
    )


def tried(attempt: Callable[[int], T], number: int) -> tuple[str, T | None]:
    """What an attempt gives if it succeeds in every process, or else the reason that it doesn't."""
    reason, found = "another process can't read it", None
    try:
        found = attempt(number)
    except (DamagedError, OSError) as error:
        reason = str(error)
    return reason, found if processes.agree(found is not None) else None


def compare(like: PyTree, manifest: Manifest) -> tuple[dict[str, Any], list[str]]:
    """What is to be loaded, by path with what it is to be like, and all that differs."""
    by_path = tree.paths(like)
    known = {path: value for path, value in by_path.items() if not isinstance(value, Unknown)}
    want = leaves.leaves_of("restore", known)
    plan, wrong = dict(known), []
    for path, leaf in want.items():
        saved = manifest.leaves.get(path)
        if saved is None:
            wrong.append(f"{path or 'the tree'}: missing, expected {leaf}")
        elif str(saved) != str(leaf) or saved.kind != leaf.kind:
            wrong.append(f"{path or 'the tree'}: expected {leaf}, got {saved}")
    for path, value in by_path.items():
        if isinstance(value, Unknown):
            part = {name for name in manifest.leaves if within(name, path)}
            size = sum(manifest.leaves[name].nbytes for name in part)
            if size > value.at_most:
                wrong.append(f"{path}: expected {value.at_most} bytes at most, got {size}")
            plan |= dict.fromkeys(part)
    more = [path for path in manifest.leaves if path not in plan]
    wrong += [f"{path or 'the tree'}: not expected, got {manifest.leaves[path]}" for path in more]
    return plan, wrong


def within(path: str, part: str) -> bool:
    """Whether a path lies in a part of a tree."""
    return not part or path == part or path.startswith(f"{part}/")


def load(place: Path, manifest: Manifest, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The values of leaves by path, once the files of each have been found to be theirs.

    Args:
        place: the folder of a step.
        manifest: its manifest.
        plan: the leaves that are wanted by path, each with a value that it is to be like, or None.
    """
    wanted = {path: found for path, found in manifests.stored(manifest).items() if path in plan}
    for name, leaf in wanted.values():
        check_files(place, manifest, name, leaf)
    read = arrays.read(
        place,
        {name: (leaf, sharding_for(plan[path], leaf)) for path, (name, leaf) in wanted.items()},
    )
    return {
        path: finish(leaf, read[wanted[path][0]] if path in wanted else None, plan[path])
        for path, leaf in manifest.leaves.items()
        if path in plan
    }


def check_files(place: Path, manifest: Manifest, name: str, leaf: Leaf) -> None:
    """Raises unless the files of one array are those of its header and have their digests."""
    header = f"{name}/{arrays.HEADER}"
    if header not in manifest.files:
        raise DamagedError(f"{header} is not named in the manifest")
    text = files.read_bounded(place / header, arrays.MOST_HEADER)
    promised = arrays.check_header(text, name, leaf)
    for path, size in promised.items():
        if manifest.files.get(path, (-1, ""))[0] != size:
            raise DamagedError(f"{path} must have {size} bytes, as its header says")
    for path in (header, *promised):
        if files.digest(place / path) != manifest.files[path][1]:
            raise DamagedError(f"{path} does not have the SHA-256 that the manifest names")


def sharding_for(like: Any, leaf: Leaf) -> Any:
    """Where the data of an array are to live; None for the host, and for JAX to choose."""
    if isinstance(like, jax.Array):
        sharding = like.sharding if like.committed else None
    else:
        sharding = like.sharding if isinstance(like, jax.ShapeDtypeStruct) else None
    if isinstance(sharding, jax.sharding.NamedSharding) and len(leaf.shape) > len(like.shape):
        axes = [*sharding.spec, *[None] * (len(leaf.shape) - len(sharding.spec))]
        spec = jax.sharding.PartitionSpec(*axes)
        sharding = jax.sharding.NamedSharding(sharding.mesh, spec)
    return sharding


def finish(leaf: Leaf, read: Any, like: Any) -> Any:
    """A leaf as it is wanted, of what was read of it."""
    if leaf.kind in PYTHON:
        return leaves.read_value(leaf)
    if not math.prod(leaf.shape):
        read = np.zeros(leaf.shape, jnp.dtype(leaf.dtype))
    if leaf.kind != leaves.ARRAY:
        if not isinstance(like, jax.Array) and leaf.kind not in leaves.key_dtypes():
            raise DamagedError(f"there are no keys of the kind {leaf.kind}")
        return leaves.as_keys(leaf.kind, placed(read, like, leaf), like)
    if isinstance(like, np.generic):
        return read[()]
    if like is None or isinstance(like, np.ndarray):
        return read
    return placed(read, like, leaf)


def placed(read: Any, like: Any, leaf: Leaf) -> Any:
    """An array where it is to live, in the very dtype that it was saved in."""
    if isinstance(read, jax.Array):
        return read
    sharding = sharding_for(like, leaf) if like is not None else None
    array = jax.device_put(read, sharding)
    if str(array.dtype) != leaf.dtype:
        raise MismatchError(
            f"`restore`: {leaf} can't be had while JAX's 64-bit numbers are off, got "
            f"{array.dtype}. Switch them on with `jax.config.update('jax_enable_x64', True)`."
        )
    return array


def assemble(like: PyTree, values: Mapping[str, Any]) -> PyTree:
    """A tree like the one given, of values by path."""

    def of(path: str, value: Any) -> Any:
        if not isinstance(value, Unknown):
            return values[path]
        part = {name: each for name, each in values.items() if within(name, path)}
        return {name[len(path) :].lstrip("/"): each for name, each in part.items()}

    by_path = tree.paths(like)
    found = [of(path, value) for path, value in by_path.items()]
    return jax.tree.unflatten(jax.tree.structure(like), found)
