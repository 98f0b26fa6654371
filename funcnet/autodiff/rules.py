"""Derivatives by choice: another function's, none, reversed, clipped, or that of an expectation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff import probes
from funcnet.policies import policy
from funcnet.types import Params, PyTree


def straight_through(
    hard: Callable[..., PyTree], soft: Callable[..., PyTree] | None = None
) -> Callable[..., PyTree]:
    """The value of one function with the derivatives of another, of the identity by default.

        y = hard(x),   dy/dx := dsoft/dx

    Forward and reverse mode, of any order; jit, vmap; trees. The value is that of `hard` to the
    bit. The derivative is biased: it is not that of the function computed, nor of its expectation.

    Args:
        hard: `hard(x, *args)`, such as `jnp.round` or `jnp.sign`; it is not differentiated.
        soft: `soft(x, *args)`, a tree like that of `hard`, such as `jnp.tanh`. Left out: `x`.

    Returns:
        `f(x, *args)`, in the dtypes of `soft`.

    Raises:
        TypeError: `hard` or `soft` is no function.
        ValueError: when called, if `hard` gives another structure or other shapes than `soft`.

    Source:
        Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through Stochastic
        Neurons for Conditional Computation", 2013, section 4.

    Example:
        >>> value, slope = jax.value_and_grad(straight_through(jnp.round))(1.6)
        >>> float(value), float(slope)
        (2.0, 1.0)
        >>> step = straight_through(lambda x: x > 0, jax.nn.sigmoid)
        >>> value, slope = jax.value_and_grad(step)(0.5)
        >>> print(f"{value:.1f} {slope:.3f}")
        1.0 0.235
    """
    errors.function("straight_through", hard, "hard")
    if soft is not None:
        errors.function("straight_through", soft, "soft")

    def f(x: PyTree, *args: Any) -> PyTree:
        slope = jax.tree.map(jnp.asarray, x if soft is None else soft(x, *args))
        value = jax.tree.map(jnp.asarray, hard(jax.lax.stop_gradient(x), *args))
        as_soft = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, bool), slope)
        as_hard = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, bool), value)
        if errors.differences(as_soft, as_hard):
            raise ValueError(
                "`straight_through`: hard must give a tree like that of soft, or of x, got "
                f"{'; '.join(errors.differences(tree.spec(slope), tree.spec(value)))}. "
                "Give one number for each."
            )
        return grafted(jax.tree.map(lambda v, s: v.astype(s.dtype), value, slope), slope)

    return f


def reverse_gradient(x: PyTree, scale: Any = 1.0) -> PyTree:
    """`x`, with its derivative reversed: what follows is minimised, what leads to `x` maximises it.

        y = x,   dy/dx := -scale

    Forward and reverse mode, of any order; jit, vmap. Put it before the head of an adversary.

    Args:
        x: a tree; leaves that are no floats pass as they are.
        scale: the factor, a number or a scalar array that may change while training (Ganin's λ);
            it has no derivative.

    Returns:
        `x`.

    Raises:
        TypeError, ValueError: `scale` is no number and no scalar array.

    Source:
        Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", 2015, equation 8.

    Example:
        >>> float(jax.grad(lambda x: reverse_gradient(x, 0.5) ** 2)(3.0))
        -3.0
    """
    errors.scalar_number(
        f"`reverse_gradient`: scale must be a number or a scalar array, got "
        f"{errors.describe(scale)}. Give 1.0 say.",
        scale,
    )
    scale = jax.lax.stop_gradient(scale)

    def of_leaf(leaf: Any) -> Any:
        if not tree.is_float(leaf):
            return leaf
        leaf = jnp.asarray(leaf)
        return grafted(leaf, -jnp.asarray(scale, leaf.dtype) * leaf)

    return jax.tree.map(of_leaf, x)


def clip_gradient(x: PyTree, *, norm: Any = None, value: Any = None) -> PyTree:
    """`x`, with the gradient that comes back to it clipped.

    With `norm`, the gradient ḡ of the whole tree becomes `ḡ min(1, norm / ‖ḡ‖)`; with `value`,
    each number of it becomes `min(max(ḡ, -value), value)`. It bounds what goes back through time
    in a recurrent network, or from one loss of several; to clip the gradient of params take optax.

    Reverse mode only, jit, vmap (where each example has a norm of its own): forward mode has no
    gradient coming back to clip, and JAX refuses it. A second derivative is that of the clipped
    first. NaN stays NaN.

    Args:
        x: a tree; leaves that are no floats pass as they are.
        norm: the greatest Euclidean norm, over all leaves: a number, 0 or more, perhaps traced.
        value: the greatest magnitude of a number, likewise.

    Returns:
        `x`.

    Raises:
        TypeError, ValueError: not exactly one of `norm` and `value` is given, or it is no
            number, or below 0.

    Source:
        Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
        2013, algorithm 1.

    Example:
        >>> float(jax.grad(lambda x: 100 * clip_gradient(x, value=2.0))(1.0))
        2.0
        >>> slope = jax.grad(lambda x: clip_gradient(x, norm=5.0) @ jnp.array([30.0, 40.0]))
        >>> slope(jnp.ones(2)).round(4).tolist()
        [3.0, 4.0]
    """
    if (norm is None) == (value is None):
        raise ValueError(
            "`clip_gradient`: one of norm and value must be given, got "
            f"{'neither' if norm is None else 'both'}. Give `norm=1.0` say."
        )
    name, most = ("value", value) if norm is None else ("norm", norm)
    errors.positive_number("clip_gradient", name, most, zero=True)
    floats, rest = tree.partition(x, lambda path, leaf: tree.is_float(leaf))
    floats = jax.tree.map(jnp.asarray, floats)
    if norm is None:
        return tree.combine(clipped_by_value(floats, jnp.asarray(value, float)), rest)
    return tree.combine(clipped_by_norm(floats, jnp.asarray(norm, float)), rest)


def stop_gradient(params: Params, *patterns: str) -> Params:
    """`params`, of which the leaves whose paths match a pattern are constants to derivatives.

    Forward and reverse mode; jit, vmap. Inside an objective it freezes a part of a model for one
    of several losses, where leaving params out of the differentiation would do so for all.

    Args:
        params: a tree.
        *patterns: paths, in which `*` stands for any part of a name and `**` for any number of
            names; without one, all leaves are constants.

    Returns:
        `params`.

    Raises:
        TypeError: a pattern is no string.
        ValueError: no path matches a pattern.

    Example:
        >>> params = {"encoder": {"kernel": 2.0}, "head": {"kernel": 3.0}}
        >>> def loss(params):
        ...     params = stop_gradient(params, "encoder/**")
        ...     return params["encoder"]["kernel"] * params["head"]["kernel"]
        >>> {name: float(g["kernel"]) for name, g in jax.grad(loss)(params).items()}
        {'encoder': 0.0, 'head': 2.0}
    """
    if not all(isinstance(pattern, str) for pattern in patterns):
        got = ", ".join(map(repr, patterns))
        raise TypeError(
            f"`stop_gradient`: each pattern must be a string, got {got}. "
            "Give several one after the other: `stop_gradient(params, 'a', 'b/**')`."
        )
    found = {
        path
        for pattern in patterns or ("**",)
        for path in tree.select("stop_gradient", params, pattern)
    }
    constant, rest = tree.partition(params, lambda path, leaf: path in found)
    return tree.combine(jax.lax.stop_gradient(constant), rest)


def remat(f: Callable[..., Any], keep: str | Sequence[str] = "nothing") -> Callable[..., Any]:
    """Computes `f` a second time for its gradient, in place of keeping what it computed.

    The values and derivatives of any order and mode are the same; memory falls from all that `f`
    computes to its arguments, and what is kept. Costs one more `f` for each gradient.
    `fn.remat` is the same for a layer.

    Args:
        f: any function of trees.
        keep: what is kept all the same: `"nothing"`, `"dots"` (the results of matrix products),
            `"dots_without_batch"` (those with params) or `"everything"`; or a list of names that
            `f` gave by `jax.ad_checkpoint.checkpoint_name`.

    Returns:
        A function of the same arguments.

    Raises:
        TypeError, ValueError: `f` is not callable; `keep` is neither.

    Source:
        Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; `jax.checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = remat(lambda x: jnp.sin(jnp.sin(x)), keep="dots")
        >>> round(jax.grad(f)(1.0).item(), 4)
        0.36
    """
    errors.function("remat", f)
    again: Callable[..., Any] = jax.checkpoint(f, policy=policy(keep, "names"))
    return again


def score_function(
    cost: Callable[..., Any],
    sample: Callable[..., PyTree],
    log_prob: Callable[..., Any],
    *,
    samples: int,
    baseline: bool = True,
) -> Callable[..., jax.Array]:
    """An estimate of an expectation whose derivatives are unbiased, for samples that have none.

        E = (1/n) Σᵢ cᵢ,   ∇E := (1/n) Σᵢ ∇log p(xᵢ) (cᵢ - bᵢ) + ∇cᵢ,   xᵢ ~ p(x; params)

    with `bᵢ` the mean of the other costs, or 0: REINFORCE. Forward and reverse mode, and second
    derivatives, all unbiased; jit, vmap. Where the sample can be written as a smooth function of
    noise, differentiate that instead: its variance is lower.

    Args:
        cost: `cost(params, x, *args)`, a float scalar, which need not be smooth in `x`.
        sample: `sample(params, *args, key=key) -> x`, one draw; it is not differentiated.
        log_prob: `log_prob(params, x, *args)`, the logarithm in nats of the probability, or of its
            density, of `x`: a float scalar.
        samples: n, how many are drawn, by `jax.vmap`.
        baseline: whether the mean of the other costs is taken off, which lowers the variance.

    Returns:
        `expectation(params, *args, key=key)`, float[]: a gradient of it costs n gradients of `cost`
        and of `log_prob`.

    Raises:
        TypeError: `samples` is not a whole number.
        ValueError: `samples` is below 1, or below 2 with a baseline; when called, if `cost` or
            `log_prob` give no scalar.

    Source:
        Williams, "Simple Statistical Gradient-Following Algorithms", 1992, theorem 1; Kool, van
        Hoof and Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019, equation 2;
        Foerster et al., "DiCE: The Infinitely Differentiable Monte-Carlo Estimator", 2018.

    Example:
        >>> def sample(p, *, key):
        ...     return jax.random.bernoulli(key, p)
        >>> def log_prob(p, x):
        ...     return jnp.where(x, jnp.log(p), jnp.log(1 - p))
        >>> win = score_function(lambda p, x: 10.0 * x, sample, log_prob, samples=4000)
        >>> print(round(float(jax.grad(win)(0.3, key=jax.random.key(0)))))
        10
    """
    for name, given in (("cost", cost), ("sample", sample), ("log_prob", log_prob)):
        errors.function("score_function", given, name)
    errors.positive("score_function", samples=samples)
    if baseline and samples < 2:
        raise ValueError(
            "`score_function`: samples must be 2 or more for a baseline, the mean of the others, "
            f"got {samples}. Draw more, or set baseline=False."
        )

    def expectation(params: Params, *args: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, samples)
        fixed, fixed_args = jax.lax.stop_gradient((params, args))
        x = jax.lax.stop_gradient(jax.vmap(lambda key: sample(fixed, *fixed_args, key=key))(keys))
        costs = jax.vmap(lambda x: scalar("cost", cost(params, x, *args)))(x)
        scores = jax.vmap(lambda x: scalar("log_prob", log_prob(params, x, *args)))(x)
        return surrogate(costs, scores, baseline)

    return expectation


def surrogate(costs: jax.Array, scores: jax.Array, baseline: bool) -> jax.Array:
    """The mean of the costs, with the derivatives of its expectation."""
    weight = jnp.exp(scores - jax.lax.stop_gradient(scores))  # 1, whose derivative is the score's
    others = (costs.sum() - costs) / max(costs.size - 1, 1)
    taken_off = jax.lax.stop_gradient(others if baseline else jnp.zeros_like(costs))
    return jnp.mean(weight * (costs - taken_off) + taken_off)


def scalar(name: str, value: Any) -> jax.Array:
    """What `cost` or `log_prob` gave for one sample; raises unless it is a float scalar."""
    array = jnp.asarray(value)
    if array.shape or not tree.is_float(array):
        raise ValueError(
            f"`score_function`: {name} must give a float scalar for one sample, got "
            f"{errors.describe(array)}. Sum it over the sample, or cast it."
        )
    return array


@jax.custom_jvp
def grafted(value: PyTree, slope: PyTree) -> PyTree:
    """`value`, with the derivatives of `slope`."""
    del slope
    return value


@grafted.defjvp
def _(primals: tuple[PyTree, PyTree], tangents: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    return grafted(*primals), tangents[1]


@jax.custom_vjp
def clipped_by_norm(x: PyTree, most: jax.Array) -> PyTree:
    """`x`, with the norm of its gradient at most so great."""
    del most
    return x


def by_norm(most: jax.Array, g: PyTree) -> tuple[PyTree, jax.Array]:
    """The gradient `g`, clipped; none for the bound."""
    parts, by = probes.scaled(g)
    length = probes.norm(parts)
    within = by * length <= most
    scale = most / jnp.where(within, 1.0, length)

    def of_leaf(leaf: jax.Array, part: jax.Array) -> jax.Array:
        return jnp.where(within, leaf, (part * scale).astype(leaf.dtype))

    return jax.tree.map(of_leaf, g, parts), jnp.zeros_like(most)


clipped_by_norm.defvjp(lambda x, most: (x, most), by_norm)


@jax.custom_vjp
def clipped_by_value(x: PyTree, most: jax.Array) -> PyTree:
    """`x`, with each number of its gradient at most so great."""
    del most
    return x


def by_value(most: jax.Array, g: PyTree) -> tuple[PyTree, jax.Array]:
    """The gradient `g`, clipped; none for the bound."""

    def of_leaf(leaf: jax.Array) -> jax.Array:
        return jnp.clip(leaf, -most.astype(leaf.dtype), most.astype(leaf.dtype))

    return jax.tree.map(of_leaf, g), jnp.zeros_like(most)


clipped_by_value.defvjp(lambda x, most: (x, most), by_value)
