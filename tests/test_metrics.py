import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics as oracle

from funcnet import metrics

NAN, INF = float("nan"), float("inf")


def whole(words):
    return f"^{re.escape(words)}$"


def absolute(y_pred, y):
    return jnp.abs(y_pred - y)


def value(metric, *batch):
    return np.asarray(metric.compute(metric.update(metric.init(), *batch)))


def gather(metric, batches):
    return functools.reduce(lambda a, batch: metric.update(a, *batch), batches, metric.init())


def scores(n, classes=4, positions=()):
    """Scores and labels, of which about half are right; eighths, so that float sums are exact."""
    random = np.random.default_rng(0)
    y = random.integers(classes, size=(n, *positions))
    noise = random.integers(-8, 8, size=(n, *positions, classes)) / 8
    return (noise + np.eye(classes)[y]).astype(np.float32), y


def logits(n, positions=()):
    random = np.random.default_rng(1)
    y = random.integers(2, size=(n, *positions))
    return (random.integers(-8, 8, size=y.shape) / 8 + y / 2).astype(np.float32), y


def numbers(n, positions=()):
    random = np.random.default_rng(2)
    a, b = random.integers(-8, 8, size=(2, n, *positions)).astype(np.float32) / 8
    return a, b


METRICS = {
    "mean": (metrics.mean(absolute), numbers),
    "mean of rows": (metrics.mean(absolute), functools.partial(numbers, positions=(4,))),
    "accuracy": (metrics.accuracy(), scores),
    "accuracy of logits": (metrics.accuracy(), logits),
    "accuracy at positions": (metrics.accuracy(), functools.partial(scores, positions=(3,))),
    "confusion matrix": (metrics.confusion_matrix(4), scores),
    "confusion of logits": (metrics.confusion_matrix(2), logits),
}
WEIGHTS = {
    "none": lambda n: None,
    "bool": lambda n: np.arange(n) % 3 > 0,
    "uint8": lambda n: (np.arange(n) % 3).astype(np.uint8),
    "bfloat16": lambda n: jnp.asarray(np.arange(n) % 3 / 2, jnp.bfloat16),
}
every_metric = pytest.mark.parametrize(("metric", "data"), METRICS.values(), ids=METRICS)
few_weights = pytest.mark.parametrize("weigh", [WEIGHTS["none"], WEIGHTS["bfloat16"]])
every_weight = pytest.mark.parametrize("weigh", WEIGHTS.values(), ids=WEIGHTS)


def parts(batch, cuts):
    bounds = [0, *cuts, len(batch[0])]
    pairs = itertools.pairwise(bounds)
    return [tuple(None if a is None else a[i:j] for a in batch) for i, j in pairs]


def padded(batch, size):
    """The batch filled up to `size` by examples of NaN, label 0 and weight 0."""
    y_pred, y, weight = batch
    n = size - len(y)
    weight = np.ones(len(y), np.int32) if weight is None else np.asarray(weight)
    fill = [(np.nan, y_pred), (np.nan if y.dtype.kind == "f" else 0, y), (0, weight)]
    return tuple(np.concatenate([a, np.full((n, *a.shape[1:]), v, a.dtype)]) for v, a in fill)


# Laws: every metric, every kind of weight. All sums are exact in float32, so tolerance 0.


@every_metric
@every_weight
def test_parts_add_up_to_the_whole(metric, data, weigh):
    batch = (*data(20), weigh(20))
    total = metric.update(metric.init(), *batch)
    cut = parts(batch, [5, 15])
    chex.assert_trees_all_equal(gather(metric, cut), total)
    separate = [metric.update(metric.init(), *part) for part in cut]
    chex.assert_trees_all_equal(functools.reduce(metric.merge, separate), total)
    chex.assert_trees_all_equal(metric.merge(metric.init(), total), total)


@every_metric
@few_weights
def test_padding_changes_nothing(metric, data, weigh):
    batch = (*data(20), weigh(20))
    total = metric.update(metric.init(), *batch)
    cut = [padded(part, 16) for part in parts(batch, [16])]
    chex.assert_trees_all_equal(gather(metric, cut), total)


