"""What both estimators share: how data come in, how training is done, what is stored."""

# ruff: noqa: N803, N806 - scikit-learn calls its data X

import warnings
from typing import Any, Self

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted, validate_data

from funcnet.sklearn import arguments, pickling, programs
from funcnet.sklearn.programs import Kind
from funcnet.stopping import Reason
from funcnet.trainer import Result, Trainer
from funcnet.types import TrainState


class Estimator(BaseEstimator):  # type: ignore[misc] # scikit-learn carries no types
    """A neural network as scikit-learn has it; its `_task` says what for."""

    result_: Result
    history_: dict[str, np.ndarray]
    n_iter_: int
    n_outputs_: int
    _state: TrainState
    _fitted: Kind

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
        warm_start: bool = False,
        random_state: Any = None,
        placement: Any = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.loss = loss
        self.l2 = l2
        self.epochs = epochs
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.min_delta = min_delta
        self.warm_start = warm_start
        self.random_state = random_state
        self.placement = placement
        self.verbose = verbose

    @property
    def _task(self) -> str:
        """What the outputs are for."""
        return "numbers"

    @property
    def state_(self) -> TrainState:
        """What predicts: the state after the best epoch, or after the last `partial_fit`."""
        check_is_fitted(self, "result_")
        return self._state

    @property
    def trainer_(self) -> Trainer:
        """The trainer of these arguments, for whatever an estimator can't do."""
        check_is_fitted(self, "result_")
        return programs.make_trainer(self._kind(), self._numbers())

    def _kind(self) -> Kind:
        """What decides on the programs."""
        name = type(self).__name__
        sizes = arguments.hidden_sizes(name, self.hidden_layer_sizes) if self.model is None else ()
        rate = self.learning_rate
        return Kind(
            task=self._task,
            outputs=self.n_outputs_,
            model=self.model,
            hidden=sizes,
            activation=self.activation if self.model is None else "",
            optimizer=self.optimizer,
            schedule=rate if callable(rate) else None,
            loss=self.loss,
            penalised=bool(self.l2),
            placement=self.placement,
        )

    def _numbers(self) -> dict[str, float]:
        """What varies from fit to fit without another program."""
        rate = {} if callable(self.learning_rate) else {"learning_rate": self.learning_rate}
        return rate | ({"l2": self.l2} if self.l2 else {})

    def _checked(self, X: Any, y: Any, *, fresh: bool) -> tuple[np.ndarray, np.ndarray]:
        """The data as scikit-learn has them checked; features are counted anew if `fresh`."""
        arguments.check_arguments(type(self).__name__, self.get_params(deep=False))
        X, y = validate_data(
            self, X, y, reset=fresh, dtype=np.float32, allow_nd=True, multi_output=True,
            y_numeric=self._task == "numbers",
        )  # fmt: skip
        return X, y

    def _train(self, x: Any, y: Any, weight: Any, epochs: int, start: Any, stopping: Any) -> Result:
        """Trains on examples that count, and stores what has come of it."""
        counted = weight > 0
        if not counted.any():
            raise ValueError(
                f"`{type(self).__name__}`: sample_weight must not be zero everywhere, got no "
                "weight above 0. Leave it out to count all examples alike."
            )
        columns = x[counted], y[counted], as_shares(weight[counted])
        seed, validation = arguments.seed_of(self.random_state), None
        if stopping is not None:
            columns, validation = self._split(columns, seed)
            validation = programs.held_out(validation, self.batch_size)
        kind = self._kind()
        most = programs.room(epochs, programs.EPOCHS)
        made = programs.kept(
            programs.training, kind, most, self.batch_size, bool(self.shuffle), stopping
        )
        self._fitted = kind
        result = programs.train(
            made,
            jax.random.key(seed),
            columns,
            self._numbers(),
            epochs=epochs,
            validation=validation,
            start=start,
            told=tell if self.verbose else None,
        )
        if result.reason == Reason.NON_FINITE:
            warnings.warn(
                f"`{type(self).__name__}`: training broke, {result.message}. Scale the data, with "
                "`StandardScaler()` say, or give a smaller learning_rate.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return result

    def _split(self, columns: Any, seed: int) -> tuple[Any, Any]:
        """Columns to train on and to validate on, in the proportions of the classes."""
        stratify = columns[1] if self._task == "classes" else None
        train, held = train_test_split(
            np.arange(len(columns[0])),
            test_size=self.validation_fraction,
            random_state=seed,
            stratify=stratify,
        )
        return tuple(part[train] for part in columns), tuple(part[held] for part in columns)

    def _fit(self, x: Any, y: Any, weight: Any) -> Self:
        """The training of `fit`, from the beginning unless it is a warm start."""
        start = onward(self.result_) if self._is_warm() else None
        stopping = (int(self.patience), float(self.min_delta)) if self.early_stopping else None
        self.result_ = self._train(x, y, weight, int(self.epochs), start, stopping)
        self.history_ = dict(self.result_.history)
        self.n_iter_ = len(self.history_["loss"])
        self._state = self.result_.best
        return self

    def _partial_fit(self, x: Any, y: Any, weight: Any) -> Self:
        """One epoch more, after which it is the last state that predicts."""
        before = self.history_ if hasattr(self, "result_") else {}
        start = onward(self.result_) if hasattr(self, "result_") else None
        self.result_ = self._train(x, y, weight, 1, start, None)
        self.history_ = {
            name: np.concatenate([before.get(name, values[:0]), values])
            for name, values in self.result_.history.items()
        }
        self.n_iter_ = len(self.history_["loss"])
        self._state = onward(self.result_)
        return self

    def _is_warm(self) -> bool:
        """Whether a fit goes on from the one before."""
        return bool(self.warm_start) and hasattr(self, "result_")

    def _check_partial(self) -> None:
        """Raises where an argument makes no sense for data that come in parts."""
        if self.early_stopping:
            raise ValueError(
                f"`{type(self).__name__}`: early_stopping must be off for partial_fit, got True. "
                "Hold data out yourself, and stop calling it."
            )

    def _outputs(self, X: Any) -> np.ndarray:
        """What the model gives for `X`, `float64[rows, outputs]`."""
        check_is_fitted(self, "result_")
        X = validate_data(self, X, reset=False, dtype=np.float32, allow_nd=True)
        return programs.predict(self._fitted, self._state, X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: arrays without devices, functions in a form that can be."""
        state = super().__getstate__()
        own = type(self).__name__
        return {name: pickling.stored(own, name, value) for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what was pickled."""
        super().__setstate__({name: pickling.restored(value) for name, value in state.items()})

    def __copy__(self) -> Self:
        """Another estimator with the same attributes."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new


def onward(result: Result) -> TrainState:
    """The last state of a training, from which another goes on; the best one where it broke."""
    return result.best if result.reason == Reason.NON_FINITE else result.last


def as_shares(weight: np.ndarray) -> np.ndarray:
    """Weights whose mean is 1: the objective takes their ratios only."""
    shares: np.ndarray = (weight * (len(weight) / weight.sum())).astype(np.float32)
    return shares


def tell(progress: Any) -> None:
    """Prints the values of the last epoch."""
    epoch = int(progress.epoch)
    if epoch:
        values = {name: line[epoch - 1] for name, line in progress.history.items()}
        print(f"epoch {epoch}:", ", ".join(f"{k}={float(v):.4g}" for k, v in values.items()))
