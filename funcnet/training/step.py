"""One step of training as a pure function, ignorant of devices."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from funcnet import errors, tree
from funcnet.eager import is_eager
from funcnet.metrics import Metric, weighted, zeros
from funcnet.training.guarding import Guard, guard_of
from funcnet.training.scaling import loss_scale
from funcnet.training.state import NOISE, stream
from funcnet.types import Batch, ModelState, Objective, Params, PyTree, TrainState

Accumulators: TypeAlias = dict[str, PyTree]
"""Sums over batches by name: `loss`, the trainer's metrics, and the objective's own scalars."""

Step: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Accumulators]]


class Descent(NamedTuple):
    """What one batch tells the optimizer, and what it leaves behind."""

    value: Any
    weight: Any
    grads: Params
    model_state: ModelState
    found: Accumulators


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    accumulate: int = 1,
) -> Step:
    """The step `(state, batch) -> (state, accumulators)`.

    The gradient of the objective's mean, `sum / weight`, is given to the optimizer together with
    optax's extra arguments `value`, `grad` and `value_fn`. A batch whose weight is 0 is consumed
    without an update. The noise of step k is `fold_in(noise, k)`.

    Args:
        objective: what is minimised.
        optimizer: what makes updates of gradients.
        metrics: those whose accumulators the objective returns.
        accumulate: micro-batches into which a batch is cut, one after the other, to save memory.
            The update is that of the whole batch, except where a model's output for one example
            depends on the others (batch norm) or on noise: each micro-batch has its own.
    """
    update = optax.with_extra_args_support(optimizer).update

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Accumulators]:
        noise = jax.random.fold_in(stream(state.key, NOISE), state.step)
        if accumulate == 1:
            at = descend(objective, metrics, state, state.model_state, batch, noise)
        else:
            micro = cut(batch, accumulate)
            at = descend_by_parts(objective, metrics, state, micro, noise)

        def value_fn(params: Params) -> Any:
            model_state = state.model_state
            if accumulate == 1:
                return mean(objective, metrics, params, model_state, batch, noise)[0]
            return mean_by_parts(objective, params, model_state, micro, noise)

        def updated() -> tuple[Params, ModelState, optax.OptState]:
            updates, opt_state = update(
                at.grads,
                state.opt_state,
                state.params,
                value=at.value,
                grad=at.grads,
                value_fn=value_fn,
            )
            check_updates(state.params, updates)
            new = optax.apply_updates(state.params, updates), at.model_state, opt_state
            kept: tuple[Params, ModelState, optax.OptState] = tree.alike(skipped(), new)
            return kept

        def skipped() -> tuple[Params, ModelState, optax.OptState]:
            return state.params, state.model_state, state.opt_state

        moves = at.weight > 0 if isinstance(at.weight, jax.Array) else True
        earlier = guard_of(state.opt_state)
        if earlier is not None and earlier is not state.opt_state:
            moves &= ~earlier.tripped  # for params that it does not guard
        new = updated() if moves is True else jax.lax.cond(moves, updated, skipped)
        params, model_state, opt_state = new
        after = TrainState(state.step + 1, params, model_state, opt_state, state.key)
        if (guard := guard_of(opt_state)) is None:
            return after, at.found
        return kept_out(metrics, guard, state, after, at.found)

    return step


def kept_out(
    metrics: Mapping[str, Metric],
    guard: Guard,
    before: TrainState,
    after: TrainState,
    found: Accumulators,
) -> tuple[TrainState, Accumulators]:
    """What is left of a step if its update was left out: none of it, but that it was taken.

    Once there were too many of them in a row it is not even that. Statistics can overflow where
    nothing else does; then they alone stay as they were.
    """
    earlier = guard_of(before.opt_state)
    assert earlier is not None  # an optimizer's memory keeps its form
    statistics = [leaf for leaf in jax.tree.leaves(after.model_state) if tree.is_float(leaf)]
    lost = jnp.array([guard.bad, *(~jnp.isfinite(leaf).all() for leaf in statistics)])
    model_state = jax.lax.cond(
        lost.any(),
        lambda: before.model_state,
        lambda: tree.alike(before.model_state, after.model_state),
    )
    found = jax.lax.cond(
        guard.bad, lambda: tree.alike(found, nothing(metrics, found)), lambda: found
    )
    step = before.step + jnp.where(earlier.tripped, 0, 1)
    return after._replace(step=step, model_state=model_state), found


def mean(
    objective: Objective,
    metrics: Mapping[str, Metric],
    params: Params,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
) -> tuple[Any, tuple[Any, ModelState, Accumulators]]:
    """The objective's mean over a batch, with its weight, the new model_state and sums."""
    (total, weight), (model_state, found) = objective(
        params, model_state, batch, key=key, training=True
    )
    sums = contributions(metrics, total, weight, found)
    return total / nonzero(weight), (weight, model_state, sums)


