"""`first_nan`: what is not finite is named by the layer that made it, in every part of a step."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.inspect.nans import first_nan

X = np.random.default_rng(0).uniform(0.1, 1, size=(4, 3)).astype(np.float32)
BATCH = X, X[:, :1]
HERE = Path(__file__)


def trainer(*layers, optimizer=None, **settings):
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    model = layers[0] if len(layers) == 1 else fn.sequential(*layers)
    settings = {"loss": optax.losses.squared_error, "optimizer": optimizer} | settings
    return fn.Trainer(model, **settings)


def begun(made, x=X):
    return made.init(jax.random.key(0), x)


def logarithm(x):
    return jnp.log(x)


def shifted():
    def shift(params, x):
        return jnp.log(x * 0 + params["s"])

    return fn.as_model(shift, init=lambda key, x: {"s": jnp.ones(())})


def deep(bad):
    """Twenty-eight layers and more, one of them bad."""
    block = fn.residual(fn.sequential(fn.dense(3), jnp.tanh))
    return fn.sequential(
        fn.dense(3),
        *[fn.residual(jnp.tanh) for _ in range(8)],
        fn.layer_stack(fn.remat(block), 4),
        fn.residual(fn.sequential(jnp.tanh, fn.branches(jnp.cos, bad), lambda ys: ys[0] + ys[1])),
        *[fn.residual(jnp.sin) for _ in range(8)],
        fn.dense(1),
    )


def test_a_nan_planted_in_a_deep_network_is_named():
    made = trainer(deep(lambda x: jnp.log(-jnp.abs(x))))
    found = first_nan(made, begun(made), BATCH)
    assert found
    assert (found.stage, found.path, found.kind) == ("forward", "10/block/1/1", "<lambda>")
    assert (found.primitive, found.copy) == ("log", None)
    assert f"{HERE}:" in found.line
    assert "jnp.log(-jnp.abs(x))" in found.line
    assert found.gave == "float32[4, 3] (12 of 12 nan)"
    assert len(found.came) == 1
    assert found.came[0].startswith("float32[4, 3] in ")


def test_the_copy_of_a_stack_is_told():
    block = fn.residual(fn.sequential(shifted(), jnp.tanh))
    made = trainer(fn.dense(3), fn.layer_stack(fn.remat(block), 5), fn.dense(1))
    state = begun(made)
    state.params["1"]["block"]["0"]["s"] = jnp.array([1.0, 1.0, 1.0, -2.0, 1.0])
    found = first_nan(made, state, BATCH)
    assert (found.stage, found.path, found.kind, found.copy) == ("forward", "1/block/0", "shift", 3)
    assert found.came[0].startswith("float32[4, 3] in ")
    lines = str(found).splitlines()
    assert lines[0] == (
        "step 0: layer '1/block/0' (shift) of copy 3 is the first that is not finite, in the "
        "forward pass"
    )
    assert lines[1] == "  log gave float32[4, 3] (12 of 12 nan)"
    assert lines[2] == "    of float32[4, 3] in -2 .. -2"
    assert lines[3].startswith(f"  at {HERE}:")


def test_a_gradient_that_is_not_finite_is_named_from_the_loss_backwards():
    made = trainer(
        fn.dense(3),
        lambda x: jnp.sqrt(0 * x),  # its gradient is not finite either, but comes later
        fn.residual(fn.sequential(jnp.square, lambda x: jnp.sqrt((0 * x).sum(-1))[:, None] + x)),
        fn.dense(1),
    )
    found = first_nan(made, begun(made), BATCH)
    assert (found.stage, found.path) == ("gradient", "2/block/1")
    assert found.leaves == ("0/bias", "0/kernel")
    assert "jnp.sqrt((0 * x).sum(-1))" in found.line
    assert "in the gradient" in str(found)


def test_a_gradient_in_a_stack_is_named():
    block = fn.residual(fn.sequential(jnp.square, lambda x: jnp.sqrt(0 * x)))
    made = trainer(fn.dense(3), fn.layer_stack(fn.remat(block), 3), fn.dense(1))
    found = first_nan(made, begun(made), BATCH)
    assert (found.stage, found.path, found.copy) == ("gradient", "1/block/1", 2)


def test_an_overflow_in_float16_is_named():
    model = fn.mixed_precision(
        fn.sequential(jnp.tanh, lambda x: 600 * x + 1, jnp.square, fn.dense(1)), jnp.float16
    )
    made = trainer(model)
    found = first_nan(made, begun(made), BATCH)
    assert (found.stage, found.path, found.kind) == ("forward", "2", "square")
    assert "inf" in found.gave
    assert found.came[0].startswith("float16[4, 3] in ")


def test_a_mask_is_not_to_blame():
    def masked(x):
        return jnp.where(jnp.arange(3) < 2, x, -jnp.inf)

    sound = trainer(fn.dense(3), masked, jax.nn.softmax, fn.dense(1))
    found = first_nan(sound, begun(sound), BATCH)
    assert not found
    assert str(found) == "step 0: loss, gradients and new params are finite"
    later = trainer(fn.dense(3), masked, jax.nn.softmax, lambda x: x / (x - x), fn.dense(1))
    assert first_nan(later, begun(later), BATCH).path == "3"
    all_masked = trainer(
        fn.dense(3), lambda x: jnp.where(x > 1e9, x, -jnp.inf), jax.nn.softmax, fn.dense(1)
    )
    found = first_nan(all_masked, begun(all_masked), BATCH)
    assert (found.path, found.primitive) == ("2", "sub")


def test_a_nan_that_is_written_is_named_too():
    made = trainer(fn.dense(3), lambda x: x * jnp.nan, fn.dense(1))
    assert first_nan(made, begun(made), BATCH).path == "1"


def test_the_loss_and_the_optimizer_are_named():
    def loss(y_pred, y):
        return jnp.log(y_pred[:, 0] * 0 - 1)

    made = trainer(fn.dense(1), loss=loss)
    found = first_nan(made, begun(made), BATCH)
    assert (found.stage, found.path, found.kind) == ("forward", "", "")
    assert str(found).startswith("step 0: the loss is the first that is not finite")
    made = trainer(fn.dense(1), optimizer=optax.chain(optax.scale(1e30), optax.scale(-1e30)))
    found = first_nan(made, begun(made), BATCH)
    assert (found.stage, found.leaves) == ("update", ("bias", "kernel"))
    assert "the optimizer is the first that is not finite, in the update" in str(found)


def test_a_single_layer_is_the_model():
    made = trainer(fn.stateless(logarithm), loss=lambda y_pred, y: y_pred.sum(-1))
    found = first_nan(made, begun(made), (-X, X))
    assert (found.stage, found.path, found.kind) == ("forward", "", "logarithm")
    assert str(found).startswith("step 0: the model (logarithm) is the first")


def test_what_a_step_begins_with_is_told():
    made = trainer(fn.dense(1))
    state, x = begun(made), X.copy()
    x[2, 1] = np.nan
    found = first_nan(made, state, (x, X[:, :1]))
    assert (found.stage, found.path) == ("batch", "x")
    assert "1 of 12 nan" in str(found)
    state.params["bias"] = jnp.array([jnp.inf])
    found = first_nan(made, state, BATCH)
    assert (found.stage, found.path) == ("state", "params/bias")


def test_the_noise_and_the_parts_are_those_of_the_step():
    seen = []

    def noisy(params, model_state, x, *, key=None, training=None):
        sign = 1 if key is None else jnp.sign(jax.random.uniform(key) - 0.5)
        return x * sign, model_state

    model = fn.sequential(fn.Model(lambda key, x: ({}, {}), noisy), logarithm, fn.dense(1))
    for accumulate in (1, 2):
        made = trainer(model, accumulate=accumulate)
        state = begun(made)
        for k in range(3):
            now = state._replace(step=jnp.array(k))
            _, metrics = jax.jit(made.step)(now, BATCH)
            seen.append(bool(first_nan(made, now, BATCH)))
            assert seen[-1] != bool(jnp.isfinite(metrics["loss"]))
    assert len(set(seen)) == 2


def test_the_step_of_a_fit_is_found():
    x = np.tile(X, (4, 1))
    x[13, 0] = -5

    def late(x):
        return jnp.log(x + 1.0)

    made = trainer(late, fn.dense(1), optimizer=fn.guarded(optax.sgd(1e-3), patience=1))
    result = made.fit((x, x[:, :1]), epochs=2, batch_size=4, seed=3)
    assert result.reason == fn.Reason.NON_FINITE
    found = first_nan(made, result.best, (x, x[:, :1]), batch_size=4)
    assert (found.stage, found.path, found.kind) == ("forward", "0", "late")
    assert found.step == int(result.last.step) - 1
    assert found.came == ("x float32[4, 3] in -5 .. " + found.came[0].rpartition(" ")[2],)
    fine = first_nan(made, result.best, (X, X[:, :1]), batch_size=2, steps=3)
    assert (bool(fine), fine.step) == (False, 2)


def test_fit_points_here():
    made = trainer(fn.dense(1), optimizer=optax.sgd(1e20))
    result = made.fit(BATCH, epochs=60, batch_size=4)
    assert " `fn.first_nan` names the layer. The data is finite: " in result.message


def test_divided_and_eager_trainers_are_looked_at_alike():
    made = trainer(fn.dense(3), logarithm, fn.dense(1), placement=fn.data_parallel(), eager=True)
    state = begun(made)
    state.params["0"]["kernel"] = -jnp.ones((3, 3))
    assert first_nan(made, state, BATCH).path == "1"
    plain = dataclasses.replace(made, eager=False)
    assert first_nan(plain, state, BATCH, batch_size=4).path == "1"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((fn.dense(1), 1), TypeError, "`first_nan`: trainer must be a fn.Trainer, got"),
        ((None, 1), TypeError, "`first_nan`: state must be a fn.TrainState, got int. "),
        ((None, None, {"steps": 3}), ValueError, "`first_nan`: steps needs a batch_size, got none"),
        ((None, None, {"batch_size": 0}), ValueError, "`first_nan`: batch_size must be a positive"),
    ],
)
def test_what_is_refused(arguments, error, message):
    made = trainer(fn.dense(1))
    given, state, *settings = arguments
    state = begun(made) if state is None else state
    with pytest.raises(error) as caught:
        first_nan(given or made, state, BATCH, **(settings[0] if settings else {}))
    assert str(caught.value).startswith(message)
