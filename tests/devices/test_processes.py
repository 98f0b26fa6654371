"""Several processes over loopback: the same bits as one, one mind in all, and no orphan."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from funcnet.distributed import initialize
from funcnet.distributed.agreement import check_same, digest, same, share
from funcnet.distributed.joining import is_loopback
from funcnet.distributed.launch import Launcher, parse

ROOT = Path(__file__).parent.parent.parent
LAUNCH = [sys.executable, "-m", "funcnet.distributed.launch"]
GLOO = "Expected number of connected peer ranks"
"""What gloo prints of itself, now and then across lines of others."""


def launch(n, devices, *tasks, options=(), code=0):
    """What each of `n` processes printed, and what the launcher and they said of errors."""
    command = [*LAUNCH, "-n", str(n), "--timeout", "300", *options]
    found = subprocess.run(
        [*command, "-m", "tests.devices.processes", str(devices), *tasks],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == code, found.stdout + found.stderr
    lines = [re.fullmatch(r"\[(\d)\] (\w+: .*)", line) for line in found.stdout.splitlines()]
    said = [[] for _ in range(n)]
    for line in filter(None, lines):
        if GLOO not in line[2]:
            said[int(line[1])].append(line[2])
    return said, found.stderr


def of(lines, *names):
    """The lines of some tasks."""
    return [line for line in lines if line.split(":")[0] in names]


FITS = "resident", "staged", "stream"


def test_two_processes_of_four_devices_are_one_of_eight_to_the_bit():
    ((alone,), _) = launch(1, 8, "fits=staged", "uneven")
    both, _ = launch(2, 4, "fits=staged", "sockets", "uneven")
    assert len(of(alone, "staged")) == 6
    assert of(alone, "uneven") == ["uneven: 5"]
    words = (
        "`fit`: batch_size must be a multiple of 8, the parts that the placement divides a batch "
    )
    words += "into, got 6. Take 8."
    for lines in both:
        assert of(lines, "staged") == of(alone, "staged")
        assert of(lines, "uneven")[0].endswith(words)
        check_sockets(lines)


def test_two_processes_of_one_device(tmp_path):
    """One test, since one launch serves them all."""
    said, errors = launch(2, 1, "fits", "states", f"disputes={tmp_path}", "sockets")
    ((alone,), _) = launch(1, 2, "fits")
    assert len(alone) == 18
    assert sum(" PATIENCE " in line for line in alone) == 6
    for lines in said:
        assert of(lines, *FITS) == alone
        check_states(lines)
        check_sockets(lines)
    check_disputes(said)
    check_files(tmp_path, errors)


def check_sockets(lines):
    """Nothing listens beyond this machine."""
    found = {line.split()[-1] for line in of(lines, "sockets")}
    assert found
    assert found <= {"0100007F", "0" * 16 + "FFFF00000100007F", "0" * 24 + "01000000"}


def check_states(lines):
    """A state is taken from wherever it lives, a batch from whatever gives it."""
    found = "on the host", "go on alike", "evaluate alike", "predict to each", "fed alike"
    assert of(lines, "states") == [f"states: {words} True" for words in found]


GIVEN = "ValueError: `fit`: all processes must be given the same, got {}. Give each process the "
GIVEN += "same arguments and data."
WAY = "RuntimeError: `fit`: all processes must go the same way, got {}. Give each the same "
WAY += "arguments, and streams with as many batches of the same shapes."
BOTH = "{} in process 0, {} in process 1"
SUM = "[0-9a-f]{8}"
DATA = "float32[{0}, 6], int32[{0}] with checksum [0-9a-f]{{8}}"
BATCHES = "{} batches of [float32[16, 6], int32[16]] to come"
DONE = "EPOCHS after {}: all epochs, or steps, that were asked for are done"
TOO_FEW = "ValueError: `fit`: batch_size must be a multiple of 2, the parts that the placement "
TOO_FEW += "divides a batch into, got 15"
LABELS = "ValueError: `fit`: labels must lie in 0 .. 2, since the model gives 3 scores, got 11 in"
STREAM = BOTH.format("batch 3 of the stream (float32[8, 6], int32[8])", "None")

DISPUTES = {
    "seed": [GIVEN.format(BOTH.format("seed 0", 1))] * 2,
    "data": [GIVEN.format("data " + BOTH.format(DATA.format(64), DATA.format(64)))] * 2,
    "shape": [GIVEN.format("data " + BOTH.format(DATA.format(64), DATA.format(63)))] * 2,
    "patience": [
        GIVEN.format(
            "stopping " + BOTH.format(*["'loss', min, of checksum [0-9a-f]{8}"] * 2),
        )
    ]
    * 2,
    "rate": [GIVEN.format("a step of checksum " + BOTH.format(*["[0-9a-f]{8}"] * 2))] * 2,
    "refused": [
        f"ValueError: `fit`: process 1 must go on, got an error there: {TOO_FEW}. Take 16. "
        "Mend it there, and give each process the same.",
        f"{TOO_FEW}. Take 16.",
    ],
    "stop": ["CALLBACK after 2: enough"] * 2,
    "error": [
        "RuntimeError: `fit`: every process must go on, got an error in process 1: "
        "KeyError: 'mine'. Mend it there.",
        "KeyError: 'mine'",
    ],
    "interrupt": ["INTERRUPTED after 1: training was interrupted from outside"] * 2,
    "shorter": [
        WAY.format(
            BOTH.format(*[f"step 0 with {BATCHES.format(steps)}" for steps in (4, 3)]),
        )
    ]
    * 2,
    "labels": [
        f"RuntimeError: `fit`: every process must go on, got an error in process 1: {LABELS} .*",
        f"{LABELS} .*",
    ],
    "validation": [GIVEN.replace("`fit`", "`fit(validation=...)`").format(STREAM)] * 2,
    "alone": [DONE.format(1)] * 2,
    "files": [DONE.format(3)] * 2,
}


def pattern(words):
    """A pattern of words in which only checksums and `.*` are patterns themselves."""
    escaped = re.escape(words)
    for part in (SUM, ".*"):
        escaped = escaped.replace(re.escape(part), part)
    return escaped


def check_disputes(said):
    """Processes that disagree say so, and end alike."""
    for name, words in DISPUTES.items():
        for lines, wanted in zip(said, words, strict=True):
            (line,) = of(lines, name)
            assert re.fullmatch(pattern(f"{name}: {wanted}"), line), line


def check_files(folder, errors):
    """One process writes for all; who trains alone writes for itself."""
    lines = (folder / "together.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert len((folder / "alone1.jsonl").read_text().splitlines()) == 1
    assert errors.count("| 0/12 [") == 1


def test_a_fit_is_begun_again_after_a_process_has_died(tmp_path):
    said, errors = launch(2, 1, f"die={tmp_path / 'died'}", options=["--restarts", "2"])
    assert "[1] ValueError: before the fit\n" in errors
    assert "[launch] process 1 ended with exit code 1; restart 1 of 2\n" in errors
    assert "[launch] process 1 was ended by SIGKILL; restart 2 of 2\n" in errors
    done = "die: all epochs, or steps, that were asked for are done"
    assert said == [[f"{done}, True"], [f"{done}, False"]]


CHILD = """
import os, signal, sys, time
me = int(os.environ["FUNCNET_PROCESS"])
print("begun", sys.argv[1:], flush=True)

