"""Extreme eigenpairs of a symmetric operator, from products alone."""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff import chunks, probes
from funcnet.autodiff.operators import LinearOperator, check_square
from funcnet.types import PyTree

Which: TypeAlias = Literal["largest", "smallest", "absolute", "ends"]
"""The eigenvalues that are wanted, and their order."""

MORE = 20
"""Iterations of Lanczos beyond twice the number of pairs, if not said."""


class Eigenpairs(NamedTuple):
    """Approximate eigenpairs and how far they are from being so.

    Attributes:
        eigenvalues: float32[k], or float64[k].
        eigenvectors: a tree like the operator's input with a first axis of k, each of norm 1 to
            the rounding of its dtypes.
        residuals: float32[k], `|A v - λ v|`: some eigenvalue of A is no further from λ than this.
    """

    eigenvalues: jax.Array
    eigenvectors: PyTree
    residuals: jax.Array


def eigenpairs(
    operator: LinearOperator,
    k: int,
    *,
    key: jax.Array,
    which: Which = "largest",
    iterations: int | None = None,
) -> Eigenpairs:
    """Finds k extreme eigenpairs of a symmetric operator by Lanczos, `A v = λ v`.

    Every new vector is made orthogonal to all before, twice, so that no eigenvalue comes as a ghost
    of another. Where the vectors span an invariant space before all iterations are done (few
    distinct eigenvalues, or A = 0) it goes on from a random vector orthogonal to them, which finds
    eigenvalues that come several times too. As many iterations as the input has elements are exact.

    The derivative of an eigenvalue is `vᵀ dA v`, right for a simple eigenvalue that has converged;
    that of an eigenvector is 0.

    Cost: `iterations + k` products, each about two gradients for a Hessian, and memory for
    `iterations` trees like the input, in float32 at least. Outside of `jax.jit` each call compiles
    anew: compile what calls this often, with the making of the operator in it.

    Args:
        operator: a symmetric operator, such as a Hessian.
        k: how many pairs.
        key: the randomness of the first vector, and of fresh ones.
        which: `"largest"` and `"smallest"` by their value, `"absolute"` the largest by size, each
            with the extreme one first; `"ends"` k // 2 of the smallest and for the rest the
            largest, in ascending order.
        iterations: at least k, at most the elements of the input; 2 k + 20 if not given, or as many
            as there are elements. More make smaller residuals.

    Returns:
        Eigenvalues, eigenvectors and the residuals, which tell whether they have converged.

    Raises:
        TypeError: the operator is not marked as symmetric.
        ValueError: k or iterations out of range; which unknown; the input is empty.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spec = jax.ShapeDtypeStruct((3,), jnp.float32)
        >>> A = LinearOperator(lambda v: jnp.array([1.0, -5.0, 3.0]) * v, spec, spec, True)
        >>> found = eigenpairs(A, 2, key=jax.random.key(0))
        >>> found.eigenvalues.round(4).tolist(), bool((found.residuals < 1e-5).all())
        ([3.0, 1.0], True)

    Source: Golub, Van Loan 2013, Matrix Computations, algorithm 10.1.1, with the complete
    reorthogonalisation of section 10.3.1; the residual's bound is their corollary 8.1.6.
    """
    check_symmetric("eigenpairs", operator)
    size = tree.size(operator.input)
    errors.positive("eigenpairs", k=k)
    if iterations is None:
        iterations = min(size, 2 * k + MORE)
    errors.positive("eigenpairs", iterations=iterations)
    if not k <= iterations <= size:
        raise ValueError(
            "`eigenpairs`: k <= iterations <= elements of the input must hold, got "
            f"k = {k}, iterations = {iterations} and {size} elements."
        )
    if which not in get_args(Which):
        raise ValueError(
            f"`eigenpairs`: which must be one of {', '.join(map(repr, get_args(Which)))}, got "
            f"{which!r}."
        )
    basis, tridiagonal = lanczos(operator, iterations, key)
    values, vectors = jnp.linalg.eigh(tridiagonal)
    wanted = vectors[:, chosen(values, k, which)]  # (iterations, k)
    found = jax.tree.map(lambda q: jnp.tensordot(wanted.T, q, 1, precision="highest"), basis)
    pairs: Eigenpairs = jax.lax.map(lambda v: measured(operator, v), found)
    return pairs


def power_iteration(operator: LinearOperator, *, key: jax.Array, iterations: int) -> Eigenpairs:
    """Finds the eigenpair of the largest absolute eigenvalue by repeated products.

    Converges as `|λ_2 / λ_1|^iterations`, slower than `eigenpairs`, with memory for two trees like
    the input only. With two eigenvalues of equal size and opposite sign it does not converge. The
    derivative of the eigenvalue is that of `eigenpairs`.

    Cost: `iterations + 1` products.

    Args:
        operator: a symmetric operator, such as a Hessian.
        key: the randomness of the first vector.
        iterations: how many products.

    Returns:
        One pair, without a first axis: numbers, and a tree like the operator's input. Its residual
        tells whether it has converged.

    Raises:
        TypeError: the operator is not marked as symmetric.
        ValueError: iterations is not positive; the input is empty.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spec = jax.ShapeDtypeStruct((3,), jnp.float32)
        >>> A = LinearOperator(lambda v: jnp.array([1.0, -5.0, 3.0]) * v, spec, spec, True)
        >>> found = power_iteration(A, key=jax.random.key(0), iterations=50)
        >>> round(float(found.eigenvalues), 4), bool(found.residuals < 1e-5)
        (-5.0, True)

    Source: Golub, Van Loan 2013, Matrix Computations, equation 8.2.1.
    """
    check_symmetric("power_iteration", operator)
    errors.positive("power_iteration", iterations=iterations)

    def body(_: Any, v: PyTree) -> PyTree:
        product, norm = normalised(product_of(operator, v))
        return jax.tree.map(lambda new, old: jnp.where(norm > 0, new, old), product, v)

    start = normalised(wide_normal(key, operator.input))[0]
    v = jax.lax.fori_loop(0, iterations, body, start)
    return measured(operator, v)


