"""Solvers of linear and nonlinear equations, over trees: plain ones, and those of other packages.

They find solutions; what differentiates a solution is in `implicit`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from funcnet import tree
from funcnet.autodiff.operators import LinearOperator
from funcnet.autodiff.probes import norm
from funcnet.types import PyTree

LinearSolver: TypeAlias = Callable[[LinearOperator, PyTree], PyTree]
"""`solver(A, b) -> x` with `A @ x = b`, as nearly as it can."""

Solver: TypeAlias = Callable[..., PyTree]
"""`solver(f, x0, *args) -> x`."""


def linear_solver_of(
    function: str, solver: Any, positive_definite: bool, semidefinite: bool = False
) -> LinearSolver:
    """The linear solver meant: the default, a solver of lineax, or the function itself.

    It is given right sides of a norm of about 1, whatever they are.

    Raises:
        TypeError: it is none of them.
    """
    if solver is None:
        least_norm = semidefinite and not positive_definite
        definite = of_least_norm if least_norm else conjugate_gradients
        return at_scale(definite if positive_definite or semidefinite else gmres)
    if comes_from("lineax", solver):
        return at_scale(lambda A, b: by_lineax(solver, A, b))  # noqa: N803  # as in A x = b
    if not callable(solver) or isinstance(solver, type):
        raise TypeError(
            f"`{function}`: a linear solver must be a function `solver(A, b) -> x`, or a solver of "
            f"lineax (`pip install lineax`), got {solver!r}."
        )
    found: LinearSolver = solver
    return at_scale(found)


def at_scale(solver: LinearSolver) -> LinearSolver:
    """A solver that is given b over a power of two, so that its norm is about 1.

    Some take what is small for zero, whatever b is. A power of two rounds nothing.
    """

    def solve(A: LinearOperator, b: PyTree) -> PyTree:  # noqa: N803  # as in A x = b
        size = norm(b)
        finfo: Any = jnp.finfo
        most = finfo(size.dtype).maxexp - 8  # its inverse is no denormal
        _, exponent = jnp.frexp(size)
        by = jnp.ldexp(jnp.ones_like(size), jnp.clip(exponent, -most, most))
        x = solver(A, jax.tree.map(lambda leaf: (tree.widen(leaf) / by).astype(leaf.dtype), b))

        def back(leaf: Any) -> jax.Array:
            return jnp.asarray(leaf * by, jnp.result_type(leaf))

        return jax.tree.map(back, x)

    return solve


def solver_of(function: str, solver: Any, default: Solver, task: str, steps: int) -> Solver:
    """The solver meant: the default, a solver of optimistix, or the function itself.

    Args:
        function: the public function that asks.
        solver: what its caller handed over, or None.
        default: what None means.
        task: the function of optimistix that does the same, such as `root_find`.
        steps: how many a solver of optimistix may take.

    Raises:
        TypeError: it is none of them.
    """
    if solver is None:
        return default
    if comes_from("optimistix", solver):
        return lambda f, x0, *args: by_optimistix(solver, task, steps, f, x0, args)
    if not callable(solver) or isinstance(solver, type):
        raise TypeError(
            f"`{function}`: solver must be a function `solver(f, x0, *args) -> x`, or a solver of "
            f"optimistix (`pip install optimistix`), got {solver!r}."
        )
    return solver  # type: ignore[no-any-return]  # what it gives is checked at the call


FEW = 32
"""Unknowns up to which a system is solved by its matrix: GMRES would hold as many numbers."""


def gmres(A: LinearOperator, b: PyTree) -> PyTree:  # noqa: N803  # as in A x = b
    """`x` with `A @ x = b` for any square A, by GMRES restarted after 32 products, 10 times.

    A system of no more unknowns is solved by its matrix.

    Source:
        Saad and Schultz, "GMRES: a generalized minimal residual algorithm", 1986.
    """

    def solve(mv: Callable[[jax.Array], jax.Array], flat: jax.Array) -> jax.Array:
        x, _ = jax.scipy.sparse.linalg.gmres(
            mv,
            flat,
            tol=fine(b),
            restart=FEW,
            maxiter=10,
            solve_method="incremental",  # the other forms normal equations: half of the digits
        )
        return x  # type: ignore[no-any-return]

    return over_one_vector(solve, A, b)


def of_least_norm(A: LinearOperator, b: PyTree) -> PyTree:  # noqa: N803  # as in A x = b
    """The least `x` with `A @ x = b` for A symmetric and positive semidefinite.

    Conjugate gradients from 0, which stay in the range of A; the pseudo-inverse of the matrix for
    no more than 32 unknowns.
    """
    return over_one_vector(by_conjugate_gradients(b), A, b, by_pseudo_inverse)


def conjugate_gradients(A: LinearOperator, b: PyTree) -> PyTree:  # noqa: N803  # as in A x = b
    """`x` with `A @ x = b` for A symmetric and positive definite, by at most 1000 products.

    A system of no more than 32 unknowns is solved by its matrix.

    Source:
        Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.
    """
    return over_one_vector(by_conjugate_gradients(b), A, b)


def by_conjugate_gradients(b: PyTree) -> Callable[..., jax.Array]:
    """The method over one vector, to the digits of `b`."""

    def solve(mv: Callable[[jax.Array], jax.Array], flat: jax.Array) -> jax.Array:
        products = min(10 * flat.size, 1000)
        x, _ = jax.scipy.sparse.linalg.cg(mv, flat, tol=fine(b), maxiter=products)
        return x  # type: ignore[no-any-return]

    return solve


def by_pseudo_inverse(matrix: jax.Array, flat: jax.Array) -> jax.Array:
    """The least `x` for a symmetric matrix, with eigenvalues that rounding can't tell from 0."""
    return jnp.linalg.pinv(matrix, hermitian=True) @ flat


