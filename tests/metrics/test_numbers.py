"""What the table's laws leave open: precision far from 0, edges of bins, ties, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as oracle

from funcnet import metrics
from tests.metrics.table import distance, logits, softmax, value

NAN, INF = float("nan"), float("inf")


# R squared


def gathered(metric, y_pred, y, size):
    """The value over batches of `size`, in a compiled loop."""
    batches = jax.tree.map(lambda a: jnp.asarray(a).reshape(-1, size, *a.shape[1:]), (y_pred, y))

    @jax.jit
    def over(carry, batches):
        return jax.lax.scan(lambda a, b: (metric.update(a, *b), None), carry, batches)[0]

    first = jax.tree.map(lambda a: a[0], batches)
    carry = metrics.zeros(metric, jax.eval_shape(metric.update, metric.init(), *first))
    return np.asarray(metric.compute(over(carry, batches)))


@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
@pytest.mark.parametrize("outputs", [(), (3,)])
def test_r2_keeps_its_digits_far_from_zero(offset, outputs):
    random = np.random.default_rng(0)
    y = (offset + random.normal(size=(2000, *outputs))).astype(np.float32)
    y_pred = (y + 0.3 * random.normal(size=y.shape)).astype(np.float32)
    expected = oracle.r2_score(y.astype(np.float64), y_pred.astype(np.float64))
    for size in (10, 2000):
        np.testing.assert_allclose(gathered(metrics.r2(), y_pred, y, size), expected, rtol=1e-6)


R2 = {
    # name: (y_pred, y, r2)
    "right": ([1.0, 2.0], [1.0, 2.0], 1),
    "constant and right": ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1], 1),
    "constant and wrong": ([0.5, 0.5, 0.25], [0.5, 0.5, 0.5], 0),
    "the mean": ([2.0, 2.0], [1.0, 3.0], 0),
    "worse than the mean": ([3.0, 1.0], [1.0, 3.0], -3),
    "outputs": ([[1.0, 2.0], [2.0, 2.0]], [[1.0, 1.0], [2.0, 3.0]], 0.5),
    "one output constant": ([[1.0, 2.0], [2.0, 3.0]], [[1.0, 2.0], [2.0, 2.0]], 0.5),
    "whole numbers": ([2, 2], [1, 3], 0),
}


@pytest.mark.parametrize("row", R2.values(), ids=R2)
def test_the_conventions_of_r2(row):
    y_pred, y, expected = map(np.asarray, row)
    assert oracle.r2_score(y, y_pred) == expected
    assert value(metrics.r2(), y_pred, y) == expected
    metric = metrics.r2()
    assert gathered(metric, y_pred, y, 1) == expected


def test_r2_of_a_constant_that_its_mean_does_not_hit():
    y = np.full(30, 0.1, np.float32)  # their sum / 30 isn't 0.1
    assert value(metrics.r2(), y, y) == 1
    assert value(metrics.r2(), y + 1, y) == 0


def test_an_empty_batch_changes_nothing_however_far_y_is():
    metric, y = metrics.r2(), np.full(2, 3e19, np.float32)  # its square is infinite
    state = metric.update(metric.init(), y, y)
    state = metric.update(state, y * np.nan, y * np.nan, np.zeros(2, int))
    assert metric.compute(state) == 1


def test_r2_of_one_example_is_that_of_a_constant():
    one = np.ones(1, np.float32)
    assert value(metrics.r2(), one, one) == 1
    assert value(metrics.r2(), one + 1, one) == 0


@pytest.mark.parametrize("metric", [metrics.r2(), metrics.mse(), metrics.mae()])
@pytest.mark.parametrize("wrong", [NAN, INF])
def test_what_is_not_finite_is_seen(metric, wrong):
    assert not np.isfinite(value(metric, np.array([wrong, 1.0, 1.0]), np.ones(3)))


# The area under the ROC curve

exact, AUC = jax.jit(metrics.roc_auc), metrics.auc()
binned = jax.jit(lambda *batch: AUC.compute(AUC.update(AUC.init(), *batch)))


@pytest.mark.parametrize("weight", [None, np.arange(200) % 3, np.arange(200) % 3 / 2])
def test_the_exact_area_against_scikit_learn(weight):
    y_pred, y = logits(200)  # on a grid: most scores are tied
    expected = oracle.roc_auc_score(y, y_pred, sample_weight=weight)
    np.testing.assert_allclose(exact(y_pred, y, weight), expected, rtol=1e-6)


AREAS = {
    # name: (scores, y, weight, area)
    "apart": ([1.0, 2.0], [0, 1], [1, 1], 1),
    "turned round": ([2.0, 1.0], [0, 1], [1, 1], 0),
    "a tie": ([1.0, 1.0], [0, 1], [1, 1], 0.5),
    "zeros of both signs tie": ([0.0, -0.0, 0.0, -0.0], [0, 1, 1, 0], [1, 1, 1, 1], 0.5),
    "inf ties with inf": ([INF, INF, -INF], [0, 1, 0], [1, 1, 1], 0.75),
    "weights": ([1.0, 2.0, 3.0], [0, 1, 0], [1, 1, 3], 0.25),
    "weight 0": ([1.0, 2.0, NAN], [0, 1, 1], [1, 1, 0], 1),
    "a NaN is wrong": ([NAN, 2.0], [1, 0], [1, 1], 0),
    "a NaN is wrong for a negative": ([NAN, 2.0], [0, 1], [1, 1], 0),
    "labels out of range": ([1.0, 2.0, 0.0, 3.0], [0, 1, 2, -1], [1, 1, 1, 1], 1),
    "one label": ([1.0, 2.0], [1, 1], [1, 1], NAN),
    "nothing": ([], [], [], NAN),
}


@pytest.mark.parametrize("row", AREAS.values(), ids=AREAS)
def test_the_conventions_of_the_area(row):
    scores, y, weight, expected = row
    filled = [
        np.array([*leaf, *[fill] * (4 - len(leaf))], dtype)
        for leaf, fill, dtype in [(scores, 9, "float32"), (y, 1, int), (weight, 0, int)]
    ]
    np.testing.assert_allclose(exact(*filled), expected, rtol=1e-7)
    np.testing.assert_allclose(binned(*filled), expected, rtol=1e-7)


def test_the_area_of_other_shapes():
    for area in (metrics.roc_auc, binned):
        assert np.isnan(area(np.zeros(0, np.float32), np.zeros(0, int)))
        assert area(np.array([1.0, 2.0]), np.array([False, True])) == 1
        grid = np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([[0, 1], [0, 1]])
        np.testing.assert_allclose(area(*grid, np.array([1, 2])), 1 / 9, rtol=1e-6)


@pytest.mark.parametrize("bins", [1, 2, 10, 200, 5000])
def test_the_error_of_bins_is_within_its_bound(bins):
    random = np.random.default_rng(0)
    y = random.integers(2, size=500)
    y_pred = (random.normal(size=500) + y).astype(np.float32)
    metric = metrics.auc(bins)
    counts = np.asarray(metric.update(metric.init(), y_pred, y))
    assert counts.shape == (2, bins)
    negative, positive = counts / counts.sum(1, keepdims=True)
    error = abs(metric.compute(counts) - exact(y_pred, y))
    assert error <= (negative * positive).sum() / 2 + 1e-6
    if bins == 1:
        assert metric.compute(counts) == 0.5
    if bins == 5000:
        assert error < 1e-4


def test_a_large_exact_area_keeps_its_digits():
    random = np.random.default_rng(0)
    y = random.integers(2, size=100_000)
    scores = (random.normal(size=y.size) + y).astype(np.float32)
    expected = oracle.roc_auc_score(y, scores)
    # 1e5 terms of one sign, added in float32
    np.testing.assert_allclose(exact(scores, y), expected, rtol=1e-5)


@pytest.mark.parametrize("bins", [1, 4])
def test_probabilities_at_the_edges_of_bins(bins):
    p = np.array([0, 0.25, 0.2500001, 0.5, 0.75, 1, -1, 2], np.float32)
    metric = metrics.auc(bins, logits=False)
    counts = metric.update(metric.init(), p, np.ones(8, int))
    assert counts[1].tolist() == ([8] if bins == 1 else [3, 2, 1, 2])


# Calibration


def test_confidence_at_the_edges_of_bins():
    # Guo's bins hold their upper edge: 0.75 is in the third of 4, where it makes up for 0.7
    y_pred = np.array([0.75, 0.625, 0.25], np.float32)
    metric = metrics.calibration_error(4, logits=False)
    state = metric.update(metric.init(), y_pred, np.array([1, 0, 0]))
    assert state["total"].tolist() == [0, 0, 0.25 - 0.625 + 0.25, 0]


def test_calibration_of_probabilities_is_that_of_their_logits():
    random = np.random.default_rng(0)
    y_pred, y = random.normal(size=(100, 3)).astype(np.float32), random.integers(3, size=100)
    of_logits = value(metrics.calibration_error(), y_pred, y)
    p = softmax(y_pred).astype(np.float32)
    of_p = value(metrics.calibration_error(logits=False), p, y)
    np.testing.assert_allclose(of_p, of_logits, rtol=1e-5)  # 100 roundings of confidences
    y_pred, y = logits(100)
    p = (1 / (1 + np.exp(-y_pred))).astype(np.float32)
    of_p = value(metrics.calibration_error(logits=False), p, y)
    np.testing.assert_allclose(of_p, value(metrics.calibration_error(), y_pred, y), rtol=1e-5)


def test_a_nan_is_seen_in_the_calibration_error():
    for y_pred in ([[NAN, 0.0], [0.0, 1.0]], [NAN, 1.0]):
        assert np.isnan(value(metrics.calibration_error(), np.asarray(y_pred), np.array([0, 1])))


# Sequences


def test_perplexity_counts_positions():
    y_pred = np.zeros((2, 4, 8), np.float32)
    y_pred[1, 0, 3] = 50.0  # certain
    y = np.array([[0, 1, 2, 3], [3, -1, -1, -1]])
    np.testing.assert_allclose(
        value(metrics.perplexity(ignore=-1), y_pred, y), 8 ** (4 / 5), rtol=1e-6
    )
    metric = metrics.perplexity(ignore=-1)
    assert metric.update(metric.init(), y_pred, y, np.array([2, 1]))["weight"] == 9


def test_what_stands_at_positions_left_out_does_not_matter():
    y_pred = np.zeros((1, 2, 8), np.float32)
    y_pred[0, 1] = NAN
    assert np.isclose(value(metrics.perplexity(ignore=-1), y_pred, np.array([[0, -1]])), 8)


@pytest.mark.parametrize("label", [-1, 8, 100])
def test_a_label_without_a_score_has_no_probability(label):
    y_pred, y = np.zeros((2, 8), np.float32), np.array([0, label])
    assert value(metrics.perplexity(), y_pred, y) == INF
    assert np.isclose(value(metrics.perplexity(), y_pred, y, np.array([1, 0])), 8)


def test_perplexity_of_large_logits():
    y_pred = np.array([[1000.0, 999.0], [-1000.0, -1001.0]], np.float32)
    expected = np.exp(np.log1p(np.exp(-1.0)))
    np.testing.assert_allclose(
        value(metrics.perplexity(), y_pred, np.array([0, 0])), expected, rtol=1e-6
    )


WORDS = {
    # name: (y_pred, y, edits, words)
    "right": ([1, 2, 3], [1, 2, 3], 0, 3),
    "exchanged": ([1, 5, 3], [1, 2, 3], 1, 3),
    "left out": ([1, 3, -1], [1, 2, 3], 1, 3),
    "put in": ([1, 2, 3], [1, 3, -1], 1, 2),
    "nothing heard": ([-1, -1, -1], [1, 2, 3], 3, 3),
    "nothing said": ([1, 2, -1], [-1, -1, -1], 2, 0),
    "padding in between": ([-1, 1, -1, 2], [1, -1, 2, -1, 3], 1, 3),
    "padding is no word": ([-1, -1], [-1, -1], 0, 0),
    "shifted": ([2, 3, 4, 1], [1, 2, 3, 4], 2, 4),
    "no position": ([], [1, 2], 2, 2),
}


@pytest.mark.parametrize("row", WORDS.values(), ids=WORDS)
def test_the_conventions_of_words(row):
    y_pred, y, edits, words = row
    metric = metrics.word_error_rate()
    batch = np.asarray([y_pred], np.int32), np.asarray([y], np.int32)
    state = metric.update(metric.init(), *batch)
    assert (int(state["total"]), int(state["weight"])) == (edits, words)


@pytest.mark.parametrize(("padding", "dtype"), [(0, "uint8"), (-1, "int8")])
def test_edits_of_random_sequences(padding, dtype):
    random = np.random.default_rng(0)
    y_pred, y = random.integers(-1, 3, size=(50, 9)), random.integers(-1, 3, size=(50, 7))
    pairs = [([t for t in a if t >= 0], [t for t in b if t >= 0]) for a, b in zip(y_pred, y)]  # noqa: B905 - rows of one batch
    metric = metrics.word_error_rate(padding=padding)
    shift = padding + 1
    state = metric.update(metric.init(), (y_pred + shift).astype(dtype), (y + shift).astype(dtype))
    assert int(state["total"]) == sum(distance(a, b) for a, b in pairs)
    assert int(state["weight"]) == sum(len(b) for _, b in pairs)
