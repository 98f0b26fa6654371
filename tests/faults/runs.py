"""A training whose process is killed, or asked to end, at random times, until it ends by itself.

A server imports all that is needed once; each process of a training is a fork of it that starts
JAX for itself, and compiles from a cache on the disk.
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

from funcnet.checkpoint import every, steps
from tests.faults.kills import forked

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}


def environment(folder):
    """That of the processes of trainings; what they compile is kept in a folder."""
    return os.environ | ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}


def work(said, begun):
    """One process of a training, from where the last was ended."""
    from tests.faults import training

    folder = Path(said["folder"])
    checkpoint = every(folder / "run", **said["policy"]) if said["policy"] else None
    result = training.train(
        training.make_trainer(),
        checkpoint,
        staged=said["staged"],
        callbacks=[training.telling(folder / "ledger", begun)],
    )
    (folder / "outcome").write_text(json.dumps(training.outcome(result)))


def watch(said):
    """Runs one process, and sends it a signal some time after it has begun; how it ended."""
    import signal as signals

    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        code = 1
        try:
            signals.signal(signals.SIGINT, signals.default_int_handler)
            work(said, lambda kind: os.write(writing, kind[:1].encode()))
            code = 0
        except SystemExit as left:
            code = left.code
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
        finally:
            os._exit(code)
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

    from tests.faults import training  # noqa: F401 - before the fork

    for line in sys.stdin:
        print(watch(json.loads(line)), flush=True)
