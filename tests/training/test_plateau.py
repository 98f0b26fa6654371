"""Reduction on plateaus: Keras' table, NaN, and the same in a fit, a run, a sweep and a resume."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.training import after_epoch, from_epoch, guarded, reduce_on_plateau
from funcnet.training.plateau import plateau_of
from tests.training.test_laws import data, digest
from tests.training.test_laws import trainer_of as trainer_of_model

KEY = jax.random.key(0)
NAN, INF = np.nan, np.inf


def trainer_of(optimizer):
    return trainer_of_model(fn.dense(3), optimizer)


KERAS = {
    "flat": ([1.0] * 8, {}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
    "falling": ([0.9, 0.8, 0.7, 0.6], {"patience": 1}, [1, 1, 1, 1]),
    "a step of min_delta": ([1, 0.75, 1, 0.75, 0.75], {"min_delta": 0.25}, [1, 1, 0.5, 0.5, 0.25]),
    "more than min_delta": ([1, 0.7, 0.4, 0.1, -0.2], {"min_delta": 0.25}, [1, 1, 1, 1, 1]),
    "cooldown 1": ([1.0] * 7, {"cooldown": 1}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]),
    "cooldown 3": ([1.0] * 8, {"cooldown": 3}, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
    "better within cooldown": (
        [1.0, 1.0, 0.5, 0.6, 0.6, 0.6, 0.55, 0.55, 0.55],
        {"patience": 1, "cooldown": 3},
        [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125],
    ),
    "min_scale": ([1.0] * 6, {"patience": 1, "min_scale": 0.2}, [1, 0.5, 0.25, 0.2, 0.2, 0.2]),
    "min_scale above": ([1.0] * 4, {"patience": 1, "min_scale": 2.0}, [1, 1, 1, 1]),
    "min_scale with cooldown": (
        [1.0] * 6,
        {"factor": 0.1, "patience": 1, "cooldown": 2, "min_scale": 0.05},
        [1, 0.1, 0.1, 0.05, 0.05, 0.05],
    ),
    "max": ([0.1, 0.2, 0.2, 0.2, 0.3, 0.1, 0.1], {"mode": "max"}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    "reset": (
        [1.0, 1.1, 0.5, 0.6, 0.4, 0.5, 0.6, 0.7],
        {"factor": 0.1},
        [1, 1, 1, 1, 1, 1, 0.1, 0.1],
    ),
}
"""Values, arguments, and the learning rate after each epoch that Keras 3.15.1 gives, from 1.0."""

OURS = {
    "NaN first": ([NAN, 1.0, 0.9, 0.8], {}, [1, 1, 1, 1]),
    "infinity first": ([-INF, 1.0, 0.9, 0.8], {}, [1, 1, 1, 1]),
    "NaN only": ([NAN] * 5, {}, [1, 0.5, 0.5, 0.25, 0.25]),
    "NaN between": ([1.0, NAN, 0.9, NAN, NAN, 0.8], {}, [1, 1, 1, 1, 0.5, 0.5]),
}
"""What differs from Keras, where a first NaN or infinity stays the best for ever."""


@pytest.mark.parametrize(
    ("values", "arguments", "scales"), (KERAS | OURS).values(), ids=(KERAS | OURS).keys()
)
def test_the_rule_is_that_of_keras_but_for_nan(values, arguments, scales):
    arguments = {"factor": 0.5, "patience": 2, "mode": "min"} | arguments
    optimizer = reduce_on_plateau(optax.identity(), "val_loss", **arguments)

    def epoch(opt_state, value):
        opt_state = after_epoch(opt_state, {"val_loss": value, "loss": 0.0})
        for _ in range(2):  # a second step looks at nothing anew
            updates, opt_state = optimizer.update(jnp.ones(()), opt_state, jnp.ones(()))
        return opt_state, updates

    _, found = jax.jit(lambda s, v: jax.lax.scan(epoch, s, v))(
        optimizer.init(jnp.ones(())), jnp.array(values)
    )
    np.testing.assert_allclose(found, scales, rtol=1e-6)


def plateau(rate=1e-2, factor=0.5):
    return reduce_on_plateau(optax.adam(rate), "val_loss", factor=factor, patience=1, min_delta=0.1)


def test_a_fit_shows_the_scale_and_a_run_and_a_resumed_fit_do_the_same(tmp_path):
    x, y = data(60)
    trainer = trainer_of(fn.ema(guarded(plateau()), 0.5))
    settings = {"validation": data(30), "batch_size": 20, "progress": False}
    result = trainer.fit((x, y), epochs=6, **settings)
    scales = result.history["learning_rate_scale"]
    assert scales[0] == 1
    assert scales[-1] < 1
    assert "val_learning_rate_scale" not in result.history
    node = plateau_of(result.last.opt_state)
    assert float(node.told.values["val_loss"]) == np.float32(result.history["val_loss"][-1])
    assert int(node.told.epochs) == 6
    run = fn.make_run(trainer, epochs=6, batch_size=20)(KEY, (x, y), None, settings["validation"])
    np.testing.assert_array_equal(run.history["learning_rate_scale"], scales)
    chex.assert_trees_all_close(run.last.params, result.last.params, rtol=1e-3, atol=1e-5)
    for epochs in (3, 6):
        again = trainer.fit((x, y), epochs=epochs, checkpoint=tmp_path / "run", **settings)
    assert digest(again.last) == digest(result.last)
    first = trainer.fit((x, y), epochs=3, **settings)
    onward = trainer.fit((x, y), epochs=6, state=first.last, **settings)
    assert digest(onward.last) == digest(result.last)


def test_the_factor_may_be_traced_and_mapped():
    x, y = data(60)

    def make_trainer(factor):
        return trainer_of(plateau(factor=factor))

    run = fn.make_run(make_trainer, epochs=5, batch_size=20)
    factors = jnp.array([0.5, 0.25])
    many = jax.vmap(run, in_axes=(None, None, 0, None))(KEY, (x, y), factors, data(30))
    scales = many.history["learning_rate_scale"]
    first = (scales < 1).argmax(1)
    np.testing.assert_array_equal(scales[jnp.arange(2), first], factors)


def test_a_schedule_is_scaled_and_both_are_in_the_history():
    x, y = data(40)
    inner = optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.1, 0.0, 10))
    trainer = trainer_of(reduce_on_plateau(inner, "loss", patience=1, min_delta=9.0))
    history = trainer.fit((x, y), epochs=3, batch_size=20, progress=False).history
    np.testing.assert_allclose(history["learning_rate"], [0.09, 0.07, 0.05], rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate_scale"], [1, 1, 0.1], rtol=1e-6)


def test_a_memory_that_asks_for_nothing_is_given_back_as_it_is():
    opt_state = optax.adam(1e-2).init(jnp.ones(2))
    assert after_epoch(opt_state, {"loss": 1.0}) is opt_state
    counting = from_epoch(1, optax.sgd(0.1)).init(jnp.ones(2))
    assert int(after_epoch(counting, {}).told.epochs) == 1


MISTAKES = {
    "optimizer": (
        lambda: reduce_on_plateau(optax.adam),
        "`reduce_on_plateau`: optimizer must be an optax.GradientTransformation, got <function",
    ),
    "factor 1": (
        lambda: reduce_on_plateau(optax.adam(0.1), factor=1),
        "`reduce_on_plateau`: factor must be below 1, got 1. Give 0.1 say.",
    ),
    "factor 0": (
        lambda: reduce_on_plateau(optax.adam(0.1), factor=0.0),
        "`reduce_on_plateau`: factor must be a positive number, got 0.0.",
    ),
    "patience": (
        lambda: reduce_on_plateau(optax.adam(0.1), patience=0),
        "`reduce_on_plateau`: patience must be a whole number of at least 1, got 0.",
    ),
    "cooldown": (
        lambda: reduce_on_plateau(optax.adam(0.1), cooldown=1.5),
        "`reduce_on_plateau`: cooldown must be a whole number, got 1.5. Give 5 say.",
    ),
    "min_scale": (
        lambda: reduce_on_plateau(optax.adam(0.1), min_scale=-1.0),
        "`reduce_on_plateau`: min_scale must be a number, 0 or more, got -1.0.",
    ),
    "mode": (
        lambda: reduce_on_plateau(optax.adam(0.1), "val_score"),
        "`reduce_on_plateau`: mode must be given where the name of the monitor does not tell it",
    ),
    "told nothing": (
        lambda: after_epoch(plateau().init(jnp.ones(())), {"loss": 1.0}),
        "`after_epoch`: values must hold 'val_loss', which the optimizer asks for. Did you mean",
    ),
    "told an array": (
        lambda: after_epoch(plateau().init(jnp.ones(())), {"val_loss": np.ones(3)}),
        r"`after_epoch`: the value of 'val_loss' must be a scalar, got float64\[3\].",
    ),
    "no validation": (
        lambda: trainer_of(plateau()).fit(data(), epochs=1),
        "`fit`: the optimizer monitors 'val_loss', but there is no validation data.",
    ),
    "misspelt": (
        lambda: trainer_of(reduce_on_plateau(optax.sgd(0.1), "los", mode="min")).fit(
            data(), epochs=1
        ),
        "`fit`: the optimizer monitors 'los', which nobody reports. Did you mean 'loss'",
    ),
    "misspelt in a run": (
        lambda: fn.make_run(
            trainer_of(reduce_on_plateau(optax.sgd(0.1), "los", mode="min")), epochs=1
        )(KEY, data()),
        "`run`: the optimizer monitors 'los', which nobody reports. Did you mean 'loss'",
    ),
}


@pytest.mark.parametrize(("mistake", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(mistake, words):
    with pytest.raises((TypeError, ValueError), match=words):
        mistake()