@every_metric
def test_whole_weights_are_repetitions(metric, data):
    y_pred, y = data(20)
    repeats = np.arange(20) % 3
    repeated = value(metric, np.repeat(y_pred, repeats, 0), np.repeat(y, repeats, 0))
    np.testing.assert_array_equal(value(metric, y_pred, y, repeats), repeated)


@every_metric
@few_weights
def test_jit_and_vmap_agree_with_eager(metric, data, weigh):
    batch = (*data(20), weigh(20))
    total = metric.update(metric.init(), *batch)
    chex.assert_trees_all_equal(jax.jit(metric.update)(metric.init(), *batch), total)
    groups = jax.tree.map(lambda a: jnp.asarray(a).reshape(4, 5, *a.shape[1:]), batch)
    each = jax.vmap(lambda batch: metric.update(metric.init(), *batch))(groups)
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a.sum(0), each), total)
    values = jax.jit(jax.vmap(metric.compute))(each)
    for i, part in enumerate(parts(batch, [5, 10, 15])):
        np.testing.assert_array_equal(values[i], value(metric, *part))


@every_metric
@pytest.mark.parametrize(
    ("weigh", "x64"), [*((weigh, False) for weigh in WEIGHTS.values()), (WEIGHTS["none"], True)]
)
def test_zeros_make_a_carry_of_stable_dtypes(metric, data, weigh, x64):
    with jax.enable_x64(x64):
        batch = jax.tree.map(jnp.asarray, (*data(20), weigh(20)))
        contribution = jax.eval_shape(metric.update, metric.init(), *batch)
        carry = metrics.zeros(metric, contribution)
        assert not any(leaf.any() for leaf in jax.tree.leaves(carry))
        again = metric.update(carry, *batch)
        chex.assert_trees_all_equal_shapes_and_dtypes(carry, contribution, again)
        chex.assert_trees_all_equal(again, metric.update(metric.init(), *batch))
        assert not any(leaf.weak_type for leaf in jax.tree.leaves((carry, again)))
        counts = weigh(1) is None or weigh(1).dtype.kind in "biu"
        weight = again["weight"] if isinstance(again, dict) else again
        assert weight.dtype == ("int32" if counts else "float32")

        groups = jax.tree.map(lambda a: a.reshape(4, 5, *a.shape[1:]), batch)
        scan = jax.lax.scan(lambda a, batch: (metric.update(a, *batch), None), carry, groups)
        chex.assert_trees_all_equal(scan[0], again)


@every_metric
def test_the_first_weights_of_a_kind_fix_the_dtypes(metric, data):
    whole, fractions = WEIGHTS["uint8"](20), WEIGHTS["bfloat16"](20)
    state = metric.update(metric.init(), *data(20), whole)
    state = metric.update(state, *data(20), fractions)
    after = metric.update(state, *data(20), whole)
    chex.assert_trees_all_equal_dtypes(state, after)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}


@every_metric
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_inputs_add_up_in_float32(metric, data, dtype):
    y_pred, y = data(20)
    narrow = [jnp.asarray(a, dtype) if a.dtype.kind == "f" else a for a in (y_pred, y)]
    weight = jnp.ones(20, dtype)
    state = metric.update(metric.init(), *narrow, weight)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(metric.compute(state), value(metric, y_pred, y))


@every_metric
def test_no_examples(metric, data):
    y_pred, y = data(4)
    for batch in [(y_pred[:0], y[:0]), (y_pred, y, np.zeros(4)), (y_pred, y, np.zeros(4, int))]:
        result = value(metric, *batch)
        assert np.isnan(result) if result.ndim == 0 else not result.any()


@every_metric
def test_one_trace_serves_all_batches(metric, data):
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(metric.update, n=1))
    state = metric.init()
    for _ in range(3):
        state = update(state, *data(4))


