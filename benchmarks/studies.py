"""Many trainings as one program, against Keras one by one: `python -m benchmarks.studies`.

32 networks of 64 hidden units on scikit-learn's digits, up to 60 epochs each, stopped early after 5
without improvement, which differ by their seed. "First" counts the compilation, in a process that
has compiled nothing before and without a cache on disk; "again" doesn't. Keras compiles each of its
models anew. It joins where it is installed: `pip install -e '.[peers,examples]'`.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import funcnet as fn
from benchmarks.timing import best, interleaved
from funcnet.studies.members import Member, gather, keys, train

TRAININGS, EPOCHS, PATIENCE, BATCH, RATE = 32, 60, 5, 32, 1e-3

FIRST, AGAIN = 15, 25
"""How many times as long as a study Keras is expected to take, with compilation and without."""


def digits() -> tuple[Any, Any]:
    """Training and validation examples."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.data))
    x = (found.data[order] / 16).astype(np.float32)
    y = found.target[order].astype(np.int32)
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def trainer() -> fn.Trainer:
    return fn.Trainer(
        fn.sequential(fn.dense(64), jax.nn.relu, fn.dense(10)),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(RATE),
        metrics={"accuracy": fn.metrics.accuracy()},
    )


def stopping() -> Any:
    return fn.early_stopping("val_loss", patience=PATIENCE)


def study(by: str, data: Any, validation: Any, trainings: int) -> Callable[[], Any]:
    """All trainings over one compiled run, in a loop or mapped."""
    run = fn.make_run(trainer(), epochs=EPOCHS, batch_size=BATCH, stopping=stopping())
    members = Member(keys(0, trainings))

    def all_of_them() -> Any:
        trained = train(run, members, data, validation, by=by, progress=False)
        return jax.block_until_ready(gather(trained))

    return all_of_them


def fits(data: Any, validation: Any, trainings: int) -> Callable[[], Any]:
    """All trainings by `fit`, one after the other, on one trainer."""
    one = trainer()

    def all_of_them() -> Any:
        return [
            one.fit(
                data,
                validation=validation,
                epochs=EPOCHS,
                batch_size=BATCH,
                stopping=stopping(),
                seed=seed,
                progress=False,
            )
            for seed in range(trainings)
        ]

    return all_of_them


def keras(data: Any, validation: Any, trainings: int) -> Callable[[], Any]:
    """All trainings by Keras on JAX, one after the other, as its guide does it."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras as k

    def one(seed: int) -> Any:
        k.utils.set_random_seed(seed)
        layers = [k.Input((64,)), k.layers.Dense(64, "relu"), k.layers.Dense(10)]
        model = k.Sequential(layers)
        model.compile(
            k.optimizers.Adam(RATE),
            loss=k.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        stop = k.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
        return model.fit(
            *data,
            validation_data=validation,
            epochs=EPOCHS,
            batch_size=BATCH,
            callbacks=[stop],
            verbose=0,
        )

    return lambda: [one(seed) for seed in range(trainings)]


def seconds(f: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = f()
    return time.perf_counter() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=TRAININGS)
    parser.add_argument("--rounds", type=int, default=5, help="of each but Keras, once warm")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    data, validation = digits()
    n = options.trainings
    print(
        f"{n} trainings on {jax.devices()[0].device_kind}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, jax {version('jax')}"
    )
    contenders = {
        "one compiled run, in a loop": study("loop", data, validation, n),
        "one compiled run, mapped": study("vmap", data, validation, n),
        "fit, one by one": fits(data, validation, n),
    }
    first = {name: seconds(f) for name, f in contenders.items()}
    runs = first["one compiled run, in a loop"][1]
    epochs = np.asarray(runs.epochs)
    scores = np.asarray(runs.history["val_accuracy"])[np.arange(n), np.asarray(runs.best_epoch)]
    print(f"epochs {epochs.min()} to {epochs.max()}, mean accuracy {scores.mean():.4f}")
    again = {name: best(v) for name, v in interleaved(contenders, options.rounds).items()}
    peer = None
    if not options.no_peers and find_spec("keras"):
        peer, histories = seconds(partial(keras(data, validation, n)))
        epochs = [len(h.epoch) for h in histories]
        score = np.mean([max(h.history["val_accuracy"]) for h in histories])
        print(
            f"Keras {version('keras')}: epochs {min(epochs)} to {max(epochs)}, at most {score:.4f}"
        )
    print(f"\n{'':<32}{'first':>10}{'again':>10}{'Keras / first':>16}{'Keras / again':>16}")
    for name, (once, _) in first.items():
        ratios = "" if peer is None else f"{peer / once:>16.1f}{peer / again[name]:>16.1f}"
        print(f"{name:<32}{once:>8.2f} s{again[name]:>8.2f} s{ratios}")
    if peer is None:
        return
    print(f"{'Keras, one by one':<32}{peer:>8.2f} s")
    ways = [name for name in contenders if name.startswith("one compiled")]
    ahead = max(peer / first[way][0] for way in ways), max(peer / again[way] for way in ways)
    if ahead[0] < FIRST or ahead[1] < AGAIN:
        sys.exit(f"expected at least {FIRST} and {AGAIN} times as fast as Keras, got {ahead}")


if __name__ == "__main__":
    main()
