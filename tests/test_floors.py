"""Imports point down: DESIGN's floors, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

import funcnet

ROOT = Path(funcnet.__file__).parent
FLOORS = {
    "types": 0,
    "tree": 1,
    "between": 1,
    "errors": 2,
    "eager": 2,
    "tables": 0,
    "policies": 0,
    "autodiff": 3,
    "nn": 3,
    "metrics": 3,
    "stopping": 3,
    "placement": 3,
    "distributed": 3,
    "data": 4,
    "training": 5,
    "checkpoint": 6,
    "trainer": 7,
    "inspect": 8,
    "planning": 9,
    "studies": 9,
    "sklearn": 9,
    "inference": 8,
    "monitoring": 10,
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(path):
    """The first folder or file below funcnet, such as `nn`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """Parts of funcnet that a file imports, at any depth of its code, but for types alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "funcnet":
                yield name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    assert part(path) in FLOORS, f"give {part(path)} a floor in DESIGN and here"
    for other in imported(path):
        assert other == part(path) or FLOORS[other] < FLOORS[part(path)], f"{path} imports {other}"


def test_the_floors_are_those_of_the_tree():
    assert {part(path) for path in FILES} == set(FLOORS)
