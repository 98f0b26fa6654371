"""Runs on Grain's pipelines, cut and gone on with, with several numbers of workers."""

import tempfile
from collections import Counter

import numpy as np

import funcnet as fn
from tests.trainer.test_checkpoints import Rows, piped, stop_at
from tests.training.test_laws import digest, noisy, trainer_of

BATCH, EPOCHS = 4, 2


def with_workers(workers):
    """Shuffled batches, made by so many processes; 0 for this one."""
    import grain

    found = piped(Rows(), batch_size=BATCH, lazily=True)
    if not workers:
        return found
    return found.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))


def cut(workers):
    """What became of runs with up to so many workers, each cut three times."""
    from absl import flags

    flags.FLAGS(["faults"], known_only=True)  # Grain's workers ask for flags
    trainer = trainer_of(noisy())
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "progress": False}
    wrong, found = [], Counter()
    for number in range(workers + 1):
        whole = trainer.fit(with_workers(number), **settings)
        with tempfile.TemporaryDirectory() as place:
            often = fn.checkpoint.every(place, steps=1, keep=1)
            for step in (3, 9, 14):
                stop = {"checkpoint": often, "callbacks": [stop_at(step)]}
                try:
                    trainer.fit(with_workers(number), **stop, **settings)
                except KeyboardInterrupt:
                    found["cuts"] += 1
            result = trainer.fit(with_workers(number), checkpoint=place, **settings)
        same = digest((result.last, result.best)) == digest((whole.last, whole.best))
        if same and np.array_equal(result.losses, whole.losses):
            found[f"{number} workers: the same bits"] += 1
        else:
            wrong.append(f"{number} workers: other bits")
    return found["cuts"], found, wrong
