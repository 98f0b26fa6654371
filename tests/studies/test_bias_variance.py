"""The parts of the error are unbiased, and add up to the error that is measured."""

import itertools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.studies.bias import bias_variance
from funcnet.studies.curve_plots import PARTS
from funcnet.studies.decomposition import decompose, matched

POINTS = jnp.linspace(-1, 1, 9)[:, None]
ZEROS = jax.nn.initializers.zeros
NOISE = 0.25


def truth(x):
    return 2 * x


def sample(key):
    """12 points of a line, with noise."""
    x_key, y_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (12, 1), minval=-1.0)
    return x, truth(x) + NOISE**0.5 * jax.random.normal(y_key, x.shape)


def polynomial(degree, optimizer=None, **more):
    """The powers 0 .. degree of x, and a weight for each that begins at 0."""
    return fn.Trainer(
        fn.sequential(
            lambda x: x ** jnp.arange(degree + 1)[None], fn.dense(1, bias=False, kernel_init=ZEROS)
        ),
        loss=optax.losses.squared_error,
        optimizer=optimizer or optax.sgd(0.5),
        **more,
    )


# ---------------------------------------------------------------------------- the arithmetic alone

VALUES, TARGET = np.array([[0.0, 3.0], [1.0, 3.5], [4.0, -1.0]]), np.array([2.0, 2.5])


@pytest.mark.parametrize("repeats", [3, 5])
def test_the_mean_over_all_draws_is_exact(repeats):
    """Each member takes one of three outputs, at random: all that can happen, averaged."""
    draws = [VALUES[list(which)] for which in itertools.product(range(3), repeat=repeats)]
    found = [decompose(draw, TARGET, (0.5, 0.0)) for draw in draws]
    mean = {name: np.mean([each[name][0] for each in found]) for name in found[0]}
    bias, variance = np.mean((VALUES.mean(0) - TARGET) ** 2), VALUES.var(0).mean()
    assert mean["bias_squared"] == pytest.approx(bias, rel=1e-12)
    assert mean["variance"] == pytest.approx(variance, rel=1e-12)
    assert mean["total"] == pytest.approx(bias + variance + 0.5, rel=1e-12)
    assert mean["noise"] == 0.5


def test_standard_errors_are_those_of_the_jackknife():
    outputs = np.random.default_rng(0).normal(size=(6, 4, 2))
    target = np.ones((4, 2))
    found = decompose(outputs, target, None)
    left_out = [decompose(np.delete(outputs, i, 0), target, None) for i in range(6)]
    for name in ("bias_squared_and_noise", "variance", "total"):
        values = np.array([each[name][0] for each in left_out])
        error = np.sqrt(5 / 6 * np.sum((values - values.mean()) ** 2))
        assert found[name][1] == pytest.approx(error, rel=1e-12)


def test_noise_adds_its_own_error_to_the_sum():
    outputs = np.random.default_rng(0).normal(size=(6, 4))
    without = decompose(outputs, np.zeros(4), (0.0, 0.0))["total"][1]
    together = decompose(outputs, np.zeros(4), (0.2, 0.3))["total"][1]
    assert together == pytest.approx(np.hypot(without, 0.3))


def test_classes_become_one_hot():
    got = matched(np.array([2, 0]), np.zeros((2, 3)))
    np.testing.assert_array_equal(got, [[0, 0, 1], [1, 0, 0]])


# ------------------------------------------------------------------------------- trained networks


@pytest.fixture(scope="module")
def means():
    """One step of gradient descent makes the constant the mean of its training set."""
    return bias_variance(polynomial, [0], sample, POINTS, truth=truth, repeats=400, epochs=1,
                         batch_size=12)  # fmt: skip


def test_the_mean_of_a_sample_has_a_known_bias_and_variance(means):
    """The mean of n numbers varies by a n-th of their variance, here 4/3 + NOISE."""
    expected = {
        "bias_squared": float(np.mean(truth(POINTS) ** 2)),
        "variance": (4 / 3 + NOISE) / 12,
        "noise": NOISE,
        "measured": 4 / 3 + NOISE + (4 / 3 + NOISE) / 12,
    }
    for name, value in expected.items():
        assert abs(means.parts[name][0] - value) < 4 * means.standard_error[name][0]
        assert 0 < means.standard_error[name][0] < 0.1 * value + 0.01


def test_the_parts_add_up(means):
    total = means.bias_squared + means.variance + means.noise
    np.testing.assert_allclose(means.total, total, rtol=1e-12)


def test_a_given_noise_is_taken_as_it_is():
    found = [
        bias_variance(polynomial, [0], sample, POINTS, truth=truth, noise=noise, repeats=3,
                      epochs=1)
        for noise in (0.5, lambda x: 0.5 + 0.1 * x)
    ]  # fmt: skip
    for each in found:
        assert each.noise[0] == pytest.approx(0.5, rel=1e-6)
        assert each.standard_error["noise"][0] == 0


