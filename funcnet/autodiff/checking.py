"""Whether derivatives are right: forward mode, reverse mode and differences compared in 64 bits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import errors
from funcnet.autodiff.differences import central, rounding
from funcnet.autodiff.problems import SLOPES, Problem, Programs, pose

WORST_FIRST = ("wrong", "nan", "no rule", "unclear", "kink?", "ok")


class GradRow(NamedTuple):
    """The derivative of one order along one leaf, in every way that was tried.

    Attributes:
        path: the leaf, named by the argument it stands in, `"params/0/kernel"`.
        order: 1 for the slope, 2 for the curvature.
        values: the derivative by mode: `fwd` and `rev`, or `fwd-rev` for forward over reverse.
        differences: the same by central differences.
        step: size of these differences, relative to the leaf's root mean square.
        between: the largest disagreement between two modes, relative.
        off: the largest disagreement of a mode and the differences, relative.
        verdict: as told in `check_grads`.
    """

    path: str
    order: int
    values: dict[str, float]
    differences: float
    step: float
    between: float
    off: float
    verdict: str


@dataclass(frozen=True, repr=False)
class GradReport:
    """What `check_grads` gives; print it to read it.

    Attributes:
        rows: a row for each differentiated leaf and each order.
        notes: what else was found: missing rules, leaves passed by, coarse arithmetic.
    """

    rows: tuple[GradRow, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every verdict is "ok"."""
        return all(row.verdict == "ok" for row in self.rows)

    @property
    def worst(self) -> GradRow:
        """The row with the worst verdict, and of those the one that is furthest off."""
        return min(self.rows, key=severity)

    def __repr__(self) -> str:
        head = ("leaf", "order", "between modes", "off differences", "step", "verdict")
        body = [cells(row) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        table = [head, tuple("-" * width for width in widths), *body]
        lines = [
            "  ".join(f"{w:{side}{n}}" for w, n, side in zip(row, widths, "<>>>><", strict=True))
            for row in table
        ]
        return "\n".join([*(line.rstrip() for line in lines), *self.last_lines()])

    def last_lines(self) -> list[str]:
        """What stands below the table: the worst row in numbers unless all is well, and notes."""
        if self.ok:
            return list(self.notes)
        row = self.worst
        numbers = {**row.values, "differences": row.differences}
        words = ", ".join(f"{name} {number:.8g}" for name, number in numbers.items())
        return [f"worst: {row.path}, order {row.order}: {words}", *self.notes]


def check_grads(
    f: Callable[..., Any],
    *args: Any,
    order: int = 1,
    modes: Sequence[str] = ("fwd", "rev"),
    key: jax.Array | None = None,
    directions: int = 1,
    rtol: float = 1e-6,
) -> GradReport:
    """Compares a function's derivatives in forward and reverse mode with central differences.

    All is computed in 64 bits whatever the caller's setting, with the real floats of `args`
    converted. Other leaves (integers, keys, what is no array) are passed by, and inf and NaN among
    the numbers are not moved. The outputs are contracted with a random `c`, and each leaf gets its
    own random direction `v`, so that the numbers compared are, with `w` a random direction over
    all leaves,

        order 1: c . J v        order 2: d/dt (c . J(x + t v) w)

    Differences are taken at 12 step sizes, a factor 4 apart, each two of which make one Richardson
    extrapolation, `(16 D(h/4) - D(h)) / 15`. The step whose value moves least, against its size,
    from the one before and to the one after is taken, and the movement is its error. At order 2 it
    is the derivative of order 1 that is differenced. Verdicts, by leaf and order:

    | verdict | meaning |
    | --- | --- |
    | ok | all modes and the differences agree, to `rtol` and 10 errors of the differences |
    | wrong | they do not: a rule is wrong, or meant to differ from the derivative |
    | kink? | the differences to the left and to the right differ at all step sizes |
    | unclear | the differences are too rough to tell: they do not settle to 1 part in 100 |
    | nan | f or a derivative is not finite |
    | no rule | f has none of the modes asked for |

    A mode that f's rules do not allow (forward mode through `jax.custom_vjp`, reverse mode through
    a while loop) is left out, and a note says so. A derivative that is 1e-8 of the others or of f
    itself counts as zero. A kink is told if it bends by 1 part in 1e4 and f computes in 64 bits.

    Where f closes over NumPy arrays of 64 bits, JAX's caches are cleared after a check from a
    32-bit setting, since JAX would take the traces of the one for those of the other: what was
    compiled before is compiled anew. `jnp.asarray` of such data avoids it.

    The cost: 24 evaluations of f and one or two dozen gradients a leaf; at order 2 also 24
    gradients. f is compiled three times, or run uncompiled if it can't be traced.

    Args:
        f: any function that JAX can differentiate, of positional arguments.
        *args: where to check: trees of arrays and numbers, with at least one real float.
        order: 1, or 2 to check second derivatives as well.
        modes: which of `"fwd"` and `"rev"`; order 2 nests them in every way.
        key: of the random directions; `jax.random.key(0)` if None.
        directions: how many are tried for each leaf; the worst is reported.
        rtol: the relative error that is still right.

    Returns:
        The report: print it, or ask for `ok` and `worst`.

    Raises:
        TypeError: f is not callable, `key` is no key, `args` hold no real floats, or complex or
            traced arrays; f gives no real floats, or complex numbers.
        ValueError: `order`, `modes`, `directions` or `rtol` is not one of those allowed.
        Exception: whatever f, or a rule of its own, raises.

    Example:
        >>> import jax.numpy as jnp
        >>> report = check_grads(lambda x: jnp.sin(x).sum(), jnp.ones(3))
        >>> report.ok, report.worst.path
        (True, 'x')
        >>> check_grads(jnp.abs, 0.0).worst.verdict
        'kink?'

    Source: Ridders, "Accurate computation of F'(x) and F'(x)F''(x)" (1982), for steps chosen by
    the agreement of extrapolations; we extrapolate once, which kinks near by disturb less.
    """
    check_settings(f, order, modes, directions, rtol, key)
    narrow = jax.dtypes.canonicalize_dtype(float) == np.float32
    with jax.enable_x64(True):
        problem = pose(f, args)
        key = jax.random.key(0) if key is None else key
        # Drawn by numpy: JAX would compile a program for the shape of each leaf.
        draw = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        programs = Programs(problem, order, tuple(modes))
        found: dict[tuple[int, str], GradRow] = {}
        for _ in range(directions):
            for row in check_direction(problem, programs, draw, rtol):
                place = row.order, row.path
                found[place] = min(found.get(place, row), row, key=severity)
    if narrow and problem.numpy:  # JAX mixes up traces of both widths of a NumPy array
        jax.clear_caches()
    return GradReport(tuple(found.values()), notes(problem, programs))


def assert_grads(f: Callable[..., Any], *args: Any, **settings: Any) -> None:
    """Raises unless `check_grads(f, *args, **settings)` is ok: for tests.

    Raises:
        AssertionError: some verdict is not "ok"; its message is the report.

    Example:
        >>> import jax.numpy as jnp
        >>> assert_grads(lambda x, y: jnp.vdot(x, y), jnp.ones(3), jnp.ones(3), order=2)
    """
    __tracebackhide__ = True
    report = check_grads(f, *args, **settings)
    if not report.ok:
        raise AssertionError(f"`assert_grads`: the derivatives must agree.\n{report}")


def check_direction(
    problem: Problem, programs: Programs, draw: np.random.Generator, rtol: float
) -> list[GradRow]:
    """The rows of all leaves, each along one random direction."""
    c = [draw.standard_normal(a.shape) for a in problem.outputs]
    w, every = ([direction(a, draw) for a in problem.x] for _ in range(2))
    alone = [[a if i == k else 0 * a for i, a in enumerate(every)] for k in range(len(every))]
    derived = [programs.derive(problem.x, c, w, v) for v in alone]
    size = derived[0][1]
    rows = []
    for order in range(1, programs.order + 1):
        names = programs.names(order)
        values = [{name: each[name] for name in names} for each, _ in derived]
        size += max((abs(a) for each in values for a in each.values()), default=0.0)
        for path, v, by_mode in zip(problem.paths, alone, values, strict=True):
            if not by_mode:
                rows.append(GradRow(path, order, {}, math.nan, 0.0, math.nan, math.nan, "no rule"))
                continue
            along = partial(programs.along[order], problem.x, c, w, v)
            rows.append(judge((path, order), by_mode, along, size, problem.dtype, rtol))
    return rows


def direction(leaf: jax.Array, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """A random direction of a leaf's size, in which numbers that are not finite do not move."""
    return np.isfinite(leaf) * size_of(leaf) * draw.standard_normal(leaf.shape)


def size_of(leaf: jax.Array) -> float:
    """The root mean square of a leaf's finite numbers, or 1 where that is 0."""
    numbers = np.abs(np.asarray(leaf))
    numbers = numbers[np.isfinite(numbers)]
    most = float(np.max(numbers, initial=0.0)) or 1.0
    return most * float(np.sqrt(np.sum((numbers / most) ** 2) / max(numbers.size, 1))) or 1.0


def judge(
    place: tuple[str, int],
    values: dict[str, float],
    along: Callable[[float], Any],
    size: float,
    dtype: Any,
    rtol: float,
) -> GradRow:
    """The row of one leaf and order.

    Args:
        place: its path and order.
        values: the derivative along one direction by mode.
        along: the function of one number whose derivative at 0 it is.
        size: of the terms of f, and of its greatest derivatives: what rounding errors go by.
        dtype: the coarsest in which f computes.
        rtol: the relative error that is still right.
    """
    numbers = list(values.values())
    if not all(map(math.isfinite, [size, *numbers])):
        return GradRow(*place, values, math.nan, 0.0, math.nan, math.nan, "nan")
    eps = rounding(dtype)
    # Below this part of the size there is nothing but rounding errors.
    least = max(1e-8, 1e5 * eps) * size
    found = central(lambda t: float(along(t)), eps * size, least)
    settled = [found.value] if math.isfinite(found.value) else []
    scale = max(*map(abs, numbers + settled), least) or 1.0
    between = (max(numbers) - min(numbers)) / scale
    off = max(abs(number - found.value) for number in numbers) / scale
    verdict = verdict_of(between, off, 10 * found.error / scale, rtol + 1e3 * eps, found.kink)
    return GradRow(*place, values, found.value, found.step, between, off, verdict)


def verdict_of(between: float, off: float, rough: float, near: float, kink: bool) -> str:
    """The verdict, from relative errors.

    Args:
        between: between modes.
        off: of the modes from the differences.
        rough: of the differences themselves.
        near: what rounding allows.
        kink: whether there is one.
    """
    if between > min(near, 0.5):
        return "wrong"
    if kink:
        return "kink?"
    if off > near + rough:
        return "wrong"
    return "ok" if max(near, rough) < 1e-2 else "unclear"


def severity(row: GradRow) -> tuple[int, int, float]:
    """The place of a row from worst to best; a fault of order 1 is the cause of one of order 2."""
    wrong = max((e for e in (row.between, row.off) if math.isfinite(e)), default=0.0)
    order = 0 if row.verdict == "ok" else row.order
    return WORST_FIRST.index(row.verdict), order, -wrong


def cells(row: GradRow) -> tuple[str, ...]:
    """A row in words."""
    step = f"{row.step:.0e}" if row.step else "-"
    between = f"{row.between:.1e}" if len(row.values) > 1 else "-"
    off = f"{row.off:.1e}" if row.values else "-"
    return row.path, str(row.order), between, off, step, row.verdict


def notes(problem: Problem, programs: Programs) -> tuple[str, ...]:
    """What a reader should know besides the rows."""
    by_words: dict[str, list[str]] = {}
    for mode, words in programs.missing.items():
        by_words.setdefault(words, []).append(mode)
    lines = [f"no {', '.join(names)}: {words}" for words, names in by_words.items()]
    if not programs.finite:
        lines.append("f itself is not finite at args")
    still = [
        path
        for path, leaf in zip(problem.paths, problem.x, strict=True)
        if not np.isfinite(leaf).all()
    ]
    if still:
        lines.append(f"inf or NaN in {', '.join(still)}: these numbers stay as they are")
    if problem.passed:
        lines.append(f"passed by: {', '.join(problem.passed)}")
    if problem.dtype != np.float64:
        lines.append(f"f computes in {problem.dtype} inside, which limits what can be told")
    if not problem.compiled:
        lines.append("f can't be traced: it ran uncompiled")
    return tuple(lines)


def check_settings(f: Any, order: Any, modes: Any, directions: Any, rtol: Any, key: Any) -> None:
    """Raises unless the settings of `check_grads` are some."""
    errors.function("check_grads", f)
    if order not in (1, 2):
        raise ValueError(
            f"`check_grads`: order must be 1 or 2, got {order!r}. "
            "For a higher one check the derivative itself, `jax.grad(f)` say."
        )
    if not isinstance(modes, tuple | list) or not modes or not set(modes) <= set(SLOPES):
        raise ValueError(
            f"`check_grads`: modes must be some of 'fwd' and 'rev', got {modes!r}. "
            "Say `modes=('fwd', 'rev')`."
        )
    errors.positive("check_grads", directions=directions)
    errors.positive_number("check_grads", "rtol", rtol, say=1e-6)
    if key is not None and not isinstance(key, jax.Array):
        raise TypeError(
            f"`check_grads`: key must be a key of JAX, got {key!r}. Say `key=jax.random.key(3)`."
        )
