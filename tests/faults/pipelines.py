"""Runs on Grain's pipelines, cut and gone on with, with several numbers of workers."""

import tempfile
from collections import Counter

import numpy as np

import funcnet as fn
from tests.training.test_laws import data, digest, noisy, trainer_of

EXAMPLES, BATCH, EPOCHS = 40, 4, 2


class Rows:
    """A source of examples for Grain."""

    def __init__(self):
        self.x, self.y = data(EXAMPLES)

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def piped(workers):
    """Shuffled batches, made by so many processes; 0 for this one."""
    import grain

    found = grain.MapDataset.source(Rows()).shuffle(seed=5).to_iter_dataset().batch(BATCH)
    if not workers:
        return found
    return found.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))


def crash_at(step):
    """A callback that ends the fit as a crash would."""

    def update(memory, event):
        if event.step >= step:
            raise KeyboardInterrupt
        return memory

    return fn.Callback(lambda: None, update)


def cut(workers):
    """What became of runs with up to so many workers, each cut three times."""
    from absl import flags

    flags.FLAGS(["faults"], known_only=True)  # Grain's workers ask for flags
    trainer = trainer_of(noisy())
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "progress": False}
    wrong, found = [], Counter()
    for number in range(workers + 1):
        whole = trainer.fit(piped(number), **settings)
        with tempfile.TemporaryDirectory() as place:
            often = fn.checkpoint.every(place, steps=1, keep=1)
            for step in (3, 9, 14):
                try:
                    crash = [crash_at(step)]
                    trainer.fit(piped(number), checkpoint=often, callbacks=crash, **settings)
                except KeyboardInterrupt:
                    found["cuts"] += 1
            result = trainer.fit(piped(number), checkpoint=place, **settings)
        same = digest((result.last, result.best)) == digest((whole.last, whole.best))
        if same and np.array_equal(result.losses, whole.losses):
            found[f"{number} workers: the same bits"] += 1
        else:
            wrong.append(f"{number} workers: other bits")
    return found["cuts"], found, wrong
