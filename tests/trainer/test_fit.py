"""What `fit` promises: its history, its ends, its best state, its callbacks, its compilations."""

import io
import json
import math
import signal
import sys

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn

CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(60, 4)).astype(np.float32)
Y = (X @ GENERATOR.normal(size=(4, 3))).argmax(1)


@pytest.fixture(scope="module")
def trainer():
    """One trainer for all tests, so that its programs are compiled once."""
    return fn.Trainer(
        fn.sequential(fn.dense(8), jnp.tanh, fn.dense(3)),
        loss=CROSS_ENTROPY,
        optimizer=optax.adam(1e-2),
        metrics={
            "accuracy": fn.metrics.accuracy(),
            "confusion": fn.metrics.confusion_matrix(3),
        },
    )


@pytest.fixture(scope="module")
def held():
    return X[40:], Y[40:]


def test_the_history_has_each_name_for_each_epoch(trainer, held):
    result = trainer.fit((X[:40], Y[:40]), validation=held, epochs=3, batch_size=16)
    assert set(result.history) == {
        "loss", "accuracy", "confusion", "val_loss", "val_accuracy", "val_confusion",
    }  # fmt: skip
    assert result.history["loss"].shape == (3,)
    assert result.history["val_confusion"].shape == (3, 3, 3)
    assert result.history["val_confusion"].sum((1, 2)).tolist() == [20, 20, 20]
    assert result.history["confusion"].sum((1, 2)).tolist() == [48, 48, 48]
    assert result.losses.shape == (9,)
    assert int(result.last.step) == 9
    assert (result.reason, result.monitor) == (fn.Reason.EPOCHS, "val_loss")
    values = trainer.evaluate(result.last, held, batch_size=16)
    assert values["loss"] == pytest.approx(result.history["val_loss"][-1], rel=1e-6)


def test_best_is_the_state_after_the_best_epoch(trainer, held):
    noise = X[:8], (Y[:8] + 1) % 3  # wrong labels are learnt by heart, so val_loss turns
    result = trainer.fit(
        noise,
        validation=held,
        epochs=200,
        batch_size=8,
        stopping=fn.early_stopping("val_loss", patience=4),
    )
    values = result.history["val_loss"]
    assert result.reason == fn.Reason.PATIENCE
    assert result.best_epoch == int(values.argmin()) == len(values) - 5
    again = trainer.evaluate(result.best, held, batch_size=8)
    assert again["loss"] == pytest.approx(values.min(), rel=1e-6)
    assert int(result.best.step) == result.best_epoch + 1
    assert result.message == "val_loss has not improved in 4 checks in a row"


@pytest.mark.parametrize("monitor", ["loss", "accuracy", "val_accuracy"])
def test_any_reported_name_can_be_monitored(trainer, held, monitor):
    stopping = fn.early_stopping(monitor, patience=3)
    result = trainer.fit((X, Y), validation=held, epochs=4, batch_size=16, stopping=stopping)
    best = np.argmax if stopping.mode == "max" else np.argmin
    assert result.best_epoch == best(result.history[monitor])


def test_steps_end_a_fit_within_an_epoch(trainer):
    result = trainer.fit((X, Y), steps=6, batch_size=16)
    assert (int(result.last.step), result.losses.shape) == (6, (6,))
    assert result.reason == fn.Reason.EPOCHS
    np.testing.assert_allclose(result.history["loss"][1], result.losses[4:].mean(), rtol=1e-6)


