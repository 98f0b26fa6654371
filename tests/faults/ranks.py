"""One training of two processes, either of which is killed; the launcher begins both again.

python -m funcnet.distributed.launch -n 2 -m tests.faults.ranks FOLDER
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax

import funcnet as fn
from funcnet.checkpoint import every
from tests.faults import runs, training

SHARE = 5
"""Kills to one run, at the most, before it is left to end by itself."""


def main(folder):
    """One of the processes."""
    fn.distributed.initialize()
    me = jax.process_index()

    def begun(kind):
        if kind == "chunk":
            draft = folder / f".pid-{me}"
            draft.write_text(str(os.getpid()))
            draft.rename(folder / f"pid-{me}")

    result = training.train(
        training.make_trainer(fn.data_parallel()),
        every(folder / "run", steps=4),
        callbacks=[training.telling(folder / f"ledger-{me}", begun)],
    )
    (folder / f"outcome-{me}").write_text(json.dumps(training.outcome(result)))


def launched(folder, restarts, environment):
    """A launcher that has begun the training."""
    command = [sys.executable, "-m", "funcnet.distributed.launch", "-n", "2"]
    command += ["--restarts", str(restarts), "--grace", "2", "--timeout", "400"]
    return subprocess.Popen(
        [*command, "-m", "tests.faults.ranks", str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def begun(launcher, folder, before):
    """The numbers of both processes once each, begun anew, has taken steps; None if all is over."""
    while launcher.poll() is None:
        found = [folder / f"pid-{rank}" for rank in (0, 1)]
        if all(path.exists() for path in found):
            pids = [int(path.read_text()) for path in found]
            if not set(pids) & before:
                return pids
        time.sleep(0.005)
    return None


def kill(pid, delay):
    """Kills a process after some time; whether it was still there."""
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        time.sleep(delay)
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(held)
    return True


def one_run(folder, kills, draw, environment):
    """A run whose processes are killed in turn, as often as is said: `(ranks, words, code)`."""
    folder.mkdir()
    launcher = launched(folder, kills, environment)
    killed, before = [], set()
    try:
        while len(killed) < kills and (pids := begun(launcher, folder, before)):
            rank = (len(killed) + kills) % 2 if kills > 1 else draw.randrange(2)
            before |= set(pids)
            if kill(pids[rank], draw.uniform(0, 0.6)):
                killed.append(rank)
        _, words = launcher.communicate(timeout=500)
    finally:
        launcher.kill()
    return killed, words, launcher.returncode


def trouble_of(folder, whole, killed, words, code):
    """What is wrong with a run that has ended, or None."""
    if code:
        return f"exit code {code}: {words[-300:]}"
    said = [line for line in words.splitlines() if line.startswith("[launch]")]
    if len(said) != len(killed):
        return f"{len(killed)} kills, but the launcher says {said}"
    return next(filter(None, (runs.verdict(folder, whole, True, f"-{r}") for r in (0, 1))), None)


def killed(number):
    """Runs of two processes, either of which is killed: `(cases, counts, wrong)`."""
    draw, counts, wrong, kills, run = random.Random(0), Counter(), [], 0, 0
    if not hasattr(os, "pidfd_open"):  # by which a process is never mistaken for another
        return 0, counts, wrong
    with tempfile.TemporaryDirectory(dir=runs.in_memory()) as place:
        root = Path(place)
        environment = runs.environment(root)
        one_run(root / "whole", 0, draw, environment)
        whole = json.loads((root / "whole" / "outcome-0").read_text())
        while kills < number and len(wrong) < 5:
            folder = root / f"run-{run}"
            ranks, words, code = one_run(folder, min(SHARE, number - kills), draw, environment)
            counts.update(f"rank {rank} killed" for rank in ranks)
            trouble = trouble_of(folder, whole, ranks, words, code)
            counts["runs of the same SHA-256"] += trouble is None
            wrong += [(f"run {run}", trouble)] if trouble else []
            kills, run = kills + len(ranks), run + 1
    return kills, counts, wrong


if __name__ == "__main__":
    main(Path(sys.argv[1]))
