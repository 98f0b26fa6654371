"""Ensembles: members are ordinary runs, and what they say together is what NumPy says."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chex import assert_trees_all_close, assert_trees_all_equal
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from scipy.stats import entropy

import funcnet as fn
from funcnet.data.arrays import split
from funcnet.studies import members, pooling
from funcnet.studies.calibrating import temperature
from funcnet.studies.ensembles import RESAMPLE, ensemble, resampled
from funcnet.training.state import INIT, NOISE, ORDER, stream

CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels
BINARY = optax.losses.sigmoid_binary_cross_entropy
METRICS = {"accuracy": fn.metrics.accuracy()}


def blobs(n, dtype=np.float32):
    """Three classes that overlap."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, n)
    corners = np.array([[1, 0, 0, 1], [0, 1, 0, -1], [0, 0, 1, 0]])
    return (corners[y] + generator.normal(size=(n, 4))).astype(dtype), y.astype(np.int32)


def classifier(rate=3e-2, loss=CROSS_ENTROPY, outputs=3, optimizer=optax.adam):
    return fn.Trainer(
        fn.sequential(fn.dense(8, bias=False), fn.batch_norm(), jnp.tanh, fn.dense(outputs)),
        loss=loss,
        optimizer=optimizer(rate),
        metrics=METRICS,
    )


@pytest.fixture(scope="module")
def committee():
    """Four members on resamples, for all that is asked of a trained ensemble."""
    x, y = blobs(120)
    return ensemble(
        classifier(), 4, (x[:80], y[:80]), validation=(x[80:], y[80:]), epochs=4, bootstrap=True
    )


@pytest.fixture(scope="module")
def held():
    x, y = blobs(120)
    return x[80:], y[80:]


# ------------------------------------------------------------------------ members are ordinary runs


@pytest.mark.parametrize("by", ["loop", "vmap"])
@pytest.mark.parametrize("bootstrap", [False, True])
def test_each_member_is_the_fit_of_its_key(x64, by, bootstrap):
    x, y = blobs(120, np.float64)
    data, held = (x[:80], y[:80]), (x[80:], y[80:])
    stopping = fn.early_stopping("val_loss", patience=30)
    settings = {"epochs": 60, "batch_size": 8, "stopping": stopping}
    committee = ensemble(
        classifier, 3, data, validation=held, hyperparameters=0.03, bootstrap=bootstrap, by=by,
        **settings,
    )  # fmt: skip
    assert len(set(np.asarray(committee.runs.epochs).tolist())) > 1  # they stop apart
    assert int(committee.runs.last.step.max()) > 200
    trainer = classifier(0.03)
    for i, key in enumerate(members.keys(0, 3)):
        own = (x[committee.rows[i]], y[committee.rows[i]]) if bootstrap else data
        state = trainer.init(key, own[0])
        alone = trainer.fit(own, validation=held, state=state, **settings)
        result = committee[i]
        assert_trees_all_close(result.best.params, alone.best.params, rtol=0, atol=1e-9)
        assert_trees_all_close(result.last.model_state, alone.last.model_state, atol=1e-9)
        assert_trees_all_close(dict(result.history), dict(alone.history), rtol=0, atol=1e-9)
        assert (result.message, result.best_epoch) == (alone.message, alone.best_epoch)


def test_each_member_is_the_fit_of_its_key_in_float32(held):
    x, y = blobs(80)
    committee = ensemble(classifier(), 2, (x, y), validation=held, epochs=2, batch_size=8)
    trainer = classifier()
    for i, key in enumerate(members.keys(0, 2)):
        alone = trainer.fit(
            (x, y), validation=held, epochs=2, batch_size=8, state=trainer.init(key, x)
        )
        assert int(alone.last.step) == 20
        assert_trees_all_close(committee[i].last.params, alone.last.params, atol=1e-5)


