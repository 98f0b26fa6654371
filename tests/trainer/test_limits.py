"""Limits of one call of `fit`: time, steps, a trial run, and batches to be learnt by heart."""

import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.trainer.limiting import Limits, limits
from funcnet.trainer.together import Together

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(40, 4)).astype(np.float32)
Y = (X @ GENERATOR.normal(size=(4, 3))).argmax(1)
DATA, HELD = (X[:32], Y[:32]), (X[32:], Y[32:])


@pytest.fixture(scope="module")
def trainer():
    return fn.Trainer(
        fn.sequential(fn.dense(5), jnp.tanh, fn.dropout(0.2), fn.dense(3)),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-2),
    )


def fit(trainer, **more):
    """Epochs of 4 steps."""
    arguments = {"data": DATA, "validation": HELD, "batch_size": 8, "epochs": 4} | more
    return trainer.fit(**arguments)


@pytest.fixture(scope="module")
def whole(trainer):
    """A fit without limits."""
    return fit(trainer)


def late(monkeypatch, seconds):
    """Has the clock of limits go on by so many seconds each time that it is read."""
    times = iter(np.arange(0, 1e6, seconds).tolist())
    monkeypatch.setattr(time, "monotonic", lambda: next(times))


def test_a_limit_of_steps_is_of_this_call(trainer, whole):
    first = fit(trainer, limits=limits(steps=6))
    assert (first.reason, int(first.last.step)) == (fn.Reason.LIMIT, 6)
    assert first.message == "the limit of 6 steps was reached, at step 6"
    assert len(first.history["loss"]) == 1  # the second epoch was begun, and not evaluated
    assert first.losses.tobytes() == whole.losses[:6].tobytes()
    second = fit(trainer, state=first.last, limits=limits(steps=4))
    assert (second.reason, int(second.last.step)) == (fn.Reason.LIMIT, 10)
    assert second.losses.tobytes() == whole.losses[6:10].tobytes()


def test_a_limit_at_the_end_of_an_epoch_has_it_evaluated(trainer, whole):
    result = fit(trainer, limits=limits(steps=8))
    assert result.reason == fn.Reason.LIMIT
    assert result.history["val_loss"].tobytes() == whole.history["val_loss"][:2].tobytes()


@pytest.mark.parametrize("asked", [{"epochs": 1}, {"steps": 4}, {"steps": 3, "epochs": None}])
def test_what_is_all_done_is_done_whatever_the_limit(trainer, asked):
    n = asked.get("steps", 4)
    result = fit(trainer, **asked, limits=limits(steps=n))
    assert (result.reason, int(result.last.step)) == (fn.Reason.EPOCHS, n)
    assert len(result.history["val_loss"]) == 1


def test_a_limit_of_time_ends_between_two_chunks(trainer, whole, monkeypatch):
    late(monkeypatch, 1.0)
    result = fit(trainer, limits=limits(seconds=2))
    assert result.reason == fn.Reason.LIMIT
    assert result.message == f"the limit of 2 seconds was reached, at step {result.last.step}"
    n = int(result.last.step)
    assert 4 <= n < 16
    assert result.losses.tobytes() == whole.losses[:n].tobytes()


@pytest.mark.parametrize("limit", [{"steps": 5}, {"seconds": 1.5}])
def test_a_limited_fit_with_a_checkpoint_goes_on_to_the_same_bits(
    trainer, whole, tmp_path, monkeypatch, limit
):
    if "seconds" in limit:
        late(monkeypatch, 1.0)
    calls = 0
    while True:
        checkpoint = fn.checkpoint.every(tmp_path, steps=3)
        result = fit(trainer, checkpoint=checkpoint, limits=limits(**limit))
        calls += 1
        if result.reason != fn.Reason.LIMIT:
            break
    assert calls >= 3
    assert result.losses.tobytes() == whole.losses.tobytes()
    for name, values in whole.history.items():
        assert values.tobytes() == result.history[name].tobytes()
    chex.assert_trees_all_equal(
        jax.tree.map(np.asarray, result.last.params), jax.tree.map(np.asarray, whole.last.params)
    )
    state = trainer.state_at(
        6, DATA, checkpoint=tmp_path, validation=HELD, batch_size=8, limits=limits(steps=1)
    )
    assert int(state.step) == 6


def test_a_trial_run_tries_everything_once(trainer, tmp_path):
    path, seen = tmp_path / "history.jsonl", []
    result = fit(
        trainer,
        epochs=50,
        stopping=fn.early_stopping("val_loss", patience=1, stopping_threshold=1e9),
        callbacks=[fn.json_lines(path), seen.append],
        checkpoint=tmp_path / "run",
        accept_changes=["data"],
        limits=limits(fast_dev_run=2),
    )
    assert (result.reason, int(result.last.step)) == (fn.Reason.EPOCHS, 2)
    assert [event.kind for event in seen] == ["epoch"]
    assert set(result.history) == {"loss", "val_loss"}
    assert result.best_epoch == 0
    assert list(tmp_path.iterdir()) == []
    few = trainer.evaluate(result.last, (HELD[0][:16], HELD[1][:16]), batch_size=8)
    assert few["loss"] == pytest.approx(result.history["val_loss"][0], rel=1e-6)