def meet():
    open(f"{__file__}{me}", "w").close()
    while not os.path.exists(f"{__file__}{1 - me}"):
        time.sleep(0.01)
"""


@pytest.fixture
def run(tmp_path, capfd):
    """Runs the launcher in this process: `(code, lines, errors)`, the lines sorted."""

    def run(body, *options, args=()):
        script = tmp_path / "script.py"
        script.write_text(CHILD + body)
        code = Launcher(parse(["-n", "2", *options, str(script), *args])).run()
        out, errors = capfd.readouterr()
        return code, sorted(out.splitlines()), errors

    return run


def test_lines_are_labelled_and_whole(run):
    body = "sys.stdout.write('no end'); sys.stderr.write('a word\\n')"
    code, lines, errors = run(body, args=["--short", "-n", "3"])
    assert code == 0
    begun = "begun ['--short', '-n', '3']"
    assert lines == [f"[0] {begun}", "[0] no end", f"[1] {begun}", "[1] no end"]
    assert sorted(errors.splitlines()) == ["[0] a word", "[1] a word"]


@pytest.mark.parametrize(
    ("body", "options", "code", "words"),
    [
        ("me and sys.exit(5)\ntime.sleep(60)", [], 5, "process 1 ended with exit code 5"),
        (
            "me and os.kill(os.getpid(), 9)\ntime.sleep(60)",
            [],
            137,
            "process 1 was ended by SIGKILL",
        ),
        (
            "signal.signal(15, signal.SIG_IGN)\nmeet()\nme or sys.exit(3)\ntime.sleep(60)",
            ["--grace", "0.2"],
            3,
            "process 0 ended with exit code 3",
        ),
        ("time.sleep(60)", ["--timeout", "0.5"], 124, "not done after 0.5 seconds"),
    ],
    ids=["exit", "killed", "stubborn", "timeout"],
)
def test_when_one_ends_badly_all_are_ended(run, body, options, code, words):
    began = time.monotonic()
    found, _, errors = run(body, *options)
    assert (found, errors.splitlines()[-1]) == (code, f"[launch] {words}")
    assert time.monotonic() - began < 20


def test_restarts_are_counted_and_end(run):
    code, lines, errors = run("me and sys.exit(4)", "--restarts", "2")
    died = "[launch] process 1 ended with exit code 4"
    assert errors.splitlines() == [f"{died}; restart 1 of 2", f"{died}; restart 2 of 2", died]
    assert (code, lines.count("[1] begun []")) == (4, 3)


def test_a_signal_is_passed_on_once_and_no_restart_follows(run):
    body = """
