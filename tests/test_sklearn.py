import copy
import pickle
import warnings

import jax
import joblib
import numpy as np
import optax
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    parametrize_with_checks,
)

import funcnet as fn
from funcnet.sklearn import Classifier, Regressor, programs

SGD = (
    "an example of weight 2 counts twice in its batch, and two like it in a batch each, as with "
    "SGDClassifier, for which scikit-learn expects the same; with full batches the law is tested "
    "below"
)


@parametrize_with_checks(
    [Classifier(), Regressor()],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": SGD},
)
def test_scikit_learn_s_own_checks(estimator, check):
    with jax.numpy_rank_promotion("raise"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(estimator)


@pytest.fixture(scope="module")
def iris():
    x, y = load_iris(return_X_y=True)
    return scale(x), y


@pytest.fixture(scope="module")
def classifier(iris):
    return Classifier(random_state=0, epochs=100).fit(*iris)


def linear(n_outputs):
    return fn.dense(n_outputs)


def narrow(n_outputs):
    return fn.sequential(fn.dense(4), jax.nn.tanh, fn.dense(n_outputs))


def same(a, b):
    """Raises unless two estimators' states have the same bits."""
    for one, other in zip(jax.tree.leaves(a.state_), jax.tree.leaves(b.state_), strict=True):
        assert bool((one == other).all())


# oracles


def test_one_layer_is_logistic_regression(iris):
    x, y = iris
    weight = np.random.default_rng(0).uniform(0.5, 2, len(x))
    weight *= len(x) / weight.sum()
    known = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(x, y, weight)
    network = Classifier(
        linear, l2=1 / len(x), learning_rate=0.1, epochs=400, batch_size=len(x), random_state=0
    ).fit(x, y, weight)
    np.testing.assert_allclose(network.predict_proba(x), known.predict_proba(x), atol=2e-3)


def test_one_layer_is_ridge_regression(iris):
    x, y = iris[0][:, :2], iris[0][:, 2:]
    known = Ridge(alpha=6.0).fit(x, y)  # the loss is averaged over both targets
    network = Regressor(
        linear, l2=3 / len(x), learning_rate=0.1, epochs=400, batch_size=len(x), random_state=0
    ).fit(x, y)
    np.testing.assert_allclose(network.predict(x), known.predict(x), atol=1e-3)


def test_it_is_as_good_as_scikit_learn_s(iris, classifier):
    known = MLPClassifier(random_state=0, max_iter=500).fit(*iris).score(*iris)
    assert classifier.score(*iris) > known - 0.02


def test_it_trains_as_the_trainer_does(iris):
    x, y = iris
    trainer = fn.Trainer(
        narrow(3),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-3),
    )
    alone = trainer.fit((x.astype(np.float32), y.astype(np.int32)), epochs=20, seed=7)
    estimator = Classifier(narrow, epochs=20, random_state=7).fit(x, y)
    np.testing.assert_allclose(estimator.history_["loss"], alone.history["loss"], rtol=1e-5)


# laws


def test_weights_are_repeats_where_batches_are_full(iris):
    x, y = iris[0][::10], iris[1][::10]
    times = np.resize([0, 1, 2, 3, 4], 15)  # 12 rows count, and 30 repeated ones
    estimator = Classifier(narrow, batch_size=60, epochs=10, random_state=0)
    weighted = clone(estimator).fit(x, y, times)
    repeated = clone(estimator).fit(x.repeat(times, 0), y.repeat(times))
    np.testing.assert_allclose(weighted.predict_proba(x), repeated.predict_proba(x), atol=1e-6)


def test_class_weights_are_weights(iris):
    x, y = iris
    by_class = Classifier(narrow, class_weight={0: 1, 1: 5, 2: 1}, epochs=2, random_state=0).fit(
        x, y
    )
    by_hand = Classifier(narrow, epochs=2, random_state=0).fit(x, y, np.where(y == 1, 5, 1))
    same(by_class, by_hand)


