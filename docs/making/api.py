"""A page for each part of the library, of all that is public there and all that it gives back.

Pages are written before Sphinx reads them, from `funcnet.__all__` and those of the parts, so that
no name is missing. Docstrings keep the little Markdown they have: code in backticks, and tables.
"""

import ast
import inspect
import itertools
import re
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import funcnet

HERE = Path(__file__).parents[1] / "api"
TITLES = {
    "trainer": "The trainer",
    "nn": "Layers and models",
    "training": "Objectives and steps",
    "metrics": "Metrics",
    "stopping": "Stopping",
    "monitoring": "Watching a run",
    "data": "Data",
    "data.augmentation": "Augmentation",
    "checkpoint": "Checkpoints and weights",
    "inspect": "Looking",
    "inference": "Inference",
    "sklearn": "scikit-learn",
    "studies": "Studies of many trainings",
    "autodiff": "Derivatives",
    "placement": "Placement",
    "distributed": "Several processes",
    "planning": "Planning",
    "tree": "Trees",
    "types": "Types",
}
"""Parts of the library in the order of the site; others follow."""

INNER = ("programs", "plan", "made", "arguments", "look", "whole", "first", "onward", "placed")
"""What is public for the library alone."""


def parts() -> dict[str, ModuleType]:
    """The modules whose names are public, by what comes after `funcnet.`."""
    values = [getattr(funcnet, name) for name in funcnet.__all__]
    names = {module_of(value).split(".", 1)[1] for value in values}
    found = {name for name in names if name in TITLES} | {name.split(".")[0] for name in names}
    order = sorted(found, key=lambda name: ([*TITLES, name].index(name), name))
    return {name: import_module(f"funcnet.{name}") for name in order}


def module_of(value: Any) -> str:
    """The full name of a module, or of that which something comes from."""
    return value.__name__ if isinstance(value, ModuleType) else value.__module__


def names_of(module: ModuleType) -> list[str]:
    """The public names of a module, in the order of its text where it does not list them."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    names = [name for name in top_level(module) if not name.startswith("_")]
    whole = module in (getattr(funcnet, name) for name in funcnet.__all__)
    return [name for name in names if whole or name in funcnet.__all__]


def top_level(module: ModuleType) -> Iterator[str]:
    """Names that a module defines itself."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def entries() -> dict[str, dict[str, Any]]:
    """What each page describes: by part, values by full name, each value once."""
    pages: dict[str, dict[str, Any]] = {}
    seen: set[Any] = set()
    for part, module in parts().items():
        pages[part] = {}
        for name in names_of(module):
            value = getattr(module, name)
            top = name in funcnet.__all__ and getattr(funcnet, name) is value
            if value_id(value) not in seen:
                pages[part][f"funcnet.{name}" if top else f"{module.__name__}.{name}"] = value
            seen.add(value_id(value))
    for page in pages.values():
        for value in list(page.values()):
            add_given_back(value, page, seen)
    return pages


def value_id(value: Any) -> Any:
    """What tells a class or function of the library from others; an alias is like none."""
    return value if is_ours(value) else object()


def is_ours(value: Any) -> bool:
    """Whether a value is a class or function of the library."""
    is_one = inspect.isclass(value) or inspect.isroutine(value)
    return is_one and value.__module__.startswith("funcnet")


def add_given_back(value: Any, page: dict[str, Any], seen: set[Any]) -> None:
    """Adds the classes that a function or the methods of a class give back, and so on."""
    for kind in given_back(value):
        if kind not in seen:
            seen.add(kind)
            page[f"{kind.__module__}.{kind.__qualname__}"] = kind
            add_given_back(kind, page, seen)


def given_back(value: Any) -> Iterator[type]:
    """Classes of the library that a function returns, or the public methods of a class."""
    if not is_ours(value):
        return
    if inspect.isclass(value):
        for name, member in vars(value).items():
            if name not in INNER and (name == "__call__" or not name.startswith("_")):
                member = getattr(member, "fget", getattr(member, "func", member))
                yield from given_back(member) if inspect.isroutine(member) else ()
        return
    annotation = value.__annotations__.get("return")
    if isinstance(annotation, str):  # a name that is not there yet where it stands
        annotation = value.__globals__.get(annotation)
    for kind in flat(annotation):
        if inspect.isclass(kind) and is_ours(kind):
            yield kind


def flat(annotation: Any) -> Iterator[Any]:
    """A type, and those it is made of."""
    yield annotation
    for inner in typing.get_args(annotation):
        yield from flat(inner)


def describe(name: str, value: Any) -> str:
    """The directive that describes a value."""
    if not is_ours(value):
        text = as_rst(docstring(name, value)).replace("\n", "\n   ")
        return f"\n.. py:data:: {name}\n\n   {text}\n"
    if not inspect.isclass(value):
        return f"\n.. autofunction:: {name}\n"
    kind = "exception" if issubclass(value, BaseException) else "class"
    return f"\n.. auto{kind}:: {name}\n   :members:\n"


