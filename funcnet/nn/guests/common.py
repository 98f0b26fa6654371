"""What guests of every make share: training flags, arguments, signatures."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

TRAINING_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""The names that guests give to the training flag, and its value in training."""


def library(name: str, parameter: str) -> Any:
    """The library of a factory that has this `parameter`, which is imported wherever it is used."""
    if name not in sys.modules:
        raise TypeError(
            f"`as_model`: a factory whose parameter is named {parameter} makes a module of {name}, "
            f"which must be imported, got a program without it. `import {name}` before this."
        )
    return sys.modules[name]


def training_flag(owner: str, where: str, parameters: Iterable[str]) -> str | None:
    """The one of `parameters` that says whether the guest trains, if there is one."""
    found = TRAINING_FLAGS.keys() & set(parameters)
    if len(found) > 1:
        raise TypeError(
            f"`as_model`: {owner} must have at most one training flag, "
            f"got {', '.join(sorted(found))} in {where}. "
            "Give it one and pass that on inside."
        )
    return next(iter(found), None)


def flags(flag: str | None, on: bool) -> dict[str, bool]:
    """The keyword argument that tells a guest whether it trains."""
    return {} if flag is None else {flag: on == TRAINING_FLAGS[flag]}


def arguments(x: Any) -> tuple[Any, ...]:
    """The arguments of a guest: a tuple is several inputs, anything else is one."""
    return x if isinstance(x, tuple) else (x,)


def parameters(make: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a function, a class or a `functools.partial`; none if they can't be seen.

    Example:
        >>> list(parameters(lambda x, rate=0.5: x))
        ['x', 'rate']
    """
    if not callable(make):
        return {}
    partial = make if isinstance(make, functools.partial) else functools.partial(make)
    if isinstance(partial.func, type):  # a metaclass may hide the parameters of `__init__`
        own: Any = partial.func
        make = functools.partial(own.__init__, None, *partial.args, **partial.keywords)
    try:
        return dict(inspect.signature(make).parameters)
    except (TypeError, ValueError):
        return {}


def required(make: Any) -> list[str]:
    """The names of the parameters that a call must give.

    Example:
        >>> required(lambda rngs, features=3: None)
        ['rngs']
    """
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, parameter in parameters(make).items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in several
    ]


def unset(call: dict[str, inspect.Parameter]) -> set[str]:
    """The parameters of a module's call whose default `None` means: as the module itself says."""
    return {name for name, parameter in call.items() if parameter.default is None}


def name_of(make: Any) -> str:
    """What a function, class or `functools.partial` is called in errors."""
    while isinstance(make, functools.partial):
        make = make.func
    return getattr(make, "__name__", type(make).__name__)


Factory = Callable[..., Any]
"""A function, or a class, of one required parameter that makes a guest."""
