"""`Trainer(eager=True)`: layers see values at each step, and the numbers are those of compiling."""

import subprocess
import sys
import traceback
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.eager import eagerly

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]))[:, None].astype(np.float32)


def trainer(*layers, eager=True, **settings):
    settings = {
        "loss": optax.losses.squared_error,
        "optimizer": optax.sgd(0.1),
        "eager": eager,
    } | settings
    return fn.Trainer(fn.sequential(*layers), **settings)


def deep():
    block = fn.remat(fn.residual(fn.sequential(fn.dense(3), jnp.tanh)))
    return fn.layer_stack(block, 2), fn.dropout(0.2), fn.dense(1)


def narrow():
    both = fn.wire(lambda parts, x: parts.a(parts.a(x)), a=fn.dense(3))
    return (fn.mixed_precision(fn.sequential(both, fn.dense(1)), compute=jnp.float16),)


def convolved_and_recurrent():
    def square(x):
        return (x[:, :, None] * x[:, None])[..., None]  # (B, 3) -> (B, 3, 3, 1)

    pools = fn.max_pool((2, 2), strides=1), fn.avg_pool((2, 1), strides=1)  # (B, 1, 2, 2)
    image = square, fn.conv(2, (2, 2)), fn.batch_norm(), *pools
    return *image, lambda x: x[:, 0], fn.lstm(2), fn.flatten(), fn.dense(1)


ROWS = {
    "conv, norm, pool, lstm": (convolved_and_recurrent, optax.sgd(0.1), 1),
    "guarded, accumulated": (deep, fn.guarded(optax.sgd(0.1)), 2),
    "float16, scaled": (narrow, fn.loss_scaling(optax.sgd(0.1)), 1),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_numbers_are_those_of_compiling(row):
    layers, optimizer, parts = ROWS[row]
    settings = {"optimizer": optimizer, "accumulate": parts}
    slow, fast = (trainer(*layers(), eager=eager, **settings) for eager in (True, False))
    batch = X[:4], Y[:4]
    state = jax.jit(fast.init)(jax.random.key(0), X)
    rtol = 2e-3 if "float16" in row else 2e-5  # a rounding of float16 is 5e-4
    (one, found), (other, expected) = slow.step(state, batch), jax.jit(fast.step)(state, batch)
    one, other = (each._replace(key=0) for each in (one, other))
    chex.assert_trees_all_close((one, found), (other, expected), rtol=rtol, atol=rtol)


def test_a_layer_sees_values_wherever_the_model_runs():
    seen = []

    def look(x):
        seen.append((np.asarray(x), float(x.mean()), f"{x.max():.2f}", np.percentile(x, 5), x))
        assert str(x).startswith("[[")
        assert repr(x).startswith("Array([[")
        return x if x.mean() > 100 else 2 * x

    slow = trainer(fn.layer_stack(fn.remat(look), 1), fn.dense(1))
    state = slow.init(jax.random.key(0), X)

    def last():
        values = seen[-1][0]
        assert seen[-1][1] == pytest.approx(values.mean(), abs=1e-6)
        return values

    slow.step(state, (X[:4], Y[:4]))
    np.testing.assert_array_equal(last(), X[:4])
    slow.predict(state, X)
    np.testing.assert_array_equal(last(), X)
    slow.evaluate(state, (X, Y), batch_size=12)
    np.testing.assert_array_equal(last(), X)
    slow.advance(state, 2, (X, Y), batch_size=4, shuffle=False)
    np.testing.assert_array_equal(last(), X[4:8])
    before = len(seen)
    slow.fit((X, Y), epochs=2, batch_size=4, shuffle=False)
    steps = [values for values, *_ in seen[before:] if len(values) == 4][-6:]
    np.testing.assert_array_equal(np.concatenate(steps), np.concatenate([X, X]))


def test_a_breakpoint_in_a_layer_stops_at_each_step(monkeypatch):
    frames = []

    def hook(*args, **settings):
        frames.append(sys._getframe(1).f_locals["x"].shape)

    monkeypatch.setattr(sys, "breakpointhook", hook)

    def layer(x):
        breakpoint()
        return x

    trainer(layer, fn.dense(1)).fit((X, Y), steps=3, batch_size=4)
    assert frames.count((4, 3)) >= 3


SCRIPT = """
import jax.numpy as jnp, numpy as np, optax, funcnet as fn
def layer(x):
    if len(x) == 4:
        breakpoint()
    return x
x = np.arange(8, dtype=np.float32)[:, None] / 8
trainer = fn.Trainer(fn.sequential(layer, fn.dense(1)), loss=optax.losses.squared_error,
                     optimizer=optax.sgd(0.1), eager=True)
state = trainer.init(__import__("jax").random.key(0), x)
trainer.step(state, (x[:4], x[:4]))
print("done")
"""


def test_pdb_shows_the_values(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    told = subprocess.run(
        [sys.executable, script],
        input="p x.shape\np x\np float(x.max())\nc\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(fn.__file__).parent.parent,
        env={**__import__("os").environ, "PYTHONPATH": str(Path(fn.__file__).parent.parent)},
    )
    assert told.returncode == 0, told.stderr
    assert "(4, 1)" in told.stdout
    assert "Array([[0.   ]," in told.stdout
    assert "(Pdb) 0.375" in told.stdout
    assert told.stdout.endswith("done\n")


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: fn.layer_stack(fn.remat(f), 2)])
def test_an_assertion_ends_at_the_line_of_the_user(wrap):
    def sure(x):
        assert len(x) != 4, "four"
        return x

    slow = trainer(wrap(sure), fn.dense(1))
    state = slow.init(jax.random.key(0), X)
    with pytest.raises(AssertionError, match="four") as caught:
        slow.step(state, (X[:4], Y[:4]))
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.name) == (__file__, "sure")
    assert caught.value.__cause__ is None


