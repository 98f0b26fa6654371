"""What needs several devices runs in a process of its own, which has eight virtual ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FLAG = "--xla_force_host_platform_device_count=8"
PYTEST = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*PYTEST, "tests/devices/placements.py"],
        ["-m", "tests.devices.endurance", "--runs", "3", "--steps", "200"],
    ],
    ids=["placements", "endurance"],
)
def test_on_eight_devices(arguments):
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"}
    found = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
