"""Recurrent layers: Flax's cells, run along a sequence by one scan."""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.nn.guests import as_model
from funcnet.nn.model import check_rank, named, param_dtype
from funcnet.types import Model, ModelState, Params

Direction: TypeAlias = Literal["forward", "backward", "both"]
DIRECTIONS = ("forward", "backward", "both")


def rnn(
    features: int,
    *,
    direction: Direction = "forward",
    sequence: bool = True,
    decode: bool = False,
) -> Model:
    """Simple recurrent layer, `h = tanh(W x + U h + b)`, `(B, T, C) -> (B, T, features)`.

    Args:
        features: size of the state `h`.
        direction: `"forward"`, `"backward"` in time, or `"both"`, whose outputs lie side by side:
            `2 * features`.
        sequence: whether to give `h` at every step; else the last one alone, `(B, features)`.
        decode: whether to go on from the state that the call before left in model_state, for
            generating step by step; `init` takes the batch size from its `x`.

    Returns:
        The model. Its `x` may also be a pair `(x, mask)` with `mask` bool[B, T]: a step that is
        False leaves the state as it is, and has zeros as output.

    Raises:
        TypeError, ValueError: an argument is none of these; `x` has other axes.

    Source:
        Elman, "Finding Structure in Time", 1990; the cell is `flax.linen.SimpleCell`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.rnn(16, sequence=False)
        >>> x = jnp.ones((8, 10, 3))
        >>> model.apply(*model.init(jax.random.key(0), x), x)[0].shape
        (8, 16)
    """
    return recurrent("rnn", "SimpleCell", features, direction, sequence, decode)


def lstm(
    features: int,
    *,
    direction: Direction = "forward",
    sequence: bool = True,
    decode: bool = False,
) -> Model:
    """Long short-term memory, `(B, T, C) -> (B, T, features)`.

    The bias of the forget gate begins at 1, so that a new layer remembers.

    Args:
        features: size of the state.
        direction: as for `rnn`; so `sequence` and `decode`.
        sequence: see direction.
        decode: see direction.

    Returns:
        The model; a mask may come with `x`, as for `rnn`.

    Raises:
        TypeError, ValueError: as `rnn`.

    Source:
        Hochreiter, Schmidhuber, 1997, with forget gates (Gers et al., 1999); the cell is
        `flax.linen.OptimizedLSTMCell`, whose own forget gate begins at 0. The 1 is that of
        Jozefowicz et al., "An empirical exploration of recurrent network architectures", 2015.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.lstm(16, direction="both")
        >>> x, mask = jnp.ones((8, 10, 3)), jnp.arange(10) < jnp.arange(1, 9)[:, None]
        >>> model.apply(*model.init(jax.random.key(0), (x, mask)), (x, mask))[0].shape
        (8, 10, 32)
    """
    return recurrent("lstm", "OptimizedLSTMCell", features, direction, sequence, decode)


def gru(
    features: int,
    *,
    direction: Direction = "forward",
    sequence: bool = True,
    decode: bool = False,
) -> Model:
    """Gated recurrent unit, `(B, T, C) -> (B, T, features)`.

    Args:
        features: size of the state.
        direction: as for `rnn`; so `sequence` and `decode`.
        sequence: see direction.
        decode: see direction.

    Returns:
        The model; a mask may come with `x`, as for `rnn`.

    Raises:
        TypeError, ValueError: as `rnn`.

    Source:
        Cho et al., 2014, with the reset gate after the product, as in cuDNN and PyTorch; the cell
        is `flax.linen.GRUCell`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.gru(16)
        >>> x = jnp.ones((8, 10, 3))
        >>> model.apply(*model.init(jax.random.key(0), x), x)[0].shape
        (8, 10, 16)
    """
    return recurrent("gru", "GRUCell", features, direction, sequence, decode)


