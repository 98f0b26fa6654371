"""A jaxpr evaluated on values, equation by equation, with the origin of all that is not finite."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from funcnet import errors, tree
from funcnet.inspect.equations import bound, callee, line_of, prefixes_up, scan_parts, within


class Origin(NamedTuple):
    """The equation at which something that is not finite came into being.

    Attributes:
        number: of equations evaluated before.
        meant: whether it was written so, as the -inf of a mask is.
        path: of the layer around it, or "".
        turns: `(path, turn, length)` of each loop around it.
        primitive: its operation.
        gave: what came out.
        of: what it was made of.
        came: what came into the layer.
        line: of code.
    """

    number: int
    meant: bool
    path: str
    turns: tuple[tuple[str, int, int], ...]
    primitive: str
    gave: str
    of: tuple[str, ...]
    came: tuple[str, ...]
    line: str


class Held:
    """A value on its way.

    Attributes:
        value: an array.
        home: the path at which it was made, with the turns of the loops there.
        name: of an argument.
        origin: where what is not finite in it comes from; None if all is finite.
        live: whether it depends on an argument that is not given.
    """

    __slots__ = ("home", "live", "name", "origin", "value")

    def __init__(
        self,
        value: Any,
        home: tuple[str, Any] = ("", ()),
        name: str = "",
        origin: Origin | None = None,
        live: bool = True,
    ) -> None:
        self.value, self.home, self.name = value, home, name
        self.origin, self.live = origin, live


def argument(value: Any, name: str = "", *, given: bool = False) -> Held:
    """A value that comes from outside; what is not finite in a given one is meant."""
    return Held(value, ("", ()), name, None if is_finite(value) else GIVEN, not given)


GIVEN = Origin(-1, True, "", (), "", "", (), (), "")


class Tracker:
    """Evaluates jaxprs on values.

    Args:
        kinds: of layers by path.
        blame: whether a live value that meets a given one which is not finite is to blame, as in a
            gradient, whose factors are given.
    """

    def __init__(self, kinds: Mapping[str, str], *, blame: bool = False) -> None:
        self.kinds, self.blame, self.count = kinds, blame, 0
        self.entered: dict[Any, dict[int, Held]] = {}

    def run(
        self, jaxpr: Any, args: Sequence[Held], path: str = "", turns: tuple[Any, ...] = ()
    ) -> list[Held]:
        """What a jaxpr gives."""
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        known: dict[Any, Held] = dict(zip(inner.invars, args, strict=True))
        for variable, value in zip(inner.constvars, getattr(jaxpr, "consts", ()), strict=True):
            known[variable] = argument(value, given=True)
        last = last_uses(inner)

        def read(atom: Any) -> Held:
            return argument(atom.val, given=True) if isinstance(atom, Literal) else known[atom]

        for k, equation in enumerate(inner.eqns):
            outs = self.step(equation, [read(atom) for atom in equation.invars], path, turns)
            known |= zip(equation.outvars, outs, strict=True)
            for variable in last.get(k, ()):
                known.pop(variable, None)
        return [read(atom) for atom in inner.outvars]

    def step(self, equation: JaxprEqn, ins: list[Held], path: str, turns: Any) -> list[Held]:
        """What one equation gives."""
        here, name = within(path, equation), equation.primitive.name
        called = callee(equation)
        if called is not None:
            return self.run(called, ins, here, turns)
        if name == "name":
            if self.kinds.get(here) == equation.params["name"]:
                self.entered.pop((here, turns), None)
            return ins
        if name == "scan":
            return self.scan(equation, ins, here, turns)
        if name == "cond":
            branches = equation.params["branches"]
            chosen = min(max(int(ins[0].value), 0), len(branches) - 1)
            return self.run(branches[chosen], ins[1:], here, turns)
        if name == "while":
            return self.loop(equation, ins, here, turns)
        return self.compute(equation, ins, here, turns)

    def compute(self, equation: JaxprEqn, ins: list[Held], here: str, turns: Any) -> list[Held]:
        """What an equation gives that is one operation."""
        self.count += 1
        layer = next((path for path in prefixes_up(here) if path in self.kinds), "")
        entered = self.entered.setdefault((layer, turns), {})
        for each in ins:
            if (each.name or not inside(each.home, layer, turns)) and np.ndim(each.value):
                entered[id(each.value)] = each
        live = any(each.live for each in ins)
        outs = bound(equation, [each.value for each in ins])
        held = [Held(value, (here, turns), live=live) for value in outs]
        wrong = [each for each in held if not is_finite(each.value)]
        if wrong:
            origin = self.origin(equation, ins, wrong, layer, turns)
            for each in wrong:
                each.origin = origin
        return held

    def origin(
        self, equation: JaxprEqn, ins: list[Held], outs: list[Held], layer: str, turns: Any
    ) -> Origin:
        """Where what is not finite in the outputs of an equation comes from."""
        causes = [each.origin for each in ins if each.origin is not None]
        made = [cause for cause in causes if not cause.meant]
        if made:
            return min(made, key=lambda cause: cause.number)
        live = any(each.live for each in ins)
        nan = any(has_nan(each.value) for each in outs)
        new_nan = nan and not any(has_nan(each.value) for each in ins)
        at_fault = live if self.blame else new_nan or (live and not causes)
        if not at_fault and (known := [cause for cause in causes if cause.line]):
            return known[0]
        came = self.entered.get((layer, turns), {}).values()
        return Origin(
            number=self.count,
            meant=not at_fault,
            path=layer,
            turns=turns,
            primitive=equation.primitive.name,
            gave=described(outs[0].value),
            of=tuple(described(each.value) for each in ins),
            came=tuple(" ".join(filter(None, (each.name, described(each.value)))) for each in came),
            line=line_of(equation),
        )

    def scan(self, equation: JaxprEqn, ins: list[Held], here: str, turns: Any) -> list[Held]:
        """What a scan gives, turn after turn."""
        consts, carried = scan_parts(equation)
        first, carry, xs = ins[:consts], ins[consts : consts + carried], ins[consts + carried :]
        length = equation.params["length"]
        order = range(length)[::-1] if equation.params["reverse"] else range(length)
        ys: list[list[Held]] = [[] for _ in order]
        for i in order:
            now = [piece(each, i) for each in xs]
            outs = self.run(
                equation.params["jaxpr"], [*first, *carry, *now], here, (*turns, (here, i, length))
            )
            carry, ys[i] = outs[:carried], outs[carried:]
        if not length:
            return [Held(value, (here, turns)) for value in bound(equation, [e.value for e in ins])]
        return [*carry, *(stacked(column, (here, turns)) for column in zip(*ys, strict=True))]

    def loop(self, equation: JaxprEqn, ins: list[Held], here: str, turns: Any) -> list[Held]:
        """What a while loop gives."""
        params = equation.params
        of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
        tested, used = ins[:of_test], ins[of_test : of_test + of_body]
        carry = ins[of_test + of_body :]
        while self.run(params["cond_jaxpr"], [*tested, *carry], here, turns)[0].value:
            carry = self.run(params["body_jaxpr"], [*used, *carry], here, turns)
        return carry


def inside(home: tuple[str, Any], layer: str, turns: Any) -> bool:
    """Whether a value was made in a layer, at the same turns of all loops around it."""
    path, when = home
    below = not layer or path == layer or path.startswith(f"{layer}/")
    return below and when[: len(turns)] == turns


def piece(held: Held, i: int) -> Held:
    """The part of a stacked value that one turn of a loop sees."""
    value = held.value[i]
    origin = None if held.origin is None or is_finite(value) else held.origin
    return Held(value, held.home, held.name and f"{held.name}[{i}]", origin, held.live)


def stacked(parts: Sequence[Held], home: tuple[str, Any]) -> Held:
    """What the turns of a loop gave, as one value."""
    origins = [part.origin for part in parts if part.origin is not None]
    first = min(origins, key=lambda origin: (origin.meant, origin.number), default=None)
    value = jnp.stack([part.value for part in parts])
    return Held(value, home, "", first, any(part.live for part in parts))


def last_uses(jaxpr: Any) -> dict[int, list[Any]]:
    """By equation, the variables that none after it uses."""
    last: dict[Any, int] = {}
    for k, equation in enumerate(jaxpr.eqns):
        last |= {atom: k for atom in equation.invars if not isinstance(atom, Literal)}
        last |= dict.fromkeys(equation.outvars, k)
    for atom in jaxpr.outvars:
        if not isinstance(atom, Literal):
            last.pop(atom, None)
    by_equation: dict[int, list[Any]] = {}
    for variable, k in last.items():
        by_equation.setdefault(k, []).append(variable)
    return by_equation


def numbers(value: Any) -> np.ndarray | None:
    """The values of an array that could be NaN or infinite; None if it holds no such numbers."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return np.asarray(value) if isinstance(value, float | complex) else None
    return np.asarray(value) if jnp.issubdtype(dtype, jnp.inexact) else None


