"""What a user may get wrong, and what is said then: each message whole.

Every message says what must hold, what came, and what to do. What only looks wrong works. Faults
that are known and not mended yet are the expected failures at the end: a mended one must lose its
mark.
"""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn

N, SIZE = 12, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype(np.float32)
Y = RNG.integers(0, 4, N)
R = RNG.normal(size=(N, 1)).astype(np.float32)
CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels
SGD = optax.sgd(0.1)
ODD = np.arange(N) == 5


def squares(y_pred, y):
    return (y_pred - y) ** 2


def classifier(**changed):
    settings = {"model": fn.dense(4), "loss": CROSS_ENTROPY, "optimizer": SGD} | changed
    return fn.Trainer(settings.pop("model"), **settings)


CLASSIFIER = classifier()
"""One trainer for all tests: what is compiled for one serves the others."""

ADAM = classifier(optimizer=optax.adam(0.1))
COUNTING = fn.as_model(
    lambda params, x: params["n"].reshape(1, -1) * x,
    init=lambda key, x: {"n": jnp.ones(3, int), "ok": jnp.ones(3), "z": jnp.ones(3, complex)},
)


def fit(data=(X, Y), trainer=CLASSIFIER, **settings):
    return trainer.fit(data, **{"batch_size": SIZE} | settings)


def binary():
    one_logit = fn.sequential(fn.dense(1), lambda y: y.squeeze(-1))
    return classifier(model=one_logit, loss=optax.losses.sigmoid_binary_cross_entropy)


def mean_squares(y_pred, y):
    with jax.numpy_rank_promotion("allow"):  # the suite's setting would find it, a user has none
        return ((y_pred - y) ** 2).mean(-1)


def state(trainer=CLASSIFIER, x=X):
    return trainer.init(jax.random.key(0), x)


def with_params(**params):
    return state()._replace(params=params)


def callback():
    return fn.Callback(lambda: None, lambda memory, event: memory)


LAYER = "`sequential`: a layer must be a funcnet model or a function x -> y, got "
WHOLE = "must be a positive whole number, got "
MADE = "would make for x like "
SAME_STATE = "Give the state of this very trainer, and x of the shape that it was made for."
LABELS = (
    "labels must lie in 0 .. 3, since the model gives 4 scores, got {} such labels in all). Number "
    "the classes from 0, or give the model's last layer more features; if y holds no classes, give "
    "it as floats. A label that is to count for nothing is told by "
    "`fn.objective(loss, ignore=...)`."
)
VALIDATION = (
    "`fit`: validation must be data, or the fraction of it to hold out as a float between 0 and 1, "
    "got {}. Give a tuple (x, y), or 0.2 say."
)
BROADCAST = (
    "`loss`: y_pred and y must have the same shape, got {} and {}, which must not "
    "be broadcast against each other. {}"
)
GIVE = "Give y the axis too, with `y[:, None]`, or end the model with `lambda y: y.squeeze(-1)`."
KEY = "`init`: key must be one key, got {}. Make it with `jax.random.key(0)`."