def lanczos(operator: LinearOperator, iterations: int, key: jax.Array) -> tuple[PyTree, jax.Array]:
    """Orthonormal vectors q, stacked, and the tridiagonal matrix `q A qᵀ`."""
    first_key, fresh_key = jax.random.split(key)
    first = normalised(wide_normal(first_key, operator.input))[0]
    basis = jax.tree.map(lambda q: jnp.zeros((iterations, *q.shape), q.dtype).at[0].set(q), first)
    zeros = jnp.zeros(iterations, probes.vdot(first, first).dtype)
    rounding = 10 * coarsest(operator.input)

    def body(j: Any, carry: Any) -> Any:
        basis, alpha, beta, scale = carry
        q = jax.tree.map(lambda b: b[j], basis)
        product = product_of(operator, q)
        scale = jnp.maximum(scale, probes.norm(product))
        rest, norm = normalised(orthogonal(product, basis))
        broken = norm <= rounding * scale
        fresh = jax.random.fold_in(fresh_key, j)
        rest = jax.lax.cond(broken, lambda: wide_normal(fresh, operator.input), lambda: rest)
        rest, _ = normalised(orthogonal(orthogonal(rest, basis), basis))
        # what falls beyond the last place is dropped
        basis = jax.tree.map(lambda b, q: b.at[j + 1].set(q, mode="drop"), basis, rest)
        alpha = alpha.at[j].set(probes.vdot(q, product))
        beta = beta.at[j].set(jnp.where(broken, 0, norm))
        return basis, alpha, beta, scale

    carry = basis, zeros, zeros, zeros[0]
    basis, alpha, beta, _ = jax.lax.fori_loop(0, iterations, body, carry)
    return basis, jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)


def chosen(values: jax.Array, k: int, which: Which) -> jax.Array:
    """The places of the wanted eigenvalues among ascending ones, in their order."""
    count = len(values)
    match which:
        case "largest":
            return jnp.arange(count - 1, count - 1 - k, -1)
        case "smallest":
            return jnp.arange(k)
        case "absolute":
            return jnp.argsort(-jnp.abs(values))[:k]
        case "ends":
            low = k // 2
            return jnp.concatenate([jnp.arange(low), jnp.arange(count - (k - low), count)])


def measured(operator: LinearOperator, v: PyTree) -> Eigenpairs:
    """The pair of an approximate eigenvector: its Rayleigh quotient and residual."""
    v = jax.tree.map(jax.lax.stop_gradient, normalised(v)[0])
    v = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), v, operator.input)
    product = operator.mv(v)
    value = probes.vdot(v, product) / probes.vdot(v, v)
    residual = jax.tree.map(lambda a, b: tree.widen(a) - value * tree.widen(b), product, v)
    return Eigenpairs(value, v, probes.norm(residual))


def product_of(operator: LinearOperator, v: PyTree) -> PyTree:
    """The product as a constant, in float32 at least, with `v` in the operator's dtypes."""
    v = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), v, operator.input)
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(tree.widen(leaf)), operator.mv(v))


def orthogonal(v: PyTree, basis: PyTree) -> PyTree:
    """What is left of `v` without its parts along the vectors of an orthonormal basis."""

    def along(q: jax.Array, leaf: jax.Array) -> jax.Array:
        return jnp.tensordot(q, leaf, leaf.ndim, precision="highest")

    parts = chunks.added(jax.tree.map(along, basis, v))  # (iterations,)

    def without(q: jax.Array, leaf: jax.Array) -> jax.Array:
        shares = parts.astype(leaf.dtype)
        return leaf - jnp.tensordot(shares, q, 1, precision="highest")

    return jax.tree.map(without, basis, v)


def normalised(v: PyTree) -> tuple[PyTree, jax.Array]:
    """`v` with norm 1, and its norm; 0 stays 0."""
    norm = probes.norm(v)
    by = jnp.where(norm == 0, 1, norm)
    return jax.tree.map(lambda leaf: leaf / by.astype(leaf.dtype), v), norm


def wide_normal(key: jax.Array, spec: PyTree) -> PyTree:
    """Random numbers like `spec`, in float32 at least."""
    wide = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, chunks.widened(leaf.dtype)), spec
    )
    return probes.normal(key, wide)


def coarsest(spec: PyTree) -> float:
    """The largest of the roundings of the leaves' dtypes."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(spec)}
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)  # type: ignore[no-untyped-call]


def check_symmetric(function: str, operator: LinearOperator) -> None:
    """Raises unless an operator is marked as symmetric and has elements."""
    if not operator.symmetric:
        raise TypeError(
            f"`{function}`: the operator must be symmetric, got one that is not marked so. "
            "Make it with symmetric=True if it is."
        )
    check_square(function, operator)