def test_half_precision_does_not_stagnate():
    # 300 ones: bfloat16 stops counting at 256.
    ones = jnp.ones(300, jnp.bfloat16)
    metric = metrics.mean(lambda y_pred, y: y_pred)
    state = gather(metric, [(ones[i : i + 1], ones[i : i + 1]) for i in range(300)])
    assert float(state["total"]) == float(state["weight"]) == 300
    # The mean of the two is 1 + 2**-8, which bfloat16 can't hold.
    row = jnp.asarray([[1, 1 + 2**-7]], jnp.bfloat16)
    assert value(metric, row, row) == 1 + 2**-8


@pytest.mark.parametrize("metric", [metrics.accuracy(), metrics.confusion_matrix(2)])
def test_counters_do_not_stagnate_at_2_to_the_24(metric):
    y_pred, y = jnp.ones(1), jnp.ones(1, jnp.int32)
    large = jnp.asarray([2**24], jnp.int32)
    state = gather(metric, [(y_pred, y, large), (y_pred, y), (y_pred, y, jnp.ones(1, bool))])
    assert {int(leaf.max()) for leaf in jax.tree.leaves(state)} == {2**24 + 2}


def test_the_mean_counts_examples_in_whole_numbers():
    metric = metrics.mean(absolute)
    zero = jnp.zeros(1)
    state = gather(metric, [(zero, zero, jnp.asarray([2**24])), (zero, zero)])
    assert int(state["weight"]) == 2**24 + 1


# Oracles


@every_weight
def test_accuracy_against_scikit_learn(weigh):
    y_pred, y = scores(200)
    weight = weigh(200)
    weight = weight if weight is None else np.asarray(weight, np.float32)
    for batch, predicted in [
        ((y_pred, y, weight), y_pred.argmax(-1)),
        ((*logits(200), weight), logits(200)[0] > 0),
    ]:
        expected = oracle.accuracy_score(batch[1], predicted, sample_weight=weight)
        # one rounding to float32 of an exact quotient
        np.testing.assert_allclose(value(metrics.accuracy(), *batch), expected, rtol=6e-8)


@every_weight
def test_the_confusion_matrix_against_scikit_learn(weigh):
    y_pred, y = scores(200)
    weight = weigh(200)
    weight = weight if weight is None else np.asarray(weight, np.float32)
    expected = oracle.confusion_matrix(y, y_pred.argmax(-1), sample_weight=weight)
    assert not np.array_equal(expected, expected.T)
    np.testing.assert_array_equal(value(metrics.confusion_matrix(4), y_pred, y, weight), expected)
    y_pred, y = logits(200)
    expected = oracle.confusion_matrix(y, y_pred > 0, sample_weight=weight)
    np.testing.assert_array_equal(value(metrics.confusion_matrix(2), y_pred, y, weight), expected)


def test_labels_out_of_range_against_scikit_learn():
    y_pred, y = scores(50)
    y[::5], y[1::5] = -1, 4
    expected = oracle.confusion_matrix(y, y_pred.argmax(-1), labels=range(4))
    assert expected.sum() == 30
    np.testing.assert_array_equal(value(metrics.confusion_matrix(4), y_pred, y), expected)


@every_weight
def test_the_mean_against_scikit_learn(weigh):
    y_pred, y = numbers(60, positions=(4,))
    weight = weigh(60)
    weight = weight if weight is None else np.asarray(weight, np.float32)
    expected = oracle.mean_absolute_error(y, y_pred, sample_weight=weight)
    # one rounding to float32 of an exact quotient
    np.testing.assert_allclose(
        value(metrics.mean(absolute), y_pred, y, weight), expected, rtol=6e-8
    )


@pytest.mark.parametrize(
    ("loss", "batch"),
    [
        (optax.losses.squared_error, numbers(8)),
        (optax.losses.squared_error, numbers(8, positions=(3,))),
        (optax.losses.softmax_cross_entropy_with_integer_labels, scores(8)),
        (optax.losses.softmax_cross_entropy_with_integer_labels, scores(8, positions=(3,))),
        (optax.losses.sigmoid_binary_cross_entropy, logits(8)),
    ],
)
def test_the_mean_of_optax_losses(loss, batch):
    # float32, sums of at most 24 terms: 24 roundings of 6e-8 each
    np.testing.assert_allclose(value(metrics.mean(loss), *batch), loss(*batch).mean(), rtol=1.5e-6)


