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
# # A hundred networks at once
#
# In funcnet a whole training is one pure function of a key, of data and of hyperparameters. A pure
# function can be called many times in one program, and it can be differentiated. So a hundred
# networks are trained as one study, in seconds; and the loss after training has a derivative with
# respect to the learning rate. This notebook is about what that is good for.

# %%
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import funcnet as fn

# %% [markdown]
# The digits of scikit-learn, seen through a very dirty pane: the task must be so hard that
# networks disagree.

# %%
pictures, labels = load_digits(return_X_y=True)
generator = np.random.default_rng(0)
order = generator.permutation(len(labels))
dirt = 0.35 * generator.normal(size=pictures.shape)
images = (pictures / 16 + dirt)[order].astype(np.float32)  # (1797, 64)
labels = labels[order].astype(np.int32)
parts = [slice(0, 500), slice(500, 900), slice(900, None)]
train, held, test = [(images[part], labels[part]) for part in parts]

figure, axes = plt.subplots(1, 10, figsize=(9, 1.2))
for place, image, label in zip(axes, *train, strict=False):
    place.imshow(image.reshape(8, 8), cmap="gray_r")
    place.set_title(label, fontsize=9)
    place.set(xticks=[], yticks=[])
figure.tight_layout()
plt.show()

# %% [markdown]
# ## A hundred trainings
#
# `fn.ensemble` trains members that differ by their key alone: by their first params, and by the
# order in which they see the examples. Each stops by itself, and keeps its own best state. Any of
# them is an ordinary result: `committee[3]` is what `fit` would have given.

