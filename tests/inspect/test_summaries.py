"""`summary`: rows against models written out by hand, its table, and that nothing is computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import funcnet as fn
from funcnet import tree
from funcnet.tables import human


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = checkpoint_name(nn.Dense(3)(x), "hidden")
        return nn.BatchNorm(use_running_average=not train)(x)


def small():
    """A nested model whose every number is in `EXPECTED`."""
    return fn.sequential(
        encoder=fn.sequential(fn.conv(4, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),
        pool=fn.global_avg_pool(),
        body=fn.layer_stack(fn.sequential(fn.dense(4), jnp.tanh), 3),
        around=fn.residual(fn.dense(4)),
        head=fn.branches(a=fn.dense(2), b=jnp.sin),
    )


CONV = 2 * (8 * 6 * 6 * 4) * 9 + 8 * 6 * 6 * 4  # products, then the bias
RELU, POOL, MEAN = 8 * 6 * 6 * 4, 8 * 6 * 6 * 4, 8 * 3 * 3 * 4 + 8 * 4
DENSE = 2 * (8 * 4) * 4 + 8 * 4
EXPECTED = [
    ("encoder", "sequential", (8, 3, 3, 4), 40, CONV + RELU + POOL),
    ("encoder/0", "conv", (8, 6, 6, 4), 40, CONV),
    ("encoder/1", "relu", (8, 6, 6, 4), 0, RELU),
    ("encoder/2", "max_pool", (8, 3, 3, 4), 0, POOL),
    ("pool", "global_avg_pool", (8, 4), 0, MEAN),
    ("body", "layer_stack", (8, 4), 60, 3 * (DENSE + 32)),
    ("body/0", "dense", (8, 4), 60, 3 * DENSE),
    ("body/1", "tanh", (8, 4), 0, 3 * 32),
    ("around", "residual", (8, 4), 20, DENSE + 32),
    ("around/block", "dense", (8, 4), 20, DENSE),
    ("around/shortcut", "<lambda>", (8, 4), 0, 0),
    ("head", "branches", ((8, 2), (8, 4)), 10, 2 * (8 * 2) * 4 + 16 + 32),
    ("head/a", "dense", (8, 2), 10, 2 * (8 * 2) * 4 + 16),
    ("head/b", "sin", (8, 4), 0, 32),
]


def shapes(output):
    return tuple(each.shape for each in output) if isinstance(output, tuple) else output.shape


def test_rows_are_those_written_by_hand():
    found = fn.summary(small(), spec(8, 6, 6, 1))
    assert [
        (row.path, row.kind, shapes(row.output), row.params, row.flops) for row in found.rows
    ] == EXPECTED
    assert [row.bytes for row in found.rows] == [4 * row.params for row in found.rows]
    assert found.total[:2] == ("", "sequential")
    assert jax.tree.map(jnp.shape, found.total.output) == {"a": (8, 2), "b": (8, 4)}
    outer = [row for row in found.rows if "/" not in row.path]
    assert found.total.params == sum(row.params for row in outer) == 130
    assert found.total.flops == sum(row.flops for row in outer)


def test_totals_are_those_of_the_real_arrays():
    x = jnp.ones((2, 6, 6, 1), jnp.bfloat16)
    model = fn.sequential(fn.conv(4, (3, 3)), fn.batch_norm(), fn.flatten(), fn.dense(3))
    params, model_state = model.init(jax.random.key(0), x)
    found = fn.summary(model, x)
    assert found.total.params == tree.size(params)
    assert found.total.bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert found.state_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(model_state)) > 0
    assert found.total.output.dtype == jnp.bfloat16


ONE_ROW = {
    "a bare layer": (fn.dense(3), spec(2, 4), "", "dense", 15),
    "no params": (fn.stateless(jnp.sin), spec(2, 4), "", "sin", 0),
    "a bare guest": (fn.as_model(Net()), spec(2, 4), "", "Net", 21),
    "a guest inside": (fn.sequential(net=fn.as_model(Net())), spec(2, 4), "net", "Net", 21),
    "a function that names": (
        fn.stateless(lambda x: checkpoint_name(x, "own")), spec(2, 4), "", "<lambda>", 0,
    ),
    "a function with params": (
        fn.as_model(lambda p, x: p * x, init=lambda key, x: jnp.ones((1, 4))), spec(2, 4),
        "", "<lambda>", 4,
    ),
    "one array as params": (
        fn.sequential(a=fn.as_model(lambda p, x: p * x, init=lambda key, x: jnp.ones((1, 4)))),
        spec(2, 4), "a", "<lambda>", 4,
    ),
    "a tuple in": (fn.sequential(lambda xs: xs[0]), (spec(2, 4), spec(2)), "0", "<lambda>", 0),
    "tokens": (fn.sequential(fn.embedding(9, 4)), np.zeros((2, 5), int), "0", "embedding", 36),
}  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("model", "x", "path", "kind", "params"), ONE_ROW.values(), ids=ONE_ROW)
def test_models_of_one_row(model, x, path, kind, params, training):
    found = fn.summary(model, x, training=training)
    (row,) = found.rows
    assert (row.path, row.kind, row.params) == (path, kind, params)
    assert row.params == found.total.params
    assert row.flops == found.total.flops
    assert row.output == found.total.output


def test_a_layer_applied_twice_is_one_row_of_twice_the_work():
    once = fn.sequential(fn.dense(4))

    def init(key, x):
        return once.init(key, x)

    def apply(params, model_state, x, *, key=None, training=None):
        y, _ = once.apply(params, model_state, x)
        return once.apply(params, model_state, jnp.tanh(y))

    (row,) = fn.summary(fn.Model(init, apply), spec(8, 4)).rows
    assert (row.path, row.params, row.flops) == ("0", 20, 2 * DENSE)


def test_training_shows_the_forward_pass_of_training():
    model = fn.sequential(fn.dropout(0.5))
    assert fn.summary(model, spec(8, 4)).total.flops == 0
    assert fn.summary(model, spec(8, 4), training=True).total.flops >= 8 * 4


def test_nothing_is_computed():
    terabytes = fn.sequential(fn.dense(10**6), fn.dense(10**6))
    found = fn.summary(terabytes, spec(10**6, 10**6))
    assert found.total.params == 2 * (10**12 + 10**6)
    assert human(found.total.bytes) == "8.0 TB"


TABLE = """\
layer   kind        output                         params  bytes   FLOPs
------  ----------  -----------------------------  ------  -----  ------
body    sequential  float32[32, 8]                    240  960 B  15,120
body/0  dense       float32[32, 8]                    224  896 B  14,080
body/1  batch_norm  float32[32, 8]                     16   64 B   1,040
head    <lambda>    (float32[32, 8], float32[32])       0    0 B       0
------  ----------  -----------------------------  ------  -----  ------
total   sequential  (float32[32, 8], float32[32])     240  960 B  15,120
model_state: 64 B"""


def test_the_table_word_for_word():
    body = fn.sequential(fn.dense(8), fn.batch_norm())
    model = fn.sequential(body=body, head=lambda x: (x, x[:, 0]))
    assert str(fn.summary(model, spec(32, 27))) == TABLE


def test_a_model_without_state_has_no_line_on_it():
    assert "model_state" not in str(fn.summary(fn.dense(3), spec(8, 4)))


def test_html_escapes_kinds_and_has_a_row_for_each():
    found = fn.summary(fn.sequential(fn.batch_norm(), lambda x: x), spec(8, 4))
    page = found._repr_html_()
    assert "&lt;lambda&gt;" in page
    assert "<lambda>" not in page
    assert page.count("<tr>") == len(found.rows) + 2
    assert "<p>model_state: 32 B</p>" in page


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
     (2_500_000_000, "2.5 GB"), (10**16, "10,000.0 TB")],
)  # fmt: skip
def test_human(number, words):
    assert human(number) == words


@pytest.mark.parametrize(
    ("x", "got"),
    [
        ("abc", "got 'abc'. Give"),
        (3.0, "got 3.0. Give"),
        (None, "got None. Give"),
        ((), r"got \(\). Give"),
        ([[1.0, 2.0]], "got 0/0: 1.0, 0/1: 2.0. Give"),
        ([1] * 9, "got 0: 1, 1: 1, 2: 1, 3: 1, .... Give"),
        ({"a": np.ones(2), "b": "x"}, "got b: 'x'. Give"),
        (np.array(["a"]), r"got array\(\['a'\], dtype='<U1'\). Give"),
    ],
)
def test_x_must_be_made_of_arrays(x, got):
    with pytest.raises(TypeError, match=f"^`summary`: x must be a batch of arrays .* {got} some"):
        fn.summary(fn.dense(3), x)


def test_model_must_be_one():
    with pytest.raises(TypeError, match=r"^`summary`: model must be a funcnet .*as_model"):
        fn.summary(jnp.sin, spec(2))


def test_an_error_of_a_layer_keeps_its_words_and_notes():
    model = fn.sequential(fn.flatten(), fn.conv(3, (3, 3)))
    with pytest.raises(ValueError, match=r"^`conv`: x must have the axes") as caught:
        fn.summary(model, np.ones((2, 4, 3)))
    notes = " ".join(caught.value.__notes__)
    assert "in layer '1' (conv) of `sequential`: float32[2, 12]" in notes
    assert "in `summary`, for x = float32[2, 4, 3]" in notes
