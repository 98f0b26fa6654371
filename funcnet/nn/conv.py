"""Convolution over 1 to 3 spatial axes, by the way that is fastest on each platform."""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.nn import windows
from funcnet.nn.combinators import sequential
from funcnet.nn.model import along_last, param_dtype, sized
from funcnet.nn.windows import Padding, Windows
from funcnet.types import Model, ModelState, Params

Initializer = jax.nn.initializers.Initializer


def conv(
    features: int,
    kernel: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] = 1,
    padding: Padding = "same",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    bias: bool = True,
    kernel_init: Initializer = jax.nn.initializers.lecun_normal(),
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Model:
    """Convolution, channels last, `(B, *spatial, C) -> (B, *out, features)`.

    `y[b, o, f] = sum over k, c of x[b, o * strides + k * dilation - low, c] * kernel[k, c, f]`,
    plus `bias[f]`. With `"same"`, `out = ceil(spatial / strides)` and what must be added is halved,
    the odd one at the high end, as TensorFlow does; with `"valid"` nothing is added.

    On CPU it is computed as shifted slices and one matrix product, elsewhere as XLA's convolution.

    Args:
        features: number of channels of `y`.
        kernel: size of the window, a number for each of 1 to 3 spatial axes.
        strides: distance between windows, a number or one for each axis.
        padding: `"same"`, `"valid"`, or zeros to add as a `(low, high)` pair for each axis.
        dilation: distance between the elements of a window, a number or one for each axis.
        groups: number of blocks that the channels are cut into; block i of `y` sees only block i
            of `x`.
        bias: whether to add `bias[features]`.
        kernel_init: initialiser of `kernel[*kernel, C // groups, features]`.
        bias_init: initialiser of `bias[features]`.

    Returns:
        The model; its params are `{"kernel", "bias"}`, in the floating dtype of `x`.

    Raises:
        TypeError, ValueError: an argument is not as above; `groups` does not divide `features` or
            the channels of `x`; `x` has other axes or channels, or is smaller than the window.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.conv(32, (3, 3), strides=2)
        >>> x = jnp.ones((8, 28, 28, 1))
        >>> params, model_state = model.init(jax.random.key(0), x)
        >>> params["kernel"].shape
        (3, 3, 1, 32)
        >>> y, model_state = model.apply(params, model_state, x)
        >>> y.shape
        (8, 14, 14, 32)

    Source:
        Dumoulin, Visin, "A guide to convolution arithmetic for deep learning", 2016. Shifted slices
        and one product: Chellapilla, Puri, Simard, "High performance convolutional neural networks
        for document processing", 2006.
    """
    errors.positive("conv", features=features, groups=groups)
    where = windows.checked("conv", "kernel", kernel, strides, padding, dilation)
    if features % groups:
        raise ValueError(
            f"`conv`: groups must divide features, got groups={groups} and features={features}. "
            f"Choose groups among the divisors of {features}."
        )

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        windows.check_input("conv", x, where)
        check_groups(x, groups)
        kernel_key, bias_key = jax.random.split(key)
        dtype = param_dtype(x)
        shape = (*where.sizes, x.shape[-1] // groups, features)
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
        windows.check_input("conv", x, where)
        check_channels(x, params["kernel"].shape[-2] * groups)
        y = forward(x, params["kernel"], params["bias"] if bias else None, where, groups)
        return y, model_state

    return Model(init, apply)


def separable_conv(
    features: int,
    kernel: tuple[int, ...],
    *,
    multiplier: int = 1,
    strides: int | tuple[int, ...] = 1,
    padding: Padding = "same",
    dilation: int | tuple[int, ...] = 1,
    bias: bool = True,
) -> Model:
    """A convolution of each channel alone, then one over channels alone, as in MobileNet.

    `(B, *spatial, C) -> (B, *out, features)` with far fewer params and operations than `conv`.

    Args:
        features: number of channels of `y`.
        kernel: size of the window of the first convolution.
        multiplier: how many channels the first convolution makes of each.
        strides: as for `conv`, of the first convolution; so `padding` and `dilation`.
        padding: see strides.
        dilation: see strides.
        bias: whether to add `bias[features]` at the end.

    Returns:
        The model; its params are `{"depthwise", "pointwise"}`.

    Raises:
        TypeError, ValueError: as `conv`.

    Source:
        Howard et al., "MobileNets", 2017, section 3.1, without the norm and nonlinearity between.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.separable_conv(32, (3, 3))
        >>> params, _ = model.init(jax.random.key(0), jnp.ones((8, 28, 28, 16)))
        >>> params["depthwise"]["kernel"].shape, params["pointwise"]["kernel"].shape
        ((3, 3, 1, 16), (1, 1, 16, 32))
    """
    errors.positive("separable_conv", features=features, multiplier=multiplier)
    where = windows.checked("separable_conv", "kernel", kernel, strides, padding, dilation)

    def of(x: Any) -> Model:
        windows.check_input("separable_conv", x, where)
        channels = x.shape[-1]
        return sequential(
            depthwise=conv(
                channels * multiplier,
                kernel,
                strides=strides,
                padding=padding,
                dilation=dilation,
                groups=channels,
                bias=False,
            ),
            pointwise=conv(features, (1,) * len(kernel), bias=bias),
        )

    return sized("separable_conv", of)


@partial(jax.jit, static_argnames=("where", "groups"), inline=True)
def forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, where: Windows, groups: int
) -> jax.Array:
    """The layer as one program, so that a call outside jit is one too."""
    y = convolve(x, kernel, where, groups)
    return y if bias is None else y + along_last(bias, y)


