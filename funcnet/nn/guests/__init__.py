"""Models of other makes."""

from funcnet.nn.guests.dispatch import as_model

__all__ = ["as_model"]
