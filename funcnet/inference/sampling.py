"""Which tokens may be drawn, as masks on logits, and the draw itself: pure functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors


class Draw(NamedTuple):
    """How tokens are drawn; what is None is no part of the program.

    Attributes:
        keys: a key for each row; without them the likeliest token is taken.
        temperature: float32[], what logits are divided by; at 0 the likeliest token is taken.
        top_k: int32[], how many of the likeliest tokens are left.
        top_p: float32[], the mass of the likeliest tokens that are left.
    """

    keys: jax.Array | None
    temperature: Any
    top_k: Any
    top_p: Any


def top_k(logits: jax.Array, k: Any) -> jax.Array:
    """Keeps the `k` greatest logits of each row and makes the others -inf, `(..., V) -> (..., V)`.

    Of equal ones the first are kept, exactly `k` in all. A NaN counts as the greatest, so that it
    stays to be seen.

    Args:
        logits: floats, a row for each draw.
        k: how many, from 1 on; it may be traced.

    Raises:
        TypeError, ValueError: `logits` holds no floats; `k` is no positive whole number.

    Source:
        Fan et al., "Hierarchical Neural Story Generation", 2018, section 5.4.

    Example:
        >>> import jax.numpy as jnp
        >>> from funcnet.inference import top_k
        >>> top_k(jnp.array([1.0, 3.0, 2.0]), 2).tolist()
        [-inf, 3.0, 2.0]
    """
    logits = check_logits("top_k", logits)
    check_k("top_k", "k", k)
    return jnp.where(ranks(logits) < k, logits, -jnp.inf)


def top_p(logits: jax.Array, p: Any) -> jax.Array:
    """Keeps the fewest logits whose probabilities reach `p` in sum, `(..., V) -> (..., V)`.

    The others become -inf: nucleus sampling. The likeliest one is always kept, of equal ones the
    first are, and `p = 1` keeps all. A NaN stays to be seen.

    Args:
        logits: floats, a row for each draw.
        p: the mass, in 0 .. 1; it may be traced.

    Raises:
        TypeError, ValueError: `logits` holds no floats; `p` is no number in 0 .. 1.

    Source:
        Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1.

    Example:
        >>> import jax.numpy as jnp
        >>> from funcnet.inference import top_p
        >>> top_p(jnp.array([-2.0, 1.0, 0.0]), 0.9).tolist()  # probabilities 0.04, 0.71, 0.26
        [-inf, 1.0, 0.0]
    """
    logits = check_logits("top_p", logits)
    check_p("top_p", "p", p)
    rank = ranks(logits)
    order = jnp.argsort(rank, axis=-1)
    chance = jnp.take_along_axis(jax.nn.softmax(tall(logits), axis=-1), order, axis=-1)
    before = jnp.cumsum(chance, axis=-1)[..., :-1]  # of the likelier ones
    first = jnp.ones_like(chance[..., :1], bool)
    kept = jnp.concatenate([first, before < p], axis=-1) | jnp.asarray(p >= 1)
    return jnp.where(jnp.take_along_axis(kept, rank, axis=-1), logits, -jnp.inf)


def draw(how: Draw, logits: jax.Array, turn: jax.Array) -> jax.Array:
    """One token for each row of logits, `(B, V) -> int32 (B,)`.

    Args:
        how: how it is drawn.
        logits: of the tokens that may come next.
        turn: int32[B], which draw of its row it is: each has a key of its own.
    """
    likeliest = jnp.argmax(logits, -1).astype(jnp.int32)
    if how.keys is None:
        return likeliest
    warm = how.temperature > 0
    logits = tall(logits)
    below = logits - logits.max(-1, keepdims=True)  # the greatest 0: no temperature is too low
    scaled = below / jnp.where(warm, how.temperature, 1)
    if how.top_k is not None:
        scaled = top_k(scaled, how.top_k)
    if how.top_p is not None:
        scaled = top_p(scaled, how.top_p)
    keys = jax.vmap(jax.random.fold_in)(how.keys, turn)
    drawn = jax.vmap(jax.random.categorical)(keys, scaled)
    return jnp.where(warm, drawn, likeliest).astype(jnp.int32)


def log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
    """The log-probability of each row's token, `(B, V), (B,) -> (B,)`, in nats."""
    found = jax.nn.log_softmax(tall(logits), axis=-1)
    return jnp.take_along_axis(found, token[:, None], axis=-1)[:, 0]


