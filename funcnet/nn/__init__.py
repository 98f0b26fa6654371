"""Layers, and models made of models."""

from funcnet.nn.combinators import branches, layer_stack, residual, sequential
from funcnet.nn.conv import conv
from funcnet.nn.guests import as_model
from funcnet.nn.linear import dense, embedding
from funcnet.nn.model import is_training, stateless
from funcnet.nn.noise import augment, dropout
from funcnet.nn.norm import batch_norm, layer_norm
from funcnet.nn.pooling import avg_pool, global_avg_pool, global_max_pool, max_pool
from funcnet.nn.shape import flatten

__all__ = [
    "as_model",
    "augment",
    "avg_pool",
    "batch_norm",
    "branches",
    "conv",
    "dense",
    "dropout",
    "embedding",
    "flatten",
    "global_avg_pool",
    "global_max_pool",
    "is_training",
    "layer_norm",
    "layer_stack",
    "max_pool",
    "residual",
    "sequential",
    "stateless",
]
