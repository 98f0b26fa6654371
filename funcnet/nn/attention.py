"""Attention: Flax's multi-head attention as a model, with masks and a cache for decoding."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.nn.model import check_rank, is_training, param_dtype
from funcnet.nn.precision import cast
from funcnet.types import Model, ModelState, Params


def attention(
    heads: int,
    *,
    features: int | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    bias: bool = True,
    decode: bool = False,
) -> Model:
    """Multi-head scaled dot-product attention, `(B, T, C) -> (B, T, C)`.

    | x | what attends to what |
    | --- | --- |
    | `x`, `(B, T, C)` | each position to all of `x`: self-attention |
    | `(q, kv)` | each position of `q`, `(B, T, C)`, to all of `kv`, `(B, S, D)`: cross-attention |
    | `(q, k, v)` | the same with values of their own, `(B, S, E)` |

    After these a mask may follow, told by its dtype, bool: `(B, S)`, False for positions that
    nobody may attend to, such as padding; or `(B, T, S)`, or `(B, heads, T, S)`.

    Args:
        heads: number of heads; it divides `features`.
        features: size of all heads' queries together; C unless given.
        dropout: the fraction of attention weights dropped in training, in `0 .. 1`, for each
            example and head anew; a plain number.
        causal: whether each position attends to itself and those before it only.
        bias: whether the four products have a bias.
        decode: whether to keep keys and values in model_state and attend to those of all calls
            so far. `x` then holds the next positions, mostly one, `(B, 1, C)`; `init` is given as
            many as there may be in all. More than these give NaN.

    Returns:
        The model; its params are those of `flax.linen.MultiHeadDotProductAttention`.

    Raises:
        TypeError, ValueError: `heads` does not divide `features`; `dropout` is no such number; `x`
            is none of the table's.

    Source:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.2.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.attention(4, causal=True)
        >>> x = jnp.ones((8, 10, 32))
        >>> model.apply(*model.init(jax.random.key(0), x), x)[0].shape
        (8, 10, 32)
    """
    errors.positive("attention", heads=heads)
    if features is not None:
        errors.positive("attention", features=features)
    check_dropout(dropout)

    def module(q: Any) -> Any:
        from flax import linen  # not loaded before it is used

        size = q.shape[-1] if features is None else features
        if size % heads:
            raise ValueError(
                f"`attention`: heads must divide the features, got heads={heads} and {size} "
                f"features. Choose heads among the divisors of {size}, or give `features`."
            )
        return linen.MultiHeadDotProductAttention(
            num_heads=heads,
            qkv_features=size,
            param_dtype=param_dtype(q),
            dropout_rate=dropout,
            broadcast_dropout=False,
            use_bias=bias,
            decode=decode,
        )

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        (q, k, v), _ = inputs(x)
        variables = dict(module(q).lazy_init(key, q, k, own(k, v), deterministic=True))
        return variables.pop("params"), {} if not decode else variables["cache"]

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        (q, k, v), mask = inputs(x)
        if decode and (isinstance(x, tuple) or mask is not None):
            raise TypeError(
                "`attention`: x must be one array where decode=True, got "
                f"{errors.describe(x)}. Only self-attention has a cache."
            )
        on = is_training(key, training) and dropout > 0
        if on and key is None:
            raise ValueError(
                "`attention`: training with dropout needs randomness, got key=None. "
                "Give `apply` a key, `key=jax.random.key(0)` say, or `training=False`."
            )
        settings = {"deterministic": not on, "rngs": {"dropout": key} if on else None}

        def one(cache: ModelState, q: jax.Array) -> tuple[ModelState, jax.Array]:
            dtype = jnp.result_type(q, *jax.tree.leaves(params))
            variables = {"params": params, "cache": cast(cache, dtype)}
            y, new = module(q).apply(variables, q, **settings, mutable=["cache"])
            full = cache["cache_index"] >= cache["cached_key"].shape[1]  # Flax writes over the last
            after = jax.tree.map(lambda n, old: n.astype(old.dtype), new["cache"], cache)
            return after, jnp.where(full, jnp.nan, y)

        if decode:  # Flax's cache takes one position at a time
            check_room(model_state, q)
            cache, y = jax.lax.scan(one, model_state, jnp.expand_dims(q.swapaxes(0, 1), 2))
            return y[:, :, 0].swapaxes(0, 1), cache
        full = whole_mask(mask, q, k, causal, heads)
        variables = {"params": params}
        return module(q).apply(variables, q, k, own(k, v), mask=full, **settings), model_state

    return Model(init, apply)


def check_dropout(dropout: Any) -> None:
    """Raises unless `dropout` is a plain number in 0 .. 1: Flax chooses by it while tracing."""
    words = f"`attention`: dropout must be a plain number in 0 .. 1, got {dropout!r}."
    if isinstance(dropout, jax.Array):
        raise TypeError(f"{words} Put `fn.dropout(rate)` after it where the rate is an array.")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float):
        raise TypeError(words)
    if not 0 <= dropout <= 1:
        raise ValueError(words)


def check_room(cache: ModelState, q: Any) -> None:
    """Raises unless the cache is of the batch of `q`, and could hold all of it."""
    examples, room = cache["cached_key"].shape[:2]
    if q.shape[0] != examples or q.shape[1] > room:
        raise ValueError(
            f"`attention`: the cache holds {examples} examples of {room} positions, as x had at "
            f"`init`, got {errors.describe(q)}. Call `init` with an x of this batch, as long as "
            "all that is to come."
        )


def inputs(x: Any) -> tuple[tuple[Any, Any, Any], Any]:
    """Queries, keys and values in `x`, and its mask."""
    parts = list(x) if isinstance(x, tuple) else [x]
    mask = None
    if parts and jnp.issubdtype(getattr(parts[-1], "dtype", jnp.float32), jnp.bool_):
        *parts, mask = parts
    if not 1 <= len(parts) <= 3:
        raise TypeError(
            "`attention`: x must be an array, (q, kv) or (q, k, v), and a bool mask after these if "
            f"there is one, got {errors.describe(x)}."
        )
    if len(parts) > 1 and len(getattr(parts[-1], "shape", (0, 0, 0))) in (2, 4):
        raise TypeError(
            f"`attention`: a mask must be bool, got {errors.describe(x)}. "
            "Say `mask.astype(bool)`: True for what may be attended to."
        )
    for part in parts:
        check_rank("attention", part, 0, "(B, T, C)")
        if len(part.shape) != 3:
            raise ValueError(
                f"`attention`: each input must have the axes (B, T, C), got {errors.describe(x)}. "
                "Embed tokens with `fn.embedding` before."
            )
    q, k, v = (*parts, *[parts[-1]] * 2)[:3]
    if k.shape[:2] != v.shape[:2] or q.shape[0] != k.shape[0]:
        raise ValueError(
            "`attention`: keys and values must be of the same length, and all of the same batch, "
            f"got {errors.describe(x)}."
        )
    return (q, k, v), mask


def own(k: Any, v: Any) -> Any:
    """Values as Flax takes them: None where they are the keys, else it warns of square ones."""
    return None if v is k else v


def whole_mask(mask: Any, q: Any, k: Any, causal: bool, heads: int) -> Any:
    """What may be attended to, bool `(B or 1, heads or 1, T, S)`, or None for everything."""
    if mask is not None:
        full = (q.shape[0], q.shape[1], k.shape[1])
        per_head = (full[0], heads, *full[1:])
        if mask.shape not in ((full[0], full[2]), full, per_head, (full[0], 1, *full[1:])):
            raise ValueError(
                f"`attention`: mask must be bool{[full[0], full[2]]}, bool{list(full)} or "
                f"bool{list(per_head)}, got {errors.describe(mask)}."
            )
        if mask.ndim == 2:
            mask = mask[:, None, None, :]
        elif mask.ndim == 3:
            mask = mask[:, None]
    if causal:
        before = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))[None, None]
        return before if mask is None else mask & before
    return mask