def descend(
    objective: Objective,
    metrics: Mapping[str, Metric],
    state: TrainState,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
) -> Descent:
    """Value and gradient of the objective's mean over one batch, at the params of `state`."""
    scale = loss_scale(state.opt_state)

    def of_params(params: Params) -> tuple[Any, tuple[Any, tuple[Any, ModelState, Accumulators]]]:
        value, more = mean(objective, metrics, params, model_state, batch, key)
        return (value if scale is None else value * scale), (value, more)

    grads, (value, (weight, model_state, found)) = jax.grad(of_params, has_aux=True)(state.params)
    if scale is not None:
        grads = jax.tree.map(lambda g: (g / scale).astype(g.dtype), grads)
    return Descent(value, weight, grads, model_state, found)


def descend_by_parts(
    objective: Objective,
    metrics: Mapping[str, Metric],
    state: TrainState,
    micro: Batch,
    noise: jax.Array,
) -> Descent:
    """The same over micro-batches: `sum(W_i * mean_i) / W` and its gradient, W the whole weight."""

    def part(carry: Descent | None, numbered: tuple[Any, Batch]) -> tuple[Descent, None]:
        i, batch = numbered
        key = jax.random.fold_in(noise, i)
        model_state = state.model_state if carry is None else carry.model_state
        at = descend(objective, metrics, state, model_state, batch, key)
        sums = empty(metrics, at, state) if carry is None else carry
        return add_part(metrics, sums, at), None

    count = len(jax.tree.leaves(micro)[0])
    begin: Any = None
    if not is_eager():  # what a loop begins with must have the shapes that it ends with
        first = 0, jax.tree.map(lambda leaf: leaf[0], micro)
        shape: Descent = jax.eval_shape(part, None, first)[0]
        begin = empty(metrics, shape, state)
    carry: Descent = jax.lax.scan(part, begin, (jnp.arange(count), micro))[0]
    whole = nonzero(carry.weight)
    grads = jax.tree.map(lambda g, p: (g / whole).astype(p.dtype), carry.grads, state.params)
    return carry._replace(value=carry.value / whole, grads=grads)


def mean_by_parts(
    objective: Objective,
    params: Params,
    model_state: ModelState,
    micro: Batch,
    noise: jax.Array,
) -> Any:
    """The objective's mean over micro-batches, as a function of the params alone."""

    def part(numbered: tuple[Any, Batch]) -> tuple[Any, Any]:
        i, batch = numbered
        key = jax.random.fold_in(noise, i)
        return objective(params, model_state, batch, key=key, training=True)[0]

    count = len(jax.tree.leaves(micro)[0])
    total, weight = jax.lax.map(part, (jnp.arange(count), micro))
    return total.sum() / nonzero(weight.sum())


def add_part(metrics: Mapping[str, Metric], carry: Descent, at: Descent) -> Descent:
    """The sums over one micro-batch more."""
    return Descent(
        value=carry.value + at.weight * at.value,
        weight=carry.weight + at.weight,
        grads=jax.tree.map(lambda a, g: a + at.weight * g.astype(a.dtype), carry.grads, at.grads),
        model_state=tree.alike(carry.model_state, at.model_state),
        found=merge(metrics, carry.found, at.found),
    )


