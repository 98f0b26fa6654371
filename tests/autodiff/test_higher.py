"""Taylor coefficients and higher derivatives against closed forms, nested grad and each other."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.autodiff import higher
from funcnet.autodiff.higher import nth_derivative, partial, taylor
from funcnet.autodiff.solutions import root

SERIES = {  # f, at, its coefficients in closed form
    "exp": (jnp.exp, 0.0, [1 / math.factorial(k) for k in range(6)]),
    "sin": (jnp.sin, 0.0, [0, 1, 0, -1 / 6, 0, 1 / 120]),
    "log": (jnp.log, 1.0, [0, 1, -1 / 2, 1 / 3, -1 / 4, 1 / 5]),
    "geometric": (lambda x: 1 / (1 - x), 0.0, [1] * 6),
    "polynomial": (lambda x: 3 * x**4 - x, 2.0, [46, 95, 72, 24, 3, 0]),
    "tanh": (jnp.tanh, 0.0, [0, 1, 0, -1 / 3, 0, 2 / 15]),
    "tan": (jnp.tan, 0.0, [0, 1, 0, 1 / 3, 0, 2 / 15]),  # no rule in jet
    "scan": (
        lambda x: jax.lax.scan(lambda c, _: (c * x, None), 1.0, length=3)[0],
        1.0,
        [1, 3, 3, 1, 0, 0],
    ),
    "softplus": (jax.nn.softplus, 0.0, [math.log(2), 1 / 2, 1 / 8, 0, -1 / 192, 0]),
    "clip": (lambda x: jnp.clip(x, 0.0, 9.0) ** 2, 1.0, [1, 2, 1, 0, 0, 0]),
    "root": (lambda a: root(lambda x, a: x**2 - a, 1.0, a), 1.0, [1, 1 / 2, -1 / 8, 1 / 16]),
}


@pytest.mark.parametrize("name", SERIES)
def test_coefficients_are_those_of_the_series(name, x64):
    f, x, want = SERIES[name]
    coefficients = jax.jit(lambda x: taylor(f, x, 1.0, len(want) - 1))(x)
    np.testing.assert_allclose(coefficients, want, rtol=1e-10, atol=1e-12)
    derivative = jax.jit(nth_derivative(f, 3))(x)
    np.testing.assert_allclose(derivative, 6 * want[3], rtol=1e-10, atol=1e-12)


class Point(NamedTuple):
    position: jax.Array
    turns: int
    rest: dict


def curve(point, power):
    moved = jnp.tanh(point.position @ point.position) * point.rest["height"] ** power
    return {"a": moved * point.turns, "b": (jnp.sin(point.position), jnp.exp(moved))}


def test_trees_move_along_a_direction_and_integers_are_passed_by(x64):
    at = Point(jnp.array([0.3, -0.2]), 3, {"height": 0.7})
    along = Point(jnp.array([1.0, 2.0]), 0, {"height": -0.5})

    def line(t):
        return curve(Point(at.position + t * along.position, 3, {"height": 0.7 - 0.5 * t}), 2.5)

    second = jax.jacfwd(jax.jacfwd(line))
    want = (line(0.0), jax.jit(jax.jacfwd(line))(0.0), jax.jit(second)(0.0))
    want = (*want[:2], jax.tree.map(lambda d: d / 2, want[2]))
    got = jax.jit(lambda position: taylor(curve, at._replace(position=position), along, 2, 2.5))(
        at.position
    )
    chex.assert_trees_all_close(got, want, rtol=1e-10)


def test_both_ways_give_the_same_numbers(x64):
    def f(x):
        return jnp.sin(x[0] @ x[0]) / (1 + x[1] ** 3) + jax.nn.sigmoid(x[1] * jnp.exp(x[0].sum()))

    x, v = [jnp.array([0.3, -0.2]), jnp.float64(0.7)], [jnp.array([1.0, 2.0]), jnp.float64(-0.5)]
    by_jet, by_jvps = (
        jax.jit(lambda x, by=by: by(f, x, v, 4))(x) for by in (higher.by_jet, higher.by_jvps)
    )
    np.testing.assert_allclose(by_jet, by_jvps, rtol=1e-10)


def test_small_values_keep_their_digits():
    value, slope, _ = taylor(jnp.tanh, 1e-4, 1.0, 2)
    np.testing.assert_allclose((value, slope), (1e-4, 1.0), rtol=1e-6)


@pytest.mark.parametrize("f", [lambda x: x**4.0, lambda x: jnp.power(x, 3 * jnp.cos(0.0))])
def test_powers_of_negative_numbers(f):
    got = taylor(f, -2.0, 1.0, 2)
    want = (f(-2.0), jax.grad(f)(-2.0), jax.grad(jax.grad(f))(-2.0) / 2)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("f", "knows"),
    [
        (jnp.tanh, True),
        (lambda x: jax.jit(jnp.sin)(x) ** 2, True),
        (jnp.tan, False),
        (lambda x: jax.jit(jnp.tan)(x), False),
        (jax.nn.relu, False),
        (lambda x: jnp.clip(x, 0.0, 1.0), False),
    ],
)
def test_taylor_mode_is_taken_where_it_knows_the_operations(f, knows):
    assert higher.jet_knows(jax.make_jaxpr(f)(1.0).jaxpr) == knows


def test_a_rule_of_ones_own_is_kept():
    @jax.custom_jvp
    def f(x):
        return x

    f.defjvps(lambda x_dot, y, x: 5 * x**2 * x_dot)
    assert nth_derivative(f, 1)(2.0) == 20
    assert nth_derivative(f, 2)(2.0) == 20


def test_the_modulus_of_a_complex_number():
    slope = nth_derivative(lambda x: jnp.abs(jnp.exp(1j * x) * x**2), 1)
    np.testing.assert_allclose(slope(2.0), 4.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("f", "x", "slope"),
    [
        (jnp.arcsinh, -800.0, 1 / math.sqrt(800**2 + 1)),
        (jnp.arccosh, 800.0, 1 / math.sqrt(800**2 - 1)),
        (jnp.arctanh, 0.999, 1 / (1 - 0.999**2)),
    ],
)
def test_inverse_hyperbolic_functions_keep_their_digits(f, x, slope):
    np.testing.assert_allclose(nth_derivative(f, 1)(x), slope, rtol=3e-5)  # 1 - x² of float32 0.999


def test_orders_of_numpy_and_numbers_of_python(x64):
    assert nth_derivative(lambda x: x**3, np.int64(2))(2.0) == 12
    coefficients = taylor(lambda x: x**2, jnp.float32(3.0), 1.0, np.int32(2))
    assert coefficients == (9, 6, 1)
    assert all(c.dtype == jnp.float32 for c in coefficients)


def test_order_zero_is_the_function_and_dtypes_are_kept():
    assert taylor(jnp.exp, 0.0, 1.0, 0) == (1.0,)
    assert nth_derivative(jnp.exp, 0)(0.0) == 1
    for dtype in (jnp.float32, jnp.bfloat16):
        for f in (jnp.sin, jnp.tan):
            x = jnp.asarray(0.5, dtype)
            assert all(c.dtype == dtype for c in taylor(f, x, x, 3))
            assert nth_derivative(f, 3)(x).dtype == dtype


def wave(params, t, x, *, speed=1.0, **more):
    del more
    return {"u": params["a"] * jnp.sin(x - speed * t) ** 3, "v": t * x**2}


def test_partials_are_nested_gradients_of_named_arguments(x64):
    params = {"a": 2.0}

    def u(t, x, speed):
        return wave(params, t, x, speed=speed)["u"]

    got = jax.jit(lambda: partial(wave, "x", "t", "x", "speed")(params, 0.3, x=0.7, speed=1.2))()
    want = jax.grad(jax.grad(jax.grad(jax.grad(u, 1), 0), 1), 2)(0.3, 0.7, 1.2)
    np.testing.assert_allclose(got["u"], want, rtol=1e-10)
    assert got["v"] == 0
    by_default = partial(wave, "t")(params, 0.3, 0.7)["u"]
    np.testing.assert_allclose(by_default, jax.grad(u)(0.3, 0.7, 1.0), rtol=1e-12)
    by_speed = partial(wave, "speed")(params, 0.3, 0.7)["u"]
    np.testing.assert_allclose(by_speed, jax.grad(u, 2)(0.3, 0.7, 1.0), rtol=1e-12)
    once_more = partial(partial(wave, "x"), "x")(params, 0.3, 0.7)
    chex.assert_trees_all_close(once_more, partial(wave, "x", "x")(params, 0.3, 0.7), rtol=1e-12)
    assert once_more["v"] == 0.6


def heat(t, x):
    return jnp.exp(-(jnp.pi**2) * t) * jnp.sin(jnp.pi * x)


def test_the_heat_equation_has_no_residual_at_its_solution(x64):
    def residual(t, x):
        return partial(heat, "t")(t, x) - partial(heat, "x", "x")(t, x)

    t, x = jnp.linspace(0, 0.5, 7), jnp.linspace(0, 1, 7)
    assert jnp.abs(jax.jit(jax.vmap(residual))(t, x)).max() < 1e-13
    assert jnp.abs(jax.vmap(partial(heat, "x", "x"))(t, x)).max() > 1


def test_a_network_is_trained_on_a_residual():
    def u(params, t, x):
        hidden = jnp.tanh(params["in"] @ jnp.stack([t, x]) + params["bias"])
        return params["out"] @ jnp.tanh(params["mid"] @ hidden)

    def objective(params, t, x):
        def residual(t, x):
            return partial(u, "t")(params, t, x) - partial(u, "x", "x")(params, t, x)

        return jnp.mean(jax.vmap(residual)(t, x) ** 2)

    keys = jax.random.split(jax.random.key(0), 5)
    shapes = {"in": (8, 2), "bias": (8,), "mid": (8, 8), "out": (8,)}
    params = {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=False)}
    t, x = jax.random.uniform(keys[4], (2, 16))
    value, grads = jax.jit(jax.value_and_grad(objective))(params, t, x)
    chex.assert_tree_all_finite(grads)
    lower = jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads)
    assert jax.jit(objective)(lower, t, x) < value


ERRORS = {
    "order": (
        lambda: taylor(jnp.sin, 0.0, 1.0, 2.0),
        TypeError,
        "`taylor`: order must be a whole number, 0 or more, got 2.0.",
    ),
    "negative": (
        lambda: nth_derivative(jnp.sin, -1),
        ValueError,
        "`nth_derivative`: n must be a whole number, 0 or more, got -1.",
    ),
    "no floats": (
        lambda: taylor(lambda x: x["n"], {"n": 3}, {"n": 1}, 1),
        ValueError,
        "`taylor`: x must hold at least one float, got {'n': 3}. Only floats have derivatives.",
    ),
    "direction": (
        lambda: taylor(jnp.sum, {"a": jnp.ones(2)}, {"a": jnp.ones(3)}, 1),
        ValueError,
        "`taylor`: direction must be a tree like x, got a: expected float32[2], got float32[3]. "
        "Give an array of that shape and dtype for each leaf.",
    ),
    "output": (
        lambda: taylor(lambda x: {"y": x, "n": jnp.int32(x)}, 1.0, 1.0, 1),
        TypeError,
        "`taylor`: every output of f must be a float array, got n: int32[]. Return it apart, or "
        "cast it.",
    ),
    "vector": (
        lambda: nth_derivative(jnp.sin, 2)(jnp.ones(3)),
        ValueError,
        "`nth_derivative`: x must be a float scalar, got float32[3]. Write f for one point, and "
        "`jax.vmap` over the points.",
    ),
    "whole": (
        lambda: partial(heat, "t")(1, 0.5),
        TypeError,
        "`partial`: t must be a float scalar, got 1. Write 1.0.",
    ),
    "tree": (
        lambda: nth_derivative(jnp.sin, 2)((1.0, 2.0)),
        TypeError,
        "`nth_derivative`: x must be a float scalar, got (1.0, 2.0). Cast it, or take `taylor` for "
        "a tree.",
    ),
    "misspelt": (
        lambda: partial(wave, "spede"),
        ValueError,
        "`partial`: every name must be an argument of f, got 'spede'. Did you mean 'speed'?",
    ),
    "unknown": (
        lambda: partial(heat, "more"),
        ValueError,
        "`partial`: every name must be an argument of f, got 'more'. Known are: 't', 'x'.",
    ),
    "variadic": (
        lambda: partial(wave, "more"),
        ValueError,
        "`partial`: every name must be an argument of f, got 'more'. Known are: 'params', 'speed', "
        "'t', 'x'.",
    ),
    "no names": (
        lambda: partial(lambda *args: 1.0, "a"),
        ValueError,
        "`partial`: every name must be an argument of f, got 'a'. None is known.",
    ),
    "not a function": (
        lambda: nth_derivative(3, 1),
        TypeError,
        "`nth_derivative`: f must be a function, got 3. Give it first, its arguments after it.",
    ),
    "nameless": (
        lambda: partial(heat),
        ValueError,
        "`partial`: at least one argument must be named, got none. Known are: 't', 'x'.",
    ),
    "no function": (
        lambda: partial(3, "x"),
        TypeError,
        "`partial`: f must be a function with named arguments, got 3. Wrap it: "
        "`lambda t, x: f(t, x)`.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_do(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value) == words
