"""A training that may be killed at any time: begun again it goes on, and ends with the same bits.

    python examples/resume.py                 trains in peace; then killed again and again; compares
    python examples/resume.py --short         the same with fewer digits, in less than a minute
    python examples/resume.py --run FOLDER    only trains: press Ctrl-C, kill it, say it again
    python examples/resume.py --plan v5e:2x2  what a step takes on four chips of a TPU

What `fit` needs for it is the argument `checkpoint`. Everything else here is the harm done: each
run is a process of its own, which gets SIGKILL, and so can't tidy up, at a random time.
"""

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax

import funcnet as fn

DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there
BATCH = 64


def load(examples):
    """Images, float32[examples, 784] in 0 .. 1, and digits."""
    with np.load(DIGITS) as data:
        x = data["x"][:examples].reshape(-1, 784).astype(np.float32) / 255
        return x, data["y"][:examples].astype(np.int32)


def make_trainer():
    return fn.Trainer(
        fn.sequential(
            *(fn.dense(128), fn.batch_norm(), jax.nn.relu, fn.dropout(0.2)),
            *(fn.dense(64), jax.nn.relu, fn.dense(10)),
        ),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adamw(optax.cosine_decay_schedule(2e-3, 2000)),
        metrics={"accuracy": fn.metrics.accuracy()},
    )


def train(folder, examples, epochs):
    """Trains, from wherever a run that was ended has left off, to the end."""

    def told(event):
        values = "   ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
        print(f"epoch {event.epoch}   {values}", flush=True)

    result = make_trainer().fit(
        load(examples),
        validation=0.2,
        epochs=epochs,
        batch_size=BATCH,
        stopping=fn.early_stopping("val_loss", patience=5),
        callbacks=[fn.Callback(lambda: True, begun), told],
        checkpoint=fn.checkpoint.every(folder, steps=20, keep=2),
        progress=False,
    )
    print(result.message)
    print(digest((result.last, result.best, result.history, result.losses)))


def begun(first, event):
    """Says where the training is, after the first steps of this process."""
    if first and event.kind == "chunk":
        print(f"at step {event.step} of {event.steps}", flush=True)
    return first and event.kind != "chunk"


def digest(tree):
    """SHA-256 of every array, in the order of their paths."""
    found = hashlib.sha256()
    for leaf in fn.tree.paths(tree).values():
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return found.hexdigest()


def run(folder, options, seconds=None):
    """Trains in a process that is killed some time after its first steps; its lines."""
    command = [sys.executable, __file__, "--run", str(folder), *["--short"] * options.short]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        first = child.stdout.readline()
        if seconds is not None:
            time.sleep(seconds)
            child.kill()
        lines = [first, *child.stdout]
    if child.returncode not in (0, -9):
        sys.exit(f"the training ended with exit code {child.returncode}")
    return [line.rstrip() for line in lines]


def show(options, kills, longest):
    """Trains twice, once killed again and again, and compares what has become of it."""
    draw = random.Random()
    whole, harmed = options.out / "resume_whole", options.out / "resume_killed"
    for folder in (whole, harmed):
        shutil.rmtree(folder, ignore_errors=True)
    *lines, expected = run(whole, options)
    print(f"in peace:     {lines[-2]}; {lines[-1]}; SHA-256 {expected}")
    for _ in range(kills):
        seconds = draw.uniform(0, longest)
        lines = run(harmed, options, seconds)
        saved = fn.checkpoint.steps(harmed)[-1:] or ["none"]
        print(f"killed:       {lines[0]}, SIGKILL after {seconds:.2f} s; saved: step {saved[0]}")
    *lines, found = run(harmed, options)
    print(f"left alone:   {lines[0]}; {lines[-1]}; SHA-256 {found}")
    if found != expected:
        sys.exit("NOT the same bits")
    print("the same bits, in params, optimizer, history and losses")


def main():
    options = parse()
    examples, epochs = (1000, 10) if options.short else (10_000, 20)
    if options.plan:
        x, y = load(examples)
        print(fn.plan(make_trainer(), (x, y), topology=options.plan, batch_size=BATCH))
    elif options.run:
        train(options.run, examples, epochs)
    else:
        show(options, *((3, 2.0) if options.short else (10, 4.0)))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for both runs")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="only train, saving there")
    parser.add_argument("--short", action="store_true", help="fewer digits, epochs and kills")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
