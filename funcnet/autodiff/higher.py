"""Derivatives of higher order along a line: Taylor coefficients, nth and mixed partial derivatives.

Jacobians and Hessians of many variables are not here: their number grows with each order.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import jet

from funcnet import errors, tree
from funcnet.autodiff import gradients
from funcnet.types import PyTree


def taylor(
    f: Callable[..., PyTree], x: PyTree, direction: PyTree, order: int, *args: Any
) -> tuple[PyTree, ...]:
    """The Taylor coefficients of `f` at `x` along a direction: `order + 1` trees.

        f(x + t v) = c₀ + c₁ t + ... + cₙ tⁿ + O(tⁿ⁺¹),   cₖ = (1 / k!) dᵏ/dtᵏ f(x + t v) at t = 0

    Cost: about n² / 2 evaluations of `f` by Taylor mode (`jax.experimental.jet`) where `f` is made
    of operations that it knows, and of none with a rule of its own, which Taylor mode would
    pass over. Else forward mode in forward mode gives the same numbers, at 2ⁿ evaluations: so for
    loops, `cond`, `sort`, `jnp.tan`, linear solves, `jax.nn.relu`, the modulus of a complex number.
    Forward or reverse mode, jit and vmap apply to either.

    Where a derivative is not finite, or f is at the edge of where it has one or outside, Taylor
    mode gives NaN, also for what would be inf or finite in forward mode: `sqrt`, `1 / x` and `log`
    at 0, `log2` below it, `exp` where it is near to overflow.

    Args:
        f: `f(x, *args)`, any tree of arrays.
        x: a tree; its floats are moved along the direction, its other leaves passed by.
        direction: a tree like `x`; what stands in the place of a leaf that is no float is not read.
        order: n, 0 or more.
        *args: further arguments of `f`.

    Returns:
        `(c₀, ..., cₙ)`, each a tree like `f(x, *args)`.

    Raises:
        TypeError: `f` is no function, `order` no whole number, or an output of `f` no float.
        ValueError: `order` is negative, `x` has no floats, or `direction` is not like `x`.

    Source:
        Griewank and Walther, "Evaluating Derivatives", 2008, chapter 13; Bettencourt et al.,
        "Taylor-Mode Automatic Differentiation for Higher-Order Derivatives in JAX", 2019.

    Example:
        >>> c0, c1, c2, c3 = taylor(jnp.exp, 0.0, 1.0, 3)
        >>> print(f"{c0:.4f} {c1:.4f} {c2:.4f} {c3:.4f}")
        1.0000 1.0000 0.5000 0.1667
    """
    errors.function("taylor", f)
    order = counted("taylor", "order", order)
    moving, rest = floats("taylor", "x", x)
    v = gradients.like("taylor", "direction must be a tree like x", moving, direction)

    def along(leaves: list[jax.Array]) -> PyTree:
        moved = jax.tree.unflatten(jax.tree.structure(moving), leaves)
        return f(tree.combine(moved, rest), *args)

    return coefficients("taylor", along, jax.tree.leaves(moving), jax.tree.leaves(v), order)


def nth_derivative(f: Callable[..., PyTree], n: int) -> Callable[..., PyTree]:
    """The nth derivative of a function of one number, `f(x, *args) -> any tree`.

    `x` is a scalar: for many points take `jax.vmap(nth_derivative(f, n))`, and for a derivative
    along a direction of many variables `taylor`, of which this is `n! cₙ`.

    Args:
        f: `f(x, *args)` with `x` float[].
        n: the order, 0 or more; 0 gives `f` itself.

    Returns:
        `derivative(x, *args)`, a tree like `f(x, *args)`. Its cost is that of `taylor`.

    Raises:
        TypeError: `f` is no function, or `n` no whole number; when called, `x` or an output of `f`
            is no float.
        ValueError: `n` is negative; when called, `x` is no scalar.

    Example:
        >>> third = nth_derivative(jnp.sin, 3)
        >>> print(f"{third(0.0):.1f}")
        -1.0
        >>> print(jax.vmap(nth_derivative(lambda x: x**4, 2))(jnp.array([1.0, 2.0])))
        [12. 48.]
    """
    errors.function("nth_derivative", f)
    n = counted("nth_derivative", "n", n)

    def derivative(x: Any, *args: Any, **kwargs: Any) -> PyTree:
        x = number("nth_derivative", "x", x)
        return derivative_of("nth_derivative", lambda x: f(x, *args, **kwargs), x, n)

    return derivative


def partial(f: Callable[..., PyTree], *names: str) -> Callable[..., PyTree]:
    """A partial derivative by the names of arguments: `partial(u, "t")`, `partial(u, "x", "x")`.

        partial(u, "t", "x", "x")(params, t, x) = ∂³u / ∂t ∂x²

    It has the signature of `f`, so that it is called, mapped and differentiated as `f` is, by
    params too: the residual of a differential equation is the equation. The arguments named are
    scalars: write `f` for one point and `jax.vmap` the residual over the points.

    Args:
        f: a function with named arguments.
        *names: an argument for each order, repeated for a higher one. The order of the names is of
            no account: the derivatives are taken to be continuous.

    Returns:
        The derivative, with the arguments of `f`. Its cost is the product of those of
        `nth_derivative` for each name.

    Raises:
        TypeError: `f` has no signature to read; when called, a named argument is no float.
        ValueError: no name is given, or `f` has no such argument; when called, a named argument
            is no scalar.

    Source:
        Raissi, Perdikaris and Karniadakis, "Physics-informed neural networks", 2019, for the use.

    Example:
        The heat equation `u_t = u_xx`, and a solution of it:

        >>> def u(t, x):
        ...     return jnp.exp(-(jnp.pi**2) * t) * jnp.sin(jnp.pi * x)
        >>> def residual(t, x):
        ...     return partial(u, "t")(t, x) - partial(u, "x", "x")(t, x)
        >>> points = jnp.linspace(0.0, 1.0, 5)
        >>> print(jnp.abs(jax.vmap(residual)(points, points)).max() < 1e-5)
        True
    """
    signature = signature_of(f)
    must_name(names, signature.parameters)

    def derivative(*args: Any, **kwargs: Any) -> PyTree:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()

        def of(values: Mapping[str, Any]) -> PyTree:
            now = inspect.BoundArguments(signature, {**bound.arguments, **values})
            return f(*now.args, **now.kwargs)

        at = {name: number("partial", name, bound.arguments[name]) for name in names}
        return mixed(of, at, Counter(names))

    derivative.__signature__ = signature  # type: ignore[attr-defined]  # what inspect reads
    return derivative


def mixed(
    f: Callable[[Mapping[str, Any]], PyTree], at: Mapping[str, jax.Array], orders: Mapping[str, int]
) -> PyTree:
    """∂f at a point, the last name's derivative being the innermost."""
    if not orders:
        return f(at)
    (name, order), *others = orders.items()

    def of_one(value: jax.Array) -> PyTree:
        return mixed(f, {**at, name: value}, dict(others))

    return derivative_of("partial", of_one, at[name], order)


