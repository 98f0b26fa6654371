"""Batches that come one by one: lists, loaders, generators, and data staged on the host.

Staged data give the batches of resident data bit for bit (`tests/data/test_arrays.py`), but by
another program, a slice in place of a gather, which XLA may fuse otherwise: what is trained agrees
to rounding. So it is for a list of the same batches, and for blocks of other sizes.
"""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn

N, SIZE = 12, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype(np.float32)
Y = RNG.normal(size=(N, 2)).astype(np.float32)
BATCHES = [(X[k : k + SIZE], Y[k : k + SIZE]) for k in range(0, N, SIZE)]
EMPTY = (
    "`fit`: data must give at least one batch, got none. An iterator can be passed through once: "
    "give a list or a loader, which begins anew at each epoch, or `epochs=1`."
)


@pytest.fixture(scope="module")
def trainer():
    """One trainer for all: what is compiled for one test serves the others."""
    return fn.Trainer(fn.dense(2), loss=optax.losses.squared_error, optimizer=optax.adam(0.1))


@pytest.fixture(scope="module")
def resident(trainer):
    return trainer.fit((X, Y), epochs=3, batch_size=SIZE, shuffle=False)


def batches(count=None):
    """A generator of the batches, over and over if there is no end to it."""
    k = 0
    while count is None or k < count:
        yield BATCHES[k % 3]
        k += 1


class Loader:
    """A loader as PyTorch's: it has a length, begins anew each time, and gives lists."""

    def __init__(self, sized=True):
        self.passes, self.taken = 0, 0
        if sized:
            self.__class__ = SizedLoader

    def __iter__(self):
        self.passes += 1
        for x, y in BATCHES:
            self.taken += 1
            yield [x, y]


class SizedLoader(Loader):
    def __len__(self):
        return len(BATCHES)


def same(trainer, result, steps=9, **settings):
    """Few steps in float32 agree with those on resident data to a few units in the last place."""
    settings = {"batch_size": SIZE, "shuffle": False, **settings}
    other = trainer.fit((X, Y), steps=steps, **settings)
    assert int(result.last.step) == steps
    assert np.array_equal(result.losses[:1], other.losses[:1])
    chex.assert_trees_all_close(result.last.params, other.last.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.losses, other.losses, rtol=1e-5)
    assert result.reason == fn.Reason.EPOCHS


def test_a_list_of_batches_trains_like_the_arrays(trainer, resident):
    result = trainer.fit(BATCHES, epochs=3)
    same(trainer, result)
    np.testing.assert_allclose(result.history["loss"], resident.history["loss"], rtol=1e-5)


def test_a_list_of_listed_batches_is_one_too(trainer):
    for cut in (BATCHES, BATCHES[:2]):  # two of them could be taken for x and y
        result = trainer.fit([[x, y] for x, y in cut], epochs=1)
        same(trainer, result, steps=len(cut))


@pytest.mark.parametrize("sized", [True, False])
def test_a_loader_is_passed_through_once_an_epoch(trainer, sized):
    loader = Loader(sized)
    same(trainer, trainer.fit(loader, epochs=3))
    assert (loader.passes, loader.taken) == (3, 9)


def test_a_generator_serves_one_epoch(trainer):
    result = trainer.fit(batches(3), epochs=1)
    same(trainer, result, steps=3)
    assert len(result.history["loss"]) == 1


def test_a_generator_that_is_asked_for_two_epochs_says_that_it_ended(trainer):
    result = trainer.fit(batches(3), epochs=2)
    assert (int(result.last.step), len(result.history["loss"])) == (3, 1)
    assert result.message == "the data ended after 3 steps"


def test_an_endless_generator_gives_the_steps_asked_for_and_no_batch_more(trainer):
    taken = []

    def counted():
        for k, batch in enumerate(batches()):
            taken.append(k)
            yield batch

    same(trainer, trainer.fit(counted(), steps=7), steps=7)
    assert taken == list(range(7))


def test_steps_may_end_within_an_epoch_of_a_loader(trainer):
    same(trainer, trainer.fit(Loader(), steps=4), steps=4)


@pytest.mark.parametrize("none", [[], iter([]), (b for b in [])], ids=["list", "iter", "generator"])
def test_no_batch_at_all_is_refused(trainer, none):
    with pytest.raises(ValueError, match="at least one") as raised:
        trainer.fit(none, epochs=1)
    assert str(raised.value) == EMPTY


def test_an_iterator_that_was_used_is_refused(trainer):
    used = batches(3)
    trainer.fit(used, epochs=1)
    with pytest.raises(ValueError, match="at least one") as raised:
        trainer.fit(used, epochs=1)
    assert str(raised.value) == EMPTY


def own_trainer():
    """A trainer that has compiled nothing yet."""
    return fn.Trainer(fn.dense(2), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))


def test_a_shorter_last_batch_weighs_as_many_examples_as_it_has():
    trainer = own_trainer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is compiled twice is told, and tested below
        result = trainer.fit([*BATCHES, (X[:1], Y[:1])], epochs=2)
    assert int(result.last.step) == 8
    weighed = np.average(result.losses.reshape(2, 4), axis=1, weights=[4, 4, 4, 1])
    np.testing.assert_allclose(result.history["loss"], weighed, rtol=1e-6)


def test_a_shorter_last_batch_is_told_of():
    with pytest.warns(UserWarning, match="x: expected"):
        own_trainer().fit([*BATCHES, (X[:1], Y[:1])], epochs=1)


