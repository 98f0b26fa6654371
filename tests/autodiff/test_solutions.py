"""Derivatives of solutions against closed forms, unrolled iterations and finite differences."""

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.autodiff.curvature import fisher_operator
from funcnet.autodiff.gradients import grad
from funcnet.autodiff.operators import LinearOperator, hessian_operator, jacobian_operator
from funcnet.autodiff.solutions import argmin, fixed_point, implicit, linear_solve, root, unrolled

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(3, 3)) / 3
X, Y = RNG.normal(size=(7, 3)), RNG.normal(size=7)


def cube(x, args):
    return {"a": x["a"] ** 3 - args["a"], "b": args["scale"] * x["b"] - jnp.sin(x["a"]).sum()}


def cube_root(args):
    a = jnp.cbrt(args["a"])
    return {"a": a, "b": jnp.sin(a).sum() / args["scale"]}


def ridge(w, args):
    return jnp.sum((args["x"] @ w - args["y"]) ** 2) + jnp.exp(args["penalty"]) * w @ w


def ridge_solved(args):
    gram = args["x"].T @ args["x"] + jnp.exp(args["penalty"]) * jnp.eye(3)
    return jnp.linalg.solve(gram, args["x"].T @ args["y"])


def bisection(x0, a):
    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        above = middle**2 > a
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    return jax.lax.fori_loop(0, 60, halve, (0 * x0, 0 * x0 + 10))[0]


def by_operator(args):
    spec = jax.ShapeDtypeStruct((3,), jnp.float64)
    return linear_solve(LinearOperator(lambda v: args["m"] @ v + v, spec, spec), args["b"])


MAP = {"m": MATRIX, "b": Y[:3]}
RIDGE = {"x": X, "y": Y, "penalty": 0.3}
START = {"a": np.ones(2), "b": 1.0}
PROBLEMS = {  # solved by us, solved in closed form, arguments
    "root": (
        lambda args: root(cube, START, args),
        cube_root,
        {"a": np.array([2.0, 3.0]), "scale": 1.5},
    ),
    "fixed_point": (
        lambda args: fixed_point(lambda x, args: args["m"] @ x + args["b"], np.zeros(3), args),
        lambda args: jnp.linalg.solve(jnp.eye(3) - args["m"], args["b"]),
        MAP,
    ),
    "argmin": (lambda args: argmin(ridge, np.zeros(3), args), ridge_solved, RIDGE),
    "implicit": (
        lambda args: implicit(bisection, lambda x, a: x**2 - a)(np.ones(2), args),
        jnp.sqrt,
        np.array([2.0, 5.0]),
    ),
    "linear_solve": (
        by_operator,
        lambda args: jnp.linalg.solve(jnp.eye(3) + args["m"], args["b"]),
        MAP,
    ),
    "definite": (
        lambda args: linear_solve(
            lambda w: args["x"].T @ (args["x"] @ w) + jnp.exp(args["penalty"]) * w,
            args["x"].T @ args["y"],
            positive_definite=True,
        ),
        ridge_solved,
        RIDGE,
    ),
}


def derivatives(solve, args):
    """Value, and the derivatives in both modes, alone and over each other."""

    def total(args):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(solve(args)))

    def slope(args):
        return jax.jvp(total, (args,), (jax.tree.map(jnp.cos, args),))[1]

    along = jax.tree.map(jnp.cos, args)
    forward_over_reverse = jax.jvp(jax.grad(total), (args,), (along,))[1]
    return (
        solve(args),
        slope(args),
        jax.grad(total)(args),
        forward_over_reverse,
        jax.grad(slope)(args),
    )


@pytest.mark.parametrize("name", PROBLEMS)
def test_all_derivatives_are_those_of_the_closed_form(name, x64):
    solve, closed, args = PROBLEMS[name]
    several = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf), leaf * 1.1]), args)
    got, want = (
        jax.jit(jax.vmap(lambda a, s=s: derivatives(s, a)))(several) for s in (solve, closed)
    )
    chex.assert_trees_all_close(got, want, rtol=1e-7, atol=1e-9)


def equilibrium(x, args):
    hidden = jnp.tanh(args["kernel"] @ x["h"] + args["bias"])
    return {"h": hidden, "mean": 0.5 * x["mean"] + hidden.mean()}


