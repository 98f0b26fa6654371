"""Models made of models: in a row, side by side, around a shortcut, n times over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from funcnet import errors
from funcnet.between import between
from funcnet.eager import is_eager, outcome, outline
from funcnet.nn.model import kind, stateless
from funcnet.types import Model, ModelState, Params

Layer: TypeAlias = Model | Callable[[Any], Any]
"""A model, or a bare function `x -> y`."""


def sequential(*layers: Layer, **named: Layer) -> Model:
    """Composes layers in a row: each one's output is the next one's input.

    Args:
        *layers: models or functions `x -> y`, numbered `"0"`, `"1"`, ... in the trees.
        **named: the same with names of your own. A row is numbered or named, not both.

    Returns:
        The model. Its params and model_state are dicts by layer; a layer that has none is left out.

    Raises:
        TypeError: a layer is neither a model nor a function; some are named and some are not.
        ValueError: there is no layer; `apply` is given params of another model.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.sequential(fn.dense(4), jax.nn.relu, fn.dense(1))
        >>> params, model_state = model.init(jax.random.key(0), jnp.ones((8, 3)))
        >>> list(params)
        ['0', '2']
        >>> y, model_state = model.apply(params, model_state, jnp.ones((8, 3)))
        >>> y.shape
        (8, 1)
    """
    parts = collect("sequential", layers, named)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        params: Params = {}
        model_state: ModelState = {}
        x = outline(x)
        for i, (name, layer) in enumerate(parts.items()):
            with told("sequential", name, layer, x):
                p, s = start(layer, jax.random.fold_in(key, i), x)
                x = output_spec(layer, p, s, x)
            keep(params, name, p)
            keep(model_state, name, s)
        return params, model_state

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_names("sequential", parts, params)
        new_state: ModelState = {}
        for i, (name, layer) in enumerate(parts.items()):
            x, s = run_part(
                "sequential", name, layer, params, model_state, x, child(key, layer, i), training
            )
            keep(new_state, name, s)
        return x, new_state

    return Model(init, apply)


def branches(*layers: Layer, **named: Layer) -> Model:
    """Gives the same input to several layers side by side, `x -> (y0, y1, ...)`.

    A function after it joins the outputs, `lambda ys: jnp.concatenate(ys, -1)` say.

    Args:
        *layers: models or functions `x -> y`; the output is a tuple.
        **named: the same with names of your own; the output is then a dict.

    Returns:
        The model; its trees are as those of `sequential`.

    Raises:
        TypeError, ValueError: as `sequential`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.sequential(fn.branches(fn.dense(2), jnp.sin), lambda ys: jnp.hstack(ys))
        >>> x = jnp.ones((8, 3))
        >>> model.apply(*model.init(jax.random.key(0), x), x)[0].shape
        (8, 5)
    """
    parts = collect("branches", layers, named)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        params: Params = {}
        model_state: ModelState = {}
        x = outline(x)
        for i, (name, layer) in enumerate(parts.items()):
            with told("branches", name, layer, x):
                p, s = start(layer, jax.random.fold_in(key, i), x)
            keep(params, name, p)
            keep(model_state, name, s)
        return params, model_state

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_names("branches", parts, params)
        outputs: dict[str, Any] = {}
        new_state: ModelState = {}
        for i, (name, layer) in enumerate(parts.items()):
            outputs[name], s = run_part(
                "branches", name, layer, params, model_state, x, child(key, layer, i), training
            )
            keep(new_state, name, s)
        return (outputs if named else tuple(outputs.values())), new_state

    return Model(init, apply)


def residual(block: Layer, shortcut: Layer = lambda x: x) -> Model:
    """Adds a block's output to its input, `y = shortcut(x) + block(x)`.

    Args:
        block: the layer around which the shortcut leads.
        shortcut: what is done to `x` on the way; needed where the block changes its shape.

    Returns:
        The model; its params are `{"block", "shortcut"}`.

    Raises:
        ValueError: block and shortcut give different shapes.

    Source:
        He et al., "Deep Residual Learning", 2015, equations 1 and 2.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.residual(jnp.zeros_like)
        >>> model.apply({}, {}, jnp.ones((1, 2)))[0].tolist()
        [[1.0, 1.0]]
    """
    both = branches(block=lift("residual", block), shortcut=lift("residual", shortcut))

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        y, model_state = both.apply(params, model_state, x, key=key, training=training)
        if y["block"].shape != y["shortcut"].shape:
            raise ValueError(
                f"`residual`: block and shortcut must give the same shape, got "
                f"{errors.describe(y['block'])} and {errors.describe(y['shortcut'])}. "
                "Give a shortcut that changes the shape too, `fn.dense(features)` say."
            )
        return y["shortcut"] + y["block"], model_state

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return both.init(key, x)

    return Model(init, apply)


def layer_stack(block: Layer, n: int) -> Model:
    """Runs `n` copies of a block in a row as one scan, `x -> x` of the same shape.

    The copies' params are stacked along a new first axis, so compile time does not grow with `n`.

    Args:
        block: a model or function whose output has the shape and dtype of its input.
        n: number of copies.

    Returns:
        The model; its params are those of `block`, each leaf `[n, ...]`.

    Raises:
        TypeError: the block changes the shape or dtype of its input.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.layer_stack(fn.sequential(fn.dense(3), jnp.tanh), 10)
        >>> params, _ = model.init(jax.random.key(0), jnp.ones((8, 3)))
        >>> params["0"]["kernel"].shape
        (10, 3, 3)
    """
    errors.positive("layer_stack", n=n)
    layer = lift("layer_stack", block)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        x = outline(x)
        params, model_state = over_keys(lambda k: layer.init(k, x), jax.random.split(key, n))
        one = jax.tree.map(lambda leaf: leaf[0], (params, model_state))
        check_same("layer_stack", x, output_spec(layer, one[0], one[1], x))
        return params, model_state

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        keys = None if key is None else jax.random.split(key, n)

        def run(x: Any, each: tuple[Params, ModelState, Any]) -> tuple[Any, ModelState]:
            p, s, k = each
            y, s = layer.apply(p, s, between(x), key=k, training=training)
            check_same("layer_stack", x, y)
            return between(y), s

        return jax.lax.scan(run, x, (params, model_state, keys), length=n)

    return Model(init, apply)


def lift(function: str, layer: Layer) -> Model:
    """`layer` as a `Model`: itself, or a bare function `x -> y` made one."""
    if isinstance(layer, Model):
        return layer
    must = f"`{function}`: a layer must be a funcnet model or a function x -> y, got"
    if isinstance(layer, type):
        raise TypeError(
            f"{must} the class {layer.__name__}. Make an instance of it, and a model of that with "
            "`fn.as_model(...)`."
        )
    if hasattr(layer, "apply") or hasattr(layer, "init"):
        raise TypeError(
            f"{must} {type(layer).__name__}. Make a model of it with `fn.as_model(...)`."
        )
    if isinstance(layer, list | tuple):
        raise TypeError(f"{must} a {type(layer).__name__}. Unpack it, `{function}(*layers)` say.")
    if not callable(layer):
        raise TypeError(f"{must} {layer!r}. Turn it into a function of x.")
    if getattr(layer, "__annotations__", {}).get("return") in (Model, "Model"):
        name = getattr(layer, "__name__", "it")
        raise TypeError(f"{must} the function {name}, which makes one. Call it, `{name}(...)`.")
    return stateless(layer)


def collect(function: str, layers: tuple[Layer, ...], named: dict[str, Layer]) -> dict[str, Model]:
    """The layers by name, numbered where they have none."""
    if layers and named:
        raise TypeError(
            f"`{function}`: layers must be all numbered or all named, got {len(layers)} without "
            f"a name and {', '.join(named)} with one. Name all of them."
        )
    if not layers and not named:
        raise ValueError(f"`{function}`: there must be at least one layer, got none.")
    parts = named or {str(i): layer for i, layer in enumerate(layers)}
    return {name: lift(function, layer) for name, layer in parts.items()}


def run_part(
    function: str,
    name: str,
    layer: Model,
    params: Params,
    model_state: ModelState,
    x: Any,
    key: jax.Array | None,
    training: bool | None,
) -> tuple[Any, ModelState]:
    """Applies one part of a combinator to its own share of the trees, under its name."""
    p, s = params.get(name, {}), model_state.get(name, {})
    with told(function, name, layer, x), jax.named_scope(name):
        y, s = pair("apply", "(y, model_state)", layer.apply(p, s, x, key=key, training=training))
        return checkpoint_name(y, kind(layer)), s


def pair(method: str, wanted: str, result: Any) -> tuple[Any, Any]:
    """What a layer's `init` or `apply` gave, which must be a pair."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"`{method}`: a layer's {method} must return {wanted}, got {errors.describe(result)}. "
            "Return `{}` for what it does not have, and model_state as it came if it is unchanged."
        )
    return result