def is_finite(value: Any) -> bool:
    """Whether an array holds neither NaN nor infinity."""
    found = numbers(value)
    return found is None or bool(np.isfinite(found).all())


def has_nan(value: Any) -> bool:
    """Whether an array holds NaN."""
    found = numbers(value)
    return found is not None and bool(np.isnan(found).any())


def described(value: Any) -> str:
    """Shape and range of an array, and how much of it is not finite.

    Example:
        >>> described(np.array([1.0, np.nan, 3.0], np.float32)), described(np.float32(2))
        ('float32[3] in 1 .. 3 (1 of 3 nan)', 'float32 2')
    """
    found, array = numbers(value), np.asarray(value) if is_plain(value) else None
    if array is None:
        return errors.describe(value)
    if array.ndim == 0:
        return f"{array.dtype} {array.astype(np.float64) if found is not None else array:.4g}"
    words = errors.describe(value)
    if not array.size:
        return words
    wide = array.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    ranges = f" in {finite.min():.4g} .. {finite.max():.4g}" if finite.size else ""
    wrong = [
        f"{int(count)} of {wide.size} {name}"
        for name, count in (
            ("nan", np.isnan(wide).sum()),
            ("inf", np.isposinf(wide).sum()),
            ("-inf", np.isneginf(wide).sum()),
        )
        if count
    ]
    return words + ranges + (f" ({', '.join(wrong)})" if wrong else "")


def is_plain(value: Any) -> bool:
    """Whether a value is of real numbers, which have ranges."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, int | float)
    return bool(jnp.issubdtype(dtype, np.number)) and not jnp.issubdtype(dtype, jnp.complexfloating)


def first_of(held: Iterable[Held]) -> Origin | None:
    """The earliest origin of what is not finite, one that was not meant if there is any."""
    origins = [each.origin for each in held if each.origin is not None]
    return min(origins, key=lambda origin: (origin.meant, origin.number), default=None)


def followed(jaxpr: Any, args: Any, kinds: Mapping[str, str], *, blame: bool = False) -> list[Held]:
    """What a jaxpr gives, evaluated equation by equation.

    Args:
        jaxpr: of a function of one pytree.
        args: that pytree, of arrays.
        kinds: of layers by path.
        blame: as of `Tracker`.
    """
    held = [argument(jnp.asarray(leaf), name) for name, leaf in tree.paths(args).items()]
    return Tracker(kinds, blame=blame).run(jaxpr, held)
