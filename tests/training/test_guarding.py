"""The guard: nothing that is not finite gets into a state, and all that is left out is counted."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.stopping import Reason
from tests.training.test_laws import CROSS_ENTROPY, data, digest, noisy, trainer_of


def spoilt(x, rows, value=np.nan):
    x = x.copy()
    x[rows] = value
    return x


def fit(optimizer, x, y, **settings):
    trainer = trainer_of(noisy(), optimizer)
    settings = {"batch_size": 10, "epochs": 2, "shuffle": False, "progress": False} | settings
    return trainer, trainer.fit((x, y), **settings)


def all_finite(state):
    return all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves((state.params, state.model_state, state.opt_state))
    )


def test_steps_that_are_not_finite_leave_no_trace_but_a_count():
    x, y = data(100)
    _, result = fit(fn.guarded(optax.adam(1e-2)), spoilt(x, [13, 51]), y)
    guard = fn.training.guard_of(result.last.opt_state)
    assert result.reason == Reason.EPOCHS
    assert all_finite(result.last)
    assert (int(guard.skipped), int(guard.in_a_row)) == (4, 0)
    assert int(result.last.step) == 20
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result.losses)), [1, 5, 11, 15])
    assert np.isfinite(result.history["loss"]).all()
    assert int(guard.inner[0].count) == 16


def test_where_all_is_finite_a_guard_changes_nothing(x64):
    x, y = data(100, np.float64)
    _, plain = fit(optax.adam(1e-2), x, y)
    _, kept = fit(fn.guarded(optax.adam(1e-2)), x, y)
    chex.assert_trees_all_close(plain.last.params, kept.last.params, rtol=1e-9)
    chex.assert_trees_all_close(plain.last.model_state, kept.last.model_state, rtol=1e-9)
    np.testing.assert_allclose(plain.losses, kept.losses, rtol=1e-6)  # they are kept in float32


@pytest.mark.parametrize("seed", range(4))
def test_params_are_finite_whatever_is_injected_where(seed):
    """Fifty injections each: of NaN, infinities and numbers too large to be squared."""
    drawn = np.random.default_rng(seed)
    x, y = data(400)
    rows = drawn.choice(400, 50, replace=False)
    values = drawn.choice([np.nan, np.inf, -np.inf, 3e38, -1e30], 50)
    x = spoilt(x, rows, values[:, None].astype(np.float32))
    _, result = fit(fn.guarded(optax.adam(1e-2)), x, y, batch_size=4, epochs=1)
    assert all_finite(result.last)
    assert int(fn.training.guard_of(result.last.opt_state).skipped) > 0


@pytest.mark.parametrize(
    ("gradient", "value", "first"),
    [
        ({"a": 1.0, "b": np.nan}, 1.0, 1),
        ({"a": np.inf, "b": np.nan}, 1.0, 0),
        ({"a": 1e30, "b": 1.0}, 1.0, 0),
        ({"a": 1.0, "b": 1.0}, np.inf, -2),
        ({"a": 1e15, "b": 1.0}, 1.0, -3),
    ],
)
def test_what_was_bad_is_told(gradient, value, first):
    optimizer = fn.guarded(optax.scale(-1e30))
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    gradient = {name: jnp.full_like(params[name], number) for name, number in gradient.items()}
    opt_state = optimizer.init(params)
    updates, opt_state = jax.jit(optimizer.update)(gradient, opt_state, params, value=value)
    assert int(opt_state.first) == first
    assert bool(opt_state.bad)
    assert not np.any(np.concatenate(jax.tree.leaves(updates)))


def test_too_many_in_a_row_stop_the_fit_at_that_step_however_it_is_cut():
    x, y = data(100)
    x = spoilt(x, slice(50, 90))
    results = [
        fit(fn.guarded(optax.adam(1e-2), patience=3), x, y)[1],
        fit(fn.guarded(optax.adam(1e-2), patience=3), x, y, steps=8)[1],
    ]
    for result in results:
        assert result.reason == Reason.NON_FINITE
        assert result.message == (
            "3 steps in a row before step 8 were left out; of the last, the gradient of 0/bias "
            "was not finite, or too large"
        )
        assert int(result.last.step) == len(result.losses) == 8
        assert all_finite(result.last)
    assert digest(results[0].last) == digest(results[1].last)


def test_a_run_is_guarded_as_a_fit_is():
    x, y = data(100)
    for rows, reason in (([13], Reason.EPOCHS), (slice(50, 90), Reason.NON_FINITE)):
        trainer = trainer_of(noisy(), fn.guarded(optax.adam(1e-2), patience=3))
        run = fn.make_run(trainer, epochs=2, batch_size=10, shuffle=False)
        found = run(jax.random.key(0), (spoilt(x, rows), y))
        assert int(found.reason) == reason
        assert all_finite(found.last)


def test_with_a_checkpoint_a_fit_goes_back_once_and_on_with_what_comes_next(tmp_path, caplog):
    x, y = data(200)
    x = spoilt(x, slice(150, 180))
    optimizer = fn.guarded(optax.adam(1e-2), patience=2)
    often = fn.checkpoint.every(tmp_path / "run", steps=4)
    trainer, result = fit(optimizer, x, y, epochs=1, checkpoint=often)
    guard = fn.training.guard_of(result.last.opt_state)
    assert result.reason == Reason.EPOCHS
    assert (int(guard.skipped), int(result.last.step)) == (3, 20)
    assert "step 17: gone back to the params of step 16" in caplog.text
    again = trainer.fit(
        (x, y), epochs=1, batch_size=10, shuffle=False, progress=False, checkpoint=often
    )
    assert digest(again.last) == digest(result.last)
    x = spoilt(x, slice(150, 200))
    _, result = fit(optimizer, x, y, epochs=1, checkpoint=tmp_path / "worse")
    assert result.reason == Reason.NON_FINITE


def test_averages_do_not_count_what_was_left_out():
    x, y = data(100)
    _, result = fit(fn.ema(fn.guarded(optax.adam(1e-2))), spoilt(x, [13]), y)
    assert all_finite(result.last)
    assert int(result.last.opt_state.taken) == 18


def test_without_a_guard_the_program_is_as_it_was():
    texts = []
    for optimizer in (optax.sgd(0.1), fn.guarded(optax.sgd(0.1))):
        trainer = fn.Trainer(fn.dense(3), loss=CROSS_ENTROPY, optimizer=optimizer)
        batch = data(8)
        state = trainer.init(jax.random.key(0), batch[0])
        texts.append(jax.jit(trainer.step).lower(state, batch).as_text())
    assert "stablehlo.case" not in texts[0]
    assert "stablehlo.case" in texts[1]


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="`guarded`: optimizer must be an optax"):
        fn.guarded(optax.adam)
    with pytest.raises(ValueError, match="`guarded`: patience must be"):
        fn.guarded(optax.adam(1e-3), patience=0)
