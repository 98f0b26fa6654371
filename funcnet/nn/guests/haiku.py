"""Guests that are transformed functions of Haiku."""

import inspect
import sys
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import tree
from funcnet.nn.guests.common import arguments, flags, training_flag
from funcnet.nn.model import is_training, named
from funcnet.types import Model, ModelState, Params


def from_haiku(guest: Any) -> Model:
    """The model of a `haiku.Transformed` or `haiku.TransformedWithState`."""
    stateful = isinstance(guest, sys.modules["haiku"].TransformedWithState)
    seen = list(inspect.signature(guest.init).parameters)[1:]  # those of the function
    flag = training_flag("a Haiku function", "its parameters", seen)
    random = takes_rng(guest, stateful)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        spec = tree.spec(x)

        @jax.jit  # what only the output needs is left out
        def start(key: jax.Array) -> Any:
            return guest.init(key, *arguments(drawn(key, spec)), **flags(flag, True))

        made = start(key)
        return made if stateful else (made, {})

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        on = is_training(key, training)
        state = (model_state,) if stateful else ()
        rng = (key if on else None,) if random else ()
        result = guest.apply(params, *state, *rng, *arguments(x), **flags(flag, on))
        y, new_state = result if stateful else (result, model_state)
        return y, (new_state if on else model_state)

    original = getattr(guest.init, "_original_fn", None)
    return named(getattr(original, "__name__", type(guest).__name__), Model(init, apply))


def takes_rng(guest: Any, stateful: bool) -> bool:
    """Whether `apply` has an rng: `hk.without_apply_rng` takes it away."""
    names = list(inspect.signature(guest.apply).parameters)
    place = 2 if stateful else 1
    return names[place : place + 1] == ["rng"]


def drawn(key: jax.Array, spec: Any) -> Any:
    """A batch of standard normal numbers, zeros where they are integers.

    Batch norm of Haiku keeps the statistics of the batch that `init` sees, but the first state must
    not depend on whether that is a batch or its spec.
    """
    leaves, form = jax.tree.flatten(spec)

    def draw(i: int, leaf: Any) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)

    return jax.tree.unflatten(form, [draw(i, leaf) for i, leaf in enumerate(leaves)])
