"""Params taken over from a checkpoint or a file of weights: some of them, by path, renamed."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from funcnet import errors, tree
from funcnet.checkpoint import files, leaves, reading, weights
from funcnet.checkpoint.failures import MismatchError
from funcnet.checkpoint.leaves import Leaf
from funcnet.types import Params

Rename = Mapping[str, str] | Callable[[str], str]


def transfer(
    source: Any,
    params: Params,
    *,
    take: str | Sequence[str] = "**",
    skip: str | Sequence[str] = (),
    rename: Rename | None = None,
    under: str = "params",
    step: int | None = None,
) -> Params:
    """`params` with some of its arrays taken from a checkpoint, or from a file of weights.

    What is not taken stays as it is: a new head say. Nothing is cast, cut or filled up.

    Args:
        source: the directory of a `fn.checkpoint.Store`, or a safetensors file.
        params: what to begin with; arrays that are taken come to live where those here do.
        take: path patterns of what is taken, all unless given; `*` stands for any part of a name,
            `**` for any number of names.
        skip: path patterns of what is not.
        rename: from patterns of the paths that were saved to those of `params`, such as
            `{"encoder/**": "backbone/**"}`, the first that matches counting; or a function.
        under: the part of the saved tree that holds the params; of a directory only.
        step: which one, the newest that is whole unless given.

    Raises:
        MismatchError: what is to be taken is missing, or of another shape or dtype; all are named.
        ValueError: a pattern matches nothing.
        DamagedError, NothingSavedError: as of `fn.checkpoint.restore`.

    Example:
        >>> import funcnet as fn, jax.numpy as jnp, tempfile
        >>> directory = tempfile.mkdtemp()
        >>> with fn.checkpoint.Store(directory) as store:
        ...     store.save(1, {"params": {"encoder": jnp.ones(2), "head": jnp.ones(10)}})
        >>> params = {"backbone": jnp.zeros(2), "head": jnp.zeros(3)}
        >>> found = fn.checkpoint.transfer(
        ...     directory, params, skip="head", rename={"encoder": "backbone"}
        ... )
        >>> found["backbone"].tolist(), found["head"].tolist()
        ([1.0, 1.0], [0.0, 0.0, 0.0])
    """
    leaves.leaves_of("transfer", params)
    chosen = taken(params, take, skip)
    renamed = renamer(rename)
    if weights.as_path("transfer", source).is_file():
        found = from_file(Path(source), chosen, renamed)
    else:
        found = from_directory(source, chosen, renamed, under, step)
    return reading.assemble(params, tree.paths(params) | found)


def taken(params: Params, take: str | Sequence[str], skip: str | Sequence[str]) -> dict[str, Any]:
    """The leaves that are to be taken over, by path."""
    want, but = (
        {
            p: v
            for each in patterns("transfer", name, given)
            for p, v in tree.select("transfer", params, each).items()
        }
        for name, given in (("take", take), ("skip", skip))
    )
    return {path: value for path, value in want.items() if path not in but}


def patterns(function: str, name: str, given: Any) -> list[str]:
    """Path patterns, of which one may stand alone."""
    found = [given] if isinstance(given, str) else given
    if not (isinstance(found, Sequence) and all(isinstance(each, str) for each in found)):
        raise TypeError(
            f"`{function}`: {name} must be path patterns, got {errors.describe(given)}. "
            "Say `'encoder/**'`."
        )
    return list(found)


def from_file(path: Path, chosen: Mapping[str, Any], renamed: Callable[[str], str]) -> Any:
    """The values of the chosen leaves, of a file of weights."""
    with weights.opened("transfer", path) as file:
        found = weights.tensors("transfer", path, file)
        saved = sources(str(path), {n: t.leaf for n, t in found.items()}, chosen, renamed)
        return {
            path: reading.finish(found[name].leaf, weights.read(file, found[name]), chosen[path])
            for path, name in saved.items()
        }


def from_directory(
    source: Any, chosen: Mapping[str, Any], renamed: Callable[[str], str], under: str, step: Any
) -> Any:
    """The values of the chosen leaves, of the newest step that is whole."""
    place = files.as_directory("transfer", source)
    above = f"{under}/" if under else ""

    def attempt(number: int) -> dict[str, Any]:
        manifest = reading.look(place, number)
        there = {
            path[len(above) :]: leaf
            for path, leaf in manifest.leaves.items()
            if path.startswith(above)
        }
        if not there:
            tops = {path.split("/")[0] for path in manifest.leaves}
            raise MismatchError(
                f"`transfer`: under must name a part of what was saved in {place}, got {under!r}. "
                f"{errors.did_you_mean(under, tops)}"
            )
        saved = sources(f"step {number} of {place}", there, chosen, renamed)
        plan = {above + name: chosen[path] for path, name in saved.items()}
        values = reading.load(place / files.step_name(number), manifest, plan)
        return {path: values[above + name] for path, name in saved.items()}

    return reading.newest("transfer", place, step, attempt)


def sources(
    where: str, saved: Mapping[str, Leaf], chosen: Mapping[str, Any], renamed: Callable[[str], str]
) -> dict[str, str]:
    """For each chosen path the one that it was saved under.

    Raises:
        MismatchError: some were not saved, or as something else.
    """
    origin: dict[str, list[str]] = {}
    for path in saved:
        origin.setdefault(renamed(path), []).append(path)
    wrong = []
    for path, leaf in leaves.leaves_of("transfer", dict(chosen)).items():
        names = origin.get(path, [])
        if len(names) != 1:
            got = f"got {len(names)}: {', '.join(names)}" if names else "missing"
            wrong.append(f"{path}: {got}, expected one {leaf}")
        elif (saved[names[0]].kind, str(saved[names[0]])) != (leaf.kind, str(leaf)):
            wrong.append(f"{path}: expected {leaf}, got {saved[names[0]]}")
    if wrong:
        raise MismatchError(
            f"`transfer`: {where} must hold what is to be taken, got\n  "
            + "\n  ".join(wrong)
            + f"\nName it in skip, or rename it; saved are {', '.join(saved)}."
        )
    return {path: origin[path][0] for path in chosen}


def renamer(rename: Rename | None) -> Callable[[str], str]:
    """The path in params of one that was saved.

    Example:
        >>> renamer({"encoder/**": "backbone/**", "*/w": "*/kernel"})("encoder/0/w")
        'backbone/0/w'
        >>> renamer({"*/w": "*/kernel"})("0/w")
        '0/kernel'
    """
    if rename is None:
        return lambda path: path
    if callable(rename):
        return rename
    if not isinstance(rename, Mapping):
        raise TypeError(
            f"`transfer`: rename must be a dict of path patterns, or a function, got {rename!r}. "
            "Say `{'encoder/**': 'backbone/**'}`."
        )
    rules = [(old, new, re.compile(as_regex(old))) for old, new in rename.items()]
    for old, new, _ in rules:
        if wildcards(old) != wildcards(new):
            raise ValueError(
                f"`transfer`: both patterns of a rename must have the same wildcards in the same "
                f"order, got {old!r} to {new!r}. Rename with a function where they differ."
            )

    def renamed(path: str) -> str:
        for _, new, regex in rules:
            if match := regex.fullmatch(path):
                return filled(new, match.groups())
        return path

    return renamed


def filled(pattern: str, parts: Sequence[str]) -> str:
    """A pattern with the parts of a path in place of its wildcards."""
    rest = iter(parts)
    return re.sub(r"\*\*|\*", lambda _: next(rest), pattern)


def wildcards(pattern: str) -> list[str]:
    """The wildcards of a pattern."""
    return re.findall(r"\*\*|\*", pattern)


def as_regex(pattern: str, separator: str = "/") -> str:
    """A pattern as a regular expression with a group for each wildcard."""
    words = {"**": "(.*)", "*": f"([^{separator}]*)"}
    return "".join(words.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*)", pattern))
