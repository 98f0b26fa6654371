"""Models whose parts are wired by a function: shortcuts, several inputs, shared layers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax

from funcnet import errors, tree
from funcnet.eager import outcome, outline
from funcnet.nn.combinators import Layer, check_names, collect, keep, run_part, start, told
from funcnet.types import Model, ModelState, Params


def wire(forward: Callable[[Any, Any], Any], **layers: Layer) -> Model:
    """Makes a model of named layers and a function that says how they are connected.

    Args:
        forward: `forward(parts, x) -> y`, in which `parts.name(x)` is the output of the layer of
            that name. A part may be called several times: its params are then shared. `x` may be
            any pytree of arrays. Each part must be called at `init` as later.
        **layers: models or functions by name.

    Returns:
        The model; its params and model_state are dicts by name, as those of `sequential`.

    Raises:
        TypeError: a layer is neither a model nor a function.
        ValueError: a part is never called; `apply` is given params of another model.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> def two_towers(parts, x):
        ...     user, item = x
        ...     return (parts.user(user) * parts.item(item)).sum(-1)
        >>> model = fn.wire(two_towers, user=fn.embedding(100, 8), item=fn.embedding(500, 8))
        >>> x = jnp.zeros(4, int), jnp.ones(4, int)
        >>> params, model_state = model.init(jax.random.key(0), x)
        >>> model.apply(params, model_state, x)[0].shape
        (4,)
    """
    parts = collect("wire", (), layers)
    number = {name: i for i, name in enumerate(parts)}

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        specs = called_with(key, x)
        params: Params = {}
        model_state: ModelState = {}
        for i, (name, layer) in enumerate(parts.items()):
            with told("wire", name, layer, specs[name]):
                p, s = start(layer, jax.random.fold_in(key, i), specs[name])
            keep(params, name, p)
            keep(model_state, name, s)
        return params, model_state

    def called_with(key: jax.Array, x: Any) -> dict[str, Any]:
        """Shapes of what each part is called with first, from `forward` without arithmetic."""
        specs: dict[str, Any] = {}

        def trace(key: jax.Array, x: Any) -> Any:
            made: dict[str, tuple[Params, ModelState]] = {}

            def calls(name: str) -> Callable[[Any], Any]:
                def call(x: Any) -> Any:
                    layer = parts[name]
                    with told("wire", name, layer, tree.spec(x)):
                        if name not in made:
                            specs[name] = outline(x)
                            made[name] = start(layer, key, specs[name])
                        params, model_state = made[name]
                        return layer.apply(params, model_state, x, training=False)[0]

                return call

            return forward(namespace(parts, calls), x)

        outcome(trace, key, outline(x))
        unused = [name for name in parts if name not in specs]
        if unused:
            raise ValueError(
                f"`wire`: forward must call every part, got no call of {', '.join(unused)}. "
                "Leave out what is not used."
            )
        return specs

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_names("wire", parts, params)
        state = dict(model_state)
        count = dict.fromkeys(parts, 0)

        def calls(name: str) -> Callable[[Any], Any]:
            def call(x: Any) -> Any:
                own = None if key is None else jax.random.fold_in(key, number[name])
                if own is not None and count[name]:
                    own = jax.random.fold_in(own, count[name])
                count[name] += 1
                y, s = run_part("wire", name, parts[name], params, state, x, own, training)
                keep(state, name, s)
                return y

            return call

        return forward(namespace(parts, calls), x), state

    return Model(init, apply)


class Parts(SimpleNamespace):
    """What `forward` is given: a function for each part, by name."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"`wire`: forward may call the parts given, got {name!r}. "
            f"{errors.did_you_mean(name, vars(self))}"
        )


def namespace(parts: dict[str, Model], calls: Callable[[str], Callable[[Any], Any]]) -> Any:
    """A function for each part."""
    return Parts(**{name: calls(name) for name in parts})
