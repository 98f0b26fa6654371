"""A run is `fit` as a pure function: laws of equality, of mapping, of cutting, of derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from tests.training.test_laws import CROSS_ENTROPY, data

KEY = jax.random.key(0)
STOPPING = fn.early_stopping("val_loss", patience=2, min_delta=0.003)


def make_trainer(hyper, counted=lambda: None):
    counted()
    model = fn.sequential(
        fn.dense(8), fn.batch_norm(), jnp.tanh, fn.dropout(hyper["drop"]), fn.dense(3)
    )
    objective = fn.objective(CROSS_ENTROPY, label_smoothing=hyper["smooth"])
    optimizer = optax.adamw(hyper["rate"], eps_root=1e-8, weight_decay=hyper["decay"])
    metrics = {"accuracy": fn.metrics.accuracy(), "confusion": fn.metrics.confusion_matrix(3)}
    return fn.Trainer(model, objective=objective, optimizer=optimizer, metrics=metrics)


HYPER = {"drop": 0.1, "smooth": 0.05, "rate": 0.01, "decay": 1e-3}


def assert_equal_runs(result, fitted, atol):
    """Everything that `fit` gives back is the same."""
    for name in ("best_epoch", "monitor", "reason", "message"):
        assert getattr(result, name) == getattr(fitted, name)
    assert list(result.history) == list(fitted.history)
    close = {"rtol": 0, "atol": atol}
    for name, line in fitted.history.items():
        np.testing.assert_allclose(result.history[name], line, **close)
    np.testing.assert_allclose(result.losses, fitted.losses, rtol=1e-6, atol=atol)  # of float32
    for state, other in ((result.best, fitted.best), (result.last, fitted.last)):
        chex.assert_trees_all_close(state._replace(key=0), other._replace(key=0), **close)
        assert state.step.dtype == other.step.dtype
        assert (jax.random.key_data(state.key) == jax.random.key_data(other.key)).all()


@pytest.mark.parametrize(
    ("stopping", "weighted"), [(None, True), (STOPPING, False)], ids=["weighted", "stopped"]
)
def test_a_run_equals_fit_over_500_steps(x64, stopping, weighted):
    x, y = data(103, np.float64)
    weight = (np.linspace(0, 2, 103),) if weighted else ()
    arguments = {"epochs": 100, "batch_size": 16, "stopping": stopping}
    run = fn.make_run(make_trainer, **arguments)(KEY, (x, y, *weight), HYPER, 0.25)
    fitted = make_trainer(HYPER).fit((x, y, *weight), validation=0.25, seed=0, **arguments)
    assert int(fitted.last.step) == 500 if stopping is None else 50 < int(fitted.last.step) < 500
    assert_equal_runs(run.as_result(), fitted, 1e-9)


def test_a_run_equals_fit_in_32_bits_over_20_steps():
    x, y = data(80)
    arguments = {"epochs": 4, "batch_size": 16}
    run = fn.make_run(make_trainer, **arguments)(KEY, (x, y), HYPER, (x[:30], y[:30]))
    fitted = make_trainer(HYPER).fit((x, y), validation=(x[:30], y[:30]), seed=0, **arguments)
    assert int(fitted.last.step) == 20
    assert_equal_runs(run.as_result(), fitted, 1e-5)


def linear(rate, **settings):
    return fn.Trainer(
        fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(rate), **settings
    )


def line(n=24):
    x = jnp.linspace(-1, 1, n)[:, None]
    return x, 2 * x + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: linear(rate, accumulate=2),
        lambda rate: fn.Trainer(
            fn.dense(1), loss=optax.losses.squared_error, optimizer=fn.ema(optax.sgd(rate), 0.9)
        ),
        lambda rate: fn.Trainer(
            fn.dense(1),
            loss=optax.losses.squared_error,
            optimizer=optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(rate, 0.0, 20)),
        ),
    ],
    ids=["accumulated", "averaged", "reports its rate"],
)
def test_whatever_a_trainer_does_a_run_does(x64, make):
    arguments = {"epochs": 6, "batch_size": 8, "shuffle": False}
    run = fn.make_run(make, **arguments)(KEY, line(), 0.1, line(7))
    fitted = make(jnp.array(0.1, float)).fit(line(), validation=line(7), seed=0, **arguments)
    assert_equal_runs(run.as_result(), fitted, 1e-9)


def test_a_run_that_breaks_says_so_as_fit_does():
    run = fn.make_run(linear, epochs=60, batch_size=8)(KEY, line(), 40.0)
    fitted = linear(40.0).fit(line(), epochs=60, batch_size=8, seed=0)
    assert fn.Reason(int(run.reason)) == fitted.reason == fn.Reason.NON_FINITE
    found = run.as_result()
    assert found.best_epoch == fitted.best_epoch
    assert len(found.history["loss"]) == len(fitted.history["loss"]) > 1
    assert np.isfinite(found.history["loss"]).all()
    assert found.message == f"a loss or a param was not finite in epoch {int(run.epochs) + 1}"


def test_a_run_that_breaks_at_once_gives_its_first_state_as_best():
    x, y = line()
    run = fn.make_run(linear, epochs=3)(KEY, (x, y.at[0].set(jnp.nan)), 0.1)
    assert int(run.best_epoch) == -1
    assert int(run.epochs) == 0
    first = linear(0.1).init(KEY, x)
    chex.assert_trees_all_equal(run.best.params, first.params)


def test_an_epoch_without_any_best_value_leaves_the_last_state():
    late = fn.early_stopping("loss", patience=9, start_from_epoch=9)
    run = fn.make_run(linear, epochs=3, stopping=late)(KEY, line(), 0.1)
    assert int(run.best_epoch) == -1
    chex.assert_trees_all_equal(run.best.params, run.last.params)


# ------------------------------------------------------------------------------------- mapped


def test_each_mapped_run_equals_the_same_run_alone(x64):
    x, y = data(96, np.float64)
    run = fn.make_run(make_trainer, epochs=40, batch_size=16, stopping=STOPPING)
    keys = jax.random.split(KEY, 4)
    hypers = {
        "drop": jnp.array([0.0, 0.1, 0.2, 0.0]),
        "smooth": jnp.zeros(4),
        "rate": jnp.array([0.03, 0.01, 0.02, 0.1]),
        "decay": jnp.zeros(4),
    }
    several = jax.vmap(run, in_axes=(0, None, 0, None))(keys, (x, y), hypers, (x[:30], y[:30]))
    assert len({int(n) for n in several.epochs}) > 1  # each has its own stop
    assert several.history["confusion"].shape == (4, 40, 3, 3)
    for i in range(4):
        alone = run(keys[i], (x, y), jax.tree.map(lambda v, i=i: v[i], hypers), (x[:30], y[:30]))
        got, want = several[i].as_result(), alone.as_result()
        assert_equal_runs(got, want, 1e-9)


def test_64_settings_are_one_compilation():
    x, y = data(32)
    calls = []
    run = fn.make_run(lambda h: make_trainer(h, lambda: calls.append(1)), epochs=2)
    for i in range(64):
        run(KEY, (x, y), HYPER | {"rate": 1e-3 * (i + 1), "drop": i / 64})
        run(KEY, (x, y), HYPER | {"rate": np.float32(1e-3 * (i + 1))})
        assert len(calls) <= 2  # one look at the shapes, and one compilation


# ------------------------------------------------------------------------------------ subsets


def test_a_run_on_a_subset_is_one_on_a_copy_to_the_bit():
    x, y = data(90)
    train, held = np.random.default_rng(0).permutation(90)[:70], np.arange(12)
    run = fn.make_run(make_trainer, epochs=3, batch_size=16)
    part = run(KEY, fn.data.subset((x, y), train), HYPER, fn.data.subset((x, y), held))
    copy = run(KEY, (x[train], y[train]), HYPER, (x[held], y[held]))
    fitted = make_trainer(HYPER).fit(
        fn.data.subset((x, y), train),
        validation=fn.data.subset((x, y), held),
        epochs=3,
        batch_size=16,
        seed=0,
    )
    chex.assert_trees_all_equal(part.history, copy.history)
    chex.assert_trees_all_equal(part.last.params, copy.last.params)
    assert_equal_runs(part.as_result(), fitted, 1e-5)


def test_subsets_of_several_lengths_are_one_program(x64):
    x, y = data(64, np.float64)
    run = fn.make_run(make_trainer, epochs=3, batch_size=8)

    def of(index, n, held, n_held):
        part = fn.data.subset((x, y), index, n)
        return run(KEY, part, HYPER, fn.data.subset((x, y), held, n_held))

    index = jnp.stack([jnp.arange(64), jnp.arange(64)[::-1]])
    held = index[:, ::2]
    n, n_held = jnp.array([37, 64]), jnp.array([32, 11])
    several = jax.vmap(of)(index, n, held, n_held)
    for i in range(2):
        rows, out = np.asarray(index[i][: n[i]]), np.asarray(held[i][: n_held[i]])
        fitted = make_trainer(HYPER).fit(
            (x[rows], y[rows]), validation=(x[out], y[out]), epochs=3, batch_size=8, seed=0
        )
        assert_equal_runs(several[i].as_result(), fitted, 1e-9)


# --------------------------------------------------------------------------------------- parts


def test_where_a_run_is_cut_changes_no_bit():
    x, y = data(64)
    run = fn.make_run(make_trainer, epochs=7, batch_size=16, stopping=STOPPING)
    args = (x, y), HYPER, 0.25
    whole = run.result(run.advance(run.init(KEY, *args), *args))
    for cuts in ([1, 2, 3, 4, 5, 6, 7], [3, 3, 99], [0, 7]):
        progress = run.init(KEY, *args)
        for until in cuts:
            progress = run.advance(progress, *args, until)
        chex.assert_trees_all_equal(
            jax.tree.map(jax.random.key_data, (whole.last.key, whole.best.key)),
            jax.tree.map(jax.random.key_data, (progress.state.key, progress.best.key)),
        )
        got = run.result(progress)
        for part in ("history", "losses", "epochs", "best_epoch", "reason"):
            chex.assert_trees_all_equal(getattr(whole, part), getattr(got, part))
        chex.assert_trees_all_equal(whole.best[1:4], got.best[1:4])
        chex.assert_trees_all_equal(whole.last[1:4], got.last[1:4])


def test_what_lies_behind_the_end_is_empty():
    x, y = data(64)
    stopping = fn.early_stopping("loss", patience=1, stopping_threshold=9.0)
    run = fn.make_run(make_trainer, epochs=5, batch_size=16, stopping=stopping)
    found = run(KEY, (x, y), HYPER)
    assert int(found.epochs) == 1
    assert np.isnan(found.history["loss"]).tolist() == [False] + [True] * 4
    assert np.isnan(found.losses).tolist() == [False] * 4 + [True] * 16
    assert found.history["confusion"].sum((1, 2)).tolist() == [64, 0, 0, 0, 0]
    assert found.as_result().losses.shape == (4,)
    assert found.as_result().history["loss"].shape == (1,)


# --------------------------------------------------------------------------------- derivatives


def validation_loss(run, hyper, weight, x, y):
    return run(KEY, (x, y, weight), hyper, (x[:20], y[:20])).history["val_loss"][4]


def test_hypergradients_equal_finite_differences(x64):
    x, y = data(40, np.float64)
    run = fn.make_run(make_trainer, epochs=5, batch_size=8)
    hyper = {name: jnp.asarray(value) for name, value in HYPER.items()}
    weight = jnp.linspace(0.5, 1.5, 40)
    args = {"rate": hyper.pop("rate"), "decay": hyper.pop("decay"), "weight": weight}

    def loss(args):
        varied = hyper | {"rate": args["rate"], "decay": args["decay"]}
        return validation_loss(run, varied, args["weight"], x, y)

    grads = jax.jit(jax.grad(loss))(args)
    loss = jax.jit(loss)
    directions = {
        "rate": 1.0,
        "decay": 1.0,
        "weight": jnp.asarray(np.random.default_rng(0).normal(size=40)),
    }
    for name, direction in directions.items():
        step = 1e-6
        ahead, behind = (loss(args | {name: args[name] + s * direction}) for s in (step, -step))
        along = jnp.sum(grads[name] * direction)
        np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=1e-5)
        assert float(abs(along)) > 1e-6


def test_both_modes_agree_through_an_early_stop(x64):
    x, y = line()
    stopping = fn.early_stopping("loss", patience=1, stopping_threshold=0.3)
    run = fn.make_run(linear, epochs=30, batch_size=8, stopping=stopping)
    assert 3 < int(run(KEY, (x, y), 0.05).epochs) < 30

    def kernel(rate):
        return run(KEY, (x, y), rate).last.params["kernel"].sum()

    reverse = jax.grad(kernel)(0.05)
    forward = jax.jvp(kernel, (0.05,), (1.0,))[1]
    ahead, behind = kernel(0.05 + 1e-6), kernel(0.05 - 1e-6)
    np.testing.assert_allclose(reverse, forward, rtol=1e-12)
    np.testing.assert_allclose(reverse, (ahead - behind) / 2e-6, rtol=1e-6)
    second = jax.grad(jax.grad(kernel))(0.05)
    slopes = [jax.grad(kernel)(0.05 + s) for s in (1e-5, -1e-5)]
    np.testing.assert_allclose(second, (slopes[0] - slopes[1]) / 2e-5, rtol=1e-5)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: fn.make_run(linear, epochs=0),
            ValueError,
            "`make_run`: epochs must be",
        ),
        (
            lambda: fn.make_run(3, epochs=1),
            TypeError,
            "`make_run`: make_trainer must be a function `hyperparameters -> trainer`, or a "
            "trainer, got 3",
        ),
        (
            lambda: fn.make_run(lambda rate: fn.dense(1), epochs=1)(KEY, line(), 0.1),
            TypeError,
            "`make_run`: make_trainer must give a trainer, got",
        ),
        (
            lambda: fn.make_run(linear(0.1), epochs=1)(KEY, line(), 0.1),
            TypeError,
            "`make_run`: hyperparameters need a function that makes a trainer of them",
        ),
        (
            lambda: fn.make_run(linear, epochs=1, stopping=3),
            TypeError,
            "`make_run`: stopping must come from `fn.early_stopping`, got 3",
        ),
        (
            lambda: fn.make_run(linear, epochs=1, stopping=STOPPING)(KEY, line(), 0.1),
            ValueError,
            "`run`: stopping monitors 'val_loss', but there is no validation data",
        ),
        (
            lambda: fn.make_run(linear, epochs=1)(0, line(), 0.1),
            TypeError,
            "`run`: key must be one key, got 0",
        ),
        (
            lambda: fn.make_run(linear, epochs=1)(KEY, line(), {"rate": "fast"}),
            TypeError,
            "`run`: hyperparameters must be numbers or arrays, got 'fast' for rate. What decides",
        ),
        (
            lambda: fn.make_run(make_trainer, epochs=1)(
                KEY, (np.ones((4, 5), np.float32), np.array([0, 1, 2, 3])), HYPER
            ),
            ValueError,
            "`run`: labels must lie in 0 .. 2, since the model gives 3 scores, got 3 in row 3",
        ),
        (
            lambda: fn.make_run(linear, epochs=1)(KEY, fn.data.subset(line(), [0, 1]), 0.1, 0.5),
            TypeError,
            "`run`: validation=0.5 can't be drawn from a subset",
        ),
        (
            lambda: fn.data.subset(line(), [0, 24]),
            ValueError,
            "`subset`: index must lie in 0 .. 23, the examples of the data, got 0 .. 24",
        ),
        (
            lambda: fn.data.subset(line(), [True, False]),
            TypeError,
            "`subset`: index must be a list of whole numbers, one or more, got bool",
        ),
        (
            lambda: fn.data.subset(line(), [1, 2], 3),
            ValueError,
            "`subset`: n must lie in 1 .. 2, the length of index, got 3",
        ),
    ],
    ids=lambda part: None if callable(part) or isinstance(part, type) else part[:40],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_several_runs_are_no_result():
    runs = jax.vmap(fn.make_run(linear, epochs=2), in_axes=(None, None, 0))(
        KEY, line(), jnp.array([0.1, 0.2, 0.3])
    )
    assert repr(runs) == "RunResult(3 runs)"
    assert repr(runs[1]).startswith("RunResult(all epochs, or steps, that were asked for are done;")
    with pytest.raises(ValueError, match=r"a result is of one run, got 3 of them. Take one by its"):
        runs.as_result()


# --------------------------------------------------------------------------------------- start


def test_a_run_begins_where_it_is_told_to(x64):
    x, y = data(48, np.float64)
    run = fn.make_run(make_trainer, epochs=3, batch_size=16)
    first = run(jax.random.key(7), (x, y), HYPER).last
    trainer = make_trainer(HYPER)
    state = trainer.init(KEY, x)._replace(params=first.params, model_state=first.model_state)
    fitted = trainer.fit((x, y), state=state, epochs=3, batch_size=16)
    assert_equal_runs(run(KEY, (x, y), HYPER, None, first).as_result(), fitted, 1e-9)


def test_the_derivative_by_the_first_params_is_that_of_the_unrolled_steps(x64):
    x, y = line()
    run = fn.make_run(linear, epochs=1, batch_size=24, shuffle=False)
    start = linear(0.1).init(KEY, x)

    def by_run(params):
        return run(KEY, (x, y), 0.1, None, start._replace(params=params)).last.params

    def by_hand(params):
        def loss(p):
            return jnp.mean((x @ p["kernel"] + p["bias"][None] - y) ** 2)

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    for jacobian in (jax.jacrev, jax.jacfwd):
        chex.assert_trees_all_close(
            jacobian(by_run)(start.params), jax.jacrev(by_hand)(start.params), rtol=0, atol=1e-12
        )


def test_a_start_of_another_model_is_refused():
    x, y = line()
    run = fn.make_run(linear, epochs=1)
    other = fn.Trainer(fn.dense(2), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="`run`: start must have the params and model_state of"):
        run(KEY, (x, y), 0.1, None, other.init(KEY, x))
    with pytest.raises(
        TypeError, match=r"`run`: start must be a fn\.TrainState, or a pair .*, got \{"
    ):
        run(KEY, (x, y), 0.1, None, {"kernel": x})


# ------------------------------------------------------------------------------ after a review


def test_a_fraction_of_numpy_data_is_held_out_under_vmap():
    x, y = (np.asarray(part) for part in line())
    run = fn.make_run(linear, epochs=2, batch_size=8)
    keys = jax.random.split(KEY, 2)
    several = jax.vmap(lambda key: run(key, (x, y), 0.1, 0.25))(keys)
    for i in range(2):
        alone = run(keys[i], (x, y), 0.1, 0.25)
        np.testing.assert_allclose(several.losses[i], alone.losses, rtol=1e-5)


@pytest.mark.parametrize("n", ["5", 5.7, True, np.array([2])], ids=str)
def test_the_length_of_a_subset_is_a_whole_number(n):
    with pytest.raises(TypeError, match="`subset`: n must be a whole number, got"):
        fn.data.subset(line(), np.arange(21), n)


def test_a_subset_knows_its_length():
    assert fn.data.examples(fn.data.subset(line(), [1, 2, 3], 2)) == 2
    assert fn.data.examples(fn.data.subset(line(), [1, 2, 3])) == 3


def test_validation_that_comes_or_goes_on_the_way_is_refused():
    run = fn.make_run(linear, epochs=2)
    with pytest.raises(ValueError, match=r"that init was given, got none\. Give both the same"):
        run.advance(run.init(KEY, line(), 0.1, 0.25), line(), 0.1)
    with pytest.raises(ValueError, match="that init was given, got some, but init had none"):
        run.advance(run.init(KEY, line(), 0.1), line(), 0.1, 0.25)
