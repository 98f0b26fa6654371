"""What a rematerialised function keeps of its forward pass, by name."""

from collections.abc import Sequence
from typing import Any

import jax

POLICIES = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_without_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "everything": jax.checkpoint_policies.everything_saveable,
}


def policy(keep: str | Sequence[str], names: str) -> Any:
    """The policy of `jax.checkpoint` that `keep` stands for: a name of the table, or a list.

    Args:
        keep: a key of `POLICIES`, or a list of what is kept by its name.
        names: what such a list holds, for the error.

    Raises:
        TypeError, ValueError: `keep` is neither.
    """
    known = ", ".join(map(repr, POLICIES))
    words = f"`remat`: keep must be one of {known} or a list of {names}, got {keep!r}."
    if isinstance(keep, str):
        if keep not in POLICIES:
            raise ValueError(words)
        return POLICIES[keep]
    if not (isinstance(keep, Sequence) and all(isinstance(name, str) for name in keep)):
        raise TypeError(words)
    return jax.checkpoint_policies.save_only_these_names(*keep)