def derivative_of(function: str, f: Callable[[Any], PyTree], x: jax.Array, n: int) -> PyTree:
    """The nth derivative of a function of one number."""
    found = coefficients(function, lambda xs: f(xs[0]), [x], [jnp.ones_like(x)], n)
    return jax.tree.map(lambda leaf: leaf * math.factorial(n), found[n])


def coefficients(
    function: str,
    f: Callable[[list[jax.Array]], PyTree],
    x: list[jax.Array],
    v: list[jax.Array],
    order: int,
) -> tuple[PyTree, ...]:
    """Taylor coefficients of a function of a list of arrays."""
    jaxpr, outputs = jax.make_jaxpr(f, return_shape=True)(x)
    wrong = {path: leaf for path, leaf in tree.paths(outputs).items() if not tree.is_float(leaf)}
    if wrong:
        listed = ", ".join(
            f"{path}: {errors.describe(leaf)}" if path else errors.describe(leaf)
            for path, leaf in wrong.items()
        )
        raise TypeError(
            f"`{function}`: every output of f must be a float array, got {listed}. Return it "
            "apart, or cast it."
        )
    if order == 0:
        return (f(x),)
    if jet_knows(jaxpr.jaxpr):
        return by_jet(f, x, v, order)
    return by_jvps(f, x, v, order)


UNTRUE = {"acosh", "asinh", "atan2", "atanh", "clamp", "max", "min", "pow"}
"""Operations whose rule in `jet` differs from JAX's derivative: `pow` has log x, which is NaN for
negative x, `atan2(y, x)` divides by x, those of hyperbolic functions lose digits, and the others
have other slopes at ties or fail there."""

