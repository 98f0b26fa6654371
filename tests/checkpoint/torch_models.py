"""Models of ours for networks of PyTorch's, and the names that lead from one to the other."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import funcnet as fn
from funcnet.types import Model


class Case(NamedTuple):
    """A model, the rules of its names, and what its dense layers flatten; and what it is given."""

    model: Model
    names: dict[str, str]
    flatten: dict[str, tuple[int, ...]] | None = None
    depth: int = 4
    terms: int = 64

    def tolerance(self):
        """What float32 may cost, relative to the norm of the output.

        Each layer adds sums of at most `terms` products, whose rounding errors of half a unit in
        the last place grow as the root of their number; what one layer adds, the next carries on.
        """
        return self.depth * self.terms**0.5 * 2.0**-24


def same_on_both_sides(features, size, strides=1):
    """PyTorch's padding of an odd window; our `"same"` would put less before than after."""
    padding = ((size // 2, size // 2),) * 2
    return fn.conv(features, (size, size), strides=strides, padding=padding, bias=False)


def resnet(widths=(64, 128, 256, 512), blocks=2, classes=1000):
    def block(features, strides, project):
        body = fn.sequential(
            conv1=same_on_both_sides(features, 3, strides),
            bn1=fn.batch_norm(momentum=0.9),
            relu=jax.nn.relu,
            conv2=same_on_both_sides(features, 3),
            bn2=fn.batch_norm(momentum=0.9),
        )
        short = fn.sequential(same_on_both_sides(features, 1, strides), fn.batch_norm(momentum=0.9))
        return fn.sequential(
            sum=fn.residual(body, short if project else lambda x: x), relu=jax.nn.relu
        )

    def layer(i, features):
        first = block(features, 1 if i == 0 else 2, i > 0)
        return fn.sequential(first, *[block(features, 1, False) for _ in range(blocks - 1)])

    layers = {f"layer{i + 1}": layer(i, features) for i, features in enumerate(widths)}
    return fn.sequential(
        conv1=same_on_both_sides(widths[0], 7, 2),
        bn1=fn.batch_norm(momentum=0.9),
        relu=jax.nn.relu,
        pool=fn.max_pool((3, 3), strides=2, padding=((1, 1), (1, 1))),
        **layers,
        mean=fn.global_avg_pool(),
        fc=fn.dense(classes),
    )


RESNET = {"layer*.*.downsample": "layer*/*/sum/shortcut", "layer*.*": "layer*/*/sum/block"}

BLOCK = {
    "self_attn": "attention",
    "norm1": "attention_norm",
    "norm2": "mlp_norm",
    "linear1": "mlp/hidden",
    "linear2": "mlp/out",
}


def stacked(names, theirs="layers.*", ours="[*]"):
    return {f"{theirs}.{a}": f"{ours}/{b}" for a, b in names.items()}


def prelu():
    return fn.as_model(
        lambda params, x: jnp.where(x < 0, x * params["slope"][None, None, None], x),
        init=lambda key, x: {"slope": jnp.full(x.shape[-1:], 0.25)},
    )


def encoder():
    return fn.sequential(
        blocks=fn.layer_stack(fn.encoder_block(2, 12, activation=jax.nn.relu), 2),
    )


def digits():
    return fn.sequential(
        fn.conv(6, (3, 3), strides=2, padding=((1, 1), (1, 1)), groups=2),
        fn.conv_transpose(4, (3, 2), strides=(2, 1), padding=((1, 1), (0, 0))),
        prelu(),
        fn.group_norm(2),
        fn.flatten(),
        fn.dense(3),
    )


def volume():
    return fn.sequential(
        fn.conv(3, (2, 3, 2), padding="valid"), fn.conv_transpose(2, (2, 1, 3), padding="valid")
    )


def series():
    return fn.sequential(
        fn.conv(6, (3,), dilation=2, padding="valid"),
        fn.conv_transpose(2, (4,), strides=3, padding="valid"),
    )


CASES = {
    "resnet": Case(resnet((3, 4, 5), 1, 4), RESNET, depth=9, terms=147),
    "encoder": Case(encoder(), stacked(BLOCK, ours="blocks[*]"), depth=12),
    "digits": Case(digits(), {"2.weight": "2/slope"}, {"5": (5, 4, 4)}, terms=80),
    "volume": Case(volume(), {}),
    "series": Case(series(), {}),
    "embedding": Case(fn.sequential(fn.embedding(9, 4), fn.rms_norm()), {}),
    "lstm": Case(
        fn.sequential(fn.lstm(3, direction="both"), fn.lstm(3, direction="both")),
        {"*_l0**": "0/*_l0**", "*_l1**": "1/*_l0**"},
        depth=20,
    ),
    "gru": Case(fn.gru(3), {}, depth=10),
    "rnn": Case(fn.rnn(3), {}, depth=10),
    "cross": Case(fn.attention(2), {}, depth=6),
}