def test_a_layer_may_decide_by_values_where_compiling_refuses():
    def decide(x):
        return x if x.sum() > 0 else -x

    result = trainer(decide, fn.dense(1)).fit((X, Y), steps=2, batch_size=4)
    assert np.isfinite(result.losses).all()
    with pytest.raises(jax.errors.TracerBoolConversionError):
        trainer(decide, fn.dense(1), eager=False).fit((X, Y), steps=2, batch_size=4)


def test_numpy_numbers_do_not_cut_the_gradient():
    def f(x):
        return (np.float32(2) * x + np.ones(3, np.float32) * x + x * np.arange(3.0)).sum()

    expected = jax.grad(f)(jnp.ones(3))
    with eagerly():
        np.testing.assert_array_equal(jax.grad(f)(jnp.ones(3)), expected)


def test_what_is_traced_stays_without_values_elsewhere():
    with eagerly():
        pass
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.grad(lambda x: np.asarray(x).sum())(1.0)
    shown = []
    jax.grad(lambda x: shown.append(repr(x)) or x)(1.0)
    assert shown[0].startswith("GradTracer")
    with eagerly(), pytest.raises(jax.errors.TracerArrayConversionError):
        jax.vmap(np.asarray)(jnp.ones(3))


def test_a_run_that_was_saved_compiled_goes_on_eagerly(tmp_path):
    stopping = fn.early_stopping("loss", patience=9)
    settings = {"batch_size": 4, "stopping": stopping, "checkpoint": tmp_path}
    fast, slow = (trainer(fn.dense(1), eager=eager) for eager in (False, True))
    fast.fit((X, Y), epochs=1, **settings)
    found = slow.fit((X, Y), epochs=2, **settings)
    expected = fast.fit((X, Y), epochs=2, batch_size=4)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)


def test_divided_batches_run_eagerly():
    slow = trainer(fn.dense(1), placement=fn.data_parallel())
    fast = trainer(fn.dense(1), eager=False)
    one, other = (each.fit((X, Y), steps=2, batch_size=4) for each in (slow, fast))
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: trainer(fn.dense(1), eager=1),
            TypeError,
            "`Trainer`: eager must be True or False, got 1.",
        ),
        (
            lambda: trainer(fn.dense(1), placement=fn.pmapped()),
            ValueError,
            "`Trainer`: eager must go without `fn.pmapped`, whose layers see one device's part of "
            "a batch and never its values. Leave the placement out to look at them.",
        ),
        (
            lambda: fn.make_run(trainer(fn.dense(1)), epochs=1),
            ValueError,
            "`make_run`: the trainer must be one that compiles, got eager=True. A whole run is one "
            "compiled program: look at layers in `trainer.fit`.",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message
