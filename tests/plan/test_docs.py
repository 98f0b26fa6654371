"""docs/planning.md: its code runs, on a smaller network, and its rates are those of the table."""

import re
from pathlib import Path

import jax

import funcnet as fn
from funcnet.planning import PEAKS, plan

PAGE = Path(__file__).parents[2] / "docs" / "planning.md"

SMALLER = {"50304": "32", "768": "16", "3072": "32", "1024": "8", "12": "2", "128": "4"}


def test_the_code_of_the_page_runs(monkeypatch, capsys):
    monkeypatch.setattr(fn, "plan", plan, raising=False)
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[0]
    block = re.sub(r"\b\d+\b", lambda found: SMALLER.get(found[0], found[0]), block)
    block = block.replace('topology="v5e:4x4"', f"topology={jax.devices()[:1]!r}")
    block = block.replace("[CpuDevice(id=0)]", "jax.devices()[:1]")
    names = {}
    with jax.numpy_rank_promotion("allow"):  # a user's own setting
        exec(compile(block.partition("print(plan.largest")[0], str(PAGE), "exec"), names)
    assert names["plan"].tokens == 32
    assert "batch 4 of 32 tokens" in capsys.readouterr().out


def test_the_rates_of_the_page_are_those_of_the_table():
    rows = re.findall(r"^\| ((?:TPU|NVIDIA) [^|]*) \| (.*) \|$", PAGE.read_text("utf-8"), re.M)
    found = {kind: cells.split(" | ") for kind, cells in rows}
    assert found == {kind: cells(peaks) for kind, peaks in PEAKS.items()}


def cells(peaks):
    return [
        f"{peaks.flops['bf16'] / 1e12:g}",
        f"{peaks.memory / 1e9:g}",
        f"{peaks.network / 1e9:g}",
        f"{peaks.bytes / 1e9:.1f}",
        peaks.source,
    ]
