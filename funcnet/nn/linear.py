"""Layers that multiply by, or look up in, one learnt matrix."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.nn.model import along_last, check_rank, param_dtype
from funcnet.types import Model, ModelState, Params

Initializer = jax.nn.initializers.Initializer


def dense(
    features: int,
    *,
    bias: bool = True,
    kernel_init: Initializer = jax.nn.initializers.lecun_normal(),
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Model:
    """Fully connected layer `y = x @ kernel + bias`, `(B, ..., in) -> (B, ..., features)`.

    Args:
        features: size of the last axis of `y`.
        bias: whether to add `bias[features]`.
        kernel_init: initialiser of `kernel[in, features]`.
        bias_init: initialiser of `bias[features]`.

    Returns:
        The model; its params are `{"kernel", "bias"}`, in the floating dtype of `x`.

    Raises:
        TypeError, ValueError: `features` is not a positive whole number; `x` has fewer than two
            axes, or another last axis than at `init`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.dense(2)
        >>> params, _ = model.init(jax.random.key(0), jnp.ones((8, 3)))
        >>> jax.tree.map(jnp.shape, params)
        {'bias': (2,), 'kernel': (3, 2)}
    """
    errors.positive("dense", features=features)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_rank("dense", x, 2, "(B, ..., in)")
        kernel_key, bias_key = jax.random.split(key)
        dtype = param_dtype(x)
        params = {"kernel": kernel_init(kernel_key, (x.shape[-1], features), dtype)}
        if bias:
            params["bias"] = bias_init(bias_key, (features,), dtype)
        return params, {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_last("dense", x, params["kernel"].shape[0])
        y = x @ params["kernel"]
        return (y + along_last(params["bias"], y) if bias else y), model_state

    return Model(init, apply)


def embedding(
    vocabulary: int,
    features: int,
    *,
    embedding_init: Initializer = jax.nn.initializers.variance_scaling(
        1.0, "fan_in", "normal", out_axis=0
    ),
) -> Model:
    """Table of learnt vectors looked up by index, `int (B, ...) -> (B, ..., features)`.

    An index outside `0 .. vocabulary - 1` gives a row of NaN: under jit there can be no error, and
    a NaN is seen where a clipped index is not.

    Args:
        vocabulary: number of vectors.
        features: size of each vector.
        embedding_init: initialiser of `embedding[vocabulary, features]`.

    Returns:
        The model; its params are `{"embedding"}`.

    Raises:
        TypeError, ValueError: a size is not a positive whole number; `x` does not hold integers.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.embedding(100, 8)
        >>> tokens = jnp.zeros((4, 16), int)
        >>> y, _ = model.apply(*model.init(jax.random.key(0), tokens), tokens)
        >>> y.shape
        (4, 16, 8)
    """
    errors.positive("embedding", vocabulary=vocabulary, features=features)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_index(x)
        table = embedding_init(key, (vocabulary, features), jnp.result_type(float))
        return {"embedding": table}, {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_index(x)
        index = jnp.where(x < 0, vocabulary, x)  # JAX would count from the end
        y = jnp.take(params["embedding"], index, axis=0, mode="fill", fill_value=jnp.nan)
        return y, model_state

    return Model(init, apply)


def check_last(function: str, x: Any, size: int) -> None:
    """Raises unless the last axis of `x` has the size that the params were made for."""
    check_rank(function, x, 2, "(B, ..., in)")
    if x.shape[-1] != size:
        raise ValueError(
            f"`{function}`: the last axis of x must be {size} long, as the params are, "
            f"got {errors.describe(x)}. Give `init` an x of the same shape as `apply`."
        )


def check_index(x: Any) -> None:
    """Raises unless `x` is an array of integers."""
    check_rank("embedding", x, 1, "(B, ...)")
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(
            f"`embedding`: x must hold integers, got {errors.describe(x)}. "
            "Convert it with `x.astype(int)`."
        )
