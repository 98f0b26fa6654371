"""A process killed at every call by which a save changes files: what was saved is still there.

A small library in C stands before the C library, counts the calls, those of the libraries in C++
included, and sends the signal. It needs a compiler and Linux; without them there are no cases.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from funcnet.checkpoint import Store, restore, steps
from tests.checkpoint.trees import same
from tests.faults.damage import save_two, tree

HERE = Path(__file__).parent
COMPILER = next(filter(shutil.which, ("cc", "gcc", "clang")), None)


def available():
    """Whether cases can be made here."""
    return sys.platform == "linux" and COMPILER is not None


def build(folder):
    """The library that counts."""
    library = folder / "kill_at.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-w", "-o", str(library)]
    subprocess.run([*command, str(HERE / "kill_at.c"), "-ldl"], check=True)
    return library


def scenario(directory):
    """Two steps more, the first of them saved twice, by a process that may end at any time."""
    with Store(directory, keep=2) as store:
        for step in (3, 3, 4):
            store.save(step, tree(step))
            store.wait()
            (directory.parent / "saved").write_text(str(step))


def forked(work):
    """The signal that ended a process that did some work, or 0."""
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr)
        os._exit(1)


def serve():
    """Answers each line `n torn directory` with the calls counted and how the process ended.

    Modules are imported once, and each case is a fork that starts JAX for itself.
    """
    import orbax.checkpoint.type_handlers  # noqa: F401 - before the fork

    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    for line in sys.stdin:
        n, torn, directory = line.split()
        counts = Path(directory).with_suffix(".count")

        def work(directory=directory, n=n, torn=torn, counts=counts):
            shim.arm(os.fsencode(directory), ctypes.c_long(int(n)), ctypes.c_long(int(torn)))
            scenario(Path(directory))
            counts.write_text(str(shim.counted()))

        ended = forked(work)
        print(ended, counts.read_text() if counts.exists() else "-", flush=True)


class Server:
    """A process that runs the scenario, again and again, until the call that it is told."""

    def __init__(self, folder):
        self.folder = folder
        environment = os.environ | {"LD_PRELOAD": str(build(folder)), "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests.faults.kills import serve; serve()"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.good = folder / "good"
        save_two(self.good)

    def case(self, n, torn):
        """A directory after the scenario was ended at call `n`; the signal, and calls counted."""
        directory = self.folder / f"case-{n}-{int(torn)}" / "run"
        shutil.copytree(self.good, directory)
        print(n, int(torn), directory, file=self.process.stdin, flush=True)
        ended, counted = self.process.stdout.readline().split()
        return directory, int(ended), counted

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def verdict(directory):
    """What is wrong with a directory after a crash, or the newest step that is restored."""
    word = directory.parent / "saved"
    least = int(word.read_text()) if word.exists() else 2
    listed = steps(directory)
    if not listed:
        return "no step is left"
    for step in listed:
        if not same(restore(directory, tree(step), step=step).tree, tree(step)):
            return f"step {step} has wrong values"
    with Store(directory) as store:  # what the crash has left is cleaned away
        after = store.steps()
        newest = store.restore(tree(1))
        if not set(listed) <= set(after) or newest.step != after[-1]:
            return f"steps {listed} became {after}, step {newest.step} restored"
        if newest.step < least or not same(newest.tree, tree(newest.step)):
            return f"step {newest.step} is left of {least}"
        store.save(9, tree(9))
    left = sorted(path.name for path in directory.iterdir() if path.name.startswith("."))
    return f"newest is {newest.step}" if left == [".lock"] else f"left behind: {left}"


def cases(every=1):
    """Each crash with what became of it: at every call, or at every so manieth."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            _, ended, counted = server.case(0, torn=False)
            assert ended == 0, ended
            for n in range(1, int(counted) + 1, every):
                directory, ended, _ = server.case(n, torn=n % 2)
                found = verdict(directory)
                shutil.rmtree(directory.parent)
                yield f"killed at call {n} of {counted}", found, ended == signal.SIGKILL
        finally:
            server.close()
