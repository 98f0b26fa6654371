"""A table as CSV, read back by Python: exact, rectangular, and without a step twice."""

import csv
import json

import numpy as np
import pytest

import funcnet as fn
from funcnet.monitoring import csv_lines
from funcnet.trainer import limits
from tests.monitoring.fits import fit


def read(path):
    """The columns of a file by name, whose rows are alike long."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert {len(row) for row in rows} == {len(header)}
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def numbers(cells):
    return [float(cell) for cell in cells]


def test_numbers_come_back_exactly(tmp_path):
    path = tmp_path / "new" / "history.csv"
    result = fit([csv_lines(path)], epochs=3)
    table = read(path)
    assert list(table) == ["epoch", "step", *result.history]
    assert table["epoch"] == ["1", "2", "3"]
    assert table["step"] == ["4", "8", "12"]
    assert numbers(table["val_loss"]) == result.history["val_loss"].tolist()
    arrays = [json.loads(text) for text in table["val_seen"]]
    np.testing.assert_array_equal(arrays, result.history["val_seen"])


def test_a_fit_that_goes_on_takes_out_what_it_takes_again(tmp_path):
    path, run = tmp_path / "history.csv", tmp_path / "run"
    fit([csv_lines(path)], epochs=2, checkpoint=run)
    text = path.read_text()
    path.write_text(text + text.splitlines()[2].replace("2,8,", "3,12,") + "\n" + "4,1")
    result = fit([csv_lines(path)], epochs=4, checkpoint=run)
    assert read(path)["step"] == ["4", "8", "12", "16"]
    assert path.read_text().startswith(text)
    table = read(path)
    assert numbers(table["loss"]) == result.history["loss"].tolist()


def test_an_epoch_that_was_cut_short_is_not_there_twice(tmp_path):
    path, run = tmp_path / "history.csv", tmp_path / "run"
    for steps, expected in ((6, [4, 6]), (6, [4, 6]), (10, [4, 8, 10])):
        fit([csv_lines(path)], epochs=None, steps=steps, checkpoint=run)
        found = list(map(int, read(path)["step"]))
        assert found == expected or (steps, found) == (10, [4, 6, 8, 10])


def test_a_fit_that_begins_anew_appends(tmp_path):
    path = tmp_path / "history.csv"
    for _ in range(2):
        fit([csv_lines(path)], epochs=1)
    table = read(path)
    assert (table["epoch"], table["step"]) == (["1", "1"], ["4", "4"])


def test_a_new_name_is_a_new_column(tmp_path):
    path = tmp_path / "history.csv"
    fit([csv_lines(path)], epochs=1, validation=None)
    fit([csv_lines(path)], epochs=1)
    fit([csv_lines(path)], epochs=1, validation=None)
    table = read(path)
    assert list(table)[:3] == ["epoch", "step", "loss"]
    assert [cell == "" for cell in table["val_loss"]] == [True, False, True]
    assert "" not in table["loss"]


def test_what_callbacks_before_it_add_is_there_and_nan_is_read_as_nan(tmp_path):
    path = tmp_path / "history.csv"
    memory = {"rate": float("nan"), "big": float("-inf")}
    adding = fn.Callback(lambda: memory, lambda memory, event: memory, adds=dict)
    result = fit([csv_lines(tmp_path / "before.csv"), adding, csv_lines(path)], epochs=1)
    table = read(path)
    assert np.isnan(float(table["rate"][0]))
    assert float(table["big"][0]) == -np.inf
    assert "rate" not in read(tmp_path / "before.csv")
    assert "rate" not in result.history


def test_a_trial_run_writes_nothing(tmp_path):
    fit([csv_lines(tmp_path / "history.csv")], limits=limits(fast_dev_run=True))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_such_table_is_left_alone(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("x,y\n1,2\n")
    words = "`csv_lines`: the file must begin with the columns epoch and step, got x, y in .*data"
    with pytest.raises(ValueError, match=words):
        fit([csv_lines(path)], epochs=1)
    assert path.read_text() == "x,y\n1,2\n"
    with pytest.raises(TypeError, match=r"`csv_lines`: path must be a path, got 3. Say `fn.csv_l"):
        csv_lines(3)
