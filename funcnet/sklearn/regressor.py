"""The regressor: numbers out, one or several an example."""

# ruff: noqa: N803, N806 - scikit-learn calls its data X

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin

from funcnet.sklearn import arguments
from funcnet.sklearn.base import Estimator


class Regressor(RegressorMixin, Estimator):  # type: ignore[misc] # scikit-learn carries no types
    """A neural network that predicts numbers, one or several an example, as scikit-learn has it.

    It trains as `Classifier` does. Targets that are far from 0, or large, are learnt faster when
    scaled: `sklearn.compose.TransformedTargetRegressor` does it.

    Args:
        model: what is trained: a function `make_model(n_outputs) -> fn.Model`, which is told the
            number of targets; or a `fn.Model`; a perceptron of `hidden_layer_sizes` unless given.
        hidden_layer_sizes: sizes of the perceptron's hidden layers; of no use with a model.
        activation: the name of what follows each of them, in `jax.nn`.
        optimizer: a function `learning_rate -> optimizer`, `optax.adamw` say; or an optimizer, for
            which `learning_rate` is of no use; `optax.adam` unless given.
        learning_rate: a number; or a function of the step, such as optax's schedules.
        loss: `loss(y_pred, y)` of two arrays `[examples, targets]`; `optax.losses.squared_error`
            unless given.
        l2: adds `l2 * sum(p**2)` of every param named `kernel` to the loss.
        epochs: passes through the data, the most there are with `early_stopping`.
        batch_size: examples a batch. Batches are full: the last one of an epoch is filled up
            from the next epoch's order.
        shuffle: whether each epoch has an order of its own.
        early_stopping: whether to hold out `validation_fraction` of the examples, and to stop when
            their loss has not improved for `patience` epochs; the best epoch is kept.
        validation_fraction: the share held out, between 0 and 1.
        patience: epochs without improvement.
        min_delta: what counts as improvement.
        warm_start: whether `fit` goes on from the fit before, with its optimizer's memory.
        random_state: a seed, a `numpy.random.RandomState`, or None for another run each time.
        placement: where arrays live, from `fn.data_parallel` say.
        verbose: whether to print the loss now and then.

    Attributes:
        n_features_in_, feature_names_in_: of the data; the names where they are all words.
        n_outputs_: numbers that the network gives.
        n_iter_: epochs taken.
        history_: values of each epoch by name, `loss`, `val_loss`.
        result_: what `Trainer.fit` gives back; `fn.plot` draws it.
        state_: the `fn.TrainState` that predicts: that of the best epoch.
        trainer_: the `fn.Trainer` with these arguments.

    Example:
        >>> import numpy as np, funcnet as fn
        >>> x = np.linspace(-1, 1, 200)[:, None]
        >>> network = fn.sklearn.Regressor(learning_rate=0.01, random_state=0)
        >>> network.fit(x, np.sin(3 * x[:, 0])).score(x, np.sin(3 * x[:, 0])) > 0.99
        True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains the network, and returns the estimator.

        Args:
            X: `[examples, features]`; or images `[examples, height, width, channels]`, for a model
                that takes them. It is taken as float32.
            y: `[examples]`, or `[examples, targets]`.
            sample_weight: `[examples]`, how much each counts; an example of weight 0 is left out.

        Raises:
            TypeError, ValueError: an argument is wrong, in scikit-learn's words where they are of
                data; nothing has been trained then.
        """
        X, y = self._checked(X, y, fresh=not self._is_warm())
        weight = arguments.weights_of("Regressor", sample_weight, len(X))
        return self._fit(X, self._targets(y), weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains for one epoch more, from wherever the estimator is.

        Args:
            X: examples, as in `fit`.
            y: their targets.
            sample_weight: as in `fit`.
        """
        self._check_partial()
        X, y = self._checked(X, y, fresh=not hasattr(self, "result_"))
        weight = arguments.weights_of("Regressor", sample_weight, len(X))
        return self._partial_fit(X, self._targets(y), weight)

    def predict(self, X: Any) -> np.ndarray:
        """The targets of each example, float64, in the form that `y` had.

        Args:
            X: examples, as in `fit`.
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if self._flat else outputs

    def _targets(self, y: np.ndarray) -> np.ndarray:
        """Targets as a table, whose form is kept in mind."""
        self._flat = y.ndim == 1
        table = y.reshape(len(y), -1).astype(np.float32)
        self.n_outputs_ = table.shape[1]
        return table

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
