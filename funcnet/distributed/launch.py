"""Several processes of one script, on this machine.

    python -m funcnet.distributed.launch -n 2 script.py

They find each other on a loopback address, and nothing listens beyond it. Each line that they write
is labelled with the process that wrote it. When one dies the others are ended, and all are begun
again as often as `--restarts` says. Nothing here knows JAX.
"""

import argparse
import contextlib
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from funcnet.distributed.joining import COORDINATOR, PROCESS, PROCESSES

PASSED_ON = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
TIMED_OUT = 124
"""The exit code where `--timeout` has ended a run, that of the command `timeout`."""

VIRTUAL = "--xla_force_host_platform_device_count"

BEGIN = """
import ctypes, os, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What a process runs first: from then on it dies when the launcher does, however that dies."""


class Ended(NamedTuple):
    """A process has ended: which one of which attempt, and its exit code as `subprocess` has it."""

    attempt: int
    process: int
    code: int


class Launcher:
    """Processes of one command, watched over until they have ended.

    Args:
        options: what the command line says.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.command = [sys.executable, "-u", *(["-m"] if options.module else [])]
        self.command += [options.script, *options.args]
        self.news: queue.SimpleQueue[Ended | int] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.signalled = 0
        self.deadline = time.monotonic() + (options.timeout or math.inf)

    def run(self) -> int:
        """Runs the command to its end, begun again within the budget; gives the exit code."""
        with passed_on(self.news.put):
            return self.attempts()

    def attempts(self) -> int:
        """Attempt after attempt, until one is well or the budget is spent."""
        attempt = 0
        while True:
            code, words = self.attempt(attempt)
            if not code:
                return 0
            attempt += 1
            if self.signalled or code == TIMED_OUT or attempt > self.options.restarts:
                self.say(words)
                return code
            self.say(f"{words}; restart {attempt} of {self.options.restarts}")

    def attempt(self, attempt: int) -> tuple[int, str]:
        """Runs all processes once: the exit code of the first that failed, and what befell it."""
        with free_port() as port:
            started = [self.start(process, port) for process in range(self.options.n)]
            readers = [reader for at, each in enumerate(started) for reader in self.read(at, each)]
            for process, each in enumerate(started):
                threading.Thread(
                    target=lambda process=process, each=each: self.news.put(
                        Ended(attempt, process, each.wait())
                    ),
                    daemon=True,
                ).start()
            try:
                return self.watch(attempt, started)
            finally:
                end_groups(started)
                for reader in readers:
                    reader.join(timeout=5)

    def start(self, process: int, port: int) -> subprocess.Popen[bytes]:
        """One process, in a group of its own: what the terminal sends, the launcher passes on."""
        told = {COORDINATOR: f"127.0.0.1:{port}", PROCESSES: self.options.n, PROCESS: process}
        environment = os.environ | devices(process, self.options.devices_per_process)
        environment |= {name: str(value) for name, value in told.items()}
        begin = [sys.executable, "-I", "-S", "-c", BEGIN, str(os.getpid())]
        return subprocess.Popen(
            [*begin, *self.command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def read(self, process: int, started: subprocess.Popen[bytes]) -> list[threading.Thread]:
        """Threads that hand on what a process writes."""
        pairs = (started.stdout, sys.stdout.buffer), (started.stderr, sys.stderr.buffer)
        threads = [
            threading.Thread(target=self.hand_on, args=(process, *pair), daemon=True)
            for pair in pairs
        ]
        for thread in threads:
            thread.start()
        return threads

    def hand_on(self, process: int, source: IO[bytes], target: IO[bytes]) -> None:
        """Writes the lines of one stream, each whole and labelled."""
        with source:
            for line in source:
                whole = line if line.endswith(b"\n") else line + b"\n"
                with self.lock, contextlib.suppress(BrokenPipeError):
                    target.write(b"[%d] " % process + whole)
                    target.flush()

    def watch(self, attempt: int, started: list[subprocess.Popen[bytes]]) -> tuple[int, str]:
        """Waits until all have ended; the first that fails ends the others."""
        running, kill_at, outcome = set(range(len(started))), math.inf, (0, "")
        while running:
            event = self.wait(min(self.deadline, kill_at))
            now = time.monotonic()
            if isinstance(event, int):
                self.signalled = event
                send(started, running, event)
            elif event is not None and event.attempt == attempt:
                running.discard(event.process)
                if event.code and not outcome[0]:
                    outcome, kill_at = how_ended(event), now + self.options.grace
                    if not self.signalled:  # who was told to end may be saving
                        send(started, running, signal.SIGTERM)
            elif event is None and now >= self.deadline:
                outcome = TIMED_OUT, f"not done after {self.options.timeout:g} seconds"
                self.deadline, kill_at = math.inf, now + self.options.grace
                send(started, running, signal.SIGTERM)
            elif event is None and now >= kill_at:
                kill_at = math.inf
                send(started, running, signal.SIGKILL)
        return outcome

    def wait(self, until: float) -> Ended | int | None:
        """The next news, or None if there is none in time."""
        timeout = None if until == math.inf else max(0.0, until - time.monotonic())
        try:
            return self.news.get(timeout=timeout)
        except queue.Empty:
            return None

    def say(self, words: str) -> None:
        """Writes a line of the launcher's own."""
        with self.lock:
            sys.stderr.write(f"[launch] {words}\n")
            sys.stderr.flush()


