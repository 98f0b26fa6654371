"""The classifier: labels in and out, probabilities."""

# ruff: noqa: N803, N806 - scikit-learn calls its data X

from typing import Any, Self

import numpy as np
from scipy.special import expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from funcnet import errors
from funcnet.sklearn import arguments
from funcnet.sklearn.base import Estimator


class Classifier(ClassifierMixin, Estimator):  # type: ignore[misc] # scikit-learn carries no types
    """A neural network that classifies, as scikit-learn has it.

    Labels of any kind are taken: numbers, words, and tables of 0 and 1 that tell of each example
    which of several labels it has. The network is a perceptron, or any model of funcnet. Training
    is that of `fn.make_run`, which is what `Trainer.fit` does: fits that differ in numbers, in the
    learning rate say, or slightly in the number of examples take the same compiled program.

    Args:
        model: what is trained: a function `make_model(n_outputs) -> fn.Model`, which is told the
            number of classes; or a `fn.Model`; a perceptron of `hidden_layer_sizes` unless given.
        hidden_layer_sizes: sizes of the perceptron's hidden layers; of no use with a model.
        activation: the name of what follows each of them, in `jax.nn`.
        optimizer: a function `learning_rate -> optimizer`, `optax.adamw` say; or an optimizer, for
            which `learning_rate` is of no use; `optax.adam` unless given.
        learning_rate: a number; or a function of the step, such as optax's schedules.
        loss: `loss(y_pred, y)`, one number an example, with `y` numbered from 0; the cross-entropy
            of the softmax unless given, that of the sigmoid for tables of labels.
        l2: adds `l2 * sum(p**2)` of every param named `kernel` to the loss.
        epochs: passes through the data, the most there are with `early_stopping`.
        batch_size: examples a batch. Batches are full: the last one of an epoch is filled up
            from the next epoch's order.
        shuffle: whether each epoch has an order of its own.
        early_stopping: whether to hold out `validation_fraction` of the examples, in the
            proportions of the classes, and to stop when their loss has not improved for `patience`
            epochs; the best epoch is kept.
        validation_fraction: the share held out, between 0 and 1.
        patience: epochs without improvement.
        min_delta: what counts as improvement.
        class_weight: weights by class, `{"rare": 10}`; or "balanced".
        warm_start: whether `fit` goes on from the fit before, with its optimizer's memory.
        random_state: a seed, a `numpy.random.RandomState`, or None for another run each time.
        placement: where arrays live, from `fn.data_parallel` say.
        verbose: whether to print the loss now and then.

    Attributes:
        classes_: the labels in order, or the numbers of the columns of a table of labels.
        n_features_in_, feature_names_in_: of the data; the names where they are all words.
        n_outputs_: numbers that the network gives.
        n_iter_: epochs taken.
        history_: values of each epoch by name, `loss`, `accuracy`, `val_loss`, `val_accuracy`.
        result_: what `Trainer.fit` gives back; `fn.plot` draws it.
        state_: the `fn.TrainState` that predicts: that of the best epoch.
        trainer_: the `fn.Trainer` with these arguments.

    Example:
        >>> import funcnet as fn
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> x, y = load_iris(return_X_y=True)
        >>> network = make_pipeline(StandardScaler(), fn.sklearn.Classifier(random_state=0))
        >>> network.fit(x, y).score(x, y) > 0.9
        True
    """

    classes_: np.ndarray

    def __init__(
        self,
        model: Any = None,
        *,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        optimizer: Any = None,
        learning_rate: Any = 1e-3,
        loss: Any = None,
        l2: float = 0.0,
        epochs: int = 100,
        batch_size: int = 32,
        shuffle: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        class_weight: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
        placement: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            optimizer=optimizer,
            learning_rate=learning_rate,
            loss=loss,
            l2=l2,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            patience=patience,
            min_delta=min_delta,
            warm_start=warm_start,
            random_state=random_state,
            placement=placement,
            verbose=verbose,
        )
        self.class_weight = class_weight

    @property
    def _task(self) -> str:
        """Whether an example has one label, or any number of them."""
        return "labels" if getattr(self, "_many_labels", False) else "classes"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains the network, and returns the estimator.

        Args:
            X: `[examples, features]`; or images `[examples, height, width, channels]`, for a model
                that takes them. It is taken as float32.
            y: labels `[examples]`, or a table of 0 and 1, `[examples, labels]`.
            sample_weight: `[examples]`, how much each counts; an example of weight 0 is left out.

        Raises:
            TypeError, ValueError: an argument is wrong, in scikit-learn's words where they are of
                data; nothing has been trained then.
        """
        fresh = not self._is_warm()
        X, y = self._checked(X, y, fresh=fresh)
        labels, classes = self._encoded(y, None if fresh else self.classes_)
        weight = self._weights(labels_of(y), sample_weight, len(X))
        self.classes_, self.n_outputs_ = classes, len(classes)
        return self._fit(X, labels, weight)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Trains for one epoch more, from wherever the estimator is.

        Args:
            X: examples, as in `fit`.
            y: their labels.
            classes: all labels that there are; the first call needs them.
            sample_weight: as in `fit`.

        Raises:
            ValueError: `classes` is missing in the first call, or is another than before.
        """
        fresh = not hasattr(self, "result_")
        self._check_partial()
        if fresh and classes is None:
            raise ValueError(
                "`partial_fit`: classes must be given in the first call, got None. "
                "Say `classes=np.unique(y)` of all labels."
            )
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"`partial_fit`: class_weight must be a dict or None, got {self.class_weight!r}, "
                "for which all data must be known. Compute it with "
                "`sklearn.utils.class_weight.compute_class_weight`."
            )
        X, y = self._checked(X, y, fresh=fresh)
        known = np.unique(classes) if fresh else self.classes_
        if classes is not None and not np.array_equal(np.unique(classes), known):
            raise ValueError(
                "`partial_fit`: classes must be those of the first call, got "
                f"{np.unique(classes).tolist()} after {known.tolist()}."
            )
        labels, classes = self._encoded(y, known)
        weight = self._weights(labels_of(y), sample_weight, len(X))
        self.classes_, self.n_outputs_ = classes, len(classes)
        return self._partial_fit(X, labels, weight)

    def predict(self, X: Any) -> np.ndarray:
        """The label of each example, `[examples]`; or a table of 0 and 1.

        Args:
            X: examples, as in `fit`.
        """
        outputs = self._outputs(X)
        if self._fitted.task == "labels":
            return (outputs > 0).astype(int)
        labels: np.ndarray = self.classes_[outputs.argmax(1)]
        return labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, `float64[examples, classes]`, in the order of `classes_`.

        Args:
            X: examples, as in `fit`.
        """
        outputs = self._outputs(X)
        found: np.ndarray = (
            expit(outputs) if self._fitted.task == "labels" else softmax(outputs, axis=1)
        )
        return found

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of `predict_proba`.

        Args:
            X: examples, as in `fit`.
        """
        outputs = self._outputs(X)
        many = self._fitted.task == "labels"
        found: np.ndarray = -np.logaddexp(0, -outputs) if many else log_softmax(outputs, axis=1)
        return found

    def decision_function(self, X: Any) -> np.ndarray:
        """What the network gives for each class, before the softmax, `[examples, classes]`.

        Of two classes it is the difference, `[examples]`: positive for the second.

        Args:
            X: examples, as in `fit`.
        """
        outputs = self._outputs(X)
        two = self._fitted.task == "classes" and self.n_outputs_ == 2
        return outputs[:, 1] - outputs[:, 0] if two else outputs

    def _encoded(self, y: Any, classes: Any) -> tuple[np.ndarray, np.ndarray]:
        """Labels numbered from 0, and the classes: `classes`, or those of `y` if it is None."""
        y = labels_of(y)
        check_classification_targets(y)
        many = type_of_target(y) == "multilabel-indicator"
        if not many and y.ndim > 1:
            raise ValueError(
                "`Classifier`: y must hold one label an example, or a table of 0 and 1, got "
                f"{errors.describe(y)}. Fit one estimator a column, with `MultiOutputClassifier`."
            )
        found = np.arange(y.shape[1]) if many else np.unique(y)
        classes = found if classes is None else classes
        unknown = np.setdiff1d(found, classes)
        if unknown.size:
            known = ", ".join(map(repr, classes.tolist()))
            raise ValueError(
                "`Classifier`: labels must be among the classes of before, got "
                f"{unknown.tolist()[0]!r}. Known are: {known}."
            )
        self._many_labels = many
        labels = y.astype(np.float32) if many else np.searchsorted(classes, y).astype(np.int32)
        return labels, classes

    def _weights(self, y: np.ndarray, sample_weight: Any, examples: int) -> np.ndarray:
        """The weights of examples, those of their classes included."""
        weight = arguments.weights_of("Classifier", sample_weight, examples)
        if self.class_weight is not None:
            weight = weight * compute_sample_weight(self.class_weight, y)
        return weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def labels_of(y: Any) -> np.ndarray:
    """`y` as a dense array, of one axis if it is a column; scikit-learn warns of that."""
    y = y.toarray() if hasattr(y, "toarray") else y
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    labels: np.ndarray = y
    return labels