def test_batches_of_another_form_are_told_of_once():
    trainer = own_trainer()
    mixed = [*BATCHES, (*BATCHES[0], np.ones(SIZE, np.float32))]
    with pytest.warns(UserWarning, match="compiled again") as caught:
        trainer.fit(mixed, epochs=2)
    assert [str(w.message) for w in caught] == [
        "`fit`: the training step was compiled again, since the batches changed:\n"
        "  weight: not expected, got float32[4]\n"
        "Give batches of one shape and dtype to compile once."
    ]
    trainer.fit(mixed, epochs=1)  # a warning would be an error


def test_batches_may_have_weights(trainer):
    ones = np.ones(SIZE, np.float32)
    same(trainer, trainer.fit([(x, y, ones) for x, y in BATCHES], epochs=1), steps=3)


def test_a_bad_batch_is_refused_in_the_words_of_data(trainer):
    bad = [*BATCHES, (X[:4], Y[:3])]
    with pytest.raises(ValueError, match="same number") as raised:
        trainer.fit(bad, epochs=1)
    assert str(raised.value) == (
        "`fit`: all arrays of the data must hold the same number of examples, got x: 4, y: 3. "
        "Check how they were cut; a tuple or a list of arrays is several arrays, `np.stack` makes "
        "them one."
    )


def test_an_error_of_the_loader_reaches_the_caller(trainer):
    def broken():
        yield BATCHES[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        trainer.fit(broken(), steps=3)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (X, "float32[12, 3]"),
        ({"x": X, "y": Y}, "{'x': float32[12, 3], 'y': float32[12, 2]}"),
        ("mnist", "'mnist'"),
        (None, "None"),
        (iter([X]), "float32[12, 3]"),
    ],
    ids=["array", "dict", "str", "none", "iterator of x"],
)
def test_what_only_looks_like_a_stream_is_refused_whole(trainer, data, got):
    with pytest.raises(TypeError, match="must be a tuple") as raised:
        trainer.fit(data)
    assert str(raised.value) == (
        f"`fit`: data must be a tuple (x, y) or (x, y, weight), got {got}. "
        "Where there is no y, give x in its place."
    )


def test_a_stream_has_no_fraction_for_validation(trainer):
    with pytest.raises(TypeError, match="stream") as raised:
        trainer.fit(BATCHES, validation=0.5)
    assert str(raised.value) == (
        "`fit`: validation=0.5 needs data in memory, got a stream. Give the validation data itself."
    )


@pytest.mark.parametrize("stream", [BATCHES, Loader(), batches(3)], ids=["list", "loader", "once"])
def test_validation_may_be_a_stream(trainer, stream):
    result = trainer.fit((X, Y), validation=stream, epochs=2, batch_size=SIZE, shuffle=False)
    want = trainer.fit((X, Y), validation=(X, Y), epochs=2, batch_size=SIZE, shuffle=False)
    np.testing.assert_allclose(result.history["val_loss"], want.history["val_loss"], rtol=1e-6)
    assert result.monitor == "val_loss"


def test_evaluation_takes_a_stream_of_any_batch_sizes(trainer, resident):
    uneven = ((X[a:b], Y[a:b]) for a, b in [(0, 1), (1, 6), (6, 12)])
    found = trainer.evaluate(resident.last, uneven, batch_size=SIZE)
    want = trainer.evaluate(resident.last, (X, Y), batch_size=SIZE)
    assert found == pytest.approx(want, rel=1e-6)


def test_evaluation_of_no_batch_is_refused(trainer, resident):
    with pytest.raises(ValueError, match="at least one") as raised:
        trainer.evaluate(resident.last, iter([]))
    assert str(raised.value) == (
        "`evaluate`: data must give at least one batch, got none. An iterator can be passed "
        "through once: make a new one, or give a list."
    )


def test_batches_of_evaluation_are_alike(trainer, resident):
    with pytest.raises(ValueError, match="all batches") as raised:
        trainer.evaluate(resident.last, [BATCHES[0], (X[:, :2], Y)])
    assert str(raised.value) == (
        "`evaluate`: examples must have the same shapes and dtypes in all batches, got "
        "(float32[1, 2], float32[1, 2]) after (float32[1, 3], float32[1, 2]). "
        "Prepare all batches in the same way."
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_staged_data_train_like_resident_data(trainer, shuffle):
    settings = {"batch_size": 5, "shuffle": shuffle, "seed": 4}
    here = trainer.fit((X, Y), epochs=3, **settings)
    there = trainer.fit(fn.data.staged(X, Y), epochs=3, **settings)
    same(trainer, there, **settings)
    np.testing.assert_allclose(there.history["loss"], here.history["loss"], rtol=1e-5)


def test_staged_data_are_evaluated_like_resident_data(trainer, resident):
    found = trainer.evaluate(resident.last, fn.data.staged(X, Y), batch_size=5)
    want = trainer.evaluate(resident.last, (X, Y), batch_size=5)
    assert found == pytest.approx(want, rel=1e-6)


def test_a_stream_is_gone_on_with(trainer, resident):
    first = trainer.fit(BATCHES, epochs=1)
    second = trainer.fit(BATCHES, epochs=3, state=first.last)
    assert int(second.last.step) == 9
    chex.assert_trees_all_close(second.last.params, resident.last.params, rtol=1e-5, atol=1e-6)


def test_batches_of_jax_arrays_and_of_float64_are_taken(trainer, resident):
    wide = [(x.astype(np.float64), jnp.asarray(y)) for x, y in BATCHES]
    same(trainer, trainer.fit(wide, epochs=1), steps=3)
    assert jax.tree.leaves(resident.last.params)[0].dtype == jnp.float32