# %%
trainer = fn.Trainer(
    fn.sequential(fn.dense(64), jax.nn.relu, fn.dense(10)),
    loss=optax.losses.softmax_cross_entropy_with_integer_labels,
    optimizer=optax.adam(5e-3),
    metrics={"accuracy": fn.metrics.accuracy()},
)
begin = time.perf_counter()
committee = fn.ensemble(
    trainer, 100, train,
    validation=held, epochs=40, batch_size=50,
    stopping=fn.early_stopping("val_accuracy", patience=8),
)  # fmt: skip
print(f"{time.perf_counter() - begin:.1f} seconds, with compilation\n")
print(committee)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for name, place in zip(("val_loss", "val_accuracy"), axes, strict=True):
    lines = np.asarray(committee.runs.history[name])  # (100, 40), NaN after the end of each
    place.plot(np.arange(1, 41), lines.T, color="C0", alpha=0.15, linewidth=0.8)
    best = np.asarray(committee.runs.best_epoch)
    place.plot(best + 1, lines[np.arange(100), best], ".", color="C1", markersize=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # epochs that no member has taken
        place.plot(np.arange(1, 41), np.nanmedian(lines, 0), color="black", label="median")
    place.set(xlabel="epoch", title=name)
axes[0].legend()
figure.suptitle("A hundred trainings, and the epoch that each keeps (orange)", fontsize=10)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Together
#
# The mean of their probabilities is a better prediction than theirs: what one network gets wrong by
# bad luck the others get right. `evaluate` gives both, the members with their standard error.

# %%
scores = committee.evaluate(test)
scores

# %% [markdown]
# How many does it take? Here are draws of k of the hundred: most of the gain comes with the first
# ten. The vote of the majority is nearly as good.

# %%
x, y = test
each = jax.nn.softmax(committee.outputs(x))  # (100, 897, 10)
sizes = [1, 2, 3, 5, 10, 20, 50, 100]
drawn = {
    k: [
        float((each[generator.choice(100, k, replace=False)].mean(0).argmax(-1) == y).mean())
        for _ in range(40)
    ]
    for k in sizes
}
means, deviations = np.array([(np.mean(drawn[k]), np.std(drawn[k])) for k in sizes]).T
vote = float((committee.vote(x) == y).mean())

figure, place = plt.subplots(figsize=(6, 3.4))
place.fill_between(sizes, means - deviations, means + deviations, alpha=0.25)
place.semilogx(sizes, means, "o-", label="mean of probabilities")
place.plot(100, vote, "s", color="C1", label="vote of all")
place.set_xticks(sizes, sizes)
place.set(xlabel="networks", ylabel="test accuracy")
place.legend(loc="lower right")
plt.show()

# %% [markdown]
# And they know what they don't know. The entropy of the mean prediction has two parts: the members'
# own, which is the digit's fault, and their disagreement, which is that of too little data. These
# are the digits they quarrel about most, and those that nobody doubts.

# %%
found = committee.entropies(x)
ranked = np.argsort(np.asarray(-found.disagreement))
guesses = committee.predict(x).argmax(-1)
figure, axes = plt.subplots(2, 10, figsize=(9, 2.6))
for row, chosen in zip(axes, (ranked[:10], ranked[-10:]), strict=True):
    for place, i in zip(row, chosen, strict=True):
        place.imshow(x[i].reshape(8, 8), cmap="gray_r")
        place.set_title(
            f"{y[i]}" if y[i] == guesses[i] else f"{y[i]}, not {guesses[i]}", fontsize=9
        )
        place.set(xticks=[], yticks=[], xlabel=f"{found.disagreement[i]:.2f}")
axes[0, 0].set_ylabel("most")
axes[1, 0].set_ylabel("least")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## How sure, and how right?
#
# A probability should be right as often as it says. Networks that stop early are not sure enough:
# of what they call 60 % likely more is right. Averaging does not mend that. One number does, the
# temperature T by which logits are divided; it is found on the held-out digits.

# %%
alone = committee[:1]
rows = {
    "one network": alone,
    "one network, calibrated": alone.calibrated(held),
    "a hundred": committee,
    "a hundred, calibrated": committee.calibrated(held),
}
error = fn.metrics.calibration_error(10, logits=False)
for name, some in rows.items():
    p = some.predict(x)
    gap = float(error.compute(error.update(error.init(), p, y)))
    loss = some.evaluate(test).ensemble["loss"]
    print(f"{name:24} T = {some.temperature:.2f}   loss {loss:.3f}   calibration error {gap:.3f}")


# %% [markdown]
# The picture of it is the reliability diagram: of the predictions that are said to be right with
# this probability, how many are? On the diagonal, as many as was said.


# %%
def reliability(p, y, bins=10):
    confidence, right = np.max(p, -1), np.argmax(p, -1) == y
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    some = [which == b for b in range(bins) if (which == b).sum() >= 10]
    return np.array([(confidence[part].mean(), right[part].mean()) for part in some]).T


figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True)
for place, names in zip(axes, (list(rows)[:2], list(rows)[2:]), strict=True):
    place.plot([0.2, 1], [0.2, 1], color="#bbbbbb", linewidth=4)
    for name in names:
        place.plot(*reliability(np.asarray(rows[name].predict(x)), y), "o-", label=name)
    place.set(xlabel="probability of the predicted digit")
    place.legend(fontsize="small")
axes[0].set_ylabel("share that is right")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## A band that opens
#
# For numbers the members' spread says how far to trust the mean. There is no data between -1.5 and
# 1.5: members that agree where they have seen something part where they have not.
# `bootstrap=True` gives each a resample of the data of its own; so for each point some members have
# not seen it, and `out_of_bag` tells the error on new points without any held-out ones.

# %%
side = generator.uniform(1.5, 4, 60) * generator.choice([-1, 1], 60)
points = side[:, None].astype(np.float32)  # (60, 1)
values = (np.sin(points) + 0.1 * generator.normal(size=points.shape)).astype(np.float32)
curve = fn.Trainer(
    fn.sequential(fn.dense(50), jax.nn.relu, fn.dense(50), jax.nn.relu, fn.dense(1)),
    loss=optax.losses.squared_error,
    optimizer=optax.adam(1e-2),
)
many = fn.ensemble(curve, 30, (points, values), epochs=200, batch_size=20, bootstrap=True)
print(f"training error {many.evaluate((points, values)).ensemble['loss']:.4f}")
print(f"out-of-bag error {many.out_of_bag()['loss']:.4f}")

