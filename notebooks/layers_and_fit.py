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
# # Layers and fit
#
# The notebook before, `pure_functions`, wrote its own loops. `fn.Trainer` is the loop that repeats,
# with what one would add to it sooner or later: batches, metrics, validation, early stopping, and a
# state from which one can go on. It remains a collection of pure functions.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import funcnet as fn

# %% [markdown]
# ## The same line, the same numbers
#
# The 120 points around $y = 2x + 0.9$ from the notebook before. The line is a `dense` layer of one
# output, the loss one number an example, and the optimizer plain gradient descent. With
# `shuffle=False` the batches come in the order of the data, so the trainer must find the
# very losses that our own loop found.

# %%
np.random.seed(13)
x = np.linspace(0, 3, 120)
y = 2 * x + 0.9 + 0.5 * np.random.randn(120)
order = np.random.permutation(120)
x, y = x[order, None].astype(np.float32), y[order, None].astype(np.float32)

trainer = fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))

# %% [markdown]
# `trainer.init` makes a state: all that a step carries to the next. It is a value, so starting from
# $w = 100$ means making one that holds 100.

# %%
start = {"kernel": jnp.array([[100.0]], jnp.float32), "bias": jnp.array([0.0], jnp.float32)}
state = trainer.init(jax.random.key(0), x)._replace(params=start)
result = trainer.fit((x, y), state=state, epochs=10, batch_size=4, shuffle=False)
for epoch, value in enumerate(result.losses[29::30]):  # 30 steps an epoch, of which the last one
    print(f"epoch {epoch + 1:2}   loss of the last batch {value:8.4f}")
w, b = result.last.params["kernel"][0, 0], result.last.params["bias"][0]
print(f"w = {w:.4f}, b = {b:.4f}")

# %% [markdown]
# ## Layers
#
# Now scikit-learn's 1,797 digits of 8 x 8 pixels. A network is a row of layers; any function
# `x -> y` is one. `fn.summary` shows what it is made of, for inputs like these.

# %%
images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
train, test = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])

model = fn.sequential(
    fn.conv(16, (3, 3)),
    jax.nn.relu,
    fn.max_pool((2, 2)),
    fn.flatten(),
    fn.dropout(0.25),
    fn.dense(10),
)
fn.summary(model, images[:1])

# %% [markdown]
# Whether dropout drops is said by the call: with a `key` the model runs for training, without one
# it does not, and the same arguments always give the same numbers.

# %%
params, model_state = model.init(jax.random.key(0), images[:1])
calm, _ = model.apply(params, model_state, images[:1])
noisy, _ = model.apply(params, model_state, images[:1], key=jax.random.key(1))
again, _ = model.apply(params, model_state, images[:1], key=jax.random.key(1))
print("with and without noise alike:", bool((calm == noisy).all()))
print("the same key twice alike:    ", bool((noisy == again).all()))

# %% [markdown]
# ## Fit
#
# A fifth of the training data is held out, and training ends when the loss there has not improved
# for five epochs. `result.best` is the state that was best, `result.last` the one at the end, and
# `result.message` says why it ended.

# %%
trainer = fn.Trainer(
    model,
    loss=optax.losses.softmax_cross_entropy_with_integer_labels,
    optimizer=optax.adam(3e-3),
    metrics={"accuracy": fn.metrics.accuracy(), "confusion": fn.metrics.confusion_matrix(10)},
)
result = trainer.fit(
    train,
    validation=0.2,
    epochs=40,
    batch_size=64,
    stopping=fn.early_stopping("val_loss", patience=5),
    seed=0,
)
result

# %%
fn.plot(result)

# %% [markdown]
# `evaluate` counts every example once, the last, shorter batch included; `predict` gives what the
# model gives.

# %%
values = trainer.evaluate(result.best, test)
print(f"test accuracy {values['accuracy']:.4f}")
logits = trainer.predict(result.best, test[0][:5])
print("predicted", logits.argmax(-1), "true", test[1][:5])

# %%
fn.plot_confusion(values["confusion"])

# %% [markdown]
# ## Overfitting, seen and stopped
#
# A larger network and only 150 digits: the training loss goes to nothing, the validation loss turns
# around. Without early stopping nothing ends this, but the best state is kept all the same.

# %%
large = fn.sequential(
    fn.flatten(), fn.dense(256), jax.nn.relu, fn.dense(256), jax.nn.relu, fn.dense(10)
)
trainer = fn.Trainer(
    large,
    loss=optax.losses.softmax_cross_entropy_with_integer_labels,
    optimizer=optax.adam(3e-3),
)
few, others = (train[0][:150], train[1][:150]), (train[0][150:], train[1][150:])
result = trainer.fit(few, validation=others, epochs=60, seed=0)
for name in ("best", "last"):
    print(f"{name}: test loss {trainer.evaluate(getattr(result, name), test)['loss']:.3f}")
fn.plot(result)

# %% [markdown]
# ## Going on, and the functions inside
#
# A fit goes on where a state left off: 6 epochs are 3 and 3 more, to the last bit.

# %%
six = trainer.fit(few, epochs=6, seed=0).last
three = trainer.fit(few, epochs=3, seed=0).last
three_more = trainer.fit(few, epochs=6, state=three).last
same = jax.tree.map(lambda a, b: bool((a == b).all()), six.params, three_more.params)
print("the same bits:", all(jax.tree.leaves(same)))

# %% [markdown]
# Underneath is a pure function, `step`: a state and a batch in, a state and metrics out. It can be
# jitted, and put into a loop of one's own; `advance` is many steps as one compiled program.

# %%
state = trainer.init(jax.random.key(0), few[0])
state, metrics = jax.jit(trainer.step)(state, few)
print(int(state.step), float(metrics["loss"]))
state, metrics = trainer.advance(state, 100, few, batch_size=50)
print(int(state.step), float(metrics["loss"]))
