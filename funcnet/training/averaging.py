"""Averages of params over the steps of a run, kept in the optimizer's memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet import errors, tree
from funcnet.training.scaling import was_skipped
from funcnet.types import Params, TrainState


class Averaged(NamedTuple):
    """The memory of an optimizer that keeps an average of params.

    Attributes:
        taken: int32[], updates so far.
        average: the average, in float32 at least.
        inner: the memory of the optimizer itself.
    """

    taken: jax.Array
    average: Params
    inner: optax.OptState


def ema(
    optimizer: optax.GradientTransformation, decay: float | jax.Array = 0.999
) -> optax.GradientTransformationExtraArgs:
    """Keeps an exponential moving average of params, with which the trainer evaluates.

    After update t the average is `sum of decay^(t - i) * params_i / sum of decay^(t - i)`, over
    `i = 1 .. t`: that of Adam's moments, corrected, so that the first params weigh nothing.

    `trainer.evaluate`, `predict` and the validation of `fit` use the average where there is one;
    `fn.averaged(state)` is the state with it in place of its params.

    Args:
        optimizer: what makes the updates; it is not changed.
        decay: the share of the average that stays at each update, in `0 .. 1`.

    Returns:
        The optimizer that also keeps the average, for the trainer or a loop of one's own.

    Raises:
        TypeError, ValueError: `decay` is a number outside 0 .. 1; `optimizer` is none.

    Source:
        Polyak, Juditsky, 1992; corrected as Kingma, Ba, "Adam", 2015, section 3.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn, optax
        >>> optimizer = fn.ema(optax.sgd(1.0), decay=0.5)
        >>> params = jnp.array(0.0)
        >>> opt_state = optimizer.init(params)
        >>> for gradient in (-1.0, -1.0):
        ...     updates, opt_state = optimizer.update(jnp.array(gradient), opt_state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(params), round(float(opt_state.average), 4)  # (0.5 * 1 + 1 * 2) / 1.5
        (2.0, 1.6667)
    """
    words = (
        f"`ema`: decay must lie in 0 .. 1, got {decay!r}. It is the share that stays: 0.999, say."
    )
    if not isinstance(decay, int | float | np.number | jax.Array):
        raise TypeError(words)
    if not isinstance(decay, jax.Array) and not 0 <= decay < 1:
        raise ValueError(words)

    new = jnp.float32(1 - decay)

    def rate(t: jax.Array) -> jax.Array:
        whole = -jnp.expm1(t * jnp.log1p(-new))  # 1 - decay**t, exact where decay is near 1
        return jnp.where(t == 1, 1.0, new / whole)

    return averaging("ema", optimizer, rate)


def swa(
    optimizer: optax.GradientTransformation, *, start: int, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Keeps the plain mean of params from one update on, with which the trainer evaluates.

    The mean is over the params after updates `start`, `start + every`, `start + 2 * every`, ...;
    before `start` it is the params themselves. It is used as that of `ema`. Running statistics of
    batch norm are those of the params that train: with batch norm, `ema` is the safer choice.

    Args:
        optimizer: what makes the updates, at a constant or cyclical learning rate.
        start: the first update that counts, from 1 on; three quarters of a run say.
        every: updates between two that count; an epoch say.

    Returns:
        The optimizer that also keeps the mean.

    Raises:
        TypeError, ValueError: `start` or `every` is not a positive whole number.

    Source:
        Izmailov et al., "Averaging Weights Leads to Wider Optima", 2018, algorithm 1.

    Example:
        >>> import funcnet as fn, optax
        >>> optimizer = fn.swa(optax.sgd(0.1), start=750, every=10)
    """
    errors.positive("swa", start=start, every=every)

    def rate(t: jax.Array) -> jax.Array:
        k, off = jnp.divmod(t - start, every)
        mean = jnp.where(off == 0, 1 / (k + 1.0), 0.0)
        return jnp.where(t < start, 1.0, mean)

    return averaging("swa", optimizer, rate)


def averaging(
    function: str,
    optimizer: optax.GradientTransformation,
    rate: Callable[[jax.Array], jax.Array],
) -> optax.GradientTransformationExtraArgs:
    """Keeps `average += rate(t) * (params - average)` after update t, from 1 on."""
    if not hasattr(optimizer, "update"):
        raise TypeError(
            f"`{function}`: optimizer must be an optax.GradientTransformation, "
            f"got {errors.describe(optimizer)}. Call its factory, `optax.adam(1e-3)` say."
        )
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> Averaged:
        average = jax.tree.map(lambda leaf: jnp.copy(tree.widen(jnp.asarray(leaf))), params)
        return Averaged(jnp.zeros((), jnp.int32), average, inner.init(params))

    def update(
        updates: Any, state: Averaged, params: Params | None = None, **extra: Any
    ) -> tuple[Any, Averaged]:
        if params is None:
            raise ValueError(
                f"`{function}`: update needs the params, got none. "
                "Call `optimizer.update(grads, opt_state, params)`."
            )
        updates, memory = inner.update(updates, state.inner, params, **extra)
        new = optax.apply_updates(params, updates)
        moved = jnp.logical_not(was_skipped(memory))
        taken = state.taken + moved
        share = jnp.where(moved, rate(jnp.maximum(taken, 1)), 0)
        average = jax.tree.map(
            lambda a, p: a + share.astype(a.dtype) * (tree.widen(p) - a), state.average, new
        )
        return updates, Averaged(taken, average, memory)

    return optax.GradientTransformationExtraArgs(init, update)


def evaluated_params(state: TrainState) -> Params:
    """The params to evaluate with: their average where the optimizer keeps one."""
    found = find(state.opt_state)
    if found is None:
        return state.params
    if tree.paths(found.average).keys() != tree.paths(state.params).keys():
        raise ValueError(
            "`ema`, `swa`: the average must be of all params to evaluate with, got one of some. "
            "Put it around the whole optimizer: `fn.ema(optax.partition(...))`."
        )
    return jax.tree.map(lambda a, p: a.astype(p.dtype), found.average, state.params)


def averaged(state: TrainState) -> TrainState:
    """`state` with the average that its optimizer keeps in place of its params.

    Args:
        state: of a trainer whose optimizer is `fn.ema(...)` or `fn.swa(...)`.

    Returns:
        The state, to be evaluated or exported by hand.

    Raises:
        ValueError: the optimizer keeps no average.
    """
    if find(state.opt_state) is None:
        raise ValueError(
            "`averaged`: the state must be of an optimizer that keeps an average, got none in its "
            "opt_state. Train with `optimizer=fn.ema(optax.adam(1e-3))` say."
        )
    return state._replace(params=evaluated_params(state))


def find(opt_state: Any) -> Averaged | None:
    """The average in an optimizer's memory, the first if there are several."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, Averaged))
    return next((node for node in nodes if isinstance(node, Averaged)), None)
