"""Curvature that is never negative: Gauss-Newton and Fisher matrices as operators.

All are `J' S J`, with `J` the Jacobian of a model's outputs and `S` a matrix between outputs.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff import gradients
from funcnet.autodiff.gradients import Wrt
from funcnet.autodiff.operators import LinearMap, LinearOperator, chosen_floats
from funcnet.types import Params, PyTree

Likelihood: TypeAlias = str | tuple[Callable[..., Any], Callable[..., Any]]
"""A name of `fisher_operator`'s table, or the pair `(log_prob, sample)`."""


LOG_PARTITIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "categorical": lambda outputs: jax.nn.logsumexp(outputs, axis=-1),
    "gaussian": lambda outputs: jnp.sum(outputs**2) / 2,
    "bernoulli": jax.nn.softplus,
    "poisson": jnp.exp,
}


def gauss_newton_operator(
    model: Callable[..., PyTree],
    loss: Callable[[PyTree], Any],
    params: Params,
    *args: Any,
    wrt: Wrt = None,
) -> LinearOperator:
    """The generalised Gauss-Newton matrix `G = J' (d²loss / doutputs²) J` of `loss(model(params))`.

    It is the Hessian without the curvature of the model; both are equal where the model is linear
    in params, or fits so well that `dloss / doutputs = 0`. `G` is positive semidefinite wherever
    the loss is convex in the outputs. As that can't be seen from here the operator does not claim
    it: `dataclasses.replace(A, positive_semidefinite=True)` does.

    Model and loss are linearised once, about one gradient; each product costs about one more.

    Args:
        model: `model(params, *args)`, a tree of float arrays.
        loss: `loss(outputs)`, a real scalar; targets are closed over.
        params: where; `A.input` is like it, with None in place of leaves not differentiated.
        *args: further arguments of the model.
        wrt: the leaves to differentiate, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as `value_and_grad`; the model does not return real floats.

    Source:
        Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent",
        2002, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> model = lambda params, x: jnp.sin(params * x)
        >>> loss = lambda y: jnp.sum(y**2)
        >>> A = gauss_newton_operator(model, loss, jnp.array(0.0), jnp.array([1.0, 3.0]))
        >>> (A @ jnp.array(1.0)).item()  # 2 (1² + 3²)
        20.0
    """
    return gauss_newton("gauss_newton_operator", model, loss, params, args, wrt)[0]


def fisher_operator(
    model: Callable[..., PyTree],
    likelihood: Likelihood,
    params: Params,
    *args: Any,
    key: jax.Array | None = None,
    samples: int = 1,
    wrt: Wrt = None,
) -> LinearOperator:
    """The Fisher information `F = sum over i of E[g_i g_i']` of what a model predicts.

    `g_i = d log p(y_i | params) / dparams`, and `y_i` is drawn from what the model itself predicts,
    not from data. It is a sum over examples: divide by their number for the mean. `F = J' S J`,
    with `J` the Jacobian of the model's outputs and `S` the Fisher information of the distribution
    with respect to them. By name `S` is exact, and `F` equal to the Gauss-Newton matrix of the
    negative log-likelihood:

    | likelihood | outputs | S |
    | --- | --- | --- |
    | `"categorical"` | logits, classes along the last axis | `diag(p) - p p'`, `p = softmax` |
    | `"gaussian"` | means of normals of unit variance | the identity |
    | `"bernoulli"` | logits | `p (1 - p)`, `p = sigmoid` |
    | `"poisson"` | logarithms of rates | `exp` |

    By a pair `(log_prob, sample)` it is estimated without bias for any density, from `samples`
    draws for each example: `S_i = mean over draws of s s'`, `s = d log p(y_i) / doutputs_i`.

    The model is linearised once, about one gradient; each product costs about one more, however
    many samples there are.

    Args:
        model: `model(params, *args)`, a tree of float arrays.
        likelihood: a name, or `(log_prob, sample)`: `log_prob(outputs, y)` gives `(B,)`, a number
            for each example along the first axis of the outputs, on which it alone depends;
            `sample(key, outputs)` gives a `y`.
        params: where; `A.input` is like it, with None in place of leaves not differentiated.
        *args: further arguments of the model.
        key: for the pair: the key of the draws.
        samples: for the pair: the number of draws.
        wrt: the leaves to differentiate, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as `value_and_grad`; the likelihood is not as above; a pair has no
            key, or a name has one; `log_prob` does not give one number an example.

    Source:
        Martens, "New Insights and Perspectives on the Natural Gradient Method", 2020, sections 5
        and 9.2.

    Example:
        >>> import jax.numpy as jnp
        >>> A = fisher_operator(lambda logits: logits, "categorical", jnp.zeros((1, 2)))
        >>> A.to_dense().tolist()
        [[0.25, -0.25], [-0.25, 0.25]]
    """
    return fisher("fisher_operator", model, likelihood, params, args, key, samples, wrt)[0]


