"""A trained ensemble as a value: its members, and what they say together."""

import dataclasses
import math
import operator
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.data.arrays import Columns, check_columns, rows
from funcnet.stopping import Reason, Stopping
from funcnet.studies import members, pooling, soups
from funcnet.studies.calibrating import temperature
from funcnet.studies.members import Way, way_of
from funcnet.studies.pooling import Entropies, Reading
from funcnet.studies.scores import Evaluation, mean_and_error, score
from funcnet.studies.soups import Soup
from funcnet.trainer import evaluation
from funcnet.trainer.checks import check_state
from funcnet.trainer.result import Result
from funcnet.trainer.runs import RunResult, in_order
from funcnet.trainer.trainer import Trainer
from funcnet.training.averaging import evaluated_params
from funcnet.types import Metrics, ModelState, Params, TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

one_of = jax.jit(members.nth)
"""One member, in one call whatever its number is."""


def of_all(predict: Any, way: Way) -> Any:
    """The program `(params, model_state, x) -> y` of stacked params, compiled."""

    def outputs(params: Params, model_state: ModelState, x: Any) -> Any:
        def of_member(member: Any) -> Any:
            return predict(*member, x)

        stacked = params, model_state
        return jax.lax.map(of_member, stacked) if way == "loop" else jax.vmap(of_member)(stacked)

    return jax.jit(outputs)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ensemble:
    """Trained members of one study: what `fn.ensemble` gives back.

    `len(committee)` is their number, `committee[3]` one of them as an ordinary `fn.Result`,
    `committee[:10]` some of them as an ensemble.

    Attributes:
        trainer: what each member was trained by.
        runs: their results, stacked.
        data: what they were trained on.
        rows: int32[n, N], the examples of `data` that each has seen, or None for all.
        probabilities: how outputs are read, `"softmax"`, `"sigmoid"` or `"identity"`.
        stopping: the rule that told which epoch was best.
        temperature: by which the logits of the mean prediction are divided.
        by: how members are run, as of `fn.ensemble`.
    """

    trainer: Trainer
    runs: RunResult
    data: Columns
    rows: jax.Array | None
    probabilities: Reading
    stopping: Stopping
    temperature: float = 1.0
    by: Way | None = None

    def __len__(self) -> int:
        return len(self.runs.epochs)

    @overload
    def __getitem__(self, member: int) -> Result: ...

    @overload
    def __getitem__(self, member: slice) -> "Ensemble": ...

    def __getitem__(self, member: Any) -> Any:
        if isinstance(member, slice):
            return self.some(np.arange(len(self))[member])
        i = operator.index(member)
        if not -len(self) <= i < len(self):
            raise IndexError(
                f"`Ensemble`: a member must lie in 0 .. {len(self) - 1}, got {i}. Count from 0."
            )
        return self.runs[i].as_result()

    def some(self, which: Any) -> "Ensemble":
        """The members of these numbers."""
        which = np.arange(len(self))[np.asarray(which)]  # refuses what lies beyond
        if not which.size:
            raise ValueError(
                f"`Ensemble`: give at least one of the {len(self)} members, got none. "
                "Say `committee[:10]`, or a list of their numbers."
            )
        drawn = None if self.rows is None else self.rows[which]
        return dataclasses.replace(self, runs=self.runs[which], rows=drawn)

    @property
    def states(self) -> TrainState:
        """The best states of all members, stacked, with averages of `fn.ema` as their params."""
        best = self.runs.best
        return best._replace(params=evaluated_params(best), opt_state=())

    def outputs(self, x: Any, *, batch_size: int = 128) -> Any:
        """The model's outputs of all members, `[n, N, ...]`, outside training.

        Args:
            x: inputs, as for `Trainer.predict`.
            batch_size: examples a batch.
        """
        given = evaluation.batches("outputs", x, batch_size)
        programs, states = self.trainer.programs, self.states
        check_state("outputs", programs, one_of(states, 0), rows(given.first, slice(0, 1)))
        way = way_of(self.by)
        program = programs.get("outputs", way, make=lambda: of_all(programs.predict().jitted, way))
        run = partial(programs.flight.launch, program, states.params, states.model_state)
        return evaluation.outputs_of("outputs", run, given, programs.flight, axis=1)

    def pooled(self, x: Any, batch_size: int) -> Any:
        """The mean prediction in the form of an output, calibrated."""
        return self.cooled(pooling.pool(self.probabilities, self.outputs(x, batch_size=batch_size)))

    def cooled(self, logits: Any) -> Any:
        """Logits divided by the temperature; plain numbers as they are."""
        return logits if self.probabilities == "identity" else logits / self.temperature

    def predict(self, x: Any, *, batch_size: int = 128) -> Any:
        """The mean prediction: of classes the mean of the members' probabilities.

        Args:
            x: inputs, with the examples along the first axis.
            batch_size: examples a batch.

        Returns:
            Probabilities `(N, ..., C)`; those of label 1, `(N, ...)`, for binary logits; the mean
            of outputs where they are plain numbers.
        """
        return pooling.probabilities(self.probabilities, self.pooled(x, batch_size))

    def vote(self, x: Any, *, batch_size: int = 128) -> jax.Array:
        """The label that most members predict, int32[N, ...]; of several the lowest.

        Args:
            x: inputs, with the examples along the first axis.
            batch_size: examples a batch.

        Raises:
            ValueError: outputs are no logits.
        """
        self.check_classes("vote")
        return pooling.votes(self.probabilities, self.outputs(x, batch_size=batch_size))

    def spread(self, x: Any, *, batch_size: int = 128) -> Any:
        """The standard deviation over members of their predictions, in the form of `predict`.

        It is that of the members themselves, 0 for one, and does not know the temperature.

        Args:
            x: inputs, with the examples along the first axis.
            batch_size: examples a batch.
        """
        outputs = self.outputs(x, batch_size=batch_size)
        each = pooling.probabilities(self.probabilities, outputs)
        return jax.tree.map(lambda leaf: leaf.std(0), each)

    def entropies(self, x: Any, *, batch_size: int = 128) -> Entropies:
        """What is uncertain about each prediction, and how much of it is disagreement, in nats.

        It is about the members as they are, and does not know the temperature.

        Args:
            x: inputs, with the examples along the first axis.
            batch_size: examples a batch.

        Returns:
            The entropy of the mean prediction, the mean of the members' entropies, and their
            difference, each `(N, ...)`.

        Raises:
            ValueError: outputs are no logits.

        Source:
            Depeweg et al., "Decomposition of Uncertainty in Bayesian Deep Learning", 2018,
            equation 2.
        """
        self.check_classes("entropies")
        return pooling.entropies(self.probabilities, self.outputs(x, batch_size=batch_size))

    def evaluate(self, data: Any, *, batch_size: int = 128) -> Evaluation:
        """Loss and metrics of the mean prediction, and of each member alone.

        Args:
            data: `(x, y)` or `(x, y, weight)`, arrays.
            batch_size: examples a batch.

        Raises:
            TypeError: the trainer has an objective that is not from `fn.objective`.
        """
        columns = check_columns("evaluate", data)
        together = score(self.trainer, self.pooled(columns[0], batch_size), columns, batch_size)
        blocks = evaluation.padded("evaluate", columns, batch_size)
        states = self.states
        alone = [
            evaluation.over(self.trainer.programs, one_of(states, i), blocks, batch_size)
            for i in range(len(self))
        ]
        return Evaluation(
            together, {name: np.stack([each[name] for each in alone]) for name in together}
        )

    def out_of_bag(self, *, batch_size: int = 128) -> Metrics:
        """The metrics on the training data, of the mean over members that have not seen an example.

        Examples that all have seen are left out: with 10 members one in a hundred.

        Raises:
            ValueError: members were not trained with `bootstrap=True`, or no example is left.

        Source:
            Breiman, "Out-of-Bag Estimation", 1996.
        """
        if self.rows is None:
            raise ValueError(
                "`out_of_bag`: members must have trained on resamples, got some that have seen "
                "all data. Train them with `fn.ensemble(..., bootstrap=True)`."
            )
        missed = jax.vmap(lambda rows: jnp.ones(rows.shape, bool).at[rows].set(False))(self.rows)
        without = missed.sum(0)
        kept = np.flatnonzero(without)
        if not kept.size:
            raise ValueError(
                "`out_of_bag`: some example must be new to some member, got none. "
                "Train more members."
            )
        outputs = self.outputs(self.data[0], batch_size=batch_size)
        unseen, shares = rows(outputs, (slice(None), kept)), missed[:, kept] / without[None, kept]
        y_pred = self.cooled(pooling.pool(self.probabilities, unseen, shares))
        return score(self.trainer, y_pred, rows(self.data, kept), batch_size)

    def calibrated(self, data: Any, *, batch_size: int = 128) -> "Ensemble":
        """The same members with the temperature at which the mean prediction fits `data` best.

        Probabilities are pooled first and calibrated then: `predict` gives the softmax of
        `log(mean of probabilities) / T`. What is predicted stays the same; how sure it is changes,
        and with it the loss and `fn.metrics.calibration_error` of `evaluate`.

        Args:
            data: `(x, y)` or `(x, y, weight)`, which members were not trained on, y being integers.
            batch_size: examples a batch.

        Raises:
            ValueError: outputs are no logits.

        Source:
            Guo et al., "On Calibration of Modern Neural Networks", 2017; Rahaman, Thiery,
            "Uncertainty Quantification and Deep Ensembles", 2021, on why to pool first.
        """
        self.check_classes("calibrated")
        columns = check_columns("calibrated", data)
        outputs = self.outputs(columns[0], batch_size=batch_size)
        found = temperature(pooling.pool(self.probabilities, outputs), *columns[1:])
        return dataclasses.replace(self, temperature=float(found))

    def soup(self, validation: Any = None, *, batch_size: int = 128) -> Soup:
        """One state whose params are the mean of the members', at the price of one in use.

        It is good only where members lie in one basin: train them with `same_init=True`, from
        params that have been trained before best. From different ones the mean predicts nothing.
        Running statistics, of batch norm say, are averaged too, though the mean of params would
        have others.

        Args:
            validation: `(x, y)` or `(x, y, weight)` for a greedy soup, where a member joins only if
                the monitored value gets no worse; all members are in it unless given.
            batch_size: examples a batch.

        Returns:
            The state, and the members in it.

        Source:
            Wortsman et al., "Model Soups", 2022, algorithm 1.
        """
        if validation is None:
            return soups.average(self.trainer, self.states, np.arange(len(self)))
        columns = jax.tree.map(jnp.asarray, check_columns("soup", validation))
        name = self.stopping.monitor.removeprefix("val_")
        sign = 1 if self.stopping.mode == "min" else -1

        def worth(state: TrainState) -> float:
            value = sign * self.trainer.evaluate(state, columns, batch_size=batch_size)[name]
            return math.inf if math.isnan(value) else value

        return soups.greedy(self.trainer, self.states, worth)

    def check_classes(self, function: str) -> None:
        """Raises where outputs are read as plain numbers."""
        if self.probabilities == "identity":
            raise ValueError(
                f"`{function}`: outputs must be logits, got plain numbers, as the name of the loss "
                "tells. If they are logits say so: `fn.ensemble(..., probabilities='softmax')`."
            )

    def best_values(self) -> dict[str, np.ndarray]:
        """Values in each member's best epoch by name: those of validation, if there are any."""
        history, best = self.runs.history, np.asarray(self.runs.best_epoch)
        at = np.flatnonzero(best >= 0)
        names = [name for name in sorted(history, key=in_order) if history[name].ndim == 2]
        validated = [name for name in names if name.startswith("val_")]
        return {name: np.asarray(history[name])[at, best[at]] for name in validated or names}

    def plot(self) -> "Figure":
        """Draws the curves of all members and their medians; see `fn.plot`."""
        from funcnet.inspect.runs import draw_runs

        return draw_runs(self.runs)

    def __repr__(self) -> str:
        epochs, reasons = np.asarray(self.runs.epochs), np.asarray(self.runs.reason)
        least, most = epochs.min(), epochs.max()
        lines = {"epochs": str(most) if least == most else f"{least} .. {most}"}
        lines |= {name: mean_and_error(v) for name, v in self.best_values().items() if v.size}
        broken = int((reasons == Reason.NON_FINITE.value).sum())
        lines |= {"not finite": f"{broken} of {len(self)}"} if broken else {}
        lines |= {"temperature": f"{self.temperature:.4g}"} if self.temperature != 1 else {}
        width = max(map(len, lines))
        return f"Ensemble of {len(self)}\n" + "\n".join(
            f"  {name.ljust(width)}  {words}" for name, words in lines.items()
        )
