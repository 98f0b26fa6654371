"""The three workloads: what is trained, on what data, in what batches."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).parent.parent / "examples" / "data" / "mnist10k.npz"

EXAMPLES = 8000
"""Rows of the data that are trained on."""

RATE = 1e-3
"""Adam's learning rate."""


class Workload(NamedTuple):
    """A training that every contender does: shuffled batches, Adam, cross-entropy, accuracy.

    Attributes:
        name: how it is asked for.
        words: what it is.
        x: float32[8000, 28, 28, 1] for the convnet, float32[8000, 784] for the MLP.
        y: int32[8000], labels 0 to 9.
        batch_size: examples a batch.
        epochs: how many a timed run takes, so that it lasts a fifth of a second or more and is not
            a measurement of how long a run takes to begin.
    """

    name: str
    words: str
    x: np.ndarray
    y: np.ndarray
    batch_size: int
    epochs: int

    @property
    def convolves(self) -> bool:
        """Whether it is the convnet."""
        return self.x.ndim == 4

    @property
    def steps(self) -> int:
        """Batches an epoch, the last one included."""
        return -(-len(self.x) // self.batch_size)


NAMES = ("convnet", "mlp32", "mlp128")


def workload(name: str) -> Workload:
    """The workload of that name, with its data."""
    with np.load(DATA) as data:
        x = (data["x"][:EXAMPLES] / np.float32(255)).astype(np.float32)
        y = data["y"][:EXAMPLES].astype(np.int32)
    if name == "convnet":
        words = "28x28x1, 3x3x32, pool, 3x3x64, pool, 128, 10; batch 64"
        return Workload(name, words, x[..., None], y, 64, 1)
    batch_size = int(name.removeprefix("mlp"))
    return Workload(name, f"784-256-10; batch {batch_size}", x.reshape(-1, 784), y, batch_size, 4)
