"""Data: the order of examples, arrays in memory, blocks on their way to the device."""

from funcnet.data.arrays import examples, staged
from funcnet.data.order import batch_indices, locate, order_words, permute

__all__ = ["batch_indices", "examples", "locate", "order_words", "permute", "staged"]
