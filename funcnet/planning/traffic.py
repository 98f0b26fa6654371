"""What devices tell each other: the collectives of a compiled program, counted and measured."""

import dataclasses
import re
from collections.abc import Iterable
from math import prod

from funcnet.planning.hlo import Computation, Instruction, Visit

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind, in one step of one device.

    Attributes:
        kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all` or `collective-permute`.
        count: how many.
        bytes: of what is reduced, gathered, scattered or sent, whole.
        sent: bytes that a device sends for it if the devices stand in a ring.
    """

    kind: str
    count: int
    bytes: int
    sent: int


def collectives(visits: Iterable[Visit], devices: int) -> tuple[Collective, ...]:
    """The collectives of a program by kind, the kinds that it has none of left out."""
    found: dict[str, Collective] = {}
    seen: set[str] = set()
    for visit in visits:
        line = visit.instruction
        kind = line.opcode.removesuffix("-start")
        if kind not in KINDS or repeated(visit, seen):
            continue
        if kind == "all-reduce" and scatters(visit.computation):
            kind = "reduce-scatter"
        group = group_size(line.attributes, devices)
        if group == 1:
            continue
        size = payload(visit.computation, line, kind, group)
        sent = round(share(kind, group) * size)
        before = found.get(kind, Collective(kind, 0, 0, 0))
        found[kind] = Collective(
            kind,
            before.count + visit.times,
            before.bytes + visit.times * size,
            before.sent + visit.times * sent,
        )
    return tuple(found[kind] for kind in KINDS if kind in found)


def repeated(visit: Visit, seen: set[str]) -> bool:
    """Whether this is a further part of a collective that several fusions carry out."""
    channel = re.search(r"channel_id=(\d+)", visit.instruction.attributes)
    if not visit.fused or channel is None:
        return False
    known = channel[1] in seen
    seen.add(channel[1])
    return known


def scatters(computation: Computation) -> bool:
    """Whether a fusion is an all-reduce of which each device keeps its slice."""
    opcodes = {line.opcode for line in computation.values()}
    return computation.root.opcode == "dynamic-slice" and "all-reduce" in opcodes


def payload(computation: Computation, line: Instruction, kind: str, group: int) -> int:
    """Bytes of what a collective deals with, whole: the larger of what goes in and comes out."""
    operands = [computation[name] for name in line.operands if name in computation]
    size = sum(array.nbytes for each in operands for array in each.arrays)
    if not operands:
        size = sum(array.nbytes for array in line.arrays)
        return size * group if kind == "reduce-scatter" else size
    return size * group if kind == "all-gather" else size


def share(kind: str, group: int) -> float:
    """What a device sends in a ring of `group`, as a share of the payload.

    Source:
        Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms", 2009.
    """
    if kind == "collective-permute":
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (group - 1) / group


def group_size(attributes: str, devices: int) -> int:
    """How many devices take part together.

    Example:
        >>> group_size("replica_groups={{0,1},{2,3}}", 4), group_size("replica_groups={}", 4)
        (2, 4)
        >>> group_size("replica_groups=[2,8]<=[4,4]T(1,0)", 16)
        8
        >>> group_size("replica_groups=mesh['a'=4,'b'=2] {'a'}", 8)
        4
    """
    if "source_target_pairs" in attributes:
        return devices
    if listed := LISTED.search(attributes):
        return listed[1].count(",") + 1
    if iota := IOTA.search(attributes):
        return int(iota[2])
    if named := NAMED.search(attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", named[1])}
        taken = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", named[2])
        return prod(int(part) if part else sizes[name] for name, part in taken)
    return devices
