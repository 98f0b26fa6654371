"""An equation whose solution is differentiable: the rule, and when a solution is none."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff import probes, solvers
from funcnet.autodiff.operators import LinearOperator
from funcnet.types import PyTree


@dataclass(frozen=True)
class Equation:
    """`F(x, *args) = 0` for `x`, and how linear systems with `∂F/∂x` are solved.

    Attributes:
        function: the public function that errors name.
        F: the equation.
        linear_solver: of systems with ∂F/∂x.
        definite: whether ∂F/∂x is symmetric and positive definite.
        tol: the relative residual that is accepted, or None for that of the dtype.
    """

    function: str
    F: Callable[..., PyTree]
    linear_solver: solvers.LinearSolver
    definite: bool
    tol: float | None

    def solution(self, find: Callable[..., PyTree], x0: PyTree, args: tuple[Any, ...]) -> PyTree:
        """What `find(x0, *args)` gives, or NaN, with the derivatives of a solution."""
        tol = tolerance(x0, self.tol)
        start, fixed = jax.lax.stop_gradient((x0, args))
        found = jax.lax.stop_gradient(find(start, *fixed))
        wrong = errors.differences(tree.spec(x0), tree.spec(found))
        if wrong:
            raise ValueError(
                f"`{self.function}`: the solver must give a tree like x0, got {'; '.join(wrong)}. "
                "Let it return `x` alone."
            )

        @jax.custom_jvp
        def attached(x: PyTree, args: tuple[Any, ...]) -> PyTree:
            del args
            return x

        @attached.defjvp
        def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[PyTree, PyTree]:
            x, args = primals
            x = attached(x, args)  # with its own derivative, for the second one
            return x, self.tangent(x, args, tangents[1], tol)

        return attached(self.accepted(strong(found), fixed, tol), args)

    def accepted(self, x: PyTree, args: tuple[Any, ...], tol: float) -> PyTree:
        """`x`, or NaN where `F(x)` is large against what changes of x make of it."""
        residual, along = jax.linearize(lambda x: self.F(x, *args), x)
        signs = probes.signs(jax.random.key(0), x)
        slope = probes.norm(along(signs)) / math.sqrt(tree.size(x))
        return or_nan(x, small(probes.norm(residual), tol, slope + probes.norm(along(x))))

    def tangent(
        self, x: PyTree, args: tuple[Any, ...], args_dot: tuple[Any, ...], tol: float
    ) -> PyTree:
        """The derivative of the solution along `args_dot`."""
        _, b = jax.jvp(lambda args: self.F(x, *args), (args,), (args_dot,))
        _, mv = jax.linearize(lambda x: self.F(x, *args), x)
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(x)]))
        minus_b = or_nan(jax.tree.map(jnp.negative, b), finite)
        spec = tree.spec(x)
        operator = LinearOperator(mv, spec, spec, self.definite, self.definite)
        return checked_solve(self.function, operator, minus_b, self.linear_solver, tol)


def checked_solve(
    function: str,
    A: LinearOperator,  # noqa: N803  # as in A x = b
    b: PyTree,
    solver: solvers.LinearSolver,
    tol: float,
) -> PyTree:
    """`x` with `A @ x = b`; NaN where the residual is too large, in its transpose too."""

    def solve(mv: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
        x = solver(replace(A, mv=mv), b)
        wrong = errors.differences(A.input, tree.spec(x))
        if wrong:
            raise ValueError(
                f"`{function}`: the linear solver must give a tree like b, got {'; '.join(wrong)}. "
                "Let it return `x` alone."
            )
        residual = probes.norm(solvers.difference(mv(x), b))
        return or_nan(x, small(residual, tol, probes.norm(b)))

    transposed = None if A.symmetric else solve
    return jax.lax.custom_linear_solve(A.mv, b, solve, transposed, symmetric=A.symmetric)


def small(residual: jax.Array, tol: float, scale: jax.Array) -> jax.Array:
    """Whether a residual is small against a scale, of whatever size that is itself."""
    relative = jnp.where(residual == 0, 0, residual / scale)
    return jnp.isfinite(residual) & ((relative <= tol) | jnp.isinf(tol))


def or_nan(x: PyTree, ok: jax.Array) -> PyTree:
    """`x`, or NaN. A product, not a choice: it is linear, and its transpose gives NaN as well."""
    return jax.tree.map(lambda leaf: leaf * jnp.where(ok, 1.0, jnp.nan).astype(leaf.dtype), x)


def tolerance(x: PyTree, tol: float | None) -> float:
    """The relative residual that is accepted: what was asked for, or half of the digits."""
    return math.sqrt(solvers.epsilon(x)) if tol is None else tol


def hoisted(
    f: Callable[..., Any], x0: PyTree, args: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`f` as a function of all that it closes over, and the arguments with that behind them."""
    closed, more = jax.closure_convert(lambda x, *args: f(x, *args), x0, *args)
    return closed, (*args, *more)


def strong(x: PyTree) -> PyTree:
    """Arrays in place of Python numbers: their dtypes stay as they are in a loop."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), x)


def unknowns(function: str, name: str, x: PyTree) -> PyTree:
    """The tree of unknowns as arrays, if there are some and all are floats."""
    wrong = [
        f"{path}: {errors.describe(leaf)}" if path else errors.describe(leaf)
        for path, leaf in tree.paths(x).items()
        if not tree.is_float(leaf)
    ]
    if wrong:
        raise TypeError(
            f"`{function}`: every leaf of {name} must be a float array, got {', '.join(wrong)}. "
            "Cast it, or hand what is no unknown over as an argument."
        )
    if not jax.tree.leaves(x):
        raise ValueError(
            f"`{function}`: {name} must hold at least one array, got {x!r}. There is nothing to "
            "solve for."
        )
    return strong(x)


def must_be_like(
    function: str, what: str, name: str, x: PyTree, f: Callable[..., PyTree], *args: Any
) -> None:
    """Raises unless `f(*args)` is a tree like `x`."""
    wrong = errors.differences(tree.spec(x), jax.eval_shape(f, *args))
    if wrong:
        raise ValueError(
            f"`{function}`: {what} must be a tree like {name}, got {'; '.join(wrong)}. "
            "Give one number for each unknown, in its dtype."
        )
