"""Central differences that choose their own step, and the precision that limits them."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import Literal, jaxprs_in_params

RATIO = 4.0
STEPS = tuple(0.1 / RATIO**k for k in range(12))
"""The sizes that are tried."""


class Difference(NamedTuple):
    """The slope of a function of one number at 0.

    Attributes:
        value: the slope; NaN where no step gives a finite one.
        step: the step that was chosen.
        error: how far the value moves between steps; inf where that is 1 part in 100, or where
            shorter steps tell something else.
        kink: whether the slopes to the left and to the right differ at all small steps.
    """

    value: float
    step: float
    error: float
    kink: bool


def central(along: Callable[[float], float], noise: float, least: float = 0.0) -> Difference:
    """The slope of `along` at 0, from central differences extrapolated once.

    The step is that at which the value moves least against its own size: the steps that are too
    long for a fast oscillation give small values, which agree less well than those of short ones.

    Args:
        along: the function.
        noise: the rounding error of its values.
        least: the size below which a slope counts as zero.

    Example:
        >>> found = central(math.exp, 1e-16)
        >>> abs(found.value - 1) < 1e-10, found.error < 1e-8, found.kink
        (True, True, False)
        >>> central(abs, 1e-16).kink
        True
    """
    middle = along(0.0)
    right = [(along(h) - middle) / h for h in STEPS]
    left = [(middle - along(-h)) / h for h in STEPS]
    slopes = [(a + b) / 2 for a, b in zip(right, left, strict=True)]
    limits = extrapolated(slopes)
    best, error, part = 0, math.inf, math.inf
    for k in range(1, len(limits) - 1):
        near = limits[k - 1 : k + 2]
        found = max(abs(limits[k] - near[0]), abs(limits[k] - near[2]), noise / STEPS[k + 1])
        size = max(*map(abs, near), least) or 1.0
        if all(map(math.isfinite, near)) and found / size < part:
            best, error, part = k, found, found / size
    value = limits[best] if best else math.nan
    if part > 1e-2 or is_contradicted(limits, best, error, least):
        error = math.inf
    return Difference(value, STEPS[best + 1], error, is_kink(right, left, noise))


def extrapolated(slopes: Sequence[float]) -> list[float]:
    """Each two differences at steps `h` and `h / RATIO`, without their error of order `h**2`."""
    square = RATIO**2
    return [(square * fine - rough) / (square - 1) for rough, fine in pairwise(slopes)]


def is_contradicted(limits: Sequence[float], best: int, error: float, least: float) -> bool:
    """Whether a shorter step tells another slope, by more than rounding can: it grows as 1 / step.

    Steps that are too long for an oscillation may agree by chance.
    """
    value = limits[best]
    floor = 1e-2 * max(abs(value), least)
    finer = enumerate(limits[best + 1 :], start=1)
    return any(abs(a - value) > max(floor, 100 * error * RATIO**k) for k, a in finer)


def is_kink(right: Sequence[float], left: Sequence[float], noise: float) -> bool:
    """Whether slopes to both sides differ, by what does not vanish with the step.

    Of a smooth function the difference falls with the step; at a kink it stays, and where the
    function itself jumps it grows as `1 / step`. The three smallest steps must agree on it.
    """
    bends = [a - b for a, b in zip(right[-3:], left[-3:], strict=True)]
    scale = max(map(abs, (*right[-3:], *left[-3:])))
    floors = [max(400 * noise / h, 1e-4 * scale) for h in STEPS[-3:]]
    if not all(abs(b) > floor for b, floor in zip(bends, floors, strict=True)):
        return False
    ratios = [bends[1] / bends[0], bends[2] / bends[1]]
    return any(all(abs(r / want - 1) < 0.1 for r in ratios) for want in (1.0, RATIO))


def coarsest(jaxpr: Any) -> Any:
    """The dtype with the fewest digits among what a jaxpr computes from its inputs.

    Arrays that do not depend on the inputs, such as constants in float32, do not count, but those
    that a loop, or the solver of an implicit solution, takes along do.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> with jax.enable_x64(True):
        ...     one = jnp.ones((), jnp.float32)
        ...     x = jnp.ones(())
        ...     print(coarsest(jax.make_jaxpr(lambda x: x + one)(x)))
        ...     print(coarsest(jax.make_jaxpr(lambda x: jnp.float32(x) + 1)(x)))
        float64
        float32
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    found = dtypes(inner, set(inner.invars))
    return max(found, key=rounding)


def rounding(dtype: Any) -> float:
    """The relative error of one rounding in a floating dtype.

    Example:
        >>> rounding("bfloat16")
        0.0078125
    """
    return float(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def dtypes(jaxpr: Any, varying: set[Any]) -> set[Any]:
    """The floating dtypes of what a jaxpr computes from the variables `varying`, to which it adds.

    What is no float, the mask of a comparison say, carries no derivative and ends the search.
    """
    found = {v.aval.dtype for v in varying if is_float(v)}
    for equation in jaxpr.eqns:
        given = [v for v in equation.invars if not isinstance(v, Literal) and v in varying]
        if not given:
            continue
        outputs = {v for v in equation.outvars if is_float(v)}
        varying |= outputs
        found |= {v.aval.dtype for v in outputs}
        for body in jaxprs_in_params(equation.params):
            found |= dtypes(body, varying_inside(equation, body, set(given)))
    return found


def varying_inside(equation: Any, body: Any, given: set[Any]) -> set[Any]:
    """The inputs of a called jaxpr that vary; all, where they are not known one by one.

    A loop feeds its outputs back, so that what varies in the end varies at once.
    """
    loops = equation.primitive.name in ("scan", "while")
    if loops or len(body.invars) != len(equation.invars):
        return {v for v in body.invars if is_float(v)}
    pairs = zip(body.invars, equation.invars, strict=True)
    return {v for v, outer in pairs if not isinstance(outer, Literal) and outer in given}


def is_float(variable: Any) -> bool:
    """Whether a variable holds real floats."""
    return bool(jnp.issubdtype(variable.aval.dtype, jnp.floating))