def newton_step(
    solver: LinearSolver, symmetric: bool = False
) -> Callable[[Callable[[PyTree], PyTree], PyTree], tuple[PyTree, PyTree]]:
    """Newton's step for `F(x) = 0`: `step(F, x) -> (d, F(x))` with `∂F/∂x d = -F(x)`."""

    def step(F: Callable[[PyTree], PyTree], x: PyTree) -> tuple[PyTree, PyTree]:  # noqa: N803
        residual, jacobian = jax.linearize(F, x)
        operator = LinearOperator(jacobian, tree.spec(x), tree.spec(residual), symmetric)
        return solver(operator, jax.tree.map(jnp.negative, residual)), residual

    return step


def descend(
    direction: Callable[[PyTree], PyTree],
    merit: Callable[[PyTree], jax.Array],
    x0: PyTree,
    steps: int,
) -> PyTree:
    """`x ← x + t direction(x)` until it moves no more, with t halved from 1 until merit falls."""
    slack, least = 4 * epsilon(x0), 2.0**-20

    def halved(x: PyTree, d: PyTree) -> tuple[PyTree, jax.Array]:
        most = merit(x) + slack * jnp.abs(merit(x))

        def too_far(t: jax.Array) -> jax.Array:
            return (t > least) & ~(merit(ahead(x, t, d)) <= most)

        t = jax.lax.while_loop(too_far, lambda t: t / 2, jnp.ones_like(norm(x)))
        return ahead(x, t, d), t * norm(d)

    def body(carry: tuple[PyTree, jax.Array, jax.Array]) -> tuple[PyTree, jax.Array, jax.Array]:
        x, moved = halved(carry[0], direction(carry[0]))
        return x, moved > fine(x0) * norm(x), carry[2] + 1

    return repeat(body, x0, steps)


