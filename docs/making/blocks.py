"""Every ```python block of a page is run, and what it prints and draws is shown below it.

The blocks of a page run from the first to the last in one namespace, in an empty folder of their
own. Code that is only to be read, another library's say, is a ```py block. So a page is plain
Markdown, which is read as well where nothing is run.
"""

import re
from os import fspath
from typing import Any

HEAD = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n"
FENCE = re.compile(r"^```python$", re.MULTILINE)


def mark(app: Any, docname: str, source: list[str]) -> None:
    """Makes cells of a page's blocks."""
    if fspath(app.env.doc2path(docname)).endswith(".md") and FENCE.search(source[0]):
        source[0] = HEAD + FENCE.sub("```{code-cell} python", source[0])


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
