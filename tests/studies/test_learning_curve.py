"""Each point of a learning curve is a training on the first rows of an order, scored anew."""

import re
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.data.arrays import split
from funcnet.studies import members
from funcnet.studies.curve_plots import TRAIN, VALIDATION
from funcnet.studies.curves import learning_curve, nested
from funcnet.training.state import ORDER, stream

N = 37


def made(n=N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(jax.dtypes.canonicalize_dtype(float))
    return x, (x.sum(1) > 0).astype(np.int32)


def make_trainer(rate=1e-2):
    return fn.Trainer(
        fn.sequential(fn.dense(4), fn.batch_norm(), jnp.tanh, fn.dropout(0.2), fn.dense(2)),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(rate),
        metrics={"accuracy": fn.metrics.accuracy()},
    )


@pytest.mark.parametrize("at", ["best", "last"])
def test_each_point_is_a_training_on_a_part_of_the_data(x64, at):
    data, held = made(), made(20, seed=1)
    settings = {
        "epochs": 12,
        "batch_size": 8,
        "stopping": fn.early_stopping("val_loss", patience=3),
    }
    sizes, trainer = [5, 16, N], make_trainer(0.1)
    curve = learning_curve(
        trainer, data, validation=held, sizes=sizes, repeats=2, at=at, seed=4, **settings
    )
    keys = members.keys(4, 2)
    chosen = nested(keys, sizes, N, None)
    run = fn.make_run(trainer, **settings)
    assert (curve.runs.best_epoch + 1 < curve.runs.epochs).any()  # so that best is not last
    for i, size in enumerate(sizes):
        for j, key in enumerate(keys):
            rows = chosen.rows[2 * i + j][:size]
            part = tuple(each[rows] for each in data)
            alone, ours = run(key, part, None, held).as_result(), curve.result(i, j)
            chex.assert_trees_all_close(ours.best.params, alone.best.params, rtol=1e-9, atol=1e-9)
            state = getattr(alone, at)
            for prefix, seen in (("", part), ("val_", held)):
                for name, value in trainer.evaluate(state, seen).items():
                    got = curve.metrics[prefix + name][i, j]
                    assert got == pytest.approx(value, rel=1e-9, abs=1e-9)


def test_a_smaller_set_is_part_of_a_larger_one_and_repeats_differ():
    chosen = nested(members.keys(0, 3), [4, 9], N, None)
    assert chosen.n.tolist() == [4, 4, 4, 9, 9, 9]
    assert chosen.rows.shape == (6, 9)
    np.testing.assert_array_equal(chosen.rows[:3], chosen.rows[3:])
    assert all(len(set(rows)) == 9 for rows in chosen.rows.tolist())
    assert len({tuple(sorted(rows)) for rows in chosen.rows[:3].tolist()}) == 3
    same = jax.random.key_data(chosen.key).tolist()
    assert same[:3] == same[3:]


def test_one_program_for_all_sizes():
    calls = []

    def counted(rate):
        calls.append(rate)
        return make_trainer(rate)

    made_for = []
    for sizes in ([N], [5, 11, N]):
        calls.clear()
        learning_curve(
            counted, made(), validation=made(9), sizes=sizes, repeats=2, hyperparameters=1e-2,
            epochs=1,
        )  # fmt: skip
        made_for.append(len(calls))
    assert made_for[0] == made_for[1]


@pytest.fixture(scope="module")
def curve():
    return learning_curve(
        make_trainer(), made(), validation=0.25, sizes=[1.0, 0.25, 3, 28], repeats=3, epochs=3
    )


def test_fractions_are_of_what_is_left_to_train_on(curve):
    assert curve.sizes.tolist() == [3, 7, 28]  # of 28, the other 9 being held out
    assert curve.metrics["val_accuracy"].shape == (3, 3)


def test_a_fraction_is_held_out_as_fit_does(curve):
    trainer, order = make_trainer(), stream(jax.random.key(0), ORDER)
    value = trainer.evaluate(
        curve.result(1, 2).best, split("learning_curve", made(), 0.25, order)[1]
    )["loss"]
    assert curve.metrics["val_loss"][1, 2] == pytest.approx(value, rel=1e-6)


def test_mean_and_standard_error(curve):
    losses = curve.metrics["val_loss"]
    np.testing.assert_allclose(curve.mean["val_loss"], losses.mean(1))
    np.testing.assert_allclose(
        curve.standard_error["val_loss"], losses.std(1, ddof=1) / np.sqrt(3), rtol=1e-6
    )


def test_it_reads_as_a_table(curve, monkeypatch):
    head, names, *lines = repr(curve).splitlines()
    assert head == "LearningCurve of 3 sizes, 3 trainings each"
    assert names.split() == ["size", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert [line.split()[0] for line in lines] == ["3", "7", "28"]
    assert len({len(line) for line in [names, *lines]}) == 1
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    rows = curve.table()
    assert [(row["size"], row["repeat"]) for row in rows[:4]] == [(3, 0), (3, 1), (3, 2), (7, 0)]
    assert rows[5]["val_loss"] == float(curve.metrics["val_loss"][1, 2])


def test_the_picture_has_a_line_for_training_and_one_for_validation(curve):
    figure = curve.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy"]
    loss = figure.axes[0]
    lines = {line.get_color(): line.get_ydata() for line in loss.lines}
    np.testing.assert_array_equal(lines[TRAIN], curve.mean["loss"])
    np.testing.assert_array_equal(lines[VALIDATION], curve.mean["val_loss"])
    assert [text.get_text() for text in loss.texts] in (
        ["train", "validation"],
        ["validation", "train"],
    )
    assert [label.get_text() for label in loss.get_xticklabels()] == ["3", "7", "28"]


WRONG = {
    "repeats": ({"repeats": 1}, ValueError, "repeats must be 2 or more, for a standard error, got"),
    "repeats of no number": ({"repeats": 2.5}, TypeError, "repeats must be a positive whole"),
    "at": ({"at": "end"}, ValueError, "at must be 'best' or 'last', got 'end'."),
    "no validation": ({"validation": None}, TypeError, "validation must be data, or a fraction"),
    "one size": ({"sizes": 5}, TypeError, "sizes must be a list of one or more, got 5."),
    "no size": ({"sizes": []}, TypeError, "sizes must be a list of one or more, got []."),
    "beyond": ({"sizes": [5, 38]}, ValueError, "sizes must lie in 1 .. 37, the examples to train"),
    "above 1": ({"sizes": [1.5]}, ValueError, "or be fractions above 0 up to 1.0 that hold one at"),
    "too small": ({"sizes": [0.001]}, ValueError, "that hold one at least, got 0.001."),
    "zero": ({"sizes": [0]}, ValueError, "sizes must lie in 1 .. 37"),
    "words": ({"sizes": ["all"]}, TypeError, "sizes must be whole numbers, or fractions of the"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    arguments, kind, words = WRONG[name]
    given = {"validation": made(9), "epochs": 1} | arguments
    with pytest.raises(kind, match=re.escape(words)) as caught:
        learning_curve(make_trainer(), made(), **given)
    assert str(caught.value).startswith("`learning_curve`: ")