REFUSED = {
    # --- the shapes and dtypes of data
    "predict x unlike init": (
        lambda: CLASSIFIER.predict(state(), X[:, :2]), ValueError,
        f"`predict`: state must be what the trainer's model {MADE}float32[1, 2], got\n"
        f"  params/kernel: expected float32[2, 4], got float32[3, 4]\n{SAME_STATE}"),
    "evaluate x unlike init": (
        lambda: CLASSIFIER.evaluate(state(), (X[:, :2], Y)), ValueError,
        f"`evaluate`: state must be what the trainer's model {MADE}float32[1, 2], got\n"
        f"  params/kernel: expected float32[2, 4], got float32[3, 4]\n{SAME_STATE}"),
    "step x unlike init": (
        lambda: CLASSIFIER.step(state(), (X[:, :2], Y)), ValueError,
        "`dense`: the last axis of x must be 3 long, as the params are, got float32[12, 2]. "
        "Give `init` an x of the same shape as `apply`."),
    "apply x unlike init": (
        lambda: fn.layer_norm().apply({"scale": jnp.ones(3), "bias": jnp.ones(3)}, {}, X[:, :2]),
        ValueError,
        "`layer_norm`: the last axis of x must be 3 long, as the params are, got float32[12, 2]. "
        "Give `init` an x of the same shape as `apply`."),
    "several inputs to one": (
        lambda: fit(((X, X), Y)), TypeError,
        "`dense`: x must be one array (B, ..., in), got (float32[1, 3], float32[1, 3]). Take the "
        "array out with a function before this layer, `lambda x: x[0]` say."),
    "object arrays": (
        lambda: fit((X.astype(object), Y)), TypeError,
        "`fit`: data must hold numbers, got object[12, 3]. Convert it, categories to integers say, "
        "before training."),
    "strings": (
        lambda: CLASSIFIER.evaluate(state(), (X, list("abcdefghijkl"))), TypeError,
        "`evaluate`: data must hold numbers, got <U1[12]. Convert it, categories to integers say, "
        "before training."),
    "strings to predict": (
        lambda: CLASSIFIER.predict(state(), ["a", "b"]), TypeError,
        "`predict`: data must hold numbers, got <U1[2]. Convert it, categories to integers say, "
        "before training."),
    "float tokens": (
        lambda: fit(trainer=classifier(model=fn.embedding(5, 2))), TypeError,
        "`embedding`: x must hold integers, got float32[1, 3]. Convert it with `x.astype(int)`."),
    "no data": (
        lambda: fit((X[:0], Y[:0])), ValueError,
        "`fit`: data must hold at least one example, got float32[0, 3] for x. "
        "Check how it was read."),
    "no data to predict": (
        lambda: CLASSIFIER.predict(state(), X[:0]), ValueError,
        "`predict`: data must hold at least one example, got float32[0, 3] for x. "
        "Check how it was read."),
    "lengths": (
        lambda: fit((X, Y[:5])), ValueError,
        "`fit`: all arrays of the data must hold the same number of examples, got x: 12, y: 5. "
        "Check how they were cut; a tuple or a list of arrays is several arrays, `np.stack` makes "
        "them one."),
    "lengths to predict": (
        lambda: CLASSIFIER.predict(state(), (X, X[1:])), ValueError,
        "`predict`: all arrays of the data must hold the same number of examples, got x/0: 12, "
        "x/1: 11. Check how they were cut; a tuple or a list of arrays is several arrays, "
        "`np.stack` makes them one."),
    "negative weights": (
        lambda: fit((X, Y, -np.ones(N))), ValueError,
        "`fit`: weight must be 0 or more everywhere, got -1.0 as its least. Leave an example out "
        "with the weight 0."),
    # --- labels
    "a label too large": (
        lambda: fit((X, np.where(ODD, 4, Y))), ValueError,
        "`fit`: " + LABELS.format("4 in row 5 (1")),
    "a label -1": (
        lambda: fit((X, np.where(ODD, -1, Y), np.ones(N))), ValueError,
        "`fit`: " + LABELS.format("-1 in row 5 (1")),
    "labels from 1 in evaluate": (
        lambda: CLASSIFIER.evaluate(state(), (X, np.arange(N) % 4 + 1)), ValueError,
        "`evaluate`: " + LABELS.format("4 in row 3 (3")),
    "a label in validation": (
        lambda: fit(validation=(X, np.where(ODD, 9, Y))), ValueError,
        "`fit`: " + LABELS.format("9 in row 5 (1")),
    "a label in a stream's second batch": (
        lambda: fit([(X[:4], Y[:4]), (X[4:8], np.array([0, 1, 7, 2], np.int32))]), ValueError,
        "`fit`: " + LABELS.format("7 in row 2 (1")),
    "binary labels -1 and 1": (
        lambda: fit((X, np.where(ODD, 1, -1)), binary()), ValueError,
        "`fit`: labels must lie in 0 .. 1, since the loss is binary cross-entropy, got -1 in row 0 "
        "(11 such labels in all). Map two classes to 0 and 1, with `y > 0` or `y == name` say."),
    # --- the loss
    "a scalar loss": (
        lambda: fit(trainer=classifier(loss=lambda a, b: CROSS_ENTROPY(a, b).mean())), ValueError,
        "`loss`: it must give one number for each of the 4 examples, got a single float32[]. Leave "
        "out its mean or sum; a loss that has no value for one example alone is given as "
        "`Trainer(objective=...)`."),
    "a loss of another length": (
        lambda: fit(trainer=classifier(loss=lambda a, b: CROSS_ENTROPY(a, b)[1:])), ValueError,
        "`loss`: it must give one number for each of the 4 examples, got float32[3]. Its first "
        "axis must be that of y_pred."),
    "a loss that is a pair": (
        lambda: fit(trainer=classifier(loss=lambda a, b: (CROSS_ENTROPY(a, b), 1))), TypeError,
        "`loss`: it must give an array of real numbers, one for each example, got "
        "(float32[4], 1). Take the array out of it."),
    "(B, 1) against (B,)": (
        lambda: fit((X, R[:, 0]), classifier(model=fn.dense(1), loss=squares)), ValueError,
        BROADCAST.format("float32[4, 1]", "float32[4]", GIVE)),
    "(B, 1) against (B,), then averaged": (
        lambda: fit((X, R[:, 0]), classifier(model=fn.dense(1), loss=mean_squares)), ValueError,
        BROADCAST.format("float32[4, 1]", "float32[4]", GIVE)),
    "(B,) against (B, 1)": (
        lambda: fit((X, R), classifier(model=fn.sequential(lambda x: x[:, 0]), loss=squares)),
        ValueError, BROADCAST.format("float32[4]", "float32[4, 1]",
            "Take the axis off y, with `y[:, 0]`.")),
    "classes with an axis of 1": (
        lambda: fit((X, Y[:, None])), ValueError,
        "`loss`: y must be a class for each example, whole numbers without the last axis of "
        "y_pred = float32[4, 4], got int32[4, 1]. "
        "Take the axis off y, with `y[..., 0]`."),
    "classes that are not whole": (
        lambda: fit((X, Y.astype(np.float32))), TypeError,
        "`loss`: y must be a class for each example, whole numbers without the last axis of "
        "y_pred = float32[4, 4], got float32[4]. "
        'Make whole numbers of them, with `y.astype("int32")`.'),
    "x and y apart": (
        lambda: CLASSIFIER.fit(X, Y), TypeError,
        "`fit`: data must be one value, got 2 positional arguments. Put x and y into a pair, "
        "`fit((x, y), ...)`, and name all else, `epochs=10` say."),
    "(B, k) against (B,), k = B": (
        lambda: fit((X, R[:, 0]), classifier(loss=squares)), ValueError,
        BROADCAST.format("float32[4, 4]", "float32[4]",
            "Bring y into the shape of y_pred, or choose a loss for labels of this shape.")),
    # --- states
    "params of other names and shapes": (
        lambda: fit(state=with_params(kernal=jnp.ones((3, 4)), bias=jnp.ones(3))), ValueError,
        f"`fit`: state must be what the trainer's model and optimizer {MADE}float32[1, 3], got\n"
        "  params/bias: expected float32[4], got float32[3]\n"
        "  params/kernal: not expected, got float32[3, 4]\n"
        f"  params/kernel: missing, expected float32[3, 4]\n{SAME_STATE}"),
    "params of another dtype": (
        lambda: CLASSIFIER.predict(with_params(kernel=np.ones((3, 4)), bias=np.ones(4)), X),
        ValueError,
        f"`predict`: state must be what the trainer's model {MADE}float32[1, 3], got\n"
        "  params/bias: expected float32[4], got float64[4]\n"
        f"  params/kernel: expected float32[3, 4], got float64[3, 4]\n{SAME_STATE}"),
    "a state of another trainer": (
        lambda: fit(state=state(ADAM)), ValueError,
        f"`fit`: state must be what the trainer's model and optimizer {MADE}float32[1, 3], got\n"
        "  opt_state/0/count: not expected, got int32[]\n"
        "  opt_state/0/mu/bias: not expected, got float32[4]\n"
        "  opt_state/0/mu/kernel: not expected, got float32[3, 4]\n"
        "  opt_state/0/nu/bias: not expected, got float32[4]\n"
        f"  opt_state/0/nu/kernel: not expected, got float32[3, 4]\n{SAME_STATE}"),
    "params in place of a state": (
        lambda: CLASSIFIER.predict(state().params, X), TypeError,
        "`predict`: state must be a fn.TrainState, got dict. Give `result.best`, or what "
        "`trainer.init` makes."),
    "seed and state": (
        lambda: fit(state=state(), seed=1), ValueError,
        "`fit`: give either seed or state, got both. A state holds its own key; to begin anew, "
        "leave the state out."),
    "params of another model": (
        lambda: fn.sequential(fn.dense(2), fn.dense(2)).apply({"2": {}}, {}, X), ValueError,
        "`sequential`: params must be the dict by layer that `init` made, of '0', '1', got '2'. "
        "Give each model its own params."),
    "params that are not learnt": (
        lambda: fit(trainer=classifier(model=COUNTING, loss=squares), data=(X, X)), TypeError,
        "`init`: params must be floating arrays, got n: int32[3], z: complex64[3]. "
        "Return what is not learnt as model_state."),
    # --- keys
    "an int as key": (lambda: CLASSIFIER.init(0, X), TypeError, KEY.format("0")),
    "an old key": (
        lambda: CLASSIFIER.init(jax.random.PRNGKey(0), X), TypeError, KEY.format("uint32[2]")),
    "two keys": (
        lambda: CLASSIFIER.init(jax.random.split(jax.random.key(0)), X), TypeError,
        KEY.format("key<fry>[2]")),
    "dropout without key": (
        lambda: fn.dropout(0.5).apply({}, {}, X, training=True), ValueError,
        "`dropout`: training needs randomness, got key=None. Give `apply` a key, "
        "`key=jax.random.key(0)` say, or `training=False`."),
    "a rate above 1": (
        lambda: fn.dropout(1.5), ValueError,
        "`dropout`: rate must lie in 0 .. 1, got 1.5. It is the fraction dropped."),
    "a rate that is a word": (
        lambda: fn.dropout("0.5"), TypeError,
        "`dropout`: rate must lie in 0 .. 1, got '0.5'. It is the fraction dropped."),
    "a rate that is True": (
        lambda: fn.dropout(True), TypeError,
        "`dropout`: rate must lie in 0 .. 1, got True. It is the fraction dropped."),
    # --- layers and models
    "a layer not called": (
        lambda: fn.sequential(fn.dense(2), fn.flatten), TypeError,
        f"{LAYER}the function flatten, which makes one. Call it, `flatten(...)`."),
    "a layer not called in residual": (
        lambda: fn.residual(fn.dropout), TypeError,
        "`residual`: a layer must be a funcnet model or a function x -> y, got the function "
        "dropout, which makes one. Call it, `dropout(...)`."),
    "a Linen module": (
        lambda: fn.sequential(linen.Dense(3)), TypeError,
        f"{LAYER}Dense. Make a model of it with `fn.as_model(...)`."),
    "a Linen class": (
        lambda: fn.sequential(linen.Dense), TypeError,
        f"{LAYER}the class Dense. Make an instance of it, and a model of that with "
        "`fn.as_model(...)`."),
    "a list of layers": (
        lambda: fn.sequential([fn.dense(2)]), TypeError,
        f"{LAYER}a list. Unpack it, `sequential(*layers)` say."),
    "a number as layer": (
        lambda: fn.sequential(3), TypeError, f"{LAYER}3. Turn it into a function of x."),
    "a Linen module as model": (
        lambda: classifier(model=linen.Dense(3)), TypeError,
        "`Trainer`: model must be a funcnet model, got Dense. Make one of it with "
        "`fn.as_model(...)`."),
    "a Linen class for as_model": (
        lambda: fn.as_model(linen.Dense), TypeError,
        "`as_model`: guest must be a flax.linen.Module or a function f(params, x), got "
        f"{linen.Dense!r}. Make an instance if it is a class."),
    # --- the trainer
    "an optimizer not called": (
        lambda: classifier(optimizer=optax.adam), TypeError,
        "`Trainer`: optimizer must be an optax.GradientTransformation, "
        f"got {optax.adam!r}. Call its factory, `optax.adam(1e-3)` say."),
    "a metric not called": (
        lambda: classifier(metrics={"accuracy": fn.metrics.accuracy}), TypeError,
        "`Trainer`: each metric must be a fn.metrics.Metric, got "
        f"{fn.metrics.accuracy!r} for 'accuracy'. Call its factory, `fn.metrics.accuracy()` say."),
    "accumulate that does not divide": (
        lambda: fit(trainer=classifier(accumulate=3)), ValueError,
        "`Trainer`: accumulate=3 must divide the batch size, got 4. Choose a batch size that is a "
        "multiple of it."),
    "accumulate 0": (
        lambda: classifier(accumulate=0), ValueError, f"`Trainer`: accumulate {WHOLE}0."),
    # --- the arguments of fit
    "batch_size 0": (lambda: fit(batch_size=0), ValueError, f"`fit`: batch_size {WHOLE}0."),
    "batch_size 2.5": (lambda: fit(batch_size=2.5), TypeError, f"`fit`: batch_size {WHOLE}2.5."),
    "batch_size 0 of a stream": (
        lambda: fit([(X, Y)], batch_size=0), ValueError, f"`fit`: batch_size {WHOLE}0."),
    "batch_size -1": (
        lambda: CLASSIFIER.evaluate(state(), (X, Y), batch_size=-1), ValueError,
        f"`evaluate`: batch_size {WHOLE}-1."),
    "epochs 0": (lambda: fit(epochs=0), ValueError, f"`fit`: epochs {WHOLE}0."),
    "epochs 1.5": (lambda: fit(epochs=1.5), TypeError, f"`fit`: epochs {WHOLE}1.5."),
    "steps True": (lambda: fit(steps=True), TypeError, f"`fit`: steps {WHOLE}True."),
    "stopping that is a number": (
        lambda: fit(stopping=5), TypeError,
        "`fit`: stopping must come from `fn.early_stopping`, got 5. Say "
        '`stopping=fn.early_stopping("val_loss", patience=5)`.'),
    "a callback that is a number": (
        lambda: fit(callbacks=[3]), TypeError,
        "`fit`: a callback must be a fn.Callback or a function of an event, got 3. Call it first "
        "if it is a function that makes one."),
    # --- validation
    "validation of another shape": (
        lambda: fit(validation=(X[:, :2], Y)), ValueError,
        "`fit`: validation examples must have the shapes and dtypes of those to train on, got "
        "(float32[1, 2], int32[1]), expected (float32[1, 3], int32[1]). "
        "Prepare both in the same way."),
    "validation of another dtype": (
        lambda: fit(validation=(X.astype(np.float16), Y)), ValueError,
        "`fit`: validation examples must have the shapes and dtypes of those to train on, got "
        "(float16[1, 3], int32[1]), expected (float32[1, 3], int32[1]). "
        "Prepare both in the same way."),
    "validation of two lengths": (
        lambda: fit(validation=(X, Y[1:])), ValueError,
        "`fit(validation=...)`: all arrays of the data must hold the same number of examples, got "
        "x: 12, y: 11. Check how they were cut; a tuple or a list of arrays is several arrays, "
        "`np.stack` makes them one."),
    "validation 0.0": (
        lambda: fit(validation=0.0), ValueError,
        "`fit`: validation must lie between 0 and 1 where it is a fraction, got 0.0. Give the "
        "share of the examples to hold out, or the data itself as a tuple."),
    "validation 1.5": (
        lambda: fit(validation=1.5), ValueError,
        "`fit`: validation must lie between 0 and 1 where it is a fraction, got 1.5. Give the "
        "share of the examples to hold out, or the data itself as a tuple."),
    "validation True": (lambda: fit(validation=True), TypeError, VALIDATION.format("True")),
    "validation 1": (lambda: fit(validation=1), TypeError, VALIDATION.format("1")),
    "validation that is an array": (
        lambda: fit(validation=X), TypeError, VALIDATION.format("float32[12, 3]")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_words(case):
    call, error, said = REFUSED[case]
    with jax.numpy_rank_promotion("allow"), pytest.raises(error) as raised:  # as users have it
        call()
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: CLASSIFIER.fit((X, Y), epoch=3), "'epoch'"),
        (lambda: classifier(metric={}), "'metric'"),
        (lambda: fn.Trainer(fn.dense(1), loss=squares), "'optimizer'"),
        (lambda: CLASSIFIER.evaluate(state(), (X, Y), batchsize=3), "'batchsize'"),
    ],
)
def test_python_itself_names_a_misspelt_argument(call, named):
    with pytest.raises(TypeError, match=f"argument:? {named}"):
        call()


