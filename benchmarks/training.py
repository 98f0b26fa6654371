"""`fit` against loops written by hand and against peers: `python -m benchmarks.training`.

Five workloads; the contenders run in turns and are compared by their minima. `fit` must lie within
5 % of the best loop by hand, or within the spread of `fit` against its own twin if that is more.
Peers join where they are installed: `pip install -e '.[peers]'`.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TypeAlias

import jax
import optax

import funcnet as fn
from benchmarks import by_hand, peers
from benchmarks.timing import Times, best, interleaved, spread, tolerance
from benchmarks.workloads import LENGTH, NAMES, RATE, Workload, workload

Run: TypeAlias = Callable[[int], None]
"""`run(epochs)`: trains from compiled and warm, and returns when all is done."""

FIT, TWIN = "fit", "fit, its twin"

WITHIN = 0.05
"""How much slower than the best loop by hand `fit` may be."""

MORE = 2
"""Epochs added to a run to tell the cost of a step from that of a call."""

EXPECTED = {
    ("convnet", "Keras"): 2.5,
    ("convnet", "torch eager"): 1.0,
    ("mlp32", "Keras"): 1.3,
    ("mlp32", "torch eager"): 3.5,
}
"""How many times as long as `fit` a family of peers is expected to take; 1 where not listed."""


def model(work: Workload) -> fn.Model:
    if work.kind == "mlp":
        return fn.sequential(fn.dense(256), jax.nn.relu, fn.dense(10))
    if work.kind == "lstm":
        return fn.sequential(fn.embedding(work.classes, 64), fn.lstm(256), fn.dense(work.classes))
    if work.kind == "transformer":
        return fn.sequential(
            *(fn.embedding(work.classes, 128), fn.learned_positions(LENGTH)),
            *[fn.encoder_block(4, 512, causal=True)] * 2,
            *(fn.layer_norm(), fn.dense(work.classes)),
        )
    return fn.sequential(
        *(fn.conv(32, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),
        *(fn.conv(64, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),
        *(fn.flatten(), fn.dense(128), jax.nn.relu, fn.dense(10)),
    )


def fit(work: Workload) -> Run:
    trainer = fn.Trainer(
        model(work),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(RATE),
        metrics={"accuracy": fn.metrics.accuracy()},
    )
    data = jax.device_put((work.x, work.y))

    def run(epochs: int) -> None:
        result = trainer.fit(data, epochs=epochs, batch_size=work.batch_size, progress=False)
        jax.block_until_ready((result.best, result.last))

    return run


def hand_written(work: Workload) -> dict[str, Run]:
    """The loops by hand. All but the MLP's use our layers; the convnet's XLA's own besides."""
    if work.kind == "mlp":
        init, apply = by_hand.init_mlp, by_hand.mlp
        return {
            "by hand, loop of jitted steps": by_hand.loop(work, init, apply),
            "by hand, scan over an epoch": by_hand.scan(work, init, apply),
        }
    ours = model(work)

    def init(key: jax.Array) -> fn.types.Params:
        return ours.init(key, jax.ShapeDtypeStruct((1, *work.x.shape[1:]), work.x.dtype))[0]

    def apply(params: fn.types.Params, x: jax.Array) -> jax.Array:
        return ours.apply(params, {}, x, training=False)[0]

    loops = {
        "by hand, loop, layers of fn": by_hand.loop(work, init, apply),
        "by hand, scan, layers of fn": by_hand.scan(work, init, apply),
    }
    if work.kind == "convnet":
        loops["by hand, loop, XLA convolution"] = by_hand.loop(
            work, by_hand.init_convnet, by_hand.convnet
        )
    return loops


