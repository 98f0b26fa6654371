"""The workloads: what is trained, on what data, in what batches."""

import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).parent.parent / "examples" / "data"

EXAMPLES = 8000
"""Digits that are trained on."""

WINDOWS, LENGTH = 1024, 64
"""Pieces of text that are trained on, and the characters of each."""

RATE = 1e-3
"""Adam's learning rate."""


class Workload(NamedTuple):
    """A training that every contender does: shuffled batches, Adam, cross-entropy, accuracy.

    Attributes:
        name: how it is asked for.
        words: what it is.
        x: float32[8000, 28, 28, 1] for the convnet, float32[8000, 784] for the MLP, int32[1024, 64]
            for the models of text.
        y: int32[8000], labels 0 to 9; int32[1024, 64], the characters that follow.
        batch_size: examples a batch.
        epochs: how many a timed run takes, so that it lasts a fifth of a second or more and is not
            a measurement of how long a run takes to begin.
        classes: how many labels there are.
    """

    name: str
    words: str
    x: np.ndarray
    y: np.ndarray
    batch_size: int
    epochs: int
    classes: int

    @property
    def kind(self) -> str:
        """The network, whatever its batch."""
        return self.name.rstrip("0123456789")

    @property
    def steps(self) -> int:
        """Batches an epoch, the last one included."""
        return -(-len(self.x) // self.batch_size)


WORDS = {
    "convnet": "28x28x1, 3x3x32, pool, 3x3x64, pool, 128, 10; batch 64",
    "mlp32": "784-256-10; batch 32",
    "mlp128": "784-256-10; batch 128",
    "lstm": "characters, 64 each, LSTM of 256; batch 32 of length 64",
    "transformer": "characters, 128 each, 2 causal blocks of 4 heads; batch 32 of length 64",
}
NAMES = tuple(WORDS)


def workload(name: str) -> Workload:
    """The workload of that name, with its data."""
    if name in ("lstm", "transformer"):
        x, y, classes = characters()
        return Workload(name, WORDS[name], x, y, 32, 1, classes)
    with np.load(DATA / "mnist10k.npz") as data:
        x = (data["x"][:EXAMPLES] / np.float32(255)).astype(np.float32)
        y = data["y"][:EXAMPLES].astype(np.int32)
    if name == "convnet":
        return Workload(name, WORDS[name], x[..., None], y, 64, 1, 10)
    return Workload(name, WORDS[name], x.reshape(-1, 784), y, int(name.removeprefix("mlp")), 4, 10)


def characters() -> tuple[np.ndarray, np.ndarray, int]:
    """Windows of the text, the characters that follow, and how many kinds there are."""
    with lzma.open(DATA / "moby_dick.txt.xz", "rt", encoding="utf8") as file:
        _, numbers = np.unique(list(file.read()), return_inverse=True)
    starts = np.arange(WINDOWS)[:, None] * LENGTH + np.arange(LENGTH)
    numbers = numbers.astype(np.int32)
    return numbers[starts], numbers[starts + 1], int(numbers.max()) + 1
