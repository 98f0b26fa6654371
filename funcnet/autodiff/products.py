"""Products with matrices of derivatives that are never formed; as operators: their own modules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import tree
from funcnet.autodiff import curvature
from funcnet.autodiff.curvature import Likelihood
from funcnet.autodiff.gradients import like, whole, without_others
from funcnet.autodiff.operators import LinearOperator, chosen_floats, chosen_gradient
from funcnet.types import Params, PyTree

LIKE_PARAMS = "v must be like params"


def hvp(f: Callable[..., Any], params: Params, v: PyTree, *args: Any) -> PyTree:
    """Product `H v` of the Hessian `H = d²f / dparams²` with a tree.

    Forward over reverse: the derivative of the gradient along `v`. Costs about two gradients, and
    the memory of two. For many products at one point linearise once: `hessian_operator`.

    Args:
        f: `f(params, *args)`, a real scalar.
        params: where.
        v: a tree like params; at leaves that are not differentiated it is not looked at.
        *args: further arguments of `f`.

    Returns:
        A tree like params, with zeros where integers, bools and keys are.

    Raises:
        TypeError, ValueError: as `value_and_grad`; `v` is not like params.

    Source:
        Pearlmutter, "Fast Exact Multiplication by the Hessian", 1994.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda x: x[0] ** 2 * x[1]
        >>> hvp(f, jnp.array([2.0, 3.0]), jnp.array([1.0, 0.0])).tolist()
        [6.0, 4.0]
    """
    gradient, chosen, rest = chosen_gradient("hvp", f, params, args)
    v = like("hvp", LIKE_PARAMS, chosen, v)
    _, product = jax.jvp(gradient, (chosen,), (v,))
    return whole(product, rest)


def gauss_newton_vp(
    model: Callable[..., PyTree],
    loss: Callable[[PyTree], Any],
    params: Params,
    v: PyTree,
    *args: Any,
) -> PyTree:
    """Product `J' (d²loss / doutputs²) J v` of the Gauss-Newton matrix of `loss(model(params))`.

    Costs about two gradients. `gauss_newton_operator` says more of the matrix.

    Args:
        model: `model(params, *args)`, a tree of float arrays.
        loss: `loss(outputs)`, a real scalar; targets are closed over.
        params: where.
        v: a tree like params; at leaves that are not differentiated it is not looked at.
        *args: further arguments of the model.

    Returns:
        A tree like params, with zeros where integers, bools and keys are.

    Raises:
        TypeError, ValueError: as `gauss_newton_operator`; `v` is not like params.

    Source:
        Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent",
        2002, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> model = lambda params, x: jnp.sin(params * x)
        >>> loss = lambda y: jnp.sum(y**2)
        >>> x = jnp.array([1.0, 3.0])
        >>> gauss_newton_vp(model, loss, jnp.array(0.0), jnp.array(1.0), x).item()
        20.0
    """
    made = curvature.gauss_newton("gauss_newton_vp", model, loss, params, args)
    return applied("gauss_newton_vp", made, v)


def fisher_vp(
    model: Callable[..., PyTree],
    likelihood: Likelihood,
    params: Params,
    v: PyTree,
    *args: Any,
    key: jax.Array | None = None,
    samples: int = 1,
) -> PyTree:
    """Product `F v` of the Fisher information of what a model predicts, summed over examples.

    Costs about two gradients, for any number of samples. `fisher_operator` says more of the
    matrix, and has the table of likelihoods.

    Args:
        model: `model(params, *args)`, a tree of float arrays.
        likelihood: `"categorical"`, `"gaussian"`, `"bernoulli"` or `"poisson"`, exact; or a pair
            `(log_prob, sample)`, estimated: `log_prob(outputs, y)` gives `(B,)`, `sample(key,
            outputs)` a `y`.
        params: where.
        v: a tree like params; at leaves that are not differentiated it is not looked at.
        *args: further arguments of the model.
        key: for the pair: the key of the draws.
        samples: for the pair: the number of draws.

    Returns:
        A tree like params, with zeros where integers, bools and keys are.

    Raises:
        TypeError, ValueError: as `fisher_operator`; `v` is not like params.

    Source:
        Martens, "New Insights and Perspectives on the Natural Gradient Method", 2020, section 5.

    Example:
        >>> import jax.numpy as jnp
        >>> logits, v = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])
        >>> fisher_vp(lambda logits: logits, "categorical", logits, v).tolist()
        [[0.25, -0.25]]
    """
    made = curvature.fisher("fisher_vp", model, likelihood, params, args, key, samples)
    return applied("fisher_vp", made, v)


def empirical_fisher_vp(
    log_probs: Callable[..., Any], params: Params, v: PyTree, *args: Any
) -> PyTree:
    """Product `F v` of the empirical Fisher, `sum over i of g_i (g_i . v)`.

    `g_i` is the gradient of the log-probability of example i, with its label in the data.
    Costs about two gradients of the sum; no gradient of one example is ever held.
    `empirical_fisher_operator` says how it differs from the Fisher information.

    Args:
        log_probs: `log_probs(params, *args)`, `(B,)`: the log-probability of each example.
        params: where.
        v: a tree like params; at leaves that are not differentiated it is not looked at.
        *args: further arguments of `log_probs`.

    Returns:
        A tree like params, with zeros where integers, bools and keys are.

    Raises:
        TypeError, ValueError: as `empirical_fisher_operator`; `v` is not like params.

    Source:
        Kunstner, Balles, Hennig, "Limitations of the Empirical Fisher Approximation", 2019, eq. 3.

    Example:
        >>> import jax.numpy as jnp
        >>> log_probs = lambda mean, y: -((y - mean) ** 2) / 2
        >>> y = jnp.array([1.0, 2.0])
        >>> empirical_fisher_vp(log_probs, jnp.array(0.0), jnp.array(1.0), y).item()
        5.0
    """
    made = curvature.empirical_fisher("empirical_fisher_vp", log_probs, params, args)
    return applied("empirical_fisher_vp", made, v)


def jvps(f: Callable[..., PyTree], params: Params, vs: PyTree, *args: Any) -> PyTree:
    """Products `J v` of the Jacobian `J = df / dparams` with several trees at once.

    Forward mode; `f` is computed and linearised once for all. Costs at most two `f` for each `v`.

    Args:
        f: `f(params, *args)`, a tree of float arrays.
        params: where.
        vs: a tree like params with one more axis in front, `(K, ...)` at each leaf; at leaves that
            are not differentiated it is not looked at.
        *args: further arguments of `f`.

    Returns:
        A tree like `f(params, *args)` with one more axis in front: the K products.

    Raises:
        TypeError, ValueError: as `value_and_grad`; `f` does not return real floats; `vs` is not
            like params.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda x: jnp.array([x[0] * x[1], x[1] ** 2])
        >>> jvps(f, jnp.array([2.0, 3.0]), jnp.eye(2)).tolist()
        [[3.0, 0.0], [2.0, 6.0]]
    """
    of_chosen, chosen, _ = chosen_floats("jvps", f, params, args)
    words = "vs must be like params with one more axis in front"
    vs = like("jvps", words, stacked(chosen, length(without_others(chosen, vs))), vs)
    _, product = jax.linearize(of_chosen, chosen)
    return jax.vmap(product)(vs)


def vjps(f: Callable[..., PyTree], params: Params, us: PyTree, *args: Any) -> PyTree:
    """Products `J' u` of the transposed Jacobian, `J = df / dparams`, with several trees at once.

    Reverse mode; `f` is computed and linearised once for all. Costs less than one gradient for
    each `u`.

    Args:
        f: `f(params, *args)`, a tree of float arrays.
        params: where.
        us: a tree like `f(params, *args)` with one more axis in front, `(K, ...)` at each leaf.
        *args: further arguments of `f`.

    Returns:
        A tree like params with one more axis in front: the K products; zeros where integers, bools
        and keys are.

    Raises:
        TypeError, ValueError: as `value_and_grad`; `f` does not return real floats; `us` is not
            like what it returns.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda x: jnp.array([x[0] * x[1], x[1] ** 2])
        >>> vjps(f, jnp.array([2.0, 3.0]), jnp.eye(2)).tolist()
        [[3.0, 2.0], [0.0, 6.0]]
    """
    of_chosen, chosen, rest = chosen_floats("vjps", f, params, args)
    outputs, transposed = jax.vjp(of_chosen, chosen)
    words = "us must be like what f returns with one more axis in front"
    us = like("vjps", words, stacked(outputs, length(us)), us)
    grads = jax.vmap(lambda u: transposed(u)[0])(us)
    return whole(
        grads,
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (length(us), *jnp.shape(leaf))), rest),
    )


def applied(function: str, made: tuple[LinearOperator, PyTree], v: PyTree) -> PyTree:
    """The product of an operator with a tree like params, and zeros at the leaves left out."""
    operator, rest = made
    return whole(operator.mv(like(function, LIKE_PARAMS, operator.input, v)), rest)


def length(several: PyTree) -> int:
    """The length of the first axis of the first leaf that has one; 0 if none has."""
    shapes = map(jnp.shape, jax.tree.leaves(several))
    return next((shape[0] for shape in shapes if shape), 0)


def stacked(one: PyTree, length: int) -> PyTree:
    """The `jax.ShapeDtypeStruct`s of that many trees in one, along a new first axis."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype), tree.spec(one)
    )
