"""Cross-validation: one training a fold, all folds as one program."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.data.arrays import Columns, check_columns, examples, rows
from funcnet.stopping import Reason, Stopping
from funcnet.studies import members
from funcnet.studies.folds import Fold, even, make_folds
from funcnet.studies.members import Member, Way
from funcnet.studies.reports import aligned, as_table, standard_error
from funcnet.trainer.result import Result
from funcnet.trainer.runs import RunResult, as_number, in_order, make_run
from funcnet.types import PyTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from funcnet.trainer.trainer import Trainer

At: TypeAlias = Literal["best", "last"]


def cross_validate(
    make_trainer: "Callable[[Any], Trainer] | Trainer",
    k: Any,
    data: Any,
    *,
    epochs: int,
    hyperparameters: Any = None,
    groups: Any = None,
    stratify: Any = False,
    shuffle_folds: bool = True,
    batch_size: int = 32,
    shuffle: bool = True,
    stopping: Stopping | None = None,
    at: At = "best",
    seed: int = 0,
    by: Way | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
) -> "CrossValidation":
    """Trains once for each fold without it, and scores it on the rows held out.

    All folds are one program, whatever their lengths, over one copy of the data. Fold `i` is
    `trainer.fit((x[train], y[train]), validation=(x[held], y[held]), seed=seed, ...)` with
    `train, held = scores.folds[i]`: every fold has the same key, so that they differ by their data
    alone.

    The best epoch of a fold is chosen by the rows that score it, which flatters: with few of them,
    many epochs or patience the more. `at="last"` scores the state at the end instead, which is
    honest where `epochs` was settled beforehand, and nothing stops a run by its held-out rows.

    Args:
        make_trainer: a trainer, or `make_trainer(hyperparameters) -> trainer`.
        k: the number of folds; or a splitter of scikit-learn; or pairs of index lists
            `(train, held out)`, as its `split` gives them. Their order is kept.
        data: `(x, y)` or `(x, y, weight)`, arrays.
        epochs: the most epochs a fold.
        hyperparameters: given to `make_trainer`.
        groups: one value an example; no group is on both sides of a fold. They are dealt out by
            size, and not shuffled.
        stratify: whether each fold keeps the shares of the classes `y`; or the classes themselves.
        shuffle_folds: whether rows are dealt to `k` folds at random, by the seed; else in their
            order, which is no good for data sorted by class or by time.
        batch_size: examples a batch, in evaluation too.
        shuffle: whether each epoch has an order of its own.
        stopping: when to stop a fold before, from `fn.early_stopping`.
        at: which state is scored, `"best"` or `"last"`; `dataclasses.replace(scores, at="last")`
            changes it later.
        seed: what all randomness comes from.
        by: `"loop"`, one fold after the other, or `"vmap"`; `None` takes what is faster here.
        at_once: folds at once under `"vmap"`; as many as memory holds, unless given.
        progress: whether to show a bar; `None` means in a terminal.

    Returns:
        The scores: the metrics of each fold, their means and standard errors, predictions for
        all rows by trainings that had not seen them, and each fold's training as a `Result`.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing has been trained then.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn, optax
        >>> x = jnp.linspace(-1, 1, 60)[:, None]
        >>> trainer = fn.Trainer(
        ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.5)
        ... )
        >>> scores = fn.cross_validate(trainer, 5, (x, 2 * x + 1), epochs=20)
        >>> scores.metrics["val_loss"].shape
        (5,)
        >>> bool(scores.mean["val_loss"] < 1e-3)
        True
        >>> bool(abs(scores.predictions() - (2 * x + 1)).max() < 0.1)
        True
    """
    columns = check_columns("cross_validate", data)
    if at not in ("best", "last"):
        raise ValueError(
            f"`cross_validate`: at must be 'best' or 'last', got {at!r}. 'best' scores the state "
            "after the best epoch, 'last' the one at the end."
        )
    key = jax.random.key(seed)
    folds = make_folds(k, columns, key, groups=groups, stratify=stratify, shuffle=shuffle_folds)
    run = make_run(
        make_trainer, epochs=epochs, batch_size=batch_size, shuffle=shuffle, stopping=stopping
    )
    hyper = jax.tree.map_with_path(as_number, hyperparameters)
    trained = members.train(
        run, of_folds(folds, key, hyper), columns, by=by, at_once=at_once, progress=progress
    )
    runs = members.gather(trained)
    return CrossValidation(folds, runs, at, run.make_trainer(hyper), columns)


def of_folds(folds: list[Fold], key: jax.Array, hyperparameters: PyTree) -> Member:
    """The members: one key and one set of hyperparameters, and the rows of each fold."""

    def each(leaf: jax.Array) -> jax.Array:
        return jnp.broadcast_to(leaf, (len(folds), *leaf.shape))

    train, n = even(fold[0] for fold in folds)
    held, n_held = even(fold[1] for fold in folds)
    return Member(each(key), jax.tree.map(each, hyperparameters), train, n, held, n_held)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class CrossValidation:
    """The scores of a cross-validation.

    Attributes:
        folds: `(train, held out)` index lists.
        runs: the trainings, stacked.
        at: which state is scored, `"best"` or `"last"`.
        trainer: what the folds were trained by.
        data: what they were taken from.
    """

    folds: list[Fold]
    runs: RunResult
    at: At
    trainer: "Trainer"
    data: Columns

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """Values by name, as in a history, `[folds, ...]`; NaN where no epoch was completed."""
        return reached(self.runs, self.at)

    @property
    def mean(self) -> dict[str, Any]:
        """The mean over the folds, by name."""
        return {name: values.mean(0) for name, values in self.metrics.items()}

    @property
    def standard_error(self) -> dict[str, Any]:
        """The deviation over the folds, divided by the square root of their number, by name.

        Folds share most of their training data, so it is too small if anything; no estimate
        without bias can be made of one cross-validation.

        Source:
            Bengio and Grandvalet, "No Unbiased Estimator of the Variance of K-Fold
            Cross-Validation", 2004.
        """
        return {name: standard_error(values) for name, values in self.metrics.items()}

    def result(self, i: int) -> Result:
        """The training of fold `i`, as `fit` gives it back."""
        return self.runs[range(len(self.folds))[i]].as_result()

    def predictions(self, *, batch_size: int = 128) -> Any:
        """The outputs for all rows, each by the training that held it out.

        Args:
            batch_size: examples a batch.

        Returns:
            NumPy arrays, in the order of the data.

        Raises:
            ValueError: a row is held out by no fold, or by several.
        """
        n = examples(self.data)
        times = np.bincount(np.concatenate([held for _, held in self.folds]), minlength=n)
        if (times != 1).any():
            row = int(np.argmax(times != 1))
            raise ValueError(
                "`predictions`: each row must be held out by one fold, got row "
                f"{row} held out {times[row]} times. "
                "Take `scores.trainer.predict(scores.result(i).best, x[held])` fold by fold."
            )
        padded, _ = even(held for _, held in self.folds)  # one shape, one compilation
        states = self.runs.best if self.at == "best" else self.runs.last
        parts = [
            self.trainer.predict(
                members.nth(states, i), rows(self.data[0], padded[i]), batch_size=batch_size
            )
            for i in range(len(self.folds))
        ]

        def scatter(*leaves: Any) -> np.ndarray:
            out = np.empty((n, *leaves[0].shape[1:]), leaves[0].dtype)
            for (_, held), leaf in zip(self.folds, leaves, strict=True):
                out[held] = np.asarray(leaf)[: len(held)]
            return out

        return jax.tree.map(scatter, *parts)

    def table(self) -> Any:
        """A row for each fold: a pandas DataFrame where pandas is installed, else dicts."""
        scalars = {name: values for name, values in self.metrics.items() if values.ndim == 1}
        epochs = {"epochs": np.asarray(self.runs.epochs)}
        return as_table({"fold": np.arange(len(self.folds)), **scalars, **epochs})

    def plot(self) -> "Figure":
        """Draws each metric over the folds, with mean and standard error."""
        from funcnet.studies.curve_plots import draw_cross_validation

        return draw_cross_validation(self)

    def __repr__(self) -> str:
        which = f"the best epoch by {self.runs.monitor}" if self.at == "best" else "the end"
        values = {
            name: (self.mean[name], self.standard_error[name])
            for name, each in self.metrics.items()
            if each.ndim == 1
        }
        lines = [f"CrossValidation of {len(self.folds)} folds at {which}", *aligned(values)]
        broken = np.flatnonzero(np.asarray(self.runs.reason) == Reason.NON_FINITE).tolist()
        lines += [f"  fold {i} broke off: {self.result(i).message}" for i in broken]
        return "\n".join(lines)


def reached(runs: RunResult, at: At) -> dict[str, np.ndarray]:
    """The values of each run's history at its best or its last epoch, the loss first."""
    best, last = np.asarray(runs.best_epoch), np.asarray(runs.epochs) - 1
    epoch = np.where(best < 0, last, best) if at == "best" else last
    each = np.arange(len(epoch))
    history = {name: np.asarray(runs.history[name]) for name in sorted(runs.history, key=in_order)}
    found = {name: line[each, epoch] for name, line in history.items()}
    for values in found.values():
        if values.dtype.kind == "f":
            values[epoch < 0] = np.nan
    return found
