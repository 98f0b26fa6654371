"""`fn.objective`: weights, smoothing, penalties, several losses, mixed examples."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn

CE = optax.losses.softmax_cross_entropy_with_integer_labels
KEY = jax.random.key(0)
X = jax.random.normal(KEY, (12, 4))
Y = jnp.arange(12) % 3
WEIGHT = jnp.arange(12) % 4 * 1.0
MODEL = fn.dense(3)
PARAMS, _ = MODEL.init(KEY, X)
CLASS_WEIGHTS = jnp.array([0.2, 1.0, 3.0])


def value(recipe, batch=(X, Y), model=MODEL, params=PARAMS, training=True, key=KEY, metrics=()):
    """The mean that is differentiated, and what else is found."""
    objective = recipe.make(model, dict(metrics))
    (total, weight), (_, found) = objective(params, {}, batch, key=key, training=training)
    return total / weight, found


def logits(x=X):
    return MODEL.apply(PARAMS, {}, x)[0]


def test_a_plain_recipe_is_the_loss():
    for batch in ((X, Y), (X, Y, WEIGHT)):
        ours = value(fn.objective(CE), batch)[0]
        plain = fn.training.make_objective(MODEL, CE, {})
        (total, weight), _ = plain(PARAMS, {}, batch, key=KEY, training=True)
        np.testing.assert_allclose(ours, total / weight, rtol=1e-6)


def test_class_weights_divide_by_their_sum():
    losses, w = CE(logits(), Y), CLASS_WEIGHTS[Y]
    recipe = fn.objective(CE, class_weights=CLASS_WEIGHTS)
    np.testing.assert_allclose(value(recipe)[0], (w * losses).sum() / w.sum(), rtol=1e-5)
    w = w * WEIGHT
    got = value(recipe, (X, Y, WEIGHT))[0]
    np.testing.assert_allclose(got, (w * losses).sum() / w.sum(), rtol=1e-5)


def test_class_weights_of_sequences():
    tokens = jnp.stack([Y, (Y + 1) % 3], 1)
    model = fn.sequential(fn.dense(6), fn.reshape(2, 3))
    params, _ = model.init(KEY, X)
    losses = CE(model.apply(params, {}, X)[0], tokens)
    w = CLASS_WEIGHTS[tokens]
    got = value(fn.objective(CE, class_weights=CLASS_WEIGHTS), (X, tokens), model, params)[0]
    np.testing.assert_allclose(got, (w * losses).sum() / w.sum(), rtol=1e-5)


def test_ignored_labels_count_for_nothing():
    tokens = jnp.stack([Y, jnp.where(Y == 1, -1, Y), jnp.full(12, -1)], 1)
    model = fn.sequential(fn.dense(9), fn.reshape(3, 3))
    params, _ = model.init(KEY, X)
    y_pred = model.apply(params, {}, X)[0]
    counted = (tokens != -1) * WEIGHT[:, None]
    losses = CE(y_pred, jnp.maximum(tokens, 0))
    batch = (X, tokens, WEIGHT)
    for training in (True, False):
        got = value(fn.objective(CE, ignore=-1), batch, model, params, training)[0]
        np.testing.assert_allclose(got, (counted * losses).sum() / counted.sum(), rtol=1e-5)
    by = counted * CLASS_WEIGHTS[jnp.maximum(tokens, 0)]
    got = value(fn.objective(CE, ignore=-1, class_weights=CLASS_WEIGHTS), batch, model, params)[0]
    np.testing.assert_allclose(got, (by * losses).sum() / by.sum(), rtol=1e-5)


def test_ignored_labels_pass_the_trainer():
    trainer = fn.Trainer(
        MODEL,
        objective=fn.objective(CE, ignore=-1),
        optimizer=optax.adam(0.1),
        metrics={"accuracy": fn.metrics.accuracy(ignore=-1)},
    )
    y = jnp.where(jnp.arange(12) < 6, -1, jnp.argmax(X[:, :3], -1))
    result = trainer.fit((X, y), epochs=60, batch_size=12)
    known = trainer.evaluate(result.last, (X[6:], y[6:]))
    assert trainer.evaluate(result.last, (X, y)) == pytest.approx(known, rel=1e-5)
    assert known["accuracy"] == 1
    nobody = trainer.step(result.last, (X, jnp.full(12, -1)))[0]
    chex.assert_trees_all_equal(nobody.params, result.last.params)


def test_class_weights_and_smoothing_equal_pytorch():
    torch = pytest.importorskip("torch")
    a, b = torch.tensor(np.asarray(logits())), torch.tensor(np.asarray(Y)).long()
    theirs = torch.nn.CrossEntropyLoss(weight=torch.tensor(np.asarray(CLASS_WEIGHTS)))(a, b)
    ours = value(fn.objective(CE, class_weights=CLASS_WEIGHTS))[0]
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(a, b)
    ours = value(fn.objective(CE, label_smoothing=0.1))[0]
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)


def test_smoothed_labels_are_those_of_optax():
    soft = optax.losses.smooth_labels(jax.nn.one_hot(Y, 3), 0.2)
    want = optax.losses.softmax_cross_entropy(logits(), soft).mean()
    np.testing.assert_allclose(value(fn.objective(CE, label_smoothing=0.2))[0], want, rtol=1e-5)
    one_hot = fn.objective(optax.losses.softmax_cross_entropy, label_smoothing=0.2)
    got = value(one_hot, (X, jax.nn.one_hot(Y, 3)))[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    binary = fn.objective(optax.losses.sigmoid_binary_cross_entropy, label_smoothing=0.2)
    labels = jax.nn.one_hot(Y, 3)
    want = optax.losses.sigmoid_binary_cross_entropy(logits(), 0.8 * labels + 0.1).mean()
    np.testing.assert_allclose(value(binary, (X, labels))[0], want, rtol=1e-5)


def test_penalties_by_path():
    base = value(fn.objective(CE))[0]
    model = fn.sequential(a=fn.dense(4), b=fn.dense(3))
    params, _ = model.init(KEY, X)
    params["b"]["bias"] += 2.0
    base = value(fn.objective(CE), (X, Y), model, params)[0]

    def added(**settings):
        return value(fn.objective(CE, **settings), (X, Y), model, params)[0] - base

    a, b = params["a"]["kernel"], params["b"]["kernel"]
    np.testing.assert_allclose(added(l2=0.1), 0.1 * ((a**2).sum() + (b**2).sum()), rtol=1e-4)
    np.testing.assert_allclose(added(l1={"b/*": 0.1}), 0.1 * (jnp.abs(b).sum() + 6), rtol=1e-4)
    np.testing.assert_allclose(added(l2={"b/bias": 0.1}), 0.1 * 12, rtol=1e-4)


def test_evaluation_reports_the_plain_loss():
    recipe = fn.objective(
        CE, class_weights=CLASS_WEIGHTS, label_smoothing=0.3, l2=1.0, mix=roll_mix
    )
    got = value(recipe, training=False, key=None)[0]
    np.testing.assert_allclose(got, CE(logits(), Y).mean(), rtol=1e-6)


def roll_mix(key, x):
    partner = jnp.roll(jnp.arange(len(x)), 1)
    share = jnp.linspace(0.5, 1.0, len(x))
    by = share[:, None]
    return by * x + (1 - by) * x[partner], partner, share


def test_mixed_examples_have_mixed_losses():
    x, partner, share = roll_mix(KEY, X)
    own, other = CE(logits(x), Y), CE(logits(x), Y[partner])
    want = (share * own + (1 - share) * other).mean()
    np.testing.assert_allclose(value(fn.objective(CE, mix=roll_mix))[0], want, rtol=1e-5)
    w, v = WEIGHT * share, WEIGHT[partner] * (1 - share)
    want = (w * own + v * other).sum() / (w + v).sum()
    got = value(fn.objective(CE, mix=roll_mix), (X, Y, WEIGHT))[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_several_losses_are_weighed_and_reported():
    model = fn.branches(label=fn.dense(3), size=fn.dense(1))
    y = {"label": Y, "size": X[:, :1]}
    recipe = fn.objective({"label": CE, "size": optax.losses.squared_error}, weights={"size": 0.5})
    params, _ = model.init(KEY, X)
    got, found = value(recipe, (X, y), model, params)
    y_pred = model.apply(params, {}, X)[0]
    label = CE(y_pred["label"], Y).mean()
    size = ((y_pred["size"] - X[:, :1]) ** 2).mean()
    np.testing.assert_allclose(got, label + 0.5 * size, rtol=1e-5)
    np.testing.assert_allclose([found["label_loss"], found["size_loss"]], [label, size], rtol=1e-5)
    trainer = fn.Trainer(model, objective=recipe, optimizer=optax.adam(0.05))
    result = trainer.fit((X, y), validation=(X, y), epochs=30, batch_size=12)
    assert set(result.history) == {
        "loss", "label_loss", "size_loss", "val_loss", "val_label_loss", "val_size_loss"
    }  # fmt: skip
    assert result.history["val_size_loss"][-1] < 0.5 * result.history["val_size_loss"][0]


def test_numbers_may_be_traced():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def loss(smoothing, strength, weights):
        recipe = fn.objective(CE, label_smoothing=smoothing, l2=strength, class_weights=weights)
        return value(recipe)[0]

    first = loss(0.0, 0.0, jnp.ones(3))
    np.testing.assert_allclose(first, CE(logits(), Y).mean(), rtol=1e-5)
    assert float(loss(0.1, 0.1, CLASS_WEIGHTS)) > float(first)


def test_accumulation_equals_the_whole_batch(x64):
    x, params = X.astype(float), jax.tree.map(lambda p: p.astype(float), PARAMS)
    recipe = fn.objective(CE, class_weights=CLASS_WEIGHTS, l2=0.1)
    states = []
    for parts in (1, 4):
        trainer = fn.Trainer(MODEL, objective=recipe, optimizer=optax.sgd(0.1), accumulate=parts)
        state = trainer.init(KEY, x)._replace(params=params)
        states.append(trainer.step(state, (x, Y, WEIGHT.astype(float)))[0].params)
    chex.assert_trees_all_close(*states, rtol=1e-12)


def test_ctc_trains_on_unaligned_labels():
    frames = jax.random.normal(KEY, (8, 6, 5))
    labels = jnp.tile(jnp.array([1, 2]), (8, 1))
    y = {"labels": labels, "padding": jnp.zeros((8, 2))}

    def ctc(y_pred, y):
        silent = jnp.zeros(y_pred.shape[:2])  # no frame is padding
        return optax.losses.ctc_loss(y_pred, silent, y["labels"], y["padding"])

    model = fn.sequential(fn.gru(8), fn.dense(3))
    trainer = fn.Trainer(model, loss=ctc, optimizer=optax.adam(0.05))
    losses = trainer.fit((frames, y), epochs=40, batch_size=8).history["loss"]
    assert losses[-1] < 0.1 * losses[0]


def test_class_weights_of_binary_labels():
    bce = optax.losses.sigmoid_binary_cross_entropy
    model, weights = fn.sequential(fn.dense(1), fn.reshape()), jnp.array([1.0, 5.0])
    params, _ = model.init(KEY, X)
    losses, w = bce(model.apply(params, {}, X)[0], Y % 2), weights[Y % 2]
    got = value(fn.objective(bce, class_weights=weights), (X, Y % 2), model, params)[0]
    np.testing.assert_allclose(got, (w * losses).sum() / w.sum(), rtol=1e-5)


REFUSED = {
    "two class weights of three": (
        lambda: value(fn.objective(CE, class_weights=[1.0, 5.0])),
        "`objective`: class_weights must have one number for each of 3 classes, got float32[2].",
    ),
    "class weights by name": (
        lambda: fn.objective(CE, class_weights={0: 1.0}),
        "`objective`: class_weights must be an array, one number for each class, got {0: 1.0}. "
        "Say `jnp.array([1.0, 5.0])`.",
    ),
    "class weights of float labels": (
        lambda: value(
            fn.objective(optax.losses.sigmoid_binary_cross_entropy, class_weights=[1.0, 2.0]),
            (X, jnp.zeros((12, 3))),
        ),
        "`objective`: class_weights and ignore need integer labels, one for each value of the "
        "loss, got y float32[12, 3] and values float32[12, 3]. Say `y.astype(int)`.",
    ),
    "weights of examples": (
        lambda: fn.objective(CE, weights=[1.0]),
        "`objective`: weights must be a dict from the names of losses to numbers, got [1.0]. "
        "Weights of examples come with the data, `(x, y, weight)`.",
    ),
    "smoothing above 1": (
        lambda: fn.objective(CE, label_smoothing=1.5),
        "`objective`: label_smoothing must be a number in 0 .. 1, got 1.5.",
    ),
    "a negative penalty": (
        lambda: fn.objective(CE, l2={"**/kernel": -1.0}),
        "`objective`: l2 of '**/kernel' must be a number >= 0, got -1.0.",
    ),
    "a penalty that is none": (
        lambda: fn.objective(CE, l1="1e-4"),
        "`objective`: l1 must be a number >= 0, got '1e-4'.",
    ),
    "a mixture that is none": (
        lambda: fn.objective(CE, mix=0.2),
        "`objective`: mix must be a function (key, x) -> (x, partner, share), got 0.2. "
        "Say `fn.augmentation.mixup(0.2)`.",
    ),
    "a metric named as a loss": (
        lambda: value(
            fn.objective({"a": CE}),
            (X, {"a": Y}),
            fn.branches(a=MODEL),
            {"a": PARAMS},
            metrics={"a_loss": fn.metrics.of(fn.metrics.accuracy(), lambda p, y: (p["a"], y["a"]))},
        ),
        "`objective`: no metric can be named 'a_loss', under which a loss is reported. "
        "Give it another name.",
    ),
    "an objective as a loss": (
        lambda: fn.Trainer(MODEL, loss=fn.objective(CE), optimizer=optax.sgd(0.1)),
        "`Trainer`: loss must be a function, got what `fn.objective` made. "
        "Give it as `objective=fn.objective(...)`.",
    ),
    "ignore of several losses": (
        lambda: fn.objective({"a": CE}, ignore=-1),
        "`objective`: class_weights and ignore go with one loss, got a dict of them. Weigh the "
        "classes in the loss that has them, and give each example's value.",
    ),
    "ignore of a half": (
        lambda: fn.objective(CE, ignore=0.5),
        "`objective`: ignore must be a whole number or None, got 0.5.",
    ),
    "smoothing of another loss": (
        lambda: fn.objective(optax.losses.squared_error, label_smoothing=0.1),
        "`objective`: label_smoothing goes with the cross-entropies of optax, "
        "softmax_cross_entropy_with_integer_labels, softmax_cross_entropy, "
        "sigmoid_binary_cross_entropy, got squared_error. Smooth the labels in your own loss.",
    ),
    "a pattern that matches nothing": (
        lambda: value(fn.objective(CE, l2={"head/**": 1.0})),
        "`objective`: a pattern must match some path of params, got 'head/**'. "
        "The paths are bias, kernel.",
    ),
    "class weights of one-hot labels": (
        lambda: value(
            fn.objective(optax.losses.softmax_cross_entropy, class_weights=CLASS_WEIGHTS),
            (X, jnp.zeros((12, 3), int)),
        ),
        "`objective`: class_weights and ignore need integer labels, one for each value of the "
        "loss, got y int32[12, 3] and values float32[12]. Say `y.argmax(-1)` if y is one-hot.",
    ),
    "weights by another name": (
        lambda: fn.objective({"label": CE}, weights={"labels": 1.0}),
        "`objective`: weights must be by the names of the losses, got 'labels'. "
        "Did you mean 'label'?",
    ),
    "an output without that name": (
        lambda: value(fn.objective({"label": CE})),
        "`objective`: the model's output and y must be dicts with an entry for each loss, got none "
        "for 'label' in float32[12, 3].",
    ),
    "a loss that is none": (
        lambda: fn.objective("mse"),
        "`objective`: loss must be a function loss(y_pred, y), got 'mse'. "
        "Take one of `optax.losses`, `optax.losses.squared_error` say.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_words_of_errors(case):
    act, words = REFUSED[case]
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    assert str(caught.value) == words


def test_labels_are_checked_through_a_recipe():
    trainer = fn.Trainer(MODEL, objective=fn.objective(CE), optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. 2"):
        trainer.fit((X, Y + 1), batch_size=4)