def test_more_repeats_leave_the_first_as_they_are(means):
    few = bias_variance(polynomial, [0], sample, POINTS, truth=truth, repeats=3, epochs=1,
                        batch_size=12)  # fmt: skip
    np.testing.assert_array_equal(few.outputs[0], means.outputs[0][:3])


def test_chunks_of_networks_are_those_one_by_one():
    found = bias_variance(polynomial, [0], sample, POINTS, truth=truth, repeats=7, epochs=1,
                          batch_size=12, by="vmap", at_once=3)  # fmt: skip
    alone = bias_variance(polynomial, [0], sample, POINTS, truth=truth, repeats=7, epochs=1,
                          batch_size=12, by="loop")  # fmt: skip
    np.testing.assert_allclose(found.outputs[0], alone.outputs[0], rtol=1e-5, atol=1e-5)
    assert found.measured[0] == pytest.approx(alone.measured[0], rel=1e-5)


def test_networks_differ_by_their_initial_params_too():
    """Trained at a rate of 0, they are what they began as."""
    x = jnp.ones((4, 1))

    def make(size):
        model = fn.sequential(fn.dense(size), fn.dense(1))
        return fn.Trainer(model, loss=optax.losses.squared_error, optimizer=optax.sgd(0.0))

    found = bias_variance(
        make, [3], lambda key: (x, x), x, truth=lambda x: x, noise=0.0, repeats=5, epochs=1
    )
    assert len(set(found.outputs[0][:, 0, 0].tolist())) == 5


def test_bootstrap_resamples_of_data():
    """The constant's bootstrap: the variance of a mean of n draws with replacement."""
    rng = np.random.default_rng(0)
    x, y = np.ones((30, 1), np.float32), rng.normal(size=(30, 1)).astype(np.float32)
    test = np.ones((8, 1), np.float32), rng.normal(size=(8, 1)).astype(np.float32)
    found = bias_variance(polynomial, [0, 1], data=(x, y), test=test, repeats=300, epochs=1,
                          batch_size=30)  # fmt: skip
    assert abs(found.variance[0] - y.var() / 30) < 4 * found.standard_error["variance"][0]
    errors = np.mean((found.outputs[0] - test[1]) ** 2)
    assert found.measured[0] == found.total[0] == pytest.approx(errors, rel=1e-9)
    assert found.noise is None
    assert list(found.parts) == ["bias_squared_and_noise", "variance", "total", "measured"]
    assert found.bias_squared[0] == found.parts["bias_squared_and_noise"][0]


def test_probabilities_of_classes_against_one_hot_labels():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)).astype(np.float32), rng.integers(0, 3, 40)
    trainer = fn.Trainer(
        fn.dense(3),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.sgd(0.1),
    )
    found = bias_variance(lambda size: trainer, [1], data=(x[:30], y[:30]), test=(x[30:], y[30:]),
                          output=jax.nn.softmax, repeats=4, epochs=1)  # fmt: skip
    np.testing.assert_allclose(found.outputs[0].sum(-1), 1, rtol=1e-6)
    brier = np.mean((found.outputs[0] - np.eye(3)[y[30:]]) ** 2)
    assert found.total[0] == pytest.approx(brier, rel=1e-9)


def test_trainings_that_broke_off_are_told():
    def make(rate):
        return polynomial(1, optax.sgd(rate))

    found = bias_variance(
        make, [0.1, float("inf")], sample, POINTS, truth=truth, repeats=3, epochs=4
    )
    assert found.broken.tolist() == [0, 3]
    assert np.isfinite(found.total[0])
    assert np.isnan(found.total[1])
    assert repr(found).endswith(
        "3 trainings of size inf broke off: a loss or a param was not finite"
    )


def test_it_reads_as_a_table(means, monkeypatch):
    head, names, line = repr(means).splitlines()
    assert head == "BiasVariance of 1 sizes, 400 trainings each"
    assert names.split() == ["size", "bias²", "variance", "noise", "total", "measured"]
    assert line.split()[:2] == ["0", f"{means.bias_squared[0]:.4g}"]
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    (row,) = means.table()
    assert (row["size"], row["variance"]) == (0, means.variance[0])
    assert row["variance_error"] == means.standard_error["variance"][0]


def test_the_picture_has_a_line_for_each_part_and_dots_for_what_was_measured():
    found = bias_variance(polynomial, [0, 1, 2], sample, POINTS, truth=truth, repeats=4, epochs=5)
    (axes,) = found.plot().axes
    lines = {line.get_color(): line for line in axes.lines if line.get_linestyle() != "None"}
    for name in ("bias_squared", "variance", "noise", "total"):
        label, color = PARTS[name]
        np.testing.assert_array_equal(lines[color].get_ydata(), found.parts[name])
        assert label in [text.get_text() for text in axes.texts]
    dots = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    np.testing.assert_array_equal(dots[0].get_ydata(), found.measured)


# ----------------------------------------------------------------- a published picture comes again


def five_points():
    """Training and validation points about 4x + 1; the seed matches a published picture."""
    rng = np.random.default_rng(16227)
    x = [np.sort(rng.uniform(-1, 1, 5)) for _ in range(2)]
    return [(each, 4 * each + 1 + 3 * rng.standard_normal(5)) for each in x]


