"""Fits a line to noisy points, y = 2x + 3: by hand with `jax.grad`, and with the trainer.

    python examples/linear_regression.py            a few seconds
    python examples/linear_regression.py --short    fewer steps
    python examples/linear_regression.py --plan v5e:2x2    what a step takes on four TPU chips

Both ways take the same steps from the same start, so both must come to the same line. The least
squares of NumPy, which need no steps at all, say what it should be.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn

PLAN = sys.argv[-1] if "--plan" in sys.argv else None
RATE = 0.4
STEPS = 20 if "--short" in sys.argv else 100

rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (100, 1)).astype(np.float32)  # (100, 1): the first axis is the examples
y = 2 * x + 3 + rng.normal(0, 0.3, (100, 1)).astype(np.float32)


# ---------------------------------------------------------------------------------------- by hand


def loss(params, x, y):
    """The mean squared error: one number, which `jax.grad` can differentiate."""
    return jnp.mean((params["w"] * x + params["b"] - y) ** 2)


@jax.jit
def step(params):
    """One step down the slope; what goes in is not changed, what comes out is new."""
    grads = jax.grad(loss)(params, x, y)  # a dict like params
    return jax.tree.map(lambda param, grad: param - RATE * grad, params, grads)


params = {"w": jnp.array(0.0), "b": jnp.array(0.0)}
for _ in range(STEPS):
    params = step(params)
by_hand = float(params["w"]), float(params["b"])


# ------------------------------------------------------------------------------- with the trainer

# The same model is a dense layer of one output; the loss is one number for each example, and the
# trainer takes the mean. A batch that holds all the data makes each epoch one step.
trainer = fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(RATE))
if PLAN:
    print(fn.plan(trainer, (x, y), topology=PLAN))
    sys.exit()
state = trainer.init(jax.random.key(0), x)
state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))  # start where we did
result = trainer.fit((x, y), state=state, epochs=STEPS, batch_size=len(x), progress=False)
fitted = result.last.params
by_trainer = float(fitted["kernel"][0, 0]), float(fitted["bias"][0])


# ---------------------------------------------------------------------------------- side by side

columns = np.hstack([x, np.ones_like(x)])
closed_form = np.linalg.lstsq(columns, y, rcond=None)[0].ravel()

print(f"after {STEPS} steps          w         b")
for name, (w, b) in {
    "by hand": by_hand,
    "with the trainer": by_trainer,
    "NumPy's lstsq": closed_form,
}.items():
    print(f"{name:18} {w:9.5f} {b:9.5f}")

np.testing.assert_allclose(by_trainer, by_hand, atol=1e-5)  # a few roundings of float32 apart
if STEPS == 100:
    np.testing.assert_allclose(by_hand, closed_form, atol=1e-5)
