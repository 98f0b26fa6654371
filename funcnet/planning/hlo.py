"""The text of a compiled program, read: its instructions, and how often each of them runs."""

import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
"""Bits of an element by dtype, where the digits of its name are not their number."""

ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<= ]*)\](\{[^{}]*\})?")
"""An array's dtype, sizes and layout: `bf16[8,128]{1,0:T(8,128)S(1)}`."""

HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+)(?: \(.*)? \{$")
LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
CALLS = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
KNOWN_TRIPS = re.compile(r'known_trip_count"?:\s*\{"n":"(\d+)"')


class Array(NamedTuple):
    """The type of one array of a program.

    Attributes:
        dtype: as XLA writes it, `bf16`.
        shape: its sizes.
        space: the number of the memory that it lies in; 0 is the main one.
    """

    dtype: str
    shape: tuple[int, ...]
    space: int

    @property
    def nbytes(self) -> int:
        """Bytes of the array, without padding."""
        digits = re.search(r"\d+", self.dtype)
        bits = BITS.get(self.dtype, int(digits[0]) if digits else 0)
        for size in self.shape:
            bits *= size
        return -(-bits // 8)


class Instruction(NamedTuple):
    """One line of a program.

    Attributes:
        name: what other lines call its result.
        type: that of its result, as it is written.
        opcode: what it does, `fusion` say.
        operands: names of its arguments; of a constant or parameter what stands in their place.
        attributes: what is written behind them.
        root: whether its result is that of its computation.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def arrays(self) -> list[Array]:
        """The types of its result: several for a tuple."""
        return arrays(self.type)

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        branches = BRANCHES.search(self.attributes)
        listed = re.findall(r"[\w.\-]+", branches[1]) if branches else []
        return [*CALLS.findall(self.attributes), *listed]


class Computation(dict[str, Instruction]):
    """Instructions by name, in order."""

    @property
    def root(self) -> Instruction:
        """The one whose result is that of all, the last one unless it is marked."""
        return next((line for line in self.values() if line.root), [*self.values()][-1])


class Module(NamedTuple):
    """A whole program: its computations by name, and the one that it begins with."""

    computations: dict[str, Computation]
    entry: str


class Visit(NamedTuple):
    """An instruction where it runs.

    Attributes:
        instruction: what runs.
        computation: what it is part of.
        times: how often it runs in one call of the program.
        fused: whether it is part of a fusion, and so writes nothing to memory itself.
    """

    instruction: Instruction
    computation: Computation
    times: int
    fused: bool


def arrays(text: str) -> list[Array]:
    """The array types in a text.

    Example:
        >>> arrays("(f32[8,3]{1,0:T(8,128)S(1)}, s32[])")
        [Array(dtype='f32', shape=(8, 3), space=1), Array(dtype='s32', shape=(), space=0)]
    """
    found = []
    for dtype, sizes, layout in ARRAY.findall(text):
        shape = tuple(int(size.lstrip("<= ")) for size in sizes.split(",") if size.strip())
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Array(dtype, shape, int(space[1]) if space else 0))
    return found


def parse(text: str) -> Module:
    """The program that `compiled.as_text()` writes."""
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        if not line.startswith(" "):
            if head := HEAD.match(line):
                current = computations.setdefault(head[2], Computation())
                entry = head[2] if head[1] else entry
        elif (found := instruction(line)) is not None:
            current[found.name] = found
    return Module(computations, entry)


def instruction(line: str) -> Instruction | None:
    """The instruction that a line holds, None if it holds none.

    Example:
        >>> found = instruction("  ROOT %y.1 = (f32[2]{0:T(8)}, s32[]) tuple(%x, %n), metadata={}")
        >>> found.name, found.type, found.opcode, found.operands
        ('y.1', '(f32[2]{0:T(8)}, s32[])', 'tuple', ('x', 'n'))
    """
    head = LINE.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = closing(rest) if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, opened, _ = rest.partition("(")
    if not opened or end < 0:
        return None
    end = closing(rest[len(opcode) :]) + len(opcode)
    inside, attributes = rest[len(opcode) + 1 : end - 1], rest[end:]
    named = tuple(re.findall(r"%([\w.\-]+)", inside))
    operands = named or ((inside,) if opcode in ("constant", "parameter") else ())
    return Instruction(head[2], kind, opcode, operands, attributes, bool(head[1]))


def closing(text: str) -> int:
    """Where the parenthesis that a text begins with has been closed."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return at + 1
    return len(text)


def visits(module: Module) -> Iterator[Visit]:
    """All instructions that run, with how often: the bodies of loops as often as they turn.

    Of a conditional all branches are taken to run. A loop whose turns can't be told is taken to
    turn once.
    """
    yield from within(module, module.entry, 1, False)


def within(module: Module, name: str, times: int, fused: bool) -> Iterator[Visit]:
    """The instructions of one computation and of those that it runs."""
    computation = module.computations.get(name, Computation())
    for line in computation.values():
        yield Visit(line, computation, times, fused)
        if line.opcode in ("fusion", "call", "while", "conditional", "async-start"):
            turns = trips(module, computation, line) if line.opcode == "while" else 1
            for called in line.called:
                yield from within(module, called, times * turns, fused or line.opcode == "fusion")


def trips(module: Module, computation: Computation, loop: Instruction) -> int:
    """How often a loop turns: as XLA says, or as its counter is compared with a constant."""
    if known := KNOWN_TRIPS.search(loop.attributes):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
    ends = end_of(module, module.computations.get(condition[1], Computation()) if condition else {})
    if ends is None:
        return 1
    index, limit, inclusive = ends
    start = first_value(computation, loop, index)
    step = step_of(module, loop, index)
    return max(0, -(-(limit + inclusive - start) // step))


def end_of(module: Module, condition: dict[str, Instruction]) -> tuple[int, int, int] | None:
    """Which element of a loop's carry counts, up to which number, and whether with it."""
    for line in condition.values():
        if line.opcode == "fusion":
            return end_of_fused(module, condition, line)
        direction = re.search(r"direction=(LT|LE)", line.attributes)
        if line.opcode == "compare" and direction:
            counter, limit = (condition.get(name) for name in line.operands)
            index, number = index_of(counter), constant(condition, limit)
            if index is not None and number is not None:
                return index, number, int(direction[1] == "LE")
    return None


def end_of_fused(
    module: Module, condition: dict[str, Instruction], fusion: Instruction
) -> tuple[int, int, int] | None:
    """The same where the comparison has been fused: its parameters are looked up outside."""
    inner = module.computations.get(fusion.called[0], Computation()) if fusion.called else {}
    seen = dict(inner)
    for name, line in inner.items():
        if line.opcode == "parameter":
            outer = condition.get(fusion.operands[int(line.operands[0])])
            if outer is not None:
                seen[name] = outer
    others = {name: line for name, line in condition.items() if line.opcode != "fusion"}
    return end_of(module, others | seen) if inner else None


def index_of(line: Instruction | None) -> int | None:
    """Which element of a tuple an instruction takes."""
    found = re.search(r"index=(\d+)", line.attributes) if line else None
    return int(found[1]) if line and line.opcode == "get-tuple-element" and found else None


def constant(computation: dict[str, Instruction], line: Instruction | None) -> int | None:
    """The whole number that an instruction gives, through copies; None if it is not known."""
    while line is not None and line.opcode in ("copy", "bitcast", "convert"):
        line = computation.get(line.operands[0])
    if line is None or line.opcode != "constant" or not re.fullmatch(r"-?\d+", line.operands[0]):
        return None
    return int(line.operands[0])


def first_value(computation: Computation, loop: Instruction, index: int) -> int:
    """Where a loop's counter begins; 0 if that can't be told."""
    carry = computation.get(loop.operands[0])
    if carry is None or carry.opcode != "tuple" or index >= len(carry.operands):
        return 0
    return constant(computation, computation.get(carry.operands[index])) or 0


def step_of(module: Module, loop: Instruction, index: int) -> int:
    """What each turn adds to a loop's counter; 1 if that can't be told."""
    name = re.search(r"body=%?([\w.\-]+)", loop.attributes)
    body = module.computations.get(name[1], Computation()) if name else Computation()
    if not body or body.root.opcode != "tuple" or index >= len(body.root.operands):
        return 1
    line = body.get(body.root.operands[index])
    while line is not None and line.opcode in ("copy", "bitcast"):
        line = body.get(line.operands[0])
    if line is None or line.opcode != "add":
        return 1
    numbers = [constant(body, body.get(name)) for name in line.operands]
    return next((n for n in numbers if n is not None and n > 0), 1)
