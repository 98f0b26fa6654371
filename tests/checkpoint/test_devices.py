"""What needs several devices or processes runs in processes of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from funcnet.checkpoint import restore, unknown

ROOT = Path(__file__).parent.parent.parent
FLAG = "--xla_force_host_platform_device_count=8"


def started(arguments, flags=""):
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process):
    words, _ = process.communicate(timeout=600)
    assert process.returncode == 0, words[-8000:]
    return words


def test_any_number_of_devices():
    pytest = ["pytest", "-q", "-p", "no:cacheprovider"]
    ended(started([*pytest, "tests/checkpoint/devices.py"], FLAG))


def test_two_processes_save_when_both_have_written(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["tests.checkpoint.processes", str(port)]
    both = [started([*arguments, str(rank), str(tmp_path / "run")]) for rank in (0, 1)]
    words = [ended(process) for process in both]
    assert "not saved: other processes could not write: part-1" in words[0]
    assert "not saved: [Errno 28] No space left on device" in words[1]
    assert "not opened: `Store`: " in words[0]
    assert "Not a directory" in words[0]
    assert "not opened: `Store`: the first process must be able to save in " in words[1]
    found = restore(tmp_path / "run", unknown()).tree
    assert found["rows"].tolist() == (3 * np.arange(16.0).reshape(4, 4)).tolist()
    assert jnp.array_equal(found["own"], 3 * np.arange(3))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "step-000000000001",
        "step-000000000003",
    ]