def empirical_fisher_operator(
    log_probs: Callable[..., Any], params: Params, *args: Any, wrt: Wrt = None
) -> LinearOperator:
    """The empirical Fisher `sum over i of g_i g_i'`, `g_i = d log p(y_i | params) / dparams`.

    `y` are the labels of the data, which makes it the second moment of the gradients and not, in
    general, an estimate of the Fisher information: for that see `fisher_operator`. It is `J' J`,
    with `J` the Jacobian of `log_probs`, so that no gradient of one example is ever held.

    The function is linearised once, about one gradient; each product costs about one more.

    Args:
        log_probs: `log_probs(params, *args)`, `(B,)`: the log-probability of each example.
        params: where; `A.input` is like it, with None in place of leaves not differentiated.
        *args: further arguments of `log_probs`.
        wrt: the leaves to differentiate, as in `value_and_grad`.

    Raises:
        TypeError, ValueError: as `value_and_grad`; `log_probs` does not give `(B,)`.

    Source:
        Kunstner, Balles, Hennig, "Limitations of the Empirical Fisher Approximation", 2019, eq. 3.

    Example:
        >>> import jax.numpy as jnp
        >>> log_probs = lambda mean, y: -((y - mean) ** 2) / 2
        >>> A = empirical_fisher_operator(log_probs, jnp.array(0.0), jnp.array([1.0, 2.0]))
        >>> (A @ jnp.array(1.0)).item()
        5.0
    """
    return empirical_fisher("empirical_fisher_operator", log_probs, params, args, wrt)[0]


def gauss_newton(
    function: str,
    model: Callable[..., PyTree],
    loss: Callable[[PyTree], Any],
    params: Params,
    args: tuple[Any, ...],
    wrt: Wrt = None,
) -> tuple[LinearOperator, PyTree]:
    """`gauss_newton_operator` on behalf of a public function, and the leaves left out."""
    errors.function(function, loss, "loss")

    def curvature(outputs: PyTree) -> LinearMap:
        return hessian_map(lambda y: gradients.scalar(function, loss(y), "loss"), outputs)

    return sandwich(function, model, curvature, params, args, wrt)


def fisher(
    function: str,
    model: Callable[..., PyTree],
    likelihood: Likelihood,
    params: Params,
    args: tuple[Any, ...],
    key: Any,
    samples: int,
    wrt: Wrt = None,
) -> tuple[LinearOperator, PyTree]:
    """`fisher_operator` on behalf of a public function, and the leaves left out."""
    check_likelihood(function, likelihood, key, samples)

    def curvature(outputs: PyTree) -> LinearMap:
        if isinstance(likelihood, str):
            return hessian_map(lambda outputs: log_partition(likelihood, outputs), outputs)
        return score_map(function, outputs, *likelihood, jax.random.split(key, samples))

    made, rest = sandwich(function, model, curvature, params, args, wrt)
    return replace(made, positive_semidefinite=True), rest


def empirical_fisher(
    function: str,
    log_probs: Callable[..., Any],
    params: Params,
    args: tuple[Any, ...],
    wrt: Wrt = None,
) -> tuple[LinearOperator, PyTree]:
    """`empirical_fisher_operator` on behalf of a public function, and the leaves left out."""

    def identity(outputs: PyTree) -> LinearMap:
        check_per_example(function, "log_probs", outputs)
        return lambda u: u

    made, rest = sandwich(function, log_probs, identity, params, args, wrt, "log_probs")
    return replace(made, positive_semidefinite=True), rest


