"""The rows of the law tables: every layer once, with an input that it takes."""

from typing import Any, NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp

import funcnet as fn
from tests.nn.guests.rows import GUESTS


class Row(NamedTuple):
    """A layer under test.

    Attributes:
        make: makes the model.
        shape: of an input, batch first.
        noisy: whether training is random.
        batch: whether training mixes examples.
        smooth: whether derivatives of second order exist almost everywhere.
        integer: whether the input holds integers.
        narrow: whether it keeps bfloat16 (a guest has dtypes of its own).
    """

    make: Any
    shape: tuple[int, ...] = (4, 6)
    noisy: bool = False
    batch: bool = False
    integer: bool = False
    narrow: bool = True


def flip(key, x):
    return jnp.where(jax.random.bernoulli(key), x[::-1], x)


class Guest(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(5)(x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dropout(0.5, deterministic=not train)(x)


def own_scale():
    return fn.as_model(
        lambda params, x: params["scale"].reshape(1, -1) * x,
        init=lambda key, x: {"scale": jnp.ones(x.shape[-1], x.dtype)},
    )


IMAGE = (4, 6, 6, 2)
SEQUENCE = (4, 5, 6)
ROWS = {
    "dense": Row(lambda: fn.dense(3)),
    "dense-no-bias": Row(lambda: fn.dense(3, bias=False), (4, 2, 6)),
    "conv-1d": Row(lambda: fn.conv(3, (3,)), (4, 7, 2)),
    "conv-2d": Row(lambda: fn.conv(4, (3, 3), strides=2, groups=2), IMAGE),
    "conv-3d": Row(lambda: fn.conv(2, (2, 2, 2), padding="valid", dilation=2), (2, 4, 4, 4, 2)),
    "max_pool": Row(lambda: fn.max_pool((2, 2)), IMAGE),
    "max_pool-overlap": Row(lambda: fn.max_pool((3, 3), strides=2, padding="same"), IMAGE),
    "avg_pool": Row(lambda: fn.avg_pool((2, 2)), IMAGE),
    "avg_pool-overlap": Row(lambda: fn.avg_pool((3, 3), strides=1, padding="same"), IMAGE),
    "global_max_pool": Row(fn.global_max_pool, IMAGE),
    "global_avg_pool": Row(fn.global_avg_pool, IMAGE),
    "batch_norm": Row(fn.batch_norm, IMAGE, batch=True),
    "layer_norm": Row(fn.layer_norm),
    "dropout": Row(lambda: fn.dropout(0.5), noisy=True),
    "augment": Row(lambda: fn.augment(flip), noisy=True),
    "embedding": Row(lambda: fn.embedding(5, 3), (4, 6), integer=True, narrow=False),
    "flatten": Row(fn.flatten, IMAGE),
    "conv_transpose": Row(lambda: fn.conv_transpose(3, (3, 3), strides=2), IMAGE),
    "conv_transpose-valid": Row(
        lambda: fn.conv_transpose(2, (3,), strides=2, padding="valid", dilation=2), (4, 5, 2)
    ),
    "separable_conv": Row(lambda: fn.separable_conv(3, (3, 3), multiplier=2, strides=2), IMAGE),
    "group_norm": Row(lambda: fn.group_norm(2), (4, 5, 4)),
    "instance_norm": Row(fn.instance_norm, IMAGE),
    "rms_norm": Row(fn.rms_norm),
    "reshape": Row(lambda: fn.reshape(3, -1)),
    "permute": Row(lambda: fn.permute(3, 1, 2), IMAGE),
    "resize": Row(lambda: fn.resize((4, 9)), IMAGE),
    "upsample": Row(lambda: fn.upsample(2), IMAGE),
    "time_distributed": Row(
        lambda: fn.time_distributed(fn.sequential(fn.dense(3), fn.dropout(0.5))),
        (4, 3, 6),
        noisy=True,
    ),
    "gaussian_noise": Row(lambda: fn.gaussian_noise(0.5), noisy=True),
    "spatial_dropout": Row(lambda: fn.spatial_dropout(0.5), IMAGE, noisy=True),
    "stochastic_depth": Row(lambda: fn.stochastic_depth(0.5), noisy=True),
    "rnn": Row(lambda: fn.rnn(3), SEQUENCE),
    "lstm-both": Row(lambda: fn.lstm(3, direction="both"), SEQUENCE),
    "gru-last": Row(lambda: fn.gru(3, direction="backward", sequence=False), SEQUENCE),
    "attention": Row(lambda: fn.attention(2, causal=True), SEQUENCE),
    "attention-dropout": Row(lambda: fn.attention(2, dropout=0.5), SEQUENCE, noisy=True),
    "encoder_block": Row(lambda: fn.encoder_block(2, 8, dropout=0.1), SEQUENCE, noisy=True),
    "encoder_block-stack": Row(
        lambda: fn.layer_stack(fn.encoder_block(2, 8, norm_first=False, causal=True), 2),
        SEQUENCE,
        noisy=False,
    ),
    "sinusoidal_positions": Row(fn.sinusoidal_positions, SEQUENCE),
    "learned_positions": Row(lambda: fn.learned_positions(9), SEQUENCE),
    "wire": Row(
        lambda: fn.wire(
            lambda parts, x: parts.norm(parts.twice(parts.twice(x)) + x),
            twice=fn.sequential(fn.dense(6), jnp.tanh, fn.dropout(0.2)),
            norm=fn.layer_norm(),
        ),
        noisy=True,
    ),
    "remat": Row(lambda: fn.remat(fn.sequential(fn.dense(5), jnp.tanh), keep=["dense"])),
    "mixed_precision": Row(
        lambda: fn.mixed_precision(
            fn.sequential(fn.dense(5), fn.batch_norm()), *[jnp.result_type(float)] * 2
        ),
        batch=True,
        narrow=False,
    ),
    "sequential": Row(
        lambda: fn.sequential(fn.dense(5), jnp.tanh, fn.dropout(0.2), fn.dense(2)), noisy=True
    ),
    "sequential-named": Row(
        lambda: fn.sequential(hidden=fn.dense(5), act=jnp.tanh, out=fn.dense(2))
    ),
    "branches": Row(lambda: fn.sequential(fn.branches(a=fn.dense(2), b=jnp.sin), lambda y: y["a"])),
    "residual": Row(lambda: fn.residual(fn.sequential(fn.dense(6), jnp.tanh))),
    "residual-shortcut": Row(lambda: fn.residual(fn.dense(3), fn.dense(3))),
    "layer_stack": Row(
        lambda: fn.layer_stack(fn.sequential(fn.dense(6), jnp.tanh, fn.dropout(0.2)), 3), noisy=True
    ),
    "layer_stack-batch": Row(lambda: fn.layer_stack(fn.batch_norm(), 2), batch=True),
    "own": Row(own_scale),
    "linen": Row(lambda: fn.as_model(Guest()), noisy=True, batch=True, narrow=False),
    **{name: Row(make, noisy=True, narrow=False, **more) for name, (make, more) in GUESTS.items()},
}


def example(row, dtype=jnp.float32, seed=1):
    """An input for a row."""
    key = jax.random.key(seed)
    if row.integer:
        return jax.random.randint(key, row.shape, 0, 5)
    return jax.random.normal(key, row.shape, dtype)