signal.signal(signal.SIGTERM, lambda *_: (print("told", flush=True), sys.exit(7)))
meet()
me or os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""
    code, lines, errors = run(body, "--restarts", "3")
    assert (code, lines) == (7, ["[0] begun []", "[0] told", "[1] begun []", "[1] told"])
    assert "restart" not in errors


def test_no_process_outlives_the_launcher(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    launcher = subprocess.Popen(
        [*LAUNCH, "-n", "2", str(script)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    children = [int(launcher.stdout.readline().split()[1]) for _ in range(2)]
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate(timeout=20)
    until = time.monotonic() + 20
    while (left := [pid for pid in children if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


SAY = "Say `python -m funcnet.distributed.launch -n 2 script.py`."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "2"], f"`launch`: a script must be given, got none. {SAY}"),
        (["-n", "0", __file__], f"`launch`: -n must be a positive whole number, got 0. {SAY}"),
        (
            ["-n", "2", "absent.py"],
            "`launch`: script must be a file, got 'absent.py', which is none. Check the path; a "
            "module comes after `-m`.",
        ),
        (
            ["-n", "2", "--devices-per-process", "-1", __file__],
            "`launch`: --devices-per-process must be a positive whole number, got -1.",
        ),
        (["-n", "2", "--grace", "nan", __file__], "`launch`: --grace must be 0 or more, got nan."),
    ],
)
def test_a_wrong_command_line_is_refused(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"processes": 2},
            "`initialize`: coordinator, processes and process must be given together, got no "
            "coordinator, process. Give all three, or none to take what the cluster says.",
        ),
        (
            {"coordinator": "10.0.0.1:1234", "processes": 2, "process": 2},
            "`initialize`: process must lie in 0 .. 1, got 2. Count from 0.",
        ),
        (
            {"coordinator": "10.0.0.1", "processes": 2, "process": 0},
            "`initialize`: coordinator must be an address with a port, got '10.0.0.1'. "
            "Say '10.0.0.1:1234'.",
        ),
        (
            {"coordinator": "10.0.0.1:1234", "processes": 0, "process": 0},
            "`initialize`: processes must be a positive whole number, got 0.",
        ),
    ],
)
def test_wrong_arguments_are_refused(given, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        initialize(**given)


def test_it_is_too_late_once_jax_is_used():
    jax.devices()
    words = (
        "`initialize`: it must be called before JAX is used, got a process whose devices are in "
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(words)}"):
        initialize()


def test_a_text_of_any_length_is_shared():
    for text in ("", "ü", "x" * 509, "y" * 5000):
        assert share(text) == [text]


def test_facts_are_compared_and_errors_told():
    check_same("fit", [{"seed": "0", "data": "a"}] * 3)
    with pytest.raises(ValueError, match=r"^`fit`: all processes must be") as e:
        check_same("fit", [{"a": "1", "b": "0"}, {"a": "1"}, {"a": "2", "b": "0"}, {"a": "1"}])
    assert "a 1 in processes 0, 1, 3, 2 in process 2; b 0 in processes 0, 2" in str(e.value)
    with pytest.raises(RuntimeError, match="inner"), same("fit", shared=False):
        raise RuntimeError("inner")


def test_a_digest_sees_every_part_of_large_data():
    x = np.zeros((3_000_000, 2), np.float32)
    before = digest((x, None))
    assert before.startswith("float32[3000000, 2] with checksum ")
    x[-1, 1] = 1
    assert digest((x, None)) != before
    assert digest(np.zeros(2)) != digest(np.zeros(2, np.float32))
    key = digest(jax.random.key(0))
    assert key != digest(jax.random.key(1))


def test_alone_nothing_is_done_and_twice_is_as_once():
    script = "from funcnet.distributed import initialize\nimport jax\ninitialize()\n"
    script += "print(jax.process_count(), jax.distributed.is_initialized())\ninitialize()"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "1 False\n"), found.stderr


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("10.0.0.1:1", False)],
)
def test_loopback_is_known(address, loopback):
    assert is_loopback(address) == loopback
