"""Laws that every layer obeys: each law once, over the rows of `tests/models.py`."""

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.test_util import check_grads

import funcnet as fn
from tests.autodiff.test_every_function import LEFT_OUT
from tests.models import ROWS, example

EVERY = [pytest.param(row, id=name) for name, row in ROWS.items()]
QUIET = [pytest.param(row, id=name) for name, row in ROWS.items() if not (row.noisy or row.batch)]
NOISY = [pytest.param(row, id=name) for name, row in ROWS.items() if row.noisy]


def ready(row, dtype=jnp.float32):
    model, x = row.make(), example(row, dtype)
    return model, *model.init(jax.random.key(0), x), x


@pytest.mark.parametrize("row", EVERY)
def test_init_needs_only_the_shape(row):
    model, params, model_state, x = ready(row)
    other = model.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype))
    chex.assert_trees_all_equal((params, model_state), other)


@pytest.mark.parametrize("row", EVERY)
@pytest.mark.parametrize("training", [False, True])
def test_jit_agrees_with_eager(row, training):
    model, params, model_state, x = ready(row)
    key = jax.random.key(2)

    def apply(params, model_state, x):
        return model.apply(params, model_state, x, key=key, training=training)

    chex.clear_trace_counter()
    once = jax.jit(chex.assert_max_traces(apply, n=1))
    once(params, model_state, 2 * x)
    eager, jitted = (f(params, model_state, x) for f in (apply, once))
    chex.assert_trees_all_close(eager, jitted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("row", EVERY)
def test_inference_leaves_the_state_alone_and_training_keeps_its_form(row):
    model, params, model_state, x = ready(row)
    _, same = model.apply(params, model_state, x)
    chex.assert_trees_all_equal(model_state, same)
    _, after = model.apply(params, model_state, x, key=jax.random.key(3))
    chex.assert_trees_all_equal_shapes_and_dtypes(model_state, after)


@pytest.mark.parametrize("row", EVERY)
def test_each_example_alone_gives_the_batch_at_inference(row):
    model, params, model_state, x = ready(row)
    y, _ = model.apply(params, model_state, x)
    alone = jax.vmap(lambda one: model.apply(params, model_state, one[None])[0])(x)
    chex.assert_trees_all_close(
        y, jax.tree.map(lambda leaf: leaf[:, 0], alone), atol=2e-6, rtol=2e-5
    )


@pytest.mark.parametrize("row", NOISY)
def test_noise_comes_from_the_key_alone(row):
    model, params, model_state, x = ready(row)

    def run(seed):
        return model.apply(params, model_state, x, key=jax.random.key(seed))[0]

    chex.assert_trees_all_equal(run(5), run(5))
    assert not all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), run(5), run(6))))


@pytest.mark.parametrize("row", EVERY)
def test_training_none_means_that_there_is_a_key(row):
    model, params, model_state, x = ready(row)
    key = jax.random.key(4)
    with_key = model.apply(params, model_state, x, key=key)
    chex.assert_trees_all_equal(
        with_key, model.apply(params, model_state, x, key=key, training=True)
    )
    chex.assert_trees_all_equal(
        model.apply(params, model_state, x),
        model.apply(params, model_state, x, key=key, training=False),
    )


@pytest.mark.parametrize("row", [p for p in EVERY if p.values[0].narrow])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_is_kept(row, dtype):
    model, params, model_state, x = ready(row, dtype)
    y, _ = model.apply(params, model_state, x, key=jax.random.key(1))
    assert {leaf.dtype for leaf in jax.tree.leaves((y, params))} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("row", [p for p in EVERY if p.id in LEFT_OUT and not p.values[0].integer])
def test_derivatives_in_both_modes(row, x64):
    """Of the rows that the law of tests/autodiff, which is stricter, leaves out."""
    model, params, model_state, x = ready(row, jnp.float64)
    if "linen" in str(type(model)) or row.make is ROWS["linen"].make:
        params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, x))

    def f(params, x):
        y = model.apply(params, model_state, x, key=jax.random.key(1))[0]
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(y))

    check_grads(f, (params, x), order=1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row", [p for p in QUIET if not p.values[0].integer])
def test_vmap_over_stacked_keywords(row):
    model, params, model_state, x = ready(row)
    keys = jax.random.split(jax.random.key(7), 3)
    stacked = jnp.stack([x, 2 * x, 3 * x])
    mapped = jax.vmap(lambda x, key: model.apply(params, model_state, x, key=key)[0])(stacked, keys)
    first = model.apply(params, model_state, x, key=keys[0])[0]
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[0], mapped), first, atol=2e-6, rtol=2e-5)


def test_compile_time_of_a_stack_does_not_grow_with_its_depth():
    def equations(n):
        model = fn.layer_stack(fn.sequential(fn.dense(4), jnp.tanh), n)
        x = jnp.ones((2, 4))
        params, model_state = model.init(jax.random.key(0), x)
        return str(jax.make_jaxpr(model.apply)(params, model_state, x)).count("\n")

    assert equations(2) == equations(50)


def test_a_stack_equals_its_blocks_in_a_row():
    block = fn.sequential(fn.dense(4), jnp.tanh)
    x = jnp.linspace(-1, 1, 8).reshape(2, 4)
    params, model_state = fn.layer_stack(block, 3).init(jax.random.key(0), x)
    y, _ = fn.layer_stack(block, 3).apply(params, model_state, x)
    z = x
    for k in range(3):
        z, _ = block.apply(jax.tree.map(lambda leaf, k=k: leaf[k], params), {}, z)
    # two programs, whose sums of four products may be in another order, three layers deep: one
    # rounding (6e-8) of each partial sum, of numbers around 1, against results down to 3e-3
    chex.assert_trees_all_close(y, z, rtol=1e-6, atol=3 * 4 * 6e-8)


def test_names_and_numbers_of_a_row():
    x = jnp.ones((2, 3))
    numbered = fn.sequential(fn.dense(4), jnp.tanh, fn.batch_norm())
    named = fn.sequential(hidden=fn.dense(4), act=jnp.tanh, norm=fn.batch_norm())
    params, model_state = numbered.init(jax.random.key(0), x)
    assert (list(params), list(model_state)) == (["0", "2"], ["2"])
    other, other_state = named.init(jax.random.key(0), x)
    assert (list(other), list(other_state)) == (["hidden", "norm"], ["norm"])
    chex.assert_trees_all_equal(params["0"], other["hidden"])


def test_a_traced_rate_does_not_retrace():
    x = jnp.ones((8, 32))
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def kept(rate):
        return (fn.dropout(rate).apply({}, {}, x, key=jax.random.key(0))[0] > 0).mean()

    assert [round(float(kept(rate)), 1) for rate in (0.1, 0.5, 0.9)] == [0.9, 0.5, 0.1]


def test_rows_of_weight_0_leave_no_trace_in_batch_norm():
    model = fn.batch_norm()
    x = jnp.array([[1.0, 2.0], [3.0, 6.0], [jnp.nan, 99.0]])
    params, model_state = model.init(jax.random.key(0), x)
    weight = jnp.array([1.0, 1.0, 0.0])
    y, after = model.apply(params, model_state, (x, weight), training=True)
    want, want_after = model.apply(params, model_state, x[:2], training=True)
    chex.assert_trees_all_close(y[:2], want)
    chex.assert_trees_all_close(after, want_after)