def test_balanced_weights_come_from_the_counts(iris):
    x, y = (
        np.concatenate([iris[0][:70], iris[0][-50:]]),
        np.concatenate([iris[1][:70], iris[1][-50:]]),
    )
    balanced = Classifier(narrow, class_weight="balanced", epochs=2, random_state=0).fit(x, y)
    by_hand = Classifier(narrow, epochs=2, random_state=0).fit(x, y, np.array([0.8, 2.0, 0.8])[y])
    np.testing.assert_allclose(balanced.predict_proba(x), by_hand.predict_proba(x), rtol=1e-5)


def test_parts_are_the_epochs_of_a_fit(iris):
    whole = Classifier(narrow, random_state=3, epochs=3).fit(*iris)
    parts = Classifier(narrow, random_state=3)
    for _ in range(3):
        parts.partial_fit(*iris, classes=[0, 1, 2])
    assert parts.n_iter_ == 3
    np.testing.assert_array_equal(parts.history_["loss"], whole.history_["loss"])
    same(parts, whole)


def test_a_warm_start_goes_on(iris):
    whole = Classifier(narrow, random_state=3, epochs=4).fit(*iris)
    warm = Classifier(narrow, random_state=3, epochs=2, warm_start=True).fit(*iris).fit(*iris)
    same(warm, whole)
    assert int(warm.state_.step) == 20


def test_a_prediction_does_not_depend_on_the_other_rows(iris, classifier):
    x = iris[0]
    many = np.tile(x, (2, 1))
    np.testing.assert_array_equal(classifier.predict_proba(many)[:150], classifier.predict_proba(x))
    np.testing.assert_array_equal(
        classifier.predict_proba(x[77:78]), classifier.predict_proba(x)[77:78]
    )


def test_the_same_seed_gives_the_same_bits(iris):
    def fit(random_state):
        return Classifier(narrow, random_state=random_state, epochs=1).fit(*iris)

    same(fit(5), fit(5))
    same(fit(np.random.RandomState(5)), fit(np.random.RandomState(5)))
    generator = np.random.RandomState(5)
    assert not np.array_equal(
        fit(generator).predict_proba(iris[0]), fit(generator).predict_proba(iris[0])
    )
    np.random.seed(1)
    first = fit(None)
    np.random.seed(1)
    same(first, fit(None))


def test_refits_take_the_program_of_the_first(iris):
    x, y = iris
    estimator = Classifier(narrow, epochs=3, random_state=0).fit(x, y)
    made = programs.training(estimator._kind(), programs.EPOCHS, 32, True, None)
    before = made.whole._cache_size(), programs.training.cache_info().misses
    for n, rate, epochs in ((150, 1e-3, 1), (149, 1, 2), (130, np.float32(0.3), 100)):
        again = clone(estimator).set_params(learning_rate=rate, epochs=epochs)
        assert again.fit(x[:n], y[:n]).n_iter_ == epochs
    assert (made.whole._cache_size(), programs.training.cache_info().misses) == before


def test_room_for_more_examples_changes_no_bit(iris, monkeypatch):
    first = Classifier(narrow, epochs=2, random_state=0).fit(*iris)
    monkeypatch.setattr(programs, "LEAST", 1024)
    same(first, Classifier(narrow, epochs=2, random_state=0).fit(*iris))


def test_short_calls_change_no_bit(iris, monkeypatch):
    first = Classifier(narrow, epochs=3, random_state=0).fit(*iris)
    monkeypatch.setattr(programs, "AT_ONCE", 1)
    monkeypatch.setattr(programs, "QUICK", 0.0)
    assert list(programs.portions(3, 150)) == [1, 2, 3]
    same(first, Classifier(narrow, epochs=3, random_state=0).fit(*iris))


# scikit-learn's tools


def test_grid_search_in_a_pipeline(iris):
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), Classifier(narrow, epochs=10, random_state=0))
    rates = [1e-6, 0.05]
    search = GridSearchCV(pipeline, {"classifier__learning_rate": rates}, cv=3).fit(x, y)
    assert search.best_params_ == {"classifier__learning_rate": 0.05}
    assert search.best_score_ > 0.9
    assert search.score(x, y) > 0.9


