"""Laws of all metrics: what holds for every row of the table."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import metrics
from tests.metrics.table import ROWS, WEIGHTS

N = 24
every_row = pytest.mark.parametrize("name", ROWS)
every_weight = pytest.mark.parametrize("weigh", WEIGHTS.values(), ids=WEIGHTS)
few_weights = pytest.mark.parametrize("weigh", [WEIGHTS["none"], WEIGHTS["bfloat16"]])


@functools.cache
def compiled(name):
    """The functions of a row, each compiled once for all laws."""
    metric = ROWS[name].metric
    return metrics.Metric(metric.init, *map(jax.jit, metric[1:]))


def batch_of(name, weigh=WEIGHTS["none"], n=N):
    return (*ROWS[name].data(n), weigh(n))


def value(name, *batch):
    metric = compiled(name)
    return np.asarray(metric.compute(metric.update(metric.init(), *batch)))


def assert_same(name, actual, expected):
    """Exactly so where the sums are exact, else within 24 roundings of 6e-8 each."""
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    tolerance = 0 if ROWS[name].exact else 1.5e-6
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def rows(batch, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], batch)


def hidden(batch, kept):
    """The batch with NaN, or labels of 99, and weight 0 wherever it isn't kept."""

    def spoilt(leaf):
        leaf = np.asarray(leaf).copy()
        leaf[~kept] = np.nan if leaf.dtype.kind == "f" else 99
        return leaf

    y_pred, y, weight = batch
    weight = np.ones(N, np.int32) if weight is None else np.asarray(weight)
    return *jax.tree.map(spoilt, (y_pred, y)), np.where(kept, weight, np.zeros((), weight.dtype))


def parts(batch):
    """Three batches of N examples, of which 5, 10 and 9 are not padding."""
    return [hidden(batch, np.isin(np.arange(N), range(*ends)))
            for ends in itertools.pairwise([0, 5, 15, N])]  # fmt: skip


@every_row
@every_weight
def test_the_oracle(name, weigh):
    y_pred, y, weight = batch_of(name, weigh)
    found = value(name, y_pred, y, weight)
    weight = np.ones(N) if weight is None else np.asarray(weight, np.float64)
    expected = ROWS[name].oracle(*rows((y_pred, y, weight), weight > 0))
    # up to 24 roundings to float32, of 6e-8 each
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 if not ROWS[name].exact else 0)
    assert np.any(found != 0)
    assert np.any(found != 1)


@every_row
@few_weights
def test_partial_batches_add_up_to_the_whole(name, weigh):
    metric, batch = compiled(name), batch_of(name, weigh)
    whole = metric.compute(metric.update(metric.init(), *batch))
    cut = parts(batch)
    after = functools.reduce(lambda a, part: metric.update(a, *part), cut, metric.init())
    assert_same(name, metric.compute(after), whole)
    separate = [metric.update(metric.init(), *part) for part in cut]
    for order in itertools.permutations(separate):
        assert_same(name, metric.compute(functools.reduce(metric.merge, order)), whole)
    first, second, third = separate
    right = metric.merge(first, metric.merge(second, third))
    assert_same(name, metric.compute(right), whole)
    if ROWS[name].exact:
        chex.assert_trees_all_equal(after, metric.update(metric.init(), *batch), right)


@every_row
def test_nothing_changes_nothing(name):
    metric, batch = compiled(name), batch_of(name)
    whole = metric.update(metric.init(), *batch)
    nothing = metric.update(metric.init(), *hidden(batch, np.zeros(N, bool)))
    for empty in (metrics.zeros(metric, whole), nothing):
        chex.assert_trees_all_equal(metric.merge(empty, whole), whole)
        chex.assert_trees_all_equal(metric.merge(whole, empty), whole)
    chex.assert_trees_all_equal(ROWS[name].metric.merge(ROWS[name].metric.init(), whole), whole)


@every_row
def test_whole_weights_are_repetitions(name):
    batch = batch_of(name, WEIGHTS["uint8"])
    again = np.repeat(np.arange(N), batch[2])  # N of them
    assert_same(name, value(name, *batch), value(name, *rows(batch[:2], again), None))


@every_row
def test_vmap_agrees_with_jit(name):
    metric, batch = compiled(name), batch_of(name, WEIGHTS["uint8"])
    whole = value(name, *batch)
    groups = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(4, 6, *leaf.shape[1:]), batch)

    def of_group(group):
        state = ROWS[name].metric.update(ROWS[name].metric.init(), *group)
        return state, ROWS[name].metric.compute(state)

    each, values = jax.jit(jax.vmap(of_group))(groups)
    four = [jax.tree.map(lambda leaf, i=i: leaf[i], each) for i in range(4)]
    assert_same(name, metric.compute(functools.reduce(metric.merge, four)), whole)
    for i in range(4):
        assert_same(name, values[i], metric.compute(four[i]))


def loop(metric, carry, groups):
    """The accumulator after groups of examples, gathered in a scan."""
    return jax.lax.scan(lambda a, group: (metric.update(a, *group), None), carry, groups)[0]


@every_row
@pytest.mark.parametrize(
    ("weigh", "x64"),
    [(WEIGHTS["none"], False), (WEIGHTS["bfloat16"], False), (WEIGHTS["none"], True)],
)
def test_zeros_make_a_carry_of_stable_dtypes(name, weigh, x64):
    metric = ROWS[name].metric
    with jax.enable_x64(x64):
        batch = jax.tree.map(jnp.asarray, batch_of(name, weigh))
        contribution = jax.eval_shape(metric.update, metric.init(), *batch)
        carry = metrics.zeros(metric, contribution)
        assert not any(leaf.any() for leaf in jax.tree.leaves(carry))
        for zero, leaf in zip(*map(jax.tree.leaves, (metric.init(), contribution)), strict=True):
            counts = zero.dtype == "int32" and weigh(1) is None
            assert leaf.dtype.kind == ("i" if counts else "f")
            assert leaf.dtype.itemsize == 4 or (x64 and not counts)
        groups = jax.tree.map(lambda leaf: leaf.reshape(4, 6, *leaf.shape[1:]), batch)
        again = jax.eval_shape(functools.partial(loop, metric), carry, groups)
        chex.assert_trees_all_equal_shapes_and_dtypes(carry, contribution, again)
        assert not any(leaf.weak_type for leaf in jax.tree.leaves((carry, again)))