def test_the_mean_takes_what_f_takes():
    metric = metrics.mean(lambda y_pred, y: y_pred["a"] * y[0] + y_pred["b"])
    y_pred = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([0.0, 4.0])}
    assert value(metric, y_pred, (jnp.array([1.0, 3.0]), None)) == 5.5
    flags = metrics.mean(lambda y_pred, y: y_pred > y)
    assert value(flags, jnp.array([1.0, 2.0]), jnp.array([0.0, 3.0])) == 0.5


def test_further_axes_are_averaged_before_the_weight_is_applied():
    y_pred, y = jnp.array([[1.0, 3.0], [10.0, 20.0]]), jnp.zeros((2, 2))
    assert value(metrics.mean(absolute), y_pred, y, jnp.array([3, 1])) == (3 * 2 + 15) / 4


# Conventions

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


# The parts for those who make an accumulator themselves


@pytest.mark.parametrize(
    "total", [6, 6.0, np.float64(6), jnp.bfloat16(6), np.asarray(6, "float16")]
)
@pytest.mark.parametrize("weight", [4, 4.0, np.int8(4), jnp.float16(4)])
def test_weighted_and_average(total, weight):
    accumulator = metrics.weighted(total, weight)
    for leaf, given in [(accumulator["total"], total), (accumulator["weight"], weight)]:
        assert leaf.dtype == ("int32" if jnp.asarray(given).dtype.kind == "i" else "float32")
        assert not leaf.weak_type
    assert float(metrics.average(accumulator)) == 1.5
    metric = metrics.mean(absolute)
    both = metric.merge(accumulator, metrics.weighted(0.0, 2))
    assert float(metric.compute(both)) == 1.0


def test_weighted_keeps_float64():
    with jax.enable_x64(True):
        accumulator = metrics.weighted(np.float64(1 + 1e-12), np.int64(1))
        assert accumulator["weight"].dtype == "int32"
        assert float(metrics.average(accumulator)) == 1 + 1e-12


def test_the_average_of_nothing_is_nan():
    assert np.isnan(metrics.average(metrics.weighted(0.0, 0)))
    nothing = {"total": np.int32(0), "weight": np.int32(0)}
    assert np.isnan(metrics.average(nothing))


# Errors, word for word

