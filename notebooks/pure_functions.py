# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pure functions, gradients, and your own loop
#
# Training needs three things: a function of some numbers, its gradient, and a loop. JAX gives the
# gradient of any function that is *pure*: what it returns depends on its arguments alone, and it
# changes nothing. This notebook builds training from that, up to a model of several layers, without
# any trainer. What the trainer adds is the subject of the next one, `layers_and_fit`.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

import funcnet as fn

# %% [markdown]
# ## A gradient, and a walk down it
#
# $f(x) = (x_1 - 3)^2 + (x_2 + 2)^2$ is smallest at $(3, -2)$. `jax.grad(f)` is a function again: it
# gives the gradient of `f` at a point. A step goes a tenth of it downhill.


# %%
def f(x):
    return (x[0] - 3) ** 2 + (x[1] + 2) ** 2


x = jnp.zeros(2)
walk = [x]
for k in range(15):
    x = x - 0.1 * jax.grad(f)(x)
    walk.append(x)
    if k in (0, 1, 14):
        print(f"step {k:2}   ({x[0]:.6f}, {x[1]:.6f})")

# %% [markdown]
# Here one can check the gradient by hand, and see why the walk slows down: a step takes away a
# fifth of what is left, whatever is left.

# %%
walk = np.stack(walk)
first, second = np.meshgrid(np.linspace(-0.5, 4, 60), np.linspace(-3, 0.5, 60))
figure, axes = plt.subplots(figsize=(4.5, 3.5))
axes.contour(first, second, f((first, second)), levels=12, colors="#cccccc")
axes.plot(*walk.T, "o-", markersize=3)
axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
plt.show()
# %% [markdown]
# ## A line through points
#
# The data are 120 points around $y = 2x + 0.9$, drawn and shuffled once with NumPy's seed 13. The
# params are a dict of two numbers, and `jax.grad` gives a dict of the same form. `jax.tree.map`
# does something to all leaves of such a tree at once, however deep it is.

# %%
np.random.seed(13)
x = np.linspace(0, 3, 120)
y = 2 * x + 0.9 + 0.5 * np.random.randn(120)
order = np.random.permutation(120)
x, y = x[order].astype(np.float32), y[order].astype(np.float32)


def loss(params, x, y):
    return jnp.mean((params["w"] * x + params["b"] - y) ** 2)


@jax.jit
def step(params, x, y):
    value, grads = jax.value_and_grad(loss)(params, x, y)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


# %% [markdown]
# We start from afar, at $w = 100$, and go through the data ten times, four points a step.

# %%
params = {"w": jnp.array(100.0), "b": jnp.array(0.0)}
for epoch in range(10):
    for i in range(0, 120, 4):
        params, value = step(params, x[i : i + 4], y[i : i + 4])
    print(f"epoch {epoch + 1:2}   loss of the last batch {value:8.4f}")
print(f"w = {params['w']:.4f}, b = {params['b']:.4f}")

# %% [markdown]
# It does not come to 2 and 0.9, nor should it: the best line through noisy points is another than
# the one they were drawn from.

# %%
columns = np.stack([x, np.ones_like(x)], axis=1)
w, b = np.linalg.lstsq(columns, y, rcond=None)[0]
print(f"least squares: w = {w:.4f}, b = {b:.4f}")
figure, axes = plt.subplots(figsize=(4.5, 3))
axes.plot(x, y, ".", color="#bbbbbb")
axes.plot([0, 3], [params["b"], params["b"] + 3 * params["w"]], label="our ten epochs")
axes.plot([0, 3], [b, b + 3 * w], "--", label="least squares")
axes.legend()
plt.show()
# %% [markdown]
# ## A model of several layers is a pair of pure functions
#
# `init` makes the arrays, `apply` computes with them. A layer is such a pair and so is a network;
# any function `x -> y` may stand between layers.

# %%
model = fn.sequential(fn.dense(32), jnp.tanh, fn.dense(32), jnp.tanh, fn.dense(1))

x = np.linspace(-2, 2, 200, dtype=np.float32)[:, None]  # (200, 1): the first axis is the examples
y = np.sin(3 * x)

params, model_state = model.init(jax.random.key(0), x)
jax.tree.map(jnp.shape, params)

# %% [markdown]
# Since `apply` is a function like any other, so is the loss, and the loop is the one from above;
# only the step down is left to an optimizer of optax. `model_state` holds what a model remembers
# and does not learn, such as the running averages of batch norm: empty here, but handed on, so that
# the loop serves every model.

# %%
optimizer = optax.adam(1e-2)
opt_state = optimizer.init(params)


def objective(params, model_state, x, y):
    y_pred, model_state = model.apply(params, model_state, x, training=True)
    return optax.losses.squared_error(y_pred, y).mean(), model_state


@jax.jit
def step(params, model_state, opt_state, x, y):
    (value, model_state), grads = jax.value_and_grad(objective, has_aux=True)(
        params, model_state, x, y
    )
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), model_state, opt_state, value


for k in range(1001):
    params, model_state, opt_state, value = step(params, model_state, opt_state, x, y)
    if k % 200 == 0:
        print(f"step {k:4}   loss {value:.6f}")

# %% [markdown]
# And it can be differentiated with respect to anything else. The slope of the network with respect
# to its input should be that of the sine, $3 \cos 3x$, which it was never shown:


# %%
def network(at):
    return model.apply(params, model_state, at[None, None])[0][0, 0]


slope = jax.vmap(jax.grad(network))(x[:, 0])
figure, axes = plt.subplots(figsize=(4.5, 3))
axes.plot(x, 3 * np.cos(3 * x), color="#bbbbbb", linewidth=4, label=r"$3\,\cos\,3x$")
axes.plot(x, slope, label="slope of the network")
axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=2)
plt.show()
# %% [markdown]
# ## Too many params for too few points
#
# Five points around a line, and two polynomials: a line, with 2 params, and one of degree 6, with
# 7. Of the many curves of degree 6 through five points, least squares takes the one with the
# smallest coefficients. Five other points tell what each curve is worth. (The seed, 16227, was
# sought so that the errors resemble those of a published picture, 5.3 and 5.1 for the line, 0 and
# 20 for the curve; another seed gives other numbers and, mostly, the same moral.)

# %%
rng = np.random.default_rng(16227)
x_train, x_val = np.sort(rng.uniform(-1, 1, 5)), np.sort(rng.uniform(-1, 1, 5))
y_train = 4 * x_train + 1 + 3 * rng.normal(size=5)
y_val = 4 * x_val + 1 + 3 * rng.normal(size=5)

figure, axes = plt.subplots(figsize=(4.5, 3))
axes.plot(x_train, y_train, "o", label="to learn from")
axes.plot(x_val, y_val, "x", label="to validate")
line = np.linspace(-1, 1, 200)
for degree in (1, 6):
    powers = np.vander(x_train, degree + 1, increasing=True)
    coefficients = np.linalg.lstsq(powers, y_train, rcond=None)[0]

    def curve(x, coefficients=coefficients):
        return np.vander(x, len(coefficients), increasing=True) @ coefficients

    errors = [np.mean((curve(a) - b) ** 2) for a, b in [(x_train, y_train), (x_val, y_val)]]
    print(f"{degree + 1} params: mean squared error {errors[0]:.2f}, validation {errors[1]:.2f}")
    axes.plot(line, curve(line), label=f"{degree + 1} params")
axes.set_ylim(-9, 9)
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# The curve is perfect where it was fitted and useless elsewhere. That is why data is held out, and
# why training is stopped when the held-out loss no longer falls: the next notebook does both.