@every_row
def test_a_merge_keeps_the_dtypes_also_in_x64(name):
    metric = ROWS[name].metric
    state = jax.eval_shape(metric.update, metric.init(), *batch_of(name))
    with jax.enable_x64(True):
        chex.assert_trees_all_equal_dtypes(jax.eval_shape(metric.merge, state, state), state)


@every_row
def test_a_scan_agrees_with_the_whole(name):
    metric, batch = ROWS[name].metric, batch_of(name, WEIGHTS["uint8"])
    groups = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(4, 6, *leaf.shape[1:]), batch)
    carry = metrics.zeros(metric, jax.eval_shape(metric.update, metric.init(), *batch))
    again = jax.jit(functools.partial(loop, metric))(carry, groups)
    assert_same(name, compiled(name).compute(again), value(name, *batch))


@every_row
def test_the_first_weights_of_a_kind_fix_the_dtypes(name):
    metric = compiled(name)
    state = metric.update(metric.init(), *batch_of(name, WEIGHTS["uint8"]))
    state = metric.update(state, *batch_of(name, WEIGHTS["bfloat16"]))
    after = metric.update(state, *batch_of(name, WEIGHTS["uint8"]))
    chex.assert_trees_all_equal_dtypes(state, after)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}


def narrowed(name, dtype):
    y_pred, y, _ = batch_of(name)
    narrow = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype if leaf.dtype.kind == "f" else None), (y_pred, y)
    )
    return *narrow, jnp.ones(N, dtype)


@every_row
def test_half_precision_inputs_add_up_in_float32(name):
    metric = compiled(name)
    y_pred, y, _ = batch_of(name)
    state = metric.update(metric.init(), *narrowed(name, "bfloat16"))
    other = jax.eval_shape(metric.update, metric.init(), *narrowed(name, "float16"))
    assert {leaf.dtype for leaf in jax.tree.leaves((state, other))} == {jnp.dtype("float32")}
    assert_same(name, metric.compute(state), value(name, y_pred, y, None).astype(np.float32))


@every_row
def test_no_examples(name):
    metric = compiled(name)
    y_pred, y, _ = batch_of(name)
    empty = metric.update(metric.init(), *rows((y_pred, y), slice(0)))
    for result in (
        value(name, y_pred, y, np.zeros(N, np.uint8)),
        np.asarray(metric.compute(empty)),
        np.asarray(metric.compute(metric.init())),
    ):
        assert np.isnan(result) if result.ndim == 0 else not result.any()


@every_row
def test_one_trace_serves_all_batches(name):
    metric = ROWS[name].metric
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(metric.update, n=1))
    batch = batch_of(name, WEIGHTS["uint8"])
    state = metrics.zeros(metric, jax.eval_shape(metric.update, metric.init(), *batch))
    for _ in range(3):
        state = update(state, *batch)


def trainer_of(names, **settings):
    """A trainer whose model gives what it is given, with metrics of several outputs."""

    def on(name):
        return metrics.of(ROWS[name].metric, lambda y_pred, y: (y_pred[name], y[name]))

    return fn.Trainer(
        fn.stateless(lambda x: x),
        loss=lambda y_pred, y: jnp.zeros(N)[: len(jax.tree.leaves(y)[0])],
        optimizer=optax.sgd(0.1),
        metrics={name: on(name) for name in names},
        **settings,
    )


def columns_of(names, weigh):
    """`(x, y, weight)` with all the rows' predictions as x; NaN where the weight is 0."""
    weight = np.ones(N, np.int32) if weigh(N) is None else weigh(N).astype(np.int32)
    batches = {name: hidden(batch_of(name, weigh), weight > 0) for name in names}
    x, y = ({name: batch[i] for name, batch in batches.items()} for i in range(2))
    return x, y, weight


@functools.cache
def trainer_of_all():
    return trainer_of(ROWS)


@pytest.mark.parametrize("weigh", [WEIGHTS["none"], WEIGHTS["uint8"]])
def test_the_trainer_evaluates_them(weigh):
    trainer, columns = trainer_of_all(), columns_of(ROWS, weigh)
    state = trainer.init(jax.random.key(0), columns[0])
    if weigh(N) is None:
        columns = columns[:2]
    found = trainer.evaluate(state, columns, batch_size=10)  # 10, 10 and 4 of them
    for name in ROWS:
        expected = value(name, *batch_of(name, weigh))
        # the trainer merges in another order, and compiles all metrics into one program
        np.testing.assert_allclose(found[name], expected, rtol=1.5e-6, atol=1.5e-6, err_msg=name)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_trainer_gathers_them_while_it_fits(accumulate):
    names = ["r2 of outputs", "auc", "word error rate", "f1, macro"]
    trainer = trainer_of(names, accumulate=accumulate)
    x, y, _ = columns_of(names, WEIGHTS["none"])
    history = trainer.fit((x, y), epochs=2, batch_size=8).history  # whole batches
    for name in names:
        expected = value(name, *batch_of(name))
        np.testing.assert_allclose(history[name], [expected] * 2, rtol=1.5e-6, err_msg=name)
