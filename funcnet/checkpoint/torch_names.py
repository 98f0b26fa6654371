"""PyTorch's names for paths of ours, by rules that are read both ways; nothing about arrays."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from funcnet import errors
from funcnet.checkpoint.transfer import as_regex, filled, wildcards

Names: TypeAlias = Mapping[str, str] | Callable[[str], str]
"""Rules from PyTorch's names to our paths, or a function that does the same."""

INDEX = re.compile(r"\[([0-9]+)\]")
"""The place of one copy in the leaves of a `layer_stack`, as a path says it: `blocks[3]/mlp`."""


class Rule(NamedTuple):
    """A pattern of names of PyTorch's, and what takes its place in paths of ours."""

    theirs: str
    ours: str


def rules_of(function: str, names: Any) -> list[Rule]:
    """The rules of a dict.

    Raises:
        TypeError, ValueError: it is no dict of patterns that can be read both ways.
    """
    if not isinstance(names, Mapping) or not all(
        isinstance(word, str) for rule in names.items() for word in rule
    ):
        raise TypeError(
            f"`{function}`: names must be a dict from PyTorch's names to paths, "
            f"got {errors.describe(names)}. Say `{{'layer1.*.conv1': 'layer1/*/conv'}}`."
        )
    for theirs, ours in names.items():
        if wildcards(theirs) != wildcards(ours):
            raise ValueError(
                f"`{function}`: both sides of a rule of names must have the same wildcards in the "
                f"same order, got {theirs!r} to {ours!r}. Write a rule for each where they differ."
            )
        if "/" in theirs:
            raise ValueError(
                f"`{function}`: the left side of a rule of names must be PyTorch's, with dots, got "
                f"{theirs!r} to {ours!r}. Our path is the right side."
            )
    return [Rule(theirs, ours) for theirs, ours in names.items()]


def to_ours(rules: Iterable[Rule], name: str) -> tuple[str, Rule | None]:
    """The path for a name, and the rule that says so: the first that matches it or its beginning.

    Example:
        >>> rules = [Rule("layer*.*.conv1", "layer*/*/conv"), Rule("encoder.*", "blocks[*]")]
        >>> to_ours(rules, "layer1.0.conv1.weight")[0], to_ours(rules, "encoder.3.norm.bias")[0]
        ('layer1/0/conv/weight', 'blocks[3]/norm/bias')
        >>> to_ours(rules, "fc.weight")
        ('fc/weight', None)
    """
    for rule in rules:
        path = replaced(name, rule.theirs, rule.ours, ".", "/")
        if path is not None:
            return path, rule
    return name.replace(".", "/"), None


def to_theirs(rules: Iterable[Rule], path: str) -> str:
    """The name for a path: the inverse of `to_ours`.

    Example:
        >>> to_theirs([Rule("layer*.*.conv1", "layer*/*/conv")], "layer1/0/conv/weight")
        'layer1.0.conv1.weight'
    """
    for rule in rules:
        name = replaced(path, rule.ours, rule.theirs, "/", ".")
        if name is not None:
            return name
    return path.replace("/", ".")


def names_leaf(rules: Iterable[Rule], path: str) -> bool:
    """Whether the rule for a leaf is for its own name too, and not for its layer alone.

    Example:
        >>> rules = [Rule("head.weight", "fc/kernel"), Rule("body", "**")]
        >>> names_leaf(rules, "fc/kernel"), names_leaf(rules, "fc/bias")
        (True, False)
    """
    rule = next((rule for rule in rules if re.fullmatch(as_regex(rule.ours), path)), None)
    return rule is not None and rule.ours.rpartition("/")[2] == path.rpartition("/")[2]


def replaced(text: str, old: str, new: str, separator: str, other: str) -> str | None:
    """`text` with its beginning `old` replaced by `new`, and other separators; None if it differs.

    Example:
        >>> replaced("backbone.0.weight", "backbone", "", ".", "/")
        '0/weight'
    """
    begin = as_regex(old, separator) + ("" if not old else f"(?:{re.escape(separator)}|$)")
    match = re.match(begin, text)
    if match is None:
        return None
    front = filled(new, [part.replace(separator, other) for part in match.groups()])
    rest = text[match.end() :].replace(separator, other)
    return other.join(part for part in (front, rest) if part)


def split_index(path: str) -> tuple[str, tuple[int, ...]]:
    """A path without the places of copies, and these.

    Example:
        >>> split_index("blocks[3]/attention")
        ('blocks/attention', (3,))
    """
    return INDEX.sub("", path), tuple(int(k) for k in INDEX.findall(path))


def with_index(rules: Iterable[Rule], path: str) -> str:
    """A path with `[*]` where some rule says that it goes through copies of a `layer_stack`.

    Example:
        >>> with_index([Rule("encoder.*", "blocks[*]")], "blocks/attention/out/kernel")
        'blocks[*]/attention/out/kernel'
    """
    for rule in rules:
        parts = rule.ours.split("[*]")
        ends = []
        for n in range(1, len(parts)):
            match = re.match(as_regex("".join(parts[:n])) + "(?=/|$)", path)
            ends += [match.end()] if match else []
        if ends and len(ends) == len(parts) - 1:
            return (
                "".join(
                    path[begin:end] + "[*]" for begin, end in zip([0, *ends], ends, strict=False)
                )
                + path[ends[-1] :]
            )
    return path


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern is that of a name of PyTorch's, or of its beginning.

    Example:
        >>> matches("fc", "fc.weight"), matches("**.bias", "a.b.bias"), matches("f", "fc.weight")
        (True, True, False)
    """
    return replaced(name, pattern, pattern, ".", ".") is not None


def meant(pattern: str, names: Iterable[str]) -> str:
    """What might have been meant by a pattern that matches no name.

    Example:
        >>> meant("layr1", ["layer1.0.weight", "fc.bias"]), meant("x", ["fc.weight", "fc.bias"])
        ("Did you mean 'layer1'?", "Known are: 'fc'.")
    """
    parts = [name.split(".") for name in names]
    known = {".".join(each[:n]) for each in parts for n in range(1, len(each) + 1)}
    near = difflib.get_close_matches(pattern, known, n=1)
    return errors.did_you_mean(pattern, near or {each[0] for each in parts})
