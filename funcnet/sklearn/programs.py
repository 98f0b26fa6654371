"""The compiled programs of the estimators, kept from one fit to the next."""

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from funcnet import errors
from funcnet.data import subset
from funcnet.metrics import accuracy
from funcnet.nn import dense, flatten, sequential
from funcnet.stopping import Reason, early_stopping
from funcnet.trainer import Result, Trainer, make_run
from funcnet.training import objective
from funcnet.types import Model, TrainState

LOSSES = {
    "classes": optax.losses.softmax_cross_entropy_with_integer_labels,
    "labels": optax.losses.sigmoid_binary_cross_entropy,
    "numbers": optax.losses.squared_error,
}
"""The loss of each task unless another is given."""

KEPT = 64
"""How many kinds of trainings and of predictions keep their programs."""

LEAST, FINE = 512, 1024
"""Room for examples is a power of two from the first to the second, then a multiple of that."""

EPOCHS = 128
"""Room for epochs is a power of two, at least this."""

BATCH = 128
"""Rows of a batch in prediction: always as many, so that no prediction depends on the others."""

QUICK = 0.25
"""Seconds under which a call for several epochs is followed by one for twice as many."""

AT_ONCE = 100_000
"""Examples, over all epochs, that the first call takes at most."""


class Kind(NamedTuple):
    """What decides on the code of a training, its numbers and the shapes of data aside.

    Attributes:
        task: "classes", one of several for each example; "labels", any of several; or "numbers".
        outputs: how many numbers the model gives for an example.
        model: a model, a function `n_outputs -> model`, or None for a perceptron.
        hidden: sizes of the perceptron's hidden layers.
        activation: name of what follows each of them, in `jax.nn`.
        optimizer: one of optax, a function `learning_rate -> optimizer`, or None for Adam.
        schedule: the learning rate where it is a function of the step.
        loss: `loss(y_pred, y)`, or None for the task's own.
        penalised: whether the sizes of weights are added to the loss.
        placement: where arrays live.
    """

    task: str
    outputs: int
    model: Any = None
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    optimizer: Any = None
    schedule: Any = None
    loss: Any = None
    penalised: bool = False
    placement: Any = None

    @property
    def name(self) -> str:
        """The estimator's, for errors."""
        return "Regressor" if self.task == "numbers" else "Classifier"


class Training(NamedTuple):
    """The compiled programs of a kind of training.

    Attributes:
        whole: `(key, source, numbers, validation, start, until) -> (progress, result)`, from the
            beginning to epoch `until`.
        onward: `(progress, source, numbers, validation, until) -> (progress, result)`.
    """

    whole: Callable[..., Any]
    onward: Callable[..., Any]


def kept(make: Any, *args: Any) -> Any:
    """`make(*args)`, from its cache where the arguments can be looked up in one."""
    try:
        hash(args)
    except TypeError:
        return make.__wrapped__(*args)
    return make(*args)


@lru_cache(maxsize=KEPT)
def training(
    kind: Kind, epochs: int, batch_size: int, shuffle: bool, stopping: tuple[int, float] | None
) -> Training:
    """The programs of all fits, of so many epochs at most, that differ in numbers and data only."""
    rule = None
    if stopping is not None:
        rule = early_stopping("val_loss", patience=stopping[0], min_delta=stopping[1])
    run = make_run(
        lambda numbers: make_trainer(kind, numbers),
        epochs=epochs,
        batch_size=batch_size,
        shuffle=shuffle,
        stopping=rule,
    )

    def whole(
        key: Any, source: Any, numbers: Any, validation: Any, start: TrainState | None, until: Any
    ) -> Any:
        progress = run.init(key, source, numbers, validation)
        if start is not None:
            check_start(progress.state, start)
            progress = progress._replace(state=start, best=start)
        return onward(progress, source, numbers, validation, until)

    def onward(progress: Any, source: Any, numbers: Any, validation: Any, until: Any) -> Any:
        progress = run.advance(progress, source, numbers, validation, until)
        return progress, run.result(progress)

    return Training(jax.jit(whole), jax.jit(onward))


@lru_cache(maxsize=KEPT)
def predicting(kind: Kind) -> Trainer:
    """A trainer that is there to predict."""
    return make_trainer(kind, {"learning_rate": 0.0})


