"""Puts a layer of one's own in a `sequential`, and a `sequential` in a loop of one's own.

    python examples/custom_layer.py            a few seconds
    python examples/custom_layer.py --short    fewer steps
    python examples/custom_layer.py --plan v5e:2x2    what a step takes on four chips of a TPU

A layer is two pure functions: `init` makes its arrays, `apply` computes. Nothing is registered and
no class is derived. Ours is a layer of bumps, with learnt places and widths.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn

PLAN = sys.argv[-1] if "--plan" in sys.argv else None
EPOCHS = 5 if "--short" in sys.argv else 60

x = np.linspace(-3, 3, 2048, dtype=np.float32)[:, None]
y = np.sin(3 * x) * np.exp(-(x**2) / 2)


# --------------------------------------------------------------------------------- the layer itself


def bumps(features):
    """Gaussian bumps, `(B, in) -> (B, features)`: `y_j = exp(-|(x - center_j) / width_j|^2)`."""

    def init(key, x):
        # `x` may be a mere description of the input: its shape and dtype are all there is to ask
        centers = jax.random.uniform(key, (features, x.shape[-1]), minval=-3, maxval=3)
        params = {"center": centers, "log_width": jnp.zeros(features)}
        return params, {}  # no other arrays, such as running statistics: an empty model_state

    def apply(params, model_state, x, *, key=None, training=None):
        # a layer that is random uses `key`; one that acts otherwise in training, `training`
        away = x[:, None, :] - params["center"]  # (B, features, in)
        away = (away**2).sum(-1)  # (B, features)
        return jnp.exp(-away * jnp.exp(-2 * params["log_width"])), model_state

    return fn.Model(init, apply)


model = fn.sequential(bumps=bumps(12), line=fn.dense(1))  # names, so that params can be read


# ------------------------------------------------------------------------------- with the trainer

trainer = fn.Trainer(model, loss=optax.losses.squared_error, optimizer=optax.adam(2e-2))
if PLAN:
    print(fn.plan(trainer, (x, y), topology=PLAN, batch_size=128))
    sys.exit()
result = trainer.fit((x, y), epochs=EPOCHS, batch_size=128, seed=0, progress=False)
print(f"with the trainer: loss {trainer.evaluate(result.last, (x, y))['loss']:.6f}")
for path, leaf in fn.tree.paths(result.last.params).items():
    print(f"  {path:16} {leaf.shape}")


# ----------------------------------------------------------------------- in a loop of one's own

optimizer = optax.adam(2e-2)


def objective(params, model_state, x, y):
    """The mean loss, and the model's next state beside it: what `has_aux` is for."""
    y_pred, model_state = model.apply(params, model_state, x, training=True)
    return optax.losses.squared_error(y_pred, y).mean(), model_state


@jax.jit
def step(params, model_state, opt_state, x, y):
    (loss, model_state), grads = jax.value_and_grad(objective, has_aux=True)(
        params, model_state, x, y
    )
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), model_state, opt_state, loss


params, model_state = model.init(jax.random.key(1), x)
opt_state = optimizer.init(params)
rng = np.random.default_rng(0)
for epoch in range(EPOCHS):
    for rows in rng.permutation(len(x)).reshape(-1, 128):
        params, model_state, opt_state, loss = step(
            params, model_state, opt_state, x[rows], y[rows]
        )
    if (epoch + 1) % (EPOCHS // 5) == 0:
        print(f"in our own loop: epoch {epoch + 1:2}   last batch's loss {loss:.6f}")

y_pred, _ = model.apply(params, model_state, x)
final = float(((y_pred - y) ** 2).mean())
print(f"in our own loop: loss {final:.6f}")
assert final < (0.05 if "--short" in sys.argv else 1e-3), final
