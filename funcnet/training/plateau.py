"""A learning rate that is reduced where a value of each epoch no longer improves."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet import errors
from funcnet.stopping import Mode, StopState, direction, early_stopping, require
from funcnet.training.told import Told, nothing_told
from funcnet.types import Params


class Plateau(NamedTuple):
    """The memory of an optimizer whose learning rate is reduced on plateaus.

    Attributes:
        scale: float[], what each update is multiplied by.
        cooldown: int32[], epochs for which there is still no reduction.
        checks: the best value so far, epochs without improvement, and epochs looked at.
        told: the value of the last epoch, which is looked at by the next update.
        inner: the memory of the optimizer itself.
    """

    scale: jax.Array
    cooldown: jax.Array
    checks: StopState
    told: Told
    inner: optax.OptState


def reduce_on_plateau(
    optimizer: optax.GradientTransformation,
    monitor: str = "val_loss",
    *,
    factor: Any = 0.1,
    patience: Any = 10,
    mode: Mode | None = None,
    min_delta: Any = 1e-4,
    cooldown: Any = 0,
    min_scale: Any = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the learning rate by `factor` after `patience` epochs without improvement.

    | an epoch whose value is | does |
    | --- | --- |
    | finite, and better than the best by more than `min_delta` | sets the best, and `wait` to 0 |
    | any other, NaN and both infinities among them | adds 1 to `wait` |
    | the one that brings `wait` to `patience` | reduces, and sets `wait` to 0 |
    | one of the `cooldown - 1` after a reduction | leaves `wait` at 0; it may set the best |

    The trainer tells the optimizer each epoch's values, and the first update of the next epoch
    looks at them. The history has the scale that each epoch was trained with, as
    `learning_rate_scale`. It scales the updates, and so whatever schedule the optimizer has.

    Args:
        optimizer: what makes the updates.
        monitor: the name of the value in the history.
        factor: what the learning rate is multiplied by, above 0 and below 1.
        patience: epochs in a row without improvement after which it is, 1 or more.
        mode: `"min"` or `"max"`; `None` tells it from the name, as `fn.early_stopping` does.
        min_delta: the size that an improvement must exceed.
        cooldown: from how many epochs after a reduction on `wait` counts again; 0 is as 1.
        min_scale: the least product of all reductions. Once it is reached there are no more.

        All numbers may be arrays, traced ones too; plain numbers are validated.

    Returns:
        The optimizer, for the trainer. In a loop of one's own, call
        `opt_state = fn.training.after_epoch(opt_state, values)` after each epoch.

    Raises:
        TypeError, ValueError: an argument is wrong. `fit` and runs raise where nobody reports the
            monitored value.

    Source:
        The rule is that of Keras' `ReduceLROnPlateau`, but that a NaN or an infinity is never the
        best, not even the first. There a bound is on the rate itself; here on its scale.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn, optax
        >>> trainer = fn.Trainer(
        ...     fn.dense(1),
        ...     loss=optax.losses.squared_error,
        ...     optimizer=fn.reduce_on_plateau(optax.sgd(0.5), "loss", patience=2),
        ... )
        >>> x = jnp.ones((32, 1))
        >>> history = trainer.fit((x, 3 * x), epochs=6).history
        >>> history["learning_rate_scale"].round(3).tolist()
        [1.0, 1.0, 1.0, 0.1, 0.1, 0.1]
    """
    check(optimizer, factor, cooldown, min_scale)
    mode = direction("reduce_on_plateau", monitor, mode)
    require("reduce_on_plateau", patience=patience, min_delta=min_delta)
    never = np.iinfo(np.int32).max
    rule = early_stopping(monitor, patience=never, mode=mode, min_delta=min_delta)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> Plateau:
        told = nothing_told([monitor])
        one, zero = jnp.ones((), float), jnp.zeros((), jnp.int32)
        return Plateau(one, zero, rule.init(), told, inner.init(params))

    def looked(state: Plateau) -> Plateau:
        """The memory after a look at what was told of the last epoch."""
        cooling = jnp.maximum(state.cooldown - 1, 0)
        checks = rule.update(state.told.values[monitor], state.checks)
        wait = jnp.where(cooling > 0, 0, checks.wait)
        due = (wait >= patience) & (state.scale > min_scale)
        reduced = jnp.maximum(state.scale * factor, min_scale).astype(state.scale.dtype)
        return state._replace(
            scale=jnp.where(due, reduced, state.scale),
            cooldown=jnp.where(due, cooldown, cooling).astype(jnp.int32),
            checks=checks._replace(wait=jnp.where(due, 0, wait), step=state.told.epochs),
        )

    def update(
        grads: Any, state: Plateau, params: Params | None = None, **extra: Any
    ) -> tuple[Any, Plateau]:
        fresh, new = state.told.epochs != state.checks.step, looked(state)
        scale, cooldown, checks = jax.tree.map(
            lambda n, old: jnp.where(fresh, n, old), new[:3], state[:3]
        )
        updates, memory = inner.update(grads, state.inner, params, **extra)
        scaled = jax.tree.map(lambda u: u * scale.astype(u.dtype), updates)
        return scaled, Plateau(scale, cooldown, checks, state.told, memory)

    return optax.GradientTransformationExtraArgs(init, update)


def check(optimizer: Any, factor: Any, cooldown: Any, min_scale: Any) -> None:
    """Raises where an argument is wrong that early stopping does not have."""
    if not hasattr(optimizer, "update"):
        raise TypeError(
            "`reduce_on_plateau`: optimizer must be an optax.GradientTransformation, "
            f"got {errors.describe(optimizer)}. Call its factory, `optax.adam(1e-3)` say."
        )
    errors.positive_number("reduce_on_plateau", "factor", factor, say=0.1)
    if not isinstance(factor, jax.Array) and factor >= 1:
        raise ValueError(
            f"`reduce_on_plateau`: factor must be below 1, got {factor!r}. Give 0.1 say."
        )
    errors.positive_number("reduce_on_plateau", "min_scale", min_scale, zero=True, say=1e-3)
    errors.positive_number("reduce_on_plateau", "cooldown", cooldown, zero=True, say=5)
    if isinstance(cooldown, numbers.Real) and not isinstance(cooldown, numbers.Integral):
        raise TypeError(
            f"`reduce_on_plateau`: cooldown must be a whole number, got {cooldown!r}. Give 5 say."
        )


def plateau_of(opt_state: optax.OptState) -> Plateau | None:
    """The plateau's memory in that of an optimizer, the first if there are several, or None."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, Plateau))
    return next((node for node in nodes if isinstance(node, Plateau)), None)