def test_an_error_in_a_row_says_in_which_layer_it_arose():
    trainer = classifier(model=fn.sequential(fn.dense(2), fn.embedding(5, 2)))
    with pytest.raises(TypeError) as raised:
        fit(trainer=trainer)
    assert "in layer '1' (embedding) of `sequential`: float32[1, 2]" in raised.value.__notes__


def objective(params, model_state, batch, *, key, training):
    x, y = batch
    each = CROSS_ENTROPY(x @ params["kernel"] + params["bias"].reshape(1, -1), y)
    return (each.sum(), each.size), (model_state, {"worst": each.max()})


@pytest.mark.parametrize(
    "call",
    [
        lambda trainer: fit(trainer=trainer, validation=(X, Y)),
        lambda trainer: trainer.evaluate(state(), (X, Y)),
    ],
    ids=["fit", "evaluate"],
)
def test_an_objective_is_told_that_evaluation_has_weights(call):
    trainer = fn.Trainer(fn.dense(4), objective=objective, optimizer=SGD)
    assert np.isfinite(fit(trainer=trainer).history["worst"]).all()
    with pytest.raises(ValueError, match="too many values to unpack") as raised:
        call(trainer)
    assert raised.value.__notes__[-1] == (
        "Outside training every batch is (x, y, weight), since the last one is filled up with "
        "examples of weight 0. The objective takes it apart with `fn.unpack(batch)`."
    )


