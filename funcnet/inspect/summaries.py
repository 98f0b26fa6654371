"""`summary`: the layers of a model in a table, read off its jaxpr; nothing is computed."""

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import jax

from funcnet import errors, tree
from funcnet.inspect.flops import Operation, count, operations
from funcnet.nn.model import kind
from funcnet.types import Model, ModelState, Params

COLUMNS = ("layer", "kind", "output", "params", "bytes", "FLOPs")


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
        body = [cells(row) for row in self.rows]
        total = cells(self.total._replace(path="total"))
        widths = [max(map(len, column)) for column in zip(COLUMNS, *body, total, strict=True)]
        rule = "  ".join("-" * width for width in widths)
        lines = [aligned(COLUMNS, widths), rule, *(aligned(row, widths) for row in body)]
        return "\n".join([*lines, rule, aligned(total, widths), *self.notes()])

    def _repr_html_(self) -> str:
        body = "".join(table_row(cells(row), "td") for row in self.rows)
        total = table_row(cells(self.total._replace(path="total")), "th")
        notes = "".join(f"<caption style='caption-side: bottom'>{n}</caption>" for n in self.notes())
        head = table_row(COLUMNS, "th")
        return (
            f"<table>{notes}<thead>{head}</thead><tbody>{body}</tbody><tfoot>{total}</tfoot></table>"
        )

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
        layer   kind        output            params     bytes       FLOPs
        ------  ----------  ----------------  -------  -------  ----------
        body    sequential  float32[32, 256]  200,960  803.8 kB  12,861,440
    """
    check_model(model)
    check_input(x)
    try:
        params, model_state, y, steps = trace(model, tree.spec(x), training)
    except Exception as error:
        error.add_note(f"in `summary`, for x = {errors.describe(tree.spec(x))}")
        raise
    total = Row("", kind(model), y, tree.size(params), tree.nbytes(params), work("", steps))
    rows = tuple(
        Row(path, name, output, *sizes(path, params), work(path, steps))
        for path, (name, output) in layers(steps).items()
    )
    return Summary(rows or (total,), total, tree.nbytes(model_state))


def trace(
    model: Model, x: Any, training: bool
) -> tuple[Params, ModelState, Any, list[Operation]]:
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

    A combinator ends each of its parts by naming every array of its output with the part's kind;
    names that a guest gives on the way there stand before those, under the same path.
    """
    found: dict[str, tuple[str, Any]] = {}
    order: dict[str, None] = {}
    for step in steps:
        order |= dict.fromkeys(accumulate(step.path.split("/"), "{}/{}".format))
        if step.equation.primitive.name == "name" and step.path:
            ...
    return {path: found[path] for path in order if path in found}
