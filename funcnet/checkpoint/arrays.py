"""Arrays on the disk, by Orbax: one folder each, in plain Zarr, without compression.

A file's size then follows from the array's shape, so that no file can hold more than is asked for.
"""

import asyncio
import itertools
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.checkpoint import processes, strict
from funcnet.checkpoint.failures import DamagedError
from funcnet.checkpoint.leaves import Leaf

T = TypeVar("T")

HEADER = ".zarray"
MOST_HEADER = 4096
PLAIN = {
    "zarr_format": 2,
    "order": "C",
    "compressor": None,
    "filters": None,
    "fill_value": None,
    "dimension_separator": ".",
}
"""All that a header may say but for dtype, shape and chunks."""


def begin(directory: Path, arrays: Mapping[str, Any]) -> Callable[[], None]:
    """Begins to write arrays, and returns once they may change or be donated.

    Args:
        directory: where the folders are made.
        arrays: each by the name of its folder; with several processes, the same in each.

    Returns:
        A function that waits until this process has written its part.
    """
    from orbax.checkpoint import type_handlers

    divided = {name: array for name, array in arrays.items() if is_divided(array)}
    whole = {name: on_host(array) for name, array in arrays.items() if name not in divided}
    # jax arrays are immutable, but a view on a CPU's memory is all that Orbax takes: the runtime
    # copies on donation what is still looked at (tests/checkpoint/test_store.py holds it to that)
    handlers = (
        (type_handlers.ArrayHandler(enable_write_sharding_file=False), divided),
        (type_handlers.NumpyHandler(deepcopy_host_arrays=False), whole),
    )
    futures = [
        future
        for handler, part in handlers
        if part
        for future in in_thread(handler.serialize([*part.values()], infos(directory, [*part])))
    ]

    def wait() -> None:
        ended = [failure(future) for future in futures]  # none is writing any more
        for error in ended:
            if error is not None:
                raise error

    return wait


def failure(future: Any) -> Exception | None:
    """The error that a future ends in, or None."""
    try:
        future.result()
    except Exception as error:
        return error
    return None


def is_divided(array: Any) -> bool:
    """Whether an array is written from where it lives, each process writing what it has."""
    return isinstance(array, jax.Array) and not (processes.several() and array.is_fully_addressable)


def on_host(array: Any) -> np.ndarray:
    """A copy of an array in this process's memory."""
    return np.array(array)


def infos(directory: Path, names: Sequence[str]) -> list[Any]:
    """What Orbax wants to know of each array."""
    from etils import epath
    from orbax.checkpoint import type_handlers

    context = type_handlers.get_ts_context(use_ocdbt=False)
    return [
        type_handlers.ParamInfo(
            name=name,
            parent_dir=epath.Path(directory.absolute()),
            is_ocdbt_checkpoint=False,
            use_compression=False,
            ts_context=context,
        )
        for name in names
    ]


def in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, where a loop may be running already, as in a notebook."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def read(directory: Path, wanted: Mapping[str, tuple[Leaf, Any]]) -> dict[str, Any]:
    """Arrays by the name of their folder.

    Args:
        directory: where the folders are.
        wanted: what each array is, and the `jax.sharding.Sharding` that it is to have; None for a
            NumPy array.
    """
    from orbax.checkpoint import type_handlers

    divided = {name: each for name, each in wanted.items() if each[1] is not None}
    whole = [name for name in wanted if name not in divided]
    found: dict[str, Any] = {}
    if divided:
        args = [
            type_handlers.ArrayRestoreArgs(
                sharding=sharding, global_shape=leaf.shape, dtype=jnp.dtype(leaf.dtype)
            )
            for leaf, sharding in divided.values()
        ]
        handler = type_handlers.ArrayHandler()
        arrays = in_thread(handler.deserialize(infos(directory, [*divided]), args))
        found |= zip(divided, arrays, strict=True)
    if whole:
        arrays = in_thread(type_handlers.NumpyHandler().deserialize(infos(directory, whole)))
        found |= zip(whole, arrays, strict=True)
    for name, (leaf, _) in wanted.items():
        array = found[name]
        if (str(array.dtype), tuple(array.shape)) != (leaf.dtype, leaf.shape):
            raise DamagedError(f"{name} reads as {array.dtype}{list(array.shape)}, expected {leaf}")
    return found


def check_header(text: bytes, name: str, leaf: Leaf) -> dict[str, int]:
    """The files that a header promises, each with its size.

    Raises:
        DamagedError: the header is not that of this array in plain Zarr.

    Example:
        >>> check_header(
        ...     b'{"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<f4", "order": "C",'
        ...     b' "compressor": null, "filters": null, "fill_value": null}',
        ...     "arrays/000000",
        ...     Leaf("array", "float32", (4,)),
        ... )
        {'arrays/000000/0': 8, 'arrays/000000/1': 8}
    """
    what = f"{name}/{HEADER}"
    found = strict.loads(text, what)
    if not isinstance(found, dict):
        raise DamagedError(f"{what} is no dict")
    expected = PLAIN | {"dtype": encoded(leaf.dtype), "shape": list(leaf.shape)}
    chunks: Any = found.get("chunks")
    for key in {*found, *expected} - {"chunks"}:
        said = found.get(key, PLAIN.get(key) if key == "dimension_separator" else ...)
        if key not in expected or said != expected[key] or type(said) is not type(expected[key]):
            raise DamagedError(f"{what} says {said!r:.60} for {key!r:.30}")
    sound = (
        isinstance(chunks, list)
        and len(chunks) == len(leaf.shape)
        and all(
            type(c) is int and 0 < c <= n and n % c == 0
            for c, n in zip(chunks, leaf.shape, strict=True)
        )
    )
    if not sound:
        raise DamagedError(f"{what} says {chunks!r:.60} for 'chunks'")
    counts = [n // c for c, n in zip(chunks, leaf.shape, strict=True)]
    if math.prod(counts) > 2**20:
        raise DamagedError(f"{what} promises {math.prod(counts)} files")
    size = math.prod(chunks) * jnp.dtype(leaf.dtype).itemsize
    grid = itertools.product(*map(range, counts))
    return {f"{name}/{'.'.join(map(str, place)) or '0'}": size for place in grid}


def encoded(dtype: str) -> str:
    """How Zarr names a dtype.

    Example:
        >>> encoded("float32"), encoded("bfloat16"), encoded("bool")
        ('<f4', 'bfloat16', '|b1')
    """
    of_numpy = np.dtype(jnp.dtype(dtype))
    return of_numpy.str if of_numpy.isbuiltin == 1 else dtype
