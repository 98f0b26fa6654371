"""`summary`: the layers of a model in a table, read off its jaxpr; nothing is computed."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import jax

from funcnet import errors, tree
from funcnet.inspect.flops import Operation, count, operations
from funcnet.nn.model import kind
from funcnet.tables import Rows, as_html, human, in_columns
from funcnet.types import Model, ModelState, Params

COLUMNS, SIDES = ("layer", "kind", "output", "params", "bytes", "FLOPs"), "<<<>>>"


class Row(NamedTuple):
    """One layer, with all layers inside it.

    Attributes:
        path: the names that lead to it, `"encoder/0"`; empty for the whole model.
        kind: the name of the function that made it, `"dense"`.
        output: the `jax.ShapeDtypeStruct` of what it gives; a tuple of them where it gives several.
        params: number of learnt elements.
        bytes: bytes that they take.
        flops: operations of one `apply`, counted as `funcnet.inspect.flops.flops` says.
    """

    path: str
    kind: str
    output: Any
    params: int
    bytes: int
    flops: int


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` gives; its `str` is a table, which a notebook shows as HTML.

    Attributes:
        rows: a row for each layer, outer ones before those inside them, which they include; the
            model itself where it is one layer.
        total: the row of the whole model.
        state_bytes: bytes of the model's other arrays, running statistics say.
    """

    rows: tuple[Row, ...]
    total: Row
    state_bytes: int

    def __repr__(self) -> str:
        return "\n".join([*in_columns(self.table(), SIDES), *self.notes()])

    def _repr_html_(self) -> str:
        notes = [f"<p>{note}</p>" for note in self.notes()]
        return "\n".join([as_html(self.table(), SIDES, total=True), *notes])

    def table(self) -> Rows:
        """The rows in words, between their head and their total."""
        total = cells(self.total._replace(path="total"))
        return [COLUMNS, None, *map(cells, self.rows), None, total]

    def notes(self) -> list[str]:
        """What stands below the table."""
        return [f"model_state: {human(self.state_bytes)}"] if self.state_bytes else []


def summary(model: Model, x: Any, *, training: bool = False) -> Summary:
    """Lists a model's layers with their outputs, parameters, bytes and operations.

    Nothing is computed and no array is made, so the model may be larger than the memory. The
    layers are those of `sequential`, `branches` and what is made of them; a guest is one layer. A
    `layer_stack` shows the layers of its block once, with the params and operations of all copies.

    Args:
        model: the model.
        x: a batch of its input, of arrays or `jax.ShapeDtypeStruct`s; outputs and operations are
            for this batch.
        training: whether to look at the forward pass as it is in training.

    Returns:
        The summary, with `rows`, `total` and `state_bytes`; print it for the table. The rule by
        which FLOPs are counted stands in `funcnet.inspect.flops.flops`: 2 for each multiply-add, 1
        for each element of arithmetic and reductions, 0 for data movement.

    Raises:
        TypeError: `model` is not a model, or `x` is not made of arrays.
        Exception: whatever `init` or `apply` raise, with a note on where.

    Example:
        >>> import jax, funcnet as fn
        >>> model = fn.sequential(
        ...     body=fn.sequential(fn.dense(256), jax.nn.relu), head=fn.dense(10)
        ... )
        >>> fn.summary(model, jax.ShapeDtypeStruct((32, 784), "float32"))
        layer   kind        output             params     bytes       FLOPs
        ------  ----------  ----------------  -------  --------  ----------
        body    sequential  float32[32, 256]  200,960  803.8 kB  12,861,440
        body/0  dense       float32[32, 256]  200,960  803.8 kB  12,853,248
        body/1  relu        float32[32, 256]        0       0 B       8,192
        head    dense       float32[32, 10]     2,570   10.3 kB     164,160
        ------  ----------  ----------------  -------  --------  ----------
        total   sequential  float32[32, 10]   203,530  814.1 kB  13,025,600
    """
    check_model(model)
    check_input(x)
    try:
        params, model_state, y, steps = trace(model, tree.spec(x), training)
    except Exception as error:
        error.add_note(f"in `summary`, for x = {errors.describe(tree.spec(x))}")
        raise
    leaves = tree.paths(params).items()
    learnt = by_prefix((path, tree.size(leaf)) for path, leaf in leaves)
    taken = by_prefix((path, tree.nbytes(leaf)) for path, leaf in leaves)
    work = by_prefix((step.path, step.times * count(step.equation)) for step in steps)

    def row(path: str, kind: str, output: Any) -> Row:
        return Row(path, kind, output, learnt[path], taken[path], work[path])

    total = row("", kind(model), y)
    rows = tuple(row(path, *named) for path, named in layers(steps).items())
    return Summary(rows or (total,), total, tree.nbytes(model_state))


