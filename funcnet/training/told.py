"""What an optimizer is told after each epoch: a part of its memory that the trainer writes."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet import errors


class Told(NamedTuple):
    """What the trainer has told an optimizer that has this in its memory.

    Attributes:
        epochs: int32[], epochs that have ended.
        values: the values of the last of them, by the names that the optimizer asks for.
    """

    epochs: jax.Array
    values: dict[str, jax.Array]


def nothing_told(names: Iterable[str] = ()) -> Told:
    """What an optimizer knows before the first epoch has ended, which asks for these values."""
    zero = jnp.zeros((), jnp.int32)
    return Told(zero, {name: jnp.full((), jnp.nan, float) for name in names})


def asked_for(opt_state: optax.OptState) -> list[str]:
    """The names of the values that an optimizer asks for."""
    return sorted({name for told in listeners(opt_state) for name in told.values})


def listens(opt_state: optax.OptState) -> bool:
    """Whether an optimizer is to be told of epochs at all."""
    return bool(listeners(opt_state))


def listeners(opt_state: optax.OptState) -> list[Told]:
    """The places in an optimizer's memory where it is told of epochs."""
    return [node for node in jax.tree.leaves(opt_state, is_leaf=is_told) if is_told(node)]


def is_told(node: Any) -> bool:
    """Whether a node of an optimizer's memory is such a place."""
    return isinstance(node, Told)


def after_epoch(opt_state: optax.OptState, values: Mapping[str, Any]) -> optax.OptState:
    """An optimizer's memory after the end of an epoch: pure, for loops of one's own.

    The trainer does this itself, in `fit` and in a run alike. What the optimizer makes of it shows
    in its next update. A memory that asks for nothing is given back as it is.

    Args:
        opt_state: the optimizer's memory, of `fn.reduce_on_plateau` say.
        values: numbers by name, such as `{"val_loss": 0.3}`.

    Raises:
        ValueError: a value that the optimizer asks for is missing, or no scalar.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn, optax
        >>> optimizer = fn.reduce_on_plateau(optax.sgd(1.0), "val_loss", patience=1, factor=0.5)
        >>> params = jnp.array(0.0)
        >>> opt_state = optimizer.init(params)
        >>> for value in (1.0, 1.0):
        ...     opt_state = fn.training.after_epoch(opt_state, {"val_loss": value})
        ...     updates, opt_state = optimizer.update(jnp.array(1.0), opt_state, params)
        >>> float(updates)
        -0.5
    """

    def tell(node: Any) -> Any:
        if not is_told(node):
            return node
        told = {name: scalar(name, values, like) for name, like in node.values.items()}
        return Told(node.epochs + 1, told)

    return jax.tree.map(tell, opt_state, is_leaf=is_told) if listens(opt_state) else opt_state


def scalar(name: str, values: Mapping[str, Any], like: jax.Array) -> jax.Array:
    """One of the values of an epoch, in the dtype that a memory has for it."""
    if name not in values:
        raise ValueError(
            f"`after_epoch`: values must hold {name!r}, which the optimizer asks for. "
            f"{errors.did_you_mean(name, values)}"
        )
    if np.shape(values[name]):
        raise ValueError(
            f"`after_epoch`: the value of {name!r} must be a scalar, got "
            f"{errors.describe(values[name])}. Monitor another, or average it."
        )
    return jax.lax.stop_gradient(jnp.asarray(values[name], like.dtype))
