"""Loss scaling: gradients of float16 models kept within its range."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet import errors, tree
from funcnet.training.guarding import guard_of
from funcnet.types import Params


class LossScale(NamedTuple):
    """The memory of an optimizer whose gradients are those of a scaled loss.

    Attributes:
        scale: float32[], what the next loss is multiplied by.
        good: int32[], updates since the scale last changed.
        skipped: bool[], whether the last update was skipped.
        inner: the memory of the optimizer itself.
    """

    scale: jax.Array
    good: jax.Array
    skipped: jax.Array
    inner: optax.OptState


def loss_scaling(
    optimizer: optax.GradientTransformation,
    *,
    initial: float = 2.0**15,
    factor: float = 2.0,
    period: int = 2000,
) -> optax.GradientTransformationExtraArgs:
    """Scales the loss before its gradient is taken, and the gradient back, by a factor that adapts.

    Small gradients vanish in float16; those of a larger loss do not. The trainer's step multiplies
    the loss by `scale` and divides the gradients by it. Where these are not finite the update is
    skipped and the scale divided by `factor`; after `period` updates in a row it is multiplied.

    Args:
        optimizer: what makes the updates.
        initial: the first scale.
        factor: by which the scale changes.
        period: updates without overflow after which it grows.

    Returns:
        The optimizer, for the trainer; in a loop of one's own, scale the loss by
        `fn.training.loss_scale(opt_state)` and give it the gradients divided by that.

    Raises:
        TypeError, ValueError: an argument is not a positive number.

    Source:
        Micikevicius et al., "Mixed Precision Training", 2018, section 3.2.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn, optax
        >>> optimizer = fn.loss_scaling(optax.sgd(0.1), initial=8.0)
        >>> params = jnp.array(1.0)
        >>> opt_state = optimizer.init(params)
        >>> updates, opt_state = optimizer.update(jnp.array(jnp.inf), opt_state, params)
        >>> float(updates), float(opt_state.scale)
        (0.0, 4.0)
    """
    if not hasattr(optimizer, "update"):
        raise TypeError(
            "`loss_scaling`: optimizer must be an optax.GradientTransformation, "
            f"got {errors.describe(optimizer)}. Call its factory, `optax.adam(1e-3)` say."
        )
    errors.positive("loss_scaling", period=period)
    numbers = all(isinstance(each, int | float | np.number) for each in (initial, factor))
    if not numbers or not (0 < initial < np.inf and 1 < factor < np.inf):
        raise ValueError(
            "`loss_scaling`: initial must be a positive number and factor one above 1, "
            f"got initial={initial!r} and factor={factor!r}."
        )
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> LossScale:
        good, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return LossScale(jnp.float32(initial), good, skipped, inner.init(params))

    def update(
        grads: Any, state: LossScale, params: Params | None = None, **extra: Any
    ) -> tuple[Any, LossScale]:
        def taken() -> tuple[Any, LossScale]:
            updates, memory = inner.update(grads, state.inner, params, **extra)
            due = state.good + 1 >= period
            scale = jnp.where(due, state.scale * factor, state.scale)
            good = jnp.where(due, 0, state.good + 1)
            after = LossScale(scale, good, jnp.zeros((), bool), tree.alike(state.inner, memory))
            return tree.alike(grads, updates), after

        def skipped() -> tuple[Any, LossScale]:
            smaller = jnp.maximum(state.scale / factor, 1.0)
            nothing = jax.tree.map(jnp.zeros_like, grads)
            none = jnp.zeros_like(state.good)
            return nothing, LossScale(smaller, none, jnp.ones((), bool), state.inner)

        finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads)]).all()
        result: tuple[Any, LossScale] = jax.lax.cond(finite, taken, skipped)
        return result

    return optax.GradientTransformationExtraArgs(init, update)


def loss_scale(opt_state: optax.OptState) -> jax.Array | None:
    """What the loss is to be multiplied by, or None if the optimizer does not scale it."""
    found = find(opt_state)
    return None if found is None else found.scale


def was_skipped(opt_state: optax.OptState) -> jax.Array | bool:
    """Whether the last update was skipped for its overflow, or left out by a guard."""
    found, guard = find(opt_state), guard_of(opt_state)
    skipped = False if found is None else found.skipped
    return skipped if guard is None else skipped | guard.bad


def find(opt_state: optax.OptState) -> LossScale | None:
    """The scale in an optimizer's memory, the first if there are several."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, LossScale))
    return next((node for node in nodes if isinstance(node, LossScale)), None)
