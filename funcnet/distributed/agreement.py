"""How processes that train together agree: on what they were given, and on when to stop."""

import enum
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from funcnet import errors, tree
from funcnet.types import PyTree

ROOM = 512
"""Bytes of a text that are sent in one exchange; a longer one needs a second."""

WORDS = 300
"""Letters of an error that the other processes are told."""

SAMPLE = 2**20
"""Bytes of an array that its digest reads."""


class Wish(enum.IntEnum):
    """What a process wants of all, the gravest last."""

    GO_ON = 0
    LIMIT = 1
    INTERRUPT = 2
    STOP = 3
    FAIL = 4


class Agreed(NamedTuple):
    """The gravest wish, its words, and the first process that has it."""

    wish: Wish
    words: str
    process: int


def share(text: str) -> list[str]:
    """The texts of all processes, in each of them: every process must call it."""
    sent = text.encode()
    received = exchange(sent, ROOM)
    longest = max(length for length, _ in received)
    if longest > ROOM:
        received = exchange(sent, 1 << (longest - 1).bit_length())
    return [body[:length].decode() for length, body in received]


def exchange(sent: bytes, room: int) -> list[tuple[int, bytes]]:
    """Of every process the length of what it sends, and as much of it as there is room for."""
    block = np.zeros(8 + room, np.uint8)
    block[:8] = np.frombuffer(np.int64(len(sent)).tobytes(), np.uint8)
    block[8 : 8 + len(sent)] = np.frombuffer(sent[:room], np.uint8)
    received = np.asarray(multihost_utils.process_allgather(block)).reshape(-1, len(block))
    return [(int(row[:8].view(np.int64)[0]), row[8:].tobytes()) for row in received]


def meet(function: str, at: str, wish: Wish, words: str = "") -> Agreed:
    """What all processes do next, each having said what it wants: the gravest wish.

    Args:
        function: the public function that asks.
        at: where this process is; all must be at the same place.
        wish: what this process wants.
        words: why.

    Raises:
        RuntimeError: the processes are at different places.
    """
    said = [json.loads(text) for text in share(json.dumps([at, int(wish), words[:WORDS]]))]
    process = max(range(len(said)), key=lambda i: (said[i][1], -i))
    gravest = Agreed(Wish(said[process][1]), said[process][2], process)
    places = by_value([at for at, _, _ in said])
    if len(places) > 1 and gravest.wish != Wish.FAIL:
        raise RuntimeError(
            f"`{function}`: all processes must go the same way, got {places_in_words(places)}. "
            "Give each the same arguments, and streams with as many batches of the same shapes."
        )
    return gravest


@contextmanager
def same(function: str, shared: bool) -> Iterator[dict[str, str]]:
    """Gives a dict to fill with facts, and at its end raises unless all processes have the same.

    An error inside is told to the other processes, which then raise too rather than wait.

    Args:
        function: the public function that asks.
        shared: whether there are other processes to agree with.

    Raises:
        ValueError: a fact differs, or another process has met an error.
    """
    facts: dict[str, str] = {}
    try:
        yield facts
    except Exception as error:
        if shared:
            share(json.dumps({"": f"{type(error).__name__}: {error}"[:WORDS]}))
        raise
    if shared:
        check_same(function, [json.loads(text) for text in share(json.dumps(facts))])


def check_same(function: str, facts: list[dict[str, str]]) -> None:
    """Raises unless the facts of all processes are the same."""
    failed = {i: fact[""] for i, fact in enumerate(facts) if "" in fact}
    if failed:
        process, words = next(iter(failed.items()))
        raise ValueError(
            f"`{function}`: process {process} must go on, got an error there: {words.rstrip('.')}. "
            "Mend it there, and give each process the same."
        )
    names = dict.fromkeys(name for fact in facts for name in fact)
    values = {name: by_value([fact.get(name, "none") for fact in facts]) for name in names}
    wrong = [f"{name} {places_in_words(v)}" for name, v in values.items() if len(v) > 1]
    if wrong:
        raise ValueError(
            f"`{function}`: all processes must be given the same, got {'; '.join(wrong)}. "
            "Give each process the same arguments and data."
        )


def by_value(values: list[str]) -> dict[str, list[int]]:
    """The processes that have each value."""
    found: dict[str, list[int]] = {}
    for process, value in enumerate(values):
        found.setdefault(value, []).append(process)
    return found


def places_in_words(places: Mapping[str, list[int]]) -> str:
    """Who has which value: `0 in process 0, 1 in process 1`."""
    words = []
    for value, processes in list(places.items())[:3]:
        some = ", ".join(map(str, processes[:3])) + (", ..." if len(processes) > 3 else "")
        words.append(f"{value} in process{'es' if len(processes) > 1 else ''} {some}")
    more = len(places) - len(words)
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")


def told(value: Any) -> str:
    """An argument in words that are the same in every process where it is."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
        return ", ".join(f"{name} {told(part)}" for name, part in parts if not callable(part))
    return errors.describe(value)


def digest(arrays: PyTree) -> str:
    """Shapes and dtypes of arrays, and a checksum of a sample of their values.

    Of a large array it reads a mebibyte of rows, evenly spaced from the first to the last.
    """
    described = ", ".join(errors.describe(leaf) for leaf in jax.tree.leaves(tree.spec(arrays)))
    sums = 0
    for leaf in jax.tree.leaves(arrays):
        if not (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
            sums = zlib.crc32(sample(leaf).tobytes(), sums)
    return f"{described} with checksum {sums:08x}"


def sample(leaf: Any) -> np.ndarray:
    """Some rows of an array, on the host."""
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if not np.ndim(leaf):
        return np.asarray(leaf)
    most = max(2, SAMPLE * len(leaf) // max(tree.nbytes(leaf), 1))
    if len(leaf) <= most:
        return np.asarray(leaf)
    return np.asarray(leaf[np.linspace(0, len(leaf) - 1, most).astype(np.int64)])
