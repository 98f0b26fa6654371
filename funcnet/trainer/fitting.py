"""`fit`: the one loop over epochs, with its clock, its output and its wish to be interrupted."""

import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import nullcontext, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from funcnet import errors, tree
from funcnet.data.arrays import Columns, check_columns, split
from funcnet.data.blocks import Source
from funcnet.distributed.agreement import same
from funcnet.distributed.arrays import gathered
from funcnet.eager import is_eager
from funcnet.nn.model import Start, started
from funcnet.stopping import Reason, Stopping, StopState, early_stopping
from funcnet.trainer import evaluation
from funcnet.trainer.callbacks import Event, StopTraining, as_callback, progress
from funcnet.trainer.checks import (
    check_kind,
    check_labels,
    check_state,
    labels_of,
    where_not_finite,
)
from funcnet.trainer.feeds import (
    Feed,
    Portion,
    StreamFeed,
    form_of,
    make_feed,
    of_size,
    words_of,
)
from funcnet.trainer.limiting import Ends, overfitted, tried
from funcnet.trainer.programs import Programs, with_own
from funcnet.trainer.result import Result
from funcnet.trainer.saving import Saver, check_resumable, description_of, policy_of
from funcnet.trainer.settings import Settings, check_settings
from funcnet.trainer.signals import Pressed, interrupts, leave
from funcnet.trainer.together import Together, check_shared, facts_of
from funcnet.training.guarding import Guard, calmed, guard_of
from funcnet.training.guarding import words_of as words_of_guard
from funcnet.training.state import ORDER, check_key, stream
from funcnet.training.step import Accumulators
from funcnet.training.told import asked_for, listens
from funcnet.types import Metrics, TrainState

if TYPE_CHECKING:
    from funcnet.trainer.trainer import Trainer