UNTRUE_OF_COMPLEX = {"abs", "sign"}


def jet_knows(jaxpr: Any) -> bool:
    """Whether Taylor mode has a true rule for every operation, inside of jitted functions too.

    It would pass over rules of functions' own (`custom_jvp`), for which there is no rule here.
    """
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if equation.primitive not in jet.jet_rules or name in UNTRUE:
            return False
        if name in UNTRUE_OF_COMPLEX and jnp.iscomplexobj(equation.invars[0].aval):
            return False
        if name in ("jit", "pjit") and not jet_knows(equation.params["jaxpr"].jaxpr):
            return False
    return True


def by_jet(
    f: Callable[[list[jax.Array]], PyTree], x: list[jax.Array], v: list[jax.Array], order: int
) -> tuple[PyTree, ...]:
    """Taylor mode."""
    series = [[d] + [jnp.zeros_like(d)] * (order - 1) for d in v]
    value, outputs = jet.jet(lambda *x: f(list(x)), x, series, factorial_scaled=False)
    by_order = [jax.tree.map(lambda _, s, k=k: s[k], value, outputs) for k in range(order)]
    return (f(x), *by_order)  # its own value of tanh x is 2 logistic(2 x) - 1: no digits near 0


def by_jvps(
    f: Callable[[list[jax.Array]], PyTree], x: list[jax.Array], v: list[jax.Array], order: int
) -> tuple[PyTree, ...]:
    """Forward mode in forward mode: the kth gives the derivatives up to the kth at once."""

    def derivatives(k: int, x: list[jax.Array]) -> tuple[PyTree, ...]:
        if k == 0:
            return (f(x),)
        lower, slopes = jax.jvp(lambda x: derivatives(k - 1, x), (x,), (v,))
        return (*lower, slopes[-1])

    return tuple(
        jax.tree.map(lambda leaf, k=k: leaf / math.factorial(k), tree_of_order)
        for k, tree_of_order in enumerate(derivatives(order, x))
    )


def floats(function: str, name: str, x: PyTree) -> tuple[PyTree, PyTree]:
    """The float leaves as arrays, and the others."""
    moving, rest = tree.partition(x, lambda path, leaf: tree.is_float(leaf))
    if not jax.tree.leaves(moving):
        raise ValueError(
            f"`{function}`: {name} must hold at least one float, got {errors.describe(x)}. "
            "Only floats have derivatives."
        )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), moving), rest


def number(function: str, name: str, x: Any) -> jax.Array:
    """A float scalar as an array; raises unless it is one."""
    words = f"`{function}`: {name} must be a float scalar, got {errors.describe(x)}."
    if isinstance(x, int) and not isinstance(x, bool):
        raise TypeError(f"{words} Write {float(x)}.")
    if not jax.tree_util.all_leaves([x]) or not tree.is_float(x):
        raise TypeError(f"{words} Cast it, or take `taylor` for a tree.")
    if jnp.shape(x):
        raise ValueError(f"{words} Write f for one point, and `jax.vmap` over the points.")
    return jnp.asarray(x, jnp.result_type(x))


def counted(function: str, name: str, value: Any) -> int:
    """A whole number, 0 or more, as Python's; raises unless it is one."""
    words = f"`{function}`: {name} must be a whole number, 0 or more, got {value!r}."
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(words)
    if value < 0:
        raise ValueError(words)
    return int(value)


def signature_of(f: Callable[..., Any]) -> inspect.Signature:
    """The arguments of a function; raises where they are not known."""
    try:
        return inspect.signature(f)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`partial`: f must be a function with named arguments, got {f!r}. Wrap it: "
            "`lambda t, x: f(t, x)`."
        ) from error


def must_name(names: tuple[str, ...], parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raises unless there are names, and each is an argument."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = [name for name, parameter in parameters.items() if parameter.kind not in variadic]
    if not names:
        raise ValueError(
            "`partial`: at least one argument must be named, got none. Known are: "
            f"{', '.join(map(repr, known))}."
        )
    for name in names:
        if name not in known:
            raise ValueError(
                f"`partial`: every name must be an argument of f, got {name!r}. "
                f"{errors.did_you_mean(str(name), known)}"
            )
