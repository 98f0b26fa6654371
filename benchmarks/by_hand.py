"""The same trainings written by hand in JAX: a loop of jitted steps, and a scan over each epoch.

They do what `fit` does: initialise, draw an order for each epoch, gather the batches on the device,
gather loss and accuracy, and bring the history to the host once an epoch. Neither waits within it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.workloads import RATE, Workload

ADAM = optax.adam(RATE)


def mlp(params: Any, x: jax.Array) -> jax.Array:
    """784-256-10, from params of `init_mlp`."""
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])  # (B, 256)
    return hidden @ params["w2"] + params["b2"]  # (B, 10)


def init_mlp(key: jax.Array) -> Any:
    keys = jax.random.split(key)
    init = jax.nn.initializers.lecun_normal()
    return {
        "w1": init(keys[0], (784, 256)),
        "b1": jnp.zeros(256),
        "w2": init(keys[1], (256, 10)),
        "b2": jnp.zeros(10),
    }


def convnet(params: Any, x: jax.Array) -> jax.Array:
    """The convnet with XLA's own convolution and pooling by reshape, from `init_convnet`."""
    for k in ("1", "2"):
        x = jax.lax.conv_general_dilated(
            x, params["k" + k], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params["c" + k])
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))  # (B, h / 2, w / 2, c)
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ params["w1"] + params["b1"])  # (B, 128)
    return hidden @ params["w2"] + params["b2"]  # (B, 10)


def init_convnet(key: jax.Array) -> Any:
    keys = jax.random.split(key, 4)
    init = jax.nn.initializers.lecun_normal()
    return {
        "k1": init(keys[0], (3, 3, 1, 32)),
        "c1": jnp.zeros(32),
        "k2": init(keys[1], (3, 3, 32, 64)),
        "c2": jnp.zeros(64),
        "w1": init(keys[2], (7 * 7 * 64, 128)),
        "b1": jnp.zeros(128),
        "w2": init(keys[3], (128, 10)),
        "b2": jnp.zeros(10),
    }


def make_step(apply: Callable[[Any, jax.Array], jax.Array]) -> Any:
    """`(carry, x, y, index) -> (carry, (loss, right))`, the gradient step on one batch."""

    def objective(params: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = apply(params, x)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), (logits.argmax(-1) == y).mean()

    def step(carry: Any, x: jax.Array, y: jax.Array, index: jax.Array) -> Any:
        params, opt_state = carry
        values, grads = jax.value_and_grad(objective, has_aux=True)(params, x[index], y[index])
        updates, opt_state = ADAM.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), values

    return step


def orders(work: Workload, epochs: int) -> Any:
    """Indices of each epoch's batches, int32[steps, B]; the last batch is filled up."""
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(work.x)).astype(np.int32)
        yield np.resize(order, (work.steps, work.batch_size))


def history_of(losses: Any, right: Any) -> dict[str, float]:
    """What an epoch reports, and the one time that the host waits in it."""
    losses, right = jax.device_get((losses, right))
    return {"loss": float(np.mean(losses)), "accuracy": float(np.mean(right))}


def begin(init: Any) -> Any:
    """`seed -> carry`, compiled."""

    @jax.jit
    def first(seed: Any) -> Any:
        params = init(jax.random.key(seed))
        return params, ADAM.init(params)

    return first


def loop(work: Workload, init: Any, apply: Any) -> Callable[[int], None]:
    """A Python loop over jitted steps, whose carry is donated."""
    step = jax.jit(make_step(apply), donate_argnums=0)
    first, x, y = begin(init), jnp.asarray(work.x), jnp.asarray(work.y)

    def run(epochs: int) -> None:
        carry, history = first(0), []
        for order in orders(work, epochs):
            losses, right = [], []
            for index in order:
                carry, (loss, hits) = step(carry, x, y, index)
                losses.append(loss)
                right.append(hits)
            history.append(history_of(losses, right))
        jax.block_until_ready(carry)

    return run


def scan(work: Workload, init: Any, apply: Any) -> Callable[[int], None]:
    """A `lax.scan` over the steps of an epoch, whose carry is donated."""
    step = make_step(apply)
    first, x, y = begin(init), jnp.asarray(work.x), jnp.asarray(work.y)

    @jax.jit(donate_argnums=0)
    def epoch(carry: Any, x: jax.Array, y: jax.Array, order: jax.Array) -> Any:
        return jax.lax.scan(lambda carry, index: step(carry, x, y, index), carry, order)

    def run(epochs: int) -> None:
        carry, history = first(0), []
        for order in orders(work, epochs):
            carry, (losses, right) = epoch(carry, x, y, order)
            history.append(history_of(losses, right))
        jax.block_until_ready(carry)

    return run
