"""What is done to the values that pass between layers, said by whoever calls the model.

Nothing, unless a placement keeps them divided as the batch is. Models do not know which.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from funcnet.types import PyTree

HOW: ContextVar[Callable[[PyTree], PyTree] | None] = ContextVar("between", default=None)


def between(values: PyTree) -> PyTree:
    """`values`, with done to them what has been said."""
    how = HOW.get()
    return values if how is None else how(values)


@contextmanager
def said(how: Callable[[PyTree], PyTree]) -> Iterator[None]:
    """While it lasts, `how` is done to values between layers."""
    token = HOW.set(how)
    try:
        yield
    finally:
        HOW.reset(token)
