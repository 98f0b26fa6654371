"""`graph`: what it shows of a jaxpr, word for word, and that its pictures are well formed."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import funcnet as fn
from funcnet.inspect.flops import flops
from funcnet.inspect.graph_drawing import COLOURS
from funcnet.inspect.graphs import Graph, graph
from funcnet.inspect.layout import GAP, layout
from funcnet.inspect.operations import KINDS

X = jnp.ones((8, 4))
LABELS = jnp.arange(8) % 3
MODEL = fn.sequential(hidden=fn.dense(16), act=jax.nn.relu, out=fn.dense(3))
PARAMS, _ = MODEL.init(jax.random.key(0), X)
TRAINER = fn.Trainer(
    MODEL, loss=optax.losses.softmax_cross_entropy_with_integer_labels, optimizer=optax.sgd(0.1)
)


def forward(params, x):
    return MODEL.apply(params, {}, x)[0]


def loss(params, x):
    return jnp.square(forward(params, x)).mean()


def looped(x):
    return lax.scan(lambda c, _: (jnp.sin(c) * c, c.sum()), x, length=5)


def branched(x):
    return lax.cond(x.sum() > 0, lambda x: jnp.exp(x), lambda x: jnp.sin(x) + 1, x)


def until(x):
    return lax.while_loop(lambda c: c.sum() < 9, lambda c: c * 2, x)


@jax.custom_vjp
def clipped(x):
    return x * 2


clipped.defvjp(lambda x: (x * 2, x), lambda x, ct: (jnp.clip(ct, -1, 1),))


def noisy(key, x):
    return x + jax.random.normal(key, x.shape)


def sorted_and_indexed(x):
    return jnp.sort(x, axis=0)[0], x[jnp.array([0, 2])], {"same": x, "three": 3.0}


SPEC = jax.ShapeDtypeStruct((8, 4), jnp.float32)
STEP = (TRAINER.init(jax.random.key(0), X), (X, LABELS))
ROWS = {
    "forward": (forward, (PARAMS, X)),
    "gradient": (jax.grad(loss), (PARAMS, X)),
    "step": (TRAINER.step, STEP),
    "compiled step": (jax.jit(TRAINER.step), STEP),
    "hessian product": (lambda x: jax.jvp(jax.grad(lambda x: jnp.tanh(x).sum()), (x,), (x,)), (X,)),
    "scan": (looped, (SPEC,)),
    "cond": (branched, (SPEC,)),
    "while": (until, (SPEC,)),
    "custom_vjp": (jax.grad(lambda x: clipped(x).sum()), (X,)),
    "remat": (jax.grad(lambda x: jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)))(x).sum()), (X,)),
    "random": (noisy, (jax.random.key(0), X)),
    "indices": (sorted_and_indexed, (X,)),
    "vmap": (jax.vmap(lambda x: jnp.outer(x, x).sum()), (X,)),
    "constants": (lambda x: x @ np.ones((4, 2), np.float32), (X,)),
    "nothing in": (lambda: jnp.zeros(3) + 1, ()),
    "nothing out": (lambda x: None, (X,)),
}
EVERY = pytest.mark.parametrize("name", ROWS)


def made(name, **settings):
    f, args = ROWS[name]
    return graph(f, *args, **settings)


@EVERY
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("depth", [0, 9])
def test_nodes_stand_after_what_they_need(name, fold, depth):
    found = made(name, fold=fold, depth=depth)
    order = {node.name: k for k, node in enumerate(found.nodes)}
    assert len(order) == len(found.nodes)
    assert all(order[edge.source] < order[edge.target] for edge in found.edges)
    assert {node.kind for node in found.nodes} <= set(KINDS)


@EVERY
def test_folding_keeps_the_work(name):
    folded, flat = made(name), made(name, fold=False)
    assert folded.flops == flat.flops == made(name, depth=9).flops
    assert folded.bytes <= flat.bytes
    assert len(folded.nodes) <= len(flat.nodes)
    operations = [sum(node.operations for node in g.nodes) for g in (folded, flat)]
    assert operations[0] == operations[1]


@pytest.mark.parametrize("name", ["forward", "scan", "while", "random", "vmap"])
def test_the_total_is_that_of_the_jaxpr(name):
    f, args = ROWS[name]
    assert made(name).flops == flops(jax.make_jaxpr(f)(*args))


@EVERY
def test_the_picture_is_well_formed(name):
    found = made(name)
    page = ElementTree.fromstring(found.svg())
    space = "{http://www.w3.org/2000/svg}"
    boxes = [g for g in page.iter(f"{space}g") if g.get("class", "").startswith("node")]
    assert len(boxes) == len(found.nodes)
    lines = [path for path in page.iter(f"{space}path") if path.get("class") == "edge"]
    assert len(lines) == len({(edge.source, edge.target) for edge in found.edges})
    width = float(page.get("width"))
    for box in boxes:
        rect = box.find(f"{space}rect")
        assert float(rect.get("x")) >= 0
        assert float(rect.get("x")) + float(rect.get("width")) <= width
    assert found._repr_svg_() == found.svg()


NAME = r'"(?:[^"\\]|\\.)*"'
STATEMENT = re.compile(
    rf"  ({NAME}|node)(?: -> ({NAME}))? \[((?:\w+=(?:{NAME}|\w+) ?)+)\];", re.DOTALL
)


@EVERY
def test_dot_is_of_statements(name):
    found = made(name)
    first, *body, last = found.dot().splitlines()
    assert (first, last) == ("digraph {", "}")
    parsed = [STATEMENT.fullmatch(line) for line in body]
    assert all(parsed), [line for line, ok in zip(body, parsed, strict=True) if not ok]
    named = {match[1] for match in parsed if not match[2]} - {"node"}
    assert named == {f'"{node.name}"' for node in found.nodes}
    arrows = [match for match in parsed if match[2]]
    assert len(arrows) == len(found.edges)
    assert all({match[1], match[2]} <= named for match in arrows)


def test_names_are_escaped():
    name = 'a "b" <c> & \\d'
    found = graph(lambda tree: tree[name] + 1, {name: X})
    assert '"tree/a \\"b\\" <c> & \\\\d"' in found.dot()
    page = ElementTree.fromstring(found.svg())
    assert f"tree/{name}" in [t.text for t in page.iter("{http://www.w3.org/2000/svg}text")]


FORWARD = """\
node                  operation     of                                      gives           FLOPs   bytes
--------------------  ------------  --------------------------------------  --------------  -----  ------
params/hidden/bias    input                                                 float32[16]         0     0 B
params/hidden/kernel  input                                                 float32[4, 16]      0     0 B
params/out/bias       input                                                 float32[3]          0     0 B
params/out/kernel     input                                                 float32[16, 3]      0     0 B
x                     input                                                 float32[8, 4]       0     0 B
%0                    hidden dense  x, params/hidden/kernel, 1 more         float32[8, 16]  1,152   960 B
%1                    act relu      %0                                      float32[8, 16]    128  1.0 kB
%2                    out dense     %1, params/out/kernel, params/out/bias  float32[8, 3]     792   812 B
out                   output        %2                                      float32[8, 3]       0     0 B
--------------------  ------------  --------------------------------------  --------------  -----  ------
total                                                                                       2,072  2.8 kB"""  # noqa: E501


def test_the_table_word_for_word():
    assert str(made("forward")) == FORWARD


def test_a_gradient_goes_back_through_the_layers():
    labels = [node.label for node in made("gradient").nodes if node.kind == "layer"]
    layers = ["hidden dense", "act relu", "out dense"]
    assert labels == [*layers, *(f"{layer} backward" for layer in reversed(layers))]
    backward = [node.label for node in made("gradient").nodes if node.backward]
    assert set(labels[3:]) <= set(backward)
    assert not set(layers) & set(backward)


def test_a_compiled_step_is_the_step():
    assert str(made("compiled step")) == str(made("step"))
    nodes = {node.name: node for node in made("step").nodes}
    assert nodes["state/params/hidden/kernel"].kind == "input"
    assert nodes["out/0/params/hidden/kernel"].kind == "output"
    assert nodes["out/1/loss"].outputs[0].shape == ()


def test_a_layer_opens():
    inside = made("forward").open("hidden dense")
    assert [node.label for node in inside.nodes if node.operations] == [
        "dot_general",
        "reshape",
        "add",
    ]
    assert {node.name for node in inside.nodes} >= {"x", "params/hidden/kernel"}
    assert str(made("forward").open("%0")) == str(inside)


def test_layers_in_layers_open_one_by_one():
    model = fn.sequential(body=fn.sequential(fn.dense(4), jnp.tanh), head=fn.dense(2))
    params, _ = model.init(jax.random.key(0), X)
    found = graph(lambda params, x: model.apply(params, {}, x)[0], params, X)
    assert [node.label for node in found.nodes if node.kind == "layer"] == [
        "body sequential",
        "head dense",
    ]
    inside = found.open("body sequential")
    assert [n.label for n in inside.nodes if n.kind == "layer"] == ["0 dense", "1 tanh"]


def test_a_fused_group_opens():
    found = graph(lambda x: jnp.exp(jnp.sin(x) * 2).sum(), X)
    assert [node.label for node in found.nodes if node.operations] == [
        "sin, mul, exp (3)",
        "reduce_sum",
    ]
    inside = found.open("sin, mul, exp (3)")
    assert [node.label for node in inside.nodes if node.operations] == ["sin", "mul", "exp"]
    assert inside.nodes[2].inputs == ("%0", "2")


def test_what_two_need_is_not_fused():
    found = graph(lambda x: (jnp.sin(x).sum(), jnp.sin(x).max(), jnp.cos(jnp.tan(x))), X)
    labels = [node.label for node in found.nodes if node.operations]
    assert labels == ["sin", "reduce_sum", "sin", "reduce_max", "tan, cos (2)"]
    kept = graph(lambda x: ((y := jnp.sin(x)), jnp.exp(y)), X)
    assert [node.label for node in kept.nodes if node.operations] == ["sin", "exp"]


@pytest.mark.parametrize(
    ("name", "label", "body", "labels"),
    [("scan", "scan", 0, ["sin, mul (2)", "reduce_sum"]),
     ("cond", "cond", 0, ["sin, add (2)"]), ("cond", "cond", 1, ["exp"]),
     ("while", "while", 0, ["reduce_sum", "lt"]), ("while", "while", 1, ["mul"])],
)  # fmt: skip
def test_control_flow_opens(name, label, body, labels):
    found = made(name)
    assert {node.kind for node in found.nodes if node.label == label} == {"control"}
    inside = found.open(label, body)
    assert [node.label for node in inside.nodes if node.operations] == labels


def test_depth_shows_what_calls_hold():
    def f(x):
        return jax.jit(lambda y: jnp.dot(jax.nn.relu(y), y.T))(x)

    shown = [[n.label for n in graph(f, X, depth=k).nodes if n.operations] for k in range(3)]
    assert shown == [
        ["relu", "transpose", "dot_general"],
        ["relu", "transpose", "dot_general"],
        ["max", "transpose", "dot_general"],
    ]


def test_a_scan_counts_as_often_as_it_runs():
    (node,) = [node for node in made("scan").nodes if node.label == "scan"]
    assert node.flops == 5 * 3 * 32


def test_forward_and_backward_are_never_one_node():
    for name in ("gradient", "step"):
        for items in made(name).inside.values():
            assert len({item.backward for item in items}) == 1


def test_what_has_an_effect_stays():
    def f(x):
        jax.debug.print("{}", x.sum())
        return x * 2

    labels = [node.label for node in graph(f, X).nodes if node.operations]
    assert labels[0] == "reduce_sum"
    assert len(labels) == 3


def test_an_effect_that_gives_nothing_is_drawn():
    def f(x):
        jax.debug.print("{}", x)
        return 2 * x

    found = graph(f, jnp.ones(3))
    print_node = next(node for node in found.nodes if node.label == "debug_print")
    assert print_node.outputs == ()
    assert "no arrays" in found.dot()
    ElementTree.fromstring(found.svg())


def test_names_are_of_one_node_each():
    table = np.arange(3.0)
    found = graph(lambda out, const0: {"": out + table * const0}[""], jnp.ones(3), jnp.ones(3))
    assert [node.name for node in found.nodes] == ["out", "const0", "const0_2", "%0", "out_2"]
    assert {(edge.source, edge.target) for edge in found.edges} == {
        ("const0", "%0"), ("const0_2", "%0"), ("out", "%0"), ("%0", "out_2"),
    }  # fmt: skip
    unused = graph(lambda const0, x: x * table, 1.0, jnp.ones(3))
    assert [node.name for node in unused.nodes] == ["x", "const0_2", "%0", "out"]
    assert unused.unused == ("const0",)


def test_a_jit_around_a_jit_is_what_it_holds():
    assert str(graph(jax.jit(jax.jit(jnp.sin)), X)) == str(graph(lambda x: jnp.sin(x), X))


def test_dead_code_and_unused_inputs_are_left_out():
    def f(x, y):
        jnp.exp(x)
        return x * 2

    found = graph(f, X, X)
    assert [node.label for node in found.nodes] == ["input", "mul", "output"]
    assert found.unused == ("y",)
    assert str(found).endswith("\nunused: y")


def test_constants_are_nodes():
    kinds = [node.kind for node in made("constants").nodes]
    assert kinds == ["input", "constant", "matmul", "output"]


def test_every_kind_has_a_colour():
    assert set(COLOURS) == set(KINDS)


def test_boxes_do_not_overlap():
    widths = {f"n{k}": 20.0 + 7 * (k % 5) for k in range(40)}
    edges = [(f"n{a}", f"n{b}") for b in range(40) for a in range(b) if (a * 7 + b * 3) % 11 == 0]
    places, ways = layout(widths, edges)
    for layer in {place.layer for place in places.values()}:
        row = sorted((p.x, widths[n]) for n, p in places.items() if p.layer == layer)
        for (x, width), (other, other_width) in pairwise(row):
            assert other - x >= (width + other_width) / 2 + GAP - 1e-9
    for source, target in edges:
        way = [place.layer for place in ways[source, target]]
        assert way == list(range(places[source].layer, places[target].layer + 1))
        assert len(way) > 1


def test_the_layout_uncrosses_what_can_be():
    widths = dict.fromkeys(["a", "b", "c", "d", "e", "f"], 30.0)
    places, _ = layout(widths, [("a", "f"), ("b", "e"), ("c", "d")])
    assert all(
        (places[p].x - places[q].x) * (places[r].x - places[s].x) > 0
        for p, q, r, s in [("a", "b", "f", "e"), ("b", "c", "e", "d"), ("a", "c", "f", "d")]
    )


ERRORS = {
    "no function": (
        lambda: graph(MODEL), TypeError,
        "`graph`: f must be a function, got ",
        " Give the function first and its arguments after it; of a model take `model.apply`.",
    ),
    "missing": (
        lambda: graph(forward, PARAMS), TypeError,
        "`graph`: args must be those that f takes, got 1 for f(params, x): "
        "missing a required argument: 'x'. ",
        "Give arrays, or `jax.ShapeDtypeStruct`s, for all.",
    ),
    "no node": (
        lambda: made("scan").open("sin"), KeyError,
        "\"`Graph.open`: name must be one node that has operations inside, got 'sin': none. ",
        'Known are: %0 (scan)."',
    ),
    "depth": (
        lambda: graph(jnp.sin, 1.0, depth="all"), ValueError,
        "`graph`: depth must be a whole number of levels, 0 or more, got 'all'. ",
        "Give 99 to show all.",
    ),
    "negative depth": (
        lambda: graph(jnp.sin, 1.0, depth=-1), ValueError,
        "`graph`: depth must be a whole number of levels, 0 or more, got -1. ",
        "Give 99 to show all.",
    ),
    "two of one path": (
        lambda: graph(lambda p: p["a/b"], {"a/b": 1.0, "a": {"b": 2.0}}), ValueError,
        "`paths`: each leaf must have a path of its own, got 'a/b' twice. ",
        "Rename the key that has a '/' in it.",
    ),
    "several nodes": (
        lambda: made("gradient").open("twice"), KeyError,
        "\"`Graph.open`: name must be", "",
    ),
    "no body": (
        lambda: made("while").open("while", 2), ValueError,
        "`Graph.open`: 'while' must have a body 2, got 2 bodies. ",
        "Only layers, fused groups, calls, loops and branches can be opened.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    make, kind, start, end = ERRORS[name]
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)


def test_an_empty_graph():
    assert "total" in str(Graph((), ()))
    assert Graph((), ()).dot().startswith("digraph {")
    ElementTree.fromstring(Graph((), ()).svg())