def test_random_search_and_cross_validation(iris):
    space = {"learning_rate": [0.01, 0.02, 0.05], "epochs": [3, 10], "shuffle": [True]}
    search = RandomizedSearchCV(Classifier(narrow), space, n_iter=3, cv=2, random_state=0)
    assert search.fit(*iris).best_score_ > 0.5
    assert len(cross_val_score(search.best_estimator_, *iris, cv=3)) == 3


def test_columns_have_names():
    check_dataframe_column_names_consistency("Classifier", Classifier(narrow, epochs=1))


def test_scaled_targets():
    x = np.linspace(-1, 1, 100)[:, None]
    y = 1e4 + 1e3 * x[:, 0]
    network = Regressor(narrow, learning_rate=0.05, random_state=0)
    scaled = TransformedTargetRegressor(network, transformer=StandardScaler()).fit(x, y)
    assert scaled.score(x, y) > 0.95


def test_early_stopping(iris):
    x, y = iris
    estimator = Classifier(
        narrow, early_stopping=True, learning_rate=0.1, epochs=128, patience=3, random_state=0
    ).fit(x, y)
    assert estimator.n_iter_ < 128
    assert estimator.result_.reason == fn.Reason.PATIENCE
    best = int(np.argmin(estimator.history_["val_loss"]))
    assert estimator.n_iter_ == best + 1 + 3
    assert int(estimator.state_.step) == (best + 1) * int(np.ceil(135 / 32))
    assert set(estimator.history_) == {"loss", "accuracy", "val_loss", "val_accuracy"}

    _, held = estimator._split((x.astype(np.float32), y.astype(np.int32), np.ones(150)), 0)
    assert np.bincount(held[1]).tolist() == [5, 5, 5]
    values = estimator.trainer_.evaluate(estimator.state_, held[:2])
    assert abs(values["loss"] - estimator.history_["val_loss"][best]) < 1e-6


def test_words_are_labels(iris):
    x, y = iris
    words = load_iris().target_names[y]
    estimator = Classifier(narrow, learning_rate=0.05, random_state=0, epochs=20).fit(x, words)
    assert estimator.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert estimator.score(x, words) > 0.8
    for method in ("predict_proba", "predict_log_proba", "decision_function"):
        assert getattr(estimator, method)(x).shape == (150, 3)


def test_tables_of_labels():
    x, y = make_multilabel_classification(200, 10, n_classes=4, random_state=0)
    estimator = Classifier(narrow, learning_rate=0.05, random_state=0).fit(scale(x), y)
    assert (estimator.predict(scale(x)) == y).mean() > 0.8
    assert estimator.predict_proba(scale(x)).shape == (200, 4)
    np.testing.assert_allclose(
        estimator.predict_log_proba(scale(x)), np.log(estimator.predict_proba(scale(x)))
    )


def test_images_and_dropout(iris):
    x = np.random.default_rng(0).normal(size=(40, 6, 6, 1))
    y = (x[:, :3].mean((1, 2, 3)) > 0).astype(int)

    def make_model(n_outputs):
        return fn.sequential(
            fn.conv(4, (3, 3)), jax.nn.relu, fn.flatten(), fn.dropout(0.1), fn.dense(n_outputs)
        )

    estimator = Classifier(make_model, epochs=30, learning_rate=0.01, random_state=0).fit(x, y)
    assert estimator.score(x, y) > 0.8


def one_hot_loss(y_pred, y):
    return optax.losses.poly_loss_cross_entropy(y_pred, jax.nn.one_hot(y, 3))


@pytest.mark.parametrize(
    "arguments",
    [
        {"optimizer": optax.sgd, "learning_rate": 0.1, "hidden_layer_sizes": 7},
        {"optimizer": optax.chain(optax.clip(1.0), optax.adam(0.01)), "model": fn.dense(3)},
        {
            "learning_rate": optax.schedules.cosine_decay_schedule(0.05, 25),
            "loss": one_hot_loss,
            "l2": 1e-4,
            "model": linear,
        },
    ],
    ids=list,
)
def test_whatever_is_given_trains(iris, arguments):
    estimator = clone(Classifier(epochs=5, random_state=0, **arguments)).fit(*iris)
    assert estimator.history_["loss"][-1] < estimator.history_["loss"][0]


