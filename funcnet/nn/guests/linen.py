"""Guests that are Flax Linen modules."""

from typing import Any

import jax

from funcnet.nn.guests.common import arguments, flags, parameters, training_flag
from funcnet.nn.model import is_training, named
from funcnet.types import Model, ModelState, Params


def from_linen(module: Any) -> Model:
    """The model of a `flax.linen.Module`."""
    name = type(module).__name__
    flag = training_flag("a Linen module", f"{name}.__call__", parameters(type(module).__call__))

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        variables = dict(module.lazy_init(key, *arguments(x), **flags(flag, False)))
        params = variables.pop("params", {})
        variables.pop("intermediates", None)
        return params, variables

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        on = is_training(key, training)
        variables = {"params": params, **model_state}
        mutable = list(model_state)  # some write at inference too: that is dropped
        y, new_state = module.apply(
            variables, *arguments(x), rngs=key, mutable=mutable, **flags(flag, on)
        )
        return y, (new_state if on else model_state)

    return named(name, Model(init, apply))
