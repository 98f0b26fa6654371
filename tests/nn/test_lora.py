"""Frozen and adapted models: what they compute, what learns, and how a change is merged."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.nn import frozen, lora, lora_merged
from funcnet.training import parts

KEY = jax.random.key(0)
LOSS = optax.losses.softmax_cross_entropy_with_integer_labels


def images():
    return fn.sequential(
        fn.conv(6, (3, 3)), fn.batch_norm(), jax.nn.relu, fn.flatten(), fn.dropout(0.5), fn.dense(4)
    )


ROWS = {
    "one layer": (lambda: fn.dense(3), (5, 4), {}),
    "images": (images, (5, 6, 6, 2), {}),
    "no axes of its own": (
        lambda: fn.as_model(lambda w, x: x @ w, init=lambda key, x: jnp.ones((x.shape[-1], 3))),
        (5, 4),
        {"patterns": "**"},
    ),
    "attention": (lambda: fn.attention(2), (2, 5, 8), {}),
    "bfloat16": (lambda: fn.dense(3), (5, 4), {"dtype": jnp.bfloat16}),
}
"""A model, the shape of its x, and the arguments of `lora`."""


def made(row, **more):
    make, shape, arguments = ROWS[row]
    arguments = dict(arguments)
    x = jax.random.normal(KEY, shape).astype(arguments.pop("dtype", jnp.float32))
    model = make()
    return model, lora(model, rank=2, **arguments, **more), x


def moved(params):
    """Params as a training might leave them."""
    return jax.tree.map(lambda p: p + 0.3 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)


@pytest.mark.parametrize("row", ROWS)
def test_at_first_nothing_changes_and_what_is_merged_computes_the_same(row):
    model, adapted, x = made(row)
    base, (params, model_state) = jax.jit(model.init)(KEY, x), jax.jit(adapted.init)(KEY, x)
    chex.assert_trees_all_equal((model_state["base"], model_state["state"]), base)
    plain, changed = (
        jax.jit(lambda *args, m=m: m.apply(*args, key=KEY, training=True)) for m in (model, adapted)
    )
    want, got = plain(*base, x), changed(params, model_state, x)
    chex.assert_trees_all_equal((got[0], got[1]["state"]), want)
    params = moved(params)
    y, after = changed(params, model_state, x)
    assert np.any(np.asarray(y) != np.asarray(want[0]))
    chex.assert_trees_all_equal(after["base"], base[0])
    merged = lora_merged(params, model_state)
    chex.assert_trees_all_equal_shapes_and_dtypes(merged, base)
    rounding = 4e-2 if x.dtype == jnp.bfloat16 else 1e-5  # fused with the sum, a product isn't cut
    chex.assert_trees_all_close(plain(*merged, x)[0], y, rtol=rounding, atol=rounding)


SHAPES = {
    "one layer": {"kernel/a": (4, 2), "kernel/b": (2, 3)},
    "images": {
        "0/kernel/a": (3, 3, 2, 2),
        "0/kernel/b": (2, 6),
        "5/kernel/a": (216, 2),
        "5/kernel/b": (2, 4),
    },
    "no axes of its own": {"a": (4, 2), "b": (2, 3)},
}


@pytest.mark.parametrize("row", SHAPES)
def test_factors_have_the_shapes_of_the_table(row):
    _, adapted, x = made(row)
    params, _ = adapted.init(KEY, x)
    assert {path: leaf.shape for path, leaf in fn.tree.paths(params).items()} == SHAPES[row]


def test_projections_of_attention_are_factored_behind_their_first_axis():
    adapted = lora(fn.attention(2), ("**/query/kernel", "out/kernel"), rank=2)
    params, model_state = adapted.init(KEY, jnp.ones((1, 5, 8)))
    assert {path: leaf.shape for path, leaf in fn.tree.paths(params).items()} == {
        "out/kernel/a": (2, 4, 2),
        "out/kernel/b": (2, 8),
        "query/kernel/a": (8, 2),
        "query/kernel/b": (2, 2, 4),
    }
    change = lora_merged(moved(params), model_state)[0]["query"]["kernel"]
    change = (change - model_state["base"]["query"]["kernel"]).reshape(8, 8)
    assert np.linalg.matrix_rank(change, tol=1e-5) == 2


def test_a_merged_kernel_is_the_equation():
    adapted = lora(fn.dense(3), rank=2, alpha=6.0)
    params, model_state = adapted.init(KEY, jnp.ones((5, 4)))
    a, b = (np.asarray(leaf, np.float64) for leaf in moved(params)["kernel"].values())
    want = np.asarray(model_state["base"]["kernel"]) + 6.0 / 2 * a @ b
    merged, _ = lora_merged(moved(params), model_state)
    np.testing.assert_allclose(merged["kernel"], want, rtol=1e-5)
    assert (
        abs(float(adapted.init(KEY, jnp.ones((5, 4096)))[0]["kernel"]["a"].std()) * 64 - 1) < 0.05
    )


def test_factors_alone_are_learnt_whatever_the_optimizer():
    x, y = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32), np.arange(64) % 3
    body = fn.sequential(fn.dense(8), jnp.tanh)
    base = body.init(jax.random.key(5), x)
    model = fn.sequential(body=lora(body, rank=2, start=base), head=fn.dense(3))
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    trainer = fn.Trainer(model, loss=LOSS, optimizer=optimizer)
    result = trainer.fit((x, y), epochs=10, batch_size=32, progress=False)
    last = result.last
    assert result.losses[-1] < result.losses[0]
    chex.assert_trees_all_equal(last.model_state["body"]["base"], base[0])
    assert fn.tree.size(last.params) == (8 * 2 + 2 * 8) + (8 * 3 + 3)
    assert fn.tree.size(last.opt_state) == 2 * fn.tree.size(last.params) + 1
    merged = lora_merged(last.params["body"], last.model_state["body"])
    plain = fn.sequential(body=body, head=fn.dense(3))
    y_plain, _ = plain.apply({"body": merged[0], "head": last.params["head"]}, {}, x)
    np.testing.assert_allclose(y_plain, trainer.predict(last, x), rtol=1e-5, atol=1e-5)


def test_blocks_are_adapted_and_merged_one_by_one():
    block = fn.sequential(fn.dense(4), jnp.tanh)
    stack = fn.layer_stack(lora(block, rank=2), 3)
    x = jnp.ones((5, 4))
    params, model_state = stack.init(KEY, x)
    params = moved(params)
    merged = jax.vmap(lora_merged)(params, model_state)
    y, _ = fn.layer_stack(block, 3).apply(*merged, x)
    np.testing.assert_allclose(y, stack.apply(params, model_state, x)[0], rtol=1e-6)


def test_alpha_may_be_traced():
    def scale(alpha):
        return lora(fn.dense(3), rank=4, alpha=alpha).init(KEY, jnp.ones((5, 4)))[1]["scale"]

    assert float(jax.jit(scale)(8.0)) == 2.0


def test_factors_are_saved_and_loaded_alone(tmp_path):
    _, adapted, x = made("images")
    params, _ = adapted.init(KEY, x)
    fn.checkpoint.save_weights(tmp_path / "factors.safetensors", moved(params))
    found = fn.checkpoint.load_weights(tmp_path / "factors.safetensors", like=params)
    chex.assert_trees_all_equal(found, moved(params))


# ------------------------------------------------------------------------------------- frozen


def test_what_is_frozen_computes_as_outside_training():
    model = images()
    x = jax.random.normal(KEY, (5, 6, 6, 2))
    params, model_state = model.init(KEY, x)
    want, _ = model.apply(params, model_state, x)

    def total(params, x):
        y, after = frozen(model).apply(params, model_state, x, key=KEY, training=True)
        return y.sum(), (y, after)

    grads, (y, after) = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
    chex.assert_trees_all_equal((y, after), (want, model_state))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads[0]))
    assert np.any(grads[1])


def test_what_is_frozen_stays_and_its_statistics_do():
    x, y = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype(np.float32), np.arange(32) % 3
    model = fn.sequential(body=frozen(images()), head=fn.dense(3))
    optimizer = parts({"head/**": optax.adamw(1e-2), "**": None})
    trainer = fn.Trainer(model, loss=LOSS, optimizer=optimizer)
    before = trainer.init(KEY, x)
    after = trainer.fit((x, y), epochs=2, batch_size=16, progress=False).last
    chex.assert_trees_all_equal(after.params["body"], before.params["body"])
    chex.assert_trees_all_equal(after.model_state, before.model_state)
    assert np.any(after.params["head"]["kernel"] != before.params["head"]["kernel"])


DENSE = fn.dense(3)
X = jnp.ones((5, 4))

MISTAKES = {
    "rank": (lambda: lora(DENSE, rank=0), "`lora`: rank must be a positive whole number, got 0."),
    "alpha": (lambda: lora(DENSE, alpha=-1), "`lora`: alpha must be a positive number, got -1."),
    "patterns": (lambda: lora(DENSE, 8), "`lora`: patterns must be path patterns, got 8. Say"),
    "no pattern": (lambda: lora(DENSE, ()), r"`lora`: patterns must be path patterns, got \(\)."),
    "frozen": (
        lambda: lora(frozen(DENSE)),
        "`lora`: gradients must reach the kernels, got a model of `fn.frozen`. Leave that out",
    ),
    "no layer": (lambda: lora(3), "`lora`: a layer must be a funcnet model or a function x -> y"),
    "frozen no layer": (lambda: frozen(3), "`frozen`: a layer must be a funcnet model or a"),
    "misspelt": (
        lambda: lora(DENSE, "kernle").init(KEY, X),
        "`lora`: a pattern must match some path of params, got 'kernle'. Did you mean 'kernel'",
    ),
    "a bias": (
        lambda: lora(DENSE, "**").init(KEY, X),
        r"`lora`: patterns must match kernels of two axes or more, got bias: float32\[3\].",
    ),
    "start of another kind": (
        lambda: lora(DENSE, start={"kernel": X}).init(KEY, X),
        r"`lora`: start must be a fn.TrainState, or a pair \(params, model_state\), got {'kernel'",
    ),
    "start of another model": (
        lambda: lora(DENSE, start=fn.dense(2).init(KEY, X)).init(KEY, X),
        r"`lora`: start must have the params and model_state of the model, got\n  params/bias: exp",
    ),
    "merged": (
        lambda: lora_merged({}, {"body": {}}),
        "`lora_merged`: model_state must be that of a `fn.lora` model, with base, scale and state, "
        r"got \['body'\].",
    ),
    "merged with another's": (
        lambda: lora_merged({"kernle": {"a": X, "b": X}}, lora(DENSE).init(KEY, X)[1]),
        "`lora_merged`: params must be factors of kernels of the base, got 'kernle'. Did you mean",
    ),
}


@pytest.mark.parametrize(("mistake", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(mistake, words):
    with pytest.raises((TypeError, ValueError), match=words):
        mistake()