def test_a_layer_of_equilibrium_has_the_gradient_of_its_iteration(x64):
    args = {"kernel": MATRIX, "bias": Y[:3]}
    start = {"h": np.zeros(3), "mean": 0.0}

    def by(solve):
        return lambda args: jnp.sin(solve(args)["h"]).sum() + solve(args)["mean"] ** 2

    solved = by(lambda args: fixed_point(equilibrium, start, args))
    iterated = by(lambda args: unrolled(equilibrium, start, 80, args))
    value, grads = jax.jit(jax.value_and_grad(solved))(args)
    chex.assert_trees_all_close(
        (value, grads), jax.jit(jax.value_and_grad(iterated))(args), rtol=1e-8
    )
    again = jax.jit(solved)
    for step in (1e-4, 1e-5):
        shifted = [{**args, "kernel": args["kernel"] + sign * step * np.eye(3)} for sign in (1, -1)]
        central = (again(shifted[0]) - again(shifted[1])) / (2 * step)
        np.testing.assert_allclose(central, np.trace(grads["kernel"]), rtol=1e-6)


def test_what_a_function_closes_over_is_differentiated(x64):
    def closing(a):
        solved = implicit(lambda x0: jnp.sqrt(a) + 0 * x0, lambda x: x**2 - a)(1.0)
        return solved + argmin(lambda w: (w - a) ** 2, 0.0) + root(lambda x: x**2 - a, 1.0)

    value, grad = jax.jit(jax.value_and_grad(closing))(4.0)
    np.testing.assert_allclose((value, grad), (8.0, 1.5), rtol=1e-9)
    forward = jax.jit(lambda a: jax.jvp(closing, (a,), (1.0,)))(4.0)
    np.testing.assert_allclose(forward, (8.0, 1.5), rtol=1e-9)


def test_integers_and_keys_are_passed_by_and_the_start_has_no_derivative():
    def solve(x0, a, power, key):
        noise = 0 * jax.random.normal(key)
        return root(lambda x, a, power, key: x**power - a + noise, x0, a, power, key)

    args = (2.0, 8.0, jnp.int32(3), jax.random.key(0))
    start, slope = jax.jit(jax.grad(solve, (0, 1)))(*args)
    assert start == 0
    np.testing.assert_allclose(slope, 1 / 12, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_kept(dtype):
    a = {"wide": jnp.array([4.0, 9.0]), "narrow": jnp.asarray(2.0, dtype)}

    def f(x, a):
        return jax.tree.map(lambda x, a: x**2 - a, x, a)

    start = jax.tree.map(jnp.ones_like, a)
    solution = jax.jit(lambda a: root(f, start, a))(a)
    chex.assert_trees_all_equal_shapes_and_dtypes(solution, a)
    rtol = 10 * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x.astype(jnp.float32), solution),
        {"wide": np.array([2.0, 3.0], np.float32), "narrow": np.float32(2**0.5)},
        rtol=rtol,
    )
    grads = jax.jit(jax.grad(lambda a: root(f, start, a)["wide"].sum()))(a)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, a)
    np.testing.assert_allclose(grads["wide"], [1 / 4, 1 / 6], rtol=rtol)
    assert grads["narrow"] == 0


