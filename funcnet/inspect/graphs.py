"""`graph`: the computation graph of a function, to be looked at; nothing is computed."""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from funcnet import errors, tree
from funcnet.autodiff.problems import leaf_names
from funcnet.inspect import graph_drawing
from funcnet.inspect.flops import flops
from funcnet.inspect.grouping import between, grouped, used_outside
from funcnet.inspect.operations import Item, Value, bodies, flatten, kind_of, live
from funcnet.tables import human, in_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Node(NamedTuple):
    """One operation, or a group of them, or an array that comes in or goes out.

    Attributes:
        name: what tells it from the others: `"params/0/kernel"`, or `"%7"`.
        label: what it does: the operation, the layer or the called function.
        kind: one of `"input"`, `"constant"`, `"output"`, `"matmul"`, `"elementwise"`,
            `"reduction"`, `"movement"`, `"random"`, `"control"`, `"call"`, `"layer"`, `"other"`.
        inputs: names of the nodes whose arrays it takes, and literals.
        outputs: the `jax.ShapeDtypeStruct`s of what it gives.
        scope: the `jax.named_scope`s around it.
        backward: whether it is of the transposed pass, that carries gradients back.
        flops: operations, counted as `funcnet.inspect.flops.flops` says.
        bytes: of the arrays that it reads and writes.
        operations: how many operations of the jaxpr it stands for.
    """

    name: str
    label: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[Any, ...]
    scope: str
    backward: bool
    flops: int
    bytes: int
    operations: int


class Edge(NamedTuple):
    """An array on its way between two nodes.

    Attributes:
        source: the name of the node that gives it.
        target: the name of the node that takes it.
        array: its `jax.ShapeDtypeStruct`.
    """

    source: str
    target: str
    array: Any


