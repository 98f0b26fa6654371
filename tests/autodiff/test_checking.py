"""`check_grads`: right rules pass, seeded wrong ones are caught, and the report says where."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import funcnet as fn
from funcnet.autodiff.checking import GradReport, GradRow, assert_grads, check_grads, verdict_of
from funcnet.autodiff.differences import STEPS, central, coarsest, extrapolated


class Params(NamedTuple):
    w: jax.Array
    rest: list


def seeded(rule):
    """`w ** 3 * v`, with a rule of its own for forward mode."""
    f = jax.custom_jvp(lambda w, v: w**3 * v)
    f.defjvp(lambda primals, tangents: (f(*primals), rule(*primals, *tangents)))
    return f


def frozen_factor(w, v, dw, dv):
    return 3 * lax.stop_gradient(w) ** 2 * v * dw + w**3 * dv


RULES = {
    "right": (lambda w, v, dw, dv: 3 * w**2 * v * dw + w**3 * dv, {}),
    "factor": (lambda w, v, dw, dv: 3.001 * w**2 * v * dw + w**3 * dv, {"w": 1}),
    "factor of 1e-5": (lambda w, v, dw, dv: 3.00003 * w**2 * v * dw + w**3 * dv, {"w": 1}),
    "sign": (lambda w, v, dw, dv: 3 * w**2 * v * dw - w**3 * dv, {"v": 1}),
    "missing term": (lambda w, v, dw, dv: 3 * w**2 * v * dw, {"v": 1}),
    "order 2 alone": (frozen_factor, {"w": 2}),
}


@pytest.mark.parametrize("name", RULES)
def test_seeded_rules(name):
    rule, wrong = RULES[name]
    report = check_grads(seeded(rule), jnp.arange(1.0, 4.0), jnp.array([2.0, -1.0, 0.5]), order=2)
    assert report.ok == (not wrong)
    for path, order in wrong.items():
        assert (report.worst.path, report.worst.order) == (path, order)
        assert report.worst.verdict == "wrong"
    first = {row.path: row.verdict for row in report.rows if row.order == 1}
    assert first == {leaf: "wrong" if wrong.get(leaf) == 1 else "ok" for leaf in "wv"}


def test_the_numbers_are_the_derivatives():
    x = jnp.array([0.3, -1.2])
    report = check_grads(lambda x: jnp.sin(x).sum() * x[0], x, order=2, rtol=1e-9)
    first, second = report.rows
    assert set(first.values) == {"fwd", "rev"}
    assert set(second.values) == {"fwd-fwd", "fwd-rev", "rev-fwd", "rev-rev"}
    for row in report.rows:
        np.testing.assert_allclose(list(row.values.values()), row.differences, rtol=1e-8)
        assert row.step in STEPS
    assert report.ok


def test_one_wrong_element_of_many():
    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    @f.defjvp
    def _(primals, tangents):
        (x,), (v,) = primals, tangents
        return f(x), jnp.cos(x).at[777].multiply(1.1) * v

    assert check_grads(f, jnp.linspace(0, 1, 1000)).worst.verdict == "wrong"


def test_reverse_mode_wrong_alone():
    def double(x):
        return jax.custom_derivatives.linear_call(
            lambda _, x: 2 * x, lambda _, ct: 2.01 * ct, (), x
        )

    row = check_grads(double, jnp.ones(3)).worst
    assert (row.verdict, row.path) == ("wrong", "x")
    assert row.between == pytest.approx(0.005, rel=0.01)
    assert check_grads(double, jnp.ones(3), modes=["fwd"]).ok


@jax.custom_vjp
def reverse_only(x):
    return jnp.sin(x)


reverse_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))


def test_a_rule_for_reverse_mode_alone_is_noted():
    report = check_grads(reverse_only, jnp.ones(2), order=2)
    assert report.ok
    assert [set(row.values) for row in report.rows] == [{"rev"}, {"fwd-rev", "rev-rev"}]
    (note,) = report.notes
    assert note.startswith("no fwd: can't apply forward-mode")
    assert "  -  " in str(report)


def test_a_wrong_rule_for_reverse_mode_alone():
    @jax.custom_vjp
    def f(x, y):
        return x * y

    f.defvjp(lambda x, y: (x * y, (x, y)), lambda kept, ct: (ct * kept[1], ct * kept[1]))
    report = check_grads(f, 2.0, 3.0)
    assert {row.path: row.verdict for row in report.rows} == {"x": "ok", "y": "wrong"}


def test_a_rule_that_fails_is_no_missing_rule():
    @jax.custom_vjp
    def f(x):
        return x

    f.defvjp(lambda x: (x, None), lambda _, ct: (ct[:1],))
    with pytest.raises((TypeError, ValueError), match="must produce an output with the same type"):
        check_grads(f, jnp.ones(3), modes=["rev"])


def double_until_ten(x):
    return lax.while_loop(lambda y: jnp.all(y < 10), lambda y: y * x, x)


def test_a_while_loop_has_no_reverse_mode():
    report = check_grads(double_until_ten, 3.0, order=2)
    assert report.ok
    assert [set(row.values) for row in report.rows] == [{"fwd"}, {"fwd-fwd"}]
    (note,) = report.notes
    assert note.startswith("no rev, rev-fwd: Reverse-mode differentiation does not work for")
    none = check_grads(double_until_ten, 3.0, modes=["rev"], order=2)
    assert [row.verdict for row in none.rows] == ["no rule"] * 2
    assert not none.ok


KINKS = {
    "abs": (jnp.abs, 0.0, 1),
    "relu in a row": (lambda x: jax.nn.relu(x).sum(), np.linspace(-1, 1, 9), 1),
    "max at a tie": (lambda x: x.max(), np.array([2.0, 2.0, 1.0]), 1),
    "a jump": (lambda x: jnp.floor(x) + x, 1.0, 1),
    "bend of the slope": (lambda x: jax.nn.relu(x) ** 2 + x, 0.0, 2),
    "huber": (lambda x: optax.losses.huber_loss(x, delta=1.0), 1.0, 2),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks(name):
    f, x, order = KINKS[name]
    verdicts = [row.verdict for row in check_grads(f, x, order=order).rows]
    assert verdicts == ["ok"] * (order - 1) + ["kink?"]


SMOOTH = {
    "a kink near by": (jnp.abs, 1e-5),
    "many kinks near by": (lambda x: jax.nn.relu(x).sum(), np.linspace(-1, 1, 1000)),
    "steep": (lambda x: jnp.tanh(1e4 * x), 1e-5),
    "large offset": (lambda x: 1e6 + jnp.sin(x), 0.5),
    "tiny leaf": (jnp.log, 1e-30),
    "huge leaf": (jnp.log, 1e30),
    "no slope": (lambda x: jax.nn.softmax(x).sum(), np.arange(3.0)),
    "zero": (lambda x: 0 * x, 1.0),
    "empty": (lambda x: x.sum() + 1, np.ones((0, 2))),
    "half power": (lambda x: jnp.abs(x) ** 3.5, 0.3),
    "stiff": (lambda x: jnp.exp(-(x**2)), 6.0),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_no_false_alarm(name):
    f, x = SMOOTH[name]
    assert_grads(f, x, order=2, directions=2)


@pytest.mark.parametrize(
    ("between", "off", "rough", "near", "kink", "verdict"),
    [(0.0, 1e-9, 1e-9, 1e-6, False, "ok"), (1e-3, 0.0, 0.0, 1e-6, False, "wrong"),
     (1e-3, 0.0, 0.0, 1e-6, True, "wrong"), (0.0, 1.0, 0.0, 1e-6, True, "kink?"),
     (0.0, 1e-3, 0.0, 1e-6, False, "wrong"), (0.0, 1e-3, 2e-3, 1e-6, False, "ok"),
     (0.0, 1e-3, 2e-2, 1e-6, False, "unclear"), (0.3, 0.3, 0.0, 8.0, False, "unclear"),
     (0.6, 0.3, 0.0, 8.0, False, "wrong"), (0.0, 1.0, np.inf, 1e-6, False, "unclear")],
)  # fmt: skip
def test_the_table_of_verdicts(between, off, rough, near, kink, verdict):
    assert verdict_of(between, off, rough, near, kink) == verdict


def test_the_fault_of_order_1_is_the_worst():
    report = check_grads(lambda x: lax.stop_gradient(x) * x, jnp.arange(1.0, 4.0), order=2)
    first, second = report.rows
    assert (first.verdict, second.verdict) == ("wrong", "wrong")
    assert second.off > first.off
    assert report.worst == first


def test_nan_is_said():
    report = check_grads(lambda x: jnp.log(x).sum(), jnp.array([1.0, -1.0]))
    assert (report.worst.verdict, report.ok) == ("nan", False)
    assert "f itself is not finite at args" in report.notes
    masked = check_grads(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0), 0.0)
    assert masked.worst.verdict == "nan"
    assert masked.notes == ()


@pytest.mark.parametrize("order", [1, 2])
def test_what_is_not_finite_stays_as_it_is(order):
    def f(x, mask):
        return jax.nn.softmax(x + mask)[0]

    report = check_grads(f, jnp.ones(3), jnp.array([0.0, 0.0, -jnp.inf]), order=order)
    assert report.ok
    assert report.notes == ("inf or NaN in mask: these numbers stay as they are",)


@pytest.mark.parametrize("rate", [1e5, 1e6, 1e7, 1e8])
def test_a_fast_oscillation_is_right_or_unclear(rate):
    verdicts = {
        row.verdict
        for f, x in ((lambda x: jnp.sin(rate * x), 1.0), (lambda x: jnp.sin(x).sum(), [rate] * 3))
        for key in range(4)
        for row in check_grads(f, jnp.array(x), key=jax.random.key(key)).rows
    }
    assert verdicts <= {"ok", "unclear"}
    assert "unclear" in verdicts or rate == 1e5


def test_steps_that_agree_by_chance_are_contradicted_by_shorter_ones():
    rate = (2 * math.pi * 4**10 + 1e-3) / STEPS[0]  # all steps but the last are whole turns
    found = central(lambda t: math.sin(rate * t), 1e-16)
    np.testing.assert_allclose(found.value, 1e-2, rtol=1e-3)
    assert found.error == math.inf


def test_float32_inside_is_noted_and_still_told_apart():
    def narrow(factor):
        @jax.custom_jvp
        def f(x):
            return jnp.sin(x.astype(jnp.float32))

        f.defjvp(lambda x, v: (f(*x), (factor * jnp.cos(x[0]) * v[0]).astype(jnp.float32)))
        return f

    right, wrong = (check_grads(narrow(k), np.linspace(0.1, 1, 5)) for k in (1.0, 1.05))
    assert right.ok
    assert wrong.worst.verdict == "wrong"
    assert right.notes == ("f computes in float32 inside, which limits what can be told",)


def test_bfloat16_inside_is_unclear():
    assert check_grads(lambda x: jnp.sin(x.astype(jnp.bfloat16)), 0.5).worst.verdict == "unclear"


def test_constants_in_float32_cost_no_accuracy():
    matrix = jnp.linspace(-1, 1, 6, dtype=jnp.float32).reshape(2, 3)
    report = check_grads(lambda x: jnp.sin(x @ matrix), jnp.ones(2))
    assert report.notes == ()
    assert report.worst.off < 1e-9


def test_integers_and_statics_are_passed_by():
    def f(params, labels, times, name):
        assert name == "mean"
        return sum(params.w[labels] ** k for k in range(times)).sum() * params.rest[0]["b"]

    params = Params(jnp.arange(1.0, 4.0), [{"b": 2.0, "n": 3}, jnp.bfloat16(2.0)])
    report = check_grads(f, params, np.array([0, 2]), 3, "mean")
    assert [row.path for row in report.rows] == ["params/w", "params/rest/0/b", "params/rest/1"]
    assert report.notes == ("passed by: params/rest/0/n, labels, times, name",)
    assert report.ok


def test_outputs_are_trees_and_integers_among_them_are_passed_by():
    def f(x):
        return {"y": jnp.sin(x), "n": x.astype(int), "z": (x[0] * x[1], 3)}

    assert check_grads(f, jnp.array([0.5, 1.5]), order=2).ok


def test_a_function_that_cannot_be_traced():
    report = check_grads(lambda x: x**2 if x > 0 else x, 3.0, order=2)
    assert report.ok
    assert report.notes == ("f can't be traced: it ran uncompiled",)


def test_64_bits_whatever_the_setting():
    seen = []
    with jax.enable_x64(False):
        check_grads(lambda x: seen.append(x.dtype) or jnp.sin(x), jnp.float32(1))
        assert jnp.ones(1).dtype == jnp.float32
    assert set(seen) == {jnp.dtype("float64")}


def test_an_objective_with_a_model_in_it():
    model = fn.sequential(
        fn.conv(2, (3, 3)), fn.batch_norm(), jax.nn.relu, fn.flatten(), fn.dropout(0.25),
        fn.dense(3),
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(0), (4, 4, 4, 1))
    params, model_state = model.init(jax.random.key(1), x)

    def objective(params, model_state, x, labels, key):
        y, _ = model.apply(params, model_state, x, key=key)
        return optax.losses.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    args = params, model_state, x, jnp.array([0, 2, 1, 1]), jax.random.key(2)
    report = check_grads(objective, *args)
    assert report.ok, report
    assert report.notes == ("passed by: labels, key",)
    assert {row.path for row in report.rows} >= {"params/0/kernel", "model_state/1/mean", "x"}


def test_the_worst_of_several_directions_and_of_a_key():
    def f(x):
        return jnp.sin(x).sum()

    one, three = (check_grads(f, jnp.ones(3), directions=n) for n in (1, 3))
    assert len(one.rows) == len(three.rows) == 1
    other = check_grads(f, jnp.ones(3), key=jax.random.key(7))
    assert one.worst.differences != other.worst.differences
    assert one.worst == check_grads(f, jnp.ones(3)).worst


REPORT = """\
leaf           order  between modes  off differences   step  verdict
-------------  -----  -------------  ---------------  -----  -------
params/kernel      1        2.0e-16          5.0e-01  4e-04  wrong
x                  1              -          3.0e-11  6e-03  ok
y                  1              -                -      -  no rule
worst: params/kernel, order 1: fwd 1.5, rev 1.5, differences 1
passed by: labels"""


def test_the_report_word_for_word():
    rows = (
        GradRow("params/kernel", 1, {"fwd": 1.5, "rev": 1.5}, 1.0, 4e-4, 2e-16, 0.5, "wrong"),
        GradRow("x", 1, {"rev": 1.0}, 1.0, 6e-3, 0.0, 3e-11, "ok"),
        GradRow("y", 1, {}, math.nan, 0.0, math.nan, math.nan, "no rule"),
    )
    report = GradReport(rows, ("passed by: labels",))
    assert str(report) == REPORT
    assert report.worst == rows[0]
    assert str(GradReport(rows[1:2], ())).endswith("ok")


def test_assert_grads_shows_the_report():
    assert assert_grads(jnp.sin, 1.0) is None
    with pytest.raises(AssertionError) as caught:
        assert_grads(lambda x: lax.stop_gradient(x) * x, 3.0)
    words = str(caught.value)
    assert words.startswith("`assert_grads`: the derivatives must agree.\nleaf  order  between")
    assert "\nworst: x, order 1: fwd " in words


ERRORS = {
    "f": (
        (3, 1.0), {}, TypeError,
        "`check_grads`: f must be a function, got 3. Give it first, its arguments after it.",
    ),
    "key": (
        (jnp.sin, 1.0), {"key": 3}, TypeError,
        "`check_grads`: key must be a key of JAX, got 3. Say `key=jax.random.key(3)`.",
    ),
    "rtol": (
        (jnp.sin, 1.0), {"rtol": -1}, ValueError,
        "`check_grads`: rtol must be a positive number, got -1. Give 1e-06 say.",
    ),
    "paths": (
        (lambda p: p["a/b"], {"a/b": 1.0, "a": {"b": 1.0}}), {}, ValueError,
        "`paths`: each leaf must have a path of its own, got 'a/b' twice. Rename the key that has "
        "a '/' in it.",
    ),
    "no args": (
        (jnp.sin,), {}, TypeError,
        "`check_grads`: args must hold an array of real floats, got (). "
        "Give the point at which to differentiate, `jnp.ones(3)` say.",
    ),
    "no floats": (
        (jnp.sin, np.arange(3), {}), {}, TypeError,
        "`check_grads`: args must hold an array of real floats, got (int64[3], {}). "
        "Give the point at which to differentiate, `jnp.ones(3)` say.",
    ),
    "complex": (
        (jnp.abs, np.ones(3, np.complex64)), {}, TypeError,
        "`check_grads`: args must be real, got x: complex64[3]. "
        "Check f as a function of the real and the imaginary part.",
    ),
    "complex output": (
        (lambda x: x * 1j, 1.0), {}, TypeError,
        "`check_grads`: f must give real numbers, got complex ones. "
        "Check its real and its imaginary part.",
    ),
    "integer output": (
        (lambda x: (x > 0, x.astype(int)), 1.0), {}, TypeError,
        "`check_grads`: f must give an array of real floats, got bool, int64. "
        "Only such outputs have a derivative.",
    ),
    "order": (
        (jnp.sin, 1.0), {"order": 3}, ValueError,
        "`check_grads`: order must be 1 or 2, got 3. "
        "For a higher one check the derivative itself, `jax.grad(f)` say.",
    ),
    "modes": (
        (jnp.sin, 1.0), {"modes": "fwd"}, ValueError,
        "`check_grads`: modes must be some of 'fwd' and 'rev', got 'fwd'. "
        "Say `modes=('fwd', 'rev')`.",
    ),
    "directions": (
        (jnp.sin, 1.0), {"directions": 0}, ValueError,
        "`check_grads`: directions must be a positive whole number, got 0.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    args, settings, kind, words = ERRORS[name]
    with pytest.raises(kind) as caught:
        check_grads(*args, **settings)
    assert str(caught.value) == words


def test_traced_args_are_refused():
    with pytest.raises(TypeError) as caught:
        jax.jit(lambda x: check_grads(jnp.sin, x))(jnp.float32(1))
    assert str(caught.value) == (
        "`check_grads`: args must be known numbers, got the traced x: float32[]. "
        "Call it outside of jit, grad and vmap."
    )


@pytest.mark.parametrize(
    ("f", "slope"),
    [(math.exp, 1.0), (lambda t: math.sin(1000 * t), 1000.0), (lambda t: 1e8 + t, 1.0),
     (lambda t: abs(t - 1e-4), -1.0), (lambda t: t**3, 0.0)],
)  # fmt: skip
def test_central_differences_against_closed_forms(f, slope):
    found = central(f, 2e-16 * max(abs(f(0.0)), 1))
    assert abs(found.value - slope) <= 10 * found.error
    assert found.error < 1e-5 * max(abs(slope), 1)
    assert not found.kink


def test_extrapolation_takes_the_square_of_the_step_away():
    np.testing.assert_allclose(extrapolated([3 + 5 * h**2 for h in STEPS]), 3, rtol=1e-14)


def test_rounding_is_not_taken_for_agreement():
    found = central(lambda t: float(np.float32(100 + t)), 1.2e-5)
    assert found.value == pytest.approx(1, abs=1e-2)
    assert not found.kink


COARSE = {
    "plain": (jnp.sin, "float64"),
    "narrow in a jit": (jax.jit(lambda x: jnp.float32(x)), "float32"),
    "narrow in a loop's carry": (
        lambda x: lax.fori_loop(0, 3, lambda _, c: c + jnp.float32(x), jnp.float32(0)),
        "float32",
    ),
    "what a loop feeds back": (
        lambda x: lax.fori_loop(
            0,
            3,
            lambda _, c: (c[1].astype(jnp.bfloat16), x.astype(jnp.float32)),
            (jnp.bfloat16(0), jnp.float32(0)),
        ),
        "bfloat16",
    ),
    "a mask": (lambda x: jnp.where((x > 0).astype(jnp.float32) > 0, x, 0.0), "float64"),
    "a constant": (lambda x: x * jnp.exp(jnp.float32(2)), "float64"),
    "a constant of a jit": (lambda x: jax.jit(jnp.multiply)(x, jnp.float32(2)), "float64"),
    "half": (lambda x: jnp.float32(jnp.bfloat16(x)), "bfloat16"),
}


@pytest.mark.parametrize("name", COARSE)
def test_the_coarsest_dtype(name, x64):
    f, dtype = COARSE[name]
    assert coarsest(jax.make_jaxpr(f)(jnp.ones(()))) == dtype


def test_a_function_of_numpy_arrays_works_as_before_a_check():
    y = np.linspace(0, 1, 5)

    def loss(w):
        return jnp.sum((w - y) ** 2)

    gradients = []
    with jax.enable_x64(False):
        for _ in range(2):
            w = jnp.zeros(5)
            gradients += [jax.grad(loss)(w), jax.jit(jax.grad(loss))(w)]
            assert check_grads(loss, w).ok
    for gradient in gradients:
        np.testing.assert_allclose(gradient, -2 * y, rtol=1e-6)
