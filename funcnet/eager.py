"""What runs value by value, as Python does: all that a trainer with `eager=True` calls.

The switch itself is `jax.disable_jit`. Here stands what it does not reach: shapes that are found by
tracing, and the values of arrays that are being differentiated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import tree
from funcnet.types import PyTree


def is_eager() -> bool:
    """Whether nothing is compiled here, since `eagerly` or `jax.disable_jit` is in force."""
    return bool(jax.config.jax_disable_jit)  # type: ignore[attr-defined] # set at run time


@contextmanager
def eagerly(on: bool = True) -> Iterator[None]:
    """While it lasts, nothing is compiled, and arrays show their values, if `on`.

    Example:
        >>> import jax, numpy as np
        >>> def cube(x):
        ...     print(f"{x:.1f}", np.sqrt(x))
        ...     return x**3
        >>> with eagerly():
        ...     print(float(jax.grad(cube)(4.0)))
        4.0 2.0
        48.0
    """
    if not on:
        yield
        return
    show_values()
    with jax.disable_jit():
        yield


def outcome(f: Callable[..., Any], *args: Any) -> Any:
    """What stands for `f(*args)` where its shapes matter: specs; values, where all runs eagerly.

    Example:
        >>> outcome(jnp.sum, jax.ShapeDtypeStruct((3, 2), "float32"))
        ShapeDtypeStruct(shape=(), dtype=float32)
    """
    return f(*outline(args)) if is_eager() else jax.eval_shape(f, *args)


def shapes(f: Callable[..., Any], *args: Any) -> Any:
    """The specs of `f(*args)`; `f` is called on values where all runs eagerly, else traced."""
    return tree.spec(outcome(f, *args))


def outline(x: PyTree) -> PyTree:
    """What stands for `x` where its shapes matter: specs; values, where all runs eagerly.

    What has none then gets some: numbers between 0 and 1, or zeros if they are integers.

    Example:
        >>> outline(np.zeros(3, np.float32))
        ShapeDtypeStruct(shape=(3,), dtype=float32)
        >>> with eagerly():
        ...     print(outline(jax.ShapeDtypeStruct((3,), "float32")))
        [0.25 0.5  0.75]
    """
    return jax.tree.map(some_values, x) if is_eager() else tree.spec(x)


def compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, compiled even where all else runs eagerly: for what no layer is part of."""
    jitted = jax.jit(f)

    def call(*args: Any) -> Any:
        if not is_eager():
            return f(*args)
        with jax.disable_jit(False):
            return jitted(*args)

    return call


def some_values(leaf: Any) -> Any:
    """An array as it is, or one of the shape and dtype that a spec tells."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros(leaf.shape, leaf.dtype)
    return jnp.linspace(0, 1, leaf.size + 2)[1:-1].reshape(leaf.shape).astype(leaf.dtype)


@cache
def show_values() -> None:
    """Lets an array that is being differentiated give its values, once and for all.

    JAX hands such an array to layers as a tracer. It knows its values, decides an `if` by them and
    gives `x.item()`, but neither prints them nor gives them to NumPy or `float`. Where nothing is
    compiled, now it does. What has no values, under `jax.vmap` say, stays as it was.
    """

    def shown(name: str, of_value: Callable[..., Any]) -> None:
        before = getattr(jax.core.Tracer, name)

        @wraps(before)
        def method(self: Any, *args: Any, **settings: Any) -> Any:
            value = self.to_concrete_value() if is_eager() else None
            if value is None:
                return before(self, *args, **settings)
            return of_value(value, *args, **settings)

        setattr(jax.core.Tracer, name, method)

    shown("__array__", np.asarray)
    shown("__float__", float)
    shown("__complex__", complex)
    shown("__repr__", repr)
    shown("__str__", str)
    shown("__format__", format)
    shown("tolist", lambda value: value.tolist())