def test_a_failed_fit_has_told_no_callback_anything():
    events = []
    with pytest.raises(ValueError, match="labels"):
        fit((X, Y + 4), callbacks=[fn.Callback(list, lambda memory, event: events.append(event))])
    assert events == []


# --- what works


def same_as(result, want):
    assert np.array_equal(result.losses, want.losses)


LIKE = {
    "lists": (X.tolist(), Y.tolist()),
    "a list of both": [X, Y],
    "lists of rows": (list(map(tuple, X.tolist())), Y.tolist()),
    "jax arrays": (jnp.asarray(X), jnp.asarray(Y)),
    "float64 and int64": (X.astype(np.float64), Y.astype(np.int64)),
    "columns of Fortran": (np.asfortranarray(X), Y),
    "a view": (np.repeat(X, 2, axis=0)[::2], Y),
}


@pytest.mark.parametrize("case", LIKE)
def test_data_of_many_kinds_train_alike(case):
    same_as(fit(LIKE[case]), fit())


def test_labels_of_weight_0_may_be_anything():
    data = X, np.where(ODD, -1, Y), (~ODD).astype(np.float32)
    result = fit(data, epochs=2)
    assert np.isfinite(result.losses).all()
    rest = np.delete(X, 5, 0), np.delete(Y, 5)
    found = [CLASSIFIER.evaluate(result.best, each)["loss"] for each in (data, rest)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize(("n", "size"), [(12, 50), (1, 4), (12, 1), (1, 1)])
def test_few_examples_and_small_batches_train(n, size):
    result = fit((X[:n], Y[:n]), epochs=2, batch_size=size)
    assert int(result.last.step) == 2 * -(-n // size)
    assert np.isfinite(result.losses).all()
    assert CLASSIFIER.predict(result.best, X[:n], batch_size=size).shape == (n, 4)


def test_images_of_uint8_train():
    images = RNG.integers(0, 255, (N, 2, 2, 1)).astype(np.uint8)
    trainer = classifier(model=fn.sequential(fn.flatten(), lambda x: x / 255, fn.dense(4)))
    result = fit((images, Y), trainer)
    assert result.best.params["2"]["kernel"].dtype == jnp.float32
    assert np.isfinite(result.losses).all()


@pytest.mark.parametrize(
    ("x", "join"),
    [((X, X), lambda x: x[0] + x[1]), ({"a": X, "b": X}, lambda x: x["a"] + x["b"])],
    ids=["tuple", "dict"],
)
def test_several_inputs_train(x, join):
    trainer = classifier(model=fn.sequential(join, fn.dense(4)))
    result = fit((x, Y), trainer, validation=0.25)
    assert np.isfinite(result.history["val_loss"]).all()
    assert trainer.predict(result.best, x).shape == (N, 4)


def test_a_model_without_parameters_trains():
    trainer = classifier(model=fn.stateless(lambda x: x[:, :1]), loss=squares)
    result = fit((X, R), trainer, epochs=2)
    assert result.history["loss"][0] == pytest.approx(result.history["loss"][1])
    assert result.best.params == {}


def test_a_batch_of_weight_0_is_skipped():
    before = state(ADAM)
    after, _ = jax.jit(ADAM.step)(before, (X, Y, np.zeros(N, np.float32)))
    assert int(after.step) == 1
    for old, new in zip(jax.tree.leaves(before[1:4]), jax.tree.leaves(after[1:4]), strict=True):
        assert np.array_equal(old, new)
    moved, _ = jax.jit(ADAM.step)(before, (X, Y, ODD.astype(np.float32)))
    assert not np.array_equal(moved.params["kernel"], before.params["kernel"])


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_not_finite_end_the_fit_with_words(staged, value):
    x = X.copy()
    x[7, 1] = value
    result = fit(fn.data.staged(x, Y) if staged else (x, Y), epochs=3, shuffle=False)
    assert result.reason == fn.Reason.NON_FINITE
    assert result.message == (
        f"the loss was {'nan' if value != value else result.losses[1]} at step 1. "
        "The data is not finite: x holds 1 such values, the first in row 7."
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.best.params))
    assert (int(result.best.step), result.best_epoch, dict(result.history)) == (0, None, {})


def test_a_run_that_diverges_keeps_the_best_epoch():
    trainer = classifier(model=fn.dense(1), loss=squares, optimizer=optax.sgd(30.0))
    result = fit((X, R), trainer, epochs=60)
    assert result.reason == fn.Reason.NON_FINITE
    assert result.message.endswith(
        "The data is finite: a smaller learning rate, or clipping the gradient, may help."
    )
    assert int(result.best.step) == 3 * (result.best_epoch + 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.best.params))


