"""Searches a learning rate, a weight decay, a dropout and a width, over 32 networks at random.

    python examples/sweep.py                 a minute or two on 2 cores
    python examples/sweep.py --halving       64 networks, most of which stop early
    python examples/sweep.py --short         half a minute, only to see that it runs
    python examples/sweep.py --plan v5e:2x2  what a step of one network takes on four TPU chips

Numbers are traced: the networks of one width are one program, compiled once, however many rates,
decays and dropouts are tried. A width decides on shapes, so each has a program of its own. What is
finished is written into `out/sweep.jsonl`; stop the script and start it again, and it goes on from
there. The picture is `out/sweep.png`.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
import optax

import funcnet as fn

DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there

SPACE = {
    "rate": fn.log_uniform(1e-4, 1e-1),
    "decay": fn.log_uniform(1e-4, 1e0),
    "dropout": fn.uniform(0.0, 0.6),
    "width": [32, 128],
}


def make_trainer(chosen):
    """The trainer of a setting; `chosen` has a value for each name of the space."""
    return fn.Trainer(
        fn.sequential(
            lambda x: x / 255,
            fn.flatten(),
            fn.dense(chosen["width"]),
            jax.nn.relu,
            fn.dropout(chosen["dropout"]),
            fn.dense(10),
        ),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adamw(chosen["rate"], weight_decay=chosen["decay"]),
        metrics={"accuracy": fn.metrics.accuracy()},
    )


def load():
    """Digits to learn from, a validation part to choose by, and a test that chooses nothing."""
    with np.load(DIGITS) as data:
        x, y = data["x"][..., None], data["y"]  # (10000, 28, 28, 1)
    return (x[:4000], y[:4000]), (x[4000:6000], y[4000:6000]), (x[8000:], y[8000:])


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    data, validation, test = load()
    if options.plan:
        chosen = {"rate": 1e-3, "decay": 1e-2, "dropout": 0.3, "width": 128}
        print(fn.plan(make_trainer(chosen), data, topology=options.plan, batch_size=64))
        return
    trials, epochs = (64 if options.halving else 32), 20
    if options.short:
        data, trials, epochs = (data[0][:640], data[1][:640]), 8, 3
    name = f"sweep{'_halving' * options.halving}{'_short' * options.short}"
    began = time.perf_counter()
    swept = fn.sweep(
        make_trainer,
        SPACE,
        data,
        validation=validation,
        epochs=epochs,
        batch_size=64,
        stopping=fn.early_stopping("val_loss", patience=3),
        trials=trials,
        halving=fn.halving(eta=3, start=2) if options.halving else None,
        file=options.out / f"{name}.jsonl",
    )
    print(swept)  # the best five; `swept.table()` has all
    print(f"\n{len(swept)} networks in {time.perf_counter() - began:.0f} s")

    best = swept.best
    values = make_trainer(best.hyperparameters).evaluate(swept.result().best, test)
    print(f"the best of them, trial {best.number}: test accuracy {values['accuracy']:.4f}")
    fn.plot(swept).savefig(options.out / f"{name}.png", dpi=150)
    print(f"wrote {options.out / name}.png and {options.out / name}.jsonl")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--halving", action="store_true", help="stop most networks early")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for what is written")
    parser.add_argument("--short", action="store_true", help="few networks, few epochs")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
