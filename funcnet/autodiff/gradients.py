"""Gradients of scalar functions of trees; the checks and the choice of leaves that others share."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.types import Params, PyTree

Wrt: TypeAlias = str | Sequence[str] | Callable[[str, Any], bool] | None
"""The leaves to differentiate: a pattern, several, a predicate `(path, leaf)`, None for all."""


def value_and_grad(
    f: Callable[..., Any], *, wrt: Wrt = None, has_aux: bool = False
) -> Callable[..., Any]:
    """Makes `f(params, ...) -> scalar` into `(params, ...) -> (value, grads)`.

    `grads = df / dparams` has the structure of params. What is not differentiated, by `wrt` or
    because it holds integers, bools or keys, is a constant, and has zeros of its own dtype there.
    Unlike `jax.value_and_grad`, whose errors speak of JAX's types, this one names what is wrong.

    Costs one gradient, 2 to 4 times `f`; leaves that `wrt` leaves out are not computed at all.

    Args:
        f: `f(params, *args, **kwargs)`, a real scalar; `(scalar, aux)` if `has_aux`.
        wrt: the leaves to differentiate. `"encoder/**"` is a pattern of paths, in which `*` stands
            for any part of a name and `**` for any number of names; a sequence of patterns chooses
            what any of them matches; `wrt(path, leaf)` is true for those chosen; None is all.
        has_aux: whether `f` gives a pair, of which only the first is differentiated.

    Returns:
        A function of the same arguments that gives `(value, grads)`, or `((value, aux), grads)`.
        It composes with `jax.jit`, `jax.vmap` and `jax.grad`.

    Raises:
        TypeError, ValueError: when called: params hold what is no array, no floats or nothing;
            `wrt` chooses nothing; `f` does not give a real scalar, or no pair if `has_aux`.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"head": jnp.array(3.0), "body": jnp.array([1.0, 2.0]), "steps": 7}
        >>> f = lambda params, x: params["head"] * jnp.sum(params["body"] * x)
        >>> value, grads = value_and_grad(f, wrt="body")(params, 2.0)
        >>> float(value), {name: leaf.tolist() for name, leaf in grads.items()}
        (18.0, {'body': [6.0, 6.0], 'head': 0.0, 'steps': 0})
    """
    return differentiated("value_and_grad", f, wrt, has_aux)


def grad(f: Callable[..., Any], *, wrt: Wrt = None, has_aux: bool = False) -> Callable[..., Any]:
    """Makes `f(params, ...) -> scalar` into `(params, ...) -> grads`.

    As `value_and_grad`, whose arguments and errors are the same, without the value.

    Args:
        f: `f(params, *args, **kwargs)`, a real scalar; `(scalar, aux)` if `has_aux`.
        wrt: the leaves to differentiate: a pattern, several, a predicate, or None for all.
        has_aux: whether `f` gives a pair, of which only the first is differentiated.

    Returns:
        A function of the same arguments that gives `grads`, or `(grads, aux)`.

    Raises:
        TypeError, ValueError: as `value_and_grad`.

    Example:
        >>> import jax.numpy as jnp
        >>> grad(lambda x: jnp.sum(x**2))(jnp.array([1.0, 2.0])).tolist()
        [2.0, 4.0]
    """
    both = differentiated("grad", f, wrt, has_aux)

    @wraps(f)
    def gradient(params: Params, *args: Any, **kwargs: Any) -> Any:
        value, grads = both(params, *args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return gradient


def differentiated(
    function: str, f: Callable[..., Any], wrt: Wrt, has_aux: bool
) -> Callable[..., Any]:
    """`value_and_grad` on behalf of a public function, which its errors name."""
    errors.function(function, f)
    check_wrt(function, wrt)

    @wraps(f)
    def value_and_gradient(params: Params, *args: Any, **kwargs: Any) -> Any:
        chosen, rest = split(function, params, wrt)

        def of_chosen(chosen: PyTree) -> tuple[Any, Any]:
            found = f(tree.combine(chosen, rest), *args, **kwargs)
            value, aux = pair(function, found) if has_aux else (found, None)
            return scalar(function, value), aux

        (value, aux), grads = jax.value_and_grad(of_chosen, has_aux=True)(chosen)
        return ((value, aux) if has_aux else value), whole(grads, rest)

    return value_and_gradient


def split(function: str, params: Params, wrt: Wrt = None) -> tuple[PyTree, PyTree]:
    """Params twice: the leaves that are differentiated, as arrays, and the others as they are.

    Args:
        function: the public function that asks, named in its errors.
        params: the tree; its integers, bools and keys are never differentiated.
        wrt: as in `value_and_grad`.

    Returns:
        Two trees like params, each with None in place of the leaves of the other: `tree.combine`
        makes params of them.

    Raises:
        TypeError, ValueError: as `value_and_grad`.

    Example:
        >>> split("f", {"kernel": 2.0, "steps": 3})[1]
        {'kernel': None, 'steps': 3}
    """
    check_params(function, params)
    wanted = choice(function, params, wrt)
    found = {path: leaf for path, leaf in tree.paths(params).items() if wanted(path, leaf)}
    if not found:
        raise ValueError(
            f"`{function}`: wrt must choose at least one leaf of params, got none of "
            f"{', '.join(tree.paths(params)) or 'one array'}. Give a pattern, or None for all."
        )
    check_real(function, found)
    chosen, rest = tree.partition(params, lambda path, leaf: path in found and tree.is_float(leaf))
    return jax.tree.map(jnp.asarray, chosen), rest


def whole(grads: PyTree, rest: PyTree) -> PyTree:
    """Grads of the chosen leaves, filled up with zeros where the others are.

    Example:
        >>> whole({"kernel": 2.0, "steps": None}, {"kernel": None, "steps": jnp.arange(2)})
        {'kernel': 2.0, 'steps': Array([0, 0], dtype=int32)}
    """
    return tree.combine(grads, jax.tree.map(jnp.zeros_like, rest))


def like(function: str, name: str, expected: PyTree, v: PyTree) -> PyTree:
    """`v` as arrays, without what stands where `expected` has None; raises unless it is like it.

    A Python number has no dtype of its own, and takes that which is expected.

    Args:
        function: the public function that asks.
        name: its argument, with what it must be like: `"v must be like params"`.
        expected: the arrays or `jax.ShapeDtypeStruct`s that are differentiated.
        v: the tree.
    """
    found = without_others(expected, v)
    others = {type(leaf).__name__ for leaf in jax.tree.leaves(found) if not is_array(leaf)}
    if others:
        raise TypeError(
            f"`{function}`: {name}, got leaves of {', '.join(sorted(others))}. Give arrays alone."
        )
    wrong = errors.differences(tree.spec(expected), tree.spec(found))
    if wrong:
        raise ValueError(
            f"`{function}`: {name}, got {'; '.join(wrong)}. "
            "Give an array of that shape and dtype for each leaf."
        )
    return jax.tree.map(jnp.asarray, found)


def without_others(expected: PyTree, v: PyTree) -> PyTree:
    """`v` with what `expected` has where that has no leaves, or with None there if they differ.

    Example:
        >>> without_others({"kernel": jnp.ones(2), "steps": {"n": None}}, {"kernel": 1, "steps": 3})
        {'kernel': 1, 'steps': {'n': None}}
    """

    def empty(part: Any) -> bool:
        return not jax.tree.leaves(part)

    def kept(want: Any, part: Any) -> Any:
        if empty(want):
            return want
        number = isinstance(part, int | float) and not isinstance(part, bool)
        return np.asarray(part, want.dtype) if number and not want.shape else part

    try:
        return jax.tree.map(kept, expected, v, is_leaf=empty)
    except ValueError:  # JAX's, of another structure; `errors.differences` has better words
        ends = jax.tree_util.tree_leaves_with_path(expected, is_leaf=lambda part: part is None)
        aside = {
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, part in ends
            if part is None
        }
        return tree.partition(v, lambda path, leaf: path not in aside)[0]


def choice(function: str, params: Params, wrt: Wrt) -> Callable[[str, Any], bool]:
    """`wrt` as a predicate."""
    check_wrt(function, wrt)
    if wrt is None:
        return lambda path, leaf: True
    if callable(wrt):
        return wrt
    patterns = [wrt] if isinstance(wrt, str) else wrt
    found = {path for pattern in patterns for path in tree.select(function, params, pattern)}
    return lambda path, leaf: path in found


def check_wrt(function: str, wrt: Any) -> None:
    """Raises unless `wrt` is one of the four kinds."""
    patterns = [wrt] if isinstance(wrt, str) else wrt
    several = isinstance(patterns, Sequence) and all(isinstance(each, str) for each in patterns)
    if not (wrt is None or callable(wrt) or several):
        raise TypeError(
            f"`{function}`: wrt must be a pattern of paths, a sequence of them, a function "
            f"(path, leaf) -> bool or None, got {wrt!r}."
        )


def check_params(function: str, params: Params) -> None:
    """Raises unless params hold arrays, one at least."""
    by_path = tree.paths(params)
    if not by_path:
        raise ValueError(
            f"`{function}`: params must hold at least one array, got {params!r}. "
            "There is nothing to differentiate by."
        )
    others = {path: leaf for path, leaf in by_path.items() if not is_array(leaf)}
    if others:
        raise TypeError(
            f"`{function}`: params must hold arrays alone, got {listed(others)}. "
            "Give f the others as further arguments, or by functools.partial."
        )


def check_real(function: str, found: dict[str, Any]) -> None:
    """Raises unless some leaves by path are floats, and none is complex."""
    imaginary = {path: leaf for path, leaf in found.items() if jnp.iscomplexobj(leaf)}
    if imaginary:
        raise TypeError(
            f"`{function}`: params must be real where they are differentiated, got "
            f"{listed(imaginary)}. Hold the real and the imaginary part as two leaves."
        )
    if not any(tree.is_float(leaf) for leaf in found.values()):
        raise TypeError(
            f"`{function}`: params must hold floats to be differentiated, got {listed(found)}. "
            "Integers have no derivative: convert with .astype(jnp.float32) what is learnt."
        )


def is_array(leaf: Any) -> bool:
    """Whether JAX can compute with a leaf: an array, or a number."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind not in "OSUMm"
    return isinstance(leaf, jax.Array | bool | int | float | complex)


