"""Labels: how scores and logits are read, and what counts follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as oracle

from funcnet import metrics
from tests.metrics.table import SCORES, scores, value

NAN, INF = float("nan"), float("inf")


def test_labels_out_of_range_against_scikit_learn():
    y_pred, y = scores(50)
    y[::5], y[1::5] = -1, 4
    expected = oracle.confusion_matrix(y, y_pred.argmax(-1), labels=range(4))
    assert expected.sum() == 30
    np.testing.assert_array_equal(value(metrics.confusion_matrix(4), y_pred, y), expected)


CONVENTIONS = {
    # name: (y_pred, y, right, positions)
    "scores": ([[1.0, 2.0, 0.0], [3.0, 2.0, 1.0]], [1, 1], 1, 2),
    "scores, a tie is the first's": ([[2.0, 2.0], [2.0, 2.0]], [0, 1], 1, 2),
    "scores, inf": ([[0.0, INF], [-INF, 0.0]], [1, 0], 1, 2),
    "scores, NaN is wrong": ([[NAN, 0.0], [0.0, NAN], [2.0, NAN]], [0, 1, 0], 0, 3),
    "scores, NaN of label -1": ([[NAN, 0.0]], [-1], 0, 1),
    "scores, label out of range": ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [-1, 2, 9], 0, 3),
    "scores at positions": ([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]] * 2], [[0, 0], [0, 0]], 3, 4),
    "scores, two examples of two": ([[1.0, 0.0], [0.0, 1.0]], [0, 1], 2, 2),
    "logits": ([1.0, -1.0, 1.0, -1.0], [1, 0, 0, 1], 2, 4),
    "logits, the threshold is not above": ([0.0, 0.0], [0, 1], 1, 2),
    "logits, bool": ([1.0, -1.0, 1.0], [True, False, False], 2, 3),
    "logits, NaN is wrong": ([NAN, NAN], [0, 1], 0, 2),
    "logits, label out of range": ([1.0, -1.0], [2, -1], 0, 2),
    "logits, a column": ([[1.0], [1.0]], [[1], [0]], 1, 2),
    "logits at positions": ([[1.0, -1.0], [1.0, 1.0]], [[1, 0], [0, 0]], 2, 4),
    "one-hot in whole numbers is read as binary": ([[1.0, -1.0, -1.0]], [[0, 1, 0]], 1, 3),
}


@pytest.mark.parametrize("row", CONVENTIONS.values(), ids=CONVENTIONS)
def test_the_conventions_of_accuracy(row):
    y_pred, y, right, positions = row
    metric = metrics.accuracy()
    state = metric.update(metric.init(), jnp.asarray(y_pred), jnp.asarray(y))
    assert (int(state["total"]), int(state["weight"])) == (right, positions)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_labels_of_any_whole_dtype(dtype):
    y_pred, y = scores(20)
    expected = value(metrics.accuracy(), y_pred, y)
    np.testing.assert_array_equal(value(metrics.accuracy(), y_pred, y.astype(dtype)), expected)


def test_the_threshold_may_be_traced():
    y_pred, y = jnp.array([0.2, 0.4, 0.6]), jnp.array([0, 1, 1])
    measure = jax.vmap(lambda threshold: value_at(threshold, y_pred, y))
    np.testing.assert_array_equal(measure(jnp.array([0.0, 0.3, 0.5])) * 3, [2, 3, 2])


def value_at(threshold, y_pred, y):
    metric = metrics.accuracy(threshold=threshold)
    return metric.compute(metric.update(metric.init(), y_pred, y))


def test_the_confusion_matrix_has_true_rows_and_predicted_columns():
    y_pred, y = jnp.eye(3)[jnp.array([2, 2, 1])], jnp.array([0, 0, 1])
    expected = [[0, 0, 2], [0, 1, 0], [0, 0, 0]]
    assert value(metrics.confusion_matrix(3), y_pred, y).tolist() == expected


def test_the_confusion_matrix_leaves_nan_out():
    y_pred = jnp.array([[NAN, 0.0], [0.0, NAN], [0.0, 1.0]])
    assert value(metrics.confusion_matrix(2), y_pred, jnp.array([0, 1, 1])).tolist() == [
        [0, 0],
        [0, 1],
    ]
    logits = jnp.array([NAN, 2.0])
    matrix = value(metrics.confusion_matrix(2, threshold=1.0), logits, jnp.array([0, 0]))
    assert matrix.tolist() == [[0, 1], [0, 0]]


def test_positions_count_with_the_weight_of_their_example():
    y_pred, y = scores(6, positions=(3,))
    weight = np.array([0, 1, 2, 3, 0, 1])
    expected = oracle.confusion_matrix(
        y.ravel(), y_pred.argmax(-1).ravel(), sample_weight=weight.repeat(3)
    )
    np.testing.assert_array_equal(value(metrics.confusion_matrix(4), y_pred, y, weight), expected)
    metric = metrics.accuracy()
    state = metric.update(metric.init(), y_pred, y, weight)
    assert int(state["total"]) == np.trace(expected)
    assert int(state["weight"]) == 21


# Top k


TOP = {
    # name: (y_pred, y, right for k = 1, 2, 3)
    "in order": ([[3.0, 2.0, 1.0]] * 3, [0, 1, 2], (1, 2, 3)),
    "ties, the first ranks first": ([[1.0, 1.0, 1.0]] * 3, [0, 1, 2], (1, 2, 3)),
    "a tie below the top": ([[0.0, 5.0, 0.0]] * 3, [0, 1, 2], (1, 2, 3)),
    "inf": ([[INF, INF, -INF]] * 3, [0, 1, 2], (1, 2, 3)),
    "NaN is wrong": ([[NAN, 2.0, 1.0], [1.0, 2.0, NAN]], [1, 1], (0, 0, 0)),
    "label out of range": ([[3.0, 2.0, 1.0]] * 3, [-1, 3, 99], (0, 0, 0)),
}


@pytest.mark.parametrize("row", TOP.values(), ids=TOP)
def test_the_conventions_of_top_k(row):
    y_pred, y, right = row
    for k, expected in enumerate(right, start=1):
        metric = metrics.top_k(k)
        state = metric.update(metric.init(), jnp.asarray(y_pred), jnp.asarray(y))
        assert (int(state["total"]), int(state["weight"])) == (expected, len(y))


def test_the_first_of_all_is_accuracy():
    batch = scores(200, positions=(3,))
    assert value(metrics.top_k(1), *batch) == value(metrics.accuracy(), *batch)
    assert value(metrics.top_k(4), *batch) == 1


# Rates

RATES = {
    # name: (predicted, y, precision, recall, f1), of class 1 among two
    "all right": ([1, 0], [1, 0], 1, 1, 1),
    "none predicted": ([0, 0], [1, 0], 0, 0, 0),
    "none true": ([1, 0], [0, 0], 0, 0, 0),
    "neither": ([0, 0], [0, 0], 0, 0, 0),
    "one of two": ([1, 1, 0, 0], [1, 0, 1, 0], 0.5, 0.5, 0.5),
    "a label out of range is a wrong prediction": ([1, 1], [1, 7], 0.5, 1, 2 / 3),
    "a NaN predicts nothing": ([1, None], [1, 1], 1, 0.5, 2 / 3),
}


@pytest.mark.parametrize("row", RATES.values(), ids=RATES)
def test_the_conventions_of_rates(row):
    predicted, y, *expected = row
    y_pred = jnp.asarray([NAN if label is None else label - 0.5 for label in predicted])
    for make, rate in zip((metrics.precision, metrics.recall, metrics.f1), expected, strict=True):
        np.testing.assert_allclose(value(make(), y_pred, jnp.asarray(y)), rate, rtol=1e-7)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_a_class_that_does_not_occur_is_left_out(name, average):
    make, score = SCORES[name]
    y_pred, y = scores(50, classes=6)
    y_pred[:, 2], y[y == 2] = -9, 5  # class 2 doesn't occur
    y_pred[:, 3] = -9  # class 3 is never predicted
    expected = score(y, y_pred.argmax(-1), average=average, zero_division=0)
    found = value(make(6, average=average), y_pred, y)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_labels_out_of_range_are_those_that_scikit_learn_is_not_asked_about():
    y_pred, y = scores(50)
    y[::5] = 4
    for make, score in SCORES.values():
        for average in ("macro", "micro"):
            expected = score(y, y_pred.argmax(-1), labels=range(4), average=average)
            found = value(make(4, average=average), y_pred, y)
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rates_have_one_accumulator():
    made = [make(4, average=kind) for make, _ in SCORES.values() for kind in ("macro", "micro")]
    states = [m.update(m.init(), *scores(20)) for m in [*made, metrics.iou(4)]]
    for state in states:
        assert state.keys() == {"right", "predicted", "true"}
        for name, count in state.items():
            np.testing.assert_array_equal(count, states[0][name])


def test_large_counts_do_not_overflow():
    y_pred, y = np.ones(2, np.float32), np.array([1, 0])
    weight = np.array([15, 5]) * 10**8  # 2 right = 3.0e9, predicted + true = 3.5e9
    for make, score in SCORES.values():
        expected = score(y, y_pred > 0, sample_weight=weight)
        np.testing.assert_allclose(value(make(), y_pred, y, weight), expected, rtol=1e-6)


def test_the_iou_of_masks():
    y = np.array([[0, 0, 1, 255], [1, 1, 0, 255]])
    y_pred = np.array([[0.0, 1, 1, 1], [1, 0, 0, 0]], np.float32) - 0.5
    # class 0: 2 of 4; class 1: 2 of 4; without `ignore` the 255 are wrong predictions of both
    assert value(metrics.iou(2, ignore=255), y_pred, y) == 0.5
    np.testing.assert_allclose(value(metrics.iou(2), y_pred, y), 0.4, rtol=1e-6)


def test_booleans_are_weights_of_0_and_1():
    y_pred, y = scores(20)
    flags = np.arange(20) % 3 > 0
    matrix = value(metrics.confusion_matrix(4), y_pred, y, flags)
    assert matrix.dtype == "int32"
    np.testing.assert_array_equal(matrix, value(metrics.confusion_matrix(4), y_pred, y, flags * 1))
