"""Several processes as one: how they find each other, agree, and look at what they share.

The runtime is `jax.distributed`, the collectives are XLA's. `python -m funcnet.distributed.launch`
starts several processes on one machine.
"""

from funcnet.distributed.arrays import gathered
from funcnet.distributed.joining import initialize, is_main

__all__ = ["gathered", "initialize", "is_main"]