FAILURES = {  # each a function of a number whose solution, or the slope of it, is not to be had
    "too few steps": lambda a: root(lambda x, a: jnp.arctan(x - a), a * 0 + 9.0, a, steps=1),
    "no root": lambda a: root(lambda x, a: x**2 + a, 1.0, a, steps=20),
    "too few iterations": lambda a: fixed_point(lambda x, a: 0.9 * x + a, 0.0, a, steps=3),
    "diverging": lambda a: fixed_point(lambda x, a: 2.0 * x + a, 1.0, a),
    "no minimum": lambda a: argmin(lambda x, a: jnp.exp(-a * x) - x, 0.0, a, steps=9),
    "a solver that does nothing": lambda a: implicit(lambda x0, a: x0, lambda x, a: x - a)(0.0, a),
    "a singular system": lambda a: linear_solve(
        lambda x: jnp.array([[1.0, 1.0], [1.0, 1.0]]) @ x, jnp.array([1.0, 2.0]) * a
    )[0],
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_does_not_converge_is_nan_in_value_and_derivatives(name):
    solve = FAILURES[name]
    value, tangent = jax.jit(lambda a: jax.jvp(solve, (a,), (1.0,)))(2.0)
    assert np.isnan(value)
    assert np.isnan(tangent)
    assert np.isnan(jax.jit(jax.grad(solve))(2.0))


BAD_SYSTEMS = {
    "an infinite slope": lambda a: implicit(
        lambda x0, a: 0 * a, lambda x, a: x**3 - (a - 2.0), tol=1e-4
    )(0.0, a),
    "a linear solver that is wrong": lambda a: implicit(
        lambda x0, a: a, lambda x, a: 2.0 * (x - a), linear_solver=lambda _, b: 0.4 * b
    )(0.0, a),
}


@pytest.mark.parametrize("name", BAD_SYSTEMS)
def test_a_value_without_a_derivative_has_nan_for_one(name):
    solve = BAD_SYSTEMS[name]
    assert np.isfinite(solve(2.0))
    assert np.isnan(jax.jvp(solve, (2.0,), (1.0,))[1])
    assert np.isnan(jax.grad(solve)(2.0))


def test_one_failure_of_several_leaves_the_others():
    def solve(a):
        return root(lambda x, a: x**2 - a, 1.0, a)

    a = jnp.array([4.0, -1.0, 9.0])
    slopes = jax.jit(jax.vmap(jax.grad(solve)))(a)
    np.testing.assert_allclose(slopes, [1 / 4, np.nan, 1 / 6], rtol=1e-5)


def test_a_tolerance_accepts_what_a_solver_gave():
    def solve(a, tol):
        return implicit(lambda x0, a: 1.5 + 0 * x0, lambda x, a: x**2 - a, tol=tol)(1.0, a)

    assert np.isnan(solve(2.0, None))
    assert solve(2.0, jnp.inf) == 1.5
    np.testing.assert_allclose(jax.grad(solve)(2.0, jnp.inf), 1 / 3, rtol=1e-5)
    assert solve(2.0, 0.04) == 1.5  # |1.5² - 2| = 0.25, and |2 * 1.5| (1 + |1.5|) = 7.5
    assert np.isnan(solve(2.0, 0.03))


def test_nothing_is_zero_and_still_solved():
    assert linear_solve(lambda x: 2 * x, 0.0) == 0
    assert linear_solve(lambda x: 2 * x, 0.0, tol=jnp.inf) == 0
    np.testing.assert_allclose(jax.grad(lambda b: linear_solve(lambda x: 2 * x, b))(0.0), 0.5)


def test_newton_finds_its_way_from_afar(x64):
    np.testing.assert_allclose(root(lambda x: jnp.arctan(x - 1), 9.0), 1.0)
    np.testing.assert_allclose(root(lambda x: jnp.log(x), 5.0), 1.0)
    np.testing.assert_allclose(root(lambda x: x**2 - 1e6, 1.0), 1e3)
    valley = argmin(lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, np.array([-1.2, 1]))
    np.testing.assert_allclose(valley, [1, 1])
    double_well = argmin(lambda x: x**4 - x**2, 0.1)  # the Hessian is negative at the start
    np.testing.assert_allclose(double_well, 0.5**0.5)


@pytest.mark.parametrize("definite", [True, False])
def test_large_systems_are_solved_by_products(definite, x64):
    n = 60
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(n, n)) / n**0.5
    matrix = noise @ noise.T + np.eye(n) if definite else noise + 3 * np.eye(n)
    b = rng.normal(size=n)

    def solve(matrix, b):
        return jnp.sum(jnp.sin(linear_solve(lambda x: matrix @ x, b, positive_definite=definite)))

    def dense(matrix, b):
        return jnp.sum(jnp.sin(jnp.linalg.solve(matrix, b)))

    got, want = (jax.jit(jax.value_and_grad(f, (0, 1)))(matrix, b) for f in (solve, dense))
    chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-9)


SCALES = [1e-30, 1e-8, 1.0, 1e30]


