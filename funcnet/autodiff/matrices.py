"""Jacobian and Hessian as arrays, computed in chunks that keep to a bound of memory."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Var, jaxprs_in_params
from jax.flatten_util import ravel_pytree

from funcnet import errors, tree
from funcnet.autodiff.gradients import Wrt
from funcnet.autodiff.operators import LinearMap, chosen_floats, chosen_gradient, spec_of
from funcnet.types import Params, PyTree

Mode = Literal["forward", "reverse"]

CHUNK_BYTES = 2**28
COPIES = 3  # measured: products with a convolution and its pooling need 2.6 times what is counted


def jacobian(
    f: Callable[..., PyTree],
    params: Params,
    *args: Any,
    mode: Mode | None = None,
    wrt: Wrt = None,
    chunk_bytes: int = CHUNK_BYTES,
    dense: bool = False,
) -> PyTree:
    """Jacobian `J = df / dparams` of `f(params, *args)`, a tree of blocks or one matrix.

    With n elements of params and m of the output, forward mode computes n columns, one
    Jacobian-vector product each, and reverse mode m rows, one vector-Jacobian product each. `f` is
    linearised once; a product then costs less than one gradient. The mode is forward where
    `n <= m`, else reverse, unless it is given: forward is for a `lax.while_loop`, reverse for a
    `jax.custom_vjp`.

    Products run in chunks, one after another. What one product holds is counted in its jaxpr, as
    the largest sum of values that are computed and still needed, and taken three times, as XLA
    copies some into other layouts: a chunk is as many products as go into `chunk_bytes` by that
    count, one at least. The bound is on them alone. Beside it stand the linearisation, as large as
    that of one gradient, and the result, with one copy where it is cut into the blocks of leaves.

    Compile it for repeated use: `jax.jit(lambda params: jacobian(f, params))`.

    Args:
        f: `f(params, *args)`, a tree of float arrays.
        params: where.
        *args: further arguments of `f`.
        mode: `"forward"`, `"reverse"`, or None for the rule above.
        wrt: the leaves to differentiate, as in `value_and_grad`.
        chunk_bytes: the bound in bytes, 256 MiB unless given.
        dense: whether to give one matrix `(m, n)`, with rows and columns in the order of
            `jax.flatten_util.ravel_pytree`.

    Returns:
        The tree of the output with a tree of params in place of each leaf, as of `jax.jacrev`: the
        block of output `[*out]` and leaf `[*in]` is `[*out, *in]`, in the wider of both dtypes.
        Leaves of params that are not differentiated have no block, but None.

    Raises:
        TypeError, ValueError: as `value_and_grad`; `f` does not return real floats; `mode` or
            `chunk_bytes` is not as above.

    Source:
        Griewank, Walther, "Evaluating Derivatives", 2008, chapter 3.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda params: {"y": params["w"] * params["x"]}
        >>> params = {"w": jnp.array([2.0, 3.0]), "x": jnp.array(5.0)}
        >>> blocks = jacobian(f, params)
        >>> blocks["y"]["w"].tolist(), blocks["y"]["x"].tolist()
        ([[5.0, 0.0], [0.0, 5.0]], [2.0, 3.0])
        >>> jacobian(f, params, dense=True).tolist()
        [[5.0, 0.0, 2.0], [0.0, 5.0, 3.0]]
    """
    check_arguments("jacobian", mode, chunk_bytes)
    of_chosen, chosen, _ = chosen_floats("jacobian", f, params, args, wrt)
    if mode is None:
        outputs = spec_of(of_chosen, chosen)
        mode = "forward" if tree.size(chosen) <= tree.size(outputs) else "reverse"
    if mode == "forward":
        outputs, product = jax.linearize(of_chosen, chosen)
        stack = products(product, chosen, chunk_bytes, -1, dense)
        return matrix(stack, outputs, chosen) if dense else columns(stack, outputs, chosen)
    outputs, transposed = jax.vjp(of_chosen, chosen)
    stack = products(lambda u: transposed(u)[0], outputs, chunk_bytes, 0, dense)
    return matrix(stack, outputs, chosen) if dense else rows(stack, outputs, chosen)


def hessian(
    f: Callable[..., Any],
    params: Params,
    *args: Any,
    wrt: Wrt = None,
    chunk_bytes: int = CHUNK_BYTES,
    dense: bool = False,
) -> PyTree:
    """Hessian `H = d²f / dparams²` of a scalar `f(params, *args)`, a tree of blocks or one matrix.

    Forward over reverse: the gradient is computed and linearised once, then each of n elements of
    params costs one product, about a gradient. Products run in chunks as in `jacobian`, whose
    account of memory holds here too.

    Args:
        f: `f(params, *args)`, a real scalar.
        params: where.
        *args: further arguments of `f`.
        wrt: the leaves to differentiate, as in `value_and_grad`: a diagonal block of the Hessian.
        chunk_bytes: the bound in bytes, 256 MiB unless given.
        dense: whether to give one matrix `(n, n)`, in the order of `jax.flatten_util.ravel_pytree`.

    Returns:
        A tree of params with a tree of params in place of each leaf, as of `jax.hessian`: the block
        of leaves `[*a]` and `[*b]` is `[*a, *b]`, in the wider of both dtypes. Leaves that are not
        differentiated have no block, but None.

    Raises:
        TypeError, ValueError: as `value_and_grad`; `chunk_bytes` is not a positive whole number.

    Source:
        Griewank, Walther, "Evaluating Derivatives", 2008, section 5.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda params: params["a"] ** 2 * params["b"]
        >>> params = {"a": jnp.array(2.0), "b": jnp.array(3.0)}
        >>> blocks = hessian(f, params)
        >>> float(blocks["a"]["a"]), float(blocks["a"]["b"])
        (6.0, 4.0)
        >>> hessian(f, params, dense=True).tolist()
        [[6.0, 4.0], [4.0, 0.0]]
    """
    check_arguments("hessian", None, chunk_bytes)
    gradient, chosen, _ = chosen_gradient("hessian", f, params, args, wrt)
    _, product = jax.linearize(gradient, chosen)
    stack = products(product, chosen, chunk_bytes, 0, dense)  # its rows are its columns
    return matrix(stack, chosen, chosen) if dense else rows(stack, chosen, chosen)


def products(product: LinearMap, like: PyTree, chunk_bytes: int, axis: int, flat: bool) -> PyTree:
    """Products of a linear map with each unit tree like `like`, stacked along an axis, in chunks.

    The chunks write into one buffer. The last one starts so early that it ends with the buffer:
    some products are computed twice, and no remainder has to be joined.
    """
    size = tree.size(like)

    def one(index: jax.Array) -> PyTree:
        found = product(unit(like, index))
        return ravel_pytree(found)[0] if flat else found

    length = min(size, max(1, chunk_bytes // (COPIES * peak_bytes(jax.make_jaxpr(one)(0)))))
    chunk = jax.vmap(one, out_axes=axis)
    if length == size:
        return chunk(jnp.arange(size))

    def write(buffers: PyTree, start: jax.Array) -> tuple[PyTree, None]:
        def into(buffer: jax.Array, part: jax.Array) -> jax.Array:
            where = axis % buffer.ndim
            return jax.lax.dynamic_update_slice_in_dim(buffer, part, start, where)

        return jax.tree.map(into, buffers, chunk(start + jnp.arange(length))), None

    def buffer(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        shape = (size, *leaf.shape) if axis == 0 else (*leaf.shape, size)
        return jnp.zeros(shape, leaf.dtype)

    starts = jnp.minimum(jnp.arange(0, size, length), size - length)
    buffers, _ = jax.lax.scan(write, jax.tree.map(buffer, spec_of(one, 0)), starts)
    return buffers


def unit(like: PyTree, index: jax.Array) -> PyTree:
    """A tree of zeros with a one at an index, in the order of `ravel_pytree`."""
    leaves, structure = jax.tree.flatten(tree.spec(like))
    starts = offsets(leaves)

    def part(leaf: jax.ShapeDtypeStruct, start: int) -> jax.Array:
        ones = jnp.arange(math.prod(leaf.shape)) == index - start
        return ones.astype(leaf.dtype).reshape(leaf.shape)

    return jax.tree.unflatten(structure, map(part, leaves, starts))


def matrix(stack: jax.Array, outputs: PyTree, inputs: PyTree) -> jax.Array:
    """The one matrix, in the widest dtype of all leaves."""
    return stack.astype(jnp.result_type(*(x.dtype for x in jax.tree.leaves((outputs, inputs)))))


def rows(stack: PyTree, outputs: PyTree, inputs: PyTree) -> PyTree:
    """Blocks of a tree like inputs whose leaves are `[m, *in]`."""
    leaves, structure = jax.tree.flatten(outputs)

    def blocks(leaf: jax.Array, start: int) -> PyTree:
        stop = start + leaf.size

        def block(part: jax.Array) -> jax.Array:
            shape = (*leaf.shape, *part.shape[1:])
            # by dtypes: those of Python numbers would give way as arrays
            return part[start:stop].reshape(shape).astype(jnp.result_type(part.dtype, leaf.dtype))

        return jax.tree.map(block, stack)

    return jax.tree.unflatten(structure, map(blocks, leaves, offsets(leaves)))


def columns(stack: PyTree, outputs: PyTree, inputs: PyTree) -> PyTree:
    """Blocks of a tree like outputs whose leaves are `[*out, n]`."""
    leaves, structure = jax.tree.flatten(inputs)

    def blocks(part: jax.Array) -> PyTree:
        def block(leaf: jax.Array, start: int) -> jax.Array:
            shape = (*part.shape[:-1], *leaf.shape)
            cut = part[..., start : start + leaf.size]
            return cut.reshape(shape).astype(jnp.result_type(part.dtype, leaf.dtype))

        return jax.tree.unflatten(structure, map(block, leaves, offsets(leaves)))

    return jax.tree.map(blocks, stack)


def offsets(leaves: list[Any]) -> list[int]:
    """Where each leaf starts in the order of `ravel_pytree`."""
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    return [sum(sizes[:k]) for k in range(len(sizes))]


def peak_bytes(jaxpr: Any) -> int:
    """Bytes that the values computed by a jaxpr hold at most at once, each until its last use.

    Arguments and constants do not count. Called jaxprs do; those of loops run beside what the loop
    gives, and others give it themselves.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    uses = [*(equation.invars for equation in jaxpr.eqns), jaxpr.outvars]
    last = {var: k for k, used in enumerate(uses) for var in used if isinstance(var, Var)}
    sizes: dict[Var, int] = {}
    peak = alive = 0
    for k, equation in enumerate(jaxpr.eqns):
        given = {var: nbytes(var) for var in equation.outvars}
        peak = max(peak, alive + held(equation, sum(given.values())))
        sizes |= {var: size for var, size in given.items() if var in last}
        alive += sum(size for var, size in given.items() if var in last)
        alive -= sum(sizes[var] for var in sizes if last[var] == k)
    return max(peak, 1)


def held(equation: JaxprEqn, given: int) -> int:
    """Bytes that one equation holds at most, what it gives among them."""
    inside = max(map(peak_bytes, jaxprs_in_params(equation.params)), default=0)
    loops = equation.primitive.name in ("scan", "while")
    return given + inside if loops else max(given, inside)


def nbytes(var: Any) -> int:
    """Bytes of a variable; 0 for what is no array."""
    shape, dtype = getattr(var.aval, "shape", None), getattr(var.aval, "dtype", None)
    return 0 if shape is None or dtype is None else math.prod(shape) * dtype.itemsize


def check_arguments(function: str, mode: Any, chunk_bytes: Any) -> None:
    """Raises unless mode and bound are as `jacobian` says."""
    if mode not in (None, "forward", "reverse"):
        raise ValueError(
            f"`{function}`: mode must be 'forward', 'reverse' or None, got {mode!r}. "
            "None chooses by the sizes of params and output."
        )
    errors.positive(function, chunk_bytes=chunk_bytes)