def fit(trainer: "Trainer", data: Any, validation: Any, settings: Settings) -> Result:
    """See `Trainer.fit`."""
    check_settings(settings)
    if settings.state is not None:
        check_kind("fit", settings.state)
    placement = trainer.programs.placement
    shared = check_shared(placement)
    with same("fit", shared) as facts:
        key = jax.random.key(settings.seed or 0) if settings.state is None else settings.state.key
        check_key("fit", key)
        columns = None if evaluation.is_batches(data) else check_columns("fit", data)
        if shared:
            facts |= facts_of(settings, columns, validation)
        if isinstance(validation, float):
            if columns is None:
                raise TypeError(
                    f"`fit`: validation={validation} needs data in memory, got a stream. "
                    "Give the validation data itself."
                )
            columns, validation = split("fit", columns, validation, stream(key, ORDER))
        if settings.limits is not None:
            data, columns, validation, settings = overfitted(data, columns, validation, settings)
        if placement is not None:
            placement.check_batch("fit", settings.batch_size)
        feed = make_feed(data, key, settings.batch_size, settings.shuffle, columns, placement)
        if settings.limits is not None:
            validation, settings = tried(validation, settings, feed.steps_per_epoch)
    return Loop(trainer.programs, feed, key, columns, validation, settings).run()


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
        self.programs, self.feed, self.key = programs, feed, key
        self.columns, self.settings, self.ends = columns, settings, Ends(settings.limits)
        self.together = Together(check_shared(programs.placement))
        self.stopping = settings.stopping or keep_best("loss" if validation is None else "val_loss")
        self.stop_state: StopState = self.stopping.init()
        shown = progress(settings.progress)
        self.callbacks = [as_callback(each) for each in (*settings.callbacks, shown)]
        self.memories = [callback.init() for callback in self.callbacks]
        self.history: dict[str, list[Any]] = {}
        self.losses: list[np.ndarray] = []
        self.best_epoch: int | None = None
        self.found: Accumulators | None = None
        self.state = self.first_state()
        self.step = 0 if settings.state is None else int(self.state.step)
        expected = labels_of(programs, self.state, feed.example)
        feed.check = partial(check_labels, "fit", expected)
        if columns is not None:
            feed.check(columns)
        self.validation = self.check_validation(validation)
        self.names = self.check_monitor()
        self.best: TrainState | None = None
        self.form: Any = None
        self.batch = feed.batch
        self.broken = False
        self.saver, self.resumed = self.make_saver(validation), False

    def make_saver(self, validation: Any) -> Saver | None:
        """What saves this fit, if it is asked for."""
        settings = self.settings
        if settings.checkpoint is None:
            return None
        policy = policy_of(settings.checkpoint)
        data: Any = self.columns
        if isinstance(self.feed, StreamFeed):
            check_resumable(self.feed, self.together.shared)
            data = self.feed.opening
        said = description_of(settings, self.key, data, validation, self.stopping)
        if isinstance(self.feed, StreamFeed):
            said["batches"] = self.feed.steps_per_epoch
        return Saver(policy, self.stopping, said, settings.accept_changes, self.together.shared)

    def first_state(self) -> TrainState:
        """The state to begin with, in buffers of its own."""
        if self.settings.start is not None:
            return self.started(self.settings.start)
        if self.settings.state is None:
            first: TrainState = self.programs.init()(self.key, self.feed.example[0])
            return first
        check_state("fit", self.programs, self.settings.state, self.feed.example[0])
        state = evaluation.brought(self.programs.placement, ready(self.settings.state))
        copy: TrainState = self.programs.copy()(state)
        return copy

    def started(self, start: Start) -> TrainState:
        """The state of step 0 with the params and model_state that are given."""
        x = self.feed.example[0]
        trees = started("fit", self.programs.model, start, x)
        bare = TrainState(jax.numpy.zeros((), jax.numpy.int32), *trees, (), self.key)
        placed = evaluation.brought(self.programs.placement, bare)
        begun: TrainState = self.programs.begin()(self.key, x, (placed.params, placed.model_state))
        return begun

    def check_validation(self, validation: Any) -> list[Columns]:
        """The validation data as padded blocks, none if there is none."""
        if validation is None:
            return []
        blocks = evaluation.padded(
            "fit", validation, self.settings.batch_size, self.programs.placement
        )
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
            self.feed.check(block)
        return blocks

    def check_monitor(self) -> list[str]:
        """The names of what is reported; raises unless what stopping monitors is among them."""
        reported = self.programs.reported(self.state, self.like_batch)
        values = sorted(reported, key=lambda name: name != "loss")
        told = jax.eval_shape(partial(with_own, dict.fromkeys(values, 0.0)), self.state.opt_state)
        names = [*values, *(name for name in told if name not in values)]
        if self.validation:
            names += [f"val_{name}" for name in values]
        check_monitored("fit", self.stopping.monitor, names)
        for name in asked_for(self.state.opt_state):
            check_monitored("fit", name, names, by="the optimizer")
        return names

    @property
    def like_batch(self) -> Columns:
        """What tells the shapes of a batch; a layer that runs eagerly sees values of the data."""
        return self.feed.example if is_eager() else self.feed.batch

    @property
    def epochs(self) -> int:
        """Epochs in the history: those of this fit, which may go on from another."""
        return len(self.history.get("loss", []))

    @property
    def last_step(self) -> int | None:
        """The step at which all that was asked for is done, if it is known."""
        epochs, per_epoch = self.settings.epochs, self.feed.steps_per_epoch
        if epochs is None and self.settings.steps is None:
            epochs = 1
        ends = [end for end in (self.settings.steps, self.ends.last) if end is not None]
        if epochs is not None and per_epoch is not None:
            ends.append(epochs * per_epoch)
        return min(ends, default=None)

    def run(self) -> Result:
        """Trains to the end, whatever brings it about."""
        with interrupts(self.saver is not None) as pressed, self.saver or nullcontext():
            if self.saver is not None:
                self.resumed = self.saver.take_up(self)
            self.ends.first = self.step
            try:
                self.tell("start", {})
                reason, message = self.train(pressed)
                if self.saver is not None:
                    self.saver.store.wait()  # for what can't be written, while there is a result
                self.together.meet(lambda: f"its end, {message}")
            except StopTraining as stop:
                reason, message = Reason.CALLBACK, str(stop) or Reason.CALLBACK.words
            except OSError as error:
                if self.saver is None or not self.saver.failed(error):
                    raise
                reason, message = Reason.NOT_SAVED, str(error)
            with suppress(StopTraining):  # there is nothing left to stop
                self.tell("end", {})
                self.together.meet(lambda: "its end")
        if self.saver is not None and (reason == Reason.INTERRUPTED or pressed.is_set()):
            leave(pressed.number)
        return self.result(reason, message)

    def train(self, pressed: Pressed) -> tuple[Reason, str]:
        """Epoch after epoch, until there is a reason to stop."""
        per_epoch = self.feed.steps_per_epoch
        epoch = self.step // per_epoch if per_epoch else self.epochs
        if (reason := Reason(int(self.stop_state.reason))) != Reason.GOING_ON:
            return reason, self.why_stopped(reason)
        if self.done(epoch) and self.found is None:
            return Reason.EPOCHS, Reason.EPOCHS.words if self.resumed else (
                f"no step was taken: the state is at step {self.step}, and epochs and steps are "
                "counted from step 0"
            )
        while not self.done(epoch) or self.found is not None:
            stop = Reason.GOING_ON
            for portion in self.portions():
                for _ in self.chunks(portion):
                    limited = self.step != self.settings.steps and self.ends.reached(self.step)
                    stop = self.together.meet(self.so_far, pressed, limited=limited)
                    if self.broken and not self.gone_back():
                        return Reason.NON_FINITE, self.what_broke()
                    if self.save_within(stop):
                        return stop, self.why_stopped(stop)
            if self.found is None:
                return Reason.DATA, f"the data ended after {self.step} steps"
            finite, metrics = self.programs.closing()(
                self.state.params, self.state.opt_state, self.found
            )
            finite, metrics = gathered((finite, metrics))
            broken = [path for path, good in tree.paths(finite).items() if not good]
            if broken:
                return Reason.NON_FINITE, (
                    f"params are not finite after step {self.step}: {broken[0]}. "
                    "`fn.first_nan` names the layer."
                )
            epoch += 1
            reason = self.close_epoch(metrics)
            if isinstance(self.feed, StreamFeed):
                self.feed.place = None
            if reason == Reason.GOING_ON and not (stop == Reason.LIMIT and self.done(epoch)):
                reason = stop
            self.save_after(over=reason != Reason.GOING_ON or self.done(epoch))
            if reason != Reason.GOING_ON:
                return reason, self.why_stopped(reason)
        return Reason.EPOCHS, Reason.EPOCHS.words

    def why_stopped(self, reason: Reason) -> str:
        """What stopping, a limit, or whoever interrupts has to say."""
        if reason == Reason.LIMIT:
            return self.ends.words(self.step)
        if reason == Reason.INTERRUPTED:
            return reason.words
        return why_stopped(reason, self.stopping.monitor, int(self.stop_state.wait))

    @property
    def between(self) -> bool:
        """Whether the last step was the last of its epoch."""
        per_epoch = self.feed.steps_per_epoch
        return per_epoch is not None and self.step % per_epoch == 0

    def save_within(self, stop: Reason) -> bool:
        """Saves within an epoch, if it is time; whether to stop here.

        At the end of an epoch neither is done before it is evaluated, so that a fit which goes on
        from there does as one would that had not stopped.
        """
        stopped = stop != Reason.GOING_ON
        if self.between and (self.saver is not None or stop == Reason.LIMIT):
            return False
        if self.saver is not None and (
            stopped or self.step == self.settings.steps or self.saver.due(self)
        ):
            self.saver.save(self, closed=False)
        return stopped

    def save_after(self, *, over: bool) -> None:
        """Saves after an epoch, if it is time; one that `steps` has cut short was saved before."""
        if self.saver is None or not (over or self.saver.due(self)):
            return
        unknown = self.feed.steps_per_epoch is None and self.step != self.settings.steps
        if self.between or unknown:
            self.saver.save(self, closed=True)

    def done(self, epoch: int) -> bool:
        """Whether all that was asked for is done."""
        epochs, steps = self.settings.epochs, self.settings.steps
        if epochs is None and steps is None:
            epochs = 1
        return (epochs is not None and epoch >= epochs) or (
            steps is not None and self.step >= steps
        )

    def portions(self) -> Iterator[Portion]:
        """What is left of this epoch, portion by portion, the same in all processes."""
        following: Iterator[Portion] = iter(())
        if self.found is None or self.step != self.settings.steps:  # else nothing is left of it
            following = self.feed.epoch(self.step, self.settings.steps)
        while (portion := self.next_of(following)) is not None:
            yield portion

    def next_of(self, portions: Iterator[Portion]) -> Portion | None:
        """The next portion, or None, as all processes have it."""
        portion = None
        with self.together.alone():
            portion = next(portions, None)
        self.together.meet(lambda: f"step {self.step} with {words_of(portion)} to come")
        return portion

    def so_far(self) -> str:
        """Where this fit is, with a checksum of what it has found."""
        return (
            f"step {self.step} with losses of checksum {zlib.crc32(self.losses[-1].tobytes()):08x}"
        )

    def chunks(self, portion: Portion) -> Iterator[None]:
        """Takes the steps of a portion, and yields after each chunk of them."""
        source, steps, batch_size = portion
        if self.found is None:
            self.found = self.programs.nothing(
                self.state, source, batch_size, self.settings.shuffle
            )
        self.check_step(source, batch_size)
        before = self.programs.traces
        run, at_most = self.programs.runner(
            batch_size, self.settings.shuffle, self.state, self.found, source
        )
        if self.programs.traces != before:
            self.warn_of_retrace(portion)
        self.form = form_of(portion)
        self.batch = of_size(self.feed.example, batch_size)
        while steps:
            n = min(steps, at_most, self.ends.steps_left(self.step))
            if self.saver is not None:
                n = min(n, self.saver.steps_left(self.step))
            self.state, self.found, losses = run(self.state, self.found, source, n)
            total, losses = gathered((self.found["loss"]["total"], losses))
            if (guard := guard_of(self.state.opt_state)) is not None:
                n = self.look_at(guard)
            steps, self.step = steps - n, self.step + n
            if isinstance(self.feed, StreamFeed):
                self.feed.taken(n)
            self.losses.append(losses[:n])
            self.broken = self.broken or not np.isfinite(total)
            self.tell("chunk", {"loss": float(self.losses[-1][-1])})
            yield

    def check_step(self, source: Source, batch_size: int) -> None:
        """Raises unless all processes have made the same step of model, objective and optimizer."""
        if self.form is not None or not self.together.shared or is_eager():
            return
        with same("fit", shared=True) as facts:
            program = self.programs.advance(batch_size, self.settings.shuffle)
            lowered = program.lower(self.state, self.found, source, np.int32(0))
            facts["a step of checksum"] = f"{zlib.crc32(lowered.as_text().encode()):08x}"

    def warn_of_retrace(self, portion: Portion) -> None:
        """Says what changed where a fit that has compiled its program compiles it again."""
        if self.form is None:
            return
        warnings.warn(
            "`fit`: the training step was compiled again, since the batches changed:\n  "
            + "\n  ".join(errors.differences(self.form, form_of(portion)))
            + "\nGive batches of one shape and dtype to compile once.",
            stacklevel=2,
        )

    def close_epoch(self, metrics: Metrics) -> Reason:
        """Evaluates, checks, keeps the best state, tells the callbacks."""
        metrics = evaluation.report(metrics)
        if self.validation:
            values = evaluation.over(
                self.programs, self.state, self.validation, self.settings.batch_size
            )
            metrics |= {f"val_{name}": value for name, value in values.items()}
        metrics = {name: metrics[name] for name in self.names}
        if listens(self.state.opt_state):
            values = {name: np.asarray(metrics[name]) for name in asked_for(self.state.opt_state)}
            self.state = self.programs.after_epoch()(self.state, values)
        before = self.epochs  # of a run that goes on with a new metric: it has no value for these
        for name, value in metrics.items():
            unknown = np.full(np.shape(value), np.nan)[()]
            self.history.setdefault(name, [unknown] * before).append(value)
        value = metrics[self.stopping.monitor]
        improved, self.stop_state = self.programs.check(self.stopping)(value, self.stop_state)
        if improved:
            self.best, self.best_epoch = self.programs.copy()(self.state), self.epochs - 1
        self.found = None
        self.tell("epoch", metrics)
        return Reason(int(self.stop_state.reason))

    def look_at(self, guard: Guard) -> int:
        """How many steps were taken, of which a guard may have seen too many bad ones."""
        tripped, step = gathered((guard.tripped, self.state.step))
        self.broken = bool(tripped)
        return int(step) - self.step

    def gone_back(self) -> bool:
        """Whether the fit goes on from what was saved last, with the batches that come next."""
        guard = guard_of(self.state.opt_state)
        if guard is None or self.saver is None or not self.saver.go_back(self):
            return False
        self.broken = False
        return True

    def what_broke(self) -> str:
        """The step whose loss was not finite, and whether the data is to blame."""
        if (guard := guard_of(self.state.opt_state)) is not None:
            return (
                f"{int(guard.in_a_row)} steps in a row before step {self.step} were left out; of "
                f"the last, {words_of_guard(guard, self.state.params)}"
            )
        chunk = self.losses[-1]
        k = int(np.argmin(np.isfinite(chunk)))
        pointer = " `fn.first_nan` names the layer."
        cause = pointer if self.columns is None else where_not_finite(self.columns)
        return f"the loss was {chunk[k]} at step {self.step - len(chunk) + k}.{cause}"

    def tell(self, kind: Any, metrics: Metrics) -> None:
        """Gives an event to every callback."""
        event = Event(
            kind, self.epochs, self.step, self.last_step, metrics, self.history, self.state,
            self.losses[-1] if kind == "chunk" else np.zeros(0, np.float32), self.batch,
        )  # fmt: skip
        with self.together.alone():
            for i, callback in enumerate(self.callbacks):
                self.memories[i] = callback.update(self.memories[i], event)
                if callback.adds is not None:
                    more = callback.adds(self.memories[i])
                    event = event._replace(metrics=event.metrics | more)

    def result(self, reason: Reason, message: str) -> Result:
        """What `fit` gives back."""
        best = self.best
        if best is None:
            best = self.first_state() if reason == Reason.NON_FINITE else self.state
        history = {name: np.stack(values) for name, values in self.history.items()}
        losses = np.concatenate([np.zeros(0, np.float32), *self.losses])
        return Result(
            best, self.state, history, losses, self.best_epoch, self.stopping.monitor, reason,
            message,
        )  # fmt: skip


