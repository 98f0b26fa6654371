"""`fit`: the one loop over epochs, with its clock, its output and its wish to be interrupted."""

import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import optax

from funcnet import errors
from funcnet.data.arrays import Columns, Staged, check_columns, split
from funcnet.stopping import Reason, Stopping, StopState, early_stopping
from funcnet.trainer import evaluation
from funcnet.trainer.callbacks import Event, StopTraining, as_callback, progress
from funcnet.trainer.checks import check_labels, check_state, where_not_finite
from funcnet.trainer.feeds import Feed, Portion, make_feed
from funcnet.trainer.programs import Program, Programs
from funcnet.training.advance import compute
from funcnet.training.state import ORDER, check_key, stream
from funcnet.training.step import Accumulators
from funcnet.types import Metrics, TrainState

if TYPE_CHECKING:
    from funcnet.trainer.trainer import Trainer


class Settings(NamedTuple):
    """The arguments of `fit` that are not data."""

    epochs: int | None
    steps: int | None
    batch_size: int
    shuffle: bool
    stopping: Stopping | None
    callbacks: tuple[Any, ...]
    seed: int | None
    state: TrainState | None
    progress: bool | None


@dataclass(frozen=True)
class Result:
    """What a fit gives back.

    Attributes:
        best: the state after the epoch with the best monitored value; the last one before any
            epoch was complete.
        last: the state at the end.
        history: values of each complete epoch by name, `history["val_loss"][epoch]`; `loss` and
            the metrics are averages over the epoch's batches as they were seen, `val_` ones are of
            the state after it.
        losses: float32[steps], the loss of each step.
        best_epoch: index of `best` in the history, or None before any epoch was complete.
        monitor: the name of the monitored value.
        reason: why training stopped; `reason.words` says it.
        message: one sentence about the end.
    """

    best: TrainState
    last: TrainState
    history: Mapping[str, np.ndarray]
    losses: np.ndarray
    best_epoch: int | None
    monitor: str
    reason: Reason
    message: str

    def __repr__(self) -> str:
        final = {name: float(v[-1]) for name, v in self.history.items() if v.ndim == 1 and len(v)}
        values = ", ".join(f"{name}={value:.4g}" for name, value in final.items())
        return f"Result({self.message} {values})"


def fit(trainer: "Trainer", data: Any, validation: Any, settings: Settings) -> Result:
    """See `Trainer.fit`."""
    check_settings(settings)
    key = jax.random.key(settings.seed or 0) if settings.state is None else settings.state.key
    check_key("fit", key)
    columns = None if is_stream(data) else check_columns("fit", data)
    if isinstance(validation, float):
        if columns is None:
            raise TypeError(
                f"`fit`: validation={validation} needs data in memory, got a stream. "
                "Give the validation data itself."
            )
        columns, validation = split(columns, validation, stream(key, ORDER))
    feed = make_feed(data, key, settings.batch_size, settings.shuffle, columns)
    return Loop(trainer.programs, feed, key, columns, validation, settings).run()


def is_stream(data: Any) -> bool:
    """Whether `data` is an iterable of batches rather than columns of arrays."""
    in_memory = isinstance(data, tuple | Staged) or not hasattr(data, "__iter__")
    return not in_memory and not (isinstance(data, list) and not evaluation.is_batches(data))


def check_settings(settings: Settings) -> None:
    """Raises unless the arguments of `fit` are of the right kinds."""
    for name in ("epochs", "steps"):
        if getattr(settings, name) is not None:
            errors.positive("fit", **{name: getattr(settings, name)})
    if settings.seed is not None and settings.state is not None:
        raise ValueError(
            "`fit`: give either seed or state, got both. A state holds its own key; to begin "
            "anew, leave the state out."
        )
    if not isinstance(settings.stopping, Stopping | None):
        raise TypeError(
            f"`fit`: stopping must come from `fn.early_stopping`, got {settings.stopping!r}. "
            'Say `stopping=fn.early_stopping("val_loss", patience=5)`.'
        )