ROUNDED = {1: (0.005, 0.005), 6: (0.05, 0.05)}  # half of the last printed place


@pytest.mark.parametrize(("degree", "errors"), [(1, (5.37, 5.09)), (6, (0.0, 18.2))])
def test_overfitting_on_five_points(x64, degree, errors):
    """From 0 no step leaves the span of the rows, so it ends at the solution of least norm."""
    train, validation = five_points()
    powers = train[0][:, None] ** np.arange(degree + 1)
    solution = np.linalg.lstsq(powers, train[1], rcond=None)[0]
    data, held = ((x[:, None], y[:, None]) for x, y in (train, validation))
    trainer = polynomial(degree, optax.lbfgs())
    result = trainer.fit(data, epochs=100, batch_size=5)
    kernel = jax.tree.leaves(result.last.params)[0][:, 0]
    np.testing.assert_allclose(kernel, solution, rtol=1e-9, atol=1e-9)
    for part, error, rounded in zip((data, held), errors, ROUNDED[degree], strict=True):
        assert trainer.evaluate(result.last, part)["loss"] == pytest.approx(error, abs=rounded)


# ----------------------------------------------------------------------------------- what is wrong

DATA = np.zeros((6, 1), np.float32), np.zeros((6, 1), np.float32)
KNOWN = {"sample": sample, "x": POINTS, "truth": truth}
WRONG = {
    "one repeat": (KNOWN | {"repeats": 1}, ValueError, "repeats must be 3 or more, got 1: two for"),
    "no number": (KNOWN | {"repeats": 9.0}, TypeError, "repeats must be a positive whole number"),
    "no truth": (
        {"sample": sample, "x": POINTS},
        TypeError,
        "give sample, x and truth where the truth is known, or data=(x, y) and test=(x, y) where "
        "it is not, got no truth.",
    ),
    "nothing": ({}, TypeError, "got no sample and no x and no truth."),
    "both": (KNOWN | {"test": DATA}, TypeError, "where it is not, got test too."),
    "no test": ({"data": DATA}, TypeError, "nothing that is known of the truth, got no test."),
    "data and truth": (
        {"data": DATA, "test": DATA, "truth": truth, "noise": 1.0},
        TypeError,
        "got truth and noise too. Hold out a part of the data.",
    ),
    "sample in NumPy": (
        KNOWN | {"sample": lambda key: (np.asarray(jax.random.normal(key, (3, 1))),) * 2},
        TypeError,
        "sample must be a function of JAX's, which is mapped over keys, got one that asks for the",
    ),
    "truth of numbers": (KNOWN | {"truth": 3.0}, TypeError, "truth must be a function, got 3.0."),
    "negative noise": (KNOWN | {"noise": -1.0}, ValueError, "noise is a variance, 0 or more, got"),
    "shapes": (
        KNOWN | {"truth": lambda x: x[:, 0], "noise": 1.0},
        ValueError,
        "outputs and y, or the truth, must have one shape, got float64[9, 1] and float64[9].",
    ),
    "sizes": (KNOWN | {"sizes": 3}, TypeError, "sizes must be a list of one or more, got 3."),
    "no size": (KNOWN | {"sizes": []}, TypeError, "sizes must be a list of one or more, got []."),
    "a trainer": (
        KNOWN | {"make_trainer": polynomial(0)},
        TypeError,
        "hyperparameters need a function that makes a trainer of them, got a trainer.",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    arguments, kind, words = WRONG[name]
    given = {"make_trainer": polynomial, "sizes": [0], "repeats": 3, "epochs": 1} | arguments
    with pytest.raises(kind, match=re.escape(words)) as caught:
        bias_variance(**given)
    assert str(caught.value).startswith("`bias_variance`: ")


def test_a_sample_that_does_not_use_its_key_is_refused():
    def sample(key):
        return np.random.normal(size=(5, 2)), np.zeros((5, 1))  # what is refused

    with pytest.raises(TypeError, match=r"sample must draw with its key, got the same set for"):
        bias_variance(polynomial, [1], sample, POINTS, truth=truth, repeats=3, epochs=1)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"x": POINTS}, TypeError, "data goes with test=.x, y., and with nothing that is known"),
        ({"test": (*[np.ones((4, 1))] * 2, np.ones(4))}, ValueError, "test must be .x, y., whose"),
    ],
    ids=["x", "weight"],
)
def test_what_would_be_left_out_of_data_is_refused(given, error, words):
    data = np.ones((8, 1), np.float32), np.ones((8, 1), np.float32)
    with pytest.raises(error, match=words):
        bias_variance(
            polynomial, [1], **({"data": data, "test": data} | given), repeats=3, epochs=1
        )


def test_labels_beyond_the_outputs_are_refused():
    for labels, got in (([0, 1, 2], "0 .. 2"), ([-1, 0, 1], "-1 .. 1")):
        with pytest.raises(ValueError, match=rf"labels must lie in 0 \.\. 1, .* got {got}"):
            matched(np.array(labels), np.ones((3, 2)))
