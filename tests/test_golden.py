"""Numbers that were published elsewhere come out again; the notebooks show the same ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn

LAST_BATCH = [94.5247, 9.3428, 1.4166, 0.5224, 0.3807, 0.3495, 0.3413, 0.3390, 0.3384, 0.3382]
WALK = {0: (0.6, -0.4), 1: (1.08, -0.72), 14: (2.894447, -1.929631)}
ROUNDED = 0.5e-4  # half of the last of four printed places
ROUNDED_6 = 0.5e-6 + 15 * 3 * 2**-23  # half of the sixth place, and 15 steps of float32 near 3


def noisy_line():
    np.random.seed(13)
    x = np.linspace(0, 3, 120)
    y = 2 * x + 0.9 + 0.5 * np.random.randn(120)
    order = np.random.permutation(120)
    return x[order, None].astype(np.float32), y[order, None].astype(np.float32)


def start():
    return {"kernel": jnp.full((1, 1), 100, jnp.float32), "bias": jnp.zeros(1)}


def line_trainer():
    return fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))


def check_line(losses, params):
    np.testing.assert_allclose(losses, LAST_BATCH, rtol=0, atol=ROUNDED)
    assert float(params["kernel"][0, 0]) == pytest.approx(1.8617, abs=ROUNDED)
    assert float(params["bias"][0]) == pytest.approx(1.0711, abs=ROUNDED)


def test_gradient_descent():
    x = jnp.zeros(2)
    gradient = jax.grad(lambda x: (x[0] - 3) ** 2 + (x[1] + 2) ** 2)
    for k in range(15):
        x = x - 0.1 * gradient(x)
        if k in WALK:
            np.testing.assert_allclose(x, WALK[k], rtol=0, atol=ROUNDED_6)


def test_linear_regression_in_a_loop_of_ones_own():
    x, y = noisy_line()
    model = fn.dense(1)

    def loss(params, x, y):
        return ((model.apply(params, {}, x)[0] - y) ** 2).mean()

    gradient = jax.jit(jax.value_and_grad(loss))
    params, last = start(), []
    for _ in range(10):
        for i in range(0, 120, 4):
            value, grads = gradient(params, x[i : i + 4], y[i : i + 4])
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        last.append(value)
    check_line(last, params)


def test_linear_regression_with_the_trainer():
    x, y = noisy_line()
    trainer = line_trainer()
    state = trainer.init(jax.random.key(0), x)._replace(params=start())
    result = trainer.fit((x, y), state=state, epochs=10, batch_size=4, shuffle=False)
    check_line(result.losses[29::30], result.last.params)


def test_linear_regression_step_by_step():
    x, y = noisy_line()
    trainer = line_trainer()
    step = jax.jit(trainer.step)
    state = trainer.init(jax.random.key(0), x)._replace(params=start())
    last = []
    for k in range(300):
        i = 4 * k % 120
        state, metrics = step(state, (x[i : i + 4], y[i : i + 4]))
        if k % 30 == 29:
            last.append(metrics["loss"])
    check_line(last, state.params)


@pytest.mark.parametrize(
    ("degree", "train_error", "val_error"),
    [(1, (5.37, 0.005), (5.09, 0.005)), (6, (0, 1e-9), (18.2, 0.05))],
)
def test_overfitting_on_five_points(degree, train_error, val_error, x64):
    rng = np.random.default_rng(16227)
    x, x_val = np.sort(rng.uniform(-1, 1, 5)), np.sort(rng.uniform(-1, 1, 5))
    y = 4 * x + 1 + 3 * rng.normal(size=5)
    y_val = 4 * x_val + 1 + 3 * rng.normal(size=5)
    powers, powers_val = (jnp.vander(part, degree + 1, increasing=True) for part in (x, x_val))

    params = {"kernel": jnp.linalg.lstsq(powers, y)[0][:, None]}  # of minimum norm
    trainer = fn.Trainer(
        fn.dense(1, bias=False), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1)
    )
    state = trainer.init(jax.random.key(0), powers)._replace(params=params)
    errors = [
        trainer.evaluate(state, (np.asarray(p), target[:, None]))["loss"]
        for p, target in [(powers, y), (powers_val, y_val)]
    ]
    for error, (expected, tolerance) in zip(errors, (train_error, val_error), strict=True):
        assert error == pytest.approx(expected, abs=tolerance)