def test_a_share_is_held_out_once_as_fit_with_the_seed_does():
    data = blobs(60)
    committee = ensemble(classifier(), 2, data, validation=0.25, epochs=1, seed=3)
    train, held = split("ensemble", data, 0.25, stream(jax.random.key(3), ORDER))
    assert_trees_all_equal(committee.data, train)
    for i in range(2):
        loss = committee.trainer.evaluate(committee[i].last, held)["loss"]
        assert committee[i].history["val_loss"][0] == pytest.approx(loss, rel=1e-5)


def test_more_members_leave_the_first_as_they_are():
    data = blobs(40)
    few = ensemble(classifier(), 2, data, epochs=2, bootstrap=True)
    more = ensemble(classifier(), 3, data, epochs=2, bootstrap=True)
    assert_trees_all_equal(few.runs.best.params, more[:2].runs.best.params)
    assert_trees_all_equal(few.rows, more[:2].rows)


def test_a_seed_may_be_a_key():
    data = blobs(40)
    by_number = ensemble(classifier(), 2, data, epochs=1, seed=5)
    by_key = ensemble(classifier(), 2, data, epochs=1, seed=jax.random.key(5))
    assert_trees_all_equal(by_number.runs.best.params, by_key.runs.best.params)


SEVERAL = """
import jax, jax.numpy as jnp, optax, funcnet as fn
from funcnet.studies.ensembles import ensemble
assert jax.device_count() == 4
x = jnp.linspace(-1, 1, 16)[:, None]
trainer = fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))
committee = ensemble(trainer, 3, (x, 2 * x), epochs=2)
trainer = committee.trainer
committee.evaluate((x, 2 * x))
trainer.evaluate(committee[2].best, (x, 2 * x))
trainer.evaluate(committee.soup((x, 2 * x)).state, (x, 2 * x))
"""


def test_members_of_several_devices_are_ordinary_results():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    run = subprocess.run(
        [sys.executable, "-c", SEVERAL], env=os.environ | flags, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_members_are_taken_by_number_and_by_slice(committee):
    assert len(committee) == 4
    assert len(list(committee)) == 4
    assert isinstance(committee[0], fn.Result)
    assert_trees_all_equal(committee[-1].best.params, committee[3].best.params)
    part = committee[::2]
    assert len(part) == 2
    assert_trees_all_equal(part[1].best.params, committee[2].best.params)
    assert_trees_all_equal(part.rows, committee.rows[::2])


# --------------------------------------------------------------------------------------- resamples


def test_a_resample_draws_each_example_with_the_same_chance():
    n, count = 50, 400
    rows = np.asarray(drawn(count, n))
    counts = np.bincount(rows.ravel(), minlength=n)
    assert rows.shape == (count, n)
    assert (rows.min(), rows.max()) == (0, n - 1)
    chi2 = ((counts - count) ** 2 / count).sum()  # 49 degrees: mean 49, deviation 9.9
    assert chi2 < 49 + 4 * 9.9
    missed = 1 - np.mean([len(set(row)) / n for row in rows.tolist()])
    assert missed == pytest.approx((1 - 1 / n) ** n, abs=0.01)  # deviation 0.0022 of the mean


def drawn(count, n):
    return resampled(members.keys(0, count), n)


def test_resamples_differ_by_member_and_come_again_with_the_seed():
    rows = np.asarray(drawn(3, 50))
    assert len({tuple(row) for row in rows.tolist()}) == 3
    assert (rows == np.asarray(drawn(3, 50))).all()


def test_the_stream_of_resamples_meets_no_other():
    assert RESAMPLE not in (INIT, ORDER, NOISE)


def test_out_of_bag_is_over_members_that_have_not_seen_the_example(committee):
    x, y = map(np.asarray, committee.data)
    p = np.stack([softmax(o, -1) for o in committee.outputs(x)])
    losses, hits = [], []
    for i in range(len(x)):
        new = [m for m in range(4) if i not in np.asarray(committee.rows[m])]
        if new:
            mean = p[new, i].mean(0)
            losses.append(-np.log(mean[y[i]]))
            hits.append(mean.argmax() == y[i])
    assert 0 < len(x) - len(losses) < 30  # some have been seen by all
    found = committee.out_of_bag()
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(hits))


