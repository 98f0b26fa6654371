"""The leaves of a saved tree, each by its path: its kind, its dtype and shape, or its value."""

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.checkpoint.failures import DamagedError
from funcnet.types import PyTree

DTYPES = (
    *("bool", "int2", "int4", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
    *("float4_e2m1fn", "float8_e3m4", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
"""What TensorStore can keep: JAX's own but for uint2, uint4 and float8_e4m3."""

ARRAY = "array"
PYTHON = {"bool": bool, "int": int, "float": float, "str": str}
"""Kinds of leaves that are no arrays."""

MOST_AXES = 32
DIGITS = re.compile("-?[0-9]{1,4000}")
MOST_LETTERS = 2**20


@dataclass(frozen=True)
class Leaf:
    """One leaf.

    Attributes:
        kind: `"array"`, the dtype of a key such as `"key<fry>"`, or the name of a type of Python's.
        dtype: of the array that is stored, a key's own data say.
        shape: of the same.
        value: of a leaf that is no array, as JSON can hold it exactly.
    """

    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    value: bool | str | None = None

    def __str__(self) -> str:
        if self.kind in PYTHON:
            return f"a Python {self.kind}"
        if self.kind == ARRAY:
            return f"{self.dtype}[{', '.join(map(str, self.shape))}]"
        return f"{self.kind}[{', '.join(map(str, self.shape[:-1]))}]"

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        if not self.dtype:
            return 0
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


def leaf_of(value: Any) -> Leaf | None:
    """What a value is as a leaf, or None where it can't be saved.

    Example:
        >>> str(leaf_of(jnp.ones((3, 2)))), str(leaf_of(jax.random.key(0))), leaf_of(0.5).value
        ('float32[3, 2]', 'key<fry>[]', '0x1.0000000000000p-1')
    """
    for kind, python in PYTHON.items():
        if type(value) is python:
            return Leaf(kind, value=written(value))
    if not isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return None
    if is_key(value):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(value.shape, value.dtype))
        return Leaf(str(value.dtype), data.dtype.name, tuple(data.shape))
    name = str(value.dtype)
    return Leaf(ARRAY, name, tuple(value.shape)) if name in DTYPES else None


def is_key(value: Any) -> bool:
    """Whether an array holds keys of JAX's own dtype."""
    return bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def leaves_of(function: str, tree_: PyTree) -> dict[str, Leaf]:
    """The leaves of a tree by path.

    Raises:
        TypeError: some can't be saved; all of them are named.
    """
    found = {path: leaf_of(value) for path, value in tree.paths(tree_).items()}
    wrong = [path for path, leaf in found.items() if leaf is None]
    if wrong:
        by_path = tree.paths(tree_)
        words = [f"{path or 'the tree'}: {kind_words(by_path[path])}" for path in wrong]
        raise TypeError(
            f"`{function}`: each leaf must be an array of numbers, a key, or a bool, int, float or "
            f"str, got {'; '.join(words)}. Leave it out, or turn it into arrays."
        )
    return {path: leaf for path, leaf in found.items() if leaf is not None}


def kind_words(value: Any) -> str:
    """A value that can't be saved, in few words."""
    array = isinstance(value, jax.Array | np.ndarray | np.generic)
    return errors.describe(value) if array else type(value).__name__


def written(value: Any) -> bool | str:
    """A value of Python's as JSON can hold it exactly."""
    if isinstance(value, bool | str):
        return value
    return value.hex() if isinstance(value, float) else str(value)


def read_value(leaf: Leaf) -> Any:
    """The value of a leaf that is no array.

    Raises:
        DamagedError: it is not written as funcnet does.

    Example:
        >>> read_value(Leaf("int", value="12")), read_value(Leaf("float", value="nan"))
        (12, nan)
    """
    value = leaf.value
    if leaf.kind == "bool" and isinstance(value, bool):
        return value
    if leaf.kind == "str" and isinstance(value, str) and len(value) <= MOST_LETTERS:
        return value
    if leaf.kind == "int" and isinstance(value, str) and re.fullmatch(DIGITS, value):
        return int(value)
    if leaf.kind == "float" and isinstance(value, str) and len(value) <= 40:
        try:
            return float.fromhex(value)
        except (ValueError, OverflowError):
            pass
    raise DamagedError(f"the manifest holds {str(value)[:40]!r} for a {leaf.kind}")


@cache
def key_dtypes() -> dict[str, Any]:
    """The name of each implementation of keys that JAX has, by the name of its dtype."""
    names = "threefry2x32", "rbg", "unsafe_rbg"
    return {
        str(jax.eval_shape(lambda n=name: jax.random.key(0, impl=n)).dtype): name for name in names
    }


def as_keys(kind: str, data: Any, like: Any) -> jax.Array:
    """Keys of their data, of the implementation that `like` has, or that the kind names."""
    known = isinstance(like, jax.Array) and is_key(like)
    impl = jax.random.key_impl(like) if known else key_dtypes()[kind]
    keys: jax.Array = jax.random.wrap_key_data(data, impl=impl)
    return keys


def are_keys(kind: str, dtype: str, shape: list[int]) -> bool:
    """Whether an array can be the data of keys of a kind, so far as the kind is known."""
    if kind not in key_dtypes():
        return bool(shape)
    one = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=key_dtypes()[kind])))
    return bool(dtype == one.dtype.name and tuple(shape[-1:]) == one.shape)


def check_leaf(kind: Any, dtype: Any, shape: Any) -> None:
    """Raises unless these can be a stored array's."""
    sound = (
        isinstance(kind, str)
        and (kind == ARRAY or re.fullmatch(r"key<\w{1,40}>", kind))
        and isinstance(dtype, str)
        and dtype in DTYPES
        and isinstance(shape, list)
        and len(shape) <= MOST_AXES
        and all(type(n) is int and 0 <= n < 2**48 for n in shape)
        and math.prod(shape) < 2**60
    )
    if not sound:
        raise DamagedError(
            f"the manifest has an array of kind {str(kind)[:40]}, dtype {str(dtype)[:40]}, "
            f"shape {str(shape)[:80]}"
        )