@pytest.mark.parametrize("n", [4, 40])  # by the matrix, and by products
@pytest.mark.parametrize("scale", SCALES)
def test_systems_of_any_scale_are_solved(scale, n):
    def A(x):  # noqa: N802
        return 2 * x + 0.1 * jnp.roll(x, 1)

    b = jnp.full(n, scale)
    got = (
        linear_solve(A, b) / scale,
        linear_solve(lambda x: 2 * x, b, positive_definite=True) / scale,
        linear_solve(lambda x: A(x) * scale, jnp.ones(n)) * scale,
    )
    for found, want in zip(got, (1 / 2.1, 1 / 2, 1 / 2.1), strict=True):
        np.testing.assert_allclose(found, np.full(n, want), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-9, 1.0])
def test_roots_and_their_slopes_of_any_scale_are_found(scale):
    def f(x, a):
        return scale * (x**3 + x + 0.1 * jnp.roll(x, 1) - a)

    def total(a):
        return scale * jnp.sum(root(f, jnp.zeros(40), a))

    x = root(f, jnp.zeros(40), jnp.full(40, 2.0))
    np.testing.assert_allclose(x**3 + 1.1 * x, 2.0, rtol=1e-5)
    slope = jax.jit(jax.grad(total))(jnp.full(40, 2.0)) / scale
    np.testing.assert_allclose(slope, 1 / (3 * x**2 + 1.1), rtol=1e-5)
    assert np.isnan(root(lambda x, a: 1e-5 * (x - a), 0.0, 3.0, solver=lambda f, x0, a: x0))


def test_a_small_gradient_goes_back_through_a_layer_of_equilibrium():
    def solve(a):
        return fixed_point(lambda x, a: jnp.tanh(0.5 * jnp.roll(x, 1) + a), jnp.zeros(64), a)

    target = solve(jnp.ones(64) + 1e-3)

    def loss(a, scale):
        return scale * jnp.mean((solve(a) - target) ** 2)

    large, small = (jax.jit(jax.grad(loss))(jnp.ones(64), scale) for scale in (1.0, 1e-6))
    np.testing.assert_allclose(small * 1e6, large, rtol=1e-4)


def test_an_iteration_that_crawls_is_never_taken_for_done():
    def crawl(x, a, part):
        return x + part * (a - x)

    assert np.isnan(fixed_point(lambda x, a: crawl(x, a, 1e-4), 0.0, 1.0))
    assert np.isnan(fixed_point(lambda x, a: crawl(x, a, 1e-4), jnp.zeros(2), 1.0)).all()
    np.testing.assert_allclose(
        fixed_point(lambda x, a: crawl(x, a, 1e-2), 0.0, 1.0, steps=9999), 1.0, rtol=1e-4
    )  # where rounding ends it a step moves by an eps, a hundredth of the way that is left
    parts = jnp.array([1.0, 1e-2])
    slow = fixed_point(lambda x: crawl(x, 1.0, parts), jnp.zeros(2), steps=9999)
    np.testing.assert_allclose(slow, 1.0, rtol=1e-4)
    assert fixed_point(lambda x: x, 1.0) == 1


@pytest.mark.parametrize("n", [1, 20])  # by the pseudo-inverse, and by products
def test_a_semidefinite_system_has_the_least_of_its_solutions(n):
    fisher = fisher_operator(lambda logits: logits, "categorical", jnp.zeros((n, 2)))
    b = jnp.tile(jnp.array([[1.0, -1.0]]), (n, 1))
    np.testing.assert_allclose(linear_solve(fisher, b), 2 * b, rtol=1e-5)
    assert np.isnan(linear_solve(fisher, jnp.ones((n, 2)))).all()


def test_the_input_of_an_operator_is_that_of_its_right_side():
    def f(params):
        return jnp.sum(jnp.cosh(params["a"])) + jnp.sum(params["b"] ** 4) + params["n"]

    params = {"a": jnp.array([0.5, 1.0]), "b": jnp.ones(3), "n": 3}
    hessian = hessian_operator(f, params, wrt="a")
    step = linear_solve(hessian, grad(f, wrt="a")(params))
    assert step["b"] is None
    np.testing.assert_allclose(step["a"], np.tanh(params["a"]), rtol=1e-6)


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (np.prod(out.aval.shape, initial=1) for out in equation.outvars)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


