"""Brings about faults, and prints a table of what became of them.

`python -m tests.faults` runs all; `--short` runs few of each kind, in under three minutes.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from tests.faults import damage, kills, pipelines, poison, ranks, resumes, runs


def damaged(make):
    """How often a damaged step was passed over, and what else became of it."""

    def run(number):
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "run"
            damage.save_two(directory)
            cases = list(make(directory, number))
        wrong = [case for case in cases if case[1] not in ("before", "newest")]
        return len(cases), Counter(what for _, what in cases), wrong

    return run


def killed(every):
    """How often which step was the newest after a kill."""
    cases = list(kills.cases(every)) if kills.available() else []
    fine = {f"newest is {step}" for step in (2, 3, 4)}
    wrong = [case for case in cases if case[1] not in fine or not case[2]]
    return len(cases), Counter(what for _, what, _ in cases), wrong


def hostile(number):
    """What became of files made to harm."""
    command = [sys.executable, "-m", "tests.faults.hostile", str(number)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        return 0, {}, [run.stderr[-2000:]]
    found = json.loads(run.stdout)
    more = found["memory"] / 2**20
    wrong = [*found["wrong"], *found["seen"], *([f"{more:.0f} MiB more"] if more > 512 else [])]
    return sum(found["outcomes"].values()), found["outcomes"], wrong


ROWS = {
    "a bit turned over": (damaged(damage.flips), 1000, 100),
    "a file cut, emptied, deleted": (damaged(lambda path, _: damage.losses(path)), 0, 0),
    "a kill at each call of a save": (killed, 1, 40),
    "files made to harm": (hostile, 1000, 100),
    "a run killed at any time": (partial(runs.signalled, runs.KILLED), 100, 6),
    "a run told to end at any time": (partial(runs.signalled, runs.ASKED), 50, 3),
    "one of two processes killed": (ranks.killed, 20, 1),
    "a run cut at each of 50 steps": (resumes.each_step, 1, 10),
    "a run cut in each epoch": (resumes.each_epoch, 1, 6),
    "a run moved to other devices": (resumes.on_devices, 1, 3),
    "a pipeline of Grain's, cut": (pipelines.cut, 2, 0),
    "NaN put into a guarded run": (poison.injected, 200, 50),
}
"""What is done, and its number in the long and in the short form; of calls, cuts and
devices, every so manieth."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few of each kind")
    options = parser.parse_args()
    logging.getLogger("funcnet").setLevel(logging.CRITICAL)
    good = True
    print(f"{'fault':<32}{'cases':>6}  {'seconds':>7}  what became of them")
    for name, (run, long, short) in ROWS.items():
        begin = time.perf_counter()
        number, found, wrong = run(short if options.short else long)
        words = ", ".join(f"{what} {count}" for what, count in sorted(found.items()))
        took = time.perf_counter() - begin
        print(f"{name:<32}{number:>6}  {took:>7.0f}  {words}", flush=True)
        for each in wrong[:10]:
            print(f"    WRONG: {each}")
        good = good and not wrong
    print("all as promised" if good else "NOT all as promised")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
