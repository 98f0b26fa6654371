"""Pytrees by path: the leaves with their names, sizes, and how two trees differ."""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from funcnet.types import PyTree


def paths(tree: PyTree) -> dict[str, Any]:
    """Leaves of `tree` by path, such as `"encoder/0/kernel"`, in the order of `jax.tree.leaves`.

    Raises:
        ValueError: two leaves have the same path.

    Example:
        >>> paths({"a": [1, 2], "b": {"c": 3}})
        {'a/0': 1, 'a/1': 2, 'b/c': 3}
    """
    found: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if path in found:
            raise ValueError(
                f"`paths`: each leaf must have a path of its own, got {path!r} twice. "
                "Rename the key that has a '/' in it."
            )
        found[path] = leaf
    return found


def select(function: str, tree: PyTree, pattern: str) -> dict[str, Any]:
    """Leaves of `tree` by path whose path matches a pattern.

    Args:
        function: the public function that asks, named in its error.
        tree: the tree.
        pattern: a path in which `*` stands for any part of a name and `**` for any number of names.

    Raises:
        ValueError: no path matches.

    Example:
        >>> params = {"0": {"kernel": 1, "bias": 2}, "head": {"kernel": 3}}
        >>> select("f", params, "**/kernel")
        {'0/kernel': 1, 'head/kernel': 3}
        >>> select("f", params, "head/*")
        {'head/kernel': 3}
    """
    words = {"**/": "(?:.*/)?", "/**": "(?:/.*)?", "**": ".*", "*": "[^/]*"}
    split = re.split(r"(\*\*/|/\*\*|\*\*|\*)", pattern)
    regex = re.compile("".join(words.get(part, re.escape(part)) for part in split))
    by_path = paths(tree)
    found = {path: leaf for path, leaf in by_path.items() if regex.fullmatch(path)}
    if not found:
        raise ValueError(
            f"`{function}`: a pattern must match some path of params, got {pattern!r}. "
            f"{other_than(pattern, by_path)}"
        )
    return found


def other_than(pattern: str, paths: Iterable[str]) -> str:
    """What might have been meant by a pattern that matches no path.

    Example:
        >>> other_than("head", ["head/bias", "head/kernel"])
        "Did you mean 'head/**'? The paths are head/bias, head/kernel."
    """
    known = list(paths)
    if known == [""]:
        return "It is one array, without a path."
    trees = [f"{pattern}/**"] if any(path.startswith(f"{pattern}/") for path in known) else []
    near = trees or difflib.get_close_matches(pattern, known, n=1)
    meant = "".join(f"Did you mean {each!r}? " for each in near)
    return f"{meant}The paths are {', '.join(known)}."


def partition(tree: PyTree, chosen: Callable[[str, Any], bool]) -> tuple[PyTree, PyTree]:
    """`tree` twice: with None in place of the leaves not chosen, and in place of those chosen.

    None is a tree without leaves, so that each half holds only its own. `combine` is the inverse.

    Args:
        tree: the tree.
        chosen: `chosen(path, leaf)`, with paths as of `paths`.

    Example:
        >>> partition({"a": 1, "b": 2.5}, lambda path, leaf: path == "b")
        ({'a': None, 'b': 2.5}, {'a': 1, 'b': None})
    """

    def half(kept: bool) -> PyTree:
        def leaf_or_none(path: Any, leaf: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return leaf if bool(chosen(name, leaf)) == kept else None

        return jax.tree_util.tree_map_with_path(leaf_or_none, tree)

    return half(True), half(False)


def combine(first: PyTree, second: PyTree) -> PyTree:
    """The tree of which `partition` made the two halves.

    Example:
        >>> combine({"a": None, "b": 2.5}, {"a": 1, "b": None})
        {'a': 1, 'b': 2.5}
    """

    def either(one: Any, other: Any) -> Any:
        return other if one is None else one

    return jax.tree.map(either, first, second, is_leaf=lambda leaf: leaf is None)


def is_float(leaf: Any) -> bool:
    """Whether a leaf can be differentiated: an array or a number of real floats.

    Example:
        >>> is_float(1.0), is_float(1), is_float(jnp.ones(2, jnp.bfloat16)), is_float(1j)
        (True, False, True, False)
    """
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def spec(tree: PyTree) -> PyTree:
    """`tree` with each array replaced by the `jax.ShapeDtypeStruct` that JAX would make of it.

    Example:
        >>> import numpy as np
        >>> spec(np.zeros((2, 3), np.float32))
        ShapeDtypeStruct(shape=(2, 3), dtype=float32)
    """

    def of_leaf(leaf: Any) -> jax.ShapeDtypeStruct:
        known = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
        array = leaf if known else jax.typeof(leaf)
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    return jax.tree.map(of_leaf, tree)


def size(tree: PyTree) -> int:
    """Number of array elements in `tree`.

    Example:
        >>> size({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)})
        8
    """
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """Number of bytes that the arrays of `tree` hold.

    Example:
        >>> nbytes(jnp.ones((3, 2), jnp.float32))
        24
    """
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(spec(tree)))


def alike(old: PyTree, new: PyTree) -> PyTree:
    """`new` in the dtypes of `old`, so that a step never changes the type of what it carries.

    Example:
        >>> alike(jnp.zeros(2, jnp.bfloat16), jnp.ones(2)).dtype
        dtype(bfloat16)
    """
    return jax.tree.map(lambda o, n: jax.lax.convert_element_type(n, o.dtype), old, new)


def widen(leaf: jax.Array) -> jax.Array:
    """An array in float32 at least: sums over many values need it.

    Example:
        >>> widen(jnp.ones(2, jnp.bfloat16)).dtype
        dtype('float32')
    """
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def copy(tree: PyTree) -> PyTree:
    """`tree` in new buffers, so that donating the one leaves the other."""
    return jax.tree.map(jnp.copy, tree)
