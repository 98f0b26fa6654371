"""How PyTorch lays out the arrays of its layers, and how ours lie: each way, side by side."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Image = tuple[int, ...]
"""The shape `(*spatial, C)` of what is flattened before a dense layer, without the batch."""


class Row(NamedTuple):
    """A tensor of a PyTorch module, and the leaves of ours that lie in it one after the other.

    Attributes:
        theirs: its name below the module, as a path.
        ours: the paths of the leaves below the module.
        added: whether two such tensors make one leaf: PyTorch's recurrent layers have two biases.
        inputs: how many axes of a kernel are inputs, where there are more than one of either.
        written: whether it is what we write, and not only read.
    """

    theirs: str
    ours: tuple[str, ...]
    added: bool = False
    inputs: int | None = None
    written: bool = True


def attention_rows() -> Iterator[Row]:
    """`torch.nn.MultiheadAttention`: queries, keys, values packed, unless they differ in size."""
    three = "query", "key", "value"
    yield Row("in_proj_weight", tuple(f"{each}/kernel" for each in three), inputs=1)
    for each in three:
        yield Row(f"{each[0]}_proj_weight", (f"{each}/kernel",), inputs=1)
    yield Row("in_proj_bias", tuple(f"{each}/bias" for each in three), inputs=1)
    yield Row("out_proj/weight", ("out/kernel",), inputs=2)
    yield Row("out_proj/bias", ("out/bias",), inputs=2)


def recurrent_rows(way: str, end: str) -> Iterator[Row]:
    """`torch.nn.LSTM`, `GRU` and `RNN`, one layer one way: gates in PyTorch's order."""

    def leaves(side: str, gates: str, leaf: str) -> tuple[str, ...]:
        return tuple(f"{way}/{side}{gate}/{leaf}" for gate in gates.split(","))

    for gates in ("i,f,g,o", "r,z,n", ""):
        yield Row(f"weight_ih_l0{end}", leaves("i", gates, "kernel"))
        yield Row(f"weight_hh_l0{end}", leaves("h", gates, "kernel"))
    lstm = leaves("h", "i,f,g,o", "bias")
    of_input, of_state = leaves("i", "r,z,n", "bias"), leaves("h", "n", "bias")
    for bias in (f"bias_ih_l0{end}", f"bias_hh_l0{end}"):
        yield Row(bias, lstm, added=True)
        yield Row(bias, leaves("i", "", "bias"), added=True)
    yield Row(f"bias_ih_l0{end}", of_input, added=True)
    yield Row(f"bias_hh_l0{end}", of_input[:2] + of_state, added=True)


ROWS = (
    *attention_rows(),
    *recurrent_rows("forward", ""),
    *recurrent_rows("backward", "_reverse"),
    Row("weight", ("kernel",)),
    Row("weight", ("scale",)),
    Row("weight", ("embedding",)),
    Row("bias", ("bias",)),
    Row("running_mean", ("mean",)),
    Row("running_var", ("var",)),
    Row("gamma", ("scale",), written=False),  # what some models still call a norm's
    Row("beta", ("bias",), written=False),
)
"""What is packed first, so that its parts are not taken for layers of their own."""

HEADS = ["query"], ["key"], ["value"], ["out"]
"""Layers of attention whose kernels have an axis for the heads."""


def leaves_in(path: str, ours: Collection[str]) -> Row | None:
    """The leaves that lie in a tensor of PyTorch's, by whole paths; None where there are none.

    Args:
        path: where the tensor would lie, with the last name that PyTorch gives it.
        ours: the paths of all leaves.

    Example:
        >>> leaves_in("fc/weight", ["fc/kernel", "fc/bias"]).ours
        ('fc/kernel',)
        >>> leaves_in("a/in_proj_bias", ["a/query/bias", "a/key/bias", "a/value/bias"]).ours
        ('a/query/bias', 'a/key/bias', 'a/value/bias')
    """
    if path in ours:
        return Row(path, (path,))
    for row in ROWS:
        if path == row.theirs or path.endswith(f"/{row.theirs}"):
            module = path.removesuffix(row.theirs)
            parts = tuple(module + part for part in row.ours)
            if all(part in ours for part in parts):
                return row._replace(theirs=path, ours=parts)
    return None


def rows_of(shapes: Mapping[str, Any]) -> list[Row]:
    """The tensors that PyTorch would make of leaves, each of which lies in one of them.

    Args:
        shapes: the leaves, or their shapes, by path.

    Example:
        >>> [row.theirs for row in rows_of({"fc/kernel": np.ones((2, 3)), "fc/bias": np.ones(3)})]
        ['fc/weight', 'fc/bias']
    """
    modules = dict.fromkeys(above for path in shapes for above in modules_above(path))
    found: list[Row] = []
    taken: set[str] = set()
    for row in (row for row in ROWS if row.written):
        for module in modules:
            parts = tuple(module + part for part in row.ours)
            new = set(parts) - taken
            there = all(part in shapes for part in parts)
            if there and (new or row.added) and fits(row, module, shapes):
                found.append(row._replace(theirs=module + row.theirs, ours=parts))
                taken |= new
    return found + [Row(path, (path,)) for path in shapes if path not in taken]


