"""Transformer blocks and positional encodings."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.nn.attention import attention
from funcnet.nn.combinators import sequential
from funcnet.nn.linear import dense
from funcnet.nn.model import check_rank, named, param_dtype, sized
from funcnet.nn.noise import dropout as drop
from funcnet.nn.norm import layer_norm
from funcnet.nn.wiring import wire
from funcnet.types import Model, ModelState, Params

Activation = Callable[[jax.Array], jax.Array]


def encoder_block(
    heads: int,
    hidden: int,
    *,
    dropout: float = 0.0,
    causal: bool = False,
    norm_first: bool = True,
    activation: Activation = jax.nn.gelu,
    epsilon: float = 1e-6,
    decode: bool = False,
) -> Model:
    """Self-attention and a two-layer network, each around a shortcut, `(B, T, C) -> (B, T, C)`.

    `y = x + attention(norm(x))`, `z = y + mlp(norm(y))`; or, with `norm_first=False`,
    `y = norm(x + attention(x))`, `z = norm(y + mlp(y))`. With `causal=True` it is the block of a
    language model. Blocks are stacked with `fn.layer_stack(block, n)`.

    Args:
        heads: number of heads.
        hidden: size of the layer between the two of the network.
        dropout: the fraction dropped of attention weights, and of what is added to a shortcut.
        causal: whether each position attends to itself and those before it only.
        norm_first: whether to normalise before each part, which trains more easily, or after it,
            as the first transformers did.
        activation: between the two layers.
        epsilon: of the layer norms; PyTorch's is 1e-5.
        decode: as for `attention`.

    Returns:
        The model. Its `x` may also be a pair `(x, mask)` with a mask as for `attention`; the output
        is then a pair with the same mask, so that blocks can follow each other.

    Raises:
        TypeError, ValueError: as `attention`.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.1; normalised first: Xiong et
        al., "On Layer Normalization in the Transformer Architecture", 2020.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.layer_stack(fn.encoder_block(heads=4, hidden=64), 3)
        >>> x, mask = jnp.ones((8, 10, 32)), jnp.ones((8, 10), bool)
        >>> y, mask = model.apply(*model.init(jax.random.key(0), (x, mask)), (x, mask))[0]
        >>> y.shape
        (8, 10, 32)
    """

    def forward(parts: Any, x: Any) -> Any:
        x, mask = x if isinstance(x, tuple) else (x, None)

        def attend(x: jax.Array) -> Any:
            return parts.attention(x if mask is None else (x, mask))

        x = around(attend, parts.attention_norm, parts.dropout, norm_first)(x)
        x = around(parts.mlp, parts.mlp_norm, parts.dropout, norm_first)(x)
        return x if mask is None else (x, mask)

    return named(
        "encoder_block",
        wire(
            forward,
            attention_norm=layer_norm(epsilon=epsilon),
            attention=attention(heads, dropout=dropout, causal=causal, decode=decode),
            mlp_norm=layer_norm(epsilon=epsilon),
            mlp=mlp(hidden, activation),
            dropout=drop(dropout),
        ),
    )


def decoder_block(
    heads: int,
    hidden: int,
    *,
    dropout: float = 0.0,
    norm_first: bool = True,
    activation: Activation = jax.nn.gelu,
    epsilon: float = 1e-6,
    decode: bool = False,
) -> Model:
    """Causal self-attention, cross-attention to a memory and a network, each around a shortcut.

    `(x, memory) -> (x, memory)`, with `x` `(B, T, C)` and `memory` `(B, S, D)`, an encoder's
    output, handed on as it is, so that blocks can follow each other.

    Args:
        heads: as for `encoder_block`, and so all others.
        hidden: see heads.
        dropout: see heads.
        norm_first: see heads.
        activation: see heads.
        epsilon: see heads.
        decode: see heads; keys and values of the memory are computed anew at each call.

    Returns:
        The model. Its `x` may also be a triple `(x, memory, mask)` with a mask of the memory,
        bool `(B, S)`; the output is then one too.

    Raises:
        TypeError, ValueError: `x` is no such pair or triple; as `attention`.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.1.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.decoder_block(heads=4, hidden=64)
        >>> x, memory = jnp.ones((8, 7, 32)), jnp.ones((8, 10, 48))
        >>> y, memory = model.apply(*model.init(jax.random.key(0), (x, memory)), (x, memory))[0]
        >>> y.shape
        (8, 7, 32)
    """

    def forward(parts: Any, x: Any) -> Any:
        if not isinstance(x, tuple) or len(x) not in (2, 3):
            raise TypeError(
                "`decoder_block`: x must be (x, memory) or (x, memory, mask), "
                f"got {errors.describe(x)}."
            )
        x, *memory = x

        def across(x: jax.Array) -> Any:
            return parts.cross((x, *memory))

        x = around(parts.attention, parts.attention_norm, parts.dropout, norm_first)(x)
        x = around(across, parts.cross_norm, parts.dropout, norm_first)(x)
        return around(parts.mlp, parts.mlp_norm, parts.dropout, norm_first)(x), *memory

    return named(
        "decoder_block",
        wire(
            forward,
            attention_norm=layer_norm(epsilon=epsilon),
            attention=attention(heads, dropout=dropout, causal=True, decode=decode),
            cross_norm=layer_norm(epsilon=epsilon),
            cross=attention(heads, dropout=dropout),
            mlp_norm=layer_norm(epsilon=epsilon),
            mlp=mlp(hidden, activation),
            dropout=drop(dropout),
        ),
    )


def sinusoidal_positions(*, decode: bool = False) -> Model:
    """Adds sines and cosines of the position, `(B, T, C) -> (B, T, C)`.

    Position p adds `sin(p / 10000^(2i / C))` to channel 2i and the cosine to channel 2i + 1.

    Args:
        decode: whether positions go on from those of the calls before, counted in model_state.

    Returns:
        The model, without params.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.5.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> y, _ = fn.sinusoidal_positions().apply({}, {}, jnp.zeros((1, 2, 4)))
        >>> y[0, 0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """

    def encode(params: Params, position: jax.Array, x: jax.Array) -> jax.Array:
        channel = jnp.arange(x.shape[-1])
        rate = 10000.0 ** (-(channel - channel % 2) / x.shape[-1])
        angle = position[:, None] * rate[None]  # (T, C)
        return jnp.where(channel[None] % 2, jnp.cos(angle), jnp.sin(angle))

    def params_of(key: jax.Array, x: Any) -> Params:
        return {}

    return positions("sinusoidal_positions", params_of, encode, decode)


def learned_positions(length: int, *, decode: bool = False) -> Model:
    """Adds a learnt vector for each position, `(B, T, C) -> (B, T, C)`.

    Args:
        length: the greatest number of positions.
        decode: whether positions go on from those of the calls before, counted in model_state.

    Returns:
        The model; its params are `{"embedding": [length, C]}`, normal with deviation 0.02.

    Raises:
        ValueError: `x` has more positions than `length`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.learned_positions(100)
        >>> model.init(jax.random.key(0), jnp.ones((8, 10, 32)))[0]["embedding"].shape
        (100, 32)
    """
    errors.positive("learned_positions", length=length)

    def params_of(key: jax.Array, x: Any) -> Params:
        shape = (length, x.shape[-1])
        return {"embedding": 0.02 * jax.random.normal(key, shape, param_dtype(x))}

    def encode(params: Params, position: jax.Array, x: jax.Array) -> jax.Array:
        if x.shape[1] > length:
            raise ValueError(
                f"`learned_positions`: x must have at most length={length} positions, got "
                f"{errors.describe(x)}. Cut it, or give a greater length."
            )
        taken: jax.Array = jnp.take(
            params["embedding"], position, axis=0, mode="fill", fill_value=jnp.nan
        )
        return taken

    return positions("learned_positions", params_of, encode, decode)


def positions(
    function: str,
    params_of: Callable[[jax.Array, Any], Params],
    encode: Callable[[Params, jax.Array, jax.Array], jax.Array],
    decode: bool,
) -> Model:
    """The layer that adds `encode(params, position, x)`, `(T, C)`, to `x`."""

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_sequence(function, x)
        return params_of(key, x), {"position": jnp.zeros((), jnp.int32)} if decode else {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_sequence(function, x)
        begin = model_state["position"] if decode else 0
        code = encode(params, begin + jnp.arange(x.shape[1]), x)
        after = {"position": begin + x.shape[1]} if decode else model_state
        dtype = param_dtype(x)
        return x.astype(dtype) + code[None].astype(dtype), after

    return named(function, Model(init, apply))


def mlp(hidden: int, activation: Activation) -> Model:
    """The network of a block: two dense layers, back to as many features as came in."""

    def of(x: Any) -> Model:
        return sequential(hidden=dense(hidden), activation=activation, out=dense(x.shape[-1]))

    return sized("mlp", of)


def around(
    part: Callable[[Any], Any],
    norm: Callable[[Any], Any],
    dropout: Callable[[Any], Any],
    norm_first: bool,
) -> Callable[[jax.Array], jax.Array]:
    """`x + part(norm(x))`, or `norm(x + part(x))`."""

    def with_shortcut(x: jax.Array) -> jax.Array:
        y: jax.Array = x + dropout(part(norm(x))) if norm_first else norm(x + dropout(part(x)))
        return y

    return with_shortcut


def check_sequence(function: str, x: Any) -> None:
    """Raises unless `x` has the axes (B, T, C)."""
    check_rank(function, x, 0, "(B, T, C)")
    if len(x.shape) != 3:
        raise ValueError(
            f"`{function}`: x must have the axes (B, T, C), got {errors.describe(x)}. "
            "Embed tokens with `fn.embedding` before."
        )