# -------------------------------------------------------------------- what members say together


@pytest.mark.parametrize("by", ["loop", "vmap"])
def test_outputs_are_those_of_each_member(committee, held, by):
    outputs = replace(committee, by=by).outputs(held[0], batch_size=16)  # 40 = 2 * 16 + 8
    for i in range(4):
        alone = committee.trainer.predict(committee[i].best, held[0], batch_size=16)
        assert_trees_all_close(outputs[i], alone, rtol=0, atol=1e-6)


def test_predictions_of_classes_are_those_of_numpy(committee, held):
    x, y = held
    outputs = np.asarray(committee.outputs(x), np.float64)  # (4, 40, 3)
    p = softmax(outputs, -1)
    mean = p.mean(0)
    np.testing.assert_allclose(committee.predict(x), mean, atol=1e-6)
    np.testing.assert_allclose(committee.spread(x), p.std(0), atol=1e-6)
    labels = outputs.argmax(-1)
    most = [np.bincount(column, minlength=3).argmax() for column in labels.T]
    assert committee.vote(x).tolist() == most
    found = committee.entropies(x)
    np.testing.assert_allclose(found.predictive, entropy(mean, axis=-1), atol=1e-5)
    np.testing.assert_allclose(found.mean, entropy(p, axis=-1).mean(0), atol=1e-5)
    np.testing.assert_allclose(
        found.disagreement, entropy(mean, axis=-1) - entropy(p, axis=-1).mean(0), atol=1e-5
    )
    scores = committee.evaluate(held)
    assert scores.ensemble["loss"] == pytest.approx(-np.log(mean[np.arange(40), y]).mean(), 1e-5)
    assert scores.ensemble["accuracy"] == pytest.approx((mean.argmax(-1) == y).mean())
    losses = [-log_softmax(o, -1)[np.arange(40), y].mean() for o in outputs]
    np.testing.assert_allclose(scores.members["loss"], losses, rtol=1e-5)
    assert scores.mean["loss"] == pytest.approx(np.mean(losses), 1e-5)
    assert scores.standard_error["loss"] == pytest.approx(np.std(losses, ddof=1) / 2, 1e-4)
    assert scores.ensemble["loss"] < scores.mean["loss"]  # the logarithm is concave


@pytest.mark.parametrize("weight", [None, np.arange(40) % 3])
def test_evaluation_of_identical_members_is_that_of_one(held, weight):
    data = held if weight is None else (*held, weight)
    one = ensemble(classifier(), 1, blobs(80), epochs=2)
    same = one.some([0, 0, 0])
    alone = one.trainer.evaluate(one[0].best, data)
    found = same.evaluate(data)
    assert_trees_all_close(found.ensemble, alone, rtol=1e-5)
    assert_trees_all_close(found.mean, {k: np.asarray(v) for k, v in alone.items()}, rtol=1e-6)
    assert float(same.entropies(held[0]).disagreement.max()) < 1e-6
    assert np.isnan(one.evaluate(data).standard_error["loss"])


