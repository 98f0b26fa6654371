"""Layers, and models made of models."""

from funcnet.nn.attention import attention
from funcnet.nn.combinators import branches, layer_stack, residual, sequential
from funcnet.nn.conv import conv, separable_conv
from funcnet.nn.freezing import frozen
from funcnet.nn.guests import as_model
from funcnet.nn.linear import dense, embedding
from funcnet.nn.low_rank import lora, lora_merged
from funcnet.nn.model import is_training, stateless
from funcnet.nn.noise import (
    augment,
    dropout,
    gaussian_noise,
    spatial_dropout,
    stochastic_depth,
)
from funcnet.nn.norm import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from funcnet.nn.pooling import avg_pool, global_avg_pool, global_max_pool, max_pool
from funcnet.nn.precision import mixed_precision, remat
from funcnet.nn.recurrent import gru, lstm, rnn
from funcnet.nn.shape import flatten, permute, reshape, resize, time_distributed, upsample
from funcnet.nn.transformer import (
    decoder_block,
    encoder_block,
    learned_positions,
    sinusoidal_positions,
)
from funcnet.nn.transposed import conv_transpose
from funcnet.nn.wiring import wire

__all__ = [
    "as_model",
    "attention",
    "augment",
    "avg_pool",
    "batch_norm",
    "branches",
    "conv",
    "conv_transpose",
    "decoder_block",
    "dense",
    "dropout",
    "embedding",
    "encoder_block",
    "flatten",
    "frozen",
    "gaussian_noise",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "gru",
    "instance_norm",
    "is_training",
    "layer_norm",
    "layer_stack",
    "learned_positions",
    "lora",
    "lora_merged",
    "lstm",
    "max_pool",
    "mixed_precision",
    "permute",
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
    "time_distributed",
    "upsample",
    "wire",
]
