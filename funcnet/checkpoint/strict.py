"""JSON read as what it says and nothing else: what has two meanings, or none, is refused."""

import json
import math
from collections import Counter
from typing import Any

from funcnet.checkpoint.failures import DamagedError

DIGITS = 20
"""The most characters of a whole number: 64 bits and a sign."""


def loads(text: bytes, what: str) -> Any:
    """The value that a JSON text says.

    Args:
        text: UTF-8.
        what: what it is, for the error.

    Raises:
        DamagedError: it is no JSON, names a key twice, nests too deeply, or holds a number that is
            not finite or does not fit 64 bits.

    Example:
        >>> loads(b'{"a": [1, 2.5]}', "the manifest")
        {'a': [1, 2.5]}
        >>> loads(b'{"a": 1, "a": 2}', "the manifest")
        Traceback (most recent call last):
        funcnet.checkpoint.failures.DamagedError: the manifest names 'a' twice
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            raise DamagedError(f"{what} names {max(counts, key=counts.__getitem__)!r:.60} twice")
        return found

    def whole(digits: str) -> int:
        if len(digits) > DIGITS or abs(number := int(digits)) >= 2**64:
            raise DamagedError(f"{what} holds a number of {len(digits)} digits")
        return number

    def real(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise DamagedError(f"{what} holds the number {digits[:30]}")
        return number

    try:
        return json.loads(
            text.decode(),
            object_pairs_hook=once,
            parse_int=whole,
            parse_float=real,
            parse_constant=real,
        )
    except DamagedError:
        raise
    except RecursionError:
        raise DamagedError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise DamagedError(f"{what} is no JSON ({str(error)[:80]})") from None


def is_deeper(value: Any, levels: int) -> bool:
    """Whether dicts and lists are nested more than so many levels deep.

    Example:
        >>> is_deeper({"a": [1]}, 2), is_deeper({"a": [1]}, 1)
        (False, True)
    """
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_deeper(part, levels - 1) for part in parts)


def dumps(value: Any) -> bytes:
    """A value as JSON, always in the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
