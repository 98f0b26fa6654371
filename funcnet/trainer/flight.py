"""How many programs have been dispatched and not awaited: a bound, and what was seen of it."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax

IN_FLIGHT = 16
"""The most programs in flight: on virtual devices of one CPU, 64 at once wait for each other."""


class Flight:
    """Dispatches programs, and waits where too many are under way.

    Attributes:
        peak: the most that ever were in flight at once.
    """

    def __init__(self, most: int = IN_FLIGHT) -> None:
        self.most, self.peak = most, 0
        self.waiting: deque[Any] = deque()

    def launch(self, f: Callable[..., Any], *args: Any, watch: Any = None) -> Any:
        """`f(*args)`, begun as soon as there is room.

        Args:
            f: dispatches a program.
            args: its arguments.
            watch: gives of its result what to wait for, where the rest may be donated meanwhile.
        """
        self.land(self.most - 1)
        out = f(*args)
        self.waiting.append(out if watch is None else watch(out))
        self.peak = max(self.peak, len(self.waiting))
        return out

    def land(self, but: int = 0) -> None:
        """Waits for all of them, the oldest first, but for so many."""
        with suppress(IndexError):  # another thread may have waited for the last
            while len(self.waiting) > but:
                jax.block_until_ready(self.waiting.popleft())
