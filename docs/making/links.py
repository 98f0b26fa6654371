"""Names of the library in the text of a page lead to their description; unknown ones are told.

That is what begins with `fn.` in inline code, or with `trainer.`, which stands for `fn.Trainer`.
"""

import re
from functools import reduce
from typing import Any

from docutils import nodes
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

import funcnet

NAME = re.compile(r"(?<![\w./])(fn|trainer)\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
logger = logging.getLogger(__name__)


def link(app: Any, doctree: Any, docname: str) -> None:
    """Links each name where it stands in the text."""
    objects = app.env.domains["py"].objects
    for literal in list(doctree.findall(nodes.literal)):
        targets = []
        for found in NAME.finditer(literal.astext()):
            path = [*({"fn": [], "trainer": ["Trainer"]}[found[1]]), *found[2].split(".")]
            if not exists(path):
                logger.warning(
                    "there is no %s in funcnet", found[0], location=literal, type="names"
                )
            longest = [".".join(["funcnet", *path[:n]]) for n in range(len(path), 0, -1)]
            targets += [objects[name] for name in longest if name in objects][:1]
        if targets and not within(literal, nodes.reference, nodes.title):
            where = (app.builder, docname, targets[0].docname, targets[0].node_id)
            literal.replace_self(make_refnode(*where, literal.deepcopy()))


def within(node: Any, *kinds: type) -> bool:
    """Whether a node lies in one of these kinds."""
    while (node := node.parent) is not None:
        if isinstance(node, kinds):
            return True
    return False


def exists(path: list[str]) -> bool:
    """Whether the library has a name, but for what only a value has."""
    try:
        reduce(getattr, path, funcnet)
    except AttributeError:
        first = getattr(funcnet, path[0], None)
        return len(path) > 1 and path[1] in getattr(first, "__dataclass_fields__", ())
    return True


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
