"""Guests that are pairs `(init_fun, apply_fun)`, as `jax.example_libraries.stax` makes them."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from funcnet.nn.guests.common import Factory, name_of, parameters
from funcnet.nn.model import is_training, named
from funcnet.types import Model, ModelState, Params

Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any]]


def from_stax(pair: Pair) -> Model:
    """The model of a pair, whose mode is fixed."""
    return from_pairs("stax", {False: pair, True: pair}, fixed=True)


def from_stax_factory(make: Factory) -> Model:
    """The model of a factory `make(training)` of pairs."""
    pairs = {on: make(training=on) for on in (False, True)}
    for pair in pairs.values():
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(map(callable, pair))):
            raise TypeError(
                "`as_model`: a factory whose parameter is named training must make the pair "
                f"(init_fun, apply_fun) of stax, got {type(pair).__name__} from {name_of(make)}. "
                "Return `stax.serial(...)` say."
            )
    return from_pairs(name_of(make), pairs, fixed=False)


def from_pairs(name: str, pairs: dict[bool, Pair], fixed: bool) -> Model:
    """The model of two pairs, by whether it trains."""

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        _, params = pairs[True][0](key, jax.tree.map(lambda leaf: tuple(leaf.shape), x))
        return params, {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        on = is_training(key, training)
        apply_fun = pairs[on][1]
        unused = None if fixed else jax.random.key(0)  # dropout wants one in mode "test" too
        rng = key if on else unused
        try:
            return apply_fun(
                params, x, **({"rng": rng} if takes_rng(apply_fun) else {})
            ), model_state
        except ValueError as error:
            if rng is None and "PRNG key" in str(error):
                raise ValueError(no_key(name, on)) from error
            raise

    return named(name, Model(init, apply))


def takes_rng(apply_fun: Callable[..., Any]) -> bool:
    """Whether a function can be given an rng."""
    seen = parameters(apply_fun)
    return "rng" in seen or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in seen.values())


def no_key(name: str, on: bool) -> str:
    """The words for a layer of stax that wants a key and has none."""
    if on:
        return (
            f"`apply`: key must be given in training to a stax model with dropout, got key=None "
            f"for {name}. Pass `key=jax.random.key(0)` say."
        )
    return (
        "`apply`: a stax pair with dropout must come for each mode, got one of a fixed mode "
        "outside training. Give `as_model` a factory, `lambda training: stax.serial(..., "
        "stax.Dropout(rate, mode='train' if training else 'test'))` say."
    )