def test_predictions_of_binary_logits_are_those_of_numpy():
    x, y = blobs(60)
    data = x, (y > 0).astype(np.float32)
    trainer = fn.Trainer(
        fn.sequential(fn.dense(1), lambda z: z[:, 0]),
        loss=BINARY, optimizer=optax.adam(0.1),
        metrics={"accuracy": fn.metrics.of(METRICS["accuracy"], lambda z, y: (z, y.astype(int)))},
    )  # fmt: skip
    committee = ensemble(trainer, 3, data, epochs=3)
    outputs = np.asarray(committee.outputs(x), np.float64)  # (3, 60)
    p = expit(outputs)
    np.testing.assert_allclose(committee.predict(x), p.mean(0), atol=1e-6)
    assert committee.vote(x).tolist() == ((outputs > 0).sum(0) > 1.5).astype(int).tolist()

    def entropies(p):
        return entropy(np.stack([p, 1 - p]))

    np.testing.assert_allclose(committee.entropies(x).predictive, entropies(p.mean(0)), atol=1e-5)
    np.testing.assert_allclose(committee.entropies(x).mean, entropies(p).mean(0), atol=1e-5)
    found = committee.evaluate(data).ensemble
    truth = np.where(data[1] > 0, p.mean(0), 1 - p.mean(0))
    assert found["loss"] == pytest.approx(-np.log(truth).mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(((p.mean(0) > 0.5) == data[1]).mean())


def test_numbers_are_averaged_as_they_are():
    x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    trainer = fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))
    committee = ensemble(trainer, 3, (x, 2 * x), epochs=2)
    outputs = np.asarray(committee.outputs(x))
    np.testing.assert_allclose(committee.predict(x), outputs.mean(0), atol=1e-6)
    np.testing.assert_allclose(committee.spread(x), outputs.std(0), atol=1e-6)
    error = np.square(outputs.mean(0) - 2 * x).mean()
    assert committee.evaluate((x, 2 * x)).ensemble["loss"] == pytest.approx(error, rel=1e-5)


def test_a_vote_that_is_tied_goes_to_the_lowest_class():
    scores = jnp.eye(4)[jnp.array([[2, 3, 1], [1, 3, 0], [2, 0, 3], [1, 3, 2]])]  # (4, 3, 4)
    assert pooling.votes("softmax", scores).tolist() == [1, 3, 0]
    assert pooling.votes("sigmoid", jnp.array([[1.0, 1.0], [-1.0, 2.0]])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("loss", "given", "expected"),
    [
        (CROSS_ENTROPY, None, "softmax"),
        (optax.losses.softmax_cross_entropy, None, "softmax"),
        (optax.losses.safe_softmax_cross_entropy, None, "softmax"),
        (optax.losses.poly_loss_cross_entropy, None, "softmax"),
        (jax.tree_util.Partial(CROSS_ENTROPY, axis=-1), None, "softmax"),
        (BINARY, None, "sigmoid"),
        (optax.losses.sigmoid_focal_loss, None, "sigmoid"),
        (optax.losses.squared_error, None, "identity"),
        (lambda y_pred, y: CROSS_ENTROPY(y_pred, y), None, "identity"),
        (lambda y_pred, y: CROSS_ENTROPY(y_pred, y), "softmax", "softmax"),
        (CROSS_ENTROPY, "identity", "identity"),
        (None, None, "identity"),
    ],
)
def test_how_outputs_are_read(loss, given, expected):
    assert pooling.reading_of(loss, given) == expected


def test_an_average_of_params_is_what_predicts(held):
    def averaged(rate):
        return fn.ema(optax.adam(rate), decay=0.9)

    trainer = classifier(optimizer=averaged)
    committee = ensemble(trainer, 2, blobs(80), epochs=2)
    for by in ("loop", "vmap"):
        outputs = replace(committee, by=by).outputs(held[0])
        for i in range(2):
            assert_trees_all_close(
                outputs[i], trainer.predict(committee[i].best, held[0]), atol=1e-6
            )
    raw = jax.tree.map(lambda leaf: leaf[0], committee.runs.best.params)
    state = committee[0].best._replace(params=raw, opt_state=())
    assert np.abs(outputs[0] - trainer.predict(state, held[0])).max() > 1e-3


