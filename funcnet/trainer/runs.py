"""A whole training as one pure function: what `fit` does, without its clock and its output."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.data.arrays import Columns, Subset, check_columns, pad, split, taken
from funcnet.data.blocks import Resident
from funcnet.nn.model import Start, pair_of
from funcnet.stopping import Reason, Stopping
from funcnet.trainer import epochs as on_the_way
from funcnet.trainer.checks import check_labels, labels_of
from funcnet.trainer.epochs import Plan, Progress, either, example
from funcnet.trainer.fitting import keep_best, why_stopped
from funcnet.trainer.programs import signature_of
from funcnet.trainer.result import Result
from funcnet.training.state import ORDER, check_key, init_state, stream
from funcnet.types import TrainState

if TYPE_CHECKING:
    from funcnet.trainer.trainer import Trainer

MakeTrainer: TypeAlias = "Callable[[Any], Trainer]"
"""`make_trainer(hyperparameters) -> trainer`, called while a run is traced."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("best", "last", "history", "losses", "epochs", "best_epoch", "reason", "wait"),
    meta_fields=("monitor",),
)
@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run gives back: a pytree of arrays, to which `jax.vmap` adds an axis of members.

    Attributes:
        best: the state after the epoch with the best monitored value; the last one where no epoch
            had any, the first where training broke before.
        last: the state at the end.
        history: values by name, `[epochs asked for, ...]`: NaN after the last one taken, or 0 where
            the values are whole numbers.
        losses: float32[steps asked for], the loss of each step; NaN after the last one taken.
        epochs: int32[], epochs taken.
        best_epoch: int32[], index of `best` in the history, or -1.
        reason: int32[], an `fn.Reason`.
        wait: int32[], checks without improvement at the end.
        monitor: the name of the monitored value.
    """

    best: TrainState
    last: TrainState
    history: dict[str, jax.Array]
    losses: jax.Array
    epochs: jax.Array
    best_epoch: jax.Array
    reason: jax.Array
    wait: jax.Array
    monitor: str

    def __getitem__(self, member: Any) -> "RunResult":
        """One of several runs, or some of them by a slice or an array of indices."""
        found: RunResult = jax.tree.map(lambda leaf: leaf[member], self)
        return found

    def as_result(self) -> Result:
        """The run as `fit` would give it back, for `fn.plot` and whatever else takes a result.

        Raises:
            ValueError: it is not of one run.
        """
        if np.shape(self.epochs):
            raise ValueError(
                f"`as_result`: a result is of one run, got {np.shape(self.epochs)[0]} of them. "
                "Take one by its index, `runs[0].as_result()`."
            )
        epochs, best_epoch = int(self.epochs), int(self.best_epoch)
        reason = Reason(int(self.reason))
        message = why_stopped(reason, self.monitor, int(self.wait))
        if reason == Reason.NON_FINITE:
            message = f"a loss or a param was not finite in epoch {epochs + 1}"
        return Result(
            best=self.best,
            last=self.last,
            history={
                name: np.asarray(self.history[name])[:epochs]
                for name in sorted(self.history, key=in_order)
            },
            losses=np.asarray(self.losses)[: int(self.last.step)],
            best_epoch=None if best_epoch < 0 else best_epoch,
            monitor=self.monitor,
            reason=reason,
            message=message,
        )

    def __repr__(self) -> str:
        shape = np.shape(self.epochs)
        return f"RunResult({shape[0]} runs)" if shape else f"Run{self.as_result()!r}"


def in_order(name: str) -> tuple[bool, bool, str]:
    """A key by which the loss comes first, and the values of validation last."""
    return name.startswith("val_"), name.removeprefix("val_") != "loss", name


def make_run(
    make_trainer: "MakeTrainer | Trainer",
    *,
    epochs: int,
    batch_size: int = 32,
    shuffle: bool = True,
    stopping: Stopping | None = None,
) -> "Run":
    """A whole training as one pure function, `run(key, data, hyperparameters, validation)`.

    It is the training that `fit` does with the same arguments, `jax.random.key(seed)` being the
    key: the same steps, the same evaluation, the same stopping. As a pure function it can be mapped
    over keys, data and hyperparameters, and differentiated.

    Args:
        make_trainer: `make_trainer(hyperparameters) -> trainer`, called while the run is traced, so
            that every number that it gives to optax, to a layer or to an objective may be an array;
            or a trainer, where there is nothing to vary.
        epochs: the most epochs, and how long the history is.
        batch_size: examples a batch, in evaluation too.
        shuffle: whether each epoch has an order of its own.
        stopping: when to stop before, from `fn.early_stopping`.

    Returns:
        The run, which is compiled once for each set of shapes.

    Raises:
        TypeError, ValueError: an argument is wrong, or at the call the data are.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> def make_trainer(rate):
        ...     return fn.Trainer(
        ...         fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(rate)
        ...     )
        >>> x = jnp.linspace(-1, 1, 64)[:, None]
        >>> run = fn.make_run(make_trainer, epochs=20, batch_size=16)
        >>> key, data = jax.random.key(0), (x, 2 * x + 1)
        >>> int(run(key, data, 0.5).epochs)
        20

        Three learning rates at once:

        >>> rates = jnp.array([0.01, 0.1, 0.5])
        >>> runs = jax.vmap(run, in_axes=(None, None, 0))(key, data, rates)
        >>> runs.history["loss"].shape
        (3, 20)

        The derivative of the last loss with respect to the learning rate:

        >>> slope = jax.grad(lambda rate: run(key, data, rate).history["loss"][-1])(0.1)
        >>> bool(slope < 0)
        True
    """
    errors.positive("make_run", epochs=epochs, batch_size=batch_size)
    if not isinstance(stopping, Stopping | None):
        raise TypeError(
            f"`make_run`: stopping must come from `fn.early_stopping`, got {stopping!r}. "
            'Say `stopping=fn.early_stopping("val_loss", patience=5)`.'
        )
    return Run(as_maker("make_run", make_trainer), epochs, batch_size, shuffle, stopping)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A whole training as a pure function: call it, or take its parts one by one.

    `run(...)` is `run.result(run.advance(run.init(...), ...))`; the parts serve whoever looks at
    runs on their way, as successive halving does.

    Differentiated, `run(...)` is another program of the same meaning: a scan over all epochs and
    steps asked for, those after the stop masked out, which keeps the state after each epoch, and
    the states within one while it goes back through it. It takes about four times as long. When
    to stop and which epoch was best count as constants. `optax.adam` needs `eps_root=1e-8` say,
    since the derivative of its square root is infinite at 0.

    Attributes:
        make_trainer: makes the trainer of hyperparameters.
        epochs, batch_size, shuffle, stopping: the arguments of `make_run`.
    """

    make_trainer: MakeTrainer
    epochs: int
    batch_size: int
    shuffle: bool
    stopping: Stopping | None

    def __call__(
        self,
        key: jax.Array,
        data: Any,
        hyperparameters: Any = None,
        validation: Any = None,
        start: Start | None = None,
    ) -> RunResult:
        """Trains from the first step to the end.

        Args:
            key: what all randomness comes from; `jax.random.key(seed)` for what `fit` does.
            data: `(x, y)` or `(x, y, weight)`, arrays; or `fn.data.subset(...)`.
            hyperparameters: a pytree of numbers and arrays, given to `make_trainer`.
            validation: data of the same form; or the fraction of `data` to hold out.
            start: whose params and model_state to begin with, a pretrained network's say: a state,
                or a pair of them. Those that the model makes of the key unless given.

        Raises:
            TypeError, ValueError: an argument is wrong. Labels and weights are checked where their
                values are known, that is outside jit and vmap.
        """
        args = self.arguments(key, data, hyperparameters, validation)
        found: RunResult = self.whole(*args, begins_with(start))
        return found

    def init(
        self,
        key: jax.Array,
        data: Any,
        hyperparameters: Any = None,
        validation: Any = None,
        start: Start | None = None,
    ) -> Progress:
        """The run before its first step; arguments as of a call."""
        args = self.arguments(key, data, hyperparameters, validation)
        found: Progress = self.first(*args, begins_with(start))
        return found

    def advance(
        self,
        progress: Progress,
        data: Any,
        hyperparameters: Any = None,
        validation: Any = None,
        until: Any = None,
    ) -> Progress:
        """The run as it is after epoch `until`, unless it stops before.

        Args:
            progress: from `init` or `advance`, with the same data and hyperparameters.
            data: as of a call.
            hyperparameters: as of a call.
            validation: as of a call.
            until: epochs, counted from the beginning of the run; all of them unless given. May be
                traced.
        """
        rest = self.arguments(progress.state.key, data, hyperparameters, validation)[1:]
        if ("val_loss" in progress.history) != (rest[2] is not None):
            raise ValueError(
                "`run`: advance must be given the validation data that init was given, got "
                f"{'none' if rest[2] is None else 'some, but init had none'}. Give both the same."
            )
        last = jnp.asarray(self.epochs if until is None else until, jnp.int32)
        found: Progress = self.onward(progress, *rest, last)
        return found

    def result(self, progress: Progress) -> RunResult:
        """What has become of a run so far."""
        going = progress.reason == Reason.GOING_ON.value
        unseen = (progress.best_epoch < 0) & (progress.reason != Reason.NON_FINITE.value)
        steps = jnp.arange(len(progress.losses))
        return RunResult(
            best=either(unseen, progress.state, progress.best),
            last=progress.state,
            history=progress.history,
            losses=jnp.where(steps < progress.state.step, progress.losses, jnp.nan),
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            reason=jnp.where(going, Reason.EPOCHS.value, progress.reason),
            wait=progress.stop_state.wait,
            monitor=self.plan("val_loss" in progress.history).stopping.monitor,
        )

    def plan(self, validated: bool) -> Plan:
        """What is fixed of the run."""
        stopping = self.stopping or keep_best("val_loss" if validated else "loss")
        return Plan(self.epochs, self.batch_size, self.shuffle, stopping)

    @cached_property
    def whole(self) -> Callable[..., RunResult]:
        """`(key, source, hyperparameters, validation, start) -> result`, compiled."""

        def run(
            bounded: bool, key: Any, source: Any, hyper: Any, validation: Any, start: Any
        ) -> RunResult:
            trainer, plan = self.make_trainer(hyper), self.plan(validation is not None)
            progress = on_the_way.begin(trainer, plan, key, source, validation, start)
            progress = on_the_way.go_on(
                trainer, plan, progress, source, validation, plan.epochs, bounded=bounded
            )
            return self.result(progress)

        whole = jax.custom_jvp(partial(run, False))
        whole.defjvp(lambda primals, tangents: jax.jvp(partial(run, True), primals, tangents))
        return jax.jit(whole)

    @cached_property
    def first(self) -> Callable[..., Progress]:
        """`(key, source, hyperparameters, validation, start) -> progress`, compiled."""

        def first(key: Any, source: Any, hyper: Any, validation: Any, start: Any) -> Progress:
            plan = self.plan(validation is not None)
            return on_the_way.begin(self.make_trainer(hyper), plan, key, source, validation, start)

        return jax.jit(first)

    @cached_property
    def onward(self) -> Callable[..., Progress]:
        """`(progress, source, hyperparameters, validation, until) -> progress`, compiled."""

        def onward(
            progress: Progress, source: Any, hyper: Any, validation: Any, until: Any
        ) -> Progress:
            trainer, plan = self.make_trainer(hyper), self.plan(validation is not None)
            return on_the_way.go_on(trainer, plan, progress, source, validation, until)

        return jax.jit(onward)

    @property
    def placed(self) -> bool:
        """Whether one run takes several devices; known after its first arguments."""
        return bool(self.made.get("placed"))

    @cached_property
    def made(self) -> dict[Any, Any]:
        """What has been made for this run once, by name: compiled programs, what labels must be."""
        return {}

    def arguments(self, key: Any, data: Any, hyperparameters: Any, validation: Any) -> Any:
        """The arguments of a call as arrays, once what can be wrong with them has been refused."""
        check_key("run", key)
        source, validation = split_off(key, data, validation)
        hyper = jax.tree.map_with_path(as_number, hyperparameters)
        columns = None if validation is None else padded(validation, self.batch_size)
        args = key, source, hyper, columns
        signature = "labels", signature_of(args)
        if signature not in self.made:
            self.made[signature] = self.look(*args)
        for part in (source.columns, columns):
            if part is not None and not any(map(is_tracer, jax.tree.leaves(part))):
                check_labels("run", self.made[signature], part)
        return args

    def look(self, key: Any, source: Any, hyper: Any, validation: Any) -> Any:
        """What labels must be, found by a trace of the shapes alone."""
        box = []

        def trace(key: Any, source: Any, hyper: Any) -> None:
            trainer, one = self.make_trainer(hyper), example(source)
            state = init_state(trainer.model, trainer.optimizer, key, one[0])
            box.append(labels_of(trainer.programs, state, one))
            self.made["placed"] = trainer.programs.placement is not None
            if trainer.programs.placement is not None:
                trainer.programs.placement.check_batch("run", self.batch_size)

        jax.eval_shape(trace, key, source, hyper)
        return box[0]