# as bytes


def test_a_fitted_estimator_is_pickled(tmp_path, iris, classifier):
    joblib.dump(classifier, tmp_path / "network.joblib")
    x = iris[0]
    for loaded in (
        pickle.loads(pickle.dumps(classifier)),
        joblib.load(tmp_path / "network.joblib"),
        joblib.load(tmp_path / "network.joblib", mmap_mode="r"),
    ):
        np.testing.assert_array_equal(loaded.predict_proba(x), classifier.predict_proba(x))
        same(loaded, classifier)
        assert loaded.result_.message == classifier.result_.message


def test_what_was_loaded_goes_on(iris):
    estimator = Classifier(narrow, epochs=2, warm_start=True, random_state=0).fit(*iris)
    loaded = pickle.loads(pickle.dumps(estimator))
    same(loaded.fit(*iris), estimator.fit(*iris))


def test_functions_within_functions_are_pickled_too(iris):
    width = 5

    def make_model(n_outputs):
        return fn.sequential(fn.dense(width), jax.nn.relu, fn.dense(n_outputs))

    estimator = Classifier(make_model, epochs=1, random_state=0).fit(*iris)
    loaded = pickle.loads(pickle.dumps(estimator))
    for each in (loaded, copy.deepcopy(estimator), copy.copy(estimator)):
        np.testing.assert_array_equal(each.predict_proba(iris[0]), estimator.predict_proba(iris[0]))
    estimator.set_params(model=make_model(3), optimizer=optax.sgd(0.1))
    again = pickle.loads(pickle.dumps(estimator))
    assert isinstance(again.model, fn.Model)
    assert hasattr(again.optimizer, "update")


# mistakes


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"epochs": 0}, ValueError, "`Classifier`: epochs must be a positive whole number, got 0."),
        (
            {"learning_rate": -1.0},
            ValueError,
            "`Classifier`: learning_rate must be a number, 0 or more, got -1.0. Give 0.001 say.",
        ),
        (
            {"activation": "rleu"},
            ValueError,
            "`Classifier`: activation must be the name of a function in jax.nn, got 'rleu'. "
            "Did you mean 'relu'?",
        ),
        (
            {"hidden_layer_sizes": "10"},
            TypeError,
            "`Classifier`: hidden_layer_sizes must be a tuple of whole numbers, got '10'. "
            "Say `(100,)` for one layer.",
        ),
        (
            {"early_stopping": True, "validation_fraction": 10},
            ValueError,
            "`Classifier`: validation_fraction must lie between 0 and 1, got 10. "
            "Give the share of the examples to hold out, 0.1 say.",
        ),
        (
            {"early_stopping": 5},
            TypeError,
            "`Classifier`: early_stopping must be True or False, got 5.",
        ),
        (
            {"model": fn.dense(2)},
            ValueError,
            "`Classifier`: the model must give 3 numbers an example, one for each class, got "
            "float32[1, 2]. Give a function of the number, "
            "`def make_model(n_outputs): return fn.sequential(..., fn.dense(n_outputs))`.",
        ),
        (
            {"model": "mlp"},
            TypeError,
            "`Classifier`: model must be a fn.Model, or a function that makes one of the number "
            "of outputs, got 'mlp'. Make one of it with `fn.as_model`.",
        ),
        (
            {"model": float},
            TypeError,
            "`Classifier`: model must be a function that returns a fn.Model, got float of it. "
            "End it with `return fn.sequential(...)`.",
        ),
        (
            {"optimizer": "adam"},
            TypeError,
            "`Classifier`: optimizer must be one of optax, or a function that makes one of the "
            "learning rate, got 'adam'. Give `optax.adamw` say.",
        ),
        (
            {"loss": "mse"},
            TypeError,
            "`Classifier`: loss must be a function loss(y_pred, y), got 'mse'. "
            "Take one of `optax.losses`, `optax.losses.huber_loss` say.",
        ),
        (
            {"placement": "gpu"},
            TypeError,
            "`Classifier`: placement must be a fn.Placement, got 'gpu'. "
            "Say `placement=fn.data_parallel()`.",
        ),
    ],
    ids=str,
)
def test_wrong_arguments(iris, arguments, error, words):
    estimator = Classifier(**arguments)
    with pytest.raises(error) as caught:
        estimator.fit(*iris)
    assert words in str(caught.value)