def kinds_for(last: str) -> set[str]:
    """What leaves may be called that lie in a tensor of this last name; none for an unknown one.

    Example:
        >>> sorted(kinds_for("weight"))
        ['embedding', 'kernel', 'scale']
    """
    rows = (row for row in ROWS if row.theirs.rpartition("/")[2] == last)
    return {part.rpartition("/")[2] for row in rows for part in row.ours}


def modules_above(path: str) -> list[str]:
    """The beginnings of a path, each with its `/`."""
    parts = path.split("/")[:-1]
    return ["", *("/".join(parts[: n + 1]) + "/" for n in range(len(parts)))]


def fits(row: Row, module: str, shapes: Mapping[str, Any]) -> bool:
    """Whether a module is of the kind that a row speaks of, and its leaves go into one tensor."""
    if row.inputs is None:
        return True
    four = [shapes.get(f"{module}{each}/kernel") for each in ("query", "key", "value", "out")]
    if any(kernel is None or len(kernel.shape) != 3 for kernel in four):
        return False
    kernels = [shapes[module + part] for part in row.ours if part.endswith("kernel")]
    return len({math.prod(kernel.shape[: row.inputs]) for kernel in kernels}) <= 1


def from_torch(
    path: str, array: np.ndarray, shape: Sequence[int], image: Image | None
) -> np.ndarray:
    """An array of PyTorch's as ours of this shape lies, as far as it can be.

    Matrices are `(out, in)` there and `(in, out)` here, kernels `(out, in / groups, *spatial)` and
    `(*spatial, in / groups, out)`. Those of transposed convolutions, `(in, out, *spatial)` and
    `(*spatial, out, in)`, are turned by the same rule, and not flipped: both are the kernels of
    the convolution that is transposed. All else lies alike, the heads of attention aside.

    Args:
        path: of the leaf; its last name is the kind.
        array: what PyTorch has.
        shape: what is wanted.
        image: what is flattened before, where channels come first there and last here.

    Example:
        >>> from_torch("conv/kernel", np.ones((8, 3, 5, 4)), (5, 4, 3, 8), None).shape
        (5, 4, 3, 8)
        >>> w = np.arange(8).reshape(1, 8)  # of two channels of two by two
        >>> from_torch("fc/kernel", w, (8, 1), (2, 2, 2)).ravel().tolist()
        [0, 4, 1, 5, 2, 6, 3, 7]
    """
    kind = path.rpartition("/")[2]
    of_heads = path.split("/")[-2:-1] in HEADS
    if kind == "bias" and of_heads and (array.ndim, array.size) == (1, math.prod(shape)):
        return array.reshape(shape)  # (heads * head_dim) -> (heads, head_dim)
    if kind != "kernel" or array.ndim < 2:
        return array
    if image and array.ndim == 2 and array.shape[1] == math.prod(image):
        *spatial, channels = image
        array = array.reshape(len(array), channels, *spatial)  # (out, C, *spatial)
        return np.moveaxis(array, (0, 1), (-1, -2)).reshape(-1, len(array))
    turned = array.transpose(*range(2, array.ndim), 1, 0)
    if of_heads and (array.ndim, len(shape)) == (2, 3):
        ways = [(shape[0], shape[1] * shape[2]), (shape[0] * shape[1], shape[2])]
        return turned.reshape(shape) if turned.shape in ways else turned
    return turned


def to_torch(path: str, array: np.ndarray, inputs: int | None, image: Image | None) -> np.ndarray:
    """The inverse of `from_torch`.

    Args:
        path: of the leaf; its last name is the kind.
        array: what we have.
        inputs: how many axes of a kernel of attention are inputs.
        image: what is flattened before.

    Example:
        >>> to_torch("attention/query/kernel", np.ones((6, 2, 4)), 1, None).shape
        (8, 6)
    """
    kind = path.rpartition("/")[2]
    if kind == "bias" and inputs:
        return array.reshape(-1)
    if kind != "kernel" or array.ndim < 2:
        return array
    if image:
        *spatial, channels = image
        array = array.reshape(*spatial, channels, array.shape[-1])  # (*spatial, C, out)
        return np.moveaxis(array, (-1, -2), (0, 1)).reshape(array.shape[-1], -1)
    if inputs:
        return array.reshape(math.prod(array.shape[:inputs]), -1).T
    return array.transpose(-1, -2, *range(array.ndim - 2))
