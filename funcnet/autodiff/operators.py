"""Linear maps between trees of arrays, known by their products alone; Jacobian and Hessian."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from funcnet import errors, tree
from funcnet.autodiff import gradients
from funcnet.autodiff.gradients import Wrt
from funcnet.types import Params, PyTree

LinearMap: TypeAlias = Callable[[PyTree], PyTree]


@dataclass(frozen=True)
class LinearOperator:
    """A linear map from trees like `input` to trees like `output`; `A @ v` is its product.

    It holds functions, so it is not an argument of a compiled function: make it inside.

    Attributes:
        mv: the product with a tree, `v -> A v`, linear.
        input: the `jax.ShapeDtypeStruct`s of `v`.
        output: those of `A v`.
        symmetric: whether the map is its own transpose, as a Hessian is.
        positive_semidefinite: whether `v . A v` is never below zero either, as with a Fisher
            matrix: some solvers need to know.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spec = jax.ShapeDtypeStruct((2,), jnp.float32)
        >>> A = LinearOperator(lambda v: jnp.array([[1.0, 2.0], [0.0, 3.0]]) @ v, spec, spec)
        >>> (A @ jnp.array([1.0, 1.0])).tolist(), A.T.to_dense().tolist()
        ([3.0, 3.0], [[1.0, 0.0], [2.0, 3.0]])
    """

    mv: LinearMap
    input: PyTree
    output: PyTree
    symmetric: bool = False
    positive_semidefinite: bool = False

    def __matmul__(self, v: PyTree) -> PyTree:
        """The product; raises `ValueError` unless `v` is a tree like `input`.

        What stands in `v` where `input` has None is not looked at.
        """
        words = "v must be like its input"
        return self.mv(gradients.like("LinearOperator", words, self.input, v))

    @property
    def T(self) -> "LinearOperator":  # noqa: N802  # as arrays call it
        """The transpose: itself where symmetric, else by `jax.linear_transpose`."""
        if self.symmetric:
            return self
        transposed = jax.linear_transpose(self.mv, self.input)
        return LinearOperator(lambda u: transposed(u)[0], self.output, self.input)

    def to_dense(self) -> jax.Array:
        """The matrix, `(size of output, size of input)`: for tests and for few params.

        Its rows and columns are in the order of `jax.flatten_util.ravel_pytree`.
        """
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.input)
        flat, unravel = ravel_pytree(zeros)
        identity = jnp.eye(flat.size, dtype=flat.dtype)
        return jax.vmap(lambda row: ravel_pytree(self.mv(unravel(row)))[0])(identity).T

    def to_lineax(self) -> Any:
        """The same as a `lineax.FunctionLinearOperator`, for its solvers.

        It is tagged as symmetric and as positive semidefinite where it is; `lineax.CG` needs both.

        Raises:
            ImportError: lineax is not installed; `pip install lineax`.
        """
        try:
            lineax = import_module("lineax")
        except ImportError as error:
            raise ImportError(
                "`LinearOperator.to_lineax`: lineax must be installed. "
                "Run `pip install 'funcnet[solvers]'`."
            ) from error
        tags = {lineax.symmetric_tag} if self.symmetric else set()
        if self.positive_semidefinite:
            tags.add(lineax.positive_semidefinite_tag)
        return lineax.FunctionLinearOperator(self.mv, self.input, tags)


def jacobian_operator(
    f: Callable[..., PyTree], params: Params, *args: Any, wrt: Wrt = None
) -> LinearOperator:
    """The Jacobian `J = df / dparams` of `f(params, *args)`, linearised once.

    `A @ v` is `J v`, `A.T @ u` is `J' u`. The linearisation costs one `f` and holds what a gradient
    would; each product then costs less than one gradient, `f` itself is not computed again.

    Args:
        f: `f(params, *args)`, a tree of float arrays.
        params: where; `A.input` is like it, with None in place of leaves not differentiated.
        *args: further arguments of `f`.
        wrt: the leaves to differentiate, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as `value_and_grad`; `f` does not return real floats.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda x: jnp.array([x[0] * x[1], x[1] ** 2])
        >>> A = jacobian_operator(f, jnp.array([2.0, 3.0]))
        >>> (A @ jnp.array([1.0, 0.0])).tolist(), (A.T @ jnp.array([1.0, 0.0])).tolist()
        ([3.0, 0.0], [3.0, 2.0])
    """
    of_chosen, chosen, _ = chosen_floats("jacobian_operator", f, params, args, wrt)
    outputs, product = jax.linearize(of_chosen, chosen)
    return LinearOperator(product, tree.spec(chosen), tree.spec(outputs))


def hessian_operator(
    f: Callable[..., Any], params: Params, *args: Any, wrt: Wrt = None
) -> LinearOperator:
    """The Hessian `H = d²f / dparams²` of the scalar `f(params, *args)`, linearised once.

    The gradient is computed and linearised once, which costs about two gradients; each product
    `A @ v` then costs about one, half of what `hvp` costs. For one product take `hvp`.

    Args:
        f: `f(params, *args)`, a real scalar.
        params: where; `A.input` is like it, with None in place of leaves not differentiated.
        *args: further arguments of `f`.
        wrt: the leaves to differentiate, as in `value_and_grad`: a diagonal block of the Hessian.

    Raises:
        TypeError, ValueError: as `value_and_grad`.

    Source:
        Pearlmutter, "Fast Exact Multiplication by the Hessian", 1994.

    Example:
        >>> import jax.numpy as jnp
        >>> A = hessian_operator(lambda x: x[0] ** 2 * x[1], jnp.array([2.0, 3.0]))
        >>> A.to_dense().tolist()
        [[6.0, 4.0], [4.0, 0.0]]
    """
    gradient, chosen, _ = chosen_gradient("hessian_operator", f, params, args, wrt)
    _, product = jax.linearize(gradient, chosen)
    return LinearOperator(product, tree.spec(chosen), tree.spec(chosen), symmetric=True)


def spec_of(function: Callable[..., PyTree], *args: Any) -> PyTree:
    """The `jax.ShapeDtypeStruct`s of what `function(*args)` gives, without computing it."""
    return tree.spec(jax.eval_shape(function, *args))


def chosen_floats(
    function: str,
    f: Callable[..., PyTree],
    params: Params,
    args: tuple[Any, ...],
    wrt: Wrt = None,
    name: str = "f",
) -> tuple[LinearMap, PyTree, PyTree]:
    """`f` as a function of the chosen leaves of params, checked to give floats, and the split."""
    errors.function(function, f, name)
    chosen, rest = gradients.split(function, params, wrt)

    def of_chosen(chosen: PyTree) -> PyTree:
        return gradients.floats(function, f(tree.combine(chosen, rest), *args), name)

    return of_chosen, chosen, rest


def chosen_gradient(
    function: str, f: Callable[..., Any], params: Params, args: tuple[Any, ...], wrt: Wrt = None
) -> tuple[LinearMap, PyTree, PyTree]:
    """The gradient of `f` as a function of the chosen leaves of params, and the split."""
    errors.function(function, f)
    chosen, rest = gradients.split(function, params, wrt)

    def of_chosen(chosen: PyTree) -> Any:
        return gradients.scalar(function, f(tree.combine(chosen, rest), *args))

    return jax.grad(of_chosen), chosen, rest


def check_square(function: str, operator: LinearOperator) -> None:
    """Raises unless an operator maps trees to trees like them, of an element or more."""
    wrong = errors.differences(operator.input, operator.output)
    if wrong:
        raise ValueError(
            f"`{function}`: the operator's output must be like its input, got {'; '.join(wrong)}. "
            "Take a square one."
        )
    if tree.size(operator.input) == 0:
        raise ValueError(
            f"`{function}`: the operator's input must have an element or more, got "
            f"{errors.describe(operator.input)}. Leave out what is empty."
        )
