"""Weights alone, without all else of a run, in a file that other libraries read: safetensors."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.checkpoint import files, leaves, processes, reading, strict
from funcnet.checkpoint.failures import DamagedError, MismatchError
from funcnet.checkpoint.leaves import ARRAY, Leaf
from funcnet.types import Params

DTYPES = {
    "BOOL": "bool",
    **{
        f"{kind[0].upper()}{bits}": f"{kind}{bits}"
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
"""Names of the format for those of JAX."""

MOST_HEADER = 2**26

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
"""Endings of PyTorch's own files."""


class Tensor(NamedTuple):
    """An array in a file: what it is, and the byte of the file at which it begins."""

    leaf: Leaf
    begin: int


def save_weights(path: Any, params: Params) -> None:
    """Saves arrays under their paths as a safetensors file, exactly, and whole or not at all.

    Args:
        path: of the file, `"model.safetensors"` say; its folder must be there.
        params: a tree of arrays; `{"0": {"kernel": ...}}` is saved as `0/kernel`.

    Raises:
        TypeError: a leaf is no array, or of a dtype that the format does not have.
        OSError: it could not be written; a file that was there is as it was.

    Example:
        >>> import funcnet as fn, jax.numpy as jnp, os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> fn.checkpoint.save_weights(path, {"head": {"kernel": jnp.ones(2, jnp.bfloat16)}})
        >>> fn.checkpoint.load_weights(path)
        {'head': {'kernel': array([1, 1], dtype=bfloat16)}}
    """
    by_path = tree.paths(params)
    check_arrays("save_weights", by_path)
    write(as_path("save_weights", path), by_path)


def check_arrays(function: str, by_path: Mapping[str, Any]) -> None:
    """Raises unless the format can hold all of these."""
    wrong = [
        f"{name}: {leaves.kind_words(value)}" for name, value in by_path.items() if not fits(value)
    ]
    if wrong:
        raise TypeError(
            f"`{function}`: params must be whole arrays in this process, of the dtypes "
            f"{', '.join(DTYPES.values())}, got {'; '.join(wrong)}. Leave them out, or convert."
        )


def fits(value: Any) -> bool:
    """Whether the format can hold an array."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return False
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return False
    return hasattr(value, "dtype") and str(value.dtype) in DTYPES.values()


def write(path: Path, by_name: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Writes a file, in the first process."""
    from safetensors import SafetensorError
    from safetensors import numpy as safetensors

    if not processes.first():
        return
    arrays = {name: np.array(value, order="C") for name, value in by_name.items()}
    with files.whole(path) as draft:
        try:
            safetensors.save_file(arrays, draft, metadata)
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error


def as_path(function: str, path: Any) -> Path:
    """The path of a file that is given."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(
            f"`{function}`: path must be that of a file, got {path!r}. Say `'model.safetensors'`."
        )
    return Path(path)


def load_weights(path: Any, like: Params | None = None) -> Params:
    """The arrays of a safetensors file.

    Shapes, dtypes and places are compared with the file's size, and with `like`, before anything is
    allocated. Nothing is ever cast.

    Args:
        path: of the file.
        like: a tree of the arrays that are wanted, of `jax.ShapeDtypeStruct`s say; the result has
            its structure, and lives where it does. Nested dicts of NumPy arrays unless given, with
            a level for each `/` in a name.

    Raises:
        DamagedError: it is no such file.
        MismatchError: it holds other arrays than `like`; all differences are named.
        OSError: it can't be read.
    """
    place = as_path("load_weights", path)
    with opened("load_weights", place) as file:
        found = tensors("load_weights", place, file)
        if like is None:
            return nested(place, {name: read(file, tensor) for name, tensor in found.items()})
        check_same(place, like, found)
        values = {
            name: reading.finish(found[name].leaf, read(file, found[name]), value)
            for name, value in tree.paths(like).items()
        }
    return reading.assemble(like, values)


def opened(function: str, path: Path) -> IO[bytes]:
    """A plain file, opened for reading."""
    try:
        return files.open_plain(path.resolve())
    except DamagedError as error:
        raise DamagedError(
            f"`{function}`: path must be that of a file, got {path}: {error}."
        ) from None


def tensors(function: str, path: Path, file: IO[bytes]) -> dict[str, Tensor]:
    """The arrays that a file promises by name, each of which it has room for."""
    try:
        return promised(file, os.fstat(file.fileno()).st_size)
    except (DamagedError, RecursionError) as error:
        refuse_pickle(function, path, file)
        raise DamagedError(
            f"`{function}`: {path} must be a whole safetensors file, got one in which {error}. "
            "Take a copy of it from elsewhere."
        ) from None


def refuse_pickle(function: str, path: Path, file: IO[bytes]) -> None:
    """Raises with the way out if a file begins as those of PyTorch's own that are pickles do."""
    file.seek(0)
    if file.read(4) == b"PK\x03\x04" or path.suffix in PICKLES:
        raise DamagedError(
            f"`{function}`: {path} must be a safetensors file, got a pickle, as `torch.save` makes "
            "them: to read one is to run what is in it. Convert it in PyTorch, "
            "`safetensors.torch.save_file(torch.load(path, weights_only=True), "
            "'model.safetensors')`."
        )