def how_to_draw(
    function: str, rows: int, key: Any, temperature: Any, top_k: Any, top_p: Any
) -> Draw:
    """The arguments of a public function as a `Draw`, once they have been checked."""
    errors.positive_number(function, "temperature", temperature, zero=True)
    if top_k is not None:
        check_k(function, "top_k", top_k)
    if top_p is not None:
        check_p(function, "top_p", top_p)
    cold = not isinstance(temperature, jax.core.Tracer) and float(temperature) in (0.0, 1.0)
    if key is None and not (cold and top_k is None and top_p is None):
        raise ValueError(
            f"`{function}`: tokens drawn by chance need a key, got key=None. Give "
            "`key=jax.random.key(0)`, or leave temperature, top_k and top_p out to take the "
            "likeliest token each time."
        )
    return Draw(
        None if key is None else keys_of(function, rows, key),
        jnp.asarray(temperature, jnp.float32),
        None if top_k is None else jnp.asarray(top_k, jnp.int32),
        None if top_p is None else jnp.asarray(top_p, jnp.float32),
    )


def keys_of(function: str, rows: int, key: Any) -> jax.Array:
    """A key for each row: those given, or parts of the one given."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape not in ((), (rows,)):
        raise TypeError(
            f"`{function}`: key must be one key, or one for each of {rows} rows, got "
            f"{errors.describe(key)}. Make it with `jax.random.key(0)`."
        )
    return key if key.shape else jax.random.split(key, rows)


def ranks(logits: jax.Array) -> jax.Array:
    """The place of each logit in its row, 0 for the greatest, NaN first; equal ones in order."""
    order = jnp.argsort(-jnp.where(jnp.isnan(logits), jnp.inf, logits), axis=-1, stable=True)
    return jnp.argsort(order, axis=-1)


def tall(logits: jax.Array) -> jax.Array:
    """Logits in float32 at least."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def check_logits(function: str, logits: Any) -> jax.Array:
    """`logits` as an array of floats with a last axis."""
    array = logits if isinstance(logits, jax.Array) else jnp.asarray(logits)
    if not jnp.issubdtype(array.dtype, jnp.floating) or not array.ndim:
        raise TypeError(
            f"`{function}`: logits must be floats with the tokens along the last axis, "
            f"got {errors.describe(logits)}. Give what the model gives, or `jnp.log(p)`."
        )
    return array


def check_k(function: str, name: str, k: Any) -> None:
    """Raises unless `k` is a positive whole number; of what is traced, unless it is an integer."""
    if isinstance(k, jax.Array | np.ndarray) and jnp.issubdtype(k.dtype, jnp.integer):
        if not k.shape and (isinstance(k, jax.core.Tracer) or int(k) > 0):
            return
    elif isinstance(k, int | np.integer) and not isinstance(k, bool) and k > 0:
        return
    whole = isinstance(k, int | np.integer | jax.Array) and not isinstance(k, bool)
    kind = ValueError if whole else TypeError
    raise kind(
        f"`{function}`: {name} must be a positive whole number, got {errors.describe(k)}. "
        "Leave it out to keep all tokens."
    )


def check_p(function: str, name: str, p: Any) -> None:
    """Raises unless `p` is a number in 0 .. 1; of what is traced, unless it is a scalar."""
    words = (
        f"`{function}`: {name} must be a number in 0 .. 1, got {errors.describe(p)}. "
        "It is the mass that is kept: 0.9 say."
    )
    errors.scalar_number(words, p)
    if not isinstance(p, jax.core.Tracer) and not 0 <= p <= 1:
        raise ValueError(words)
