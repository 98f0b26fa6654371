"""Reads handwritten digits with one layer, two layers, and a convolutional network.

    python examples/mnist.py                              one seed of each: a minute on 2 cores
    python examples/mnist.py --seeds 0 1 2                three seeds, and their median
    python examples/mnist.py --seeds 0 --check 0.975      fails below this accuracy
    python examples/mnist.py --short                      20 seconds, only to see that it runs
    python examples/mnist.py --plan v5e:2x2               what a step takes on four chips of a TPU

The curves of each network and a confusion matrix are written as PNG into `out/` (or `--out`). The
same file runs on CPU, GPU and TPU: JAX takes what is there.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax

import funcnet as fn

BATCH = 128
DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there


def load():
    """The digits, 8,000 to learn from and 2,000 for the test, as bytes: they are scaled later."""
    with np.load(DIGITS) as data:
        x, y = data["x"][..., None], data["y"]  # (10000, 28, 28, 1): the last axis is channels
    return (x[:8000], y[:8000]), (x[8000:], y[8000:])


# ---------------------------------------------------------------------------- the three networks
# A layer is a model, or any function x -> y. Nobody states the size of an input: it is read from
# the data when the params are made.


def scale(x):
    return x / 255  # bytes to 0 .. 1; in the model, so that whoever uses it can't forget it


# Digits that nobody wrote, but somebody might have: turned and shifted a little, at random.
jitter = fn.augmentation.affine(degrees=12, shift=2)

MODELS = {
    "one layer": fn.sequential(scale, fn.flatten(), fn.dense(10)),
    "two layers": fn.sequential(scale, fn.flatten(), fn.dense(128), jax.nn.relu, fn.dense(10)),
    "convolutional": fn.sequential(
        scale,
        fn.augment(jitter),  # both this and dropout are the identity outside training
        *(fn.conv(12, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),  # (B, 14, 14, 12)
        *(fn.conv(24, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),  # (B, 7, 7, 24)
        *(fn.conv(48, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),  # (B, 3, 3, 48)
        fn.flatten(),
        fn.dropout(0.4),
        fn.dense(10),
    ),
}


# --------------------------------------------------------------------------------------- training


def make_trainer(model, epochs, examples):
    """What every network is trained with.

    The learning rate falls along a cosine over the first `epochs`: large steps first, then ever
    finer ones. From there on it stays small, and the fit goes on until nothing is gained.
    """
    rate = optax.cosine_decay_schedule(3e-3, epochs * -(-examples // BATCH), alpha=0.02)
    return fn.Trainer(
        model,
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(rate),
        metrics={"accuracy": fn.metrics.accuracy(), "confusion": fn.metrics.confusion_matrix(10)},
    )


def tell(event):
    """A line an epoch. A plain function of an event is a callback."""
    m = event.metrics
    print(
        f"  epoch {event.epoch:2}   loss {m['loss']:.4f}   val_loss {m['val_loss']:.4f}"
        f"   val_accuracy {m['val_accuracy']:.4f}",
        flush=True,
    )


def train(trainer, data, epochs, seed):
    """One fit, stopped when nothing has been gained for six epochs.

    A tenth of the data is held out to tell when: the test must not, or it would be a test no more.
    """
    return trainer.fit(
        data,
        validation=0.1,
        epochs=3 * epochs,  # more than it takes
        batch_size=BATCH,
        stopping=fn.early_stopping("val_loss", patience=6),
        callbacks=[tell],
        seed=seed,
        progress=False,  # the lines are enough, and read well in a log too
    )


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    data, test = load()
    epochs = 20
    if options.short:
        data, epochs = (data[0][:640], data[1][:640]), 2
    print(f"{len(data[0])} digits, on {jax.devices()[0].device_kind}")
    rows, accuracies = [], []
    for name, model in MODELS.items():
        trainer = make_trainer(model, epochs, round(0.9 * len(data[0])))
        if options.plan:
            print(f"\n{name}\n{fn.plan(trainer, data, topology=options.plan, batch_size=BATCH)}")
            continue
        accuracies, seconds = [], []
        for seed in options.seeds:
            print(f"\n{name}, seed {seed}", flush=True)
            began = time.perf_counter()
            result = train(trainer, data, epochs, seed)
            seconds.append(time.perf_counter() - began)
            values = trainer.evaluate(result.best, test)
            accuracies.append(values["accuracy"])
            print(f"  {result.message}; test accuracy {accuracies[-1]:.4f}", flush=True)
        size = fn.tree.size(result.best.params)
        each = " ".join(f"{accuracy:.4f}" for accuracy in accuracies)
        rows.append(
            f"{name:14} {size:>8,}   {np.median(accuracies):.4f}   {max(seconds):5.1f} s   {each}"
        )
        fn.plot(result).savefig(options.out / f"mnist_{name.replace(' ', '_')}.png")
    if options.plan:
        return
    fn.plot_confusion(values["confusion"]).savefig(options.out / "mnist_confusion.png")

    print("\nnetwork          params   median   slowest   test accuracy of each seed")
    print("\n".join(rows))
    print(f"\nThe curves and the last network's confusion matrix are in {options.out}/")
    if min(accuracies) < options.check:
        sys.exit(f"{name}: test accuracy {min(accuracies):.4f} is below {options.check}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--check", type=float, default=0.0, metavar="ACCURACY")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
