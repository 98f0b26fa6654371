"""Layers that are random in training and the identity otherwise: dropout, noise, augmentation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
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
    check_rate("dropout", rate)

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        check_floats("dropout", x)
        return dropped(key, x, rate, x.shape)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return {}, {}

    return Model(init, noisy("dropout", drop))


def spatial_dropout(rate: float | jax.Array) -> Model:
    """Sets whole channels to 0 with probability `rate` in training, `(B, ..., C) -> (B, ..., C)`.

    An element of dropout tells little where its neighbours say the same; a channel does.

    Args:
        rate: the fraction of channels dropped, in `0 .. 1`; may be a traced array.

    Returns:
        The model, without arrays. In training it needs a `key`.

    Raises:
        TypeError, ValueError: as `dropout`.

    Source:
        Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015, 3.2.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> y, _ = fn.spatial_dropout(0.5).apply({}, {}, jnp.ones((1, 9, 4)), key=jax.random.key(0))
        >>> bool((y == y[:, :1]).all())
        True
    """
    check_rate("spatial_dropout", rate)

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        check_floats("spatial_dropout", x)
        return dropped(key, x, rate, (len(x), *[1] * (x.ndim - 2), x.shape[-1]))

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_rank("spatial_dropout", x, 3, "(B, ..., C)")
        return {}, {}

    return Model(init, noisy("spatial_dropout", drop))


def stochastic_depth(rate: float | jax.Array) -> Model:
    """Sets whole examples to 0 with probability `rate` in training, `(B, ...) -> (B, ...)`.

    As the last layer of a residual block it leaves out the block, for each example anew:
    `fn.residual(fn.sequential(block, fn.stochastic_depth(0.1)))`.

    Args:
        rate: the fraction of examples whose block is left out, in `0 .. 1`; may be a traced array.

    Returns:
        The model, without arrays. In training it needs a `key`.

    Raises:
        TypeError, ValueError: as `dropout`.

    Source:
        Huang et al., "Deep Networks with Stochastic Depth", 2016, equation 2; scaled in training
        rather than at test time.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> y, _ = fn.stochastic_depth(0.5).apply({}, {}, jnp.ones((8, 3)), key=jax.random.key(0))
        >>> bool((y == y[:, :1]).all()), sorted(set(y[:, 0].tolist()))
        (True, [0.0, 2.0])
    """
    check_rate("stochastic_depth", rate)

    def drop(key: jax.Array, x: jax.Array) -> jax.Array:
        check_floats("stochastic_depth", x)
        return dropped(key, x, rate, (len(x), *[1] * (x.ndim - 1)))

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return {}, {}

    return Model(init, noisy("stochastic_depth", drop))


def gaussian_noise(std: float | jax.Array) -> Model:
    """Adds normal noise in training, `y = x + std * N(0, 1)`, `(B, ...) -> (B, ...)`.

    Args:
        std: the standard deviation; may be a traced array.

    Returns:
        The model, without arrays. In training it needs a `key`.

    Raises:
        TypeError, ValueError: `std` is not a number of at least 0; `apply` runs for training
            without a key.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.gaussian_noise(0.1)
        >>> y, _ = model.apply({}, {}, jnp.zeros(10_000), key=jax.random.key(0))
        >>> round(float(y.std()), 2)
        0.1
    """
    check_number("gaussian_noise", "std", std, 0, np.inf, "It is a standard deviation.")

    def add(key: jax.Array, x: jax.Array) -> jax.Array:
        check_floats("gaussian_noise", x)
        return (x + std * jax.random.normal(key, x.shape, x.dtype)).astype(x.dtype)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return {}, {}

    return Model(init, noisy("gaussian_noise", add))


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
        lengths = {len(leaf) for leaf in jax.tree.leaves(x)}
        if len(lengths) != 1:
            raise ValueError(
                "`augment`: all of x must hold as many examples, "
                f"got {errors.describe(tree.spec(x))}."
            )
        (examples,) = lengths
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


def dropped(
    key: jax.Array, x: jax.Array, rate: float | jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """`x / (1 - rate)`, where one draw for each element of `shape` sets all that it meets to 0."""
    keep = 1 - rate
    kept = jax.random.bernoulli(key, keep, shape)
    return jnp.where(kept, x / jnp.maximum(keep, 1e-6), 0).astype(x.dtype)


def check_floats(function: str, x: Any) -> None:
    """Raises unless `x` is an array of floats: integers can't be scaled, nor have noise."""
    check_rank(function, x, 1, "(B, ...)")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"`{function}`: x must hold floats in training, got {errors.describe(x)}. "
            "Convert it in a layer before, `lambda x: x / 255` say."
        )


def check_rate(function: str, rate: Any) -> None:
    """Raises unless `rate` is an array or a number in 0 .. 1."""
    check_number(function, "rate", rate, 0, 1, "It is the fraction dropped.")


def check_number(
    function: str, name: str, value: Any, least: float, most: float, meaning: str
) -> None:
    """Raises unless `value` is an array, or a number from `least` to `most`."""
    must = f"lie in {least} .. {most}" if np.isfinite(most) else f"be a number of at least {least}"
    words = f"`{function}`: {name} must {must}, got {value!r}. {meaning}"
    if isinstance(value, bool | str) or not isinstance(
        value, int | float | jax.Array | np.generic | np.ndarray
    ):
        raise TypeError(words)
    if isinstance(value, int | float | np.number) and not least <= value <= most:
        raise ValueError(words)