def promised(file: IO[bytes], size: int) -> dict[str, Tensor]:
    """The arrays of a header, one after the other to the end of the file."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MOST_HEADER):
        raise DamagedError(f"a header of {length} bytes does not fit the file's {size}")
    header = strict.loads(file.read(length), "the header")
    if not isinstance(header, dict) or strict.is_deeper(header, 3):
        raise DamagedError("the header is no dict of arrays")
    header.pop("__metadata__", None)
    found, places = {}, []
    for name, entry in header.items():
        leaf, begin, end = from_entry(name, entry)
        found[name] = Tensor(leaf, 8 + length + begin)
        places.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            raise DamagedError(f"{name[:60]!r} begins at byte {begin}, expected {at}")
        at = end
    if at != size - 8 - length:
        raise DamagedError(f"the arrays end at byte {at} of {size - 8 - length}")
    return found


def from_entry(name: str, entry: Any) -> tuple[Leaf, int, int]:
    """What a header says of one array: what it is, where it begins and ends."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise DamagedError(f"{name[:60]!r} has not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    known = DTYPES.get(dtype) if isinstance(dtype, str) else None
    if known is None:
        raise DamagedError(f"{name[:60]!r} has the dtype {str(dtype)[:40]!r}")
    leaves.check_leaf(ARRAY, known, shape)
    leaf = Leaf(ARRAY, known, tuple(shape))
    sound = (
        isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(n) is int and n >= 0 for n in offsets)
        and offsets[1] - offsets[0] == leaf.nbytes
    )
    if not sound:
        raise DamagedError(f"{name[:60]!r} is {leaf}, but has the bytes {str(offsets)[:60]}")
    return leaf, offsets[0], offsets[1]


def read(file: IO[bytes], tensor: Tensor) -> np.ndarray:
    """One array of a file."""
    file.seek(tensor.begin)
    leaf = tensor.leaf
    array = np.fromfile(file, jnp.dtype(leaf.dtype), math.prod(leaf.shape))
    return array.reshape(leaf.shape)


def nested(path: Path, flat: Mapping[str, Any]) -> Any:
    """Dicts in dicts, of arrays by path."""
    if [*flat] == [""]:
        return flat[""]
    found: dict[str, Any] = {}
    for name, array in flat.items():
        *above, last = name.split("/")
        inner = found
        for part in above:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                break
        if not isinstance(inner, dict) or last in inner:
            raise MismatchError(
                f"`load_weights`: in {path} no array may lie within another, got {name[:60]!r}. "
                "Give `like`."
            )
        inner[last] = array
    return found


def check_same(path: Path, like: Params, found: Mapping[str, Tensor]) -> None:
    """Raises unless a file holds the arrays that are wanted."""
    got = {name: as_struct(tensor.leaf) for name, tensor in found.items()}
    want = {name: as_struct(leaf) for name, leaf in leaves.leaves_of("load_weights", like).items()}
    if wrong := errors.differences(want, got):
        raise MismatchError(
            f"`load_weights`: {path} must hold the arrays of like, got\n  "
            + "\n  ".join(wrong)
            + "\nTake those that fit with `fn.checkpoint.transfer`."
        )


def as_struct(leaf: Leaf) -> Any:
    """A leaf as errors describe it."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if leaf.kind == ARRAY else str(leaf)