def test_inputs_and_outputs_may_be_trees():
    x = {"a": np.ones((10, 2), np.float32), "b": np.arange(10, dtype=np.float32)[:, None]}
    y = {"sum": np.ones((10, 1), np.float32)}
    model = fn.as_model(
        lambda params, x: {"sum": x["a"].sum(-1, keepdims=True) * params["w"]},
        init=lambda key, x: {"w": jax.random.normal(key)},
    )
    objective = fn.objective({"sum": optax.losses.squared_error})
    trainer = fn.Trainer(model, objective=objective, optimizer=optax.sgd(0.01))
    committee = ensemble(trainer, 3, (x, y), epochs=1)
    outputs = np.asarray(committee.outputs(x)["sum"])
    assert outputs.shape == (3, 10, 1)
    np.testing.assert_allclose(committee.predict(x)["sum"], outputs.mean(0), rtol=1e-6)
    np.testing.assert_allclose(committee.spread(x)["sum"], outputs.std(0), atol=1e-6)
    found = committee.evaluate((x, y)).ensemble
    assert found["loss"] == pytest.approx(np.square(outputs.mean(0) - 1).mean(), rel=1e-5)


# ------------------------------------------------------------------------------------------- soups


def test_a_soup_of_identical_members_is_that_member(committee):
    soup = committee.some([2, 2, 2, 2]).soup()
    assert_trees_all_close(soup.state.params, committee[2].best.params, rtol=1e-6)
    assert_trees_all_close(soup.state.model_state, committee[2].best.model_state, rtol=1e-6)
    assert soup.members.tolist() == [0, 1, 2, 3]


def test_whoever_makes_a_soup_no_better_and_no_worse_joins(committee, held):
    assert committee.some([2, 2]).soup(held).members.tolist() == [0, 1]


def test_a_soup_is_the_mean_of_params_and_can_be_trained_on(committee, held):
    soup = committee.soup()
    means = jax.tree.map(lambda leaf: np.asarray(leaf).mean(0), committee.runs.best.params)
    assert_trees_all_close(soup.state.params, means, rtol=1e-5, atol=1e-7)
    assert committee.trainer.fit(held, state=soup.state, epochs=1).reason == fn.Reason.EPOCHS


def test_a_soup_of_averaged_params_evaluates_with_them(held):
    trainer = classifier(optimizer=lambda rate: fn.ema(optax.adam(rate), decay=0.9))
    committee = ensemble(trainer, 2, blobs(80), epochs=2)
    soup = committee.soup().state
    assert_trees_all_close(fn.averaged(soup).params, soup.params)
    averages = committee.runs.best.opt_state.average
    means = jax.tree.map(lambda leaf: np.asarray(leaf).mean(0), averages)
    assert_trees_all_close(soup.params, means, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_a_greedy_soup_takes_whoever_makes_it_no_worse(held, monitor):
    stopping = fn.early_stopping(monitor, patience=9)
    committee = ensemble(
        classifier(), 5, blobs(80), validation=held, epochs=3, stopping=stopping, same_init=True
    )
    name, sign = monitor.removeprefix("val_"), 1 if monitor == "val_loss" else -1
    trainer = committee.trainer

    def score(which):
        params, model_state = jax.tree.map(
            lambda leaf: leaf[np.array(which)].mean(0),
            (committee.runs.best.params, committee.runs.best.model_state),
        )
        state = committee[0].best._replace(params=params, model_state=model_state)
        return sign * trainer.evaluate(state, held)[name]

    order = sorted(range(5), key=lambda i: score([i]))
    inside = order[:1]
    for i in order[1:]:
        if score([*inside, i]) <= score(inside):
            inside.append(i)
    soup = committee.soup(held)
    assert soup.members.tolist() == inside
    assert sign * trainer.evaluate(soup.state, held)[name] == pytest.approx(score(inside), 1e-5)
    assert score(inside) <= min(score([i]) for i in range(5))


def test_members_may_begin_alike(held):
    x, y = blobs(40)
    apart = ensemble(classifier(), 3, (x, y), epochs=1)
    alike = ensemble(classifier(), 3, (x, y), epochs=1, same_init=True)
    assert_trees_all_equal(alike[0].best.params, apart[0].best.params)
    keys = members.keys(0, 3)
    first, second = (alike.trainer.init(key, x).params for key in keys[:2])
    assert_trees_all_equal(first, second)
    alone = alike.trainer.fit((x, y), epochs=1, state=alike.trainer.init(keys[1], x))
    assert_trees_all_close(alike[1].best.params, alone.best.params, atol=1e-5)
    moved = alike[1].best.params["0"]["kernel"] - alike[2].best.params["0"]["kernel"]
    assert 0 < float(jnp.abs(moved).max()) < 0.2  # another order, and a few steps, apart


# ------------------------------------------------------------------------------------- calibration


def nll(logits, labels, weight):
    def of(log_t):
        each = -log_softmax(logits / np.exp(log_t), -1)[np.arange(len(labels)), labels]
        return np.sum(weight * each)

    return of


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_temperature_is_that_of_scipy(x64, scale, weighted):
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(200, 5))
    labels = np.array([generator.choice(5, p=p) for p in softmax(logits, -1)])
    logits, weight = scale * logits, np.arange(200) % 4
    found = temperature(logits, labels, weight if weighted else None)
    weight = weight if weighted else np.ones(200)
    best = minimize_scalar(nll(logits, labels, weight), bounds=(-7, 7), options={"xatol": 1e-9})
    assert float(found) == pytest.approx(np.exp(best.x), rel=1e-6)
    assert float(jax.jit(temperature)(logits, labels, weight)) == pytest.approx(
        float(temperature(logits, labels, weight)), rel=1e-12
    )


