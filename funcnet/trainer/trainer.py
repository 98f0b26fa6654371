"""The trainer: a frozen collection of pure functions, and the programs compiled of them."""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import jax
import optax

from funcnet import errors
from funcnet.data.arrays import check_columns
from funcnet.data.blocks import Resident
from funcnet.eager import eagerly, outline
from funcnet.metrics import Metric
from funcnet.nn.model import Start
from funcnet.placement import Placement
from funcnet.stopping import Stopping
from funcnet.trainer import evaluation, fitting, replaying
from funcnet.trainer.callbacks import Callback
from funcnet.trainer.limiting import Limits
from funcnet.trainer.programs import RATES, Programs
from funcnet.trainer.replaying import Verified
from funcnet.trainer.result import Result
from funcnet.trainer.settings import Settings
from funcnet.training.advance import compute
from funcnet.training.recipe import Recipe
from funcnet.training.state import init_state
from funcnet.types import Batch, Loss, Metrics, Model, Objective, TrainState, maker


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains a model: a value that holds functions and no arrays.

    Give a `loss` per example, or an `objective` over a batch; see `fn.types.Objective`.

    Attributes:
        model: what is trained.
        loss: `loss(y_pred, y)`, one number an example; further axes are averaged.
        optimizer: any `optax.GradientTransformation`.
        metrics: what else is reported, by name, such as `{"accuracy": fn.metrics.accuracy()}`.
        objective: what is minimised, in place of `loss`: from `fn.objective`, or a function.
        accumulate: micro-batches that each batch is cut into, to save memory.
        placement: where arrays live, from `fn.data_parallel`, `fn.fully_sharded` or `fn.on_mesh`;
            on one device unless given.
        eager: whether nothing is compiled, so that `breakpoint()`, `print(x)`, `float(x.mean())`,
            `if` and NumPy work in a layer, at each step. It is slow, and for looking only: the
            numbers are those of compiled training but for rounding.

    Raises:
        TypeError: neither or both of `loss` and `objective` are given, or one is of a wrong kind.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> x = jnp.linspace(-1, 1, 64)[:, None]
        >>> trainer = fn.Trainer(
        ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.5)
        ... )
        >>> result = trainer.fit((x, 2 * x + 1), epochs=20, batch_size=16)
        >>> trainer.predict(result.best, jnp.array([[10.0]])).round(2).tolist()
        [[21.0]]
    """

    model: Model
    _: dataclasses.KW_ONLY
    optimizer: optax.GradientTransformation
    loss: Loss | None = None
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
    objective: Objective | Recipe | None = None
    accumulate: int = 1
    placement: Placement | None = None
    eager: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, Model):
            raise TypeError(
                f"`Trainer`: model must be a funcnet model, got {type(self.model).__name__}. "
                "Make one of it with `fn.as_model(...)`."
            )
        if (self.loss is None) == (self.objective is None):
            got = "neither" if self.loss is None else "both"
            raise TypeError(
                f"`Trainer`: give either loss or objective, got {got}. A loss is per example, "
                "`optax.losses.squared_error` say; an objective is of a whole batch."
            )
        if isinstance(self.loss, Recipe):
            raise TypeError(
                "`Trainer`: loss must be a function, got what `fn.objective` made. "
                "Give it as `objective=fn.objective(...)`."
            )
        for name in ("loss", "objective"):
            given = getattr(self, name)
            if not (given is None or callable(given) or isinstance(given, Recipe)):
                raise TypeError(
                    f"`Trainer`: {name} must be a function, got {given!r}. "
                    "Take one of `optax.losses`, `optax.losses.squared_error` say."
                )
        if not hasattr(self.optimizer, "update"):
            raise TypeError(
                "`Trainer`: optimizer must be an optax.GradientTransformation, "
                f"got {errors.describe(self.optimizer)}. Call its factory, `optax.adam(1e-3)` say."
            )
        if not isinstance(self.metrics, Mapping):
            raise TypeError(
                f"`Trainer`: metrics must be a dict from names to metrics, got {self.metrics!r}. "
                'Say `metrics={"accuracy": fn.metrics.accuracy()}`.'
            )
        for name, metric in self.metrics.items():
            if name in ("loss", *RATES) or name.startswith("val_"):
                raise ValueError(
                    f"`Trainer`: a metric can't be named {name!r}, which the history uses itself. "
                    "Give it another name."
                )
            if not isinstance(metric, Metric):
                raise TypeError(
                    f"`Trainer`: each metric must be a fn.metrics.Metric, got {metric!r} for "
                    f"{name!r}. Call its factory, `fn.metrics.accuracy()` say."
                )
        errors.positive("Trainer", accumulate=self.accumulate)
        if not isinstance(self.placement, Placement | None):
            raise TypeError(
                "`Trainer`: placement must be a fn.Placement, got "
                f"{errors.describe(self.placement)}. Say `placement=fn.data_parallel()`."
            )
        if not isinstance(self.eager, bool):
            raise TypeError(
                f"`Trainer`: eager must be True or False, got {errors.describe(self.eager)}."
            )
        if self.eager and self.placement is not None and self.placement.mapped:
            raise ValueError(
                "`Trainer`: eager must go without `fn.pmapped`, whose layers see one device's part "
                "of a batch and never its values. Leave the placement out to look at them."
            )

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)
        given = [field.name for field in fields if getattr(self, field.name) != field.default]
        parts = [f"{name}={in_words(getattr(self, name))}" for name in given]
        return f"Trainer({', '.join(part for part in parts if not part.endswith('=[]'))})"

    @cached_property
    def programs(self) -> Programs:
        """The functions that this trainer's settings define, and their compiled forms."""
        return Programs(
            self.model,
            self.optimizer,
            self.loss,
            self.metrics,
            self.objective,
            self.accumulate,
            self.placement,
        )

    @property
    def traces(self) -> dict[str, int]:
        """How often each program has been compiled: once for each signature of its arguments."""
        return self.programs.traces

    def init(self, key: jax.Array, x: Any) -> TrainState:
        """The state of step 0: pure.

        Args:
            key: the key of the whole run, from `jax.random.key(seed)`.
            x: a batch of inputs, or `jax.ShapeDtypeStruct`s that describe one.
        """
        with eagerly(self.eager):
            return init_state(self.model, self.optimizer, key, x)

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step, `(state, batch) -> (state, metrics)`: pure, to be jitted or vmapped at will.

        Args:
            state: from `init`, or the step before.
            batch: `(x, y)` or `(x, y, weight)`.

        Example:
            >>> import jax, jax.numpy as jnp, funcnet as fn, optax
            >>> trainer = fn.Trainer(
            ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1)
            ... )
            >>> x = jnp.ones((4, 1))
            >>> state = trainer.init(jax.random.key(0), x)
            >>> state, metrics = jax.jit(trainer.step)(state, (x, 3 * x))
            >>> int(state.step), list(metrics)
            (1, ['loss'])
        """
        with eagerly(self.eager):
            arrays = outline((state, batch)) if self.eager else (state, batch)
            state, found = self.programs.step(*arrays)
            return state, compute(self.metrics, found)

    def advance(
        self,
        state: TrainState,
        n: Any,
        data: Any,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
    ) -> tuple[TrainState, Metrics]:
        """`n` steps on data in memory as one compiled program: pure, and `n` may be traced.

        Args:
            state: where to begin; its step and key decide which batches come next.
            n: number of steps.
            data: `(x, y)` or `(x, y, weight)`, arrays.
            batch_size: examples a batch.
            shuffle: whether each epoch has an order of its own.

        Returns:
            The state after `n` steps, and the metrics over them.

        Example:
            >>> import jax, jax.numpy as jnp, funcnet as fn, optax
            >>> trainer = fn.Trainer(
            ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1)
            ... )
            >>> x = jnp.ones((64, 1))
            >>> state = trainer.init(jax.random.key(0), x)
            >>> state, metrics = trainer.advance(state, 10, (x, 3 * x))
            >>> int(state.step)
            10
        """
        errors.positive("advance", batch_size=batch_size)
        source = Resident(check_columns("advance", data))
        with eagerly(self.eager):
            state, found = self.programs.pure_advance(batch_size, shuffle)(state, source, n)
            return state, compute(self.metrics, found)

    def fit(
        self,
        data: Any,
        *more: Any,
        validation: Any = None,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int = 32,
        shuffle: bool = True,
        stopping: Stopping | None = None,
        callbacks: Iterable[Callback | Any] = (),
        seed: int | None = None,
        state: TrainState | None = None,
        start: Start | None = None,
        progress: bool | None = None,
        checkpoint: Any = None,
        accept_changes: Iterable[str] = (),
        limits: Limits | None = None,
    ) -> Result:
        """Trains, and returns the best and the last state with the history.

        An epoch is `ceil(N / batch_size)` steps. Batches are always full: the last one of an epoch
        is filled up from the next epoch's order. The same arguments give the same bits.

        Args:
            data: `(x, y)` or `(x, y, weight)`, arrays with the examples along the first axis (`x`
                may be a tuple or dict of arrays); or an iterable of such batches, which is
                passed through once an epoch in its own order, sizes and all.
            more: nothing; x and y are one pair.
            validation: data of the same form; or a fraction in 0 .. 1, that share of the examples
                drawn at random and held out.
            epochs: the epoch at which to stop, counted from step 0; 1 unless `steps` is given.
            steps: the step at which to stop, counted from step 0.
            batch_size: examples a batch, in evaluation too.
            shuffle: whether each epoch has an order of its own, or all have that of the data.
            stopping: when to stop before, from `fn.early_stopping`; checked after each epoch.
            callbacks: `fn.Callback`s, or plain functions called with each epoch's `fn.Event`.
            seed: what all randomness comes from; 0 unless `state` is given.
            state: where to go on from; it is copied, not changed. Its key replaces the seed.
            start: whose params and model_state to begin with at step 0, a pretrained network's or
                those of a fit with another optimizer: a state, or a pair `(params, model_state)`.
            progress: whether to show a progress bar; `None` means in a terminal.
            checkpoint: where to save the whole run, and to go on from if it has been saved before:
                a directory, saved to after each epoch, or `fn.checkpoint.every(...)`. The same
                call then ends with the bits of a run that nothing has interrupted. On SIGTERM, and
                on Ctrl-C in a script, the process saves and exits, with code 143 or 130.
            accept_changes: names of what may differ from the run that was saved, of `batch_size`,
                `shuffle`, `key`, `stopping`, `data`, `validation`, `state` and `start`. (Epochs,
                steps, limits, callbacks, and when to save may differ anyway.)
            limits: of this call, from `fn.limits`: its seconds or steps, a trial run of a few
                batches, or a few batches to be learnt by heart.

        Returns:
            The result. Its `best` is the state after the epoch with the best monitored value: that
            of `stopping`, else `val_loss`, else `loss`.

        Raises:
            TypeError, ValueError: an argument is wrong; nothing has been trained then.
        """
        if more:
            raise TypeError(
                f"`fit`: data must be one value, got {1 + len(more)} positional arguments. Put x "
                "and y into a pair, `fit((x, y), ...)`, and name all else, `epochs=10` say."
            )
        settings = Settings(
            *(epochs, steps, batch_size, shuffle, stopping, callbacks, seed, state, progress),
            *(checkpoint, tuple(accept_changes), start, limits),
        )
        with eagerly(self.eager):
            return fitting.fit(self, data, validation, settings)

    def state_at(self, step: int, data: Any, *, checkpoint: Any, **arguments: Any) -> TrainState:
        """The state that a run had at any of its steps, bit for bit.

        The run is taken up at the last step that was saved before, and repeated from there.

        Args:
            step: which.
            data: as of the run.
            checkpoint: where it was saved; that is left as it is.
            arguments: the other arguments of its `fit`.

        Raises:
            ValueError: the run never came to that step.
        """
        return replaying.state_at(self, step, data, checkpoint, arguments)

    def verify_resume(
        self, data: Any, *, checkpoint: Any, steps: int = 1, **arguments: Any
    ) -> Verified:
        """Repeats the end of a run that was saved, and compares every bit of its state.

        A run that does not come out again has a callback or an objective that is not pure, or
        operations whose sums have no fixed order, as some on a GPU.

        Args:
            data: as of the run.
            checkpoint: where it was saved; that is left as it is.
            steps: how many to repeat at least, up to the step that was saved last.
            arguments: the other arguments of its `fit`.

        Returns:
            What was found; it is true if every bit came out again, and else tells of each leaf how
            many of its numbers differ.
        """
        return replaying.verify_resume(self, data, checkpoint, steps, arguments)

    def evaluate(self, state: TrainState, data: Any, *, batch_size: int = 128) -> Metrics:
        """Loss and metrics over all of `data`, exact to the last example.

        Args:
            state: what to evaluate, `result.best` say.
            data: as in `fit`.
            batch_size: examples a batch; the result does not depend on it but by rounding.

        Returns:
            The values by name: numbers, or NumPy arrays for a metric that is one.

        Example:
            >>> import jax, jax.numpy as jnp, funcnet as fn, optax
            >>> trainer = fn.Trainer(
            ...     fn.dense(1, bias=False),
            ...     loss=optax.losses.squared_error,
            ...     optimizer=optax.sgd(0.1),
            ... )
            >>> x = jnp.ones((5, 1))
            >>> state = trainer.init(jax.random.key(0), x)._replace(params={"kernel": x[:1]})
            >>> trainer.evaluate(state, (x, 3 * x))
            {'loss': 4.0}
        """
        with eagerly(self.eager):
            return evaluation.evaluate(self.programs, state, data, batch_size)

    def predict(self, state: TrainState, x: Any, *, batch_size: int = 128) -> Any:
        """The model's output for all of `x`, outside training.

        Args:
            state: whose params to use, `result.best` say.
            x: inputs with the examples along the first axis: an array, or a tuple or dict of
                arrays; or an iterable of batches of them. A tuple that an iterable gives is
                `(x, y)` or `(x, y, weight)`, as for `fit`, and only its x is used.
            batch_size: examples a batch.

        Returns:
            The outputs of all examples in their order, arrays or trees as `model.apply` gives them.
            What would fill more than a quarter of the device's memory comes as NumPy arrays.

        Raises:
            TypeError, ValueError: `state` is of another model; there is no example; an output is
                not per example.
        """
        with eagerly(self.eager):
            return evaluation.predict(self.programs, state, x, batch_size)


def in_words(value: Any) -> str:
    """A part of a trainer as its repr has it: functions by their names.

    Example:
        >>> in_words(optax.adam(1e-3)), in_words(optax.losses.squared_error)
        ('chain', 'squared_error')
    """
    if isinstance(value, optax.GradientTransformation):
        return maker(value.update)
    if isinstance(value, Mapping):
        return f"[{', '.join(value)}]"
    plain = callable(value) and not isinstance(value, Model | Recipe)
    return maker(value) if plain else repr(value)
