"""The site's own parts; its pages are run, and its links followed, where it is built."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import funcnet as fn

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def api():
    spec = importlib.util.spec_from_file_location("api_pages", DOCS / "making" / "api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_described(api):
    pages = api.entries()
    described = {name for page in pages.values() for name in page}
    for name in fn.__all__:
        value = getattr(fn, name)
        if value.__class__ is type(sys):  # a module: it has a page
            assert value.__name__.removeprefix("funcnet.") in pages
            listed = getattr(value, "__all__", [])
            assert [n for n in listed if not self_or_top(value, n, described)] == []
        else:
            assert f"funcnet.{name}" in described


def self_or_top(module, name, described):
    """Whether a name of a module is described, here or among the names of funcnet itself."""
    is_module = getattr(module, name).__class__ is type(sys)
    return is_module or bool({f"{module.__name__}.{name}", f"funcnet.{name}"} & described)


def test_what_a_study_gives_back_is_described(api):
    described = {name for page in api.entries().values() for name in page}
    assert {"funcnet.studies.swept.Sweep", "funcnet.studies.ledger.Trial"} <= described


def test_docstrings_become_restructured_text(api):
    text = "Gives `a`s where `b\nc` is |x|:\n\n>>> `left` | alone\n1\n\n"
    text += "| a | `b` |\n| --- | --- |\n| c |  |"
    assert api.as_rst(text) == (
        "Gives ``a``\\ s where ``b c`` is \\|x\\|:\n\n>>> `left` | alone\n1\n\n"
        "\n.. list-table::\n   :header-rows: 1\n\n   * - a\n     - ``b``\n   * - c\n     -"
    )


def test_only_other_libraries_code_is_not_run():
    shown = {
        page.name
        for page in DOCS.glob("*.md")
        if re.search(r"^```(py|python .*)$", page.read_text(encoding="utf-8"), re.M)
    }
    assert shown <= {"devices.md", "from_keras.md", "from_lightning.md", "from_pytorch.md"}