def test_temperature_of_binary_logits_is_that_of_two_classes(x64):
    generator = np.random.default_rng(2)
    logits = generator.normal(size=100)
    labels = (generator.uniform(size=100) < expit(logits)).astype(int)
    two = np.stack([np.zeros(100), 3 * logits], -1)
    best = minimize_scalar(nll(two, labels, 1), bounds=(-7, 7), options={"xatol": 1e-9})
    assert float(temperature(3 * logits, labels)) == pytest.approx(np.exp(best.x), rel=1e-6)


def test_temperature_is_mapped_and_takes_many_positions():
    logits = jax.random.normal(jax.random.key(0), (3, 20, 4))
    labels = jax.random.randint(jax.random.key(1), (3, 20), 0, 4)
    each = jax.vmap(temperature)(logits, labels)
    assert_trees_all_close(each[1], temperature(logits[1], labels[1]), rtol=1e-4)
    whole = temperature(logits, labels)
    flat = temperature(logits.reshape(60, 4), labels.reshape(60))
    assert_trees_all_close(whole, flat, rtol=1e-4)


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([[1.0, 0.0], [0.0, 2.0]], [0, 1], 1e-3),  # all right: never sure enough
        ([[1.0, 0.0], [0.0, 2.0]], [1, 0], 1e3),  # all wrong
        ([[1.0, 0.0], [1.0, 0.0]], [0, 1], 1e3),  # a coin
        ([[np.nan, 0.0], [0.0, 2.0]], [0, 1], np.nan),
        ([1.0, -2.0], [1, 0], 1e-3),
    ],
)
def test_temperature_at_its_ends(logits, labels, expected):
    found = float(temperature(jnp.array(logits), jnp.array(labels)))
    assert found == pytest.approx(expected, rel=1e-4, nan_ok=True)


def test_an_example_of_weight_0_is_left_out():
    logits, labels = jnp.array([[2.0, 0.0]] * 4 + [[np.nan, 0.0]]), jnp.array([0, 0, 0, 1, -1])
    weight = jnp.array([1, 1, 1, 1, 0])
    assert_trees_all_close(
        temperature(logits, labels, weight), temperature(logits[:4], labels[:4]), rtol=1e-6
    )