@dataclass(frozen=True, repr=False)
class Graph:
    """What `graph` gives: a table as text, a picture in a notebook.

    Attributes:
        nodes: in the order in which they can run.
        edges: the arrays between them.
        unused: names of the inputs on which no output depends.
        inside: the groups of operations behind the nodes, by name, for `open`.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    unused: tuple[str, ...] = ()
    inside: dict[str, tuple[Item, ...]] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        """Floating-point operations of all nodes."""
        return sum(node.flops for node in self.nodes)

    @property
    def bytes(self) -> int:
        """Bytes that all nodes read and write, were nothing fused."""
        return sum(node.bytes for node in self.nodes)

    def open(self, name: str, body: int = 0) -> "Graph":
        """The graph inside a node: of a layer, a fused group, a call, a loop, a branch.

        Args:
            name: the node's name, `"%3"`, or its label, `"scan"`, where that is only one.
            body: which function of several: a while loop has its test and its body, a `cond` its
                branches.

        Raises:
            KeyError: there is no such node.
            ValueError: it has nothing inside.
        """
        items = self.inside[self.find(name)]
        if len(items) > 1:
            return opened(items)
        inner = bodies(items[0].equation)
        if body not in range(len(inner)):
            raise ValueError(
                f"`Graph.open`: {name!r} must have a body {body}, got {len(inner)} bodies. "
                "Only layers, fused groups, calls, loops and branches can be opened."
            )
        return of_jaxpr(inner[body], {}, {}, 0)

    def find(self, name: str) -> str:
        """The name of the node with this name or label; raises unless there is one with insides."""
        if name in self.inside:
            return name
        named = [node.name for node in self.nodes if node.label == name]
        found = [each for each in named if each in self.inside]
        if len(found) == 1:
            return found[0]
        got = f"{len(found)} of that label" if found else "none"
        known = ", ".join(f"{n.name} ({n.label})" for n in self.nodes if n.name in self.inside)
        raise KeyError(
            f"`Graph.open`: name must be one node that has operations inside, got {name!r}: {got}. "
            f"Known are: {known}."
        )

    def __repr__(self) -> str:
        head = ("node", "operation", "of", "gives", "FLOPs", "bytes")
        body = [row(node) for node in self.nodes]
        total = ("total", "", "", "", f"{self.flops:,}", human(self.bytes))
        lines = in_columns([head, None, *body, None, total], "<<<<>>")
        return "\n".join(lines + ([f"unused: {', '.join(self.unused)}"] if self.unused else []))

    def dot(self) -> str:
        """The graph in the language of Graphviz."""
        return graph_drawing.dot(self.nodes, self.edges)

    def svg(self) -> str:
        """The graph as a picture, with a legend, and tooltips on nodes and edges."""
        return graph_drawing.svg(self.nodes, self.edges)

    def plot(self) -> "Figure":
        """The same as a figure of matplotlib, without tooltips: what `fn.plot` draws."""
        from funcnet.inspect.graph_figure import draw_graph

        return draw_graph(self.nodes, self.edges)

    def _repr_svg_(self) -> str:
        return self.svg()


def graph(f: Callable[..., Any], *args: Any, depth: int = 0, fold: bool = True) -> Graph:
    """Draws the computation graph of a function, of its gradient, or of a compiled step.

    Nodes are the operations of `jax.make_jaxpr(f)(*args)` on which an output depends. What a
    function calls (`jit`, `custom_jvp`, `remat`, `scan`, `while`, `cond`) is one node, as is a
    layer of funcnet, or anything under a `jax.named_scope`; elementwise operations and moves that
    serve one other such node are drawn as part of it. `Graph.open` shows the inside of a node.

    Args:
        f: the function.
        *args: its arguments: trees of arrays or of `jax.ShapeDtypeStruct`s.
        depth: how many levels of called functions to show in place of the calls; loops and
            branches stay one node each.
        fold: whether layers and fused elementwise operations are one node each.

    Returns:
        The graph: `print` it, show it in a notebook, draw it with `fn.plot`, or take its `svg()`
        or `dot()`. FLOPs follow
        the rule of `funcnet.inspect.flops.flops`; bytes are of the arrays that a node reads and
        writes.

    Raises:
        TypeError: f is not callable, or `args` are not what it takes.
        ValueError: `depth` is no whole number, or below 0.
        Exception: whatever f raises.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> graph(lambda w, x: jnp.tanh(x @ w).sum(), jnp.ones((3, 2)), jnp.ones((8, 3)))
        node   operation    of    gives          FLOPs  bytes
        -----  -----------  ----  -------------  -----  -----
        w      input              float32[3, 2]      0    0 B
        x      input              float32[8, 3]      0    0 B
        %0     dot_general  x, w  float32[8, 2]     96  184 B
        %1     tanh         %0    float32[8, 2]     16  128 B
        %2     reduce_sum   %1    float32[]         16   68 B
        out    output       %2    float32[]          0    0 B
        -----  -----------  ----  -------------  -----  -----
        total                                      128  380 B
    """
    check_function(f, args)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise ValueError(
            f"`graph`: depth must be a whole number of levels, 0 or more, got {depth!r}. "
            "Give 99 to show all."
        )
    jaxpr, outputs = jax.make_jaxpr(f, return_shape=True)(*args)
    inner = unwrapped(jaxpr.jaxpr)
    inputs = dict(zip(inner.invars, leaf_names(f, args), strict=True))
    names = [f"out/{path}" if path else "out" for path in tree.paths(outputs)]
    return of_jaxpr(inner, inputs, dict(enumerate(names)), depth, fold)


def unwrapped(jaxpr: Any) -> Any:
    """The jaxpr that a function calls and does no more, as one under `jax.jit` does."""
    if len(jaxpr.eqns) == 1:
        (equation,) = jaxpr.eqns
        same = [*equation.invars, *equation.outvars] == [*jaxpr.invars, *jaxpr.outvars]
        if same and kind_of(equation) == "call":
            inner = bodies(equation)[0]
            return unwrapped(getattr(inner, "jaxpr", inner))
    return jaxpr


def of_jaxpr(
    jaxpr: Any, inputs: dict[Any, str], outputs: dict[int, str], depth: int, fold: bool = True
) -> Graph:
    """The graph of a jaxpr, whose inputs and outputs are named where names are known."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    given = [Value(v.aval, inputs.get(v, f"in{k}")) for k, v in enumerate(inner.invars)]
    items, results = flatten(jaxpr, given, depth)
    ends = [(outputs.get(k, f"out{k}"), value) for k, value in enumerate(results)]
    return make(live(items, results), given, ends, fold)


def opened(items: Sequence[Item]) -> Graph:
    """The graph of a group's operations, one level of scopes further in."""
    made = {id(value) for item in items for value in item.outs}
    used = {id(value) for item in items for value in item.ins}
    comes = {id(v): v for item in items for v in item.ins if id(v) not in made and not v.literal}
    given = [Value(v.aval, v.name or f"in{k}", v.constant) for k, v in enumerate(comes.values())]
    renamed = dict(zip(comes, given, strict=True))
    inner = [
        item._replace(
            ins=[renamed.get(id(v), v) for v in item.ins],
            scope=item.scope.partition("/")[2],
            layers=tuple((path.partition("/")[2], kind) for path, kind in item.layers),
        )
        for item in items
    ]
    ends = [v for item in items for v in item.outs if id(v) not in used or v.leaves]
    scoped = any(item.scope for item in inner)
    named = [(f"out{k}", v) for k, v in enumerate(ends)]
    return make(inner, given, named, fold=scoped)