@pytest.mark.parametrize("definite", [True, False])
def test_no_matrix_is_ever_formed(definite):
    n = 200

    def solve(a):
        if definite:
            return argmin(lambda x, a: jnp.sum(jnp.cosh(x - a)), jnp.zeros(n), a).sum()
        return root(lambda x, a: jnp.sinh(x - a), jnp.zeros(n), a).sum()

    found = list(sizes(jax.make_jaxpr(jax.grad(solve))(jnp.ones(n)).jaxpr))
    assert len(found) > 100
    assert max(found) <= 33 * n  # the basis of GMRES


SOLVERS = {
    "root_find": (root, lambda o: o.Newton(1e-9, 1e-9), lambda x, a: x**2 - a),
    "fixed_point": (
        fixed_point,
        lambda o: o.FixedPointIteration(1e-9, 1e-9),
        lambda x, a: (x + a / x) / 2,
    ),
    "minimise": (
        argmin,
        lambda o: o.BFGS(1e-9, 1e-9),
        lambda x, a: jnp.sum(x**3 / 3 - a * x),
    ),
}


@pytest.mark.parametrize("task", SOLVERS)
def test_solvers_of_other_packages_are_taken_as_they_are(task, x64):
    optimistix, lineax = pytest.importorskip("optimistix"), pytest.importorskip("lineax")
    find, make, f = SOLVERS[task]
    linear = lineax.CG(1e-10, 1e-10) if task == "minimise" else lineax.GMRES(1e-10, 1e-10)

    def solve(a):
        return find(f, jnp.ones(2), a, solver=make(optimistix), linear_solver=linear).sum()

    grads = jax.jit(jax.grad(solve))(jnp.array([4.0, 9.0]))
    np.testing.assert_allclose(grads, [1 / 4, 1 / 6], rtol=1e-6)


def test_a_function_is_a_solver():
    def newton(f, x0, *args):
        return jax.lax.fori_loop(0, 20, lambda _, x: x - f(x, *args) / (2 * x), x0)

    slope = jax.grad(lambda a: root(lambda x, a: x**2 - a, 1.0, a, solver=newton))(4.0)
    np.testing.assert_allclose(slope, 0.25, rtol=1e-5)


def test_the_extras_are_not_imported():
    code = (
        "import sys, jax, funcnet.autodiff.solutions as i; i.root(lambda x: x - 1, 0.0); "
        "sys.exit(any(name in sys.modules for name in ('lineax', 'optimistix', 'equinox')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("steps", [1, 7, 9])
def test_unrolled_is_the_loop(steps, x64):
    args = {"kernel": MATRIX, "bias": Y[:3]}
    start = {"h": X[0], "mean": 0.5}

    def loop(x, args):
        for _ in range(steps):
            x = equilibrium(x, args)
        return x

    def total(solve):
        return lambda x, args: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(solve(x, args)))

    got = jax.value_and_grad(total(lambda x, args: unrolled(equilibrium, x, steps, args)), (0, 1))
    want = jax.value_and_grad(total(loop), (0, 1))
    chex.assert_trees_all_close(jax.jit(got)(start, args), jax.jit(want)(start, args), rtol=1e-12)


def test_unrolled_keeps_the_square_root_of_its_steps():
    def step(x, a):
        return jnp.tanh(a * jnp.sin(jnp.cos(x)))

    def plain(x, a):
        return jax.lax.scan(lambda x, _: (step(x, a), None), x, length=100)[0]

    def memory(solve):
        compiled = jax.jit(jax.grad(lambda x, a: solve(x, a).sum())).lower(jnp.ones(4096), 1.0)
        return compiled.compile().memory_analysis().temp_size_in_bytes / 4096 / 4

    assert memory(plain) > 100
    assert memory(lambda x, a: unrolled(step, x, 100, a)) < 60


SQUARE = lambda x, a: x**2 - a  # noqa: E731  # a row of the table below