def test_calibration_divides_the_pooled_logits(committee, held):
    x, y = held
    pooled = np.log(softmax(np.asarray(committee.outputs(x), np.float64), -1).mean(0))
    warm = committee.calibrated(held)
    assert warm.temperature == pytest.approx(float(temperature(jnp.float32(pooled), y)), rel=1e-3)
    np.testing.assert_allclose(warm.predict(x), softmax(pooled / warm.temperature, -1), atol=1e-5)
    before, after = committee.evaluate(held).ensemble, warm.evaluate(held).ensemble
    assert after["loss"] < before["loss"]
    assert after["accuracy"] == before["accuracy"]
    again = warm.calibrated(held)
    assert again.temperature == warm.temperature
    assert committee.temperature == 1.0


# ------------------------------------------------------------------------------------- its words


def test_what_it_says_of_itself(committee, held):
    words = repr(committee).splitlines()
    assert words[0] == "Ensemble of 4"
    assert words[1] == "  epochs        4"
    assert re.fullmatch(r"  val_loss      0\.\d+ ± 0\.\d+", words[2])
    assert re.fullmatch(r"  val_accuracy  0\.\d+ ± 0\.\d+", words[3])
    best = committee.runs.history["val_loss"].min(1)
    assert f"{best.mean():.4g} ± {best.std(ddof=1) / 2:.2g}" in words[2]
    assert repr(committee.calibrated(held)).splitlines()[4].startswith("  temperature ")
    table = repr(committee.evaluate(held)).splitlines()
    assert table[0] == "          ensemble  members alone"
    assert re.fullmatch(r"accuracy  0\.\d+ {1,9}0\.\d+ ± 0\.\d+", table[2])


def test_members_that_broke_are_counted():
    x, y = blobs(40)
    x[0] = np.nan
    committee = ensemble(classifier(), 2, (x, y), epochs=2)
    assert repr(committee).splitlines() == [
        "Ensemble of 2", "  epochs      0", "  not finite  2 of 2",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ errors


def said(words):
    return f"^{re.escape(words)}"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"n": 0}, ValueError, "`ensemble`: n must be a positive whole number, got 0."),
        ({"n": 2.0}, TypeError, "`ensemble`: n must be a positive whole number, got 2.0."),
        ({"epochs": 0}, ValueError, "`ensemble`: epochs must be a positive whole number, got 0."),
        (
            {"seed": "a"},
            TypeError,
            "`ensemble`: key must be one key, got 'a'. Make it with `jax.random.key(0)`.",
        ),
        (
            {"probabilities": "softmx"},
            ValueError,
            "`ensemble`: probabilities must be 'softmax', 'sigmoid' or 'identity', got 'softmx'. "
            "Did you mean 'softmax'?",
        ),
        (
            {"make_trainer": 3},
            TypeError,
            "`ensemble`: make_trainer must be a function `hyperparameters -> trainer`, or a "
            "trainer, got 3. Say `lambda rate: fn.Trainer(...)`.",
        ),
        (
            {"hyperparameters": 0.1},
            TypeError,
            "`ensemble`: hyperparameters need a function that makes a trainer of them, got a "
            "trainer.",
        ),
        ({"data": 3}, TypeError, "`ensemble`: data must be a tuple (x, y) or (x, y, weight),"),
        ({"by": "pmap"}, ValueError, "`by` must be 'loop', 'vmap' or None, got 'pmap'."),
    ],
)
def test_what_is_refused(settings, error, words):
    given = {"make_trainer": classifier(), "n": 2, "data": blobs(20), "epochs": 1} | settings
    with pytest.raises(error, match=said(words)):
        ensemble(**given)


