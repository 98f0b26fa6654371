"""Averages of params and loss scaling: optimizers around an optimizer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (24, 3))
Y = X @ jnp.array([[1.0], [-2.0], [0.5]]) + 1


def path_of(optimizer, steps=12):
    """Params and averages after each update of a noisy descent."""
    params = {"w": jnp.array([1.0, 2.0])}
    opt_state, found = optimizer.init(params), []
    for k in range(steps):
        grads = {"w": jnp.array([jnp.sin(k), jnp.cos(3.0 * k)])}
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        found.append((params["w"], opt_state.average["w"]))
    return (np.array(each) for each in zip(*found, strict=True))


def test_an_exponential_average_is_the_weighted_mean_of_all_params():
    params, average = path_of(fn.ema(optax.sgd(0.3), 0.8))
    for t in range(1, 13):
        by = 0.8 ** np.arange(t - 1, -1, -1)
        want = (by[:, None] * params[:t]).sum(0) / by.sum()
        np.testing.assert_allclose(average[t - 1], want, rtol=1e-5)


def test_a_stochastic_average_is_the_mean_of_those_that_count():
    params, average = path_of(fn.swa(optax.sgd(0.3), start=4, every=3))
    np.testing.assert_allclose(average[:3], params[:3])
    for t in range(4, 13):
        counted = params[[k - 1 for k in (4, 7, 10) if k <= t]]
        np.testing.assert_allclose(average[t - 1], counted.mean(0), rtol=1e-5)


def trainer(optimizer, model=None):
    return fn.Trainer(model or fn.dense(1), loss=optax.losses.squared_error, optimizer=optimizer)


def test_the_trainer_evaluates_with_the_average_and_trains_without_it():
    plain = trainer(optax.sgd(0.1)).fit((X, Y), epochs=3, batch_size=8)
    ours = trainer(fn.ema(optax.sgd(0.1), 0.9))
    result = ours.fit((X, Y), validation=(X, Y), epochs=3, batch_size=8)
    chex.assert_trees_all_close(result.last.params, plain.last.params, rtol=1e-6)
    averaged = fn.averaged(result.last)
    chex.assert_trees_all_equal(averaged.params, result.last.opt_state.average)
    y_pred = fn.dense(1).apply(averaged.params, {}, X)[0]
    loss = float(((y_pred - Y) ** 2).mean())
    np.testing.assert_allclose(result.history["val_loss"][-1], loss, rtol=1e-5)
    np.testing.assert_allclose(ours.evaluate(result.last, (X, Y))["loss"], loss, rtol=1e-5)
    chex.assert_trees_all_close(ours.predict(result.last, X), y_pred, rtol=1e-5)
    chex.assert_trees_all_close(ours.predict(averaged, X), y_pred, rtol=1e-5)


def test_an_average_inside_a_chain_is_found():
    chained = optax.chain(optax.clip(1.0), fn.ema(optax.sgd(0.1)))
    result = trainer(chained).fit((X, Y), epochs=1, batch_size=8)
    averaged = fn.averaged(result.last)
    assert not bool((averaged.params["kernel"] == result.last.params["kernel"]).all())


def test_averages_of_narrow_params_are_wide():
    optimizer = fn.ema(optax.sgd(0.1))
    params = jnp.ones(3, jnp.bfloat16)
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    assert state.average.dtype == jnp.float32


# --- loss scaling


def small(features):
    """A model whose gradients vanish in float16: they pass by a factor of 1e-6."""
    return fn.mixed_precision(
        fn.sequential(fn.dense(features), lambda y: y * jnp.asarray(1e-3, y.dtype)), jnp.float16
    )


def tiny_loss(y_pred, y):
    return 1e-4 * (1e3 * y_pred - y) ** 2


def test_gradients_that_vanish_in_float16_are_kept_by_scaling():
    def moved(optimizer):
        fitted = fn.Trainer(small(1), loss=tiny_loss, optimizer=optimizer)
        state = fitted.init(KEY, X)
        after, _ = fitted.step(state, (X, Y))
        return after.params["0"]["kernel"] - state.params["0"]["kernel"]

    wide = fn.sequential(fn.dense(1), lambda y: y * 1e-3)
    fitted = fn.Trainer(wide, loss=tiny_loss, optimizer=optax.sgd(1.0))
    state = fitted.init(KEY, X)
    want = fitted.step(state, (X, Y))[0].params["0"]["kernel"] - state.params["0"]["kernel"]
    scaled = moved(fn.loss_scaling(optax.sgd(1.0), initial=2.0**10))
    np.testing.assert_allclose(scaled, want, rtol=2e-2)


def test_the_scale_falls_at_an_overflow_and_grows_after_a_period():
    optimizer = fn.loss_scaling(optax.sgd(1.0), initial=16.0, period=3)
    params = jnp.zeros(2)
    state, scales, moved = optimizer.init(params), [], []
    for bad in (False, True, False, False, False, True, True):
        grads = jnp.array([1.0, jnp.inf if bad else 1.0])
        updates, state = optimizer.update(grads, state, params)
        scales.append(float(state.scale))
        moved.append(bool((updates != 0).any()))
    assert scales == [16.0, 8.0, 8.0, 8.0, 16.0, 8.0, 4.0]
    assert moved == [True, False, True, True, True, False, False]


def test_a_scale_that_is_too_large_finds_its_way_down():
    optimizer = fn.loss_scaling(optax.adam(0.05), initial=2.0**40)
    model = fn.mixed_precision(fn.sequential(fn.dense(16), jax.nn.relu, fn.dense(1)), jnp.float16)
    result = trainer(optimizer, model).fit((X, Y), epochs=60, batch_size=8)
    assert result.history["loss"][-1] < 0.2 * result.history["loss"][0]
    assert float(fn.training.loss_scale(result.last.opt_state)) < 2.0**40


def test_scaling_changes_nothing_in_float32():
    plain, scaled = (
        trainer(each).fit((X, Y), epochs=3, batch_size=8).last.params
        for each in (optax.adam(0.1), fn.loss_scaling(optax.adam(0.1), initial=2.0**8))
    )
    chex.assert_trees_all_close(plain, scaled, rtol=1e-5)


def test_scaling_and_averages_go_together_under_accumulation():
    optimizer = fn.ema(fn.loss_scaling(optax.sgd(0.1), initial=2.0**8), 0.9)
    whole = trainer(optax.sgd(0.1))
    parts = fn.Trainer(
        fn.dense(1), loss=optax.losses.squared_error, optimizer=optimizer, accumulate=4
    )
    results = [each.fit((X, Y), epochs=2, batch_size=8).last.params for each in (whole, parts)]
    chex.assert_trees_all_close(*results, rtol=1e-5)


def test_an_average_leaves_out_updates_that_were_skipped():
    optimizer = fn.ema(fn.loss_scaling(optax.sgd(1.0), initial=8.0), 0.5)
    params = jnp.array(100.0)
    state = optimizer.init(params)
    seen = []
    for gradient in (jnp.inf, jnp.inf, 1.0, jnp.inf, 1.0):
        updates, state = optimizer.update(jnp.array(gradient), state, params)
        params = params + updates
        seen.append((float(params), round(float(state.average), 4)))
    assert seen == [(100, 100), (100, 100), (99, 99), (99, 99), (98, 98.3333)]


def test_the_first_average_is_exact_for_every_decay():
    for decay in (0.0, 0.5, 0.99999, jnp.float32(0.99999)):
        optimizer = fn.ema(optax.sgd(1.0), decay)
        state = optimizer.init(jnp.array(1000.0))
        for gradient, average in ((1000.0, 0.0), (-3.0, 3 / (1 + float(decay)))):
            at = jnp.array(1000.0) if gradient > 0 else jnp.array(0.0)
            state = optimizer.update(jnp.array(gradient), state, at)[1]
            np.testing.assert_allclose(state.average, average, rtol=1e-5)


def test_scaling_takes_an_optimizer_that_widens():
    optimizer = fn.loss_scaling(optax.adamw(jnp.float32(1e-2)))
    narrow = X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16)
    result = trainer(optimizer).fit(narrow, epochs=1, batch_size=8)
    assert result.last.params["kernel"].dtype == jnp.bfloat16


REFUSED = {
    "decay of a wrong kind": (
        lambda: fn.ema(optax.sgd(0.1), "0.9"),
        "`ema`: decay must lie in 0 .. 1, got '0.9'. It is the share that stays: 0.999, say.",
    ),
    "decay 2 of numpy": (
        lambda: fn.ema(optax.sgd(0.1), np.float32(2)),
        "`ema`: decay must lie in 0 .. 1, got np.float32(2.0). "
        "It is the share that stays: 0.999, say.",
    ),
    "an average of some params": (
        lambda: fn.averaged(
            trainer(
                optax.partition(
                    {"ema": fn.ema(optax.sgd(0.1)), "sgd": optax.sgd(0.1)},
                    {"kernel": "ema", "bias": "sgd"},
                )
            ).init(jax.random.key(0), X)
        ),
        "`ema`, `swa`: the average must be of all params to evaluate with, got one of some. "
        "Put it around the whole optimizer: `fn.ema(optax.partition(...))`.",
    ),
    "a first scale that is none": (
        lambda: fn.loss_scaling(optax.sgd(0.1), initial=float("nan")),
        "`loss_scaling`: initial must be a positive number and factor one above 1, "
        "got initial=nan and factor=2.0.",
    ),
    "decay 1": (
        lambda: fn.ema(optax.sgd(0.1), 1.0),
        "`ema`: decay must lie in 0 .. 1, got 1.0. It is the share that stays: 0.999, say.",
    ),
    "an optimizer not called": (
        lambda: fn.swa(optax.adam, start=3),
        f"`swa`: optimizer must be an optax.GradientTransformation, got {optax.adam!r}. "
        "Call its factory, `optax.adam(1e-3)` say.",
    ),
    "start 0": (
        lambda: fn.swa(optax.sgd(0.1), start=0),
        "`swa`: start must be a positive whole number, got 0.",
    ),
    "no average": (
        lambda: fn.averaged(trainer(optax.sgd(0.1)).init(KEY, X)),
        "`averaged`: the state must be of an optimizer that keeps an average, got none in its "
        "opt_state. Train with `optimizer=fn.ema(optax.adam(1e-3))` say.",
    ),
    "no params": (
        lambda: fn.ema(optax.sgd(0.1)).update(X, fn.ema(optax.sgd(0.1)).init(X)),
        "`ema`: update needs the params, got none. "
        "Call `optimizer.update(grads, opt_state, params)`.",
    ),
    "a factor of 1": (
        lambda: fn.loss_scaling(optax.sgd(0.1), factor=1.0),
        "`loss_scaling`: initial must be a positive number and factor one above 1, got "
        "initial=32768.0 and factor=1.0.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_words_of_errors(case):
    act, words = REFUSED[case]
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    assert str(caught.value) == words