def send(started: list[subprocess.Popen[bytes]], running: set[int], number: int) -> None:
    """Sends a signal to those that run; SIGKILL to all that they have started, too."""
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(started[process].pid, number)
            else:
                started[process].send_signal(number)


def end_groups(started: list[subprocess.Popen[bytes]]) -> None:
    """Kills whatever is left of the processes and of what they have started."""
    send(started, set(range(len(started))), signal.SIGKILL)


@contextlib.contextmanager
def passed_on(take: Callable[[int], Any]) -> Iterator[None]:
    """Has signals given to `take`, rather than end this process, while it lasts."""
    usual = {n: signal.signal(n, lambda n, frame: take(n)) for n in PASSED_ON}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port of the loopback address, kept from others while it is in use.

    It is bound here without listening, and shared with the coordinator by SO_REUSEPORT.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        if hasattr(socket, "SO_REUSEPORT"):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def devices(process: int, count: int | None) -> dict[str, str]:
    """Environment variables for the devices of a process: its GPUs, or its virtual CPU devices."""
    first = process * (count or 1)
    found = {"JAX_LOCAL_DEVICE_IDS": ",".join(map(str, range(first, first + (count or 1))))}
    found["NCCL_SOCKET_IFNAME"] = os.environ.get("NCCL_SOCKET_IFNAME", "lo")
    if count is not None:
        flags = os.environ.get("XLA_FLAGS", "").split()
        kept = [flag for flag in flags if not flag.startswith(VIRTUAL)]  # JAX refuses both
        found |= {"XLA_FLAGS": " ".join(kept), "JAX_NUM_CPU_DEVICES": str(count)}
    return found


def how_ended(ended: Ended) -> tuple[int, str]:
    """The exit code of a process as a shell has it, and what befell it in words."""
    if ended.code >= 0:
        return ended.code, f"process {ended.process} ended with exit code {ended.code}"
    name = signal.Signals(-ended.code).name
    return 128 - ended.code, f"process {ended.process} was ended by {name}"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m funcnet.distributed.launch",
        description="Runs several processes of one script on this machine.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", type=int, required=True, help="how many processes")
    parser.add_argument(
        "--devices-per-process",
        type=int,
        metavar="K",
        help="GPUs of each process, or virtual devices on CPU",
    )
    parser.add_argument(
        "--restarts", type=int, default=0, metavar="R", help="how often all may be begun again"
    )
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds after which all are ended"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds from SIGTERM to SIGKILL for those that outlive another (30)",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="the script is a module")
    parser.add_argument("script", nargs="?", help="a file, or with -m a module")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="given to the script")
    options = parser.parse_args(arguments)
    if wrong := what_is_wrong(options):
        parser.error(wrong)
    return options


def what_is_wrong(options: Any) -> str | None:
    """What the command line must be and is not."""
    say = "python -m funcnet.distributed.launch -n 2 script.py"
    numbers = {"-n": options.n, "--devices-per-process": options.devices_per_process}
    for name, value in numbers.items():
        if value is not None and value < 1:
            return f"`launch`: {name} must be a positive whole number, got {value}. Say `{say}`."
    for name in ("restarts", "timeout", "grace"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            return f"`launch`: --{name} must be 0 or more, got {value:g}. Leave it out."
    if options.script is None:
        return f"`launch`: a script must be given, got none. Say `{say}`."
    if not options.module and not Path(options.script).is_file():
        return (
            f"`launch`: script must be a file, got {options.script!r}, which is none. "
            "Check the path; a module comes after `-m`."
        )
    return None


if __name__ == "__main__":
    sys.exit(Launcher(parse()).run())
