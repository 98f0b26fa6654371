"""Parts by path: what is frozen costs nothing and stays; what waits begins when it should."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.nn import frozen
from funcnet.stopping import Reason
from funcnet.training import after_epoch, from_epoch, from_step, guard_of, guarded, parts
from tests.training.test_laws import CROSS_ENTROPY, data, digest

KEY = jax.random.key(0)
PARAMS = {
    "body": {"0": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "1": {"kernel": jnp.ones(4)}},
    "head": {"kernel": jnp.full((4, 2), 2.0), "bias": jnp.zeros(2)},
}


def wide(freeze=False):
    body = fn.sequential(*[layer for _ in range(3) for layer in (fn.dense(64), jnp.tanh)])
    return fn.sequential(body=frozen(body) if freeze else body, head=fn.dense(3))


def small():
    return fn.sequential(body=fn.dense(4), act=jnp.tanh, head=fn.dense(3))


def trainer_of(optimizer, model=None):
    return fn.Trainer(model or small(), loss=CROSS_ENTROPY, optimizer=optimizer)


def test_each_part_is_updated_as_its_optimizer_alone_would():
    grads = jax.tree.map(lambda p: 3 * p + 1, PARAMS)
    optimizer = parts(
        {
            "**/bias": optax.sgd(0.1),
            "head/**": optax.adamw(1e-2),
            "**": optax.sgd(0.5, momentum=0.9),
        }
    )
    opt_state = optimizer.init(PARAMS)
    updates, _ = optimizer.update(grads, opt_state, PARAMS)
    flat, flat_grads = fn.tree.paths(PARAMS), fn.tree.paths(grads)
    for path, update in fn.tree.paths(updates).items():
        alone = (
            optax.sgd(0.1)
            if path.endswith("bias")
            else optax.adamw(1e-2)
            if path.startswith("head")
            else optax.sgd(0.5, momentum=0.9)
        )
        want, _ = alone.update(flat_grads[path], alone.init(flat[path]), flat[path])
        np.testing.assert_array_equal(update, want, err_msg=path)


def test_what_is_frozen_has_no_memory_and_no_decay_and_stays_bit_for_bit():
    x, y = data(40)
    optimizer = parts({"head/**": optax.adamw(1e-2, weight_decay=0.5), "**": None})
    trainer = trainer_of(optimizer)
    before = trainer.init(KEY, x)
    result = trainer.fit((x, y), epochs=2, batch_size=20, progress=False)
    assert digest(result.last.params["body"]) == digest(before.params["body"])
    assert digest(result.last.params["head"]) != digest(before.params["head"])
    head = fn.tree.size(before.params["head"])
    assert fn.tree.size(before.opt_state) == 2 * head + 1  # Adam's moments and its count
    updates, _ = optimizer.update(before.params, before.opt_state, before.params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates["body"]))


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_what_is_frozen_are_not_computed(weighted):
    x, y = np.ones((32, 64), np.float32), np.arange(32) % 3
    batch = (x, y, np.ones(32, np.float32)) if weighted else (x, y)
    head = parts({"head/**": optax.adam(1e-2), "**": None})
    inside = parts({"head/**": guarded(optax.adam(1e-2)), "**": None})

    def flops(optimizer, freeze=False):
        trainer = trainer_of(optimizer, wide(freeze))
        state = trainer.init(KEY, x)
        return jax.jit(trainer.step).lower(state, batch).compile().cost_analysis()["flops"]

    one_pass = 2 * 32 * 3 * 64 * 64  # the products of the body, forwards
    assert flops(optax.adam(1e-2)) > 2.9 * one_pass
    assert flops(head) < 1.2 * one_pass
    if weighted:
        return
    assert flops(inside) < 1.2 * one_pass
    assert flops(guarded(head)) > 2.8 * one_pass  # the guard looks at all gradients
    assert flops(guarded(head), freeze=True) < 1.4 * one_pass


@pytest.mark.parametrize("other", [optax.sgd(0.1), guarded(optax.sgd(0.1))])
def test_a_guard_within_a_part_stops_the_fit_where_its_part_broke(other):
    x, y = data(40)
    to_infinity = guarded(optax.scale(np.inf), patience=2)
    optimizer = parts({"head/bias": other, "body/**": other, "head/kernel": to_infinity})
    result = trainer_of(optimizer).fit((x, y), epochs=2, batch_size=10, seed=0, progress=False)
    assert result.reason == Reason.NON_FINITE
    assert "what the optimizer made of finite gradients was not" in result.message
    assert len(result.losses) == int(result.last.step) == 1
    frozen = trainer_of(parts({"head/kernel": None, "**": optax.sgd(0.1)}))
    alone = frozen.fit((x, y), steps=1, batch_size=10, seed=0, progress=False)
    assert digest(result.last.params) == digest(alone.last.params)


def test_a_guard_within_a_part_names_the_param_and_a_second_fit_counts_anew():
    x, y = data(20)
    spoilt = np.where(np.arange(20)[:, None] < 10, x, np.nan)
    trainer = trainer_of(parts({"head/**": guarded(optax.sgd(0.1), patience=1), "**": None}))
    settings = {"batch_size": 10, "shuffle": False, "progress": False}
    broken = trainer.fit((spoilt, y), **settings)
    assert "the gradient of head/bias was not finite, or too large" in broken.message
    again = trainer.fit((x, y), epochs=3, state=broken.last, **settings)
    assert again.reason == Reason.EPOCHS
    assert int(guard_of(again.last.opt_state).skipped) == 1


def test_rates_may_be_traced():
    x, y = data(40)

    def make_trainer(chosen):
        return trainer_of(
            parts({"head/**": optax.adam(chosen["head"]), "**": optax.adam(chosen["body"])})
        )

    run = fn.make_run(make_trainer, epochs=1, batch_size=20)
    found = run(KEY, (x, y), {"head": 1e-2, "body": 0.0}).last.params
    first = make_trainer({"head": 0.0, "body": 0.0}).init(KEY, x).params
    chex.assert_trees_all_equal(found["body"], first["body"])
    assert np.any(found["head"]["kernel"] != first["head"]["kernel"])


def test_a_part_may_search_along_lines():
    def value_fn(params):
        return optax.tree.norm(params, squared=True)

    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=8, decrease_factor=0.5)
    optimizer = parts({"head/**": optax.chain(optax.sgd(1.0), search), "**": None})

    @jax.jit
    def step(params):
        value, grad = jax.value_and_grad(value_fn)(params)
        settings = {"value": value, "grad": grad, "value_fn": value_fn}
        updates, _ = optimizer.update(grad, optimizer.init(params), params, **settings)
        return optax.apply_updates(params, updates)

    after = step(PARAMS)
    chex.assert_trees_all_close(after["head"], jax.tree.map(jnp.zeros_like, PARAMS["head"]))
    chex.assert_trees_all_equal(after["body"], PARAMS["body"])


def moves(optimizer, epochs=4, steps=3):
    """Whether params move at each of 3 steps in 4 epochs."""
    opt_state = optimizer.init(PARAMS)

    def epoch(opt_state, _):
        def step(opt_state, _):
            updates, opt_state = optimizer.update(PARAMS, opt_state, PARAMS)
            return opt_state, jnp.any(updates["body"]["1"]["kernel"] != 0)

        opt_state, moved = jax.lax.scan(step, opt_state, length=steps)
        return after_epoch(opt_state, {}), moved

    opt_state, moved = jax.lax.scan(epoch, opt_state, length=epochs)
    return np.flatnonzero(moved), opt_state


@pytest.mark.parametrize(
    ("optimizer", "first"),
    [
        (from_step(0, optax.adam(0.1)), 0),
        (from_step(5, optax.adam(0.1)), 5),
        (from_step(jnp.int32(5), optax.adam(0.1)), 5),
        (from_step(99, optax.adam(0.1)), 12),
        (from_epoch(2, optax.adam(0.1)), 6),
        (parts({"body/**": guarded(from_epoch(1, optax.adam(0.1))), "**": None}), 3),
    ],
)
def test_what_waits_begins_with_a_memory_that_has_not_moved(optimizer, first):
    moved, opt_state = moves(optimizer)
    np.testing.assert_array_equal(moved, np.arange(first, 12))
    assert int(optax.tree.get(opt_state, "count")) == 12 - first


def same(one, other):
    one, other = (state._replace(key=jax.random.key_data(state.key)) for state in (one, other))
    chex.assert_trees_all_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_fit_and_a_run_unfreeze_at_an_epoch():
    x, y = data(40)
    trainer = trainer_of(parts({"head/**": optax.sgd(0.1), "**": from_epoch(1, optax.sgd(0.1))}))
    before = trainer.init(KEY, x).params["body"]
    for epochs in (1, 2):
        settings = {"epochs": epochs, "batch_size": 20}
        result = trainer.fit((x, y), **settings, progress=False)
        assert (digest(result.last.params["body"]) == digest(before)) == (epochs == 1)
    run = fn.make_run(trainer, **settings)(KEY, (x, y))
    same(run.last, result.last)


def test_a_second_fit_begins_from_the_first_ones_params(tmp_path):
    """The oracle is a run with the same start; the optimizer's memory is new, the step 0."""
    x, y = data(40)
    first = trainer_of(parts({"head/**": optax.adam(1e-2), "**": None}))
    begun = first.fit((x, y), epochs=1, batch_size=20, progress=False).best
    second = dataclasses.replace(first, optimizer=fn.ema(optax.adam(1e-3), 0.5))
    settings = {"batch_size": 20, "epochs": 2}
    result = second.fit((x, y), **settings, start=begun, progress=False)
    run = fn.make_run(second, **settings)
    for start in (begun, (begun.params, begun.model_state)):
        want = run(KEY, (x, y), start=start).last
        same(result.last, want)
    assert not begun.params["head"]["kernel"].is_deleted()
    again = second.fit(
        (x, y), **settings, start=jax.tree.map(np.asarray, (begun.params, begun.model_state)),
        progress=False, checkpoint=tmp_path / "run",
    )  # fmt: skip
    assert digest(again.last) == digest(result.last)
    with pytest.raises(ValueError, match="start"):
        second.fit((x, y), **settings, start=result.best, checkpoint=tmp_path / "run")