def docstring(name: str, value: Any) -> str:
    """The docstring of a value; of a number or an alias, that which stands below it."""
    if is_ours(value):
        return inspect.getdoc(value) or ""
    part, _, last = name.rpartition(".")
    for module in [m for n, m in sorted(sys.modules.items()) if n.startswith(part)]:
        body = ast.parse(inspect.getsource(module)).body
        for node, below in itertools.pairwise(body):
            target = getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0]
            if getattr(target, "id", "") == last and isinstance(below, ast.Expr):
                return inspect.cleandoc(ast.literal_eval(below.value))
    return ""


def page(part: str, found: dict[str, Any]) -> str:
    """The text of a page."""
    title = TITLES.get(part, part)
    head = f"{title}\n{'=' * len(title)}\n\n.. automodule:: funcnet.{part}\n   :no-members:\n\n"
    rows = "".join(row(part, *entry) for entry in found.items())
    table = f".. currentmodule:: None\n\n.. list-table::\n\n{rows}"
    return head + table + "".join(describe(*entry) for entry in found.items())


def row(part: str, name: str, value: Any) -> str:
    """A name, which leads to its description, and its docstring's first sentence.

    What is only given back has no name to be called by, but that of its class.
    """
    above, _, last = name.rpartition(".")
    public = above in ("funcnet", f"funcnet.{part}")
    label = name.replace("funcnet.", "fn.") if public else last
    words = as_rst(docstring(name, value).split("\n\n")[0]).replace("\n", " ")
    return f"   * - :py:obj:`{label} <{name}>`\n     - {words}\n"


def index(pages: dict[str, Any]) -> str:
    """The text of the page that leads to the others."""
    title = "API"
    rows = "".join(f"   {part}\n" for part in pages)
    return (
        f"{title}\n{'=' * len(title)}\n\n"
        "All that is public, by the part of the library where it lives. After ``import funcnet as "
        "fn``,\n``funcnet.dense`` is ``fn.dense``.\n\n"
        f".. toctree::\n   :maxdepth: 1\n\n{rows}"
    )


def write(app: Any, config: Any) -> None:
    """Writes the pages that have changed, and deletes those of parts that are gone."""
    pages = entries()
    texts = {f"{part}.rst": page(part, found) for part, found in pages.items() if found}
    texts["index.rst"] = index([part for part, found in pages.items() if found])
    HERE.mkdir(exist_ok=True)
    for old in HERE.glob("*.rst"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        if not (HERE / name).exists() or (HERE / name).read_text(encoding="utf-8") != text:
            (HERE / name).write_text(text, encoding="utf-8")


CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)(?=(\w?))")
EXAMPLE = re.compile(r"((?:^ *>>> .*\n(?:^ *\S.*\n)*)+)", re.MULTILINE)
TABLE = re.compile(r"(?:^ *\|.*\|\n)+", re.MULTILINE)


def convert(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Called by Sphinx for each docstring."""
    lines[:] = as_rst("\n".join(lines)).splitlines()


def as_rst(text: str) -> str:
    """The Markdown of a docstring as reStructuredText, its examples left alone."""
    texts = EXAMPLE.split(text + "\n")
    texts[::2] = [with_code(with_tables(each)) for each in texts[::2]]
    return "".join(texts).rstrip("\n")


def with_code(text: str) -> str:
    """Code in two backticks, on one line; bars outside of it mean nothing."""

    def literal(found: re.Match[str]) -> str:
        joined = re.sub(r"\s*\n\s*", " ", found[1])
        return f"``{joined}``" + ("\\ " if found[2] else "")

    parts = re.split(r"(``.*?``)", CODE.sub(literal, text))
    parts[::2] = [each.replace("|", "\\|") for each in parts[::2]]
    return "".join(parts)


def with_tables(text: str) -> str:
    """Tables as lists of rows."""
    return TABLE.sub(lambda found: table_of(found[0]), text)


def table_of(text: str) -> str:
    """One table; its second line is the rule below its head."""
    indent = " " * (len(text) - len(text.lstrip(" ")))
    head, _, *rows = [cells_of(line) for line in text.splitlines()]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return "".join(f"{indent}{line}".rstrip() + "\n" for line in ["", *lines, ""])


def cells_of(line: str) -> list[str]:
    """The cells of a row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def skip(app: Any, what: str, name: str, obj: Any, is_skipped: bool, options: Any) -> bool | None:
    """Leaves out the fields of a NamedTuple, which its docstring describes."""
    return True if type(obj).__name__ == "_tuplegetter" or name in INNER else None


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", write)
    app.connect("autodoc-process-docstring", convert, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
