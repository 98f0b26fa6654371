"""Tables for people: text whose columns align in a terminal, HTML for a notebook, units."""

import shutil
import sys
import unicodedata
from collections.abc import Sequence
from html import escape
from itertools import accumulate

Rows = Sequence[Sequence[str] | None]
"""The lines of a table, its head first; None is a rule across."""

LEAST = 8
"""The narrowest that a column of words becomes in a narrow terminal."""


def in_columns(rows: Rows, sides: str) -> list[str]:
    r"""Lines whose words stand in columns, each as wide as what a terminal makes of its words.

    In a terminal too narrow for them the widest columns of words give way, in their middle, so
    that a path keeps its beginning and its end; columns of numbers don't.

    Args:
        rows: the words of each line, or None for a rule.
        sides: `<` for each column of words, which stand to the left, `>` for one of numbers.

    Example:
        >>> print("\n".join(in_columns([("name", "n"), None, ("a", "10"), ("零", "7")], "<>")))
        name   n
        ----  --
        a     10
        零     7
    """
    columns = zip(*(row for row in rows if row is not None), strict=True)
    widths = fitted([max(map(width, column)) for column in columns], sides)
    ruled = ["-" * room for room in widths]
    return [
        "  ".join(map(padded, ruled if row is None else row, widths, sides)).rstrip()
        for row in rows
    ]


def fitted(widths: list[int], sides: str) -> list[int]:
    """The widths that columns get in this terminal; their own where the output is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return widths
    found = list(widths)
    words = [i for i, side in enumerate(sides) if side == "<"]
    over = sum(found) + 2 * (len(found) - 1) - shutil.get_terminal_size().columns
    while over > 0 and words:
        widest = max(words, key=found.__getitem__)
        if found[widest] <= LEAST:
            break
        found[widest] -= 1
        over -= 1
    return found


def padded(words: str, room: int, side: str) -> str:
    """Words in a column of some width, on one side of it."""
    words = shortened(words, room)
    space = " " * (room - width(words))
    return words + space if side == "<" else space + words


def width(words: str) -> int:
    r"""How many letters' room a terminal gives to words: two to each wide one of East Asia.

    Example:
        >>> width("accuracy"), width("精度"), width("e\u0301")
        (8, 4, 1)
    """
    return len(words) if words.isascii() else sum(map(letter, words))


def letter(character: str) -> int:
    """The room of one character."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(words: str, most: int) -> str:
    """Words that fit into some width, cut in their middle.

    Example:
        >>> shortened("encoder/blocks/11/kernel", 16), shortened("bias", 16)
        ('encoder/…/kernel', 'bias')
    """
    if width(words) <= most:
        return words
    end = beginning(words[::-1], (most - 1) // 2)[::-1]
    return f"{beginning(words, most - 1 - width(end))}…{end}"


def beginning(words: str, most: int) -> str:
    """As much of the beginning as fits."""
    return words[: sum(total <= most for total in accumulate(map(letter, words)))]


def as_html(rows: Rows, sides: str, *, total: bool = False) -> str:
    """The table as HTML: the first line is its head, and the last one too if it is a total."""
    lines = [row for row in rows if row is not None]
    heads = {0, len(lines) - 1} if total else {0}
    body = [html_row(row, "th" if i in heads else "td", sides) for i, row in enumerate(lines)]
    return "\n".join(["<table>", *body, "</table>"])


def html_row(row: Sequence[str], tag: str, sides: str) -> str:
    """One line of it."""
    align = {"<": "left", ">": "right"}
    cells = [
        f"<{tag} style='text-align: {align[side]}'>{escape(word)}</{tag}>"
        for word, side in zip(row, sides, strict=True)
    ]
    return f"<tr>{''.join(cells)}</tr>"


def human(number: int) -> str:
    """A number of bytes in the unit that suits it, of 1,000 of the one before.

    Example:
        >>> human(999), human(1_300), human(2_000_000)
        ('999 B', '1.3 kB', '2.0 MB')
    """
    if number < 1000:
        return f"{number} B"
    for power, unit in enumerate(("kB", "MB", "GB"), start=1):
        if number < 999.95 * 1000**power:
            return f"{number / 1000**power:.1f} {unit}"
    return f"{number / 1000**4:,.1f} TB"
