"""A training that is taken up at each of its steps, at each epoch, and on other devices.

`python -m tests.faults.resumes` does the last, on eight virtual devices, and prints JSON.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np

import funcnet as fn
from funcnet.checkpoint import every, steps
from tests.faults import runs, training

DEVICES = 1, 2, 4, 8


def differences(whole, result):
    """The parts of two outcomes that are not the same."""
    found = training.outcome(result)
    return [part for part in whole if found[part] != whole[part]]


def up_to(directory, step, folder):
    """A copy of what was saved, as it was when a step had just been saved."""
    for each in steps(directory):
        if each <= step:
            name = f"step-{each:012d}"
            shutil.copytree(directory / name, folder / name)
    return folder


def each_step(every_so_many):
    """A run of 50 steps, all of which were saved, taken up after each of them."""
    trainer, wrong, found = training.make_trainer(), [], Counter()
    with tempfile.TemporaryDirectory(dir=runs.in_memory()) as place:
        root = Path(place)
        whole = training.train(trainer, every(root / "all", steps=1, keep=50), steps=50)
        alone = training.outcome(training.train(trainer, steps=50))
        saved = steps(root / "all")
        if saved != list(range(1, 51)) or differences(alone, whole):
            wrong.append(("saved", saved))
        for step in saved[::every_so_many]:
            folder = up_to(root / "all", step, root / str(step))
            told = training.telling(root / f"ledger-{step}")
            result = training.train(trainer, every(folder, steps=1000), steps=50, callbacks=[told])
            start, rows = training.attempts(root / f"ledger-{step}")[0]
            other = differences(alone, result)
            if (start, len(rows)) != (step, 50 - step):
                other.append("its place")
            found["the same SHA-256" if not other else "another"] += 1
            wrong += [(f"from step {step}", other)] if other else []
            shutil.rmtree(folder)
    return sum(found.values()), found, wrong


def each_epoch(every_so_many):
    """A run that stops since nothing improves, cut off after each epoch and in the midst of it."""
    trainer, wrong, found = training.make_trainer(), [], Counter()
    alone = training.train(trainer)
    whole = training.outcome(alone)
    assert alone.reason == fn.Reason.PATIENCE
    ends = range(1, len(alone.history["loss"]) + 1)
    cuts = [training.PER_EPOCH * epoch - short for epoch in ends for short in (4, 0)]
    with tempfile.TemporaryDirectory(dir=runs.in_memory()) as place:
        for cut in cuts[::every_so_many]:
            folder = Path(place) / str(cut)
            training.train(trainer, folder, steps=cut)
            other = differences(whole, training.train(trainer, folder))
            other += differences(whole, training.train(trainer, folder, epochs=100))
            found["stopped at the same step" if not other else "another"] += 1
            wrong += [(f"from step {cut}", other)] if other else []
    return sum(found.values()), found, wrong


def placements(counts):
    """Trainers over more and more devices, each of which holds a part of the params."""
    several = {n: fn.fully_sharded(jax.devices()[:n], min_size=16) for n in counts if n > 1}
    return {n: training.make_trainer(several.get(n)) for n in counts}


def moved(root, trainers, here, there, whole):
    """What becomes of a run that was saved on some devices and goes on on others."""
    folder = root / f"from-{here}-to-{there}"
    shutil.copytree(root / str(here), folder)
    trainer = trainers[there]
    at_once = training.train(trainer, folder, steps=10)
    if differences(whole[here][0], at_once):
        return "other values"
    on = training.train(trainer, folder, steps=20)
    if here == there:
        return "other bits later" if differences(whole[here][1], on) else "the same bits"
    # sums of another order: 1e-6 after 20 steps of float32 as a rule, of losses near 1
    close = np.allclose(on.losses, whole["losses"], rtol=1e-4)
    return "the same values" if close else "other losses later"


def devices(counts):
    """What becomes of runs saved on so many devices each that go on on so many."""
    trainers, whole = placements(counts), {}
    with tempfile.TemporaryDirectory(dir=runs.in_memory()) as place:
        for n, trainer in trainers.items():
            half = training.train(trainer, Path(place) / str(n), steps=10)
            full = training.train(trainer, steps=20)
            whole[n] = training.outcome(half), training.outcome(full)
            whole.setdefault("losses", full.losses)
        pairs = [(here, there) for here in counts for there in counts]
        return {
            f"from {here} to {there}": moved(Path(place), trainers, here, there, whole)
            for here, there in pairs
        }


def on_devices(every_so_many):
    """The same of 1, 2, 4, 8 devices in a process of its own: `(cases, counts, wrong)`."""
    with tempfile.TemporaryDirectory() as cache:
        more = {"JAX_NUM_CPU_DEVICES": "8", "XLA_FLAGS": ""}
        run = subprocess.run(
            [sys.executable, "-m", "tests.faults.resumes", *map(str, DEVICES[::every_so_many])],
            env=runs.environment(Path(cache)) | more,
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode:
        return 0, {}, [run.stderr[-2000:]]
    found = json.loads(run.stdout)
    wrong = [case for case in found.items() if not case[1].startswith("the same")]
    return len(found), Counter(found.values()), wrong


if __name__ == "__main__":
    print(json.dumps(devices([int(n) for n in sys.argv[1:]])))