def predict(kind: Kind, state: TrainState, x: np.ndarray) -> np.ndarray:
    """The model's outputs, `[rows, outputs]`; those of a row do not depend on the other rows."""
    plain = Kind(*kind[:5], placement=kind.placement)
    whole = filled(x, -(-len(x) // BATCH) * BATCH)
    outputs = kept(predicting, plain).predict(state, whole, batch_size=BATCH)
    return np.asarray(outputs, np.float64)[: len(x)]


def make_trainer(kind: Kind, numbers: Any) -> Trainer:
    """The trainer of a kind, whose numbers `learning_rate` and `l2` may be traced."""
    rate = numbers["learning_rate"] if kind.schedule is None else kind.schedule
    loss = LOSSES[kind.task] if kind.loss is None else kind.loss
    aim = {"objective": objective(loss, l2=numbers["l2"])} if kind.penalised else {"loss": loss}
    return Trainer(
        checked(kind, make_model(kind)),
        optimizer=make_optimizer(kind, rate),
        metrics={"accuracy": accuracy()} if kind.task == "classes" and kind.outputs > 1 else {},
        placement=kind.placement,
        **aim,
    )


def make_model(kind: Kind) -> Model:
    """The model that was given, or made by a function, or a perceptron."""
    if isinstance(kind.model, Model):
        return kind.model
    if kind.model is None:
        activation = getattr(jax.nn, kind.activation)
        layers = [layer for size in kind.hidden for layer in (dense(size), activation)]
        return sequential(flatten(), *layers, dense(kind.outputs))
    if not callable(kind.model):
        raise TypeError(
            f"`{kind.name}`: model must be a fn.Model, or a function that makes one of the number "
            f"of outputs, got {errors.describe(kind.model)}. Make one of it with `fn.as_model`."
        )
    model = kind.model(kind.outputs)
    if not isinstance(model, Model):
        raise TypeError(
            f"`{kind.name}`: model must be a function that returns a fn.Model, got "
            f"{type(model).__name__} of it. End it with `return fn.sequential(...)`."
        )
    return model


def checked(kind: Kind, model: Model) -> Model:
    """`model`, whose outputs are looked at while it is traced."""

    def apply(
        params: Any, model_state: Any, x: Any, *, key: Any = None, training: Any = None
    ) -> tuple[Any, Any]:
        y, model_state = model.apply(params, model_state, x, key=key, training=training)
        if getattr(y, "shape", ())[1:] != (kind.outputs,):
            each = {"numbers": "target", "classes": "class", "labels": "label"}[kind.task]
            raise ValueError(
                f"`{kind.name}`: the model must give {kind.outputs} numbers an example, one for "
                f"each {each}, got {errors.describe(y)}. Give a function of the number, "
                "`def make_model(n_outputs): return fn.sequential(..., fn.dense(n_outputs))`."
            )
        return y, model_state

    return Model(model.init, apply)


def make_optimizer(kind: Kind, rate: Any) -> optax.GradientTransformation:
    """The optimizer that was given, or made by a function of the learning rate, or Adam."""
    given = optax.adam if kind.optimizer is None else kind.optimizer
    made = given if hasattr(given, "update") else given(rate) if callable(given) else None
    if not hasattr(made, "update"):
        raise TypeError(
            f"`{kind.name}`: optimizer must be one of optax, or a function that makes one of the "
            f"learning rate, got {errors.describe(given)}. Give `optax.adamw` say."
        )
    return made


def room(n: int, least: int) -> int:
    """How many examples there is room for: so few lengths that refits seldom compile anew.

    Example:
        >>> room(20, 32), room(119, 32), room(1500, 32)
        (32, 128, 2048)
    """
    if n > FINE:
        return -(-n // FINE) * FINE
    return max(least, 1 << (n - 1).bit_length())


def filled(array: np.ndarray, rows: int) -> np.ndarray:
    """`array` with as many rows, zeros after its own."""
    whole = np.zeros((rows, *array.shape[1:]), array.dtype)
    whole[: len(array)] = array
    return whole


def resident(columns: Any) -> Any:
    """Columns as a source whose length is no constant of the program."""
    n = len(columns[0])
    rows = room(n, LEAST)
    arrays = tuple(jax.numpy.asarray(filled(column, rows)) for column in columns)
    return subset(arrays, np.arange(rows), np.int32(n))


def held_out(columns: Any, batch_size: int) -> Any:
    """Columns to validate on, filled up with examples of weight 0."""
    rows = room(len(columns[0]), batch_size)
    return tuple(jax.numpy.asarray(filled(column, rows)) for column in columns)


def train(
    programs: Training,
    key: jax.Array,
    columns: Any,
    numbers: dict[str, float],
    *,
    epochs: int,
    validation: Any = None,
    start: TrainState | None = None,
    told: Callable[[Any], None] | None = None,
) -> Result:
    """A whole training, in calls that are short enough to be interrupted between them.

    Args:
        programs: from `training`.
        key: what all randomness comes from.
        columns: `(x, y, weight)`, NumPy arrays.
        numbers: what `make_trainer` takes.
        epochs: as of `training`.
        validation: columns as `held_out` makes them, or None.
        start: the state to go on from.
        told: called with the progress after each call.
    """
    of_one_type = {name: np.float32(number) for name, number in numbers.items()}
    args = resident(columns), of_one_type, validation
    progress, result = None, None
    for until in portions(epochs, len(columns[0])):
        if progress is None:
            progress, result = programs.whole(key, *args, start, until)
        else:
            progress, result = programs.onward(progress, *args, until)
        going_on = int(progress.reason) == Reason.GOING_ON.value  # waits for the device
        if told is not None:
            told(progress)
        if not going_on:
            break
    assert result is not None  # there is at least one epoch
    found: Result = result.as_result()
    return found


def portions(epochs: int, examples: int) -> Iterator[int]:
    """The epochs at which calls end, so that each lasts about half a second at the most."""
    step, until = max(1, AT_ONCE // examples), 0
    while until < epochs:
        until = min(until + step, epochs)
        began = time.monotonic()
        yield until
        if time.monotonic() - began < QUICK:
            step *= 2


def check_start(fresh: TrainState, start: TrainState) -> None:
    """Raises unless a state is one of the same model and optimizer."""
    wrong = errors.differences(fresh[:-1], start[:-1])  # all but the key
    if wrong:
        raise ValueError(
            "`fit`: warm_start and partial_fit go on with the model and the optimizer of before, "
            "got\n  " + "\n  ".join(wrong) + "\nClone the estimator to begin anew."
        )
