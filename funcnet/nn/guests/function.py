"""Guests that are plain functions, `f(params, x) -> y`."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from funcnet.nn.guests.common import name_of, parameters, required
from funcnet.nn.model import named
from funcnet.types import Model, ModelState, Params


def from_function(
    f: Callable[[Params, Any], Any], init_params: Callable[[jax.Array, Any], Params]
) -> Model:
    """The model of `f(params, x) -> y` and `init_params(key, x) -> params`."""
    check_two(f)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return init_params(key, x), {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        return f(params, x), model_state

    return named(name_of(f), Model(init, apply))


def check_two(f: Callable[..., Any]) -> None:
    """Raises unless `f` takes params and x; `jax.nn.gelu(x, approximate=True)` does not."""
    seen = parameters(f)
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in seen.values()) or not seen:
        return
    if len(required(f)) != 2:
        raise TypeError(
            f"`as_model`: a function that comes with init must be f(params, x), got "
            f"{name_of(f)}({', '.join(map(str, seen.values()))}). "
            "Wrap it, `lambda params, x: ...`; a function x -> y without params goes into "
            "`fn.sequential` as it is."
        )