def recurrent(
    function: str,
    cell_name: str,
    features: int,
    direction: Direction,
    sequence: bool,
    decode: bool,
) -> Model:
    """The layer that runs one of Flax's cells along a sequence, one way or both."""
    errors.positive(function, features=features)
    if direction not in DIRECTIONS:
        raise ValueError(
            f"`{function}`: direction must be one of {', '.join(map(repr, DIRECTIONS))}, "
            f"got {direction!r}. {errors.did_you_mean(str(direction), DIRECTIONS)}"
        )
    if decode and direction != "forward":
        raise ValueError(
            f"`{function}`: direction must be 'forward' where decode=True, got {direction!r}. "
            "What comes later is not known yet."
        )
    ways = [way for way in DIRECTIONS[:2] if direction in (way, "both")]

    def cell(x: Any) -> tuple[Model, Any]:
        """The cell as a model `(carry, x[B, C]) -> (carry, h)`, and its first carry."""
        from flax import linen  # not loaded before it is used

        dtype = param_dtype(x)
        module = getattr(linen, cell_name)(
            features, param_dtype=jnp.promote_types(dtype, jnp.float32)
        )
        carry = module.initialize_carry(jax.random.key(0), (x.shape[0], x.shape[-1]))
        return as_model(module), jax.tree.map(lambda leaf: leaf.astype(dtype), carry)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        x, _ = split_mask(function, x)
        model, carry = cell(x)
        dtype = param_dtype(x)
        wide = jnp.promote_types(dtype, jnp.float32)  # no orthogonal matrices below 32 bits
        step = jax.ShapeDtypeStruct((x.shape[0], x.shape[-1]), wide)
        keys = dict(zip(DIRECTIONS, jax.random.split(key), strict=False))
        first = jax.tree.map(lambda leaf: leaf.astype(wide), carry)
        params = {way: model.init(keys[way], (first, step))[0] for way in ways}
        if cell_name == "OptimizedLSTMCell":
            params = jax.tree_util.tree_map_with_path(remembering, params)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        return params, {"carry": carry} if decode else {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        x, mask = split_mask(function, x)
        model, carry = cell(x)
        check_channels(function, params[ways[0]], x)
        if decode:
            carry = model_state["carry"]
            check_batch(function, carry, x)
        found = [run(model, params[way], carry, x, mask, way == "backward") for way in ways]
        y = jnp.concatenate([each[1 if sequence else 2] for each in found], -1)
        return y, {"carry": found[0][0]} if decode else model_state

    return named(function, Model(init, apply))


def remembering(path: Any, leaf: jax.Array) -> jax.Array:
    """A leaf of an LSTM's params, or ones for the bias of its forget gate."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return jnp.ones_like(leaf) if name.endswith("hf/bias") else leaf


def run(
    cell: Model, params: Params, carry: Any, x: jax.Array, mask: Any, reverse: bool
) -> tuple[Any, jax.Array, jax.Array]:
    """A cell along a sequence: the last carry, `h` at every step `(B, T, F)`, and the last `h`."""

    def step(carry: Any, now: tuple[jax.Array, Any]) -> tuple[Any, jax.Array]:
        x, real = now
        (new, h), _ = cell.apply(params, {}, (carry, x), training=False)
        new = jax.tree.map(lambda n, c: n.astype(c.dtype), new, carry)
        if real is None:
            return new, h
        kept = jax.tree.map(lambda n, c: jnp.where(real[:, None], n, c), new, carry)
        return kept, jnp.where(real[:, None], h, 0)

    by_time = None if mask is None else mask.T
    carry, h = jax.lax.scan(step, carry, (x.swapaxes(0, 1), by_time), reverse=reverse)
    last = carry[1] if isinstance(carry, tuple) else carry  # (c, h) of an LSTM
    return carry, h.swapaxes(0, 1), last


def check_channels(function: str, params: Params, x: Any) -> None:
    """Raises unless `x` has as many channels as the params were made for."""
    kernels = {path: leaf for path, leaf in tree.paths(params).items() if path.startswith("i")}
    channels = next(leaf for path, leaf in kernels.items() if path.endswith("kernel")).shape[0]
    if x.shape[-1] != channels:
        raise ValueError(
            f"`{function}`: x must have {channels} channels in its last axis, as at `init`, "
            f"got {errors.describe(x)}. Give `init` an x of the same shape."
        )


def check_batch(function: str, carry: Any, x: Any) -> None:
    """Raises unless the state of the call before is of the batch of `x`."""
    examples = jax.tree.leaves(carry)[0].shape[0]
    if x.shape[0] != examples:
        raise ValueError(
            f"`{function}`: x must be of the batch that `init` was given where decode=True, "
            f"{examples} examples, got {errors.describe(x)}. Call `init` with this batch."
        )


def split_mask(function: str, x: Any) -> tuple[Any, Any]:
    """The array and the mask in `x`, which may be an array or the pair of both."""
    x, mask = x if isinstance(x, tuple) and len(x) == 2 else (x, None)
    check_rank(function, x, 0, "(B, T, C)")
    if len(x.shape) != 3:
        raise ValueError(
            f"`{function}`: x must have the axes (B, T, C), got {errors.describe(x)}. Embed tokens "
            "with `fn.embedding` before; add a missing axis with `x[..., None]`."
        )
    kind = getattr(mask, "shape", None), getattr(mask, "dtype", None)
    if mask is not None and kind != (x.shape[:2], bool):
        raise ValueError(
            f"`{function}`: mask must be bool{list(x.shape[:2])}, one for each step, "
            f"got {errors.describe(mask)}."
        )
    return x, mask
