"""One trainer for the tests of this folder, so that its programs are compiled once."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(32, 4)).astype(np.float32)
Y = (X @ GENERATOR.normal(size=(4, 3))).argmax(1)

SEEN = fn.metrics.confusion_matrix(3)


@cache
def trainer():
    return fn.Trainer(
        fn.sequential(fn.dense(5), jnp.tanh, fn.dense(3)),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-2),
        metrics={"seen": SEEN, "hits": SEEN._replace(compute=jnp.diagonal)},
    )


def absent(package):
    """In place of the function that imports a package, where it is not installed."""
    raise ImportError(f"No module named {package!r}")


def fit(callbacks=(), **more):
    """Epochs of 4 steps."""
    arguments = {"validation": (X[:8], Y[:8]), "batch_size": 8, "epochs": 2} | more
    return trainer().fit((X, Y), callbacks=callbacks, **arguments)