def make(
    items: Sequence[Item], given: Sequence[Value], ends: Sequence[tuple[str, Value]], fold: bool
) -> Graph:
    """The graph of operations between the values given and those at the end."""
    groups = grouped(items, [value for _, value in ends]) if fold else [[item] for item in items]
    named = dict(pair for item in items for pair in item.layers)
    taken: set[str] = set()
    for value in given:
        value.name = unique(value.name, taken)
    names = {id(value): value.name for value in given}
    used = {id(v) for item in items for v in item.ins} | {id(v) for _, v in ends}
    nodes = [source(value) for value in given if id(value) in used]
    free = {id(v): v for item in items for v in item.ins if v.constant and id(v) not in names}
    for k, value in enumerate(free.values()):
        names[id(value)] = value.name = unique(f"const{k}", taken)
        nodes.append(source(value))
    edges: list[Edge] = []
    inside: dict[str, tuple[Item, ...]] = {}
    for k, group in enumerate(groups):
        name = f"%{k}"
        comes, goes = between(group, used_outside(group, items, ends))
        nodes.append(operation(name, group, comes, goes, names, named))
        edges += [Edge(names[id(v)], name, spec(v)) for v in comes if not v.literal]
        names.update({id(v): name for item in group for v in item.outs})
        if len(group) > 1 or bodies(group[0].equation):
            inside[name] = tuple(group)
    for name, value in ends:
        name = unique(name, taken)
        words = value.name if value.literal else names[id(value)]
        nodes.append(Node(name, "output", "output", (words,), (spec(value),), "", False, 0, 0, 0))
        edges += [] if value.literal else [Edge(words, name, spec(value))]
    unused = tuple(value.name for value in given if id(value) not in used)
    return Graph(tuple(nodes), tuple(edges), unused, inside)


def unique(name: str, taken: set[str]) -> str:
    """A name that no other node has, to which those that are taken are added.

    Example:
        >>> unique("out", {"out"})
        'out_2'
    """
    names = (f"{name}_{k}" if k > 1 else name for k in itertools.count(1))
    found = next(each for each in names if each not in taken)
    taken.add(found)
    return found


def source(value: Value) -> Node:
    """The node of an array that is not computed."""
    kind = "constant" if value.constant else "input"
    return Node(value.name, kind, kind, (), (spec(value),), "", False, 0, 0, 0)


def operation(
    name: str,
    group: Sequence[Item],
    comes: Sequence[Value],
    goes: Sequence[Value],
    names: dict[int, str],
    layers: dict[str, str],
) -> Node:
    """The node of a group of operations."""
    inputs = tuple(v.name if v.literal else names[id(v)] for v in comes)
    if len(group) > 1:  # the literals of a fused group are told when it is opened
        inputs = tuple(dict.fromkeys(names[id(v)] for v in comes if not v.literal))
    moved = sum(tree.nbytes(spec(v)) for v in (*comes, *goes) if not v.literal)
    work = flops(SimpleNamespace(eqns=[item.equation for item in group]))
    first = group[0]
    return Node(
        name, label_of(group, layers), kind_of_group(group, layers), inputs, tuple(map(spec, goes)),
        first.scope, first.backward, work, moved, len(group),
    )  # fmt: skip


def label_of(group: Sequence[Item], layers: dict[str, str]) -> str:
    """What a group does, in a word or two."""
    first, last = group[0], group[-1]
    scope = first.scope.partition("/")[0]
    if len(group) == 1:
        return f"{scope} {layers.get(scope, first.name)}" if scope else first.name
    if scope:
        words = f"{scope} {layers.get(scope, '')}".strip()
        return f"{words} backward" if first.backward else words
    counts = Counter(item.name for item in group if kind_of(item.equation) == "elementwise")
    several = list(counts) or [last.name]
    return f"{', '.join(several[:3])}{', ...' if several[3:] else ''} ({len(group)})"


def kind_of_group(group: Sequence[Item], layers: dict[str, str]) -> str:
    """The kind of a node that stands for a group."""
    if group[0].scope and (len(group) > 1 or group[0].scope in layers):
        return "layer"
    kinds = {kind_of(item.equation) for item in group}
    return (
        "elementwise" if len(group) > 1 and "elementwise" in kinds else kind_of(group[-1].equation)
    )


def spec(value: Value) -> Any:
    """The shape and dtype of a value."""
    return jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype)


def row(node: Node) -> tuple[str, ...]:
    """A node in words."""
    gives = listed([errors.describe(output) for output in node.outputs], 34)
    words = node.name, node.label, listed(node.inputs, 40), gives
    return (*words, f"{node.flops:,}", human(node.bytes))


def listed(words: Sequence[str], most: int) -> str:
    """As many words as there is room for, and how many more.

    Example:
        >>> listed(["one", "two", "three"], 8), listed(["one"], 2)
        ('one, two, 1 more', 'one')
    """
    for count in range(len(words), 0, -1):
        text = ", ".join(words[:count])
        if len(text) <= most or count == 1:
            rest = len(words) - count
            return f"{text}, {rest} more" if rest else text
    return ""


def check_function(f: Any, args: tuple[Any, ...]) -> None:
    """Raises unless f is a function that takes these arguments."""
    if not callable(f):
        raise TypeError(
            f"`graph`: f must be a function, got {errors.describe(f)}. "
            "Give the function first and its arguments after it; of a model take `model.apply`."
        )
    try:
        inspect.signature(f).bind(*args)
    except ValueError:  # a builtin tells no signature
        return
    except TypeError as error:
        raise TypeError(
            f"`graph`: args must be those that f takes, got {len(args)} for "
            f"f{inspect.signature(f)}: {error}. Give arrays, or `jax.ShapeDtypeStruct`s, for all."
        ) from None
