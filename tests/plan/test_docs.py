"""docs/planning.md: its rates are those of the table. (Its code is run where the site is built.)"""

import re
from pathlib import Path

from funcnet.planning import PEAKS

PAGE = Path(__file__).parents[2] / "docs" / "planning.md"


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
