"""What whoever evaluates a jaxpr equation by equation needs to know of JAX's own."""

import linecache
import re
from collections.abc import Iterator
from typing import Any

from jax.extend import source_info_util
from jax.extend.core import JaxprEqn, jaxprs_in_params

from funcnet.inspect.operations import plain

CALLS = {
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip
"""Primitives that do no more than call a jaxpr."""


def callee(equation: JaxprEqn) -> Any:
    """The jaxpr that an equation calls with its very inputs; None if it does anything else."""
    if equation.primitive.name not in CALLS:
        return None
    inner = next(iter(jaxprs_in_params(equation.params)), None)
    found = None if inner is None else getattr(inner, "jaxpr", inner)
    return inner if found is not None and len(found.invars) == len(equation.invars) else None


def bound(equation: JaxprEqn, values: list[Any]) -> list[Any]:
    """What an equation gives for these values of its inputs."""
    with equation.ctx.manager:
        params = equation.primitive.get_bind_params(equation.params)
        outs = equation.primitive.bind(*values, **params)
    return list(outs) if equation.primitive.multiple_results else [outs]


def scan_parts(equation: JaxprEqn) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried."""
    params = equation.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = map(len, params["ft_in"].unpack())  # jax 0.12
    return consts, carry


def within(path: str, equation: JaxprEqn) -> str:
    """The named scopes around an equation of a jaxpr that was called at `path`."""
    scope = plain(str(equation.source_info.name_stack))
    return "/".join(part for part in (path, scope) if part)


def line_of(equation: JaxprEqn) -> str:
    """The line of code outside of JAX that an equation comes from, with its place."""
    place = source_info_util.summarize(equation.source_info)
    found = re.fullmatch(r"(.*?):(\d+)(?::\d+)? \((.*)\)", place)
    if found is None:
        return place
    file, line, function = found.groups()
    code = linecache.getline(file, int(line)).strip()
    return f"{file}:{line} in {function}" + (f": {code}" if code else "")


def prefixes_up(path: str) -> Iterator[str]:
    """The path and those that lead to it, the longest first.

    Example:
        >>> list(prefixes_up("a/b"))
        ['a/b', 'a', '']
    """
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""