def trace(model: Model, x: Any, training: bool) -> tuple[Params, ModelState, Any, list[Operation]]:
    """The shapes of a model's arrays and output, and the operations of its `apply`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, model_state = jax.eval_shape(model.init, key, x)

    def apply(params: Params, model_state: ModelState, x: Any, key: jax.Array) -> Any:
        noise = key if training else None
        return model.apply(params, model_state, x, key=noise, training=training)[0]

    jaxpr, y = jax.make_jaxpr(apply, return_shape=True)(params, model_state, x, key)
    return params, model_state, y, list(operations(jaxpr))


def layers(steps: Iterable[Operation]) -> dict[str, tuple[str, Any]]:
    """Kind and output of each layer by path, outer ones before those inside them.

    A combinator ends each of its parts by naming every array of its output with the part's kind.
    A name that is followed by more operations under its path is a guest's own, and no layer.
    """
    found: dict[str, tuple[str, Any]] = {}
    order: dict[str, None] = {}
    for (path, name), group in groupby(steps, key=lambda step: (step.path, name_of(step))):
        for prefix in prefixes(path):
            order.setdefault(prefix)
            found.pop(prefix, None)
        if path and name is not None:
            found[path] = name, output(group)
    return {path: found[path] for path in order if path in found}


def name_of(step: Operation) -> str | None:
    """The name that an operation gives to its input; None if it does something else."""
    is_name = step.equation.primitive.name == "name"
    return step.equation.params["name"] if is_name else None


def output(steps: Iterable[Operation]) -> Any:
    """The shape and dtype of what the operations give; a tuple if there are several."""
    avals: list[Any] = [step.equation.outvars[0].aval for step in steps]
    specs = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals)
    return specs if len(specs) > 1 else specs[0]


def by_prefix(pairs: Iterable[tuple[str, int]]) -> Counter[str]:
    """Sums of numbers over all paths that begin with each path."""
    sums: Counter[str] = Counter()
    for path, number in pairs:
        for prefix in prefixes(path):
            sums[prefix] += number
    return sums


def prefixes(path: str) -> list[str]:
    """The paths that lead to a path, and itself.

    Example:
        >>> prefixes("encoder/0")
        ['', 'encoder', 'encoder/0']
    """
    return ["", *accumulate(path.split("/"), "{}/{}".format)] if path else [""]


def cells(row: Row) -> tuple[str, ...]:
    """A row in words."""
    words = row.path, row.kind, errors.describe(row.output)
    return (*words, f"{row.params:,}", human(row.bytes), f"{row.flops:,}")


def check_model(model: Any, function: str = "summary") -> None:
    """Raises unless `model` is one."""
    if not isinstance(model, Model):
        raise TypeError(
            f"`{function}`: model must be a funcnet model, got {model!r}. "
            "Make one of it with `fn.as_model(...)` or `fn.sequential(...)`."
        )


def check_input(x: Any) -> None:
    """Raises unless `x` is made of arrays, or of shapes and dtypes."""
    leaves = tree.paths(x)
    wrong = [f"{path}: {leaf!r}" if path else repr(leaf) for path, leaf in leaves.items()]
    wrong = [w for w, leaf in zip(wrong, leaves.values(), strict=True) if not is_array(leaf)]
    if wrong or not leaves:
        raise TypeError(
            "`summary`: x must be a batch of arrays or jax.ShapeDtypeStructs, got "
            f"{', '.join(wrong[:4]) or repr(x)}{', ...' if wrong[4:] else ''}. "
            'Give some of the data, or `jax.ShapeDtypeStruct((32, 784), "float32")` say.'
        )


def is_array(leaf: Any) -> bool:
    """Whether JAX takes `leaf` for an array and it has a shape and dtype of its own."""
    try:
        tree.spec(leaf)
    except TypeError:
        return False
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
