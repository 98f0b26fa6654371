"""Derivatives of solutions: of a root, a fixed point, a minimum and a linear system.

They come from the equation that the solution satisfies, not from the steps of the solver, so that
the solver may be any function and its steps are not kept. The default solvers stand on JAX alone;
those of optimistix and lineax are taken as they are, and never imported here unless handed over.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff import solvers
from funcnet.autodiff.equations import (
    Equation,
    checked_solve,
    hoisted,
    must_be_like,
    strong,
    tolerance,
    unknowns,
)
from funcnet.autodiff.gradients import like
from funcnet.autodiff.operators import LinearOperator, check_square
from funcnet.autodiff.probes import norm, vdot
from funcnet.types import PyTree


def implicit(
    solver: Callable[..., PyTree],
    optimality: Callable[..., PyTree],
    *,
    linear_solver: Any = None,
    positive_definite: bool = False,
    tol: float | None = None,
) -> Callable[..., PyTree]:
    """A solver whose solution is differentiable, by the implicit function theorem.

    Where `F(x, a) = 0`, with F the optimality and a the arguments,

        dx/da = -(∂F/∂x)⁻¹ ∂F/∂a

    | | |
    | --- | --- |
    | modes | forward and reverse, of any order; jit, vmap |
    | cost | one linear system a derivative, by products alone; the solver is not differentiated |
    | differentiated | all floats of `args`, and what `optimality` closes over; never `x0` |
    | no solution | NaN, in the value and in every derivative |

    A solution is accepted when `‖F(x)‖ <= tol * (‖∂F/∂x z‖ + ‖∂F/∂x x‖)`, with z of norm 1 and
    random signs: of one unknown, when it is off by `tol * (1 + |x|)`. That of a linear system
    `A v = b` is when `‖A v - b‖ <= tol * ‖b‖`. All else becomes NaN. Of several unknowns one along
    which F hardly changes may be further off than `tol`. To see what the solver gave and how far
    it is off, take `tol=jnp.inf` and compute `optimality(x, *args)`.

    Args:
        solver: `solver(x0, *args) -> x`, any function at all: it may loop until it is done.
        optimality: `optimality(x, *args)`, zero at the solution; a tree like `x`.
        linear_solver: `linear_solver(A, b) -> v` with `A` a `LinearOperator`, or a solver of
            lineax, such as `lineax.GMRES(1e-6, 1e-6)`. Left out: restarted GMRES, or conjugate
            gradients where `positive_definite`; the matrix itself for up to 32 unknowns.
        positive_definite: whether ∂F/∂x is symmetric and positive definite, as at a minimum.
        tol: the relative residual that is accepted; the square root of the machine epsilon of
            the coarsest leaf of `x0`: 3e-4 in float32, 1e-8 in float64.

    Returns:
        `solve(x0, *args) -> x`, with `x` like `x0`.

    Raises:
        TypeError: a leaf of `x0` is not a float, or `linear_solver` is no solver, or one of the
            others no function.
        ValueError: `x0` is empty, or what `solver` or `optimality` gives is not like it.

    Source:
        Blondel et al., "Efficient and Modular Implicit Differentiation", 2022, equation 4.

    Example:
        >>> import jax
        >>> def bisection(x0, a):
        ...     def halve(_, bounds):
        ...         low, high = bounds
        ...         middle = (low + high) / 2
        ...         above = middle**2 > a
        ...         return jnp.where(above, low, middle), jnp.where(above, middle, high)
        ...     return jax.lax.fori_loop(0, 40, halve, (0.0 * x0, 10.0 + x0))[0]
        >>> sqrt = implicit(bisection, lambda x, a: x**2 - a)
        >>> value, slope = jax.value_and_grad(lambda a: sqrt(1.0, a))(4.0)
        >>> print(f"{value:.3f} {slope:.3f}")
        2.000 0.250
    """
    errors.function("implicit", solver, "solver")
    errors.function("implicit", optimality, "optimality")
    chosen = solvers.linear_solver_of("implicit", linear_solver, positive_definite)

    def solve(x0: PyTree, *args: Any) -> PyTree:
        x0 = unknowns("implicit", "x0", x0)
        given = len(args)
        equation, args = hoisted(optimality, x0, args)
        must_be_like("implicit", "optimality(x, *args)", "x0", x0, equation, x0, *args)
        return Equation("implicit", equation, chosen, positive_definite, tol).solution(
            lambda x0, *all_args: solver(x0, *all_args[:given]), x0, args
        )

    return solve


def root(
    f: Callable[..., PyTree],
    x0: PyTree,
    *args: Any,
    solver: Any = None,
    linear_solver: Any = None,
    steps: int = 100,
    tol: float | None = None,
) -> PyTree:
    """The `x` with `f(x, *args) = 0`, differentiable with respect to `args`.

    Args:
        f: `f(x, *args)`, a tree like `x`: one equation for each unknown.
        x0: where the search starts: arrays of floats. It has no derivative.
        *args: any trees.
        solver: `solver(f, x0, *args) -> x`, or a solver of optimistix, such as
            `optimistix.Newton(rtol=1e-6, atol=1e-6)`. Left out: Newton's method with steps
            halved until `‖f‖` falls.
        linear_solver: see `implicit`; Newton's own steps take it too.
        steps: how many the solver may take; a function that is handed over counts its own.
        tol: see `implicit`.

    Returns:
        `x`, like `x0`; NaN where it is no root within `tol`.

    Raises:
        TypeError: a leaf of `x0` is not a float, or `solver` is none.
        ValueError: `x0` is empty, or `f` gives no tree like it.

    Source:
        See `implicit`; F is `f`.

    Example:
        >>> import jax
        >>> value, slope = jax.value_and_grad(lambda a: root(lambda x, a: x**2 - a, 1.0, a))(9.0)
        >>> print(f"{value:.3f} {slope:.3f}")
        3.000 0.167
    """
    errors.function("root", f)
    errors.positive("root", steps=steps)
    x0 = unknowns("root", "x0", x0)
    f, args = hoisted(f, x0, args)
    must_be_like("root", "f(x, *args)", "x0", x0, f, x0, *args)
    chosen = solvers.linear_solver_of("root", linear_solver, False)
    step = solvers.newton_step(chosen)

    def newton(f: Callable[..., PyTree], x0: PyTree, *args: Any) -> PyTree:
        def residual(x: PyTree) -> PyTree:
            return f(x, *args)

        return solvers.descend(
            lambda x: step(residual, x)[0], lambda x: norm(residual(x)), x0, steps
        )

    run = solvers.solver_of("root", solver, newton, "root_find", steps)
    equation = Equation("root", f, chosen, False, tol)
    return equation.solution(lambda x0, *args: run(f, x0, *args), x0, args)


def fixed_point(
    f: Callable[..., PyTree],
    x0: PyTree,
    *args: Any,
    solver: Any = None,
    linear_solver: Any = None,
    steps: int = 1000,
    tol: float | None = None,
) -> PyTree:
    """The `x` with `x = f(x, *args)`, differentiable with respect to `args`.

    Args:
        f: `f(x, *args)`, a tree like `x`; a layer of a deep equilibrium network, say.
        x0: where the iteration starts: arrays of floats. It has no derivative.
        *args: any trees.
        solver: `solver(f, x0, *args) -> x`, or one of optimistix. Left out: `x ← f(x, *args)`
            until the way that is left is short, by how its moves shrink; where f hardly contracts
            that takes long, and ends where rounding does.
        linear_solver: see `implicit`; the system is `(I - ∂f/∂x) v = b`.
        steps: how many the solver may take; a function that is handed over counts its own.
        tol: see `implicit`.

    Returns:
        `x`, like `x0`; NaN where it is no fixed point within `tol`, or the steps ran out.

    Raises:
        TypeError: a leaf of `x0` is not a float, or `solver` is none.
        ValueError: `x0` is empty, or `f` gives no tree like it.

    Source:
        See `implicit`; F is `x - f(x)`. Bai et al., "Deep Equilibrium Models", 2019, theorem 1.

    Example:
        >>> import jax
        >>> cosine = lambda x, a: jnp.cos(a * x)
        >>> value, slope = jax.value_and_grad(lambda a: fixed_point(cosine, 0.5, a))(1.0)
        >>> print(f"{value:.4f} {slope:.4f}")
        0.7391 -0.2975
    """
    errors.function("fixed_point", f)
    errors.positive("fixed_point", steps=steps)
    x0 = unknowns("fixed_point", "x0", x0)
    f, args = hoisted(f, x0, args)
    must_be_like("fixed_point", "f(x, *args)", "x0", x0, f, x0, *args)
    chosen = solvers.linear_solver_of("fixed_point", linear_solver, False)

    def moved(x: PyTree, *args: Any) -> PyTree:
        return solvers.difference(x, f(x, *args))

    def iterate(f: Callable[..., PyTree], x0: PyTree, *args: Any) -> PyTree:
        return solvers.iterate(lambda x: f(x, *args), x0, steps)

    run = solvers.solver_of("fixed_point", solver, iterate, "fixed_point", steps)
    equation = Equation("fixed_point", moved, chosen, False, tol)
    return equation.solution(lambda x0, *args: run(f, x0, *args), x0, args)


def argmin(
    objective: Callable[..., Any],
    x0: PyTree,
    *args: Any,
    solver: Any = None,
    linear_solver: Any = None,
    steps: int = 100,
    tol: float | None = None,
) -> PyTree:
    """The `x` at which `objective(x, *args)` is least, differentiable with respect to `args`.

    Args:
        objective: `objective(x, *args)`, a float scalar, twice differentiable in `x`.
        x0: where the search starts: arrays of floats. It has no derivative.
        *args: any trees: the data, a penalty, the weights of examples.
        solver: `solver(objective, x0, *args) -> x`, or a minimiser of optimistix, such as
            `optimistix.BFGS(rtol=1e-6, atol=1e-6)`. Left out: Newton's method by conjugate
            gradients, downhill where the Hessian is not positive, with steps halved until the
            objective falls.
        linear_solver: see `implicit`; the system is `H v = b` with H the Hessian. Left out:
            conjugate gradients. Newton's own steps take it too.
        steps: how many the solver may take; a function that is handed over counts its own.
        tol: see `implicit`.

    Returns:
        `x`, like `x0`, a minimum near `x0` if there are several; NaN where the gradient is not
        zero within `tol`. Nothing else is checked: at a maximum or a saddle it is zero too, where a
        solver that is handed over may stop, and the default one stays if it starts there, or on
        a line that leads to it. `hessian_operator` and `eigenpairs` tell them apart.

    Raises:
        TypeError: a leaf of `x0` is not a float, or `solver` is none.
        ValueError: `x0` is empty, or the objective gives no float scalar.

    Source:
        See `implicit`; F is the gradient of the objective. Gould et al., "On Differentiating
        Parameterized Argmin and Argmax Problems", 2016, lemma 3.2.

    Example:
        >>> import jax
        >>> def ridge(w, penalty):
        ...     return (2 * w - 3) ** 2 + penalty * w**2
        >>> value, slope = jax.value_and_grad(lambda p: argmin(ridge, 0.0, p))(2.0)
        >>> print(f"{value:.4f} {slope:.4f}")
        1.0000 -0.1667
    """
    errors.function("argmin", objective, "objective")
    errors.positive("argmin", steps=steps)
    x0 = unknowns("argmin", "x0", x0)
    objective, args = hoisted(objective, x0, args)
    must_be_scalar(jax.eval_shape(objective, x0, *args))
    chosen = solvers.linear_solver_of("argmin", linear_solver, True)
    step = solvers.newton_step(chosen, symmetric=True)

    def newton(f: Callable[..., Any], x0: PyTree, *args: Any) -> PyTree:
        def downhill(x: PyTree) -> PyTree:
            direction, slope = step(lambda x: jax.grad(f)(x, *args), x)
            falls = vdot(direction, slope) < 0
            return jax.tree.map(lambda d, g: jnp.where(falls, d, -g), direction, slope)

        return solvers.descend(downhill, lambda x: f(x, *args), x0, steps)

    run = solvers.solver_of("argmin", solver, newton, "minimise", steps)
    equation = Equation("argmin", jax.grad(objective), chosen, True, tol)
    return equation.solution(lambda x0, *args: run(objective, x0, *args), x0, args)


def linear_solve(
    A: LinearOperator | Callable[[PyTree], PyTree],  # noqa: N803  # as in A x = b
    b: PyTree,
    *,
    solver: Any = None,
    positive_definite: bool = False,
    tol: float | None = None,
) -> PyTree:
    """The `x` with `A x = b`, from products with A alone.

    It is differentiable, in both modes and of any order, with respect to `b` and to all that A
    closes over, where A has an inverse: with Aᵀ u = x̄, the cotangents are `b̄ = u` and
    `Ā = -u xᵀ`. Each derivative costs one more system.

    Args:
        A: a square `LinearOperator`, or a linear function `x -> A x`.
        b: arrays of floats, a tree like the operator's input; what stands where that has None is
            not looked at.
        solver: `solver(A, b) -> x` with `A` a `LinearOperator`, or one of lineax. Left out:
            restarted GMRES, or conjugate gradients where A is positive definite or semidefinite;
            for up to 32 unknowns the matrix itself, its pseudo-inverse where A is semidefinite.
        positive_definite: whether A is symmetric and positive definite.
        tol: the relative residual `‖A x - b‖ / ‖b‖` that is accepted; the square root of the
            machine epsilon of the coarsest leaf of `b`.

    Returns:
        `x`, like `b`, or like the operator's input; NaN where the residual is above `tol`, in every
        derivative too. Where an operator marked as positive semidefinite has no inverse it is the
        least of all x, if there are any.

    Raises:
        TypeError: `A` is neither, a leaf of `b` is not a float, or `solver` is none.
        ValueError: `b` is empty, or not like what `A` takes and gives.

    Source:
        Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
        differentiation", 2008, section 2.3.1.

    Example:
        >>> import jax
        >>> matrix = jnp.array([[2.0, 1.0], [0.0, 4.0]])
        >>> x = linear_solve(lambda x: matrix @ x, jnp.array([4.0, 8.0]))
        >>> [round(float(number), 4) for number in x]
        [1.0, 2.0]
    """
    if isinstance(A, LinearOperator):
        check_square("linear_solve", A)
        b = like("linear_solve", "b must be like the operator's input", A.input, b)
        mv, symmetric, semidefinite = A.mv, A.symmetric, A.positive_semidefinite
    elif callable(A):
        mv, symmetric, semidefinite = A, False, False
    else:
        raise TypeError(
            "`linear_solve`: A must be a LinearOperator or a linear function, got "
            f"{errors.describe(A)}. Of a matrix write `lambda x: matrix @ x`."
        )
    b = unknowns("linear_solve", "b", b)
    must_be_like("linear_solve", "A x", "b", b, mv, b)
    definite = positive_definite or semidefinite
    spec = tree.spec(b)
    operator = LinearOperator(mv, spec, spec, symmetric or definite, definite)
    chosen = solvers.linear_solver_of("linear_solve", solver, positive_definite, semidefinite)
    return checked_solve("linear_solve", operator, b, chosen, tolerance(b, tol))


def unrolled(step: Callable[..., PyTree], x0: PyTree, steps: int, *args: Any) -> PyTree:
    """`x` after so many times `x ← step(x, *args)`, differentiated through every step.

    The gradient is that of the iteration itself, exact also where it has not converged, and with
    respect to `x0` too: what the implicit one is compared with, and what truncated training wants.

    Memory: that of `2 √steps` copies of `x`, and of one step. Cost: the steps are computed three
    times for a gradient in reverse mode, once in forward mode.

    Args:
        step: `step(x, *args)`, a tree like `x`.
        x0: the start.
        steps: how many, a Python number.
        *args: any trees.

    Returns:
        The last `x`.

    Raises:
        TypeError: `steps` is not a whole number.
        ValueError: `steps` is below 1, or `step` gives no tree like `x0`.

    Source:
        Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, section 4.

    Example:
        >>> import jax
        >>> babylonian = lambda x, a: (x + a / x) / 2
        >>> value, slope = jax.value_and_grad(lambda a: unrolled(babylonian, 1.0, 20, a))(9.0)
        >>> print(f"{value:.3f} {slope:.3f}")
        3.000 0.167
    """
    errors.function("unrolled", step, "step")
    errors.positive("unrolled", steps=steps)
    x0 = strong(x0)
    must_be_like("unrolled", "step(x, *args)", "x0", x0, step, x0, *args)
    block = math.isqrt(steps)

    def one(x: PyTree, _: None) -> tuple[PyTree, None]:
        return step(x, *args), None

    def many(x: PyTree, _: None) -> tuple[PyTree, None]:
        return repeat(one, x, block)

    def repeat(body: Callable[..., Any], x: PyTree, length: int) -> tuple[PyTree, None]:
        again = jax.checkpoint(body, prevent_cse=False)  # a scan prevents it by itself
        last: tuple[PyTree, None] = jax.lax.scan(again, x, length=length)
        return last

    x, _ = repeat(many, x0, steps // block)
    return repeat(one, x, steps % block)[0]


def must_be_scalar(value: Any) -> None:
    """Raises unless an objective gives a float scalar."""
    if isinstance(value, jax.ShapeDtypeStruct) and tree.is_float(value) and value.shape == ():
        return
    raise ValueError(
        f"`argmin`: objective(x, *args) must be a float scalar, got {errors.describe(value)}. "
        "Sum or average it."
    )
