"""Guests that are factories of Flax NNX modules."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

from funcnet.nn.guests.common import (
    Factory,
    arguments,
    flags,
    library,
    name_of,
    parameters,
    training_flag,
    unset,
)
from funcnet.nn.model import is_training, named
from funcnet.types import Model, ModelState, Params


def from_nnx(make: Factory) -> Model:
    """The model of a factory `make(rngs) -> flax.nnx.Module`."""
    nnx = library("flax.nnx", "rngs")

    def build(key: jax.Array) -> Any:
        module = make(rngs=nnx.Rngs(key))
        if not (isinstance(module, nnx.Module) and callable(module)):
            raise TypeError(
                "`as_model`: a factory whose parameter is named rngs must make a flax.nnx.Module "
                f"that can be called, got {type(module).__name__} from {name_of(make)}. "
                "Return the module."
            )
        return module

    module = nnx.eval_shape(lambda: build(jax.random.key(0)))
    name, call = type(module).__name__, parameters(type(module).__call__)
    flag = training_flag("an NNX module", f"{name}.__call__", call.keys() - unset(call))
    graphs, param_spec, stream_spec, state_spec = parts(nnx, module)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        _, params, _, state = divided(nnx, build(key))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        on = is_training(key, training)
        if on and key is None and stream_spec:
            raise ValueError(
                f"`apply`: key must be given in training to an NNX module that keeps streams of "
                f"randomness, got key=None for {name}. Pass `key=jax.random.key(0)` say."
            )
        module = nnx.merge(
            graphs[on],
            filled(nnx, param_spec, params),
            seeded(nnx, stream_spec, key if on else None),
            filled(nnx, state_spec, model_state),
        )
        options: dict[str, Any] = flags(flag, on)
        if "rngs" in call:
            options["rngs"] = (
                nnx.Rngs(jax.random.fold_in(key, 0)) if on and key is not None else None
            )
        y = module(*arguments(x), **options)
        return y, (written(nnx, module, state_spec, name) if on else model_state)

    return named(name, Model(init, apply))


def divided(nnx: Any, module: Any) -> tuple[Any, Any, Any, Any]:
    """The graph of a module, its params, its streams of randomness and all else."""
    graph, params, streams, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
    return graph, params, streams, state


def parts(nnx: Any, module: Any) -> tuple[dict[bool, Any], Any, Any, Any]:
    """The graphs in and outside training, and the specs of params, streams and all else."""
    module.eval()
    outside, *_ = divided(nnx, module)
    module.train()
    inside, params, streams, state = divided(nnx, module)
    return {False: outside, True: inside}, params, streams, state


def filled(nnx: Any, spec: Any, values: Any) -> Any:
    """New variables like those of `spec`, with the values at the same paths in nested dicts.

    A module is merged of new ones at each call, so that what it writes stays its own.
    """
    return nnx.from_flat_state(
        [
            (path, replaced(variable, functools.reduce(operator.getitem, path, values)))
            for path, variable in nnx.to_flat_state(spec)
        ]
    )


def replaced(variable: Any, value: Any) -> Any:
    """`variable` with another value; an array that is no variable has no more than its value."""
    return variable.replace(value) if hasattr(variable, "replace") else value


def seeded(nnx: Any, spec: Any, key: jax.Array | None) -> Any:
    """The streams of `spec`, begun anew from `key`; constant ones without it.

    Outside training a module may still draw numbers that do not matter, as a recurrent cell does
    for a carry of zeros.
    """
    key = jax.random.key(0) if key is None else key

    def begun(i: int, variable: Any) -> Any:
        shape = variable.get_value().shape
        if not isinstance(variable, nnx.RngKey):
            return jnp.zeros(shape, jnp.uint32)
        own = jax.random.fold_in(key, i + 1)
        return jax.random.split(own, shape) if shape else own

    return nnx.from_flat_state(
        [
            (path, variable.replace(begun(i, variable)))
            for i, (path, variable) in enumerate(nnx.to_flat_state(spec))
        ]
    )


def written(nnx: Any, module: Any, spec: Any, name: str) -> ModelState:
    """The state that a module holds after a call, without what it only sowed."""
    known = {path for path, _ in nnx.to_flat_state(spec)}
    after = dict(nnx.to_flat_state(divided(nnx, module)[3]))
    new = [p for p, v in after.items() if p not in known and not isinstance(v, nnx.Intermediate)]
    if new:
        raise ValueError(
            "`apply`: an NNX module must make all its variables in __init__, got new ones in the "
            f"call of {name}: {', '.join('/'.join(map(str, path)) for path in new)}. "
            "Make them there, with their shape."
        )
    return nnx.to_pure_dict(nnx.from_flat_state([(path, after[path]) for path in known]))
