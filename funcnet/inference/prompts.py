"""Prompts as arrays: texts of one length, or of several, one row each."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.data.arrays import as_array


class Prompts(NamedTuple):
    """What is to be continued.

    Attributes:
        tokens: int32[B, P], a row filled up behind its end where others are longer.
        sizes: int32[B], how many tokens of each row count.
        least: the fewest of them, a plain number.
    """

    tokens: Any
    sizes: Any
    least: int


def read_prompts(function: str, prompt: Any) -> Prompts:
    """`prompt`, an array `[B, P]` or a list of B rows, once it is known to be well."""
    if isinstance(prompt, list | tuple) and prompt and all(map(is_row, prompt)):
        return of_rows([tokens_of(function, row, 1) for row in prompt])
    tokens = tokens_of(function, prompt, 2)
    sizes = np.full(tokens.shape[0], tokens.shape[1], np.int32)
    return Prompts(tokens, sizes, tokens.shape[1])


def is_row(part: Any) -> bool:
    """Whether a part of a list is a sequence itself."""
    return isinstance(part, list | tuple) or getattr(part, "ndim", 0) > 0


def of_rows(rows: list[Any]) -> Prompts:
    """Rows of any lengths, the shorter ones filled up with zeros that are never read."""
    sizes = np.array([len(row) for row in rows], np.int32)
    longest = int(sizes.max())
    xp: Any = np if all(isinstance(row, np.ndarray) for row in rows) else jnp
    tokens = xp.stack([xp.pad(row, (0, longest - len(row))) for row in rows])
    return Prompts(tokens, sizes, int(sizes.min()))


def tokens_of(function: str, value: Any, axes: int) -> Any:
    """`value` as int32 with so many axes, none of them empty."""
    got = f"got {errors.describe(value)}"
    must = f"`{function}`: prompt must hold tokens as integers, "
    if isinstance(value, str) or (isinstance(value, list | tuple) and "str" in kinds(value)):
        raise TypeError(
            f"{must}{got}. Number the characters or words as in training, "
            "`[[number[c] for c in text]]` say."
        )
    array = as_array(function, value)
    if array.ndim == 0 or 0 in array.shape:
        raise ValueError(
            f"{must}one or more in each row, {got}. "
            "Begin with a token that stands for the beginning of a text."
        )
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{must}{got}. Convert it with `prompt.astype(int)`.")
    if array.ndim != axes:
        raise ValueError(
            f"{must}a row for each text, {got}. Give int[B, P], or a list of rows of any lengths; "
            "one text alone is `[prompt]`."
        )
    return array.astype(np.int32)


def kinds(value: Any) -> set[str]:
    """Names of the types of what a sequence holds."""
    return {type(each).__name__ for each in value}
