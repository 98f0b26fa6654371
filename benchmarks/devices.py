"""Placements side by side on eight virtual devices: `python -m benchmarks.devices`.

Virtual devices share the cores of one processor, so a ratio says what dividing a training costs
there: more and smaller operations, and what is sent from one device to the other. What it gains is
memory, and on devices of their own, time. Beside `fit` on eight devices stands the same loop by
hand, `jax.jit` over `NamedSharding`.
"""

import argparse
import os
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcnet as fn
from benchmarks.timing import best, interleaved, spread

BATCH, STEPS, DEVICES = 64, 16, 8


class Task(NamedTuple):
    """What is trained: a model, data of `STEPS` batches, and rules of its tensor parallelism."""

    model: fn.Model
    data: tuple[np.ndarray, np.ndarray]
    rules: dict[str, Any]


def mlp() -> Task:
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(BATCH * STEPS, 784)).astype(np.float32)
    y = drawn.integers(0, 10, BATCH * STEPS)
    hidden = [fn.dense(1024), fn.batch_norm(), jax.nn.relu, fn.dropout(0.1), fn.dense(1024)]
    rules = {"0/kernel": (None, "model"), "4/kernel": ("model", None)}
    return Task(fn.sequential(*hidden, jax.nn.relu, fn.dense(10)), (x, y), rules)


def transformer() -> Task:
    drawn = np.random.default_rng(0).integers(0, 64, (BATCH * STEPS, 33))
    blocks = [fn.encoder_block(8, 512, dropout=0.1, causal=True) for _ in range(2)]
    model = fn.sequential(fn.embedding(64, 128), *blocks, fn.dense(64))
    rules = {"**/mlp/*/kernel": (None, "model"), "**/query/kernel": (None, "model", None)}
    return Task(model, (drawn[:, :-1], drawn[:, 1:]), rules)


TASKS = {"mlp": mlp, "transformer": transformer}


def placements(task: Task) -> dict[str, fn.Placement | None]:
    """Ways to place the same training, by name."""
    model = {"data": 2, "model": 4}
    return {
        "one device": None,
        "data parallel": fn.data_parallel(),
        "fully sharded": fn.fully_sharded(),
        "data 2 x tensor 4": fn.on_mesh(model, rules=task.rules),
        "the same, sharded too": fn.on_mesh(model, rules=task.rules, shard="data"),
        "pmapped": fn.pmapped(),
    }


def trainer(task: Task, placement: fn.Placement | None) -> fn.Trainer:
    return fn.Trainer(
        task.model,
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-3),
        placement=placement,
    )


def by_fit(task: Task, placement: fn.Placement | None) -> Callable[[], Any]:
    one = trainer(task, placement)
    return partial(one.fit, task.data, epochs=2, batch_size=BATCH, progress=False)


def by_hand(task: Task) -> Callable[[], Any]:
    """Two epochs of the same steps on eight devices, each epoch one scan, as one writes it."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    optimizer = optax.adam(1e-3)
    x, y = jax.device_put(task.data, whole)
    params, model_state = jax.device_put(task.model.init(jax.random.key(0), x[:1]), whole)

    def loss(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        x, y = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("data")))
        logits, model_state = task.model.apply(params, model_state, x, key=key)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), model_state

    def step(carry: Any, key: Any) -> Any:
        params, model_state, opt_state, order = carry
        batch = jax.tree.map(lambda leaf: leaf[order[:BATCH]], (x, y))
        found = jax.value_and_grad(loss, has_aux=True)(params, model_state, batch, key)
        (value, model_state), grads = found
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, model_state, opt_state, jnp.roll(order, -BATCH)), value

    @jax.jit
    def epoch(params: Any, model_state: Any, opt_state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(x))
        carry = params, model_state, opt_state, order
        return jax.lax.scan(step, carry, jax.random.split(key, STEPS))

    def run() -> Any:
        carry = params, model_state, optimizer.init(params)
        for key in jax.random.split(jax.random.key(1), 2):
            (*carry, _), losses = epoch(*carry, key)
            jax.device_get(losses)

    return run


def report(name: str, rounds: int) -> None:
    task = TASKS[name]()
    places = placements(task)
    contenders = {place: by_fit(task, placement) for place, placement in places.items()}
    contenders |= {"one device, again": by_fit(task, None), "data parallel by hand": by_hand(task)}
    for run in contenders.values():
        run()
    times = interleaved(contenders, rounds)
    alone = best(times["one device"])
    low, high = spread(times["one device"], times["one device, again"])
    x = jax.ShapeDtypeStruct((1, *task.data[0].shape[1:]), task.data[0].dtype)
    state = jax.eval_shape(trainer(task, None).init, jax.random.key(0), x)
    print(f"\n{name}, batches of {BATCH} (one device against itself: {low:.2f} to {high:.2f})")
    print(f"{'':<24}{'a step':>10}{'of one device':>15}{'a device keeps':>16}")
    for place in contenders:
        seconds = best(times[place])
        placement = places.get(place)
        kept = fn.tree.nbytes(state)
        if placement is not None:
            kept = fn.describe(placement, state).bytes_per_device
        memory = f"{kept / 1e6:.1f} MB" if place in places else ""
        step = f"{seconds / (2 * STEPS) * 1e3:.1f} ms"
        print(f"{place:<24}{step:>10}{seconds / alone:>15.2f}{memory:>16}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", DEVICES)
    print(
        f"{jax.device_count()} virtual devices on {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, jax {version('jax')}"
    )
    for name in options.tasks:
        report(name, options.rounds)


if __name__ == "__main__":
    main()
