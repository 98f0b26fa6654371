"""The words that errors share: how a value, a shape and a mismatch of trees are written."""

import difflib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from funcnet import tree
from funcnet.types import PyTree


def describe(value: Any) -> str:
    """`value` in few words: `float32[8, 3]` for an array, its structure for a tree, else its repr.

    Example:
        >>> import numpy as np
        >>> describe(np.zeros((8, 3), np.float32)), describe((np.zeros(2), 3)), describe("adam")
        ('float32[8, 3]', '(float64[2], 3)', "'adam'")
    """
    match value:
        case tuple() | list():
            words = ", ".join(describe(part) for part in value)
            return f"({words})" if isinstance(value, tuple) else f"[{words}]"
        case dict():
            return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in value.items()) + "}"
        case jax.Array() | np.ndarray() | np.generic() | jax.ShapeDtypeStruct():
            return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    return repr(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A closing sentence for an unknown name: the nearest known one, or all of them.

    Example:
        >>> did_you_mean("val_los", ["loss", "val_loss"])
        "Did you mean 'val_loss'?"
    """
    known = list(known)
    if not known:
        return "None is known."
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known are: {', '.join(map(repr, sorted(known)))}."


def differences(expected: PyTree, actual: PyTree) -> list[str]:
    """Every way in which the leaves of `actual` differ from `expected`, a line each, by path.

    Example:
        >>> import numpy as np
        >>> differences({"bias": np.zeros(2), "kernel": np.zeros((3, 2))}, {"bias": np.zeros(3)})
        ['bias: expected float64[2], got float64[3]', 'kernel: missing, expected float64[3, 2]']
        >>> differences(np.zeros(2), np.zeros(3))
        ['float64[3] in place of float64[2]']
    """
    want, got = tree.paths(expected), tree.paths(actual)
    if "" in want or "" in got:  # one array, which has no path
        words = describe(actual), describe(expected)
        return [f"{words[0]} in place of {words[1]}"] if words[0] != words[1] else []
    lines = []
    for path, leaf in want.items():
        if path not in got:
            lines.append(f"{path}: missing, expected {describe(leaf)}")
        elif describe(leaf) != describe(got[path]):
            lines.append(f"{path}: expected {describe(leaf)}, got {describe(got[path])}")
    more = [path for path in got if path not in want]
    lines += [f"{path}: not expected, got {describe(got[path])}" for path in more]
    want_form, got_form = str(jax.tree.structure(expected)), str(jax.tree.structure(actual))
    if not lines and want_form != got_form:
        lines.append(f"expected {want_form}, got {got_form}")
    return lines


def positive(function: str, **arguments: Any) -> None:
    """Raises unless each argument is a positive whole number.

    Example:
        >>> positive("dense", features=0)
        Traceback (most recent call last):
        ValueError: `dense`: features must be a positive whole number, got 0.
    """
    for name, value in arguments.items():
        words = f"`{function}`: {name} must be a positive whole number, got {value!r}."
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(words)
        if value < 1:
            raise ValueError(words)


def positive_number(
    function: str, name: str, value: Any, *, zero: bool = False, say: float = 1.0
) -> None:
    """Raises unless an argument is a positive number or scalar array; of what is traced, a scalar.

    Args:
        function: the public function that asks.
        name: its argument.
        value: what came.
        zero: whether 0 is allowed too.
        say: what could be given.

    Example:
        >>> positive_number("clip_gradient", "norm", -1.0)
        Traceback (most recent call last):
        ValueError: `clip_gradient`: norm must be a positive number, got -1.0. Give 1.0 say.
    """
    kind = "number, 0 or more" if zero else "positive number"
    words = f"`{function}`: {name} must be a {kind}, got {describe(value)}. Give {say} say."
    scalar_number(words, value)
    if not isinstance(value, jax.core.Tracer) and not (value > 0 or (zero and value == 0)):
        raise ValueError(words)


def scalar_number(words: str, value: Any) -> None:
    """Raises with these words unless a value is a real number or a scalar array of them."""
    number = isinstance(value, int | float | np.ndarray | np.generic | jax.Array)
    if not number or isinstance(value, bool) or np.iscomplexobj(value):
        raise TypeError(words)
    if np.shape(value):
        raise ValueError(words)


def function(public: str, f: Any, name: str = "f") -> None:
    """Raises unless an argument is a function.

    Args:
        public: the public function that asks.
        f: the argument.
        name: what it is called there.

    Example:
        >>> function("grad", 3.0)
        Traceback (most recent call last):
        TypeError: `grad`: f must be a function, got 3.0. Give it first, its arguments after it.
    """
    if not callable(f):
        raise TypeError(
            f"`{public}`: {name} must be a function, got {describe(f)}. "
            "Give it first, its arguments after it."
        )
