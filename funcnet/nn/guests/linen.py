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
        variables = dict(start(module, key, arguments(x), flags(flag, False)))
        params = variables.pop("params", {})
        return params, {name: held for name, held in variables.items() if not is_sown(held)}

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


def start(module: Any, key: jax.Array, given: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    """The variables of a module, for arrays or for `jax.ShapeDtypeStruct`s alone."""
    from flax.core import DenyList
    from flax.errors import LazyInitError

    try:
        return module.lazy_init(key, *given, **settings)
    except LazyInitError:  # what a module sows depends on x, which may have no numbers yet
        shapes = jax.eval_shape(lambda *given: module.init(key, *given, **settings), *given)
        sown = [name for name, held in shapes.items() if is_sown(held)]
        return module.lazy_init(key, *given, **settings, mutable=DenyList(sown))


def is_sown(collection: Any) -> bool:
    """Whether a collection holds only what `module.sow` put there: tuples that grow by the call."""
    nodes = jax.tree.leaves(collection, is_leaf=lambda node: isinstance(node, tuple))
    return bool(nodes) and all(isinstance(node, tuple) for node in nodes)
