"""The learning-rate range test: rates and losses are those of a loop by hand; its suggestion."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.studies.range_test import LrRange, end_of, longest_fall, lr_range, smooth

SQUARED = optax.losses.squared_error


def data(n=256):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return x, x @ np.array([[1.0], [2.0], [-1.0], [0.5]], np.float32)


def make_trainer(rate):
    return fn.Trainer(fn.dense(1, bias=False), loss=SQUARED, optimizer=optax.sgd(rate))


def test_rates_and_losses_are_those_of_a_loop_by_hand():
    """In numpy, of the mean squared error of a linear map, whose gradient is written down."""
    x, y = data(32)
    start = {"kernel": np.zeros((4, 1), np.float32)}, {}
    settings = {"steps": 40, "batch_size": 32, "shuffle": False}
    found = lr_range(make_trainer, (x, y), low=1e-4, high=1.0, start=start, **settings)
    rates = 1e-4 * (1.0 / 1e-4) ** (np.arange(40) / 39)
    w, losses = np.zeros((4, 1)), []
    for rate in rates:
        losses.append(((x @ w - y) ** 2).mean())
        w -= rate * 2 * x.T @ (x @ w - y) / len(x)
    n = len(found.rates)
    np.testing.assert_allclose(found.rates, rates[:n], rtol=1e-6)
    np.testing.assert_allclose(found.losses, losses[:n], rtol=1e-3)
    np.testing.assert_array_equal(start[0]["kernel"], 0)


def test_the_curve_ends_where_training_diverges_and_the_suggestion_lies_before():
    x, y = data()
    found = lr_range(make_trainer, (x, y), low=1e-5, high=100.0)
    limit = 2 / np.linalg.eigvalsh(2 * x.T @ x / len(x)).max()  # beyond it gradient descent leaves
    assert limit < found.rates[-1] < 100.0
    for suggestion in (found.suggestion, found.steepest):
        assert limit / 100 < suggestion < limit
    assert np.isfinite(found.smoothed).all()
    assert found.smoothed[-1] <= 4 * found.smoothed[:-1].min()
    assert repr(found).startswith(f"LrRange({len(found.rates)} steps with rates 1e-05 .. ")
    assert repr(found).endswith(f"suggestion {found.suggestion:.2g})")


def test_the_smoothed_loss_is_the_corrected_average_of_adam():
    losses = np.array([4.0, 2.0, 3.0])
    average = optax.ema(0.9, debias=True)
    state, want = average.init(jnp.zeros(())), []
    for loss in losses:
        value, state = average.update(jnp.array(loss), state)
        want.append(value)
    np.testing.assert_allclose(smooth(losses, 0.9), want, rtol=1e-6)


def test_the_end_is_before_what_is_not_finite_or_too_large():
    for values, end in (
        ([1.0, 2.0, 3.9], 3),
        ([1.0, 4.1, 1.0], 1),
        ([1.0, 0.5, 2.5], 2),
        ([1.0, np.nan, 1.0], 1),
        ([np.inf, 1.0], 0),
        ([], 0),
    ):
        assert end_of(np.array(values), 4.0) == end, values


def test_the_longest_fall_skips_what_rises():
    values = np.array([5.0, 6.0, 4.0, 4.5, 3.0, 3.0, 2.0, 7.0, 6.5])
    np.testing.assert_array_equal(values[longest_fall(values)], [5.0, 4.0, 3.0, 2.0])


def curve(values):
    values = np.array(values, float)
    return LrRange(np.geomspace(1e-5, 1.0, len(values)), values, values)


def test_what_never_falls_has_no_suggestion():
    rising, short, none = curve(np.linspace(1, 2, 50)), curve([1.0] * 3), curve([])
    for found in (rising, short, none):
        assert found.suggestion is None
        assert found.steepest is None
    assert repr(rising).endswith("the loss never fell)")
    assert repr(none) == "LrRange(no step had a finite loss)"


def test_the_steepest_place_of_a_known_curve():
    rates = np.geomspace(1e-5, 1.0, 101)
    falling = curve(-np.tanh((np.log10(rates) + 2.5) * 3) + 2)
    assert np.log10(falling.steepest) == pytest.approx(-2.5, abs=0.03)
    assert np.log10(falling.valley) == pytest.approx(-2.5, abs=0.2)


MISTAKES = {
    "a trainer": (
        lambda: lr_range(make_trainer(0.1), data()),
        "`lr_range`: make_trainer must be a function `rate -> trainer`, got a trainer. Say",
    ),
    "no trainer": (
        lambda: lr_range(lambda rate: rate, data()),
        "`lr_range`: make_trainer must give a trainer, got <function .* End it with",
    ),
    "a rate unused": (
        lambda: lr_range(lambda rate: make_trainer(0.1), data(32), steps=20),
        "`lr_range`: make_trainer must give the rate to its optimizer, but nobody has asked",
    ),
    "few steps": (
        lambda: lr_range(make_trainer, data(), steps=10),
        "`lr_range`: steps must be 20 or more, got 10. Give 100 say.",
    ),
    "order": (
        lambda: lr_range(make_trainer, data(), low=1.0, high=0.1),
        "`lr_range`: low must be below high, and high finite, got 1.0 and 0.1. Swap them.",
    ),
    "low": (
        lambda: lr_range(make_trainer, data(), low=0),
        "`lr_range`: low must be a positive number, got 0. Give 1e-07 say.",
    ),
    "smoothing": (
        lambda: lr_range(make_trainer, data(), smoothing=1.0),
        "`lr_range`: smoothing must be below 1, got 1.0. Give 0.98 say.",
    ),
    "divergence": (
        lambda: lr_range(make_trainer, data(), divergence=1),
        "`lr_range`: divergence must be above 1, got 1. Give 4.0 say.",
    ),
}


@pytest.mark.parametrize(("mistake", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(mistake, words):
    with pytest.raises((TypeError, ValueError), match=words):
        mistake()