def convolve(x: jax.Array, kernel: jax.Array, where: Windows, groups: int) -> jax.Array:
    """Sums of products of the windows of `x` with `kernel`, by the platform that it is lowered to.

    For the gradient both ways keep `x` and `kernel` and nothing else: without the checkpoint each
    platform would carry zeros as large as what the other way keeps, the patches above all.
    """
    dtype = jnp.result_type(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    by_product = partial(multiply_shifts, where=where, groups=groups)
    if max(where.sizes) == 1:
        return by_product(x, kernel)
    light = jax.checkpoint(by_product, prevent_cse=False)  # a barrier: 20 % slower, jax 0.12
    by_xla = partial(convolve_xla, where=where, groups=groups)
    y: jax.Array = jax.lax.platform_dependent(x, kernel, cpu=light, default=by_xla)
    return y


def convolve_xla(x: jax.Array, kernel: jax.Array, where: Windows, groups: int) -> jax.Array:
    """The convolution as XLA's own operation: the fastest there is, except on CPU."""
    spatial = "DHW"[-len(where.sizes) :]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        where.strides,
        where.pads(x.shape[1:-1]),
        rhs_dilation=where.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
    )


def multiply_shifts(x: jax.Array, kernel: jax.Array, where: Windows, groups: int) -> jax.Array:
    """The convolution as products of shifted slices: inside loops on CPU 15 times faster."""
    parts = windows.shifts(windows.pad(x, where.pads(x.shape[1:-1]), 0), where)
    *_, channels, features = kernel.shape
    weights = kernel.reshape(len(parts), channels, features)
    if channels == 1:
        return sum_shifts(parts, weights, groups)
    if groups == 1:
        return jnp.concatenate(parts, -1) @ weights.reshape(-1, features)
    return multiply_groups(jnp.stack(parts, -2), weights, groups)


def sum_shifts(parts: list[jax.Array], weights: jax.Array, groups: int) -> jax.Array:
    """One channel a group: the slices times their weights, added up.

    A single group is multiplied by `@` all the same: as products of elements XLA would compute the
    gradient of what follows the layer once for each slice (23 against 17 ms a step of a convnet on
    28x28x1; slices side by side and one product of depth 9: 20).
    """
    if groups == 1:
        return reduce(jnp.add, map(jnp.matmul, parts, weights))
    repeated = [jnp.repeat(part, weights.shape[-1] // groups, -1) for part in parts]
    weights = jnp.expand_dims(weights, range(1, parts[0].ndim - 1))
    return reduce(jnp.add, map(jnp.multiply, repeated, weights))


def multiply_groups(patches: jax.Array, weights: jax.Array, groups: int) -> jax.Array:
    """Each group's own matrix product: `(B, *out, n, C)`, `(n, C / groups, features)`."""
    n, channels, features = weights.shape
    patches = patches.reshape(*patches.shape[:-1], groups, channels)
    weights = weights.reshape(n, channels, groups, features // groups)
    y = jnp.einsum("...ngc,ncgf->...gf", patches, weights)
    return y.reshape(*y.shape[:-2], features)


def check_groups(x: Any, groups: int) -> None:
    """Raises unless the channels of `x` can be cut into `groups`."""
    if x.shape[-1] % groups:
        raise ValueError(
            f"`conv`: groups must divide the channels, the last axis of x, got groups={groups} and "
            f"{errors.describe(x)}. Choose groups among the divisors of {x.shape[-1]}."
        )


def check_channels(x: Any, channels: int) -> None:
    """Raises unless `x` has the channels that the params were made for."""
    if x.shape[-1] != channels:
        raise ValueError(
            f"`conv`: x must have {channels} channels in its last axis, as at `init`, got "
            f"{errors.describe(x)}. Give `init` an x of the same shape as `apply`."
        )
