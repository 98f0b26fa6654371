"""`as_model`: which library a guest comes from, and what is no guest."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import jax

from funcnet.nn.guests.common import name_of, parameters, required
from funcnet.nn.guests.equinox import from_equinox
from funcnet.nn.guests.function import from_function
from funcnet.nn.guests.haiku import from_haiku
from funcnet.nn.guests.linen import from_linen
from funcnet.nn.guests.nnx import from_nnx
from funcnet.nn.guests.stax import from_stax, from_stax_factory
from funcnet.types import Model, Params

FACTORIES: dict[str, Callable[[Any], Model]] = {
    "rngs": from_nnx,
    "key": from_equinox,
    "training": from_stax_factory,
}
"""What is made of a factory, by the name of its one required parameter."""

INSTANCES = {"flax.nnx": ("an NNX", "rngs"), "equinox": ("an Equinox", "key")}
"""The libraries whose modules hold their arrays, and the parameter of a factory for them."""


def as_model(guest: Any, init: Callable[[jax.Array, Any], Params] | None = None) -> Model:
    """Makes a `Model` of a network that another library made, or of a function.

    | library | guest | `params` | `model_state` |
    | --- | --- | --- | --- |
    | Flax Linen | a module | its collection `params` | all other collections that `init` makes |
    | Flax NNX | a factory `make(rngs)` | `nnx.Param`s, nested dicts | its other variables |
    | Equinox | a factory `make(key)` | inexact arrays, in the module | other arrays, `State` |
    | Haiku | `hk.transform(f)`, `hk.transform_with_state(f)` | Haiku's | Haiku's |
    | stax | `(init_fun, apply_fun)`, or a factory `make(training)` | stax's | none |
    | none | `f(params, x) -> y`, with `init` | what `init` gives | none |

    A factory is a function, a class or a `functools.partial` with one required parameter, of the
    name given above: an NNX or Equinox module holds its arrays, so it must be made anew for each
    key. What is known of each library:

    - All: a training flag in the call (`train`, `training`, `is_training`, `deterministic`,
      `use_running_average`) is found by name and set from `training`. State is written in training
      only. An `x` that is a tuple is given as several arguments, a dict as one.
    - Linen: `key` serves all its streams; values that it only sows are dropped.
    - NNX: `module.train()` and `module.eval()` follow `training`; each of its streams begins anew
      from `key` at every call; an `rngs` in its call gets one too; what it sows is dropped.
    - Equinox: the module takes one example and is vmapped over the batch, whose axis is named
      `"batch"`: build `eqx.nn.BatchNorm(..., axis_name="batch")`. A `key` in its call is split for
      the examples; `eqx.nn.inference_mode` follows `training`. With state the factory gives the
      pair of `eqx.nn.make_with_state`.
    - Haiku: `init` runs with training on, as batch norm asks, on a batch of standard normal numbers
      of the shape of `x`; a flag is seen if `f` names it.
    - stax: the mode of its dropout is fixed when it is built, so a pair serves for training and
      inference only if it has none. Its inputs are one argument, a tuple of them too.

    A library is never imported here: a guest can't be there before its library is.

    Args:
        guest: a guest as in the table.
        init: `init(key, x) -> params`, for a function alone. Its `x` may be a
            `jax.ShapeDtypeStruct`.

    Returns:
        The model.

    Raises:
        TypeError: `guest` is none of these, such as an NNX or Equinox module in place of a factory;
            a function comes without `init`; a factory makes something else.
        ValueError: a batch norm of Equinox names another axis than `"batch"`.

    Example:
        >>> import flax.linen, flax.nnx, jax, jax.numpy as jnp, functools, funcnet as fn
        >>> from jax.example_libraries import stax
        >>> x = jnp.ones((8, 2))
        >>> params, _ = fn.as_model(flax.linen.Dense(3)).init(jax.random.key(0), x)
        >>> fn.tree.spec(params["kernel"]).shape
        (2, 3)
        >>> model = fn.as_model(functools.partial(flax.nnx.BatchNorm, 2))
        >>> sorted(fn.tree.paths(model.init(jax.random.key(0), x)))
        ['0/bias', '0/scale', '1/mean', '1/var']
        >>> def make(training):
        ...     mode = "train" if training else "test"
        ...     return stax.serial(stax.Relu, stax.Dropout(0.5, mode=mode))
        >>> model = fn.as_model(make)
        >>> model.apply(*model.init(jax.random.key(0), x), x[:1])[0].tolist()
        [[1.0, 1.0]]
        >>> scale = fn.as_model(
        ...     lambda params, x: params["scale"] * x,
        ...     init=lambda key, x: {"scale": jnp.ones(x.shape[-1])},
        ... )
        >>> model = fn.sequential(fn.dense(3), scale)
        >>> model.init(jax.random.key(0), x)[0]["1"]["scale"].tolist()
        [1.0, 1.0, 1.0]
    """
    refuse_instance(guest)
    if init is not None:
        if not is_function(guest):
            raise TypeError(
                "`as_model`: init belongs to a function f(params, x), got it with "
                f"{guest!r}. Leave it out: any other guest makes its own params."
            )
        return from_function(guest, init)
    if isinstance(guest, Model):
        return guest
    if is_a(guest, "flax.linen", "Module"):
        return from_linen(guest)
    if is_a(guest, "haiku", "Transformed") or is_a(guest, "haiku", "TransformedWithState"):
        return from_haiku(guest)
    if type(guest) is tuple and len(guest) == 2 and all(map(callable, guest)):
        return from_stax(guest)
    needs = required(guest) if callable(guest) else []
    if len(needs) == 1 and needs[0] in FACTORIES:
        return FACTORIES[needs[0]](guest)
    raise TypeError(refusal(guest, needs))


def is_a(guest: Any, library: str, name: str) -> bool:
    """Whether `guest` is of a class of a library, which is not imported for the question."""
    found = getattr(sys.modules.get(library), name, None)
    return found is not None and isinstance(guest, found)


def is_class_of(guest: Any, library: str) -> bool:
    """Whether `guest` is a class of modules of a library."""
    found = getattr(sys.modules.get(library), "Module", None)
    return found is not None and isinstance(guest, type) and issubclass(guest, found)


def is_function(guest: Any) -> bool:
    """Whether `guest` can be called and is neither a class nor a model of any make."""
    return callable(guest) and not isinstance(guest, type) and not hasattr(guest, "init")


def refuse_instance(guest: Any) -> None:
    """Raises where a module comes that holds its arrays."""
    for library, (owner, parameter) in INSTANCES.items():
        if is_a(guest, library, "Module"):
            name = type(guest).__name__
            raise TypeError(
                f"`as_model`: {owner} module must come as a factory with one required parameter, "
                f"{parameter}, since it holds its arrays and can't be made anew from a key, "
                f"got an instance of {name}. "
                f"Give its class or a function, `lambda {parameter}: {name}(...)` say."
            )


def refusal(guest: Any, needs: list[str]) -> str:
    """Why `guest` is none, and what to do, given the parameters that it needs."""
    for library, (_, parameter) in INSTANCES.items():
        if is_class_of(guest, library):
            return wrong_factory(guest, needs, parameter)
    if is_a(guest, "haiku", "MultiTransformed") or is_a(
        guest, "haiku", "MultiTransformedWithState"
    ):
        return (
            "`as_model`: a Haiku guest must have one function to apply, got "
            f"{type(guest).__name__}. Give `hk.transform_with_state` of the one that trains."
        )
    if is_function(guest):
        for parameter in FACTORIES:
            if parameter in needs:
                return wrong_factory(guest, needs, parameter)
        if not needs and hides(guest):
            return (
                "`as_model`: the parameters of a factory must be seen, got "
                f"{name_of(guest)}(*args, **kwargs). Give a function of one, "
                "`lambda key: eqx.nn.make_with_state(Net)(..., key=key)` say."
            )
        return (
            "`as_model`: a function f(params, x) needs its init(key, x) -> params, got init=None. "
            "A function x -> y without params goes into `fn.sequential` as it is."
        )
    return (
        "`as_model`: guest must be a flax.linen.Module or a function f(params, x), "
        f"got {guest!r}. Make an instance if it is a class."
    )


def wrong_factory(guest: Any, needs: list[str], parameter: str) -> str:
    """The words for a factory with other required parameters than the one that it must have."""
    name = name_of(guest)
    return (
        f"`as_model`: a factory must have one required parameter, {parameter}, got "
        f"{', '.join(needs) or 'none'} in {name}. "
        f"Bind the others, `lambda {parameter}: {name}(..., {parameter}={parameter})` say."
    )


def hides(guest: Any) -> bool:
    """Whether a function takes any keyword, so that its own are not seen."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters(guest).values())
