"""Windows that slide over the spatial axes of `(B, *spatial, C)`: checks, padding and slices."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.nn.model import check_rank

Sizes: TypeAlias = tuple[int, ...]
Pairs: TypeAlias = tuple[tuple[int, int], ...]
Padding: TypeAlias = str | Sequence[tuple[int, int]]
"""`"same"`, `"valid"`, or a `(low, high)` pair for each spatial axis."""

AXES = {1: "(B, W, C)", 2: "(B, H, W, C)", 3: "(B, D, H, W, C)"}


class Windows(NamedTuple):
    """Where windows lie, a number for each spatial axis."""

    sizes: Sizes
    strides: Sizes
    padding: str | Pairs
    dilation: Sizes

    @property
    def reach(self) -> Sizes:
        """The lengths from the first to the last element of one window."""
        return tuple((n - 1) * d + 1 for n, d in zip(self.sizes, self.dilation, strict=True))

    def pads(self, spatial: Sizes) -> Pairs:
        """The `(low, high)` padding that spatial axes of these lengths get."""
        if isinstance(self.padding, str):
            return tuple(
                jax.lax.padtype_to_pads(spatial, self.reach, self.strides, self.padding.upper())
            )
        return self.padding


def checked(
    function: str,
    name: str,
    sizes: Any,
    strides: Any,
    padding: Any,
    dilation: Any = 1,
) -> Windows:
    """The windows that a layer's arguments speak of; raises where they don't speak of any."""
    count = len(sizes) if isinstance(sizes, tuple | list) else 0
    fault = fault_of(sizes, 1) if count else TypeError
    if fault or count > 3:
        raise (fault or ValueError)(
            f"`{function}`: {name} must be a tuple of 1 to 3 positive whole numbers, one for each "
            f"spatial axis, got {sizes!r}. Write `(3, 3)` for 3 x 3 windows over (B, H, W, C)."
        )
    return Windows(
        tuple(sizes),
        checked_each(function, "strides", strides, count),
        checked_padding(function, padding, count),
        checked_each(function, "dilation", dilation, count),
    )


def checked_each(function: str, name: str, value: Any, count: int) -> Sizes:
    """A positive whole number for each of `count` axes, from one for all or a tuple of them."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * count
    fault = fault_of(values, 1)
    if fault or len(values) != count:
        raise (fault or ValueError)(
            f"`{function}`: {name} must be a positive whole number, or a tuple of one for each of "
            f"the {count} spatial axes, got {value!r}."
        )
    return values


def checked_padding(function: str, padding: Any, count: int) -> str | Pairs:
    """The word, or the pairs as tuples."""
    words = ("same", "valid")
    if padding in words:
        return str(padding)
    wanted = (
        f'`{function}`: padding must be "same", "valid" or a (low, high) pair of whole numbers '
        f"from 0 for each of the {count} spatial axes, got {padding!r}."
    )
    if isinstance(padding, str):
        raise ValueError(f"{wanted} {errors.did_you_mean(padding, words)}")
    if not is_pairs(padding):
        raise TypeError(wanted)
    fault = fault_of([amount for pair in padding for amount in pair], 0)
    if fault or len(padding) != count:
        raise (fault or ValueError)(wanted)
    return tuple((low, high) for low, high in padding)


def is_pairs(padding: Any) -> bool:
    """Whether `padding` is a sequence of pairs, of whatever."""
    return isinstance(padding, tuple | list) and all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in padding
    )


def fault_of(values: Sequence[Any], least: int) -> type[Exception] | None:
    """The kind of error that `values` are, if they are not whole numbers from `least` on."""
    if any(isinstance(v, bool) or not isinstance(v, int | np.integer) for v in values):
        return TypeError
    return ValueError if any(v < least for v in values) else None


def check_input(function: str, x: Any, windows: Windows) -> None:
    """Raises unless `x` has the axes that `windows` slide over, long enough to hold one."""
    check_axes(function, x, windows)
    spatial, reach = x.shape[1:-1], windows.reach
    ends = zip(spatial, windows.pads(spatial), reach, strict=True)
    if any(n < 1 or low + n + high < r for n, (low, high), r in ends):
        raise ValueError(
            f"`{function}`: the spatial axes of x must hold one window, which reaches over "
            f'{reach}, got {errors.describe(x)}. Use padding="same" or a smaller window.'
        )


def check_axes(function: str, x: Any, windows: Windows) -> None:
    """Raises unless `x` has the axes that `windows` slide over."""
    axes = AXES[len(windows.sizes)]
    check_rank(function, x, 0, axes)
    if len(x.shape) != len(windows.sizes) + 2:
        raise ValueError(
            f"`{function}`: x must have the axes {axes}, got {errors.describe(x)}. Add a missing "
            "batch axis with `x[None]`, a missing channel axis with `x[..., None]`."
        )


def pad(x: jax.Array, pairs: Pairs, fill: Any) -> jax.Array:
    """`x` with `fill` before and after its spatial axes."""
    return jnp.pad(x, ((0, 0), *pairs, (0, 0)), constant_values=fill)


def shifts(x: jax.Array, windows: Windows) -> list[jax.Array]:
    """What each position in the window meets in a padded `x`: `(B, *out, C)` for each, C order."""
    spans = [n - reach + 1 for n, reach in zip(x.shape[1:-1], windows.reach, strict=True)]

    def shifted(position: Sizes) -> jax.Array:
        starts = [p * d for p, d in zip(position, windows.dilation, strict=True)]
        ends = [start + span for start, span in zip(starts, spans, strict=True)]
        lows, highs = (0, *starts, 0), (x.shape[0], *ends, x.shape[-1])
        return jax.lax.slice(x, lows, highs, (1, *windows.strides, 1))

    return [shifted(position) for position in np.ndindex(windows.sizes)]