def sandwich(
    function: str,
    model: Callable[..., PyTree],
    curvature: Callable[[PyTree], LinearMap],
    params: Params,
    args: tuple[Any, ...],
    wrt: Wrt,
    name: str = "model",
) -> tuple[LinearOperator, PyTree]:
    """`J' S J`, where `curvature(outputs)` gives the products with `S`; and the leaves left out."""
    of_chosen, chosen, rest = chosen_floats(function, model, params, args, wrt, name)
    outputs, forward = jax.linearize(of_chosen, chosen)
    backward = jax.linear_transpose(forward, chosen)
    between = curvature(outputs)
    spec = tree.spec(chosen)

    def product(v: PyTree) -> PyTree:
        return backward(between(forward(v)))[0]

    return LinearOperator(product, spec, spec, symmetric=True), rest


def hessian_map(f: Callable[[PyTree], Any], outputs: PyTree) -> LinearMap:
    """Products with the Hessian of a scalar function of the outputs."""
    _, product = jax.linearize(jax.grad(f), outputs)
    return product


def log_partition(name: str, outputs: PyTree) -> jax.Array:
    """Sum of the log-partition functions of a family, whose Hessian is its Fisher information."""
    each = LOG_PARTITIONS[name]
    return sum(
        (jnp.sum(each(tree.widen(leaf))) for leaf in jax.tree.leaves(outputs)), jnp.zeros(())
    )


def score_map(
    function: str,
    outputs: PyTree,
    log_prob: Callable[..., Any],
    sample: Callable[..., Any],
    keys: jax.Array,
) -> LinearMap:
    """Products with the mean over draws of `s s'` for each example, `s = dlog_prob / doutputs`."""
    length = jnp.shape(jax.tree.leaves(outputs)[0])[:1]

    def score(key: jax.Array) -> PyTree:
        y = sample(key, outputs)

        def total(outputs: PyTree) -> jax.Array:
            found = log_prob(outputs, y)
            check_per_example(function, "log_prob", found, length)
            return jnp.sum(found)

        return jax.grad(total)(outputs)

    scores = jax.vmap(score)(keys)  # (samples, B, ...)

    def product(u: PyTree) -> PyTree:
        along = [dots(s, x) for s, x in zip(*map(jax.tree.leaves, (scores, u)), strict=True)]
        weights = sum(along[1:], along[0]) / len(keys)  # (samples, B)

        def weighted(s: jax.Array) -> jax.Array:
            return jnp.einsum("sb,sb...->b...", weights, tree.widen(s)).astype(s.dtype)

        return jax.tree.map(weighted, scores)

    return product


def dots(scores: jax.Array, u: jax.Array) -> jax.Array:
    """Inner product for each draw and example, `(samples, B, ...), (B, ...) -> (samples, B)`."""
    samples, examples = scores.shape[:2]
    flat = tree.widen(scores).reshape(samples, examples, -1)
    return jnp.einsum("sbk,bk->sb", flat, tree.widen(u).reshape(examples, -1))


def check_likelihood(function: str, likelihood: Any, key: Any, samples: Any) -> None:
    """Raises unless a likelihood is known, or a pair with a key and a number of samples."""
    errors.positive(function, samples=samples)
    if isinstance(likelihood, str):
        if likelihood not in LOG_PARTITIONS:
            raise ValueError(
                f"`{function}`: likelihood must be a known name or a pair, got {likelihood!r}. "
                f"{errors.did_you_mean(likelihood, LOG_PARTITIONS)}"
            )
        if key is not None:
            raise ValueError(
                f"`{function}`: key must be None for the likelihood {likelihood!r}, which is "
                f"exact, got {errors.describe(key)}. To sample, give (log_prob, sample)."
            )
        return
    if not (isinstance(likelihood, tuple) and [*map(callable, likelihood)] == [True, True]):
        raise TypeError(
            f"`{function}`: likelihood must be a name or a pair of functions (log_prob, sample), "
            f"got {errors.describe(likelihood)}."
        )
    if key is None:
        raise TypeError(
            f"`{function}`: key must be given to sample, got None. Give key=jax.random.key(0), say."
        )


def check_per_example(
    function: str, name: str, found: Any, length: tuple[int, ...] | None = None
) -> None:
    """Raises unless a function gave one float for each example, `length` of them if known."""
    right = gradients.is_array(found) and tree.is_float(found) and jnp.ndim(found) == 1
    if not right or jnp.shape(found) != (length or jnp.shape(found)):
        number = f"float[{length[0]}]" if length else "float[B]"
        raise ValueError(
            f"`{function}`: {name} must return one number for each example, {number}, "
            f"got {errors.describe(found)}. Sum the others over all axes but the first."
        )
