"""Layers that are random in training and the identity otherwise: dropout, augmentation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.nn.model import check_rank, is_training
from funcnet.types import Model, ModelState, Params


def dropout(rate: float | jax.Array) -> Model:
    """Sets elements to 0 with probability `rate` in training, `(B, ...) -> (B, ...)`.

    What stays is divided by `1 - rate`, so that the expected output is the input. Outside training
    it is the identity.

    Args:
        rate: the fraction dropped, in `0 .. 1`; may be a traced array, as in a sweep.

    Returns:
        The model, without arrays. In training it needs a `key`.

    Raises:
        TypeError, ValueError: `rate` is not a number in 0 .. 1; `apply` runs for training without a
            key.

    Source:
        Srivastava et al., "Dropout", 2014; scaled in training rather than at test time.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.dropout(0.5)
        >>> y, _ = model.apply({}, {}, jnp.ones(4), key=jax.random.key(0))
        >>> sorted(set(y.tolist()))
        [0.0, 2.0]
        >>> model.apply({}, {}, jnp.ones(4))[0].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    words = f"`dropout`: rate must lie in 0 .. 1, got {rate!r}. It is the fraction dropped."
    if isinstance(rate, bool | str) or not isinstance(rate, int | float | jax.Array | np.generic):
        raise TypeError(words)
    if isinstance(rate, int | float) and not 0 <= rate <= 1:
        raise ValueError(words)

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        keep = 1 - rate
        kept = jax.random.bernoulli(key, keep, x.shape)
        return jnp.where(kept, x / jnp.maximum(keep, 1e-6), 0).astype(x.dtype)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return {}, {}

    return Model(init, noisy("dropout", drop))


def augment(f: Callable[[jax.Array, Any], Any]) -> Model:
    """Changes each example at random in training, `(B, ...) -> (B, ...)`.

    Args:
        f: `f(key, x) -> x` on one example, without the batch axis; it is vmapped over the batch
            with a key of its own for each example.

    Returns:
        The model, without arrays: the identity outside training. In training it needs a `key`.

    Raises:
        TypeError: `f` is not callable, or changes the shape or dtype of an example.
        ValueError: `apply` runs for training without a key.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> def flip(key, x):
        ...     return jnp.where(jax.random.bernoulli(key), x[::-1], x)
        >>> model = fn.augment(flip)
        >>> x = jnp.tile(jnp.arange(3), (8, 1))
        >>> y, _ = model.apply({}, {}, x, key=jax.random.key(0))
        >>> sorted(set(map(tuple, y.tolist())))
        [(0, 1, 2), (2, 1, 0)]
    """
    if not callable(f):
        raise TypeError(f"`augment`: f must be a function f(key, x) of one example, got {f!r}.")

    def change(key: jax.Array, x: Any) -> Any:
        (examples,) = {len(leaf) for leaf in jax.tree.leaves(x)}
        y = jax.vmap(f)(jax.random.split(key, examples), x)
        if errors.differences(x, y):
            raise TypeError(
                f"`augment`: f must keep the shape and dtype of its example, got "
                f"{errors.describe(y)} from {errors.describe(x)}."
            )
        return y

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_rank("augment", jax.tree.leaves(x)[0], 1, "(B, ...)")
        return {}, {}

    return Model(init, noisy("augment", change))


def noisy(function: str, f: Callable[[jax.Array, Any], Any]) -> Any:
    """The `apply` of a layer that is `f(key, x)` in training and the identity otherwise."""

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        if not is_training(key, training):
            return x, model_state
        if key is None:
            raise ValueError(
                f"`{function}`: training needs randomness, got key=None. "
                "Give `apply` a key, `key=jax.random.key(0)` say, or `training=False`."
            )
        return f(key, x), model_state

    return apply
