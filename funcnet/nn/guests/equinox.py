"""Guests that are factories of Equinox modules."""

from typing import Any, NamedTuple

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

AXIS = "batch"
"""The name of the axis over which a module is vmapped."""


class Parts(NamedTuple):
    """What is known of a module before it has arrays.

    Attributes:
        spec: the module, with a `jax.ShapeDtypeStruct` for each array.
        state: its `State` of such, or None.
        static: all that is no array, by whether it trains.
    """

    spec: Any
    state: Any
    static: dict[bool, Any]


def from_equinox(make: Factory) -> Model:
    """The model of a factory `make(key)` of an `equinox.Module`, or of it and its `State`."""
    eqx = library("equinox", "key")

    def build(key: jax.Array) -> tuple[Any, Any]:
        return checked(eqx, make, make(key=key))

    known = parts(eqx, build)
    name, call = type(known.spec).__name__, parameters(type(known.spec).__call__)
    flag = training_flag("an Equinox module", f"{name}.__call__", call.keys() - unset(call))

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        module, state = build(key)
        arrays = chosen(known.spec, module, inexact=False)
        model_state = {"arrays": arrays} if jax.tree.leaves(arrays) else {}
        if state is not None:
            model_state["state"] = by_name(known.state, state)
        return chosen(known.spec, module, inexact=True), model_state

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        on = is_training(key, training)
        arrays = model_state.get("arrays", chosen(known.spec, known.spec, inexact=None))
        module = eqx.combine(params, arrays, known.static[on])
        options = flags(flag, on)

        def one(x: Any, key: jax.Array | None, state: Any) -> tuple[Any, Any]:
            keys = {"key": key} if "key" in call else {}
            if state is None:
                return module(*arguments(x), **keys, **options), None
            if "state" in call:
                result = module(*arguments(x), state=state, **keys, **options)
            else:
                result = module(*arguments(x), state, **keys, **options)
            y, state = stateful(eqx, name, result)
            return y, (state if on else None)

        keys = None if key is None or not on else jax.random.split(key, examples(x))
        state = None if known.state is None else in_order(known.state, model_state["state"])
        y, state = over_batch(one, name, x, keys, state)
        if state is not None:
            model_state = {**model_state, "state": by_name(known.state, state)}
        return y, model_state

    return named(name, Model(init, apply))


def checked(eqx: Any, make: Factory, made: Any) -> tuple[Any, Any]:
    """The module that a factory made, and its `State` or None."""
    pair = isinstance(made, tuple) and len(made) == 2
    module, state = made if pair else (made, None)
    if not (isinstance(module, eqx.Module) and callable(module)) or (
        pair and not isinstance(state, eqx.nn.State)
    ):
        got = (
            f"({', '.join(type(part).__name__ for part in made)})" if pair else type(made).__name__
        )
        raise TypeError(
            "`as_model`: a factory whose parameter is named key must make an equinox.Module that "
            f"can be called, or the pair of it and its equinox.nn.State, got {got} from "
            f"{name_of(make)}. Return the module."
        )
    if state is None and nodes(module, eqx.nn.StateIndex):
        raise TypeError(
            f"`as_model`: an Equinox module with state must come with it, got "
            f"{type(module).__name__} alone. "
            "Make the pair, `lambda key: eqx.nn.make_with_state(Net)(..., key=key)` say."
        )
    for norm in nodes(module, eqx.nn.BatchNorm):
        if norm.axis_name not in (AXIS, (AXIS,), [AXIS]):
            raise ValueError(
                f"`as_model`: a batch norm of Equinox must name the axis of the batch {AXIS!r}, "
                f"got {norm.axis_name!r}. Build it with `axis_name={AXIS!r}`."
            )
    return module, state


def nodes(module: Any, kind: type) -> list[Any]:
    """The parts of a module that are of a class."""
    leaves = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def parts(eqx: Any, build: Any) -> Parts:
    """What a module is made of, found without arithmetic."""
    spec, state = eqx.filter_eval_shape(build, jax.random.key(0))

    def static(on: bool) -> Any:
        module = eqx.nn.inference_mode(spec, value=not on)
        return eqx.filter(module, lambda leaf: not is_array(leaf))

    return Parts(spec, state, {on: static(on) for on in (False, True)})


def is_array(leaf: Any) -> bool:
    """Whether a leaf of a spec stands for an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def chosen(spec: Any, module: Any, inexact: bool | None) -> Any:
    """The arrays of a module that are inexact, or those that are not, in the tree of `spec`.

    The static parts of that tree are those of `spec`: functions made anew in each call of a factory
    would make the trees of two inits differ.
    """

    def choose(known: Any, leaf: Any) -> Any:
        wanted = is_array(known) and jnp.issubdtype(known.dtype, jnp.inexact) is inexact
        return jnp.asarray(leaf) if wanted else None

    leaves, form = jax.tree.flatten(spec)
    return jax.tree.unflatten(form, map(choose, leaves, jax.tree.leaves(module)))


def by_name(known: Any, state: Any) -> dict[str, Any]:
    """The values of an `equinox.nn.State` by the names of their places in the module."""
    values, _ = state.tree_flatten()
    return dict(zip(places(known), values, strict=True))


def in_order(known: Any, values: dict[str, Any]) -> Any:
    """The `equinox.nn.State` of values by name; a new one, since it can be used but once."""
    _, markers = known.tree_flatten()
    return type(known).tree_unflatten(markers, [values[name] for name in places(known)])


def places(known: Any) -> list[str]:
    """The names of the values of a state; numbers where `make_with_state` gave none."""
    _, markers = known.tree_flatten()
    return [m if isinstance(m, str) else str(i) for i, m in enumerate(markers)]


def stateful(eqx: Any, name: str, result: Any) -> tuple[Any, Any]:
    """What a module with state gave, which must be a pair."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], eqx.nn.State)):
        raise TypeError(
            "`apply`: an Equinox module that comes with state must return (y, state), got "
            f"{type(result).__name__} from {name}. Return the state too, as it came if unchanged."
        )
    return result


def examples(x: Any) -> int:
    """The number of examples in a batch."""
    size: int = jax.tree.leaves(x)[0].shape[0]
    return size


def over_batch(one: Any, name: str, x: Any, keys: Any, state: Any) -> tuple[Any, Any]:
    """Applies `one(x, key, state)` to each example; the state must be the same after all."""
    try:
        y, state = jax.vmap(one, in_axes=(0, 0, None), out_axes=(0, None), axis_name=AXIS)(
            x, keys, state
        )
    except ValueError as error:
        if "out_axes" not in str(error):
            raise
        raise ValueError(
            "`apply`: the state of an Equinox module must be the same after each example of the "
            f"batch, got one for each from {name}. "
            f"Take the mean over the batch, `jax.lax.pmean(value, {AXIS!r})`, before it is set."
        ) from error
    return y, state