def test_a_member_that_is_not_there_is_refused(committee):
    words = "`Ensemble`: a member must lie in 0 .. 3, got 4. Count from 0."
    with pytest.raises(IndexError, match=said(words)):
        committee[4]
    words = (
        "`Ensemble`: give at least one of the 4 members, got none. "
        "Say `committee[:10]`, or a list of their numbers."
    )
    with pytest.raises(ValueError, match=said(words)):
        committee[4:]


def test_out_of_bag_needs_resamples(held):
    whole = ensemble(classifier(), 1, held, epochs=1)
    words = (
        "`out_of_bag`: members must have trained on resamples, got some that have seen all data. "
        "Train them with `fn.ensemble(..., bootstrap=True)`."
    )
    with pytest.raises(ValueError, match=said(words)):
        whole.out_of_bag()


def test_out_of_bag_needs_an_example_that_is_new(committee):
    seen = replace(committee, rows=jnp.tile(jnp.arange(80), (4, 1)))
    words = "`out_of_bag`: some example must be new to some member, got none. Train more members."
    with pytest.raises(ValueError, match=said(words)):
        seen.out_of_bag()


@pytest.mark.parametrize("method", ["vote", "entropies", "calibrated"])
def test_plain_numbers_have_no_classes(committee, held, method):
    plain = replace(committee, probabilities="identity")
    words = (
        f"`{method}`: outputs must be logits, got plain numbers, as the name of the loss tells. "
        "If they are logits say so: `fn.ensemble(..., probabilities='softmax')`."
    )
    with pytest.raises(ValueError, match=said(words)):
        getattr(plain, method)(held if method == "calibrated" else held[0])


def test_an_objective_of_ones_own_has_no_mean_prediction(held):
    model = fn.dense(3)

    def objective(params, model_state, batch, *, key, training):
        x, y, _ = fn.unpack(batch)
        y_pred, model_state = model.apply(params, model_state, x)
        return (CROSS_ENTROPY(y_pred, y).sum(), float(len(y))), (model_state, {})

    trainer = fn.Trainer(model, objective=objective, optimizer=optax.sgd(0.1))
    committee = ensemble(trainer, 2, held, epochs=1)
    words = (
        "`evaluate`: the trainer of an ensemble must have a loss, or an objective from "
        "`fn.objective`, got "
    )
    with pytest.raises(TypeError, match=said(words)):
        committee.evaluate(held)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "words"),
    [
        (
            jnp.zeros((2, 3)), jnp.array([0, 3]), ValueError,
            "`temperature`: labels must lie in 0 .. 2, since there are 3 scores, got 3. "
            "Number the classes from 0.",
        ),
        (
            jnp.zeros(2), jnp.array([0, -1]), ValueError,
            "`temperature`: labels must lie in 0 .. 1, since there are 2 scores, got -1.",
        ),
        (
            jnp.zeros((2, 3)), jnp.zeros(2), TypeError,
            "`temperature`: y must be integer or boolean labels, got float32[2].",
        ),
        (
            jnp.zeros((2, 3)), jnp.zeros(3, int), ValueError,
            "`temperature`: y_pred must have one more axis than y, of at least 2 scores of classes,"
            " got y_pred float32[2, 3] and y int32[3].",
        ),
    ],
)  # fmt: skip
def test_what_temperature_refuses(logits, labels, error, words):
    with pytest.raises(error, match=said(words)):
        temperature(logits, labels)


def test_temperature_knows_classes_that_are_ruled_out_and_refuses_wrong_weights():
    logits, labels = jnp.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), jnp.array([0, 1, 1])
    ruled_out = jnp.c_[logits, jnp.full(3, -jnp.inf)]
    np.testing.assert_allclose(
        fn.temperature(ruled_out, labels), fn.temperature(logits, labels), rtol=1e-6
    )
    assert np.isnan(fn.temperature(logits, labels, jnp.zeros(3)))
    with pytest.raises(ValueError, match=r"weight must be 0 or more everywhere, got -1.0"):
        fn.temperature(logits, labels, jnp.array([-1.0, 1, 1]))
