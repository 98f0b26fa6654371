"""Folds are scikit-learn's, and trainings on them those that `fit` does one by one."""

import dataclasses
import re
import sys
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold

import funcnet as fn
from funcnet.studies.curve_plots import TRAIN, VALIDATION
from funcnet.studies.folds import make_folds
from funcnet.studies.reports import plus_minus
from funcnet.studies.validation import CrossValidation, cross_validate, reached

N = 43
KEY = jax.random.key(0)


def made(seed=0):
    """Three clouds of uneven size, in whatever floats are on."""
    rng = np.random.default_rng(seed)
    y = np.sort(rng.choice(3, N, p=[0.5, 0.3, 0.2]))
    x = rng.normal(size=(N, 4)) + y[:, None]
    return x.astype(jax.dtypes.canonicalize_dtype(float)), y.astype(np.int32)


def make_trainer(rate=1e-2):
    return fn.Trainer(
        fn.sequential(fn.dense(5), fn.batch_norm(), jnp.tanh, fn.dropout(0.1), fn.dense(3)),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(rate),
        metrics={"accuracy": fn.metrics.accuracy()},
    )


def groups():
    """Of sizes 1, 2, 3, ..., all different, mixed up."""
    return np.random.default_rng(1).permutation(np.repeat(np.arange(9), range(1, 10))[:N])


def shuffled_pairs():
    """Index lists in no order, of uneven lengths, with rows that come twice."""
    rng = np.random.default_rng(2)
    for held in (5, 9):
        rows = rng.permutation(N)
        yield np.concatenate([rows[held:], rows[held : held + 3]]), rows[:held]


SPLITTERS = {
    "KFold": (lambda: KFold(3, shuffle=True, random_state=1), None),
    "StratifiedKFold": (lambda: StratifiedKFold(3, shuffle=True, random_state=1), None),
    "GroupKFold": (lambda: GroupKFold(3), groups),
    "index lists": (shuffled_pairs, None),
}


def check_equal_to_fit(name, tolerance, epochs):
    make, make_groups = SPLITTERS[name]
    data, trainer = made(), make_trainer()
    grouped = make_groups and make_groups()
    settings = {
        "epochs": epochs,
        "batch_size": 8,
        "stopping": fn.early_stopping("val_loss", patience=2),
        "seed": 3,
    }
    scores = cross_validate(trainer, make(), data, groups=grouped, **settings)
    pairs = make() if make is shuffled_pairs else make().split(*data, grouped)
    for i, (train, held) in enumerate(pairs):
        parts = [tuple(part[rows] for part in data) for rows in (train, held)]
        alone = trainer.fit(parts[0], validation=parts[1], **settings)
        ours = scores.result(i)
        assert len(ours.history["loss"]) == len(alone.history["loss"])
        assert (ours.best_epoch, ours.reason) == (alone.best_epoch, alone.reason)
        for name in ("best", "last"):
            chex.assert_trees_all_close(
                getattr(ours, name)._replace(key=None),
                getattr(alone, name)._replace(key=None),
                atol=tolerance,
                rtol=tolerance,
            )
        for name, values in alone.history.items():
            np.testing.assert_allclose(ours.history[name], values, rtol=tolerance, atol=tolerance)
            assert scores.metrics[name][i] == ours.history[name][alone.best_epoch]


@pytest.mark.parametrize("name", SPLITTERS)
def test_each_fold_equals_fit(x64, name):
    check_equal_to_fit(name, 1e-9, epochs=15)


def test_each_fold_equals_fit_in_float32():
    check_equal_to_fit("KFold", 1e-5, epochs=4)  # of 5 steps at the most: 20


def ours(k, **settings):
    given = {"groups": None, "stratify": False, "shuffle": False} | settings
    return make_folds(k, made(), KEY, **given)


def check_same_folds(found, expected):
    assert len(found) == len(expected)
    for pair, other in zip(found, expected, strict=True):
        for mine, theirs in zip(pair, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("k", [2, 5, N])
def test_plain_folds_are_those_of_sklearn(k):
    check_same_folds(ours(k), list(KFold(k).split(np.zeros(N))))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 5])
def test_stratified_folds_are_those_of_sklearn(seed, k):
    labels = np.random.default_rng(seed).choice([7, 0, 3], N, p=[0.5, 0.3, 0.2])
    expected = StratifiedKFold(k).split(np.zeros(N), labels)
    check_same_folds(ours(k, stratify=labels), list(expected))


@pytest.mark.parametrize("k", [2, 5])
def test_grouped_folds_are_those_of_sklearn(k):
    expected = GroupKFold(k).split(np.zeros(N), groups=groups())
    check_same_folds(ours(k, groups=groups()), list(expected))
    check_same_folds(ours(k, groups=[f"subject {i}" for i in groups()]), ours(k, groups=groups()))


