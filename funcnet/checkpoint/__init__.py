"""Checkpoints: steps of a run that survive crashes and damage, and weights alone in a file."""

from funcnet.checkpoint.failures import (
    DamagedError,
    MismatchError,
    NothingSavedError,
    NotSavedError,
)
from funcnet.checkpoint.policy import Mark, Policy, every
from funcnet.checkpoint.reading import Restored, restore, steps, unknown
from funcnet.checkpoint.store import Store
from funcnet.checkpoint.torch_loading import load_torch
from funcnet.checkpoint.torch_saving import save_torch
from funcnet.checkpoint.transfer import transfer
from funcnet.checkpoint.weights import load_weights, save_weights

__all__ = [
    "DamagedError",
    "Mark",
    "MismatchError",
    "NotSavedError",
    "NothingSavedError",
    "Policy",
    "Restored",
    "Store",
    "every",
    "load_torch",
    "load_weights",
    "restore",
    "save_torch",
    "save_weights",
    "steps",
    "transfer",
    "unknown",
]
