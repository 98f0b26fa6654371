"""Means of any quantity, and the parts for those who make an accumulator themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import metrics
from tests.metrics.table import absolute, logits, numbers, scores, value


def gather(metric, batches):
    return functools.reduce(lambda a, batch: metric.update(a, *batch), batches, metric.init())


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
