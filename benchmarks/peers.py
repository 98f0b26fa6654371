"""Peers that do the same trainings: Keras on JAX, PyTorch eager and compiled, Lightning.

Each is a function `prepare(work) -> run(epochs)` that imports its library when it is called: one
that is not installed is absent, and says so. `pip install -e '.[peers]'` brings them all.
"""

import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np

from benchmarks.workloads import LENGTH, RATE, Workload

Run: TypeAlias = Callable[[int], None]


def keras(work: Workload, steps_per_execution: int) -> Run:
    """`Model.fit` on Keras' JAX backend."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras as k

    model = keras_net(k, work)
    model.compile(
        k.optimizers.Adam(RATE),
        loss=k.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )

    def run(epochs: int) -> None:
        model.fit(work.x, work.y, batch_size=work.batch_size, epochs=epochs, verbose=0)

    return run


def keras_net(k: Any, work: Workload) -> Any:
    """The model as Keras' own layers."""
    layers = k.layers
    x = begin = k.Input(work.x.shape[1:], dtype=str(work.x.dtype))
    if work.kind == "mlp":
        x = layers.Dense(256, activation="relu")(x)
    elif work.kind == "lstm":
        x = layers.LSTM(256, return_sequences=True)(layers.Embedding(work.classes, 64)(x))
    elif work.kind == "transformer":
        positions = layers.Embedding(LENGTH, 128)(k.ops.arange(LENGTH))
        x = layers.Embedding(work.classes, 128)(x) + positions[None]
        for _ in range(2):
            y = layers.LayerNormalization()(x)
            x = x + layers.MultiHeadAttention(4, 32)(y, y, use_causal_mask=True)
            y = layers.Dense(512, activation="gelu")(layers.LayerNormalization()(x))
            x = x + layers.Dense(128)(y)
        x = layers.LayerNormalization()(x)
    else:
        for features in (32, 64):
            x = layers.Conv2D(features, 3, padding="same", activation="relu")(x)
            x = layers.MaxPooling2D()(x)
        x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
    return k.Model(begin, layers.Dense(work.classes)(x))


def torch_net(work: Workload) -> Any:
    """The model as PyTorch's own layers, channels first."""
    import torch
    from torch import nn

    torch.set_num_threads(cores())
    if work.kind == "mlp":
        return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    if work.kind in ("lstm", "transformer"):
        return torch_text(work)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(7 * 7 * 64, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def torch_text(work: Workload) -> Any:
    """The models of text as PyTorch's own layers."""
    import torch
    from torch import nn

    class Lstm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(work.classes, 64)
            self.lstm = nn.LSTM(64, 256, batch_first=True)
            self.out = nn.Linear(256, work.classes)

        def forward(self, x: Any) -> Any:
            return self.out(self.lstm(self.embed(x))[0])

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(work.classes, 128)
            self.positions = nn.Parameter(0.02 * torch.randn(1, LENGTH, 128))
            block = nn.TransformerEncoderLayer(
                128, 4, 512, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(
                block, 2, norm=nn.LayerNorm(128), enable_nested_tensor=False
            )
            self.out = nn.Linear(128, work.classes)
            mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
            self.register_buffer("mask", mask)

        def forward(self, x: Any) -> Any:
            x = self.embed(x) + self.positions
            return self.out(self.blocks(x, mask=self.mask, is_causal=True))

    return Lstm() if work.kind == "lstm" else Transformer()


def tensors(work: Workload) -> tuple[Any, Any]:
    """The data as PyTorch's tensors, channels first."""
    import torch

    x = np.moveaxis(work.x, -1, 1) if work.kind == "convnet" else work.x
    if work.x.dtype == np.int32:
        x = x.astype(np.int64)
    return torch.tensor(np.ascontiguousarray(x)), torch.tensor(work.y.astype(np.int64))


def torch(work: Workload, compiled: bool = False, fused: bool = False) -> Run:
    """A loop by hand over tensors in memory; nothing is waited for but at the end of an epoch."""
    import torch as t

    net, (x, y) = torch_net(work), tensors(work)
    model = t.compile(net) if compiled else net
    optimizer = t.optim.Adam(net.parameters(), lr=RATE, fused=fused or None)
    entropy = t.nn.CrossEntropyLoss()

    def run(epochs: int) -> None:
        history = []
        for _ in range(epochs):
            total, right = t.zeros(()), t.zeros((), dtype=t.int64)
            for index in t.randperm(len(x)).split(work.batch_size):
                labels = y[index]
                logits = model(x[index])
                loss = entropy(logits.flatten(0, -2), labels.flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(index)
                right += (logits.detach().argmax(-1) == labels).sum()
            history.append((total.item() / len(x), right.item() / y.numel()))

    return run


def lightning(work: Workload) -> Run:
    """Lightning's `Trainer`, without progress bar, logger and checkpoints."""
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # few workers, no logger: as meant here
    import lightning as pl
    import torch as t
    from torch.utils.data import DataLoader, TensorDataset

    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch_net(work)

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            logits = self.net(x)
            loss = t.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())
            right = (logits.detach().argmax(-1) == y).float().mean()
            self.log_dict({"loss": loss, "accuracy": right}, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            return t.optim.Adam(self.parameters(), lr=RATE)

    module = Module()
    loader = DataLoader(TensorDataset(*tensors(work)), work.batch_size, shuffle=True)

    def run(epochs: int) -> None:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)

    return run


PEERS: dict[str, tuple[str, Callable[[Workload], Run]]] = {
    "Keras": ("keras", partial(keras, steps_per_execution=1)),
    "Keras, steps_per_execution=32": ("keras", partial(keras, steps_per_execution=32)),
    "torch eager": ("torch", torch),
    "torch eager, fused Adam": ("torch", partial(torch, fused=True)),
    "torch.compile": ("torch", partial(torch, compiled=True)),
    "Lightning": ("lightning", lightning),
}
"""What each needs to be installed, and its `prepare`."""


def prepared(work: Workload, epochs: tuple[int, ...]) -> dict[str, Run]:
    """The peers that are installed, warmed up; of each that is absent a line says why."""
    runs = {}
    for name, (package, prepare) in PEERS.items():
        if find_spec(package) is None:
            print(f"{name}: absent, {package} is not installed (pip install -e '.[peers]')")
            continue
        try:
            run = prepare(work)
            for count in epochs:
                run(count)
        except Exception as error:  # a peer that fails must not end the others' measurement
            print(f"{name}: absent, it failed with {type(error).__name__}: {error}")
            continue
        runs[name] = run
    return runs


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    return {name: version(name) for name in ("keras", "torch", "lightning") if find_spec(name)}


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
