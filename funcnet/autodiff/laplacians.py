"""The Laplacian of a function, exact, in forward mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff import chunks, gradients
from funcnet.autodiff.gradients import Wrt
from funcnet.autodiff.matrices import CHUNK_BYTES, unit
from funcnet.types import Params, PyTree


def laplacian(
    f: Callable[..., PyTree],
    params: Params,
    *args: Any,
    wrt: Wrt = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> PyTree:
    """Gives the sum of second derivatives by each element of params, `Δf = sum_i ∂²f / ∂x_i²`.

    Two derivatives forward along each direction: no values are kept for a backward pass, and the
    output may have any shape. For many points, `vmap` it.

    Cost: each element of params takes about three evaluations of f; the value is computed once.

    Args:
        f: `f(params, *args)`, an array of real floats or a tree of them.
        params: where: an array x, or any tree; its leaves that are not floats stay as they are.
        *args: what else f takes.
        wrt: the leaves to differentiate by, as in `value_and_grad`: `"space"` leaves out the
            leaf `"time"`.
        chunk_bytes: bytes that values computed at once may take, 256 MiB unless given.

    Returns:
        What f gives, with the Laplacian of each number, in float32 at least.

    Raises:
        TypeError: params are not real, or hold no floats; f gives other things than real floats.

    Example:
        >>> import jax.numpy as jnp
        >>> float(laplacian(lambda x: (x**3).sum(), jnp.array([1.0, 2.0])))
        18.0
        >>> laplacian(lambda x: jnp.stack([x @ x, x[0]]), jnp.ones(3)).tolist()
        [6.0, 0.0]
    """
    errors.function("laplacian", f)
    chosen, rest = gradients.split("laplacian", params, wrt)

    def of_chosen(chosen: PyTree) -> PyTree:
        return gradients.floats("laplacian", f(tree.combine(chosen, rest), *args))

    def second(place: jax.Array) -> PyTree:
        direction = unit(chosen, place)

        def first(chosen: PyTree) -> PyTree:
            return jax.jvp(of_chosen, (chosen,), (direction,))[1]

        return jax.jvp(first, (chosen,), (direction,))[1]

    places = jnp.arange(tree.size(chosen), dtype=jnp.int32)
    size = chunks.chunk_size("laplacian", chunk_bytes, jax.vmap(second), places)
    return chunks.total(jax.vmap(second), places, size)
