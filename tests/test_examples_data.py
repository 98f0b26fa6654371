"""The examples' data are the files that their README describes; notebooks are their sources."""

import hashlib
import json
import lzma
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "examples" / "data" / "mnist10k.npz"
TEXT = FILE.with_name("moby_dick.txt.xz")
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
SHA256 = "c03d6af810269a0b25ef8e8971f521767d52b05849e4fd977d6ca9528003c0b3"
TEXT_SHA256 = "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240"
GOLDEN = {  # of test_golden, and Newton's method at the known minimum of Rosenbrock's function
    "pure_functions": "94.5247",
    "layers_and_fit": "94.5247",
    "derivatives": "(1.0000, 1.0000)",
    "many_networks": "Ensemble of 100",
    "many_devices": "on each of 8 devices",
}
TEST_COUNTS = [217, 245, 186, 204, 191, 184, 203, 188, 189, 193]

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the examples are not beside the tests")


def test_file_is_the_one_described():
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256
    readme = (FILE.parent / "README.md").read_text(encoding="utf-8")
    assert SHA256 in readme


def test_text_is_the_one_described():
    text = lzma.decompress(TEXT.read_bytes())
    assert hashlib.sha256(text).hexdigest() == TEXT_SHA256
    assert TEXT_SHA256 in (TEXT.parent / "README.md").read_text(encoding="utf-8")
    characters = text.decode("utf-8")
    assert (len(characters), len(set(characters))) == (1_190_317, 83)


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


def percent(cell):
    """A notebook's cell as jupytext's percent format writes it."""
    lines = "".join(cell["source"]).splitlines()
    if cell["cell_type"] == "code":
        return ["# %%", *lines]
    return ["# %% [markdown]", *[f"# {line}".rstrip() for line in lines]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_the_cells_of_its_source(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    expected = [line for cell in cells for line in percent(cell) if line]
    source = path.with_suffix(".py").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(source) if line.startswith("# %%"))
    assert [line for line in source[start:] if line] == expected


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_was_run_without_an_error(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert GOLDEN[path.stem] in json.dumps(outputs)
