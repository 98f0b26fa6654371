"""Prediction for inputs of every form, with a trainer and without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.inference import predict
from funcnet.trainer import evaluation

N, SIZE = 13, 4
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
Y = np.arange(N, dtype=np.int32)
PARAMS = {"kernel": np.arange(6, dtype=np.float32).reshape(3, 2), "bias": np.ones(2, np.float32)}
WANT = X @ PARAMS["kernel"] + PARAMS["bias"]


def trainer_of(model=None):
    model = model or fn.dense(2)
    return fn.Trainer(model, loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))


TRAINER = trainer_of()
STATE = TRAINER.init(jax.random.key(0), X[:1])._replace(params=PARAMS)


def cut(*columns, sizes=(4, 4, 4, 1)):
    """Batches of the columns, in tuples; of one column alone, as they are."""
    ends = np.cumsum(sizes)
    for begin, end in zip(ends - sizes, ends, strict=True):
        batch = tuple(column[begin:end] for column in columns)
        yield batch if len(columns) > 1 else batch[0]


class Loader:
    """As a user writes it: no length, lists for batches, anew each time."""

    def __iter__(self):
        return map(list, cut(X, Y))


FORMS = {
    "numpy": lambda: X,
    "jax": lambda: jnp.asarray(X),
    "float64": lambda: np.float64(X),
    "lists": lambda: X.tolist(),
    "staged": lambda: fn.data.staged(X, Y),
    "a subset": lambda: fn.data.subset((X, Y), np.arange(N)),
    "a generator of x": lambda: cut(X),
    "a generator of (x, y)": lambda: cut(X, Y),
    "a generator of (x, y, weight)": lambda: cut(X, Y, np.ones(N)),
    "a generator of (x,)": lambda: ((x,) for x in cut(X)),
    "a list of (x, y)": lambda: list(cut(X, Y)),
    "two batches": lambda: [[X[:7], Y[:7]], [X[7:], Y[7:]]],
    "a loader": Loader,
    "batches of jax": lambda: cut(jnp.asarray(X)),
    "batches of any size": lambda: cut(X, sizes=(2, 7, 1, 3)),
}


@pytest.mark.parametrize("form", FORMS)
def test_inputs_of_every_form(form):
    found = TRAINER.predict(STATE, FORMS[form](), batch_size=SIZE)
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, WANT, rtol=1e-5, atol=1e-5)


def test_each_form_is_computed_by_the_one_program():
    trainer = trainer_of()
    for form in ("numpy", "jax", "staged", "a generator of (x, y)", "a loader"):
        trainer.predict(STATE, FORMS[form](), batch_size=SIZE)
    assert trainer.traces == {"predict": 1}


@pytest.mark.parametrize(("n", "size"), [(1, 128), (1, 1), (5, 5), (6, 5), (13, 12)])
def test_any_number_of_examples_and_any_batch_size(n, size):
    found = TRAINER.predict(STATE, X[:n], batch_size=size)
    np.testing.assert_allclose(found, WANT[:n], rtol=1e-5, atol=1e-5)


def several(parts, x):
    if isinstance(x, dict):
        x = x["left"], x["right"]
    left, right = x
    return {"sum": parts.dense(left) + right, "each": (left, [right])}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("how", ["arrays", "stream"])
def test_several_inputs_and_trees_of_outputs(named, how):
    model = fn.wire(several, dense=fn.dense(2))
    x = {"left": X, "right": WANT} if named else (X, WANT)
    state = STATE._replace(params={"dense": PARAMS})
    if how == "stream":
        leaves, form = jax.tree.flatten(x)
        batches = [jax.tree.unflatten(form, batch) for batch in cut(*leaves)]
        x = iter(batches) if named else ((batch, None) for batch in batches)
    found = trainer_of(model).predict(state, x, batch_size=SIZE)
    np.testing.assert_allclose(found["sum"], 2 * WANT, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["each"][0], X)
    np.testing.assert_array_equal(found["each"][1][0], WANT)


@pytest.mark.parametrize("limit", [4 * 8 * SIZE - 4, 4 * 8 * 2 * SIZE + 4, 4 * 8 * N - 1])
@pytest.mark.parametrize("form", ["numpy", "a generator of x"])
def test_outputs_that_would_fill_the_device_go_to_the_host(monkeypatch, limit, form):
    moved = []

    def to_host(outputs):
        moved.append(len(outputs))
        return np.asarray(outputs)

    monkeypatch.setattr(evaluation, "memory", lambda: limit)
    monkeypatch.setattr(evaluation, "gathered", to_host)
    found = TRAINER.predict(STATE, FORMS[form](), batch_size=SIZE)
    assert isinstance(found, np.ndarray)
    assert moved == [4, 4, 4, 1]  # each once, in its turn
    np.testing.assert_allclose(found, WANT, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(evaluation, "memory", lambda: 4 * 8 * N)
    assert isinstance(TRAINER.predict(STATE, X, batch_size=SIZE), jax.Array)


def test_without_a_trainer_the_same_comes_out_and_nothing_is_compiled_anew():
    traced = []

    def counted(params, model_state, x, **flags):
        traced.append(x.shape)
        assert flags == {"training": False}
        return fn.dense(2).apply(params, model_state, x, **flags)

    model = fn.Model(fn.dense(2).init, counted)
    for form in ("numpy", "a generator of (x, y)"):
        found = predict(model, PARAMS, {}, FORMS[form](), batch_size=SIZE)
        np.testing.assert_array_equal(found, TRAINER.predict(STATE, X, batch_size=SIZE))
    assert traced == [(SIZE, 3)]


def test_a_pipeline_of_grain_is_a_stream():
    grain = pytest.importorskip("grain")
    data = grain.MapDataset.source(X).batch(SIZE)
    for given in (data, data.to_iter_dataset()):
        found = TRAINER.predict(STATE, given, batch_size=SIZE)
        np.testing.assert_allclose(found, WANT, rtol=1e-5, atol=1e-5)


PER = (
    "each output must have the examples along its first axis, 4 in this batch, got {}. Let the "
    "model give what is per example, or call `model.apply` yourself."
)


def ask(x, model=None):
    return lambda: predict(model or fn.dense(2), PARAMS, {}, x, batch_size=SIZE)


REFUSED = {
    "a stream of nothing": (
        ask(iter([])), ValueError,
        "`predict`: data must give at least one batch, got none. An iterator can be passed through "
        "once: make a new one, or give a list."),
    "a batch of nothing": (
        ask(iter([X[:0]])), ValueError,
        "`predict`: data must hold at least one example, got float32[0, 3] for x. Check how it was "
        "read."),
    "batches that differ": (
        ask(iter([X, X[:, :2]])), ValueError,
        "`predict`: examples must have the same shapes and dtypes in all batches, got "
        "(float32[1, 2]) after (float32[1, 3]). Prepare all batches in the same way."),
    "a batch of too many parts": (
        ask(iter([(X, X, X, X)])), TypeError,
        "`predict`: a batch of a stream must be inputs, (x,), (x, y) or (x, y, weight), got "
        "(float32[13, 3], float32[13, 3], float32[13, 3], float32[13, 3]). Put several inputs "
        "together, `((a, b),)` say."),
    "nothing": (
        ask(None), TypeError,
        "`predict`: each part of the data must hold an array, got (None). Where there is no y, "
        "give x in its place."),
    "one number": (
        ask(3.0), ValueError,
        "`predict`: each array of the data must have the examples along its first axis, got a "
        "single number for x. Make an array of one example with `x[None]`; a tuple is several "
        "arrays, a list of numbers one."),
    "an output for all": (
        ask(X, fn.stateless(jnp.mean)), ValueError, "`predict`: " + PER.format("float32[]")),
    "an output of another length": (
        ask(X, fn.stateless(lambda x: {"y": x, "first": x[:2]})), ValueError,
        "`predict`: " + PER.format("{'first': float32[2, 3], 'y': float32[4, 3]}")),
    "a batch size of 0": (
        lambda: predict(fn.dense(2), PARAMS, {}, X, batch_size=0), ValueError,
        "`predict`: batch_size must be a positive whole number, got 0."),
    "a trainer": (
        lambda: predict(TRAINER, STATE, {}, X), TypeError,
        "`predict`: model must be a funcnet model, got Trainer. Make one of it with "
        "`fn.as_model(...)`; of a trainer, it is `trainer.model`."),
    "a state": (
        lambda: predict(fn.dense(2), STATE, {}, X), TypeError,
        "`predict`: params must be those of the model, got a TrainState. Give "
        "`state.params, state.model_state`."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_words_of_errors(case):
    act, kind, words = REFUSED[case]
    with pytest.raises(kind) as caught:
        act()
    assert str(caught.value) == words


def test_several_inputs_of_a_stream_that_are_taken_for_x_and_y_are_told():
    model = fn.wire(several, dense=fn.dense(2))
    with pytest.raises((TypeError, ValueError)) as caught:
        trainer_of(model).predict(STATE._replace(params={"dense": PARAMS}), cut(X, WANT))
    assert caught.value.__notes__[-1] == (
        "A tuple that a stream gives is (x, y) or (x, y, weight), as in `fit`, and only x is used. "
        "Where the model has several inputs, let it give `((a, b),)`."
    )
