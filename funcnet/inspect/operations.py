"""The operations of a jaxpr as items that know where their values come from; calls unfolded."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal, jaxprs_in_params

from funcnet.inspect.flops import ELEMENTWISE, REDUCTIONS, SCATTERS, WINDOWS

KINDS = (
    "input", "constant", "output", "matmul", "elementwise", "reduction", "movement", "random",
    "control", "call", "layer", "other",
)  # fmt: skip
"""What a node can be."""

CONTROL = {"scan", "while", "cond"}

BY_KIND = {
    "matmul": "dot_general conv_general_dilated ragged_dot",
    "elementwise": f"{ELEMENTWISE} select_n eq ne ge gt le lt and or not xor is_finite nextafter "
    "shift_left shift_right_logical shift_right_arithmetic real imag complex conj population_count "
    "stop_gradient convert_element_type clz",
    "reduction": f"{REDUCTIONS} {WINDOWS} reduce_and reduce_or reduce_precision sort top_k "
    "select_and_scatter_add",
    "movement": f"{SCATTERS} scatter reshape broadcast_in_dim transpose squeeze expand_dims slice "
    "dynamic_slice dynamic_update_slice gather concatenate pad rev iota copy split name "
    "bitcast_convert_type device_put sharding_constraint copy_p",
    "random": "random_seed random_wrap random_unwrap random_bits random_split random_fold_in "
    "threefry2x32 random_clone",
}

KIND = {name: kind for kind, names in BY_KIND.items() for name in names.split()}


class Value:
    """An array between operations, told from others by being itself.

    Attributes:
        aval: its shape and dtype.
        name: the input's name, or a literal in words.
        constant: whether the function holds it.
        literal: whether it is a number written into the jaxpr.
        leaves: whether it is used outside of its node.
    """

    def __init__(
        self, aval: Any, name: str = "", constant: bool = False, literal: bool = False
    ) -> None:
        self.aval, self.name, self.constant, self.literal = aval, name, constant, literal
        self.leaves = False


class Item(NamedTuple):
    """An equation with its values.

    Attributes:
        equation: of the jaxpr.
        ins: what it takes.
        outs: what it gives.
        scope: the named scopes around it, without the transformations that JAX writes there.
        backward: whether it stands in a transposed pass.
        layers: scope and kind of each funcnet layer that ends here.
    """

    equation: Any
    ins: list[Value]
    outs: list[Value]
    scope: str
    backward: bool
    layers: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The operation, or the name of the function that is called."""
        operation: str = self.equation.primitive.name
        if kind_of(self.equation) != "call":
            return operation
        inner = bodies(self.equation)[0]
        known = getattr(getattr(inner, "jaxpr", inner), "debug_info", None)
        name = self.equation.params.get("name") or getattr(known, "func_name", None)
        return name if isinstance(name, str) and name.isidentifier() else operation


def bodies(equation: Any) -> list[Any]:
    """The jaxprs inside an equation."""
    return [] if equation.primitive.name in KIND else list(jaxprs_in_params(equation.params))


def kind_of(equation: Any) -> str:
    """The kind of an operation."""
    name = equation.primitive.name
    if name in CONTROL:
        return "control"
    return KIND.get(name) or ("call" if bodies(equation) else "other")


def flatten(
    jaxpr: Any, given: Sequence[Value], depth: int, scope: str = "", backward: bool = False
) -> tuple[list[Item], list[Value]]:
    """The operations of a jaxpr and its results.

    Calls are replaced by what they call, `depth` levels deep; a name that is put on an array is
    no operation.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    known: dict[Any, Value] = dict(zip(inner.invars, given, strict=True))
    known |= {v: Value(v.aval, "", constant=True) for v in inner.constvars}

    def value(atom: Any) -> Value:
        if isinstance(atom, Literal):
            return Value(atom.aval, words(atom.val), literal=True)
        return known[atom]

    items: list[Item] = []
    for equation in inner.eqns:
        stack = str(equation.source_info.name_stack)
        here = "/".join(part for part in (scope, plain(stack)) if part)
        back = backward or "transpose(" in stack
        ins = [value(atom) for atom in equation.invars]
        if equation.primitive.name == "name":
            known[equation.outvars[0]] = ins[0]
            mark(items, ins[0], here, str(equation.params["name"]))
            continue
        inside = bodies(equation)
        if depth and kind_of(equation) == "call" and len(inside[0].invars) == len(ins):
            more, outs = flatten(inside[0], ins, depth - 1, here, back)
            items += more
        else:
            outs = [Value(v.aval) for v in equation.outvars]
            items.append(Item(equation, ins, outs, here, back))
        known.update(zip(equation.outvars, outs, strict=True))
    return items, [value(atom) for atom in inner.outvars]


def mark(items: list[Item], value: Value, scope: str, kind: str) -> None:
    """Notes the layer that ends with `value` on the operation that gave it."""
    for k in reversed(range(len(items))):
        if any(out is value for out in items[k].outs):
            items[k] = items[k]._replace(layers=(*items[k].layers, (scope, kind)))
            return


def live(items: Sequence[Item], results: Sequence[Value]) -> list[Item]:
    """The operations on which a result depends, and those with effects."""
    needed = {id(value) for value in results}
    kept = []
    for item in reversed(items):
        if item.equation.effects or any(id(out) in needed for out in item.outs):
            needed |= {id(value) for value in item.ins}
            kept.append(item)
    return kept[::-1]


def plain(stack: str) -> str:
    """A name stack without transformations.

    Example:
        >>> plain("transpose(jvp(body))/0"), plain("jvp()")
        ('body/0', '')
    """
    return re.sub(r"\w+\(|\)", "", stack).strip("/")


def words(number: Any) -> str:
    """A literal as it is written."""
    if isinstance(number, jax.Array | np.ndarray | np.generic):
        number = np.asarray(number).item()
    if isinstance(number, int) and not isinstance(number, bool):
        number = int(number)  # JAX's own kinds of numbers have long names
    return f"{number:.6g}" if isinstance(number, float) else str(number)