SHAPES = (
    "y_pred must have the shape of y (binary logits), or one more axis of at least 2 (scores of "
    "classes), got y_pred"
)
ONE_EACH = "Pass one label for each row of scores, or for each logit."
F4, I4 = np.zeros(4, "float32"), np.zeros(4, "int32")
F43, F41, I41 = np.zeros((4, 3), "float32"), np.zeros((4, 1), "float32"), I4[:, None]
REFUSED = [
    (F41, I4, ValueError, f"{SHAPES} float32[4, 1] and y int32[4]. "
     "Pass y_pred.squeeze(-1) if it has binary logits."),
    (F43, I41, ValueError, f"{SHAPES} float32[4, 3] and y int32[4, 1]. Pass y.squeeze(-1)."),
    (F4, I41, ValueError, f"{SHAPES} float32[4] and y int32[4, 1]. Pass y.squeeze(-1)."),
    (F43, I4[:3], ValueError, f"{SHAPES} float32[4, 3] and y int32[3]. {ONE_EACH}"),
    (F4, I4[:3], ValueError, f"{SHAPES} float32[4] and y int32[3]. {ONE_EACH}"),
    (F4[0:1][0], I4[0], TypeError, "y_pred and y must be arrays, got float32[] and int32[]. "
     "Choose one output of the model and its labels."),
    (jnp.zeros(()), jnp.zeros((), int), ValueError,
     f"{SHAPES} float32[] and y int32[]. {ONE_EACH}"),
    (F43, jnp.zeros(()).astype(int), ValueError,
     f"{SHAPES} float32[4, 3] and y int32[]. {ONE_EACH}"),
    (jnp.zeros(3), jnp.zeros((), int), ValueError,
     f"{SHAPES} float32[3] and y int32[]. {ONE_EACH}"),
    (F43[:, :0], I4, ValueError, f"{SHAPES} float32[4, 0] and y int32[4]. {ONE_EACH}"),
    (F43, F43, TypeError, "y must be integer or boolean labels, got float32[4, 3]. Pass "
     "y.argmax(-1) for one-hot labels, y.astype(int) for whole numbers in floats."),
    (I4, I4, TypeError, "y_pred must be scores or logits in floats, got int32[4]. "
     "Pass what the model gives, not labels taken from it."),
    ({"a": F4}, I4, TypeError, "y_pred and y must be arrays, got {'a': float32[4]} and int32[4]. "
     "Choose one output of the model and its labels."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "metric"),
    [("accuracy", metrics.accuracy()), ("confusion_matrix", metrics.confusion_matrix(3))],
)
@pytest.mark.parametrize(("y_pred", "y", "kind", "words"), REFUSED)
def test_what_the_table_has_not_is_refused(function, metric, y_pred, y, kind, words):
    with pytest.raises(kind, match=whole(f"`{function}`: {words}")):
        metric.update(metric.init(), y_pred, y)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_number_of_classes_must_fit(classes):
    metric = metrics.confusion_matrix(classes)
    words = (
        "`confusion_matrix`: classes must be the number of scores, or 2 for binary logits, "
        f"got {classes} and y_pred float32[4, 3]. Pass classes=3."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), F43, I4)


def test_the_number_of_classes_must_be_2_for_logits():
    metric = metrics.confusion_matrix(3)
    words = (
        "`confusion_matrix`: classes must be the number of scores, or 2 for binary logits, "
        "got 3 and y_pred float32[4]. Pass classes=2."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), F4, I4)


@pytest.mark.parametrize(("classes", "kind"), [(0, ValueError), (2.0, TypeError)])
def test_the_number_of_classes_must_be_whole(classes, kind):
    words = f"`confusion_matrix`: classes must be a positive whole number, got {classes}."
    with pytest.raises(kind, match=whole(words)):
        metrics.confusion_matrix(classes)


@pytest.mark.parametrize(
    ("function", "metric", "y_pred", "y"),
    [
        ("mean", metrics.mean(absolute), F4, F4),
        ("accuracy", metrics.accuracy(), F43, I4),
        ("confusion_matrix", metrics.confusion_matrix(3), F43, I4),
    ],
)
@pytest.mark.parametrize("weight", [np.ones(()), np.ones(3), np.ones((4, 1)), np.ones((4, 3))])
def test_the_weight_has_one_number_an_example(function, metric, y_pred, y, weight):
    got = f"float32[{', '.join(map(str, weight.shape))}]"
    words = (
        f"`{function}`: weight must have one number an example, shape (4,), got {got}. "
        "Pass None to weigh all alike."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), y_pred, y, weight)


def test_f_must_keep_the_examples():
    metric = metrics.mean(lambda y_pred, y: absolute(y_pred, y).mean())
    words = (
        "`mean`: f must give one number an example, or an array whose first axis is the examples, "
        "got float32[]. Leave the mean over examples to the metric."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), F4, F4)


@pytest.mark.parametrize(("y_pred", "y"), [(F41, F4), (F4, F41)])
def test_f_must_not_broadcast(y_pred, y):
    metric = metrics.mean(absolute)
    got = [f"float32{list(a.shape)}" for a in (y_pred, y)]
    words = (
        f"`mean`: f must not broadcast y_pred against y, got {got[0]} and {got[1]}, "
        "and f gave float32[4, 4]. Squeeze the last axis of size 1."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), y_pred, y)


def test_f_may_squeeze_by_itself():
    metric = metrics.mean(lambda y_pred, y: jnp.abs(y_pred[:, 0] - y))
    assert value(metric, F41, F4 + 1) == 1
