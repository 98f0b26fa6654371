"""The epochs of a run as pure functions: train, evaluate, check, keep the best."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet.data.arrays import Columns, Subset, rows
from funcnet.data.blocks import Resident
from funcnet.nn.model import started
from funcnet.stopping import Reason, Stopping, StopState
from funcnet.trainer.feeds import of_size
from funcnet.trainer.fitting import check_monitored
from funcnet.trainer.programs import with_own
from funcnet.training.advance import compute, make_advance, make_evaluate
from funcnet.training.averaging import evaluated_params
from funcnet.training.guarding import guard_of
from funcnet.training.state import init_state
from funcnet.training.step import Accumulators, contribution, nothing
from funcnet.training.told import after_epoch, asked_for
from funcnet.types import Metrics, PyTree, TrainState

if TYPE_CHECKING:
    from funcnet.trainer.trainer import Trainer


class Plan(NamedTuple):
    """What is fixed before a run is traced.

    Attributes:
        epochs, batch_size, shuffle: as of `make_run`.
        stopping: the rule that tells which epoch was best, and when to stop.
    """

    epochs: int
    batch_size: int
    shuffle: bool
    stopping: Stopping


class Progress(NamedTuple):
    """A run on its way: all that one epoch carries to the next.

    Attributes:
        state, best: the last state, and that after the best epoch.
        stop_state: what early stopping remembers.
        history: values by name, `[epochs, ...]`.
        losses: float32[steps], the loss of each step.
        epoch: int32[], epochs taken.
        best_epoch: int32[], or -1.
        reason: int32[], an `fn.Reason`; the run goes on while it is 0.
    """

    state: TrainState
    best: TrainState
    stop_state: StopState
    history: dict[str, jax.Array]
    losses: jax.Array
    epoch: jax.Array
    best_epoch: jax.Array
    reason: jax.Array


def begin(
    trainer: "Trainer",
    plan: Plan,
    key: jax.Array,
    source: Resident | Subset,
    validation: Columns | None,
    start: Any = None,
) -> Progress:
    """A run before its first step."""
    x = example(source)[0]
    if start is not None:
        start = started("run", trainer.model, start, x)
    state = init_state(trainer.model, trainer.optimizer, key, x, start)
    measure = make_measure(trainer, plan, validation)
    shapes = jax.eval_shape(measure, state, none(trainer, plan, state, source))
    check_monitored("run", plan.stopping.monitor, shapes)
    for name in asked_for(state.opt_state):
        check_monitored("run", name, shapes, by="the optimizer")
    zero = jnp.zeros((), jnp.int32)
    return Progress(
        state=state,
        best=state,
        stop_state=plan.stopping.init(),
        history={
            name: blank((plan.epochs, *leaf.shape), leaf.dtype) for name, leaf in shapes.items()
        },
        losses=blank((plan.epochs * longest(source, plan.batch_size),), jnp.float32),
        epoch=zero,
        best_epoch=zero - 1,
        reason=zero,
    )


def go_on(
    trainer: "Trainer",
    plan: Plan,
    progress: Progress,
    source: Resident | Subset,
    validation: Columns | None,
    until: Any,
    *,
    bounded: bool = False,
) -> Progress:
    """Epoch after epoch up to `until`, or to a reason to stop.

    Bounded, it takes the time of all the epochs of the plan, and can be differentiated backwards.
    """
    epoch = make_epoch(trainer, plan, source, validation, bounded=bounded)
    until = jnp.minimum(until, plan.epochs)

    def going(progress: Progress) -> jax.Array:
        return jnp.logical_and(progress.reason == Reason.GOING_ON.value, progress.epoch < until)

    if not bounded:
        found: Progress = jax.lax.while_loop(going, epoch, progress)
        return found
    turn = jax.checkpoint(epoch)

    def turn_or_rest(progress: Progress, _: Any) -> tuple[Progress, None]:
        return jax.lax.cond(going(progress), turn, lambda progress: progress, progress), None

    return jax.lax.scan(turn_or_rest, progress, length=plan.epochs)[0]


def make_epoch(
    trainer: "Trainer",
    plan: Plan,
    source: Resident | Subset,
    validation: Columns | None,
    *,
    bounded: bool,
) -> Callable[[Progress], Progress]:
    """One epoch, `progress -> progress`."""
    programs = trainer.programs
    steps = -(-length(source) // plan.batch_size)
    most = longest(source, plan.batch_size)
    advance = make_advance(
        programs.step,
        programs.metrics,
        batch_size=plan.batch_size,
        shuffle=plan.shuffle,
        capacity=most,
        bounded=bounded,
    )
    measure = make_measure(trainer, plan, validation)

    def epoch(progress: Progress) -> Progress:
        state, stop_state, at = progress.state, progress.stop_state, progress.epoch
        found = none(trainer, plan, state, source)
        state, found, losses = advance(state, found, source, steps)
        values = measure(state, found)
        state = state._replace(opt_state=after_epoch(state.opt_state, values))
        value = values[plan.stopping.monitor]
        sound = jnp.isfinite(found["loss"]["total"]) & finite(state.params)
        if (guard := guard_of(state.opt_state)) is not None:
            sound &= ~guard.tripped
        improved = sound & plan.stopping.improved(value, stop_state)
        checked = plan.stopping.update(value, stop_state)
        reason = jnp.where(sound, checked.reason, Reason.NON_FINITE.value)
        return Progress(
            state=state,
            best=either(improved, state, progress.best),
            stop_state=either(sound, checked, stop_state),
            history={
                name: line.at[at].set(jnp.where(sound, values[name], line[at]).astype(line.dtype))
                for name, line in progress.history.items()
            },
            losses=jax.lax.dynamic_update_slice(progress.losses, losses, (at * steps,)),
            epoch=at + sound,
            best_epoch=jnp.where(improved, at, progress.best_epoch),
            reason=reason.astype(jnp.int32),
        )

    return epoch


def make_measure(
    trainer: "Trainer", plan: Plan, validation: Columns | None
) -> Callable[[TrainState, Accumulators], Metrics]:
    """All that is reported after an epoch, `(state, accumulators) -> values`."""
    programs = trainer.programs
    evaluate = make_evaluate(programs.objective, programs.metrics, batch_size=plan.batch_size)

    def measure(state: TrainState, found: Accumulators) -> Metrics:
        values = with_own(compute(programs.metrics, found), state.opt_state)
        if validation is not None:
            sums = evaluate(evaluated_params(state), state.model_state, validation)
            values |= {f"val_{k}": v for k, v in compute(programs.metrics, sums).items()}
        return {name: jnp.asarray(value) for name, value in values.items()}

    return measure


def none(
    trainer: "Trainer", plan: Plan, state: TrainState, source: Resident | Subset
) -> Accumulators:
    """Accumulators of no batch of `source`."""
    programs = trainer.programs

    def first(state: TrainState, batch: Any) -> Accumulators:
        return contribution(
            programs.objective, programs.metrics, state.params, state.model_state, batch, state.key
        )

    batch = of_size(example(source), plan.batch_size)
    return nothing(programs.metrics, jax.eval_shape(first, state, batch))


def example(source: Resident | Subset) -> Columns:
    """The first example, as a batch of one."""
    one: Columns = rows(source.columns, slice(0, 1))
    return one


def length(source: Resident | Subset) -> Any:
    """Number of examples of an epoch; it may be traced."""
    return source.n if isinstance(source, Subset) else len(jax.tree.leaves(source.columns)[0])


def longest(source: Resident | Subset, batch_size: int) -> int:
    """The most steps of an epoch."""
    rows = source.rows if isinstance(source, Subset) else jax.tree.leaves(source.columns)[0]
    return -(-len(rows) // batch_size)


def blank(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Room for values: NaN, or 0 where they are whole numbers."""
    empty = jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0
    return jnp.full(shape, empty, dtype)


def finite(params: PyTree) -> jax.Array:
    """Whether no param holds NaN or infinity."""
    whole = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return jnp.array(whole).all()


def either(chosen: jax.Array, first: Any, second: Any) -> Any:
    """The first tree if `chosen`, else the second, without a copy of both."""
    return jax.lax.cond(chosen, lambda: first, lambda: second)