def test_a_trial_run_takes_few_batches_of_validation_and_of_streams(trainer):
    batches = [(X[at : at + 8], Y[at : at + 8]) for at in range(0, 32, 8)]
    for data in (batches, iter(batches)):
        result = fit(
            trainer, data=data, validation=DATA, epochs=None, limits=limits(fast_dev_run=True)
        )
        assert int(result.last.step) == 1
        few = trainer.evaluate(result.last, batches[:1], batch_size=8)
        assert few["loss"] == pytest.approx(result.history["val_loss"][0], rel=1e-6)
    result = fit(trainer, validation=iter(batches), limits=limits(fast_dev_run=2))
    few = trainer.evaluate(result.last, batches[:2], batch_size=8)
    assert few["loss"] == pytest.approx(result.history["val_loss"][0], rel=1e-6)


def test_a_trial_run_goes_on_from_a_state_and_ends_with_the_epoch(trainer, whole):
    first = fit(trainer, steps=6)
    result = fit(trainer, state=first.last, limits=limits(fast_dev_run=1))
    assert int(result.last.step) == 7
    assert result.losses.tobytes() == whole.losses[6:7].tobytes()
    assert int(fit(trainer, limits=limits(fast_dev_run=100)).last.step) == 4


def test_a_trial_run_still_tells_a_misspelt_monitor(trainer):
    with pytest.raises(ValueError, match=r"`fit`: stopping monitors 'val_los', which nobody repor"):
        fit(
            trainer,
            stopping=fn.early_stopping("val_los", mode="min", patience=1),
            limits=limits(fast_dev_run=True),
        )


@pytest.mark.parametrize("stream", [False, True])
def test_few_batches_are_learnt_by_heart(trainer, stream):
    data = [(X[at : at + 8], Y[at : at + 8]) for at in range(0, 32, 8)] if stream else DATA
    result = fit(trainer, data=data, limits=limits(overfit_batches=2))
    few = fit(trainer, data=(X[:16], Y[:16]), validation=(X[:16], Y[:16]), shuffle=False)
    assert result.losses.shape == (8,)
    assert result.losses.tobytes() == few.losses.tobytes()
    assert result.history["val_loss"].tobytes() == few.history["val_loss"].tobytes()


def test_without_validation_there_is_none_with_few_batches_either(trainer):
    result = fit(trainer, validation=None, epochs=1, limits=limits(overfit_batches=1))
    assert (set(result.history), int(result.last.step)) == ({"loss"}, 1)
    result = fit(trainer, validation=0.25, epochs=1, limits=limits(overfit_batches=99))
    assert (set(result.history), int(result.last.step)) == ({"loss", "val_loss"}, 3)


def test_to_a_checkpoint_few_batches_are_the_data(trainer, tmp_path):
    fit(trainer, epochs=1, checkpoint=tmp_path, limits=limits(overfit_batches=1))
    with pytest.raises(ValueError, match="data"):
        fit(trainer, epochs=2, checkpoint=tmp_path, shuffle=False)


def test_wrong_arguments_are_refused(trainer):
    assert limits(seconds=1.5, steps=2, fast_dev_run=True, overfit_batches=3) == Limits(
        1.5, 2, 1, 3
    )
    words = "`limits`: {} must be a positive whole number, got {}."
    for name in ("steps", "overfit_batches", "fast_dev_run"):
        with pytest.raises(ValueError, match=words.format(name, 0)):
            limits(**{name: 0})
        with pytest.raises(TypeError, match=words.format(name, 1.5)):
            limits(**{name: 1.5})
    with pytest.raises(ValueError, match=r"`limits`: seconds must be a positive number, got 0. Gi"):
        limits(seconds=0)
    with pytest.raises(TypeError, match="`limits`: seconds must be a positive number, got '1h'"):
        limits(seconds="1h")
    words = r"`fit`: limits must come from `fn.limits`, got {'seconds': 3}. Say `limits=fn.limits\("
    with pytest.raises(TypeError, match=words):
        fit(trainer, limits={"seconds": 3})


@pytest.mark.parametrize(
    ("asked", "limited", "reason"),
    [
        (False, False, fn.Reason.GOING_ON),
        (False, True, fn.Reason.LIMIT),
        (True, True, fn.Reason.INTERRUPTED),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_processes_agree_on_a_limit(monkeypatch, shared, asked, limited, reason):
    """The other process says nothing: the gravest wish counts."""
    said = []

    def share(text):
        said.append(text)
        return [text, '["here", 0, ""]']

    monkeypatch.setattr("funcnet.distributed.agreement.share", share)
    pressed = threading.Event()
    if asked:
        pressed.set()
    assert Together(shared).meet(lambda: "here", pressed, limited=limited) == reason
    assert len(said) == shared