def test_an_unknown_monitor_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="monitors") as raised:
        fit(stopping=fn.early_stopping("los", mode="min", patience=2))
    assert str(raised.value) == (
        "`fit`: stopping monitors 'los', which nobody reports. Did you mean 'loss'?"
    )


# --- faults that were found and mended


def test_an_unknown_monitor_is_refused_before_anything_is_trained():
    kinds = []
    count = fn.Callback(lambda: None, lambda memory, event: kinds.append(event.kind))
    with pytest.raises(ValueError, match="monitors"):
        fit(stopping=fn.early_stopping("los", mode="min", patience=2), callbacks=[count])
    assert "chunk" not in kinds


def test_a_fit_goes_on_after_a_batch_of_weight_0():
    result = fit((X, Y, np.repeat([1.0, 0.0, 1.0], 4)), ADAM, epochs=2, shuffle=False)
    assert result.reason == fn.Reason.EPOCHS
    assert np.isfinite(result.history["loss"]).all()


@pytest.mark.parametrize("given", [{"a": 1}, "result"])
def test_something_else_as_state_of_fit_is_refused(given):
    with pytest.raises(TypeError, match="`fit`: state must be a fn"):
        fit(state=fit() if given == "result" else given)


@pytest.mark.parametrize("seed", [1.5, "1", jax.random.key(0)])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(TypeError, match="`fit`: seed must be"):
        fit(seed=seed)