def test_a_fraction_is_held_out_by_the_key(trainer):
    first, same, other = (
        trainer.fit((X, Y), validation=0.25, epochs=1, batch_size=16, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first.history["val_confusion"].sum() == 15
    assert first.history["val_loss"] == same.history["val_loss"] != other.history["val_loss"]


def test_it_compiles_once_and_twice_with_validation(held):
    trainer = fn.Trainer(fn.dense(3), loss=CROSS_ENTROPY, optimizer=optax.sgd(0.1))
    trainer.fit((X, Y), epochs=3, batch_size=16)
    assert trainer.traces == {"init": 1, "copy": 1, "advance": 1, "closing": 1}
    trainer.fit((X, Y), validation=held, epochs=3, batch_size=16)
    trainer.fit((X, Y), validation=held, steps=5, batch_size=16, seed=3)
    assert trainer.traces == {"init": 1, "copy": 1, "advance": 1, "closing": 1, "evaluate": 1}


def test_a_diverging_fit_ends_with_words_and_a_finite_best():
    trainer = fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(10.0))
    result = trainer.fit((X, X[:, :1]), epochs=300, batch_size=20)
    assert result.reason == fn.Reason.NON_FINITE
    step = int(np.argmin(np.isfinite(result.losses)))
    assert result.message.startswith(f"the loss was {result.losses[step]} at step {step}.")
    assert result.message.endswith(
        " The data is finite: a smaller learning rate, or clipping the gradient, may help."
    )
    chex.assert_tree_all_finite(result.best.params)


@pytest.fixture
def python_hears_ctrl_c():
    """Python's own handler, which a process started in the background does not have."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("python_hears_ctrl_c")
def test_ctrl_c_ends_it_with_what_was_learnt(trainer):
    def press(event):
        if event.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    result = trainer.fit((X, Y), epochs=50, batch_size=16, callbacks=[press])
    assert result.reason == fn.Reason.INTERRUPTED
    assert len(result.history["loss"]) == 2
    assert int(result.last.step) >= 8
    chex.assert_tree_all_finite(result.last.params)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("python_hears_ctrl_c")
def test_a_second_ctrl_c_raises(trainer):
    def press(event):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.fit((X, Y), epochs=50, batch_size=16, callbacks=[press])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_callback_keeps_its_memory_and_can_end_the_fit(trainer):
    events = []

    def update(memory, event):
        events.append((event.kind, event.epoch, event.step, memory))
        if event.kind == "epoch" and event.epoch == 2:
            raise fn.StopTraining("two are enough")
        return memory + 1

    result = trainer.fit(
        (X, Y), epochs=5, batch_size=30, callbacks=[fn.Callback(lambda: 0, update)]
    )
    assert (result.reason, result.message) == (fn.Reason.CALLBACK, "two are enough")
    assert events == [
        ("start", 0, 0, 0),
        ("chunk", 0, 2, 1),
        ("epoch", 1, 2, 2),
        ("chunk", 1, 4, 3),
        ("epoch", 2, 4, 4),
        ("end", 2, 4, 4),
    ]


def test_history_as_json_lines(trainer, held, tmp_path):
    path = tmp_path / "history.jsonl"
    result = trainer.fit(
        (X, Y), validation=held, epochs=2, batch_size=16, callbacks=[fn.json_lines(path)]
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["val_loss"] for line in lines] == result.history["val_loss"].tolist()
    assert np.shape(lines[0]["confusion"]) == (3, 3)
    trainer.fit((X, Y), epochs=1, batch_size=16, callbacks=[fn.json_lines(path)])
    assert len(path.read_text().splitlines()) == 3


def test_what_json_cannot_hold_is_null(tmp_path):
    path = tmp_path / "history.jsonl"
    callback = fn.json_lines(path)
    metrics = {"loss": math.nan, "each": np.array([1.0, math.inf])}
    callback.update(None, fn.Event("epoch", 1, 3, 9, metrics, {}, None))
    assert json.loads(path.read_text()) == {
        "epoch": 1, "step": 3, "loss": None, "each": [1.0, None],
    }  # fmt: skip


def test_the_bar_is_quiet_outside_a_terminal_and_speaks_when_asked(trainer, capfd, monkeypatch):
    trainer.fit((X, Y), epochs=1, batch_size=16)
    assert capfd.readouterr() == ("", "")
    trainer.fit((X, Y), epochs=2, batch_size=16, progress=True)
    bar = capfd.readouterr().err
    assert "epoch 2" in bar
    assert "8/8" in bar
    assert "loss=" in bar
    monkeypatch.setattr(sys, "stderr", Terminal())
    trainer.fit((X, Y), epochs=1, batch_size=16)
    assert "4/4" in sys.stderr.getvalue()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_learning_rate_is_in_the_history_where_it_can_be_known():
    optimizer = optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.1, 0.0, 8))
    trainer = fn.Trainer(fn.dense(3), loss=CROSS_ENTROPY, optimizer=optimizer)
    result = trainer.fit((X, Y), epochs=2, batch_size=15)
    np.testing.assert_allclose(result.history["learning_rate"], [0.0625, 0.0125], rtol=1e-5)


def test_a_step_with_xla_convolutions_is_called_one_by_one_on_cpu():
    guest = fn.as_model(linen.Conv(3, (3, 3)))
    model = fn.sequential(guest, fn.global_avg_pool())
    x = GENERATOR.normal(size=(12, 6, 6, 1)).astype(np.float32)
    trainer = fn.Trainer(model, loss=CROSS_ENTROPY, optimizer=optax.sgd(0.1))
    result = trainer.fit((x, np.arange(12) % 3), epochs=10, batch_size=4)
    assert result.losses.shape == (30,)
    assert trainer.traces["single"] == 1
    own = fn.sequential(fn.conv(3, (3, 3)), fn.global_avg_pool())
    trainer = fn.Trainer(own, loss=CROSS_ENTROPY, optimizer=optax.sgd(0.1))
    trainer.fit((x, np.arange(12) % 3), epochs=1, batch_size=4)
    assert "single" not in trainer.traces


def test_a_model_without_params_can_be_fitted():
    trainer = fn.Trainer(
        fn.stateless(lambda x: x), loss=optax.losses.squared_error, optimizer=optax.adam(1e-3)
    )
    result = trainer.fit((X, X + 1), epochs=2)
    assert result.history["loss"].tolist() == pytest.approx([1.0, 1.0])


def test_an_objective_of_ones_own_reports_its_scalars():
    model = fn.dense(1)

    def objective(params, model_state, batch, *, key, training):
        x, y, weight = fn.unpack(batch)
        y_pred, model_state = model.apply(params, model_state, x, key=key, training=training)
        each = jnp.square(y_pred - y).squeeze(-1)
        weight = jnp.ones(len(x)) if weight is None else weight
        return ((weight * each).sum(), weight.sum()), (
            model_state,
            {"size": jnp.abs(y_pred).mean()},
        )

    trainer = fn.Trainer(model, objective=objective, optimizer=optax.sgd(0.1))
    usual = fn.Trainer(model, loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))
    data = X, X[:, :1]
    own, want = (t.fit(data, validation=0.2, epochs=3, batch_size=16) for t in (trainer, usual))
    np.testing.assert_allclose(own.history["val_loss"], want.history["val_loss"], rtol=1e-5)
    assert own.history["size"].shape == (3,)


def test_several_inputs_by_tuple_and_by_dict():
    pair = fn.sequential(lambda x: jnp.concatenate([x[0], x[1]], -1), fn.dense(3))
    trainer = fn.Trainer(pair, loss=CROSS_ENTROPY, optimizer=optax.sgd(0.1))
    result = trainer.fit(((X, 2 * X), Y), validation=0.2, epochs=1)
    assert trainer.predict(result.best, (X, 2 * X)).shape == (60, 3)
    named = fn.sequential(lambda x: x["a"] + x["b"], fn.dense(3))
    trainer = fn.Trainer(named, loss=CROSS_ENTROPY, optimizer=optax.sgd(0.1))
    result = trainer.fit(({"a": X, "b": X}, Y), epochs=1)
    assert math.isfinite(trainer.evaluate(result.last, ({"a": X, "b": X}, Y))["loss"])


def test_staged_data_gives_the_batches_of_resident_data(trainer):
    kept = trainer.fit((X, Y), epochs=3, batch_size=16, seed=2)
    sent = trainer.fit(fn.data.staged(X, Y), epochs=3, batch_size=16, seed=2)
    np.testing.assert_allclose(kept.losses, sent.losses, rtol=1e-5)


def test_best_epoch_is_an_index_of_the_history_of_a_fit_that_goes_on(trainer, held):
    first = trainer.fit((X, Y), validation=held, epochs=3, batch_size=16)
    rest = trainer.fit((X, Y), validation=held, epochs=5, batch_size=16, state=first.last)
    assert len(rest.history["val_loss"]) == 2
    assert rest.best_epoch == int(rest.history["val_loss"].argmin())
    assert repr(rest).startswith("Result(")


def test_a_result_says_how_it_ended(trainer):
    result = trainer.fit((X, Y), epochs=1, batch_size=60)
    words = "all epochs, or steps, that were asked for are done"
    assert repr(result).startswith(f"Result({words}")
    assert "; best in epoch 1: loss=" in repr(result)
    again = trainer.fit((X, Y), epochs=1, batch_size=60, state=result.last)
    assert again.message == (
        "no step was taken: the state is at step 1, and epochs and steps are counted from step 0"
    )
    assert jax.tree.structure(result.best) == jax.tree.structure(result.last)
