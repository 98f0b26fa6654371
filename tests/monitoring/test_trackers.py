"""Weights & Biases and trackio: offline, and by what a stand-in for either is told."""

import json
import sqlite3
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from funcnet.monitoring import trackio, wandb
from funcnet.trainer import limits
from tests.monitoring.fits import absent, fit


class Package:
    """What a tracker has: `init`, which gives a run with `log` and `finish`."""

    def __init__(self):
        self.told = []

    def init(self, **arguments):
        self.told.append(("init", arguments))
        return SimpleNamespace(
            log=lambda values, step: self.told.append(("log", step, values)),
            finish=lambda: self.told.append(("finish",)),
        )


@pytest.mark.parametrize(("adapter", "name"), [(wandb, "wandb"), (trackio, "trackio")])
def test_a_tracker_is_told_of_the_whole_fit(adapter, name, monkeypatch):
    package = Package()
    monkeypatch.setitem(sys.modules, name, package)
    callback = adapter("digits", every=3, config={"rate": np.float32(0.5)}, name="first")
    result = fit([callback], epochs=2)
    begun, *logs, ended = package.told
    assert begun == ("init", {"project": "digits", "config": {"rate": 0.5}, "name": "first"})
    assert [step for _, step, _ in logs] == [3, 4, 6, 8]
    assert logs[0][2] == {"step_loss": float(result.losses[2])}
    hits = {f"{kind}hits/{i}" for kind in ("", "val_") for i in range(3)}
    assert set(logs[3][2]) == {"epoch", "loss", "val_loss"} | hits
    assert logs[3][2]["val_loss"] == result.history["val_loss"][1]
    assert ended == ("finish",)
    fit([callback], limits=limits(fast_dev_run=True))
    assert len(package.told) == 6


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = fit([wandb("digits", mode="offline", dir=str(tmp_path))], epochs=1)
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    value = repr(result.history["val_loss"][0].item()).encode()
    end = time.monotonic() + 20  # a process of wandb's own writes the file
    while value not in (written := path.read_bytes()) and time.monotonic() < end:
        time.sleep(0.05)
    assert value in written
    assert b"val_hits/2" in written


def test_trackio_on_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads the variable when it is imported
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    quiet = {"auto_log_cpu": False, "auto_log_gpu": False}
    callback = trackio("digits", name="first", config={"rate": 0.5}, every=None, **quiet)
    result = fit([callback], epochs=2)
    (path,) = tmp_path.glob("digits.db")
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step")
        found = [(name, step, json.loads(values)) for name, step, values in rows]
    assert [(name, step) for name, step, _ in found] == [("first", 4), ("first", 8)]
    assert [values["val_loss"] for *_, values in found] == result.history["val_loss"].tolist()


@pytest.mark.parametrize("adapter", [wandb, trackio])
def test_wrong_arguments_are_refused(adapter, monkeypatch):
    name = adapter.__name__
    with pytest.raises(
        TypeError, match=f"`{name}`: project must be a name, got None. Say `fn.{name}"
    ):
        adapter(None)
    with pytest.raises(
        ValueError, match=f"`{name}`: every must be a positive whole number, got 0."
    ):
        adapter("digits", every=0)
    with pytest.raises(
        TypeError, match=f"`{name}`: config must hold numbers, strings and truth va"
    ):
        adapter("digits", config={"layers": [1, 2]})
    monkeypatch.setattr("funcnet.monitoring.points.import_module", absent)
    words = f"`{name}`: {name} must be installed, .*pip install 'funcnet.{name}.'`."
    with pytest.raises(ImportError, match=words):
        adapter("digits")