def test_shuffled_folds_hold_out_each_row_once_and_keep_the_shares():
    labels = made()[1]
    for stratify in (False, True):
        folds = ours(5, shuffle=True, stratify=stratify)
        held = np.concatenate([held for _, held in folds])
        np.testing.assert_array_equal(np.sort(held), np.arange(N))
        check_same_folds(folds, ours(5, shuffle=True, stratify=stratify))
        other = make_folds(
            5, made(), jax.random.key(1), groups=None, stratify=stratify, shuffle=True
        )
        assert any((a[1].tolist() != b[1].tolist()) for a, b in zip(folds, other, strict=True))
        assert folds[0][1].tolist() != ours(5, stratify=stratify)[0][1].tolist()
    counts = np.array([np.bincount(labels[held], minlength=3) for _, held in folds])
    assert (counts.max(0) - counts.min(0)).max() <= 1


def test_no_group_is_on_both_sides():
    named = groups()
    for train, held in ours(4, groups=named):
        assert not set(named[train]) & set(named[held])


def test_one_program_for_all_folds():
    calls = []

    def counted(rate):
        calls.append(rate)
        return make_trainer(rate)

    made_for = []
    for k in (2, 7):
        calls.clear()
        cross_validate(counted, k, made(), hyperparameters=1e-2, epochs=1)
        made_for.append(len(calls))
    assert made_for[0] == made_for[1]


@pytest.fixture(scope="module")
def scores():
    return cross_validate(
        make_trainer, 4, made(), hyperparameters=1e-2, stratify=True, epochs=5, batch_size=8
    )


def test_hyperparameters_reach_the_trainer(scores):
    other = cross_validate(make_trainer(1e-2), 4, made(), stratify=True, epochs=5, batch_size=8)
    np.testing.assert_allclose(
        other.metrics["val_loss"], scores.metrics["val_loss"], rtol=1e-6, atol=0
    )


def test_mean_and_standard_error(scores):
    losses = scores.metrics["val_loss"]
    assert scores.mean["val_loss"] == losses.mean()
    assert scores.standard_error["val_loss"] == pytest.approx(losses.std(ddof=1) / 2)


def test_scores_of_the_last_epoch(scores):
    last = dataclasses.replace(scores, at="last")
    expected = [scores.result(i).history["val_loss"][-1] for i in range(4)]
    assert last.metrics["val_loss"].tolist() == expected
    best = [scores.result(i).history["val_loss"].min() for i in range(4)]
    assert scores.metrics["val_loss"].tolist() == best


def test_metrics_of_any_shape_have_an_axis_of_folds(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    trainer = dataclasses.replace(
        make_trainer(), metrics={"confusion": fn.metrics.confusion_matrix(3)}
    )
    scores = cross_validate(trainer, 3, made(), epochs=1)
    assert scores.metrics["val_confusion"].shape == (3, 3, 3)
    assert scores.metrics["val_confusion"].sum() == N
    assert list(scores.table()[0]) == ["fold", "loss", "val_loss", "epochs"]


@pytest.mark.parametrize("at", ["best", "last"])
def test_predictions_are_of_trainings_that_did_not_see_the_row(scores, at):
    x = made()[0]
    whole = dataclasses.replace(scores, at=at).predictions()
    assert whole.shape == (N, 3)
    for i, (_, held) in enumerate(scores.folds):
        alone = make_trainer().predict(getattr(scores.result(i), at), x[held])
        np.testing.assert_allclose(whole[held], alone, rtol=1e-6, atol=1e-6)


def test_predictions_need_each_row_held_out_once():
    scores = cross_validate(
        make_trainer(), ShuffleSplit(2, test_size=0.3, random_state=0), made(), epochs=1
    )
    with pytest.raises(
        ValueError, match=r"`predictions`: each row must be held out by one fold, got row \d+ held"
    ):
        scores.predictions()


def test_a_fold_of_no_epoch_has_no_score_and_says_so():
    scores = cross_validate(make_trainer(float("nan")), 2, made(), epochs=3)
    assert np.isnan(scores.metrics["val_loss"]).all()
    assert "fold 1 broke off: a loss or a param was not finite in epoch 1" in repr(scores)


def test_the_last_epoch_taken_counts_where_none_was_best():
    runs = SimpleNamespace(
        best_epoch=np.array([1, -1, -1]),
        epochs=np.array([4, 2, 0]),
        history={"val_loss": np.arange(12.0).reshape(3, 4), "count": np.arange(12).reshape(3, 4)},
    )
    np.testing.assert_array_equal(reached(runs, "best")["val_loss"], [1, 5, np.nan])
    np.testing.assert_array_equal(reached(runs, "last")["val_loss"], [3, 5, np.nan])
    assert reached(runs, "best")["count"].dtype == int


def test_it_reads_as_a_table_of_scores(scores):
    first, *lines = repr(scores).splitlines()
    assert first == "CrossValidation of 4 folds at the best epoch by val_loss"
    assert [line.split()[0] for line in lines] == ["loss", "accuracy", "val_loss", "val_accuracy"]
    mean, error = plus_minus(scores.mean["val_loss"], scores.standard_error["val_loss"])
    assert lines[2].endswith(f" {mean} ± {error}")
    assert len({line.index(".") for line in lines}) == 1
    assert repr(dataclasses.replace(scores, at="last")).startswith(
        "CrossValidation of 4 folds at the end\n"
    )


def test_a_table_has_a_row_for_each_fold(scores, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    rows = scores.table()
    assert [row["fold"] for row in rows] == [0, 1, 2, 3]
    assert rows[2]["val_loss"] == float(scores.metrics["val_loss"][2])
    assert rows[0]["epochs"] == 5
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda columns: columns))
    assert scores.table()["fold"] == [0, 1, 2, 3]


