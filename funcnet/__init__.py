"""Neural networks as pure functions in JAX, and a trainer that is one too."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from funcnet import data, metrics, nn, stopping, training, tree, types
from funcnet.nn import (
    as_model,
    augment,
    avg_pool,
    batch_norm,
    branches,
    conv,
    dense,
    dropout,
    embedding,
    flatten,
    global_avg_pool,
    global_max_pool,
    is_training,
    layer_norm,
    layer_stack,
    max_pool,
    residual,
    sequential,
    stateless,
)
from funcnet.stopping import Reason, early_stopping
from funcnet.trainer import Callback, Event, Result, StopTraining, Trainer, json_lines
from funcnet.training import unpack
from funcnet.types import Model, TrainState

if TYPE_CHECKING:
    from funcnet.inspect import plot, plot_confusion, summary

__version__ = "0.1.0"

LAZY = {
    "plot": "funcnet.inspect",
    "plot_confusion": "funcnet.inspect",
    "summary": "funcnet.inspect",
}
"""Names that are loaded at their first use, with what they stand on."""

__all__ = [
    "Callback",
    "Event",
    "Model",
    "Reason",
    "Result",
    "StopTraining",
    "TrainState",
    "Trainer",
    "as_model",
    "augment",
    "avg_pool",
    "batch_norm",
    "branches",
    "conv",
    "data",
    "dense",
    "dropout",
    "early_stopping",
    "embedding",
    "flatten",
    "global_avg_pool",
    "global_max_pool",
    "is_training",
    "json_lines",
    "layer_norm",
    "layer_stack",
    "max_pool",
    "metrics",
    "nn",
    "plot",
    "plot_confusion",
    "residual",
    "sequential",
    "stateless",
    "stopping",
    "summary",
    "training",
    "tree",
    "types",
    "unpack",
]


def __getattr__(name: str) -> Any:
    """Loads what is not needed by everyone."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'funcnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
