"""The digits that the examples learn from are the file that its README describes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / "examples" / "data" / "mnist10k.npz"
SHA256 = "c03d6af810269a0b25ef8e8971f521767d52b05849e4fd977d6ca9528003c0b3"
TEST_COUNTS = [217, 245, 186, 204, 191, 184, 203, 188, 189, 193]

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the examples are not beside the tests")


def test_file_is_the_one_described():
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256
    readme = (FILE.parent / "README.md").read_text(encoding="utf-8")
    assert SHA256 in readme


def test_arrays_are_as_described():
    with np.load(FILE) as data:
        assert sorted(data.files) == ["x", "y"]
        assert (data["x"].shape, data["x"].dtype) == ((10000, 28, 28), np.uint8)
        assert (data["y"].shape, data["y"].dtype) == ((10000,), np.uint8)
        assert (data["x"].min(), data["x"].max()) == (0, 255)


@pytest.mark.parametrize("rows", [slice(0, 8000), slice(8000, 10000)], ids=["train", "test"])
def test_each_split_holds_ten_digits(rows):
    with np.load(FILE) as data:
        assert np.unique(data["y"][rows]).tolist() == list(range(10))


def test_test_counts():
    with np.load(FILE) as data:
        assert np.bincount(data["y"][8000:]).tolist() == TEST_COUNTS