ERRORS = {
    "integer": (
        lambda: root(SQUARE, {"n": jnp.int32(1), "x": 1.0}, 2.0),
        TypeError,
        "`root`: every leaf of x0 must be a float array, got n: int32[]. Cast it, or hand what is "
        "no unknown over as an argument.",
    ),
    "empty": (
        lambda: fixed_point(SQUARE, {}, 2.0),
        ValueError,
        "`fixed_point`: x0 must hold at least one array, got {}. There is nothing to solve for.",
    ),
    "shape": (
        lambda: root(lambda x, a: x.sum() - a, jnp.ones(2), 2.0),
        ValueError,
        "`root`: f(x, *args) must be a tree like x0, got float32[] in place of "
        "float32[2]. Give one number for each unknown, in its dtype.",
    ),
    "optimality": (
        lambda: implicit(lambda x0: x0, lambda x: {"b": x["a"]})({"a": 1.0}),
        ValueError,
        "`implicit`: optimality(x, *args) must be a tree like x0, got a: missing, expected "
        "float32[]; b: not expected, got float32[]. Give one number for each unknown, in its "
        "dtype.",
    ),
    "scalar": (
        lambda: argmin(SQUARE, jnp.ones(2), 2.0),
        ValueError,
        "`argmin`: objective(x, *args) must be a float scalar, got float32[2]. Sum or average it.",
    ),
    "no scalar": (
        lambda: argmin(lambda x: jnp.argmin(x), jnp.ones(2)),
        ValueError,
        "`argmin`: objective(x, *args) must be a float scalar, got int32[]. Sum or average it.",
    ),
    "solver": (
        lambda: root(SQUARE, 1.0, 2.0, solver="newton"),
        TypeError,
        "`root`: solver must be a function `solver(f, x0, *args) -> x`, or a solver of optimistix "
        "(`pip install optimistix`), got 'newton'.",
    ),
    "linear solver": (
        lambda: linear_solve(lambda x: x, 1.0, solver="cg"),
        TypeError,
        "`linear_solve`: a linear solver must be a function `solver(A, b) -> x`, or a solver of "
        "lineax (`pip install lineax`), got 'cg'.",
    ),
    "pair": (
        lambda: root(SQUARE, 1.0, 2.0, solver=lambda f, x0, *args: (x0, 7)),
        ValueError,
        "`root`: the solver must give a tree like x0, got (float32[], int32[]) in place of "
        "float32[]. Let it return `x` alone.",
    ),
    "linear pair": (
        lambda: linear_solve(lambda x: x, 1.0, solver=lambda _, b: (b,)),
        ValueError,
        "`linear_solve`: the linear solver must give a tree like b, got (float32[]) in place of "
        "float32[]. Let it return `x` alone.",
    ),
    "not square": (
        lambda: linear_solve(lambda x: x[:1], jnp.ones(2)),
        ValueError,
        "`linear_solve`: A x must be a tree like b, got float32[1] in place of "
        "float32[2]. Give one number for each unknown, in its dtype.",
    ),
    "steps": (
        lambda: unrolled(SQUARE, 1.0, 0, 2.0),
        ValueError,
        "`unrolled`: steps must be a positive whole number, got 0.",
    ),
    "step": (
        lambda: unrolled(lambda x: x[None], 1.0, 3),
        ValueError,
        "`unrolled`: step(x, *args) must be a tree like x0, got float32[1] in place of "
        "float32[]. Give one number for each unknown, in its dtype.",
    ),
    "no linear map": (
        lambda: linear_solve(jnp.eye(2), jnp.ones(2)),
        TypeError,
        "`linear_solve`: A must be a LinearOperator or a linear function, got float32[2, 2]. Of a "
        "matrix write `lambda x: matrix @ x`.",
    ),
    "rectangular": (
        lambda: linear_solve(jacobian_operator(lambda x: x[:2], jnp.ones(3)), jnp.ones(2)),
        ValueError,
        "`linear_solve`: the operator's output must be like its input, got float32[2] in place of "
        "float32[3]. Take a square one.",
    ),
    "another right side": (
        lambda: linear_solve(hessian_operator(lambda x: x @ x, jnp.ones(3)), jnp.ones(2)),
        ValueError,
        "`linear_solve`: b must be like the operator's input, got float32[2] in place of "
        "float32[3]. Give an array of that shape and dtype for each leaf.",
    ),
    "the wrong way round": (
        lambda: root(1.0, SQUARE),
        TypeError,
        "`root`: f must be a function, got 1.0. Give it first, its arguments after it.",
    ),
    "a class": (
        lambda: root(SQUARE, 1.0, 2.0, solver=dict),
        TypeError,
        "`root`: solver must be a function `solver(f, x0, *args) -> x`, or a solver of optimistix "
        "(`pip install optimistix`), got <class 'dict'>.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_do(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value) == words