def iterate(f: Callable[[PyTree], PyTree], x0: PyTree, steps: int) -> PyTree:
    """`x ← f(x)` until the way that is left is short, or it moves no more; NaN if it never is.

    Each move is a part q of the one before, so that `q / (1 - q)` of it are left.
    """

    def body(carry: tuple[PyTree, jax.Array, Any, Any]) -> tuple[PyTree, jax.Array, Any, Any]:
        before, last, _, taken = carry
        x = f(before)
        moved = norm(difference(x, before))
        part = moved / last
        far = ~((part < 1) & (moved * part / (1 - part) <= fine(x0) * norm(x)))
        return x, moved, far & (moved > epsilon(x0) * norm(x)), taken + 1

    start = (x0, jnp.zeros_like(norm(x0)), jnp.bool_(True), jnp.int32(0))
    going = lambda carry: carry[2] & (carry[3] < steps)  # noqa: E731  # as in `repeat`
    x, _, still, _ = jax.lax.while_loop(going, body, start)
    return jax.tree.map(lambda leaf: jnp.where(still, jnp.nan, leaf), x)


def difference(x: PyTree, y: PyTree) -> PyTree:
    """`x - y`."""
    return jax.tree.map(jnp.subtract, x, y)


def epsilon(x: PyTree) -> float:
    """The machine epsilon of the coarsest leaf."""
    finfo: Any = jnp.finfo
    return max(float(finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x))


def fine(x: PyTree) -> float:
    """Where a solver may stop: three quarters of the digits, 6e-6 in float32."""
    return float(epsilon(x) ** 0.75)


def ahead(x: PyTree, t: jax.Array, d: PyTree) -> PyTree:
    """`x + t d`."""
    return jax.tree.map(lambda a, b: a + t.astype(a.dtype) * b, x, d)


def repeat(body: Callable[[Any], Any], x0: PyTree, steps: int) -> PyTree:
    """Runs a body over (x, whether to go on, steps taken); a comparison with NaN ends it."""
    start = (x0, jnp.bool_(True), jnp.int32(0))
    return jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < steps), body, start)[0]


def over_one_vector(
    solve: Callable[..., jax.Array],
    A: LinearOperator,  # noqa: N803  # as in A x = b
    b: PyTree,
    by_matrix: Callable[[jax.Array, jax.Array], jax.Array] = jnp.linalg.solve,
) -> PyTree:
    """Solves over one vector, in float32 at least, whatever the dtypes of the leaves.

    Args:
        solve: `solve(mv, flat) -> x`.
        A: the system.
        b: its right side.
        by_matrix: `by_matrix(matrix, flat) -> x`, where there are few unknowns.
    """
    flat, unravel = ravel_pytree(b)
    wide = jnp.promote_types(flat.dtype, jnp.float32)

    def mv(v: jax.Array) -> jax.Array:
        product: jax.Array = ravel_pytree(A.mv(unravel(v.astype(flat.dtype))))[0]
        return product.astype(wide)

    if flat.size <= FEW:
        matrix = jax.vmap(mv, out_axes=1)(jnp.eye(flat.size, dtype=wide))
        return unravel(by_matrix(matrix, flat.astype(wide)).astype(flat.dtype))
    return unravel(solve(mv, flat.astype(wide)).astype(flat.dtype))


def comes_from(package: str, solver: Any) -> bool:
    """Whether a solver's class, or one that it derives from, is a package's: nothing is imported.

    A function of the package is not meant, only an instance of its classes.
    """
    return any(kind.__module__.split(".")[0] == package for kind in type(solver).__mro__)


def by_lineax(solver: Any, A: LinearOperator, b: PyTree) -> PyTree:  # noqa: N803
    """What a solver of lineax gives, good or bad."""
    solve = import_module("lineax").linear_solve
    return solve(A.to_lineax(), b, solver, throw=False).value


def by_optimistix(
    solver: Any, task: str, steps: int, f: Callable[..., Any], x0: PyTree, args: tuple[Any, ...]
) -> PyTree:
    """What a solver of optimistix gives, good or bad."""
    run = getattr(import_module("optimistix"), task)
    found = run(lambda x, args: f(x, *args), solver, x0, args, max_steps=steps, throw=False)
    return found.value