def test_the_picture_has_a_dot_for_each_fold(scores):
    figure = scores.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy"]
    for axes, name in zip(figure.axes, ("loss", "accuracy"), strict=True):
        dots = {
            line.get_color(): line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 4
        }
        np.testing.assert_array_equal(dots[TRAIN], scores.metrics[name])
        np.testing.assert_array_equal(dots[VALIDATION], scores.metrics[f"val_{name}"])
        words = " ± ".join(
            plus_minus(scores.mean[f"val_{name}"], scores.standard_error[f"val_{name}"])
        )
        assert f"validation\n{words}" in [text.get_text() for text in axes.texts]


INTS = np.arange(N)
WRONG = {
    "one fold": ({"k": 1}, ValueError, f"k must lie in 2 .. {N}, the number of examples, got 1. "),
    "too many": ({"k": 44}, ValueError, f"k must lie in 2 .. {N}, the number of examples, got 44."),
    "no number": (
        {"k": 2.5},
        TypeError,
        "k must be a whole number, a splitter, or pairs of index lists (train, held out), got 2.5.",
    ),
    "True": ({"k": True}, TypeError, "pairs of index lists (train, held out), got True."),
    "used up": ({"k": iter(())}, ValueError, "k must give at least two folds, got 0. An iterator"),
    "no pairs": (
        {"k": [INTS, INTS]},
        TypeError,
        f"each fold must be a pair of index lists (train, held out), got int64[{N}] as fold 0.",
    ),
    "overlap": (
        {"k": [(INTS[:9], INTS[9:]), (INTS[5:], INTS[3:8])]},
        ValueError,
        "no row may be trained on and held out in one fold, got 3 such rows in fold 1, row 5 the",
    ),
    "beyond": (
        {"k": [(INTS[:9], INTS[9:]), (INTS[:9], INTS[9:] + 1)]},
        ValueError,
        f"index lists must lie in 0 .. {N - 1}, the examples of the data, got 10 .. {N} in fold 1.",
    ),
    "masks": (
        {"k": [(INTS < 9, INTS >= 9)] * 2},
        TypeError,
        f"index lists must hold whole numbers, one or more, got bool[{N}] in fold 0. Of a mask,",
    ),
    "empty": ({"k": [(INTS, [])] * 2}, TypeError, "one or more, got float64[0] in fold 0."),
    "groups": (
        {"k": 3, "groups": [1, 2]},
        ValueError,
        f"groups must hold one value for each of the {N} examples, got [1, 2].",
    ),
    "few groups": (
        {"k": 3, "groups": INTS % 2},
        ValueError,
        "groups must name at least k = 3 groups, got 2. Take fewer folds.",
    ),
    "groups of lists": (
        {"k": [(INTS[:9], INTS[9:])] * 2, "groups": INTS},
        TypeError,
        "groups goes with a number of folds or a splitter, got index lists as k.",
    ),
    "stratify": (
        {"k": 3, "stratify": np.zeros((2, N), int)},
        ValueError,
        f"stratify must hold one value for each of the {N} examples, got int64[2, {N}].",
    ),
    "stratify by floats": (
        {"k": 3, "stratify": np.zeros(N)},
        TypeError,
        f"stratify needs classes, got float64[{N}].",
    ),
    "rare": (
        {"k": 3, "stratify": INTS == 4},
        ValueError,
        "stratify needs at least k = 3 examples of each class, got 1 of class True.",
    ),
    "stratify lists": (
        {"k": KFold(3), "stratify": True},
        TypeError,
        "stratify goes with a number of folds, got index lists as k.",
    ),
    "both": (
        {"k": 3, "stratify": True, "groups": INTS},
        TypeError,
        "give either groups or stratify, got both.",
    ),
    "at": ({"k": 3, "at": "end"}, ValueError, "at must be 'best' or 'last', got 'end'."),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    arguments, kind, words = WRONG[name]
    with pytest.raises(kind, match=re.escape(words)) as caught:
        cross_validate(make_trainer(), arguments.pop("k"), made(), epochs=1, **arguments)
    assert str(caught.value).startswith("`cross_validate`: ")


def test_what_comes_out_is_a_value(scores):
    assert isinstance(scores, CrossValidation)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.at = "last"
