"""Floating-point operations of a jaxpr, counted by rule from its shapes; nothing is compiled."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params


class Operation(NamedTuple):
    """An equation that calls no other jaxpr, where it stands and how often it runs.

    Attributes:
        path: the names of the `jax.named_scope`s around it, `"encoder/0"`.
        equation: the equation.
        times: the product of the lengths of the scans around it.
    """

    path: str
    equation: JaxprEqn
    times: int


def flops(jaxpr: Any) -> int:
    """Counts the operations of a jaxpr, and of all jaxprs that it calls.

    | primitives | count |
    | --- | --- |
    | matrix products, convolutions | 2 for each multiply-add, products with padding included |
    | elementwise arithmetic and functions | 1 for each element of the output, `exp` as `add` |
    | reductions, cumulative ones, adding scatters | 1 for each element that goes in |
    | reductions over windows | 1 for each element of each window |
    | all else: data movement, comparisons, selection, random bits, sorting, solvers | 0 |

    The dtype makes no difference. A scan counts as often as it runs, a while loop once, for its
    trips are not known. Of a `lax.platform_dependent` the default counts, so that the number is
    the same on all platforms, and of any other `lax.cond` the branch with the most operations.

    Args:
        jaxpr: what `jax.make_jaxpr(f)(*args)` gives.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> flops(jax.make_jaxpr(lambda x, w: x @ w + 1)(jnp.ones((8, 3)), jnp.ones((3, 2))))
        112
    """
    return sum(count(each.equation) * each.times for each in operations(jaxpr))


def operations(jaxpr: Any, path: str = "", times: int = 1) -> Iterator[Operation]:
    """The operations of a jaxpr in order, those of the jaxprs that it calls among them.

    The scopes inside a called jaxpr are relative to the equation that calls it.
    """
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        scope = str(equation.source_info.name_stack)
        here = f"{path}/{scope}" if path and scope else path or scope
        bodies = called(equation)
        if bodies is None:
            yield Operation(here, equation, times)
            continue
        trips = equation.params["length"] if equation.primitive.name == "scan" else 1
        for body in bodies:
            yield from operations(body, here, times * trips)


def called(equation: JaxprEqn) -> list[Jaxpr] | None:
    """The jaxprs that an equation runs; None if it is an operation itself."""
    if equation.primitive.name in COUNTS:
        return None
    if equation.primitive.name == "cond":
        return [branch(equation)]
    return list(jaxprs_in_params(equation.params)) or None


def branch(equation: JaxprEqn) -> Jaxpr:
    """The branch of a `cond` that counts: the default of the platforms, else the costliest."""
    branches: tuple[Jaxpr, ...] = equation.params["branches"]
    platforms = equation.params.get("branches_platforms") or ()
    if None in platforms:
        return branches[platforms.index(None)]
    return max(branches, key=flops)


def count(equation: JaxprEqn) -> int:
    """The operations of one equation, by the table in `flops`."""
    rule = COUNTS.get(equation.primitive.name)
    return 0 if rule is None else rule(equation)


def shape(variable: Any) -> tuple[int, ...]:
    """The shape of a variable or literal."""
    return tuple(variable.aval.shape)


def size(variable: Any) -> int:
    """Number of elements of a variable or literal."""
    return math.prod(shape(variable))


def each_output(equation: JaxprEqn) -> int:
    """One for each element that comes out."""
    return size(equation.outvars[0])


def each_input(equation: JaxprEqn) -> int:
    """One for each element that goes in."""
    return size(equation.invars[0])


def each_update(equation: JaxprEqn) -> int:
    """One for each element that is scattered."""
    return size(equation.invars[2])


def each_in_window(equation: JaxprEqn) -> int:
    """One for each element of each window."""
    window: tuple[int, ...] = equation.params["window_dimensions"]
    return size(equation.outvars[0]) * math.prod(window)


def dot_general(equation: JaxprEqn) -> int:
    """Two for each element that comes out and each along the contracted axes."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    lengths: list[int] = [shape(equation.invars[0])[axis] for axis in contracted]
    return 2 * size(equation.outvars[0]) * math.prod(lengths)


def convolution(equation: JaxprEqn) -> int:
    """Two for each element that comes out and each weight that leads to its channel."""
    kernel = equation.invars[1]
    features: int = shape(kernel)[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * size(equation.outvars[0]) * size(kernel) // features


ELEMENTWISE = """
    abs acos acosh add add_any asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    cos cosh digamma div erf erf_inv erfc exp exp2 expm1 floor igamma igammac integer_pow lgamma
    log log1p log2 logistic max min mul neg one_minus_square polygamma pow
    regularized_incomplete_beta rem round rsqrt sign sin sinh sqrt square sub tan tanh zeta
"""

REDUCTIONS = """
    argmax argmin cumlogsumexp cummax cummin cumprod cumsum
    reduce reduce_max reduce_min reduce_prod reduce_sum
"""

WINDOWS = "reduce_window reduce_window_max reduce_window_min reduce_window_sum"

SCATTERS = "scatter-add scatter-max scatter-min scatter-mul scatter-sub"

COUNTS: dict[str, Callable[[JaxprEqn], int]] = {
    **dict.fromkeys(ELEMENTWISE.split(), each_output),
    **dict.fromkeys(REDUCTIONS.split(), each_input),
    **dict.fromkeys(WINDOWS.split(), each_in_window),
    **dict.fromkeys(SCATTERS.split(), each_update),
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
}
"""How the operations of each primitive are counted; those that are not here count 0."""
