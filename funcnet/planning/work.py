"""What a compiled program does: operations of its matrix products, and bytes that it moves."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from math import prod

import numpy as np

from funcnet.planning.hlo import Array, Computation, Instruction, Module, Visit, arrays

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "add-dependency", "partition-id", "replica-id", "opt-barrier"),
    *("copy-done", "slice-done", "async-start", "async-update", "async-done"),
    *("all-reduce-done", "all-gather-done", "collective-permute-done", "domain", "iota"),
}
"""Instructions that move no bytes themselves."""

READERS = {"dynamic-slice", "slice", "gather"}
"""Instructions that read only a part of their first operand."""

PRECISIONS = {"high", "highest"}


def flops(visits: Iterable[Visit]) -> Counter[str]:
    """Operations of matrix products and convolutions by dtype, two for each multiply-add.

    The dtype of products in `jax.lax.Precision.HIGH` or `HIGHEST` says so: `f32 highest`.
    """
    found: Counter[str] = Counter()
    for visit in visits:
        line = visit.instruction
        if line.opcode in ("dot", "convolution"):
            operand = visit.computation.get(line.operands[0])
            dtype = operand.arrays[0].dtype if operand else line.arrays[0].dtype
            precise = re.search(r"operand_precision=\{(\w+)", line.attributes)
            if dtype == "f32" and precise and precise[1] in PRECISIONS:
                dtype = f"f32 {precise[1]}"
            count = dot if line.opcode == "dot" else convolution
            found[dtype] += visit.times * count(visit.computation, line)
    return found


def operand(computation: Computation, line: Instruction, which: int) -> Array:
    """The type of one of an instruction's arguments."""
    return computation[line.operands[which]].arrays[0]


def numbers(name: str, text: str) -> list[int]:
    """The whole numbers of an attribute, `lhs_contracting_dims={1,2}` say."""
    found = re.search(name + r"=\{([\d,]*)\}", text)
    return [int(n) for n in found[1].split(",") if n] if found else []


def dot(computation: Computation, line: Instruction) -> int:
    """Operations of a matrix product."""
    shape = operand(computation, line, 0).shape
    contracted = [shape[axis] for axis in numbers("lhs_contracting_dims", line.attributes)]
    return 2 * prod(line.arrays[0].shape) * prod(contracted)


def convolution(computation: Computation, line: Instruction) -> int:
    """Operations of a convolution; where its window looks at padding it costs none.

    Source:
        XLA's own `HloCostAnalysis::GetConvolutionFlops`.
    """
    labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", line.attributes)
    if labels is None:
        return 0
    x, kernel = (operand(computation, line, i).shape for i in (0, 1))
    out = line.arrays[0].shape
    window = windows(line.attributes)
    spatial = sorted(set(labels[1]) - set("bf?"))
    looked = 1
    for i, label in enumerate(spatial):
        settings = tuple(each[i] for each in window)
        looked *= overlaps(x[labels[1].index(label)], out[labels[3].index(label)], settings)
    groups = re.search(r"feature_group_count=(\d+)", line.attributes)
    batches = re.search(r"batch_group_count=(\d+)", line.attributes)
    channels = kernel[labels[2].index("i")] if groups else x[labels[1].index("f")]
    features = out[labels[3].index("f")]
    examples = x[labels[1].index("b")] // (int(batches[1]) if batches else 1)
    return 2 * looked * channels * features * examples


def windows(attributes: str) -> list[list[int]]:
    """Size, padding before, stride, dilation of input and of kernel along each spatial axis."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    parts = dict(part.split("=") for part in text[1].split()) if text else {}
    sizes = [int(n) for n in parts.get("size", "").split("x") if n]
    ones = ["1"] * len(sizes)

    def of(name: str, default: list[str]) -> list[int]:
        given = parts[name].split("x") if name in parts else default
        return [int(n.split("_")[0]) for n in given]

    pads = of("pad", ["0"] * len(sizes))
    return [sizes, pads, of("stride", ones), of("lhs_dilate", ones), of("rhs_dilate", ones)]


@lru_cache(maxsize=4096)
def overlaps(size: int, out: int, settings: tuple[int, ...]) -> int:
    """How many pairs of an output and a kernel's element meet an element of the input."""
    width, before, stride, spread, apart = settings
    at = np.arange(out)[:, None] * stride + np.arange(width)[None] * apart - before
    met = (at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)
    return int(met.sum())


