"""Which operations of a graph are drawn as one node."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from funcnet.inspect.operations import Item, Value, kind_of

FUSED = ("elementwise", "movement")
"""Kinds that a compiler would fuse with their only user."""


def grouped(items: Sequence[Item], ends: Iterable[Value]) -> list[list[Item]]:
    """The operations in groups, one a node: a layer's in a row, and elementwise ones fused.

    What stands in a row can be one node without a circle, and so can an operation with the only
    one that uses it.
    """
    runs = [
        (key, list(run))
        for key, run in groupby(
            items, key=lambda item: (item.scope.partition("/")[0], item.backward)
        )
    ]
    groups: list[list[Item]] = []
    for (scope, _), run in runs:
        groups += [run] if scope else [[item] for item in run]
    home = {id(value): k for k, group in enumerate(groups) for item in group for value in item.outs}
    users: dict[int, set[int]] = {}
    for k, group in enumerate(groups):
        for item in group:
            for value in item.ins:
                if id(value) in home:
                    users.setdefault(home[id(value)], set()).add(k)
    kept = {home[id(value)] for value in ends if id(value) in home}
    for k in reversed(range(len(groups))):
        if k in kept or len(users.get(k, ())) != 1 or not fusible(groups[k]):
            continue
        (user,) = users[k]
        if fusible(groups[user]) and groups[k][0].backward == groups[user][0].backward:
            groups[user] = groups[k] + groups[user]
            groups[k] = []
            for others in users.values():
                if k in others:
                    others.discard(k)
                    others.add(user)
    return [group for group in groups if group]


def fusible(group: Sequence[Item]) -> bool:
    """Whether a group is of operations that can be drawn as part of their only user."""
    return all(not item.scope and kind_of(item.equation) in FUSED for item in group)


def used_outside(
    group: Sequence[Item], items: Sequence[Item], ends: Iterable[tuple[str, Value]]
) -> set[int]:
    """The values that anything but the group itself uses."""
    own = {id(item) for item in group}
    used = {id(v) for item in items if id(item) not in own for v in item.ins}
    return (
        used
        | {id(value) for _, value in ends}
        | {id(v) for item in group for v in item.outs if v.leaves}
    )


def between(group: Sequence[Item], outside: set[int]) -> tuple[list[Value], list[Value]]:
    """What a group takes from others, and what it gives them."""
    made = {id(value) for item in group for value in item.outs}
    comes = {id(v): v for item in group for v in item.ins if id(v) not in made}
    goes = [v for item in group for v in item.outs if id(v) in outside]
    for value in goes:
        value.leaves = True
    return list(comes.values()), goes