def test_wrong_weights(iris):
    estimator = Classifier()
    with pytest.raises(ValueError, match="sample_weight must hold one number for each of 150"):
        estimator.fit(*iris, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match=r"0 or more everywhere, got -1\.0"):
        estimator.fit(*iris, sample_weight=-np.ones(150))
    with pytest.raises(ValueError, match="sample_weight must not be zero everywhere"):
        estimator.fit(*iris, sample_weight=np.zeros(150))


def test_wrong_parts(iris, classifier):
    x, y = iris
    with pytest.raises(ValueError, match="`partial_fit`: classes must be given in the first call"):
        Classifier().partial_fit(x, y)
    with pytest.raises(ValueError, match="early_stopping must be off for partial_fit, got True"):
        Classifier(early_stopping=True).partial_fit(x, y, [0, 1, 2])
    with pytest.raises(ValueError, match="class_weight must be a dict or None, got 'balanced'"):
        Classifier(class_weight="balanced").partial_fit(x, y, [0, 1, 2])
    with pytest.raises(ValueError, match="labels must be among the classes of before, got 2"):
        Classifier().partial_fit(x, y, [0, 1])
    with pytest.raises(ValueError, match=r"those of the first call, got \[0, 1\] after \[0, 1, 2"):
        pickle.loads(pickle.dumps(classifier)).partial_fit(x, y, [0, 1])


def test_a_warm_start_with_another_optimizer(iris):
    estimator = Classifier(narrow, epochs=1, warm_start=True).fit(*iris)
    with pytest.raises(ValueError, match="go on with the model and the optimizer of before, got\n"):
        estimator.set_params(optimizer=optax.sgd).fit(*iris)


def test_before_fit_there_is_nothing(iris):
    estimator = Classifier()
    for get in (lambda: estimator.state_, lambda: estimator.trainer_):
        with pytest.raises(NotFittedError, match="This Classifier instance is not fitted yet"):
            get()


def test_training_that_breaks_is_told(iris):
    estimator = Regressor(narrow, optimizer=optax.sgd, learning_rate=1e30, epochs=3)
    with pytest.warns(ConvergenceWarning, match="training broke, a loss or a param was not finite"):
        estimator.fit(iris[0], iris[1])
    assert np.isfinite(estimator.predict(iris[0])).all()


def test_what_broke_goes_on_from_what_was_sound(iris):
    estimator = Regressor(narrow, optimizer=optax.sgd, learning_rate=1e30, epochs=3)
    with pytest.warns(ConvergenceWarning, match="training broke"):
        estimator.partial_fit(iris[0], iris[1])
    assert np.isfinite(estimator.predict(iris[0])).all()
    estimator.set_params(learning_rate=1e-3, warm_start=True)
    assert np.isfinite(estimator.fit(iris[0], iris[1]).history_["loss"]).all()


def test_several_classes_in_several_columns(iris):
    with pytest.raises(ValueError, match="y must hold one label an example, or a table of 0 and 1"):
        Classifier().fit(iris[0], np.stack([iris[1], iris[1]], 1))


def test_what_cannot_be_pickled_is_told():
    with pytest.raises(TypeError, match="placement must be something that can be pickled, got"):
        pickle.dumps(Classifier(placement=fn.data_parallel()))


def test_without_its_placement_an_estimator_is_pickled(iris):
    estimator = Classifier(narrow, epochs=1, random_state=0, placement=fn.data_parallel())
    estimator.fit(*iris).set_params(placement=None)
    loaded = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_allclose(
        loaded.predict_proba(iris[0]), estimator.predict_proba(iris[0]), rtol=1e-6
    )


def test_it_tells_on_its_way(iris, capsys):
    Classifier(narrow, epochs=2, verbose=True, random_state=0).fit(*iris)
    assert capsys.readouterr().out.startswith("epoch 2: accuracy=0.")
