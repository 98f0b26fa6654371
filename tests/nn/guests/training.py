"""A short training of a foreign network, shared by the tests of every library."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 5))
TRAINING = jax.random.key(2)


def images(n=12):
    """Images whose class is the third of the rows that is bright, and the classes."""
    random = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = 0.1 * random.standard_normal((n, 6, 6, 1)).astype(np.float32)
    for i, third in enumerate(y):
        x[i, 2 * third : 2 * third + 2] += 1
    return jnp.asarray(x), jnp.asarray(y)


def trained(model, x, y, epochs=12, rate=2e-2):
    """The result of a training whose loss falls."""
    trainer = fn.Trainer(
        model,
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(rate),
    )
    result = trainer.fit((x, y), epochs=epochs, batch_size=len(y), shuffle=False, seed=0)
    assert result.history["loss"][-1] < 0.6 * result.history["loss"][0], result.history["loss"]
    return result


def compiled(f, *arguments, **options):
    """`f(*arguments)` as one program: op by op a network compiles a hundred of them."""
    return jax.jit(lambda *arguments: f(*arguments, **options))(*arguments)
