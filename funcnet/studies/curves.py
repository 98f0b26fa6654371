"""Learning curves: metrics over the number of examples, all of them as one program."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.data.arrays import Columns, Subset, check_columns, examples, split
from funcnet.data.order import SPLIT, order_words, permute
from funcnet.stopping import Stopping
from funcnet.studies import members
from funcnet.studies.members import Member, Way
from funcnet.studies.reports import as_table, in_columns, plus_minus, standard_error
from funcnet.studies.validation import At, reached
from funcnet.trainer.result import Result
from funcnet.trainer.runs import RunResult, as_number, in_order, make_run, padded
from funcnet.training.advance import compute, make_evaluate
from funcnet.training.averaging import evaluated_params
from funcnet.training.state import ORDER, stream
from funcnet.types import Metrics, TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from funcnet.trainer.trainer import Trainer


def learning_curve(
    make_trainer: "Callable[[Any], Trainer] | Trainer",
    data: Any,
    *,
    validation: Any,
    epochs: int,
    sizes: Iterable[int | float] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
    repeats: int = 5,
    hyperparameters: Any = None,
    batch_size: int = 32,
    shuffle: bool = True,
    stopping: Stopping | None = None,
    at: At = "best",
    seed: int = 0,
    by: Way | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
) -> "LearningCurve":
    """Trains on more and more of the data, and tells how well on it and on validation data.

    Each of `repeats` repeats has its own order of the data, key and initial params, and trains on
    the first `n` examples of that order for each size `n`: a smaller set is part of every larger
    one. All trainings are one program, over one copy of the data.

    An epoch is a pass over the examples chosen, so that few of them mean few steps: give epochs
    enough for the smallest size, and a `stopping`.

    Args:
        make_trainer: a trainer, or `make_trainer(hyperparameters) -> trainer`.
        data: `(x, y)` or `(x, y, weight)`, arrays.
        validation: data of the same form; or a fraction, that share of `data` drawn at random.
        epochs: the most epochs of a training.
        sizes: numbers of examples, or fractions of what is there to train on.
        repeats: trainings of each size.
        hyperparameters: given to `make_trainer`.
        batch_size: examples a batch, in evaluation too.
        shuffle: whether each epoch has an order of its own.
        stopping: when to stop a training before, from `fn.early_stopping`.
        at: which state is scored: the one after the `"best"` epoch, which validation data chose
            and so flatter a little, or the `"last"`.
        seed: what all randomness comes from.
        by: `"loop"`, one training after the other, or `"vmap"`; `None` takes what is faster here.
        at_once: trainings at once under `"vmap"`; as many as memory holds, unless given.
        progress: whether to show a bar; `None` means in a terminal.

    Returns:
        The metrics of each size and repeat on its training examples, evaluated after training,
        and on the validation data.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing has been trained then.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> x = jax.random.normal(jax.random.key(0), (80, 3))
        >>> trainer = fn.Trainer(
        ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1)
        ... )
        >>> data = x, x.sum(1, keepdims=True)
        >>> curve = fn.learning_curve(trainer, data, validation=0.25, sizes=[4, 60], epochs=20)
        >>> curve.metrics["val_loss"].shape
        (2, 5)
        >>> bool(curve.mean["val_loss"][0] > curve.mean["val_loss"][1])
        True
    """
    check_arguments(repeats, at, validation)
    columns, key = check_columns("learning_curve", data), jax.random.key(seed)
    if isinstance(validation, float):
        columns, validation = split("learning_curve", columns, validation, stream(key, ORDER))
    counts = check_counts(sizes, examples(columns))
    run = make_run(
        make_trainer, epochs=epochs, batch_size=batch_size, shuffle=shuffle, stopping=stopping
    )
    hyper = jax.tree.map_with_path(as_number, hyperparameters)
    columns = jax.tree.map(jnp.asarray, columns)
    chosen = nested(members.keys(seed, repeats), counts, examples(columns), hyper)
    runs = members.gather(
        members.train(
            run, chosen, columns, validation, by=by, at_once=at_once, progress=progress
        )
    )  # fmt: skip
    states = runs.best if at == "best" else runs.last
    trained = on_training(run.make_trainer(hyper), states, chosen, columns, batch_size)
    held = {name: v for name, v in reached(runs, at).items() if name.startswith("val_")}
    metrics = {
        name: values.reshape(len(counts), repeats, *values.shape[1:])
        for name, values in sorted((trained | held).items(), key=lambda item: in_order(item[0]))
    }
    return LearningCurve(np.array(counts), metrics, runs, at)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LearningCurve:
    """Metrics over the number of training examples.

    Attributes:
        sizes: int[sizes], numbers of examples.
        metrics: by name `[sizes, repeats, ...]`: `loss` and the trainer's metrics on the examples
            trained on, `val_` ones on validation data.
        runs: the trainings, stacked: all repeats of the first size, then those of the next.
        at: which state is scored, `"best"` or `"last"`.
    """

    sizes: np.ndarray
    metrics: dict[str, np.ndarray]
    runs: RunResult
    at: At

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """The mean over the repeats, `[sizes, ...]` by name."""
        return {name: values.mean(1) for name, values in self.metrics.items()}

    @property
    def standard_error(self) -> dict[str, np.ndarray]:
        """That of the mean over the repeats, `[sizes, ...]` by name.

        Repeats share examples, the more the larger the size, and the validation data are one draw:
        it tells how far other repeats would go, not other data.
        """
        return {name: standard_error(values, axis=1) for name, values in self.metrics.items()}

    def result(self, size: int, repeat: int) -> Result:
        """One training, as `fit` gives it back; both are indices."""
        index = np.arange(len(self.runs.epochs)).reshape(len(self.sizes), -1)
        return self.runs[int(index[size, repeat])].as_result()

    def table(self) -> Any:
        """A row for each training: a pandas DataFrame where pandas is installed, else dicts."""
        repeats = len(self.runs.epochs) // len(self.sizes)
        columns = {
            "size": np.repeat(self.sizes, repeats),
            "repeat": np.tile(np.arange(repeats), len(self.sizes)),
        }
        scalars = {name: v.reshape(-1) for name, v in self.metrics.items() if v.ndim == 2}
        return as_table(columns | scalars)

    def plot(self) -> "Figure":
        """Draws each metric over the sizes, on training and on validation data, with bands."""
        from funcnet.studies.curve_plots import draw_learning_curve

        return draw_learning_curve(self)

    def __repr__(self) -> str:
        repeats = len(self.runs.epochs) // len(self.sizes)
        columns = [["size", *map(str, self.sizes)]]
        for name, mean in self.mean.items():
            if mean.ndim == 1:
                pairs = zip(mean, self.standard_error[name], strict=True)
                columns.append([name, *(" ± ".join(plus_minus(*pair)) for pair in pairs)])
        head = f"LearningCurve of {len(self.sizes)} sizes, {repeats} trainings each"
        return "\n".join([head, *in_columns(columns)])


def nested(keys: jax.Array, counts: list[int], n: int, hyperparameters: Any) -> Member:
    """The members: for each size all repeats, each with the first rows of its own order."""
    orders = [
        permute(np.asarray(order_words(stream(key, ORDER))), [SPLIT], np.arange(n), n)
        for key in keys
    ]
    total = len(counts) * len(keys)
    longest = np.stack(orders)[:, : max(counts)].astype(np.int32)
    return Member(
        key=keys[np.tile(np.arange(len(keys)), len(counts))],
        hyperparameters=jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (total, *leaf.shape)), hyperparameters
        ),
        rows=np.tile(longest, (len(counts), 1)),
        n=np.repeat(np.array(counts, np.int32), len(keys)),
    )


def on_training(
    trainer: "Trainer", states: TrainState, chosen: Member, columns: Columns, batch_size: int
) -> dict[str, np.ndarray]:
    """Loss and metrics of each state on the examples that it was trained on."""
    programs = trainer.programs
    evaluate = make_evaluate(programs.objective, programs.metrics, batch_size=batch_size)

    @jax.jit
    def measure(state: TrainState, rows: Any, n: Any, columns: Columns) -> Metrics:
        whole = padded(Subset(columns, rows, n), batch_size)
        sums = evaluate(evaluated_params(state), state.model_state, whole)
        return compute(programs.metrics, sums)

    found = [
        measure(members.nth(states, i), chosen.rows[i], chosen.n[i], columns)
        for i in range(len(chosen.n))
    ]
    return {name: np.stack([each[name] for each in found]) for name in found[0]}


def check_arguments(repeats: Any, at: Any, validation: Any) -> None:
    """Raises where an argument is wrong that others don't check."""
    errors.positive("learning_curve", repeats=repeats)
    if repeats < 2:
        raise ValueError(
            f"`learning_curve`: repeats must be 2 or more, for a standard error, got {repeats}. "
            "Take 5."
        )
    if at not in ("best", "last"):
        raise ValueError(
            f"`learning_curve`: at must be 'best' or 'last', got {at!r}. 'best' scores the state "
            "after the best epoch, 'last' the one at the end."
        )
    if validation is None:
        raise TypeError(
            "`learning_curve`: validation must be data, or a fraction of it, got None. "
            "Say `validation=0.2`."
        )


def check_counts(sizes: Any, n: int) -> list[int]:
    """The sizes as numbers of examples, or an error."""
    each = list(sizes) if hasattr(sizes, "__iter__") and not isinstance(sizes, str) else []
    if not each:
        raise TypeError(
            f"`learning_curve`: sizes must be a list of one or more, got {errors.describe(sizes)}. "
            "Say `[100, 1000]`, or `[0.1, 1.0]` for fractions."
        )
    return sorted({count(size, n) for size in each})


def count(size: Any, n: int) -> int:
    """A size as a number of examples."""
    if isinstance(size, bool) or not isinstance(size, int | float | np.integer | np.floating):
        raise TypeError(
            "`learning_curve`: sizes must be whole numbers, or fractions of the data, "
            f"got {errors.describe(size)}. Say `[100, 1000]`, or `[0.1, 1.0]`."
        )
    whole = isinstance(size, int | np.integer)
    if not 0 < size <= (n if whole else 1) or not (
        number := int(size) if whole else round(size * n)
    ):
        raise ValueError(
            f"`learning_curve`: sizes must lie in 1 .. {n}, the examples to train on, or be "
            f"fractions above 0 up to 1.0 that hold one at least, got {size!r}. "
            "Give smaller ones, or more data."
        )
    return number
