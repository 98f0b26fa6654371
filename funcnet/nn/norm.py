"""Normalisation layers: over the batch, and over the features of each example."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.nn.linear import check_last
from funcnet.nn.model import along_last, check_rank, is_training, param_dtype, sized
from funcnet.types import Model, ModelState, Params


def layer_norm(*, epsilon: float = 1e-6, scale: bool = True, bias: bool = True) -> Model:
    """Normalises the last axis of each example, `(B, ..., C) -> (B, ..., C)`.

    `y = (x - mean) / sqrt(var + epsilon) * scale + bias`, mean and variance over the last axis,
    computed in float32 at least.

    Args:
        epsilon: added to the variance.
        scale: whether to multiply by a learnt `scale[C]`.
        bias: whether to add a learnt `bias[C]`.

    Returns:
        The model; its params are `{"scale", "bias"}`.

    Source:
        Ba, Kiros, Hinton, "Layer Normalization", 2016, equation 4.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.layer_norm()
        >>> x = jnp.array([[1.0, 3.0]])
        >>> y, _ = model.apply(*model.init(jax.random.key(0), x), x)
        >>> y.round(3).tolist()
        [[-1.0, 1.0]]
    """

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_rank("layer_norm", x, 2, "(B, ..., C)")
        return affine_params(x, scale, bias), {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_affine("layer_norm", params, x)
        wide = widen(x)
        mean = wide.mean(-1, keepdims=True)
        variance = jnp.square(wide - mean).mean(-1, keepdims=True)
        return affine(params, (wide - mean) * jax.lax.rsqrt(variance + epsilon), x), model_state

    return Model(init, apply)


def batch_norm(
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    scale: bool = True,
    bias: bool = True,
    axis_name: str | None = None,
) -> Model:
    """Normalises each channel over the batch, `(B, ..., C) -> (B, ..., C)`.

    In training `y = (x - mean) / sqrt(var + epsilon) * scale + bias` with the mean and (biased)
    variance of each channel over all other axes, in float32 at least, and the running statistics
    become `momentum * running + (1 - momentum) * batch`. Otherwise the running ones are used, and
    no example depends on the others.

    Args:
        momentum: the share of the running statistics that stays at each step.
        epsilon: added to the variance.
        scale: whether to multiply by a learnt `scale[C]`.
        bias: whether to add a learnt `bias[C]`.
        axis_name: the devices, or mapped examples, over which the statistics of training are taken
            too: that of `fn.pmapped`, or of `jax.vmap`. With any other placement they are those of
            the whole batch anyway.

    Returns:
        The model; its params are `{"scale", "bias"}`, its model_state `{"mean", "var"}`. Its `x`
        may also be a pair `(x, weight[B])`: an example of weight 0 then leaves no trace in the
        statistics.

    Source:
        Ioffe, Szegedy, "Batch Normalization", 2015, algorithms 1 and 2; unlike there, the running
        variance is the biased one, as in Flax and Keras.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.batch_norm(momentum=0.9)
        >>> x = jnp.array([[1.0], [3.0]])
        >>> params, model_state = model.init(jax.random.key(0), x)
        >>> y, model_state = model.apply(params, model_state, x, training=True)
        >>> y.round(3).tolist(), f"{model_state['mean'][0]:.2f}"
        ([[-1.0], [1.0]], '0.20')
    """
    if isinstance(momentum, int | float) and not 0 <= momentum <= 1:
        raise ValueError(f"`batch_norm`: momentum must lie in 0 .. 1, got {momentum!r}.")

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        x, _ = split_weight(x)
        check_rank("batch_norm", x, 2, "(B, ..., C)")
        dtype = jnp.promote_types(param_dtype(x), jnp.float32)
        shape = (x.shape[-1],)
        model_state = {"mean": jnp.zeros(shape, dtype), "var": jnp.ones(shape, dtype)}
        return affine_params(x, scale, bias), model_state

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        x, weight = split_weight(x)
        check_last("batch_norm", x, model_state["mean"].shape[0])
        wide = widen(x)
        mean, variance = model_state["mean"], model_state["var"]
        if is_training(key, training):
            mean, variance = statistics(wide, weight, check_axis(axis_name))
            model_state = {
                "mean": momentum * model_state["mean"] + (1 - momentum) * mean,
                "var": momentum * model_state["var"] + (1 - momentum) * variance,
            }
        factor = along_last(jax.lax.rsqrt(variance + epsilon), x)
        normed = (wide - along_last(mean, x)) * factor
        return affine(params, normed, x), model_state

    return Model(init, apply)


def rms_norm(*, epsilon: float = 1e-6, scale: bool = True) -> Model:
    """Divides by the root mean square of the last axis, `(B, ..., C) -> (B, ..., C)`.

    `y = x / sqrt(mean(x**2) + epsilon) * scale`, the mean over the last axis, in float32 at least.

    Args:
        epsilon: added to the mean square.
        scale: whether to multiply by a learnt `scale[C]`.

    Returns:
        The model; its params are `{"scale"}`.

    Source:
        Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.rms_norm()
        >>> x = jnp.array([[3.0, 3.0]])
        >>> y, _ = model.apply(*model.init(jax.random.key(0), x), x)
        >>> y.round(3).tolist()
        [[1.0, 1.0]]
    """

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_rank("rms_norm", x, 2, "(B, ..., C)")
        return affine_params(x, scale, bias=False), {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_affine("rms_norm", params, x)
        wide = widen(x)
        square = jnp.square(wide).mean(-1, keepdims=True)
        return affine(params, wide * jax.lax.rsqrt(square + epsilon), x), model_state

    return Model(init, apply)


def group_norm(
    groups: int = 32, *, epsilon: float = 1e-6, scale: bool = True, bias: bool = True
) -> Model:
    """Normalises groups of channels of each example, `(B, ..., C) -> (B, ..., C)`.

    `y = (x - mean) / sqrt(var + epsilon) * scale + bias`, mean and variance over the `C / groups`
    channels of a group and over all positions between, in float32 at least.

    Args:
        groups: number of groups of neighbouring channels; it divides C.
        epsilon: added to the variance.
        scale: whether to multiply by a learnt `scale[C]`.
        bias: whether to add a learnt `bias[C]`.

    Returns:
        The model; its params are `{"scale", "bias"}`.

    Raises:
        TypeError, ValueError: `groups` is not a positive whole number, or does not divide C.

    Source:
        Wu, He, "Group Normalization", 2018, equation 7.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.group_norm(2)
        >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> y, _ = model.apply(*model.init(jax.random.key(0), x), x)
        >>> y.round(3).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    errors.positive("group_norm", groups=groups)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        check_rank("group_norm", x, 2, "(B, ..., C)")
        if x.shape[-1] % groups:
            raise ValueError(
                "`group_norm`: groups must divide the channels, the last axis of x, got "
                f"groups={groups} and {errors.describe(x)}. Choose among the divisors of "
                f"{x.shape[-1]}."
            )
        return affine_params(x, scale, bias), {}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        check_affine("group_norm", params, x)
        wide = widen(x).reshape(len(x), -1, groups, x.shape[-1] // groups)  # (B, n, groups, c)
        mean = wide.mean((1, 3), keepdims=True)
        variance = jnp.square(wide - mean).mean((1, 3), keepdims=True)
        normed = (wide - mean) * jax.lax.rsqrt(variance + epsilon)
        return affine(params, normed.reshape(x.shape), x), model_state

    return Model(init, apply)


def instance_norm(*, epsilon: float = 1e-6, scale: bool = True, bias: bool = True) -> Model:
    """Normalises each channel of each example over its positions, `(B, ..., C) -> (B, ..., C)`.

    It is `group_norm` with a group for each channel.

    Args:
        epsilon: added to the variance.
        scale: whether to multiply by a learnt `scale[C]`.
        bias: whether to add a learnt `bias[C]`.

    Returns:
        The model; its params are `{"scale", "bias"}`.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Instance Normalization", 2016, equation 4.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.instance_norm()
        >>> x = jnp.array([[[1.0], [3.0]]])
        >>> y, _ = model.apply(*model.init(jax.random.key(0), x), x)
        >>> y.round(3).tolist()
        [[[-1.0], [1.0]]]
    """

    def of(x: Any) -> Model:
        check_rank("instance_norm", x, 3, "(B, ..., C)")
        return group_norm(x.shape[-1], epsilon=epsilon, scale=scale, bias=bias)

    return sized("instance_norm", of)


def split_weight(x: Any) -> tuple[Any, Any]:
    """The array and the example weights in `x`, which may be an array or the pair of both."""
    if isinstance(x, tuple) and len(x) == 2:
        return x
    return x, None


def check_axis(axis_name: str | None) -> str | None:
    """The axis, once it is known to be mapped over here."""
    try:
        if axis_name is not None:
            jax.lax.axis_index(axis_name)
    except NameError as error:
        raise ValueError(
            "`batch_norm`: axis_name must be that of an axis that is mapped over, got "
            f"{axis_name!r} where none is of that name. Train with "
            f"`placement=fn.pmapped(axis_name={axis_name!r})`, or leave it out."
        ) from error
    return axis_name


def statistics(
    x: jax.Array, weight: jax.Array | None, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each channel of `x`, by example `weight`."""
    axes = tuple(range(x.ndim - 1))

    def over_all(sums: jax.Array) -> jax.Array:
        return sums if axis_name is None else jax.lax.pmean(sums, axis_name)

    if weight is None:
        mean = over_all(x.mean(axes))
        return mean, over_all(jnp.square(x - along_last(mean, x)).mean(axes))
    if weight.shape != x.shape[:1]:
        raise ValueError(
            f"`batch_norm`: weight must hold one number an example, got "
            f"{errors.describe(weight)} for x = {errors.describe(x)}."
        )
    share = jnp.broadcast_to(weight.reshape(-1, *[1] * (x.ndim - 1)), x.shape)
    real = jnp.where(share == 0, 0, x)  # a NaN in a row of weight 0 must leave no trace
    whole = over_all(share.sum(axes))
    mean = over_all((real * share).sum(axes)) / whole
    return mean, over_all((jnp.square(real - along_last(mean, x)) * share).sum(axes)) / whole


def widen(x: jax.Array) -> jax.Array:
    """`x` in float32 at least: sums over many values need it."""
    return x.astype(jnp.promote_types(param_dtype(x), jnp.float32))


def affine_params(x: Any, scale: bool, bias: bool) -> Params:
    """The learnt scale (ones) and bias (zeros) of the channels of `x`."""
    shape, dtype = (x.shape[-1],), param_dtype(x)
    params = {"scale": jnp.ones(shape, dtype)} if scale else {}
    return params | ({"bias": jnp.zeros(shape, dtype)} if bias else {})


def affine(params: Params, normed: jax.Array, x: jax.Array) -> jax.Array:
    """`normed * scale + bias`, in the dtype of `x`."""
    y = normed * along_last(params["scale"], x) if "scale" in params else normed
    y = y + along_last(params["bias"], x) if "bias" in params else y
    return y.astype(param_dtype(x))


def check_affine(function: str, params: Params, x: Any) -> None:
    """Raises unless the last axis of `x` is as long as the params are."""
    for leaf in params.values():
        check_last(function, x, leaf.shape[0])
