"""The manifest of a step: what was saved and why, and the digest of every file of it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from funcnet.checkpoint import strict
from funcnet.checkpoint.failures import DamagedError
from funcnet.checkpoint.leaves import ARRAY, PYTHON, Leaf, are_keys, check_leaf, read_value

NAME = "manifest.json"
FORMAT = 1
MOST_BYTES = 2**26
"""The largest manifest that is read: half a million files."""

MOST_STEPS = 10**12
MOST_LEVELS = 32

HEAD, MIDDLE, TAIL = b'{"content":', b',"sha256":"', b'"}\n'
DIGEST = re.compile("[0-9a-f]{64}")
FILE = re.compile(r"arrays/[0-9]{6}/(\.zarray|[0-9]+(\.[0-9]+)*)")


@dataclass(frozen=True)
class Manifest:
    """What a step holds.

    Attributes:
        step: its number.
        leaves: the leaves of the tree by path; the place of one among them names its folder.
        description: what else a restored tree must agree with.
        metric: what the step is judged by among others, if it is.
        files: size in bytes and SHA-256 of each file, by its name below the step.
    """

    step: int
    leaves: Mapping[str, Leaf]
    description: Mapping[str, Any]
    metric: float | None
    files: Mapping[str, tuple[int, str]]


def folder(place: int) -> str:
    """Where the array of the leaf at this place lives, below the step."""
    return f"arrays/{place:06d}"


def to_bytes(manifest: Manifest) -> bytes:
    """A manifest as a file: JSON whose last entry is the digest of all before it."""
    content = strict.dumps(
        {
            "format": FORMAT,
            "step": manifest.step,
            "leaves": [to_entry(path, leaf) for path, leaf in manifest.leaves.items()],
            "description": manifest.description,
            "metric": None if manifest.metric is None else float(manifest.metric).hex(),
            "files": {name: list(found) for name, found in manifest.files.items()},
        }
    )
    digest = hashlib.sha256(content).hexdigest().encode()
    return HEAD + content + MIDDLE + digest + TAIL


def to_entry(path: str, leaf: Leaf) -> dict[str, Any]:
    """A leaf as the manifest has it."""
    if leaf.kind in PYTHON:
        return {"path": path, "kind": leaf.kind, "value": leaf.value}
    return {"path": path, "kind": leaf.kind, "dtype": leaf.dtype, "shape": list(leaf.shape)}


def from_bytes(text: bytes) -> Manifest:
    """The manifest that a file holds.

    Raises:
        DamagedError: it is not one, or not as it was written.
    """
    end = len(text) - len(MIDDLE) - 64 - len(TAIL)
    content = text[len(HEAD) : max(end, 0)]
    digest = hashlib.sha256(content).hexdigest().encode()
    if text != HEAD + content + MIDDLE + digest + TAIL:
        raise DamagedError("the manifest does not have the digest that it names")
    found = strict.loads(content, "the manifest")
    if strict.is_deeper(found, MOST_LEVELS):
        raise DamagedError("the manifest is nested too deeply")
    return from_content(found)


def from_content(content: Any) -> Manifest:
    """The manifest, once every entry has been looked at."""
    names = {"format", "step", "leaves", "description", "metric", "files"}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DamagedError(f"the manifest is not of format {FORMAT}")
    if set(content) != names:
        raise DamagedError("the manifest must have the entries " + ", ".join(sorted(names)))
    step, metric = content["step"], content["metric"]
    if type(step) is not int or not 0 <= step < MOST_STEPS:
        raise DamagedError(f"the manifest names the step {str(step)[:40]}")
    if not isinstance(content["description"], dict):
        raise DamagedError("the manifest has a description that is no dict")
    number = None if metric is None else read_value(Leaf("float", value=metric))
    leaves = from_entries(content["leaves"])
    return Manifest(step, leaves, content["description"], number, from_files(content["files"]))


def from_entries(entries: Any) -> dict[str, Leaf]:
    """The leaves that a manifest has."""
    if not isinstance(entries, list):
        raise DamagedError("the manifest has no list of leaves")
    found: dict[str, Leaf] = {}
    for entry in entries:
        path = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(path, str) or path in found:
            raise DamagedError(
                f"the manifest must give each leaf a path of its own, got {path!r:.60}"
            )
        found[path] = from_entry(entry)
    return found


def from_entry(entry: dict[str, Any]) -> Leaf:
    """A leaf that a manifest has."""
    kind = entry.get("kind")
    if isinstance(kind, str) and kind in PYTHON and set(entry) == {"path", "kind", "value"}:
        leaf = Leaf(kind, value=entry["value"])
        read_value(leaf)
        return leaf
    if set(entry) != {"path", "kind", "dtype", "shape"}:
        raise DamagedError(f"the manifest has a leaf of kind {str(kind)[:40]!r} with other entries")
    check_leaf(kind, entry["dtype"], entry["shape"])
    if kind != ARRAY and not are_keys(str(kind), entry["dtype"], entry["shape"]):
        raise DamagedError(f"the manifest has keys of {entry['dtype']}{entry['shape']}")
    return Leaf(str(kind), entry["dtype"], tuple(entry["shape"]))


def from_files(entries: Any) -> dict[str, tuple[int, str]]:
    """The files that a manifest names: none of them outside the step, or of another name."""
    if not isinstance(entries, dict):
        raise DamagedError("the manifest has no dict of files")
    found = {}
    for name, entry in entries.items():
        sound = (
            FILE.fullmatch(name)
            and isinstance(entry, list)
            and len(entry) == 2
            and type(entry[0]) is int
            and 0 <= entry[0] < 2**60
            and isinstance(entry[1], str)
            and DIGEST.fullmatch(entry[1])
        )
        if not sound:
            raise DamagedError(f"the manifest has the file {name[:80]!r} with {str(entry)[:100]}")
        found[name] = (entry[0], entry[1])
    return found


def stored(manifest: Manifest) -> dict[str, tuple[str, Leaf]]:
    """The folder of each leaf that has files, by path."""
    return {
        path: (folder(place), leaf)
        for place, (path, leaf) in enumerate(manifest.leaves.items())
        if leaf.dtype and 0 not in leaf.shape
    }