@pytest.mark.parametrize("one", [callback(), print])
def test_a_single_callback_is_refused_or_taken(one):
    with pytest.raises(TypeError, match="`fit`: callbacks must be"):
        fit(callbacks=one)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "mse"},
        {"metrics": [fn.metrics.accuracy()]},
        {"metrics": fn.metrics.accuracy()},
        {"metrics": {"loss": fn.metrics.accuracy()}},
        {"metrics": {"val_x": fn.metrics.accuracy()}},
        {"metrics": {"learning_rate": fn.metrics.accuracy()}},
    ],
)
def test_a_trainer_refuses_what_it_cannot_use(wrong):
    with pytest.raises((TypeError, ValueError), match="`Trainer`: "):
        classifier(**wrong)


def test_a_metric_that_the_objective_does_not_give_is_refused():
    metrics = {"accuracy": fn.metrics.accuracy()}
    trainer = fn.Trainer(fn.dense(4), objective=objective, optimizer=SGD, metrics=metrics)
    with pytest.raises(ValueError, match="accuracy"):
        fit(trainer=trainer)


def test_a_loss_of_each_class_may_meet_as_many_examples_as_classes():
    def each_class(y_pred, y):
        return -jax.nn.log_softmax(y_pred) * jax.nn.one_hot(y, 4)

    fit(trainer=classifier(loss=each_class), batch_size=4)


@pytest.mark.parametrize(
    ("loss", "data"),
    [
        (optax.losses.squared_error, (X, R[:, 0])),
        (CROSS_ENTROPY, (X, Y[:, None])),
        (CROSS_ENTROPY, (X, Y.astype(np.float32))),
    ],
    ids=["(B, 4) and (B,)", "labels (B, 1)", "labels in floats"],
)
def test_an_error_inside_the_loss_says_what_it_was_given(loss, data):
    with pytest.raises((TypeError, ValueError)) as raised:
        fit(data, classifier(loss=loss))
    assert "y_pred" in "".join([str(raised.value), *raised.value.__notes__])


def test_advance_refuses_a_batch_size_of_0():
    with pytest.raises(ValueError, match="`advance`: batch_size"):
        CLASSIFIER.advance(state(), 2, (X, Y), batch_size=0)


def test_params_that_the_last_step_made_nan_are_not_the_best():
    def flat(y_pred, y):
        return jnp.sqrt(jnp.square(y_pred - y_pred)).mean(-1)  # its gradient is 0 * inf

    result = fit(trainer=classifier(loss=flat), steps=1, batch_size=N)
    assert result.reason == fn.Reason.NON_FINITE
