"""Learns five digits from five images of each, by way of a network that knows the five others.

    python examples/transfer.py                 three seeds; under a minute on 2 cores
    python examples/transfer.py --seeds 0       one seed
    python examples/transfer.py --short         some seconds, only to see that it runs
    python examples/transfer.py --plan v5e:2x2  what a step takes on four chips of a TPU

A network learns 0 to 4 from 4,088 digits and is saved as PyTorch would save it: with its names and
layouts, as safetensors. That file stands for any that somebody has published. It is loaded by a map
of names under a new head for 5 to 9, and 25 images are all there is to learn these: first the head
learns alone, with all else frozen, then everything at a small rate. The same network without the
file learns from the same images. How both do is printed, and drawn into `out/transfer.png`.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np
import optax

import funcnet as fn

DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there
EACH = 5  # images of each new digit to learn from
WAYS = "from scratch", "new head, rest frozen", "then all of it"


def load():
    """The digits 0 to 4, and 5 to 9 counted from 0 again; each to learn from and to test."""
    with np.load(DIGITS) as data:
        x, y = data["x"][..., None], data["y"].astype(np.int32)  # (10000, 28, 28, 1)
    train, test = slice(0, 8000), slice(8000, None)
    old, new = y < 5, y >= 5
    return [
        (x[rows][chosen[rows]], y[rows][chosen[rows]] % 5)
        for chosen in (old, new)
        for rows in (train, test)
    ]


def few(data, seed):
    """So many images of each digit, drawn at random."""
    x, y = data
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(y == digit), EACH, replace=False) for digit in range(5)]
    return x[np.concatenate(rows)], y[np.concatenate(rows)]


# ------------------------------------------------------------------------------------ the network


def make_model(freeze=False):
    """A body whose weights are worth having, and a head that each task has for itself."""
    body = fn.sequential(
        *(fn.conv(12, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),  # (B, 14, 14, 12)
        *(fn.conv(24, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),  # (B, 7, 7, 24)
        *(fn.conv(48, (3, 3)), jax.nn.relu, fn.max_pool((2, 2))),  # (B, 3, 3, 48)
    )
    return fn.sequential(
        scale=lambda x: x / 255,
        body=fn.frozen(body) if freeze else body,
        flat=fn.flatten(),
        dropout=fn.dropout(0.3),
        head=fn.dense(5),
    )


# What PyTorch calls the same layers. Its `nn.Sequential` numbers them as ours does, and a layer's
# own arrays, weight and bias there, kernel and bias here, need no line.
NAMES = {"features": "body", "classifier": "head"}
FLATTENED = {"head": (3, 3, 48)}  # what `flat` is given: PyTorch flattens the channels first


def make_trainer(optimizer, freeze=False):
    return fn.Trainer(
        make_model(freeze),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optimizer,
        metrics={"accuracy": fn.metrics.accuracy()},
    )


def falling(rate, steps):
    """Adam, with a rate that falls along a cosine."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


# --------------------------------------------------------------------------------------- training


def publish(path, data, test, steps):
    """Learns the old digits, and saves the network for PyTorch."""
    trainer = make_trainer(optax.adam(3e-3))
    last = trainer.fit(data, steps=steps, batch_size=128, progress=False).last
    accuracy = trainer.evaluate(last, test, batch_size=256)["accuracy"]
    print(f"0 to 4 from {len(data[0])} images: test accuracy {accuracy:.4f}; saved to {path}")
    trained = last.params, last.model_state
    fn.checkpoint.save_torch(path, trained, names=NAMES, flatten=FLATTENED)
    for name, array in fn.checkpoint.load_weights(path).items():
        print(f"  {name:20} {array.dtype}{list(array.shape)}")


def ways(path, steps):
    """A function that gives the test accuracies of three ways to learn from few images."""
    scratch = make_trainer(falling(3e-3, 2 * steps))
    head = make_trainer(fn.parts({"head/**": falling(3e-3, steps), "**": None}), freeze=True)
    whole = make_trainer(falling(5e-4, steps))

    def compare(data, test, seed):
        def learn(trainer, n, start=None):
            last = trainer.fit(
                data, steps=n, batch_size=5 * EACH, seed=seed, start=start, progress=False
            ).last
            return last, trainer.evaluate(last, test, batch_size=256)["accuracy"]

        new = make_model().init(jax.random.key(seed), data[0])  # of which only the head is kept
        loaded = fn.checkpoint.load_torch(path, new, names=NAMES, skip="head/**")
        tuned, of_head = learn(head, steps, start=loaded)
        _, of_whole = learn(whole, steps, start=tuned)
        _, of_scratch = learn(scratch, 2 * steps)
        return of_scratch, of_head, of_whole

    return compare


def draw(accuracies, path):
    """A line for each seed, from way to way."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for seed, line in accuracies.items():
        axes.plot(WAYS, line, "o-", label=f"seed {seed}")
    axes.set(ylabel="test accuracy", title=f"5 to 9 from {EACH} images of each")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    old, old_test, new, new_test = load()
    steps, tuning = (16, 10) if options.short else (192, 150)
    if options.plan:
        trainer = make_trainer(fn.parts({"head/**": optax.adam(3e-3), "**": None}), freeze=True)
        print(fn.plan(trainer, few(new, 0), topology=options.plan, batch_size=24))
        return
    path = options.out / "digits.safetensors"
    publish(path, old, old_test, steps)

    print(f"\n5 to 9 from {5 * EACH} images, test accuracy on {len(new_test[0])}:")
    print("seed   " + "   ".join(WAYS))
    accuracies, compare = {}, ways(path, tuning)
    for seed in options.seeds[:1] if options.short else options.seeds:
        found = accuracies[seed] = compare(few(new, seed), new_test, seed)
        cells = [f"{value:>{len(way)}.4f}" for way, value in zip(WAYS, found, strict=True)]
        print(f"{seed:4}   " + "   ".join(cells), flush=True)
    draw(accuracies, options.out / "transfer.png")
    if options.short:
        print("(so few steps only show that it runs)")
    print(f"\ndrawn into {options.out / 'transfer.png'}")
    gains = [whole - scratch for scratch, _, whole in accuracies.values()]
    if not options.short and min(gains) < 0.02:
        sys.exit(f"the file must be worth having for every seed, got {gains}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