class Loop:
    """A fit in progress: what changes from chunk to chunk lives here and nowhere else."""

    def __init__(
        self,
        programs: Programs,
        feed: Feed,
        key: jax.Array,
        columns: Columns | None,
        validation: Any,
        settings: Settings,
    ) -> None:
        self.programs, self.feed, self.columns, self.settings = programs, feed, columns, settings
        self.stopping = settings.stopping or keep_best(validation)
        self.stop_state: StopState = self.stopping.init()
        shown = progress(settings.progress)
        self.callbacks = [as_callback(each) for each in (*settings.callbacks, shown)]
        self.memories = [callback.init() for callback in self.callbacks]
        self.history: dict[str, list[Any]] = {}
        self.losses: list[np.ndarray] = []
        self.best_epoch: int | None = None
        self.found: Accumulators | None = None
        self.state = self.first_state(key)
        self.step = int(self.state.step)
        if columns is not None:
            check_labels("fit", programs, self.state, columns)
        self.validation = self.check_validation(validation)
        self.best = programs.copy()(self.state)
        self.known = 0

    def first_state(self, key: jax.Array) -> TrainState:
        """The state to begin with, in buffers of its own."""
        if self.settings.state is None:
            state: TrainState = self.programs.init()(key, self.feed.example[0])
            return state
        check_state("fit", self.programs, self.settings.state, self.feed.example[0])
        copy: TrainState = self.programs.copy()(self.settings.state)
        return copy

    def check_validation(self, validation: Any) -> list[Columns]:
        """The validation data as padded blocks, none if there is none."""
        if validation is None:
            return []
        blocks = evaluation.padded("fit", validation, self.settings.batch_size)
        want, got = (
            jax.tree.map(lambda leaf: (leaf.shape[1:], str(leaf.dtype)), part[:2])
            for part in (self.feed.example, blocks[0])
        )
        if want != got:
            one = jax.tree.map(lambda leaf: leaf[:1], blocks[0][:2])
            raise ValueError(
                "`fit`: validation examples must have the shapes and dtypes of those to train on, "
                f"got {errors.describe(one)}, expected {errors.describe(self.feed.example[:2])}. "
                "Prepare both in the same way."
            )
        for block in blocks:
            check_labels("fit", self.programs, self.state, block)
        return blocks

    @property
    def last_step(self) -> int | None:
        """The step at which all that was asked for is done, if it is known."""
        epochs, per_epoch = self.settings.epochs, self.feed.steps_per_epoch
        if epochs is None and self.settings.steps is None:
            epochs = 1
        ends = [self.settings.steps] if self.settings.steps is not None else []
        if epochs is not None and per_epoch is not None:
            ends.append(epochs * per_epoch)
        return min(ends, default=None)

    def run(self) -> Result:
        """Trains to the end, whatever brings it about."""
        with interrupts() as pressed:
            try:
                self.tell("start", {})
                reason, message = self.train(pressed)
            except StopTraining as stop:
                reason, message = Reason.CALLBACK, str(stop) or Reason.CALLBACK.words
            self.tell("end", {})
        return self.result(reason, message)

    def train(self, pressed: threading.Event) -> tuple[Reason, str]:
        """Epoch after epoch, until there is a reason to stop."""
        per_epoch = self.feed.steps_per_epoch
        epoch = self.step // per_epoch if per_epoch else 0
        while not self.done(epoch):
            self.found = None
            for portion in self.feed.epoch(self.step, self.settings.steps):
                for _ in self.chunks(portion):
                    if self.broken():
                        return Reason.NON_FINITE, self.what_broke()
                    if pressed.is_set():
                        return Reason.INTERRUPTED, Reason.INTERRUPTED.words
            if self.found is None:
                return Reason.EPOCHS, f"the data ended after {self.step} steps"
            epoch += 1
            if (reason := self.close_epoch(epoch)) != Reason.GOING_ON:
                return reason, f"{reason.words} ({self.stopping.monitor})"
        return Reason.EPOCHS, Reason.EPOCHS.words

    def done(self, epoch: int) -> bool:
        """Whether all that was asked for is done."""
        epochs, steps = self.settings.epochs, self.settings.steps
        if epochs is None and steps is None:
            epochs = 1
        return (epochs is not None and epoch >= epochs) or (
            steps is not None and self.step >= steps
        )

    def chunks(self, portion: Portion) -> Iterator[None]:
        """Takes the steps of a portion, and yields after each chunk of them."""
        source, steps, batch_size = portion
        if self.found is None:
            self.found = self.programs.nothing(
                self.state, source, batch_size, self.settings.shuffle
            )
        run, at_most = self.programs.runner(
            batch_size, self.settings.shuffle, self.state, self.found, source
        )
        self.warn_of_retrace(self.programs.advance(batch_size, self.settings.shuffle))
        while steps:
            n = min(steps, at_most)
            self.state, self.found, losses = run(self.state, self.found, source, n)
            steps, self.step = steps - n, self.step + n
            self.losses.append(np.asarray(losses)[:n])
            self.tell("chunk", {"loss": float(self.losses[-1][-1])})
            yield

    def warn_of_retrace(self, program: Program) -> None:
        """Says what changed where a fit that has compiled its program compiles it again."""
        if self.losses and program.traces > 1 and program.traces > self.known:
            warnings.warn(
                "`fit`: the training step was compiled again, since its arguments changed:\n  "
                + "\n  ".join(program.changes())
                + "\nGive batches of one shape and dtype to compile once.",
                stacklevel=2,
            )
        self.known = program.traces

    def close_epoch(self, epoch: int) -> Reason:
        """Evaluates, checks, keeps the best state, tells the callbacks."""
        assert self.found is not None  # an epoch without a step has been turned away
        metrics = evaluation.report(compute(self.programs.metrics, self.found))
        metrics |= learning_rate(self.state.opt_state)
        if self.validation:
            values = evaluation.over(
                self.programs, self.state, self.validation, self.settings.batch_size
            )
            metrics |= {f"val_{name}": value for name, value in values.items()}
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        value = self.monitored(metrics)
        if bool(self.stopping.improved(value, self.stop_state)):
            self.best, self.best_epoch = self.programs.copy()(self.state), epoch - 1
        self.stop_state = self.stopping.update(value, self.stop_state)
        self.tell("epoch", metrics)
        return Reason(int(self.stop_state.reason))

    def monitored(self, metrics: Metrics) -> Any:
        """The value that stopping checks."""
        name = self.stopping.monitor
        if name not in metrics:
            raise ValueError(
                f"`fit`: stopping monitors {name!r}, which nobody reports. "
                f"{errors.did_you_mean(name, metrics)}"
            )
        return metrics[name]

    def broken(self) -> bool:
        """Whether a loss of the last chunk was not finite."""
        return not np.isfinite(self.losses[-1]).all()

    def what_broke(self) -> str:
        """The step whose loss was not finite, and whether the data is to blame."""
        chunk = self.losses[-1]
        k = int(np.argmin(np.isfinite(chunk)))
        cause = "" if self.columns is None else where_not_finite(self.columns)
        return f"the loss was {chunk[k]} at step {self.step - len(chunk) + k}.{cause}"

    def tell(self, kind: Any, metrics: Metrics) -> None:
        """Gives an event to every callback."""
        epoch = len(next(iter(self.history.values()), []))
        event = Event(kind, epoch, self.step, self.last_step, metrics, self.history, self.state)
        for i, callback in enumerate(self.callbacks):
            self.memories[i] = callback.update(self.memories[i], event)

    def result(self, reason: Reason, message: str) -> Result:
        """What `fit` gives back."""
        keep_first = self.best_epoch is None and reason == Reason.NON_FINITE
        best = self.best if self.best_epoch is not None or keep_first else self.state
        history = {name: np.stack(values) for name, values in self.history.items()}
        losses = np.concatenate([np.zeros(0, np.float32), *self.losses])
        return Result(
            best, self.state, history, losses, self.best_epoch, self.stopping.monitor, reason,
            message,
        )  # fmt: skip


def keep_best(validation: Any) -> Stopping:
    """The rule that only tells which epoch was best, and never stops."""
    monitor = "loss" if validation is None else "val_loss"
    return early_stopping(monitor, patience=np.iinfo(np.int32).max)


def learning_rate(opt_state: optax.OptState) -> Metrics:
    """The learning rate where the optimizer's state holds it, as `optax.inject_hyperparams` does.

    Of several, the first.
    """
    found = optax.tree.get_all_with_path(opt_state, "learning_rate")
    return {"learning_rate": float(found[0][1])} if found else {}


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Makes the first Ctrl-C set a flag, and the second raise, while it lasts.

    Only in the main thread, and only in place of Python's own handler: whoever has set another
    one keeps it.
    """
    pressed = threading.Event()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or (
        usual is not signal.default_int_handler
    ):
        yield pressed
        return

    def note(number: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, usual)