TREE = {"body": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
SGD = optax.sgd(0.1)

MISTAKES = {
    "no dict": (lambda: parts(SGD), "`parts`: optimizers must be a dict from path patterns to"),
    "no pattern": (lambda: parts({}), "`parts`: optimizers must be a dict .* got {}."),
    "no string": (lambda: parts({0: SGD}), "`parts`: a path pattern must be a string, got 0."),
    "a factory": (
        lambda: parts({"**": optax.adam}),
        r"`parts`: each part must have an optax.GradientTransformation, or None to freeze it, got "
        r"<function adam.* for '\*\*'\. Call its factory",
    ),
    "misspelt": (
        lambda: parts({"haed": SGD, "**": None}).init(TREE),
        "`parts`: a pattern must match some path of params, got 'haed'. .*The paths are "
        "body/kernel, head/bias, head/kernel.",
    ),
    "not all": (
        lambda: parts({"body/**": SGD}).init(TREE),
        "`parts`: each param must be matched by a pattern, got none for head/bias, head/kernel. "
        r"End with '\*\*', for all that is left: `'\*\*': None` freezes it.",
    ),
    "order": (
        lambda: parts({"**": None, "head/**": SGD}).init(TREE),
        r"`parts`: a pattern must come before one that matches all of its params and more, got "
        r"'head/\*\*' after '\*\*'. Put it first: the first that matches counts.",
    ),
    "step": (
        lambda: from_step(SGD, 3),
        "`from_step`: step must be a whole number, 0 or more, got .*Give it first",
    ),
    "before 0": (lambda: from_epoch(-1, SGD), "`from_epoch`: epoch must be .* or more, got -1."),
    "late none": (lambda: from_step(3, None), "`from_step`: optimizer must be an optax.*got None."),
    "state and start": (
        lambda: trainer_of(SGD).fit(data(), state=STATE, start=STATE),
        "`fit`: give either state or start, got both.",
    ),
    "start of another kind": (
        lambda: trainer_of(SGD).fit(data(), start=TREE),
        r"`fit`: start must be a fn.TrainState, or a pair \(params, model_state\), got {'body'",
    ),
    "start of another model": (
        lambda: trainer_of(SGD).fit(data(), start=STATE),
        "`fit`: start must have the params and model_state of the model, got\n  "
        r"params/act/bias: not expected",
    ),
}
STATE = fn.types.TrainState(jnp.int32(0), {"act": {"bias": jnp.ones(2)}}, {}, (), KEY)


@pytest.mark.parametrize(("mistake", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(mistake, words):
    with pytest.raises((TypeError, ValueError), match=words):
        mistake()


def test_what_is_left_over_is_no_mistake():
    for optimizers in ({"body/**": SGD, "head/**": SGD, "**": None}, {"*/*": SGD, "**": None}):
        assert jax.tree.leaves(parts(optimizers).init(TREE)) == []
