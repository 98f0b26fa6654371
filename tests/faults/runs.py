"""A training whose process is killed, or asked to end, at random times, until it ends by itself.

A server imports all that is needed once; each process of a training is a fork of it that starts
JAX for itself, and compiles from a cache on the disk.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from funcnet.checkpoint import every, steps
from funcnet.trainer import feeds
from tests.faults import training

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
SHARE = 8
"""Signals to one run, at the most, before it is left to end by itself."""


def in_memory():
    """A folder in memory, or None where there is none; what a killed process has written outlives
    it there as it does on a disk, without waiting for one.
    """
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def environment(folder):
    """That of the processes of trainings; what they compile is kept in a folder."""
    return os.environ | ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}


def work(said, begun):
    """One process of a training, which goes on from where the last was ended."""

    def mark(kind):
        begun(kind)
        time.sleep(said["pause"])

    folder = Path(said["folder"])
    feeds.BLOCK_STEPS = 3  # of data on the host, so that there are chunks within an epoch
    result = training.train(
        training.make_trainer(),
        every(folder / "run", **said["policy"]),
        staged=said["staged"],
        callbacks=[training.telling(folder / "ledger", mark)],
    )
    (folder / "outcome").write_text(json.dumps(training.outcome(result)))


def forked(work):
    """The number of a process that does some work, and ends with the exit code that it says."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def ended(said):
    """Runs one process, and sends it a signal some time after it has begun; how it ended."""
    reading, writing = os.pipe()
    pid = forked(lambda: work(said, lambda kind: os.write(writing, kind[:1].encode())))
    os.close(writing)
    with open(reading, "rb", buffering=0) as marks:
        while (mark := marks.read(1)) and mark != said["mark"].encode():
            pass
        if said["signal"]:
            time.sleep(said["delay"])
            os.kill(pid, said["signal"])  # not waited for yet: the number is still its own
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def serve():
    """Answers each line of JSON with how a process of a training has ended."""
    import orbax.checkpoint.type_handlers  # noqa: F401 - before the fork

    for line in sys.stdin:
        print(ended(json.loads(line)), flush=True)


class Server:
    """Starts processes of trainings, each of which has a folder, and signals them."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(dir=in_memory()))
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests.faults.runs import serve; serve()"],
            env=environment(self.folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.wholes = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder)

    def ended(self, folder, policy, staged, number=0, delay=0.0, mark="c", pause=0.0):
        """How one process of a training ended that was sent a signal, or left alone."""
        folder.mkdir(exist_ok=True)
        said = {"folder": str(folder), "policy": policy, "staged": staged, "pause": pause}
        said |= {"signal": int(number), "delay": delay, "mark": mark}
        print(json.dumps(said), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def whole(self, staged):
        """What becomes of the training where nobody interrupts it."""
        if staged not in self.wholes:
            folder = self.folder / f"whole-{staged}"
            assert self.ended(folder, {"epochs": 1000}, staged) == 0
            self.wholes[staged] = json.loads((folder / "outcome").read_text())
        return self.wholes[staged]


def verdict(folder, whole, lost, name=""):
    """What is wrong with a run that has ended, or None; `lost` as in `training.what_is_wrong`."""
    found = json.loads((folder / f"outcome{name}").read_text())
    if other := [part for part in whole if found[part] != whole[part]]:
        return f"not as one that was left alone: {', '.join(other)}"
    if not found["ledger"]:
        return "the state has seen other examples"
    order = training.expected()[: whole["step"]]
    return training.what_is_wrong(folder / f"ledger{name}", order, lost)


class Fault(NamedTuple):
    """A way to end processes: by a signal, some time after the training has begun.

    Attributes:
        number: the signal.
        codes: of exit, as `subprocess` has them, with what each means.
        policies: when runs are saved, one after the other.
        longest: seconds from the beginning to the signal, at the most.
        pause: seconds to wait after each chunk of steps, as if they took longer.
        lost: whether steps after the last save may be lost.
    """

    number: int
    codes: dict[int, str]
    policies: list[dict[str, Any]]
    longest: float
    pause: float
    lost: bool


KILLED = Fault(
    signal.SIGKILL,
    {-signal.SIGKILL: "killed", 0: "had ended"},
    [{"steps": 3}, {"steps": 1, "keep": 1}, {"epochs": 1}, {"steps": 4, "asynchronous": False}],
    longest=0.7,
    pause=0.0,
    lost=True,
)
ASKED = Fault(
    signal.SIGTERM,
    {143: "saved and left with 143", 0: "had ended", -signal.SIGTERM: "had ended"},
    [{"minutes": 60}, {"steps": 5}, {"epochs": 2}, {"steps": 7, "asynchronous": False}],
    longest=0.3,
    pause=0.03,
    lost=False,
)


def is_staged(run):
    """Whether the data of a run stay on the host: those of two in three."""
    return run % 3 != 1


def met(fault, server, folder, run, draw):
    """One process of a run, and its signal: what became of it, and what is wrong with that."""
    code = server.ended(
        folder,
        fault.policies[run % len(fault.policies)],
        staged=is_staged(run),
        number=fault.number,
        delay=draw.uniform(0, fault.longest),
        mark=draw.choice("sccc"),  # from the beginning, or the first steps
        pause=fault.pause,
    )
    what = fault.codes.get(code, f"exit code {code}")
    if code not in fault.codes:
        return what, what
    if code == -signal.SIGKILL and any((folder / "run").glob(".saving-*")):
        what = "killed in a save"
    reached = training.reached(folder / "ledger")
    saved = steps(folder / "run")
    if code > 0 and saved[-1:] != [reached] and reached:
        return what, f"at step {reached}, saved {saved}"
    return what, None


def signalled(fault, number):
    """Runs whose processes are signalled, so many times in all: `(cases, counts, wrong)`."""
    draw, counts, wrong = random.Random(0), Counter(), []
    if not hasattr(os, "fork"):
        return 0, counts, wrong
    with Server() as server:
        whole = {staged: server.whole(staged) for staged in (False, True)}
        hits, run = 0, 0
        while hits < number and len(wrong) < 10:
            folder, staged = server.folder / f"run-{run}", is_staged(run)
            for _ in range(min(SHARE, number - hits)):
                what, trouble = met(fault, server, folder, run, draw)
                counts[what] += 1
                wrong += [(f"run {run}", trouble)] if trouble else []
                if what == "had ended":
                    break
                hits += 1
            code = server.ended(folder, fault.policies[run % len(fault.policies)], staged)
            trouble = verdict(folder, whole[staged], fault.lost) if not code else f"code {code}"
            counts["runs of the same SHA-256"] += trouble is None
            wrong += [(f"run {run}", trouble)] if trouble else []
            shutil.rmtree(folder)
            run += 1
    return hits, counts, wrong
