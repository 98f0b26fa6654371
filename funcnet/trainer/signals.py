"""The wish of whoever started the process to interrupt it, heeded when it suits the loop."""

import builtins
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Pressed(threading.Event):
    """Whether the process has been asked to stop, and by which signal."""

    number: int = signal.SIGTERM


@contextmanager
def interrupts(ending: bool = False) -> Iterator[Pressed]:
    """Makes the first Ctrl-C set a flag, and the second raise, while it lasts.

    Only in the main thread, and only in place of Python's own handler: whoever has set another
    one keeps it.

    Args:
        ending: whether SIGTERM is heeded too; its second one ends the process at once.
    """
    pressed = Pressed()
    usual = {signal.SIGINT: signal.getsignal(signal.SIGINT)}
    if ending:  # None is a handler that is not Python's, such as that of `jax.distributed`
        usual[signal.SIGTERM] = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    own = signal.default_int_handler, signal.SIG_DFL
    heeded = {number: handler for number, handler in usual.items() if handler in own}
    if threading.current_thread() is not threading.main_thread():
        heeded = {}

    def note(number: int, frame: Any) -> None:
        if pressed.is_set() and number == signal.SIGTERM:
            os._exit(128 + number)
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.number = number
        pressed.set()

    for number in heeded:
        signal.signal(number, note)
    try:
        yield pressed
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


def leave(number: int) -> None:
    """Exits as a process does that a signal ends; not where Ctrl-C is somebody's at a prompt."""
    at_prompt = hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")
    if number != signal.SIGINT or not at_prompt:
        raise SystemExit(128 + number)
