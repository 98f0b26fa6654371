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
# # One program, many devices
#
# A model is a pure function and so is a training step: neither says where it is computed. In
# funcnet where arrays live is one value, a placement, that is given to the trainer. XLA's
# partitioner divides the work accordingly, and the result is that of one device. This notebook
# runs on eight virtual devices, which any laptop has; on eight GPUs or a TPU it is the same.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

import funcnet as fn

jax.config.update("jax_num_cpu_devices", 8)  # virtual ones; a GPU or TPU has its own
jax.config.update("jax_enable_x64", True)  # so that one can see what "the same" means
print(jax.device_count(), "devices")

# %% [markdown]
# A network for small pictures of digits, with what is hard to divide: batch norm looks at all the
# examples of a batch, and dropout draws noise for each.

# %%
pictures, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
data = (pictures[order] / 16, labels[order])  # (1797, 64) and (1797,)


def network(axis_name=None, rate=0.2):
    return fn.sequential(
        first=fn.sequential(
            fn.dense(128), fn.batch_norm(axis_name=axis_name), jax.nn.relu, fn.dropout(rate)
        ),
        second=fn.sequential(fn.dense(128), jax.nn.relu),
        out=fn.dense(10),
    )


def trained(placement, model=None):
    trainer = fn.Trainer(
        model or network(),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-3),
        metrics={"accuracy": fn.metrics.accuracy()},
        placement=placement,
    )
    return trainer.fit(data, validation=0.2, epochs=5, batch_size=64, seed=1, progress=False)


# %% [markdown]
# ## The same result, wherever it is computed
#
# - `fn.data_parallel()` puts a part of each batch on each device, and all params on every one.
# - `fn.fully_sharded()` divides large params too, with what the optimizer keeps of them. A device
#   sees a whole layer only while it computes it.
# - `fn.on_mesh(...)` divides after one's own rules. Here a layer's columns lie on two devices and
#   the next one's rows do too, so that both are computed side by side: tensor parallelism.

# %%
tensor = {"first/0/kernel": (None, "model"), "second/0/kernel": ("model", None)}
placements = {
    "data parallel": fn.data_parallel(),
    "fully sharded": fn.fully_sharded(min_size=1024),
    "data 4 x tensor 2": fn.on_mesh({"data": 4, "model": 2}, rules=tensor),
    "data 2 x tensor 2 x sharded 2": fn.on_mesh(
        {"data": 2, "model": 2, "shard": 2},
        batch=("data", "shard"),
        rules=tensor,
        shard="shard",
        min_size=1024,
    ),
}
alone = trained(None)
print(f"{'one device':<32}validation accuracy {alone.history['val_accuracy'][-1]:.4f}")
results = {name: trained(placement) for name, placement in placements.items()}
for name, result in results.items():
    here = jax.device_get(result.last.params)
    apart = optax.tree.norm(jax.tree.map(jnp.subtract, here, alone.last.params))
    relative = float(apart / optax.tree.norm(alone.last.params))
    print(
        f"{name:<32}validation accuracy {result.history['val_accuracy'][-1]:.4f}, "
        f"params differ by {relative:.0e}"
    )

# %% [markdown]
# After some hundred steps in float64 the params agree to eleven digits: batch norm, dropout, the
# order of the examples and the metrics are those of one device. (In float32 sums in another order
# are apart by 1e-7 in the first step, and training amplifies that as it does any rounding.)
#
# ## What lives where
#
# `fn.describe` tells of each array how it is divided, before anything is computed if one likes;
# `fn.plot` draws it; the numbers are those of the devices that have a part.

# %%
there = fn.describe(placements["data 2 x tensor 2 x sharded 2"], alone.last.params)
there

# %%
fn.plot(there)

# %% [markdown]
# What a device keeps of a training, by placement, of params and Adam's two moments:

# %%
kept = {"one device": fn.tree.nbytes(alone.last)}
for name, placement in placements.items():
    kept[name] = fn.describe(placement, alone.last).bytes_per_device
figure, axes = plt.subplots(figsize=(7, 2.4))
axes.barh(list(kept), [size / 1e3 for size in kept.values()], color="C0")
axes.invert_yaxis()
axes.set_xlabel("kB on each device")
axes.spines[["top", "right"]].set_visible(False)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## pmap
#
# Before there was a partitioner, `jax.pmap` mapped a function over devices, each of which saw its
# part of the batch and nothing else; collectives inside the function brought the parts together.
# `fn.pmapped()` is a placement of that kind. Noise is then drawn by each device for itself, and
# batch norm knows its own examples only, unless the layer is told the name of the axis.

# %%
plain = trained(None, network(rate=0.0))
for words, model in {
    "batch norm of each device alone": network(rate=0.0),
    "batch norm over all devices": network("devices", rate=0.0),
    "the same, and dropout": network("devices"),
}.items():
    params = jax.device_get(trained(fn.pmapped(), model).last.params)
    apart = optax.tree.norm(jax.tree.map(jnp.subtract, params, plain.last.params))
    relative = float(apart / optax.tree.norm(plain.last.params))
    print(f"{words:<32}params differ from one device's by {relative:.0e}")

# %% [markdown]
# ## Many trainings on many devices
#
# A study spreads its members: eight networks, one on each device, at once.

# %%
members = fn.ensemble(
    fn.Trainer(
        network(),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-3),
        metrics={"accuracy": fn.metrics.accuracy()},
    ),
    8,
    data,
    validation=0.2,
    epochs=5,
    batch_size=64,
    progress=False,
)
members

# %% [markdown]
# ## Further
#
# `docs/devices.md` goes on from here: several GPUs, several processes, a cluster, a TPU pod.
# `docs/planning.md` compiles a training for a TPU that one does not have, and says if it fits.
