"""One program on one device and on many: the same network, divided in four ways, the same result.

    python examples/multi_device.py                on all devices; on CPU, on eight virtual ones
    python examples/multi_device.py --short        a minute or less, only to see that it runs
    python examples/multi_device.py --plan v5e:2x2   what a step takes on four chips of a TPU

Nothing in the model or in `fit` changes; where arrays live is one value, given to the trainer.
Virtual devices share one processor, so the times say what dividing costs, not what it gains.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
import optax

import funcnet as fn

DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there
OUT = Path("out")


def load(examples):
    """Images, float32[examples, 784] in 0 .. 1, and digits."""
    with np.load(DIGITS) as data:
        x = data["x"][:examples].reshape(-1, 784).astype(np.float32) / 255
        return x, data["y"][:examples].astype(np.int32)


def model(width):
    return fn.sequential(
        first=fn.sequential(fn.dense(width), fn.batch_norm(), jax.nn.relu, fn.dropout(0.2)),
        second=fn.sequential(fn.dense(width), jax.nn.relu),
        out=fn.dense(10),
    )


def placements():
    """Four ways to divide the same training."""
    n = jax.device_count()
    found = {
        "one device": None,
        "data parallel: a part of the batch on each": fn.data_parallel(),
        "fully sharded: a part of the params too": fn.fully_sharded(min_size=1024),
    }
    if n % 2 == 0:
        # the first layer is divided by columns, the second by rows: one sum for both
        rules = {"first/0/kernel": (None, "model"), "second/0/kernel": ("model", None)}
        found["tensor parallel: a part of each layer, for two"] = fn.on_mesh(
            {"data": -1, "model": 2}, rules=rules
        )
    return found


def make_trainer(placement, width):
    return fn.Trainer(
        model(width),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.sgd(0.1, momentum=0.9),
        metrics={"accuracy": fn.metrics.accuracy()},
        placement=placement,
    )


def train(placement, data, width, epochs):
    trainer = make_trainer(placement, width)
    began = time.perf_counter()
    result = trainer.fit(data, validation=0.2, epochs=epochs, batch_size=128, progress=False)
    return result, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="only to see that it runs")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)  # virtual ones; a GPU or TPU has its own
    examples, width, epochs = (1000, 64, 1) if options.short else (10_000, 512, 3)
    data = load(examples)
    if options.plan:
        for name, placement in placements().items():
            trainer = make_trainer(placement, width)
            print(f"{name}\n{fn.plan(trainer, data, topology=options.plan, batch_size=128)}\n")
        return
    print(f"{jax.device_count()} devices: {jax.devices()[0].device_kind}\n")
    losses = {}
    for name, placement in placements().items():
        result, seconds = train(placement, data, width, epochs)
        losses[name] = result.history["val_loss"]
        accuracy = result.history["val_accuracy"][-1]
        print(f"{name:<50} {seconds:5.1f} s   validation {losses[name][-1]:.6f}, {accuracy:.4f}")
        if placement is not None:
            there = fn.describe(placement, result.last)
            print(f"{'':<50} {there.total()}")
    OUT.mkdir(exist_ok=True)
    fn.plot(there).savefig(OUT / "placement.png")
    print(f"\nwhat lives where, by the last: {OUT / 'placement.png'}\n{there}")
    alone = losses.pop("one device")
    for name, line in losses.items():
        np.testing.assert_allclose(line, alone, rtol=2e-2, err_msg=name)


if __name__ == "__main__":
    main()
