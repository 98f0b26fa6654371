"""The compiled programs of training: many steps in one, and the evaluation of a data set."""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from funcnet.data.arrays import Columns
from funcnet.data.blocks import Source, look_ahead, nth, take
from funcnet.eager import compiled, is_eager
from funcnet.metrics import Metric, average
from funcnet.training.state import ORDER, stream
from funcnet.training.step import Accumulators, Step, contribution, merge, nothing
from funcnet.types import Batch, Metrics, ModelState, Objective, Params, TrainState

Once: TypeAlias = Callable[
    [TrainState, Accumulators, Source], tuple[TrainState, Accumulators, jax.Array]
]
Advance: TypeAlias = Callable[
    [TrainState, Accumulators, Source, Any], tuple[TrainState, Accumulators, jax.Array]
]
T = TypeVar("T")
Evaluate: TypeAlias = Callable[[Params, ModelState, Columns], Accumulators]


def make_once(step: Step, metrics: Mapping[str, Metric], *, batch_size: int, shuffle: bool) -> Once:
    """The program of one step, `(state, accumulators, source) -> (state, accumulators, loss)`.

    Args:
        step: the step itself, which is given its batch.
        metrics: those whose accumulators `step` returns.
        batch_size: examples a batch.
        shuffle: whether each epoch has an order of its own.
    """

    @compiled
    def next_batch(source: Source, key: jax.Array, step: jax.Array) -> Batch:
        return take(look_ahead(source, key, step, 1, batch_size, shuffle), step, batch_size)

    def once(
        state: TrainState, found: Accumulators, source: Source
    ) -> tuple[TrainState, Accumulators, jax.Array]:
        batch = next_batch(source, stream(state.key, ORDER), state.step)
        return follow(step, metrics, state, found, batch)

    return once


def make_advance(
    step: Step,
    metrics: Mapping[str, Metric],
    *,
    batch_size: int,
    shuffle: bool,
    capacity: int,
    bounded: bool = False,
) -> Advance:
    """The program `(state, accumulators, source, n) -> (state, accumulators, losses)`.

    It runs `n` steps, a traced number, on batches taken inside the loop, and so is compiled once
    however a run is cut into chunks, with the same bits for every way to cut.

    Args:
        step: what is repeated.
        metrics: those whose accumulators `step` returns.
        batch_size: examples a batch.
        shuffle: whether each epoch has an order of its own.
        capacity: the most steps, and the length of `losses`, each step's loss.
        bounded: whether it always takes the time of `capacity` steps, as reverse-mode derivatives
            need it; they then store the carry of each step, and compute its inside anew.
    """

    @compiled
    def whole_order(source: Source, key: jax.Array, step: jax.Array) -> Any:
        return look_ahead(source, key, step, capacity, batch_size, shuffle)

    def advance(
        state: TrainState, found: Accumulators, source: Source, n: Any
    ) -> tuple[TrainState, Accumulators, jax.Array]:
        ready = whole_order(source, stream(state.key, ORDER), state.step)

        def body(
            i: jax.Array, carry: tuple[TrainState, Accumulators, jax.Array]
        ) -> tuple[TrainState, Accumulators, jax.Array]:
            state, found, losses = carry
            batch = take(ready, state.step, batch_size)
            state, found, loss = follow(step, metrics, state, found, batch)
            return state, found, losses.at[i].set(loss.astype(losses.dtype))

        carry = state, found, jnp.zeros(capacity, jnp.float32)
        if bounded:
            state, found, losses = masked_loop(capacity, n, body, carry)
        else:
            state, found, losses = jax.lax.fori_loop(0, n, body, carry)
        return state, found, losses

    return advance


def masked_loop(most: int, n: Any, body: Callable[[Any, T], T], carry: T) -> T:
    """`fori_loop(0, n, body, carry)` that can be differentiated backwards: `most` turns always."""

    def turn(carry: T, i: jax.Array) -> tuple[T, None]:
        return jax.lax.cond(i < n, lambda carry: body(i, carry), lambda carry: carry, carry), None

    turns = jax.checkpoint(turn, prevent_cse=False)
    return jax.lax.scan(turns, carry, jnp.arange(most))[0]


def follow(
    step: Step, metrics: Mapping[str, Metric], state: TrainState, found: Accumulators, batch: Batch
) -> tuple[TrainState, Accumulators, jax.Array]:
    """One step on a batch, its sums added to those found before, and its loss."""
    state, more = step(state, batch)
    return state, merge(metrics, found, more), average(more["loss"])


def make_evaluate(
    objective: Objective, metrics: Mapping[str, Metric], *, batch_size: int
) -> Evaluate:
    """The program `(params, model_state, columns) -> accumulators` over padded whole batches.

    Args:
        objective: what is averaged, outside training.
        metrics: those whose accumulators it returns.
        batch_size: examples a batch; the columns hold a multiple of it.
    """

    def of_batch(params: Params, model_state: ModelState, batch: Any) -> Accumulators:
        return contribution(objective, metrics, params, model_state, batch, key=None)

    def evaluate(params: Params, model_state: ModelState, columns: Columns) -> Accumulators:
        def part(i: Any) -> Accumulators:
            return of_batch(params, model_state, nth(columns, i * batch_size, batch_size))

        def body(i: jax.Array, found: Accumulators) -> Accumulators:
            return merge(metrics, found, part(i))

        batches = len(jax.tree.leaves(columns)[0]) // batch_size
        if is_eager():
            return reduce(partial(merge, metrics), map(part, range(batches)))
        begin = nothing(metrics, jax.eval_shape(part, 0))
        found: Accumulators = jax.lax.fori_loop(0, batches, body, begin)
        return found

    return evaluate


def compute(metrics: Mapping[str, Metric], found: Accumulators) -> Metrics:
    """The reported values of accumulators, the loss first."""
    names = sorted(found, key=lambda name: name != "loss")
    return {
        name: metrics[name].compute(found[name]) if name in metrics else average(found[name])
        for name in names
    }