def moved(module: Module, visits: Iterable[Visit]) -> int:
    """Bytes read from and written to the main memory.

    Each instruction that is no part of a fusion reads its arguments and writes its result; of an
    argument that is only sliced it reads the slices, and what is updated in place costs the update.
    What lies in a memory of its own on the chip costs nothing.
    """
    return sum(
        visit.times * bytes_of(module, visit.computation, visit.instruction)
        for visit in visits
        if not visit.fused and visit.instruction.opcode not in FREE
    )


def main(found: Array) -> int:
    """Bytes of an array in the main memory; 0 for one that lies elsewhere."""
    return found.nbytes if found.space == 0 else 0


def total(text: str) -> int:
    """Bytes of all arrays of a type in the main memory."""
    return sum(map(main, arrays(text)))


def bytes_of(module: Module, computation: Computation, line: Instruction) -> int:
    """Bytes that one instruction reads and writes."""
    if line.opcode in ("copy-start", "slice-start"):  # (what it writes, what it reads, ...)
        parts = line.arrays
        target = parts[0] if line.opcode == "copy-start" else parts[-2]
        source = computation.get(line.operands[0])
        outside = source is not None and source.arrays[:1] and source.arrays[0].space == 0
        return main(target) + (target.nbytes if outside else 0)
    if line.opcode in READERS:
        return 2 * total(line.type)
    if line.opcode == "dynamic-update-slice":
        return 2 * type_bytes(computation, line.operands[1])
    if line.opcode == "fusion" and line.called:
        inner = module.computations[line.called[0]]
        reads = sum(
            min(type_bytes(computation, name), used(module, inner, i))
            for i, name in enumerate(line.operands)
        )
        return reads + min(total(line.type), written(module, inner, inner.root))
    reads = sum(type_bytes(computation, name) for name in line.operands)
    return reads + (0 if line.opcode.endswith("-start") else total(line.type))


def type_bytes(computation: Computation, name: str) -> int:
    """Bytes of a named result in the main memory."""
    return total(computation[name].type) if name in computation else 0


def used(module: Module, inner: Computation, index: int) -> int:
    """Bytes that a fused computation reads of one of its parameters."""
    for line in inner.values():
        if line.opcode == "parameter" and line.operands[0] == str(index):
            return read(module, inner, line.name)
    return 0


def read(module: Module, inner: Computation, name: str) -> int:
    """Bytes that the users of a named value read of it."""
    found = 0
    for line in inner.values():
        for at, operand in enumerate(line.operands):
            if operand == name and line.opcode not in ("parameter", "constant"):
                found += read_by(module, inner, line, at)
    return found


def read_by(module: Module, inner: Computation, line: Instruction, at: int) -> int:
    """Bytes that one instruction reads of its argument number `at`."""
    if line.opcode in READERS and at == 0:
        return sum(each.nbytes for each in line.arrays)
    if line.opcode == "dynamic-update-slice" and at == 0:
        return 0
    if line.opcode == "bitcast":
        return read(module, inner, line.name)
    if line.opcode == "fusion" and line.called:
        return used(module, module.computations[line.called[0]], at)
    return sum(each.nbytes for each in inner[line.operands[at]].arrays)


def written(module: Module, inner: Computation, line: Instruction) -> int:
    """Bytes that a fusion writes whose result is that of `line`."""
    if line.opcode == "tuple":
        return sum(written(module, inner, inner[name]) for name in line.operands)
    if line.opcode == "bitcast":
        return written(module, inner, inner[line.operands[0]])
    if line.opcode == "dynamic-update-slice":
        return sum(each.nbytes for each in inner[line.operands[1]].arrays)
    if line.opcode == "fusion" and line.called:
        called = module.computations[line.called[0]]
        return written(module, called, called.root)
    return sum(each.nbytes for each in line.arrays)