def empty(metrics: Mapping[str, Metric], shape: Descent, state: TrainState) -> Descent:
    """Sums over no micro-batch: floats are summed in float32 at least."""

    def zero(leaf: Any) -> jax.Array:
        return jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))

    return Descent(
        value=zero(shape.value),
        weight=zero(shape.weight),
        grads=jax.tree.map(zero, shape.grads),
        model_state=state.model_state,
        found=nothing(metrics, shape.found),
    )


def contributions(
    metrics: Mapping[str, Metric], total: Any, weight: Any, found: Mapping[str, Any]
) -> Accumulators:
    """What one batch adds to the accumulators: `loss` first, scalars by the batch's weight."""
    clash = sorted(name for name in found if name == "loss" or name.startswith("val_"))
    if clash:
        raise ValueError(
            f"`objective`: a metric can't be named {clash[0]!r}, which the history uses itself. "
            "Give it another name."
        )
    missing = sorted(metrics.keys() - found.keys())
    if missing:
        raise ValueError(
            f"`objective`: it must return the accumulator of each metric of the trainer, "
            f"got none for {', '.join(map(repr, missing))}. Return "
            "`{name: metric.update(metric.init(), y_pred, y, weight)}` with the metrics, "
            "or give the trainer none."
        )
    sums = {"loss": weighted(total, weight)}
    for name, value in found.items():
        if name in metrics:
            sums[name] = value
        elif jnp.shape(value):
            raise ValueError(
                f"`objective`: the metric {name!r} must be a scalar, got {errors.describe(value)}. "
                "Average it, or give the trainer a metric of that name."
            )
        else:
            sums[name] = weighted(value * weight, weight)
    return sums


def contribution(
    objective: Objective,
    metrics: Mapping[str, Metric],
    params: Params,
    model_state: ModelState,
    batch: Any,
    key: jax.Array | None,
) -> Accumulators:
    """What one batch adds to the accumulators, in training if there is a key."""
    (total, weight), (_, found) = objective(
        params, model_state, batch, key=key, training=key is not None
    )
    return contributions(metrics, total, weight, found)


def nothing(metrics: Mapping[str, Metric], shapes: Accumulators) -> Accumulators:
    """Accumulators of no batch, shaped and typed like those of one."""
    return {
        name: zeros(metrics[name], shape)
        if name in metrics
        else jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        for name, shape in shapes.items()
    }


def merge(metrics: Mapping[str, Metric], a: Accumulators, b: Accumulators) -> Accumulators:
    """The accumulators of two sets of batches as those of both."""
    return {
        name: metrics[name].merge(a[name], b[name])
        if name in metrics
        else jax.tree.map(jnp.add, a[name], b[name])
        for name in a
    }


def cut(batch: Batch, parts: int) -> Batch:
    """A batch as `parts` micro-batches along a new first axis."""

    def of_leaf(leaf: jax.Array) -> jax.Array:
        if len(leaf) % parts:
            raise ValueError(
                f"`Trainer`: accumulate={parts} must divide the batch size, got {len(leaf)}. "
                "Choose a batch size that is a multiple of it."
            )
        return leaf.reshape(parts, len(leaf) // parts, *leaf.shape[1:])

    micro: Batch = jax.tree.map(of_leaf, batch)
    return micro


def nonzero(weight: Any) -> Any:
    """A weight to divide by: 1 in place of 0."""
    return jnp.where(weight == 0, 1, weight) if isinstance(weight, jax.Array) else weight


def check_updates(params: Params, updates: PyTree) -> None:
    """Raises unless the updates have the shapes of the params; optax would broadcast them."""
    wrong = [
        f"{path}: expected {list(jnp.shape(leaf))}, got {list(jnp.shape(got))}"
        for (path, leaf), got in zip(
            tree.paths(params).items(), jax.tree.leaves(updates), strict=True
        )
        if jnp.shape(leaf) != jnp.shape(got)
    ]
    if wrong:
        raise ValueError(
            f"`Trainer`: the optimizer must give updates of the shapes of params, got "
            f"{'; '.join(wrong)}. Check the transformations it is chained of."
        )
