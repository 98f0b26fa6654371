"""Transposed convolution: the gradient of a convolution, as a layer that makes images larger."""

from typing import Any

import jax

from funcnet import errors
from funcnet.nn import windows
from funcnet.nn.conv import convolve
from funcnet.nn.model import along_last, param_dtype
from funcnet.nn.windows import Padding, Windows
from funcnet.types import Model, ModelState, Params

Initializer = jax.nn.initializers.Initializer


def conv_transpose(
    features: int,
    kernel: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] = 1,
    padding: Padding = "same",
    dilation: int | tuple[int, ...] = 1,
    bias: bool = True,
    kernel_init: Initializer = jax.nn.initializers.lecun_normal(in_axis=-1, out_axis=-2),
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Model:
    """Transposed convolution, channels last, `(B, *spatial, C) -> (B, *out, features)`.

    The transpose of the linear map that `conv` of the same kernel, strides, padding and dilation
    is: from `(B, *out, features)` to `(B, *spatial, C)`. `out` is, by the padding of that map,

    | padding | length of `out` along an axis |
    | --- | --- |
    | `"same"` | `n * stride` |
    | `"valid"` | `(n - 1) * stride + (kernel - 1) * dilation + 1` |
    | `(low, high)` | that of `"valid"` less `low + high` |

    Args:
        features: number of channels of `y`.
        kernel: size of the window, a number for each of 1 to 3 spatial axes.
        strides: distance between windows in `y`, a number or one for each axis.
        padding: `"same"`, `"valid"`, or what is cut off `y` as a `(low, high)` pair for each axis.
        dilation: distance between the elements of a window.
        bias: whether to add `bias[features]`.
        kernel_init: initialiser of `kernel[*kernel, features, C]`, the kernel of the transpose.
        bias_init: initialiser of `bias[features]`.

    Returns:
        The model; its params are `{"kernel", "bias"}`, in the floating dtype of `x`.

    Raises:
        TypeError, ValueError: as `conv`.

    Source:
        Dumoulin, Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4;
        with `(low, high)` pairs as `torch.nn.ConvTranspose2d` with `padding`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.conv_transpose(16, (3, 3), strides=2)
        >>> x = jnp.ones((8, 7, 7, 32))
        >>> params, model_state = model.init(jax.random.key(0), x)
        >>> params["kernel"].shape
        (3, 3, 16, 32)
        >>> model.apply(params, model_state, x)[0].shape
        (8, 14, 14, 16)
    """
    errors.positive("conv_transpose", features=features)
    where = windows.checked("conv_transpose", "kernel", kernel, strides, padding, dilation)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        out_shape("conv_transpose", x, where)
        kernel_key, bias_key = jax.random.split(key)
        dtype = param_dtype(x)
        shape = (*where.sizes, features, x.shape[-1])
        params = {"kernel": kernel_init(kernel_key, shape, dtype)}
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
        kernel = params["kernel"]
        spatial = out_shape("conv_transpose", x, where)
        if x.shape[-1] != kernel.shape[-1]:
            raise ValueError(
                f"`conv_transpose`: x must have {kernel.shape[-1]} channels in its last axis, as "
                f"at `init`, got {errors.describe(x)}. Give `init` an x of the same shape."
            )
        x = x.astype(jax.numpy.result_type(x, kernel))
        larger = jax.ShapeDtypeStruct((len(x), *spatial, features), x.dtype)
        (y,) = jax.linear_transpose(lambda z: convolve(z, kernel, where, 1), larger)(x)
        return (y + along_last(params["bias"], y) if bias else y), model_state

    return Model(init, apply)


def out_shape(function: str, x: Any, where: Windows) -> tuple[int, ...]:
    """Lengths of the spatial axes of `y`; raises where `x` does not have such axes."""
    windows.check_axes(function, x, where)
    valid = tuple(
        (n - 1) * stride + reach
        for n, stride, reach in zip(x.shape[1:-1], where.strides, where.reach, strict=True)
    )
    if where.padding == "valid":
        return valid
    if where.padding == "same":
        return tuple(n * stride for n, stride in zip(x.shape[1:-1], where.strides, strict=True))
    out = tuple(n - low - high for n, (low, high) in zip(valid, where.padding, strict=True))
    if min(out) < 1:
        raise ValueError(
            f"`{function}`: padding must leave something of y, got padding={where.padding} for "
            f"lengths {valid}. Cut off less."
        )
    return out