def start(layer: Model, key: jax.Array, x: Any) -> tuple[Params, ModelState]:
    """The params and model_state of one part."""
    return pair("init", "(params, model_state)", layer.init(key, x))


def child(key: jax.Array | None, layer: Model, i: int) -> jax.Array | None:
    """The key of the `i`-th part, from that of the whole."""
    return None if key is None else jax.random.fold_in(key, i)


def keep(parts: dict[str, Any], name: str, part: Any) -> None:
    """Puts `part` under its name, unless there is nothing in it."""
    if not (isinstance(part, dict) and not part):
        parts[name] = part


def output_spec(layer: Model, params: Params, model_state: ModelState, x: Any) -> Any:
    """Shapes and dtypes of a layer's output outside training, computed without arithmetic."""

    def forward(params: Params, model_state: ModelState, x: Any) -> Any:
        return layer.apply(params, model_state, x, training=False)[0]

    return outcome(forward, params, model_state, x)


def over_keys(make: Callable[[jax.Array], Any], keys: jax.Array) -> Any:
    """What `make` gives for each key, stacked; one after the other where all runs eagerly."""
    if not is_eager():
        return jax.vmap(make)(keys)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(make, keys))


def check_same(function: str, x: Any, y: Any) -> None:
    """Raises unless a block's output is shaped like its input."""
    if errors.differences(x, y):
        raise TypeError(
            f"`{function}`: the block's output must have the shape and dtype of its input, "
            f"got {errors.describe(y)} from {errors.describe(x)}."
        )


def check_names(function: str, parts: dict[str, Model], params: Params) -> None:
    """Raises where params are no dict by the names of these parts."""
    if not isinstance(params, dict) or params.keys() - parts:
        names = ", ".join(map(repr, params)) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f"`{function}`: params must be the dict by layer that `init` made, of "
            f"{', '.join(map(repr, parts))}, got {names}. Give each model its own params."
        )


@contextmanager
def told(function: str, name: str, layer: Model, x: Any) -> Iterator[None]:
    """Adds to an error in which layer, and on what input, it arose."""
    try:
        yield
    except Exception as error:
        if isinstance(error, KeyError):
            error.add_note("params or model_state miss this name: give those that `init` made")
        error.add_note(f"in layer {name!r} ({kind(layer)}) of `{function}`: {errors.describe(x)}")
        raise
