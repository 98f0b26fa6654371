"""One training by several processes: the same script, alone or as many as one likes.

    python examples/multi_process.py                                        one process
    python -m funcnet.distributed.launch -n 2 examples/multi_process.py     two, over loopback
    python examples/multi_process.py --short                                only to see that it runs
    python examples/multi_process.py --plan v5e:2x2                         four chips of a TPU

On a cluster the scheduler starts the processes, `srun python examples/multi_process.py` say, and
nothing in here changes. Each process has the digits, and sends to its own devices its own part of
each batch; gradients are summed over all. What is printed and written comes from one of them.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
import optax

import funcnet as fn

DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there
BATCH = 128


def load(examples):
    """Images, float32[examples, 784] in 0 .. 1, and digits."""
    with np.load(DIGITS) as data:
        x = data["x"][:examples].reshape(-1, 784).astype(np.float32) / 255
        return x, data["y"][:examples].astype(np.int32)


def make_trainer():
    return fn.Trainer(
        fn.sequential(
            *(fn.dense(256), fn.batch_norm(), jax.nn.relu, fn.dropout(0.2)),
            *(fn.dense(256), jax.nn.relu, fn.dense(10)),
        ),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adamw(1e-3),
        metrics={"accuracy": fn.metrics.accuracy()},
        placement=fn.fully_sharded(min_size=1024),  # over the devices of all processes
    )


def say(*words):
    """Prints, from one process."""
    if fn.distributed.is_main():
        print(*words, flush=True)


def told(event):
    """One line an epoch; every process calls it, one prints."""
    values = "   ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
    say(f"epoch {event.epoch}   {values}")


def main():
    options = parse()
    fn.distributed.initialize()  # before JAX is used
    examples, epochs = (1000, 1) if options.short else (10_000, 10)
    x, y = load(examples)
    held = examples // 5
    train, test = (x[:-held], y[:-held]), (x[-held:], y[-held:])
    trainer = make_trainer()
    if options.plan:
        say(fn.plan(trainer, train, topology=options.plan, batch_size=BATCH))
        return
    say(f"{jax.process_count()} processes, {jax.device_count()} devices")
    began = time.perf_counter()
    result = trainer.fit(
        fn.data.staged(*train),
        validation=0.1,
        epochs=epochs,
        batch_size=BATCH,
        stopping=fn.early_stopping("val_loss", patience=3),
        callbacks=[told],
        progress=False,
    )
    say(f"{result.message}; {time.perf_counter() - began:.1f} s")
    values = trainer.evaluate(result.best, test)  # by all processes
    say("   ".join(f"{name} {value:.4f}" for name, value in values.items()))
    params = fn.distributed.gathered(result.best.params)  # by all, too: each holds a part
    if fn.distributed.is_main():
        options.out.mkdir(parents=True, exist_ok=True)
        np.savez(options.out / "multi_process.npz", **fn.tree.paths(params))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="only to see that it runs")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
