"""Norms that a watched optimizer reports: by a loop of NumPy, in `fit`, in runs, within others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.training.watching import Watched, norms, watched

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(12, 3)).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32) + 1
KINDS = ("grad_norm", "update_norm", "param_norm")
NAMES = [f"{kind}{path}" for kind in KINDS for path in ("", "/bias", "/kernel")]


def trainer_of(optimizer):
    return fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optimizer)


def norms_by_hand(epochs, batch_size, rate):
    """A loop of NumPy over the same batches of linear regression, epoch by epoch."""
    start = trainer_of(optax.sgd(rate)).init(jax.random.key(0), X[:1]).params
    kernel, bias = np.array(start["kernel"], float), np.array(start["bias"], float)
    epochs_found = []
    for _ in range(epochs):
        steps = []
        for at in range(0, len(X), batch_size):
            x, y = X[at : at + batch_size].astype(float), Y[at : at + batch_size].astype(float)
            error = 2 * (x @ kernel + bias - y) / len(x)
            grads = {"bias": error.sum(0), "kernel": x.T @ error}
            params = {"bias": bias, "kernel": kernel}
            of_step = {}
            for kind, leaves, factor in (
                ("grad_norm", grads, 1), ("update_norm", grads, rate), ("param_norm", params, 1),
            ):  # fmt: skip
                for path, leaf in leaves.items():
                    of_step[f"{kind}/{path}"] = factor * np.linalg.norm(leaf)
                of_step[kind] = factor * np.sqrt(sum((leaf**2).sum() for leaf in leaves.values()))
            steps.append(of_step)
            kernel, bias = kernel - rate * grads["kernel"], bias - rate * grads["bias"]
        epochs_found.append({name: np.mean([step[name] for step in steps]) for name in NAMES})
    return epochs_found


@pytest.fixture(scope="module")
def fitted():
    trainer = trainer_of(watched(optax.sgd(0.1)))
    return trainer.fit((X, Y), epochs=3, batch_size=4, shuffle=False, validation=(X, Y))


def test_the_history_has_the_mean_norms_of_each_epoch(fitted):
    by_hand = norms_by_hand(3, 4, 0.1)
    for name in NAMES:
        expected = [epoch[name] for epoch in by_hand]
        np.testing.assert_allclose(fitted.history[name], expected, rtol=1e-5, err_msg=name)


def test_nothing_else_of_the_training_changes(fitted):
    plain = trainer_of(optax.sgd(0.1)).fit(
        (X, Y), epochs=3, batch_size=4, shuffle=False, validation=(X, Y)
    )
    assert plain.losses.tobytes() == fitted.losses.tobytes()
    assert set(fitted.history) - set(plain.history) == set(NAMES)
    assert "grad_norm/kernel" not in repr(fitted)
    assert repr(fitted) == repr(plain)


def test_a_run_reports_what_fit_does(fitted):
    run = fn.make_run(
        lambda rate: trainer_of(watched(optax.sgd(rate))), epochs=3, batch_size=4, shuffle=False
    )
    rates = jnp.array([0.1, 0.02])
    runs = jax.vmap(run, in_axes=(None, None, 0, None))(jax.random.key(0), (X, Y), rates, (X, Y))
    for i, rate in enumerate(rates.tolist()):
        by_hand = norms_by_hand(3, 4, rate)
        for name in NAMES:
            expected = [epoch[name] for epoch in by_hand]
            np.testing.assert_allclose(runs.history[name][i], expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("depth", "paths"),
    [
        (None, {"", "0/bias", "0/kernel", "2/a"}),
        (0, {""}),
        (1, {"", "0", "2"}),
        (2, {"", "0/bias", "0/kernel", "2/a"}),
    ],
)
def test_depth_tells_how_many_names_are_told_apart(depth, paths):
    params = {"0": {"bias": jnp.array([3.0]), "kernel": jnp.array([4.0])}, "2": {"a": jnp.ones(2)}}
    optimizer = watched(optax.sgd(1.0), depth=depth)
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    found = norms(opt_state)
    assert {name.partition("/")[2] for name in found} == paths
    assert float(found["grad_norm"]) == pytest.approx(27**0.5)
    if depth == 1:
        assert float(found["grad_norm/0"]) == 5


def test_after_epoch_begins_anew():
    optimizer, params = watched(optax.sgd(1.0)), jnp.zeros(2)
    opt_state = optimizer.init(params)
    assert np.isnan(norms(opt_state)["grad_norm"])
    found = []
    for grads in ([3.0, 4.0], [0.0, 1.0], [6.0, 8.0]):
        if len(found) == 2:
            opt_state = fn.training.after_epoch(opt_state, {})
        _, opt_state = optimizer.update(jnp.array(grads), opt_state, params)
        found.append(float(norms(opt_state)["grad_norm"]))
    assert found == [5, 3, 10]


def test_every_so_often_is_counted_from_the_first_of_an_epoch():
    optimizer, params = watched(optax.sgd(1.0), every=3), jnp.zeros(1)
    update = jax.jit(optimizer.update)
    opt_state, found = optimizer.init(params), []
    for i in range(1, 9):
        if i == 6:
            opt_state = fn.training.after_epoch(opt_state, {})
        _, opt_state = update(jnp.array([1.0 * i]), opt_state, params)
        found.append(float(norms(opt_state)["grad_norm"]))
    assert found == [1, 1, 1, 2.5, 2.5, 6, 6, 6]


def test_around_a_guard_what_is_left_out_is_seen_and_within_it_is_not():
    params, bad, good = jnp.zeros(1), jnp.array([jnp.nan]), jnp.array([2.0])
    for optimizer, nan in (
        (watched(fn.guarded(optax.sgd(1.0))), True),
        (fn.guarded(watched(optax.sgd(1.0))), False),
    ):
        opt_state = optimizer.init(params)
        for grads in (bad, good):
            _, opt_state = optimizer.update(grads, opt_state, params)
        assert np.isnan(norms(opt_state)["grad_norm"]) == nan
        assert float(norms(opt_state)["update_norm"]) == (1 if nan else 2)


def test_parts_that_are_watched_tell_of_their_own_arrays():
    optimizer = fn.training.parts(
        {"head/**": watched(optax.sgd(1.0)), "**": watched(optax.sgd(0.5))}
    )
    params = {"body": jnp.ones(2), "head": {"kernel": jnp.ones(3)}}
    grads = {"body": jnp.array([3.0, 4.0]), "head": {"kernel": jnp.array([0.0, 0.0, 7.0])}}
    _, opt_state = optimizer.update(grads, optimizer.init(params), params)
    found = norms(opt_state)
    assert set(found) == {f"{kind}/{path}" for kind in KINDS for path in ("body", "head/kernel")}
    assert float(found["update_norm/body"]) == 2.5
    assert float(found["update_norm/head/kernel"]) == 7


def test_micro_batches_and_half_precision_params_are_watched_too():
    model = fn.dense(1)
    trainer = fn.Trainer(
        model, loss=optax.losses.squared_error, optimizer=watched(optax.sgd(0.1)), accumulate=2
    )
    result = trainer.fit((X, Y), epochs=1, batch_size=4, shuffle=False)
    expected = norms_by_hand(1, 4, 0.1)[0]["grad_norm"]
    assert result.history["grad_norm"][0] == pytest.approx(expected, rel=1e-5)
    optimizer, params = watched(optax.sgd(1.0)), jnp.zeros(2, jnp.float16)
    grads = jnp.full(2, 300, jnp.float16)  # whose squares overflow
    _, opt_state = optimizer.update(grads, optimizer.init(params), params)
    assert float(norms(opt_state)["grad_norm"]) == pytest.approx(300 * 2**0.5)
    assert isinstance(opt_state, Watched)


def test_a_metric_of_the_same_name_is_refused():
    trainer = fn.Trainer(
        fn.dense(1),
        loss=optax.losses.squared_error,
        optimizer=watched(optax.sgd(0.1)),
        metrics={"grad_norm": fn.metrics.mae()},
    )
    words = (
        "`Trainer`: a metric can't be named 'grad_norm', which the optimizer reports. "
        "Give it another name."
    )
    with pytest.raises(ValueError, match=words):
        trainer.fit((X, Y), batch_size=4)
    with pytest.raises(ValueError, match=words):
        fn.make_run(trainer, epochs=1, batch_size=4)(jax.random.key(0), (X, Y))


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"`watched`: optimizer must be an optax.GradientTransf.*"):
        watched(optax.sgd)
    words = "`watched`: depth must be None or a whole number of names, 0 or more, got {}. Give 1"
    with pytest.raises(TypeError, match=words.format("True")):
        watched(optax.sgd(0.1), depth=True)
    with pytest.raises(ValueError, match=words.format("-1")):
        watched(optax.sgd(0.1), depth=-1)
    with pytest.raises(ValueError, match="`watched`: every must be a positive whole number, got 0"):
        watched(optax.sgd(0.1), every=0)
    optimizer = watched(optax.sgd(0.1))
    with pytest.raises(
        ValueError, match=r"`watched`: update needs the params, got none. Call `opt"
    ):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