def ready(state: TrainState) -> TrainState:
    """A state to go on from: a guard that had too many bad steps in a row counts them anew."""
    guard = guard_of(state.opt_state)
    if guard is None or not gathered(guard.tripped):
        return state
    return state._replace(opt_state=calmed(state.opt_state, now=state.opt_state))


def check_monitored(
    function: str, monitor: str, names: Collection[str], by: str = "stopping"
) -> None:
    """Raises unless what stopping, or another, monitors is among the names of what is reported."""
    validated = any(name.startswith("val_") for name in names)
    if monitor.startswith("val_") and not validated:
        raise ValueError(
            f"`{function}`: {by} monitors {monitor!r}, but there is no validation data. "
            "Give `validation=(x, y)`, or a fraction, `validation=0.1`."
        )
    if monitor not in names:
        raise ValueError(
            f"`{function}`: {by} monitors {monitor!r}, which nobody reports. "
            f"{errors.did_you_mean(monitor, names)}"
        )


def why_stopped(reason: Reason, monitor: str, wait: int) -> str:
    """What stopping has to say."""
    if reason == Reason.EPOCHS:
        return reason.words
    if reason == Reason.PATIENCE:
        return f"{monitor} has not improved in {wait} checks in a row"
    return f"{reason.words} ({monitor})"


@cache
def keep_best(monitor: str) -> Stopping:
    """The rule that only tells which epoch was best, and never stops."""
    return early_stopping(monitor, patience=np.iinfo(np.int32).max)