# %%
line = np.linspace(-5.5, 5.5, 300, dtype=np.float32)[:, None]
mean, spread = many.predict(line)[:, 0], many.spread(line)[:, 0]
figure, place = plt.subplots(figsize=(7, 3.4))
place.plot(line[:, 0], many.outputs(line)[..., 0].T, color="C0", linewidth=0.4, alpha=0.4)
for k in (1, 2):
    place.fill_between(line[:, 0], mean - k * spread, mean + k * spread, color="C0", alpha=0.15)
place.plot(line[:, 0], mean, color="C0", label="mean of 30, ± 1 and 2 spreads")
place.plot(line[:, 0], np.sin(line), color="black", linestyle=":", label="what is true")
place.plot(points, values, ".", color="C1", label="data")
place.set(ylim=(-3, 3), xlabel="x")
place.legend(loc="lower left", fontsize="small")
plt.show()

# %% [markdown]
# It knows only what these networks can imagine, though. Beyond the data all of them go on nearly
# straight, and none thinks of a turn.

# %% [markdown]
# ## A hundred learning rates
#
# `fn.make_run` makes the whole training a function, `run(key, data, hyperparameters, validation)`.
# `jax.vmap` maps it over anything: here over a hundred learning rates $e^r$. One call, one program.


# %%
def make_trainer(r):
    return fn.Trainer(
        fn.sequential(fn.dense(32), jnp.tanh, fn.dense(10)),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.sgd(jnp.exp(r), momentum=0.9),
    )


run = fn.make_run(make_trainer, epochs=5, batch_size=50)
key = jax.random.key(0)


def loss_after_training(r):
    return run(key, train, r, held).history["val_loss"][-1]


rates = jnp.linspace(-7.0, 0.0, 100)
begin = time.perf_counter()
losses = np.asarray(jax.jit(jax.vmap(loss_after_training))(rates))
least = float(rates[losses.argmin()])
print(f"{time.perf_counter() - begin:.1f} seconds, with compilation")
print(f"best rate {np.exp(least):.4f}, loss {losses.min():.4f}")

# %% [markdown]
# ## The slope of that curve
#
# A training can be differentiated from its end to its beginning: `jax.grad` of the loss after
# training with respect to r is the slope of the curve above, from one backward pass through all 50
# steps. It is exact, and agrees with the curve where the curve is smooth. Far on the right training
# is chaotic, and the slope at a point says nothing about the hill.

# %%
slope = jax.jit(jax.value_and_grad(loss_after_training))
print("    r   by jax.grad   by the curve")
for i in (10, 30, 45, 60, 75):
    _, by_grad = slope(rates[i])
    by_curve = (losses[i + 1] - losses[i - 1]) / (rates[i + 1] - rates[i - 1])
    print(f"{rates[i]:5.2f}   {by_grad:11.4f}   {by_curve:12.4f}")

# %% [markdown]
# So the learning rate is learnt as anything else is: by gradient descent. It starts much too low.

# %%
r, path = jnp.array(-6.5), []
for _ in range(15):
    value, gradient = slope(r)
    path.append((float(r), float(value)))
    r = r - 1.0 * gradient
print(f"rate {np.exp(path[0][0]):.4f}   loss {path[0][1]:.4f}   at the start")
print(f"rate {np.exp(path[-1][0]):.4f}   loss {path[-1][1]:.4f}   after {len(path) - 1} steps")

# %%
figure, place = plt.subplots(figsize=(7, 3.6))
place.plot(rates, losses, color="#bbbbbb", linewidth=4, label="a hundred trainings")
for i in (10, 30, 45, 60):
    value, gradient = slope(rates[i])
    around = np.array([-0.5, 0.5])
    place.plot(rates[i] + around, value + gradient * around, color="black", linewidth=1)
place.plot(*np.array(path).T, "o-", markersize=4, label="gradient descent on the rate")
ticks = np.array([1e-3, 1e-2, 1e-1, 1])
place.set_xticks(np.log(ticks), ticks)
place.set(xlabel="learning rate", ylabel="held-out loss after training", ylim=(0.5, 2.5))
place.legend()
plt.show()
