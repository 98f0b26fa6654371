"""Neural networks as pure functions in JAX, and a trainer that is one too."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from funcnet import autodiff, data, metrics, nn, stopping, training, tree, types
from funcnet.data import augmentation
from funcnet.nn import (
    as_model,
    attention,
    augment,
    avg_pool,
    batch_norm,
    branches,
    conv,
    conv_transpose,
    decoder_block,
    dense,
    dropout,
    embedding,
    encoder_block,
    flatten,
    gaussian_noise,
    global_avg_pool,
    global_max_pool,
    group_norm,
    gru,
    instance_norm,
    is_training,
    layer_norm,
    layer_stack,
    learned_positions,
    lstm,
    max_pool,
    mixed_precision,
    permute,
    remat,
    reshape,
    residual,
    resize,
    rms_norm,
    rnn,
    separable_conv,
    sequential,
    sinusoidal_positions,
    spatial_dropout,
    stateless,
    stochastic_depth,
    time_distributed,
    upsample,
    wire,
)
from funcnet.placement import Placement, data_parallel, fully_sharded, on_mesh, pmapped
from funcnet.stopping import Reason, early_stopping
from funcnet.trainer import (
    Callback,
    Event,
    Result,
    RunResult,
    StopTraining,
    Trainer,
    json_lines,
    make_run,
)
from funcnet.training import averaged, ema, loss_scaling, objective, swa, unpack
from funcnet.types import Model, TrainState

if TYPE_CHECKING:
    from funcnet.inspect import describe, graph, plot, plot_confusion, summary
    from funcnet.studies import (
        bias_variance,
        cross_validate,
        ensemble,
        halving,
        learning_curve,
        log_uniform,
        sweep,
        temperature,
        uniform,
    )

__version__ = "0.1.0"

LAZY = {
    "bias_variance": "funcnet.studies",
    "cross_validate": "funcnet.studies",
    "describe": "funcnet.inspect",
    "ensemble": "funcnet.studies",
    "graph": "funcnet.inspect",
    "halving": "funcnet.studies",
    "learning_curve": "funcnet.studies",
    "log_uniform": "funcnet.studies",
    "plot": "funcnet.inspect",
    "plot_confusion": "funcnet.inspect",
    "summary": "funcnet.inspect",
    "sweep": "funcnet.studies",
    "temperature": "funcnet.studies",
    "uniform": "funcnet.studies",
}
"""Names that are loaded at their first use, with what they stand on."""

__all__ = [
    "Callback",
    "Event",
    "Model",
    "Placement",
    "Reason",
    "Result",
    "RunResult",
    "StopTraining",
    "TrainState",
    "Trainer",
    "as_model",
    "attention",
    "augment",
    "augmentation",
    "autodiff",
    "averaged",
    "avg_pool",
    "batch_norm",
    "bias_variance",
    "branches",
    "conv",
    "conv_transpose",
    "cross_validate",
    "data",
    "data_parallel",
    "decoder_block",
    "dense",
    "describe",
    "dropout",
    "early_stopping",
    "ema",
    "embedding",
    "encoder_block",
    "ensemble",
    "flatten",
    "fully_sharded",
    "gaussian_noise",
    "global_avg_pool",
    "global_max_pool",
    "graph",
    "group_norm",
    "gru",
    "halving",
    "instance_norm",
    "is_training",
    "json_lines",
    "layer_norm",
    "layer_stack",
    "learned_positions",
    "learning_curve",
    "log_uniform",
    "loss_scaling",
    "lstm",
    "make_run",
    "max_pool",
    "metrics",
    "mixed_precision",
    "nn",
    "objective",
    "on_mesh",
    "permute",
    "plot",
    "plot_confusion",
    "pmapped",
    "remat",
    "reshape",
    "residual",
    "resize",
    "rms_norm",
    "rnn",
    "separable_conv",
    "sequential",
    "sinusoidal_positions",
    "spatial_dropout",
    "stateless",
    "stochastic_depth",
    "stopping",
    "summary",
    "swa",
    "sweep",
    "temperature",
    "time_distributed",
    "training",
    "tree",
    "types",
    "uniform",
    "unpack",
    "upsample",
    "wire",
]


def __getattr__(name: str) -> Any:
    """Loads what is not needed by everyone."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'funcnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