def as_maker(function: str, make_trainer: Any) -> MakeTrainer:
    """A function of hyperparameters that gives a trainer; of a trainer, the constant one."""
    if hasattr(make_trainer, "programs"):
        check_compiled(function, make_trainer)

        def same(hyperparameters: Any) -> Any:
            if jax.tree.leaves(hyperparameters):
                raise TypeError(
                    f"`{function}`: hyperparameters need a function that makes a trainer of them, "
                    "got a trainer. Say `lambda rate: fn.Trainer(..., optimizer=optax.adam(rate))`."
                )
            return make_trainer

        return same
    if not callable(make_trainer):
        raise TypeError(
            f"`{function}`: make_trainer must be a function `hyperparameters -> trainer`, or a "
            f"trainer, got {errors.describe(make_trainer)}. Say `lambda rate: fn.Trainer(...)`."
        )

    def make(hyperparameters: Any) -> Any:
        trainer = make_trainer(hyperparameters)
        if not hasattr(trainer, "programs"):
            raise TypeError(
                f"`{function}`: make_trainer must give a trainer, got {errors.describe(trainer)}. "
                "End it with `return fn.Trainer(...)`."
            )
        check_compiled(function, trainer)
        return trainer

    return make


def check_compiled(function: str, trainer: Any) -> None:
    """Raises where a trainer compiles nothing, but is to be compiled as part of a run."""
    if trainer.eager:
        raise ValueError(
            f"`{function}`: the trainer must be one that compiles, got eager=True. A whole run is "
            "one compiled program: look at layers in `trainer.fit`."
        )


