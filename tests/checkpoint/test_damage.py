"""What is damaged, forged or cut off by a crash is never taken for what was saved."""

import json
import logging
import os
import subprocess
import sys

import pytest

from funcnet.checkpoint import DamagedError, MismatchError, Store, restore, steps
from tests.faults import damage, kills


@pytest.fixture
def directory(tmp_path):
    damage.save_two(tmp_path / "run")
    return tmp_path / "run"


def test_no_bit_that_is_turned_over_goes_unseen(directory):
    found = [what for _, what in damage.flips(directory, 60)]
    assert found == ["before"] * 60
    assert damage.verdict(directory) == "newest"


def test_no_file_that_is_lost_or_cut_goes_unseen(directory):
    found = dict(damage.losses(directory))
    assert len(found) == 9 * 7
    assert set(found.values()) == {"before"}


def test_a_damaged_step_is_named_and_the_one_before_it_taken(directory, caplog):
    damage.flip(directory / damage.NEWEST / "arrays/000005/0.0", 5)
    with caplog.at_level(logging.WARNING):
        found = restore(directory, damage.trees()[1])
    assert found.step == 1
    assert caplog.messages == [
        f"step 2 of {directory} can't be used: arrays/000005/0.0 does not have the SHA-256 that "
        "the manifest names"
    ]
    with pytest.raises(DamagedError) as caught:
        restore(directory, damage.trees()[1], step=2)
    assert str(caught.value) == (
        f"`restore`: what was saved in {directory} must be as it was written, got\n"
        "  step 2: arrays/000005/0.0 does not have the SHA-256 that the manifest names\n"
        "Take another step, 1 say."
    )


def test_where_no_step_is_left_all_are_named(directory):
    assert damage.all_damaged(directory) == (
        f"`restore`: what was saved in {directory} must be as it was written, got\n"
        "  step 2: arrays/000001/0 does not have the SHA-256 that the manifest names\n"
        "  step 1: arrays/000001/0 does not have the SHA-256 that the manifest names\n"
        "Take a copy of it from elsewhere, or begin anew in another directory."
    )


def test_a_step_that_lacks_a_file_is_not_listed(directory):
    (directory / damage.NEWEST / "manifest.json").unlink()
    assert steps(directory) == [1]
    with Store(directory) as store:
        store.save(2, damage.trees()[2])
    assert steps(directory) == [1, 2]


def test_a_step_that_is_whole_but_other_is_no_reason_to_go_back(directory):
    with pytest.raises(MismatchError, match=r"step 2 of .*\n  w: not expected"):
        restore(directory, {name: v for name, v in damage.trees()[1].items() if name != "w"})


def test_files_made_to_harm_are_refused():
    command = [sys.executable, "-m", "tests.faults.hostile", "15"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(run.stdout)
    assert found["wrong"] == []
    assert found["seen"] == {}
    assert found["outcomes"]["refused"] > 450
    assert found["memory"] < 512 * 2**20


@pytest.mark.skipif(not kills.available(), reason="needs Linux and a compiler of C")
def test_a_kill_at_any_call_loses_nothing():
    for name, found, killed in kills.cases(every=27):
        assert killed, name
        assert found in ("newest is 2", "newest is 3", "newest is 4"), name


def test_no_step_can_be_read_through_a_link(directory):
    os.rename(directory / damage.NEWEST, directory.parent / "away")
    (directory / damage.NEWEST).symlink_to(directory.parent / "away")
    assert damage.verdict(directory) == "before"
    assert steps(directory) == [1]