def measure(work: Workload, rounds: int, with_peers: bool) -> bool:
    """Times one workload and prints its table; whether `fit` is as near as it must be."""
    epochs = work.epochs
    ours = {FIT: fit(work), TWIN: fit(work)}
    hands = hand_written(work)
    for run in (*ours.values(), *hands.values()):
        run(epochs)
    others = peers.prepared(work, (epochs,)) if with_peers else {}
    contenders = {name: partial(run, epochs) for name, run in {**ours, **hands, **others}.items()}
    print(f"\n{work.name}: {work.words}; {work.steps} steps an epoch, {epochs} epochs a run")
    times = interleaved(contenders, rounds)
    steps = work.steps * epochs
    for name, values in times.items():
        ratio = best(values) / best(times[FIT])
        print(f"  {name:<32}{1e6 * best(values) / steps:>10,.0f} us/step{ratio:>8.2f} x fit")
    print_overhead(work, ours[FIT], hands, min(rounds, 3), epochs)
    good = judge_hands(times, list(hands))
    judge_peers(work, times, list(others))
    return good


def print_overhead(
    work: Workload, ours: Run, hands: dict[str, Run], rounds: int, epochs: int
) -> None:
    """Splits the times of the jax contenders into those of a step and of a call."""
    runs = {FIT: ours, **hands}
    both = interleaved(
        {
            f"{name} {count}": partial(run, count)
            for name, run in runs.items()
            for count in (epochs, epochs + MORE)
        },
        rounds,
    )
    for name in runs:
        short, long = best(both[f"{name} {epochs}"]), best(both[f"{name} {epochs + MORE}"])
        step = (long - short) / (MORE * work.steps)
        rest = short - step * epochs * work.steps
        print(f"  {name:<32}{1e6 * step:>10,.0f} us/step more, {1e3 * rest:,.1f} ms a call")


def judge_hands(times: Times, hands: list[str]) -> bool:
    """Prints the verdict on `fit` against the loops by hand, and returns it."""
    fastest = min(hands, key=lambda name: best(times[name]))
    low, high = spread(times[TWIN], times[FIT])
    ratio = best(times[FIT]) / best(times[fastest])
    good = ratio <= 1 + tolerance(low, high, WITHIN)
    verdict = "NOT within" if not good else "ok" if ratio <= 1 + WITHIN else "ok, by noise alone"
    print(
        f"fit / best hand-written = {ratio:.2f} (A/A {low:.2f}-{high:.2f}): {verdict}  [{fastest}]"
    )
    return good


def judge_peers(work: Workload, times: Times, others: list[str]) -> None:
    """Prints the verdict on each family of peers, by the best of the family."""
    families: dict[str, list[str]] = {}
    for name in others:
        families.setdefault(name.split(",")[0], []).append(name)
    for family, names in families.items():
        ratio = min(best(times[name]) for name in names) / best(times[FIT])
        expected = EXPECTED.get((work.name, family), 1.0)
        verdict = "ok" if ratio >= expected else "behind" if ratio < 1 else "ahead, but NOT so far"
        print(f"{family} / fit = {ratio:.2f} (expected {expected}): {verdict}")


def print_versions() -> None:
    names = ("funcnet", "jax", "jaxlib", "optax", "flax", "numpy")
    found = {name: installed(name) for name in names} | peers.versions()
    device = jax.devices()[0]
    print("\n" + ", ".join(f"{name} {number}" for name, number in found.items()))
    print(
        f"Python {platform.python_version()}, {peers.cores()} cores, {device.device_kind}, "
        f"load average at the end {os.getloadavg()[0]:.1f}"
    )


def installed(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:  # a checkout on the path
        return "(not installed)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, help="epochs of each timed run, if not its own")
    parser.add_argument("--workload", choices=(*NAMES, "all"), default="all")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--no-check", action="store_true", help="exit with 0 in any case")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # a long run is watched through pipes too
    names = NAMES if options.workload == "all" else (options.workload,)
    works = [workload(name) for name in names]
    if options.epochs is not None:
        works = [work._replace(epochs=options.epochs) for work in works]
    good = [measure(work, options.rounds, options.peers) for work in works]
    print_versions()
    return int(not all(good) and not options.no_check)


if __name__ == "__main__":
    sys.exit(main())