def begins_with(start: Start | None) -> Any:
    """The params and model_state to begin with, if there are any."""
    return None if start is None else pair_of("run", start)


def split_off(key: Any, data: Any, validation: Any) -> tuple[Resident | Subset, Any]:
    """The data to train on as a source, and the validation data."""
    if isinstance(data, Subset):
        if isinstance(validation, float):
            raise TypeError(
                f"`run`: validation={validation} can't be drawn from a subset. "
                "Give another subset, `fn.data.subset(data, index)`, as validation."
            )
        return jax.tree.map(jnp.asarray, data), validation
    columns = check_columns("run", data)
    if isinstance(validation, float):
        columns, validation = split("run", columns, validation, stream(key, ORDER))
    return Resident(jax.tree.map(jnp.asarray, columns)), validation


def padded(validation: Any, batch_size: int) -> Columns:
    """Validation data as whole batches, on the device."""
    if isinstance(validation, Subset):
        columns = taken(validation)
    else:
        columns = check_columns("run(validation=...)", validation)
    whole: Columns = jax.tree.map(jnp.asarray, pad(columns, batch_size))
    return whole


def as_number(path: Any, leaf: Any) -> jax.Array:
    """A hyperparameter as an array of a type that does not depend on how it was written."""
    try:
        array = jnp.asarray(leaf)
    except TypeError as error:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise TypeError(
            f"`run`: hyperparameters must be numbers or arrays, got {errors.describe(leaf)}"
            f"{f' for {name}' if name else ''}. What decides on shapes or on code makes a run of "
            "its own: let make_trainer close over it."
        ) from error
    return jax.lax.convert_element_type(array, array.dtype)


def is_tracer(leaf: Any) -> bool:
    """Whether the values of an array are not known yet."""
    return isinstance(leaf, jax.core.Tracer)