def pair(function: str, found: Any) -> tuple[Any, Any]:
    """What `f` gave if `has_aux`; raises unless it is a pair."""
    if not (isinstance(found, tuple) and len(found) == 2):
        raise TypeError(
            f"`{function}`: f must return a pair (value, aux) with has_aux=True, "
            f"got {errors.describe(found)}. Return a tuple of two."
        )
    return found


def scalar(function: str, value: Any, name: str = "f") -> Any:
    """What `f`, or another argument by name, gave; raises unless it is a real scalar."""
    words = f"{name} must return a real scalar, got {errors.describe(value)}"
    if not is_array(value):
        hint = " Return auxiliary values beside the scalar with has_aux=True."
        hint = hint if isinstance(value, tuple) and function in ("grad", "value_and_grad") else ""
        raise TypeError(f"`{function}`: {words}.{hint}")
    check_floats(function, name, words, value)
    if jnp.shape(value):
        raise ValueError(
            f"`{function}`: {words}. Take its mean or sum, or ask `jacobian` for the derivative "
            "of each element."
        )
    return value


def floats(function: str, outputs: PyTree, name: str = "f") -> PyTree:
    """What `f`, or another argument by name, gave as arrays; raises unless all are real floats."""
    words = f"{name} must return arrays of real floats, got {errors.describe(outputs)}"
    leaves = jax.tree.leaves(outputs)
    if not leaves or not all(map(is_array, leaves)):
        raise TypeError(f"`{function}`: {words}.")
    for leaf in leaves:
        check_floats(function, name, words, leaf)
    return jax.tree.map(jnp.asarray, outputs)


def check_floats(function: str, name: str, words: str, value: Any) -> None:
    """Raises unless an array is of real floats."""
    if jnp.iscomplexobj(value):
        raise TypeError(f"`{function}`: {words}. Take its real part, or the square of its modulus.")
    if not tree.is_float(value):
        raise TypeError(
            f"`{function}`: {words}. Integers have no derivative: "
            f"is there a rounding, a comparison or an argmax at the end of {name}?"
        )


def listed(leaves: dict[str, Any]) -> str:
    """Leaves by path in an error: `kernel: float32[3, 2], steps: 7`."""
    described = ((path, errors.describe(leaf)) for path, leaf in leaves.items())
    return ", ".join(f"{path}: {words}" if path else words for path, words in described)
