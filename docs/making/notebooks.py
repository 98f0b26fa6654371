"""The notebooks of the repository, with the outputs they hold, as pages of the site."""

import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1] / "notebooks"


def bring(app: Any, config: Any) -> None:
    """Copies those that have changed into the pages."""
    HERE.mkdir(exist_ok=True)
    for notebook in (HERE.parents[1] / "notebooks").glob("*.ipynb"):
        copy = HERE / notebook.name
        if not copy.exists() or copy.read_bytes() != notebook.read_bytes():
            shutil.copyfile(notebook, copy)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", bring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
