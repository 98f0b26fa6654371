"""`intermediates`: what each layer of a model gives, by the paths that `summary` shows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from funcnet import errors
from funcnet.inspect.equations import bound, callee, scan_parts, within
from funcnet.inspect.flops import operations
from funcnet.inspect.summaries import check_model, layers
from funcnet.nn.model import kind
from funcnet.tables import Rows, as_html, in_columns
from funcnet.types import Model, ModelState, Params

COLUMNS, SIDES = ("layer", "kind", "output", "min", "mean", "max", "not finite"), "<<<>>>>"


class Intermediates(dict[str, Any]):
    """Outputs by path; its `repr` is a table, which a notebook shows as HTML.

    Attributes:
        kinds: by path, the name of the function that made the layer.
    """

    def __init__(self, outputs: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
        super().__init__(outputs)
        self.kinds = dict(kinds)

    def __repr__(self) -> str:
        return "\n".join(in_columns(self.table(), SIDES))

    def _repr_html_(self) -> str:
        return as_html(self.table(), SIDES)

    def table(self) -> Rows:
        """A line for each array, those of a layer with several under each other."""
        lines = [
            (path if i == 0 else "", self.kinds[path] if i == 0 else "", *words_of(leaf))
            for path, output in self.items()
            for i, leaf in enumerate(output if isinstance(output, tuple) else (output,))
        ]
        return [COLUMNS, None, *lines]


def flatten(found: Intermediates) -> tuple[list[tuple[Any, Any]], Any]:
    """The outputs with their keys, and what else there is: for JAX."""
    keyed = [(jax.tree_util.DictKey(path), output) for path, output in found.items()]
    return keyed, (tuple(found), tuple(found.kinds.items()))


def unflatten(form: Any, outputs: Iterable[Any]) -> Intermediates:
    """The other way round."""
    paths, kinds = form
    return Intermediates(dict(zip(paths, outputs, strict=True)), dict(kinds))


jax.tree_util.register_pytree_with_keys(Intermediates, flatten, unflatten)


def intermediates(
    model: Model,
    params: Params,
    model_state: ModelState,
    x: Any,
    *,
    key: jax.Array | None = None,
    training: bool | None = None,
) -> Intermediates:
    """What each layer gives for `x`, as a dict by the paths that `fn.summary` shows.

    The layers are those of `sequential`, `branches` and what is made of them; a guest is one layer.
    Pure: it can be jitted and vmapped, and of what nobody takes out of the dict nothing is computed
    then.

    Args:
        model: the model.
        params: its learnt arrays.
        model_state: its other arrays.
        x: a batch of its input.
        key: as for `model.apply`.
        training: as for `model.apply`.

    Returns:
        A dict in the order in which the layers end, outer ones before those inside them. An output
        of several arrays is the tuple of them. A layer in a `layer_stack` has a first axis more,
        of the copies. Where a layer is called several times, as in `wire`, the second call is
        `"path@2"`, and so on. Only what runs inside a `lax.cond` or a `while_loop` of a model's own
        is left out. Print it for a table of ranges.

    Raises:
        TypeError: `model` is not a model, or `x` is not made of arrays.
        Exception: whatever `apply` raises.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.sequential(jnp.square, fn.layer_stack(lambda x: x + 1, 2), jnp.log)
        >>> x = jnp.array([[0.0, 1.0], [2.0, 3.0]])
        >>> found = intermediates(model, {}, {}, x)
        >>> found
        layer  kind         output            min   mean    max  not finite
        -----  -----------  -------------  ------  -----  -----  ----------
        0      square       float32[2, 2]       0    3.5      9           0
        1      layer_stack  float32[2, 2]       2    5.5     11           0
        2      log          float32[2, 2]  0.6931  1.495  2.398           0
        >>> found["1"].tolist()
        [[2.0, 3.0], [6.0, 11.0]]
    """
    check_model(model, "intermediates")
    check_arrays("intermediates", x)

    def apply(params: Params, model_state: ModelState, x: Any, key: Any) -> Any:
        return model.apply(params, model_state, x, key=key, training=training)[0]

    args = params, model_state, x, key
    closed = jax.make_jaxpr(apply)(*args)
    known = layers(operations(closed))
    found: dict[str, list[Any]] = {}
    outs = evaluate(
        closed, jax.tree.leaves(args), {path: k for path, (k, _) in known.items()}, found
    )
    if not known:
        alone = outs[0] if len(outs) == 1 else tuple(outs)
        return Intermediates({"": alone}, {"": kind(model)})
    outputs: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for path, (name, output) in known.items():
        size = len(output) if isinstance(output, tuple) else 1
        values = found.get(path, [])
        for call, at in enumerate(range(0, len(values), size), 1):
            one = path if call == 1 else f"{path}@{call}"
            outputs[one] = tuple(values[at : at + size]) if size > 1 else values[at]
            kinds[one] = name
    return Intermediates(outputs, kinds)


def check_arrays(function: str, x: Any) -> None:
    """Raises unless `x` is made of arrays that have values."""
    leaves = jax.tree.leaves(x)
    wrong = [leaf for leaf in leaves if not isinstance(leaf, jax.Array | np.ndarray | np.generic)]
    if wrong or not leaves:
        raise TypeError(
            f"`{function}`: x must be a batch of arrays, got {errors.describe((wrong or [x])[0])}. "
            "Give some of the data, `x[:8]` say."
        )


def evaluate(
    jaxpr: Any,
    args: Sequence[Any],
    kinds: Mapping[str, str],
    found: dict[str, list[Any]],
    path: str = "",
) -> list[Any]:
    """What a jaxpr gives; what each layer in it gave is added to `found`."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    values: dict[Any, Any] = dict(zip(inner.invars, args, strict=True))
    values |= zip(inner.constvars, getattr(jaxpr, "consts", ()), strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in inner.eqns:
        here, ins = within(path, equation), [read(atom) for atom in equation.invars]
        called = callee(equation)
        if equation.primitive.name == "name" and kinds.get(here) == equation.params["name"]:
            found.setdefault(here, []).append(ins[0])
            outs = ins
        elif not has_names(equation):
            outs = bound(equation, ins)
        elif called is not None:
            inside = evaluate(called, ins, kinds, found, here)
            outs = bound(equation, ins) if has_own_derivative(equation) else inside
        elif equation.primitive.name == "scan":
            outs = evaluate_scan(equation, ins, kinds, found, here)
        else:
            outs = bound(equation, ins)
        values |= zip(equation.outvars, outs, strict=True)
    return [read(atom) for atom in inner.outvars]


def evaluate_scan(
    equation: Any,
    ins: list[Any],
    kinds: Mapping[str, str],
    found: dict[str, list[Any]],
    path: str,
) -> list[Any]:
    """The same of a scan, whose layers give a value at each of its turns."""
    consts, carried = scan_parts(equation)
    first, carry, xs = ins[:consts], ins[consts : consts + carried], ins[consts + carried :]

    def turn(carry: list[Any], xs: list[Any]) -> tuple[list[Any], Any]:
        inside: dict[str, list[Any]] = {}
        outs = evaluate(equation.params["jaxpr"], [*first, *carry, *xs], kinds, inside, path)
        return outs[:carried], (outs[carried:], inside)

    settings = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
    carry, (ys, inside) = jax.lax.scan(turn, carry, xs, **settings)
    for each, values in inside.items():
        found.setdefault(each, []).extend(values)
    return [*carry, *ys]


def has_names(equation: Any) -> bool:
    """Whether an equation names an array, or calls a jaxpr that does."""
    if equation.primitive.name == "name":
        return True
    inner = callee(equation)
    if equation.primitive.name == "scan":
        inner = equation.params["jaxpr"]
    return inner is not None and any(map(has_names, getattr(inner, "jaxpr", inner).eqns))


def has_own_derivative(equation: Any) -> bool:
    """Whether an equation has a derivative other than that of what it calls."""
    return bool(equation.primitive.name.startswith("custom_"))


def words_of(leaf: Any) -> tuple[str, ...]:
    """Shape and range of an array in words; the shape alone while it is traced."""
    shape = errors.describe(leaf)
    if isinstance(leaf, jax.core.Tracer) or not is_real(leaf.dtype):
        return shape, "", "", "", ""
    values = np.asarray(leaf).astype(np.float64)
    finite = values[np.isfinite(values)]
    ranges = (finite.min(), finite.mean(), finite.max()) if finite.size else ()
    words = [f"{number:.4g}" for number in ranges] or ["", "", ""]
    return shape, *words, share((values.size - finite.size) / max(values.size, 1))


def is_real(dtype: Any) -> bool:
    """Whether a dtype is of numbers that have a range."""
    known = jax.numpy.issubdtype
    return known(dtype, np.number) and not known(dtype, np.complexfloating)


def share(part: float) -> str:
    """A share of a whole: 0 only if there is none.

    Example:
        >>> share(0.0), share(1e-6), share(0.25), share(1.0)
        ('0', '<0.1 %', '25.0 %', '100.0 %')
    """
    if part == 0:
        return "0"
    return "<0.1 %" if part < 0.001 else f"{100 * part:.1f} %"
