"""Data: the order of examples, arrays in memory, blocks on their way to the device."""

from funcnet.data.arrays import Subset, examples, staged, subset
from funcnet.data.order import batch_indices, locate, order_words, permute

__all__ = [
    "Subset",
    "batch_indices",
    "examples",
    "locate",
    "order_words",
    "permute",
    "staged",
    "subset",
]
