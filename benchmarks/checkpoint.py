"""How long a save holds up the caller, against plain Orbax: `python -m benchmarks.checkpoint`.

Both save the same 40 MiB in the same process, in turns: `fn.checkpoint.Store`, and Orbax's
`AsyncCheckpointer` with its `StandardCheckpointHandler`. Timed is the call of `save` alone, once
with arrays in a few large pieces and once in many small ones; how long it takes until all is on the
disk is printed beside it, with a twin of ours that shows the noise. What ours does more is done by
its thread: a SHA-256 of every file, and files brought to the disk. The claim is a ratio of at most
1.5.

Then the price of `fn.guarded`: three networks trained by `fit` with it and without, at most 1.15.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn
from benchmarks.timing import best, interleaved, spread, tolerance
from benchmarks.training import model
from benchmarks.workloads import RATE, workload
from funcnet.checkpoint import Store

WITHIN = 0.5
"""How much longer than Orbax a save may hold up its caller, as a share of it."""

GUARD = 0.15
"""How much longer a guarded step may take, as a share of one that is not."""

MEBIBYTES = 40
LEAVES = {"large": 10, "many": 200}
OURS, TWIN, ORBAX = "funcnet", "funcnet, a twin", "Orbax"


def tree(leaves: int) -> dict[str, jax.Array]:
    """40 MiB of random numbers in so many arrays."""
    size = MEBIBYTES * 2**20 // 4 // leaves
    keys = jax.random.split(jax.random.key(0), leaves)
    found = {f"{i:03d}": jax.random.normal(key, (size,), jnp.float32) for i, key in enumerate(keys)}
    return jax.block_until_ready(found)


def ours(directory: Path, saved: Any) -> Callable[[], tuple[float, float]]:
    """Times one save more: the call, and until all is on the disk."""
    store, steps = Store(directory, keep=1), itertools.count()

    def save() -> tuple[float, float]:
        begin = time.perf_counter()
        store.save(next(steps), saved)
        called = time.perf_counter()
        store.wait()
        return called - begin, time.perf_counter() - begin

    return save


def orbax(directory: Path, saved: Any) -> Callable[[], tuple[float, float]]:
    """The same by Orbax alone."""
    import orbax.checkpoint as ocp

    checkpointer, steps = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()), itertools.count()

    def save() -> tuple[float, float]:
        begin = time.perf_counter()
        checkpointer.save(directory / str(next(steps)), args=ocp.args.StandardSave(saved))
        called = time.perf_counter()
        checkpointer.wait_until_finished()
        return called - begin, time.perf_counter() - begin

    return save


def measure(name: str, leaves: int, rounds: int) -> bool:
    """Prints the times of one tree, and whether the claim holds."""
    saved = tree(leaves)
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            OURS: ours(Path(folder, "ours"), saved),
            TWIN: ours(Path(folder, "twin"), saved),
            ORBAX: orbax(Path(folder, "orbax"), saved),
        }
        for save in contenders.values():
            save()
        times: dict[str, list[tuple[float, float]]] = {each: [] for each in contenders}
        for k in range(rounds):
            for each in contenders if k % 2 == 0 else reversed(contenders):
                times[each].append(contenders[each]())
    calls = {each: np.array(found)[:, 0] for each, found in times.items()}
    print(f"{MEBIBYTES} MiB, {leaves} arrays ({name}), {rounds} rounds")
    for each, found in times.items():
        whole = best(np.array(found)[:, 1])
        middle = float(np.median(calls[each]))
        print(
            f"  {each:<16} holds up the caller for {1e3 * best(calls[each]):6.1f} ms "
            f"(median {1e3 * middle:.1f}), on the disk after {1e3 * whole:.0f} ms"
        )
    ratio = best(calls[OURS]) / best(calls[ORBAX])
    low, high = spread(calls[TWIN], calls[OURS])
    good = ratio <= 1 + tolerance(low, high, WITHIN)
    print(f"  ratio {ratio:.2f} (A/A {low:.2f}-{high:.2f}): {'ok' if good else 'NOT within 1.5'}")
    return good


def guard(name: str, rounds: int) -> bool:
    """Prints what `fn.guarded` adds to a step of a workload, and whether it may."""
    work = workload(name)

    def fit(optimizer: optax.GradientTransformation) -> Callable[[], Any]:
        trainer = fn.Trainer(
            model(work),
            loss=optax.losses.softmax_cross_entropy_with_integer_labels,
            optimizer=optimizer,
        )
        return partial(
            *(trainer.fit, (work.x, work.y)),
            **{"epochs": work.epochs, "batch_size": work.batch_size, "progress": False},
        )

    plain, kept = optax.adam(RATE), fn.guarded(optax.adam(RATE))
    contenders = {"plain": fit(plain), "twin": fit(plain), "guarded": fit(kept)}
    for run in contenders.values():
        run()
    times = interleaved(contenders, rounds)
    ratio = best(times["guarded"]) / best(times["plain"])
    low, high = spread(times["plain"], times["twin"])
    good = ratio <= 1 + tolerance(low, high, GUARD)
    step = best(times["plain"]) / (work.epochs * work.steps)
    print(
        f"{work.words}: a step of {1e6 * step:.0f} us, {ratio:.2f} of that "
        f"when guarded (A/A {low:.2f}-{high:.2f}): {'ok' if good else 'NOT within 1.15'}"
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    good = [measure(name, leaves, options.rounds) for name, leaves in LEAVES.items()]
    good += [guard(name, options.rounds) for name in ("mlp32", "mlp128", "convnet")]
    names = "jax", "orbax-checkpoint", "tensorstore"
    print(", ".join(f"{name} {version(name)}" for name in names), end="; ")
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
