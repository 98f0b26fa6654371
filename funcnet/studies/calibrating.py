"""Calibration: the temperature at which probabilities are as sure as they are right."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.metrics.reading import binary_logits, class_scores
from funcnet.metrics.sums import at_positions, example_weight

COLDEST, HOTTEST = 1e-3, 1e3
"""The temperatures between which one is sought."""

HALVINGS = 60
"""Of the bracket, in the logarithm of the temperature; it is below 1e-16 then."""


def temperature(logits: Any, labels: Any, weight: Any = None) -> jax.Array:
    """The T for which `logits / T` have the least cross-entropy.

    Dividing by T > 1 makes probabilities less sure, by T < 1 surer; no prediction changes. Find T
    on examples that were not trained on. The cross-entropy is convex in 1 / T, and its minimum is
    found by bisection, in jit and vmap too. T has no derivative: `jax.grad` gives 0.

    Args:
        logits: scores of classes `(B, ..., C)`, or binary logits `(B, ...)`.
        labels: integers of the shape `(B, ...)`.
        weight: one number an example, `(B,)`; 0 leaves it out.

    Returns:
        T, between 0.001, where all predictions are right (the colder the better then), and 1000,
        where logits tell nothing about labels. NaN if a logit of an example with a weight is.

    Raises:
        TypeError: labels are not whole numbers, or logits not floats.
        ValueError: the shapes do not go together, or a label is no class.

    Source:
        Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", 2017, section 4.2.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> sure = jnp.array([[6.0, 0.0]] * 4)  # 99.8 % for class 0, of which 3 in 4 are
        >>> T = fn.temperature(sure, jnp.array([0, 0, 0, 1]))
        >>> round(float(jax.nn.softmax(sure[0] / T)[0]), 3)
        0.75
    """
    scores, labels = read(logits, labels)
    each = at_positions(example_weight("temperature", weight, labels), labels)
    check_classes(labels, each, scores.shape[-1])
    true = jnp.take_along_axis(scores, labels[..., None], axis=-1)
    above = scores - true  # (B, ..., C), 0 for the label

    def slope(log_heat: jax.Array) -> jax.Array:
        """The derivative of the cross-entropy of `heat * logits` by heat, which is 1 / T."""
        p = jax.nn.softmax(jnp.exp(log_heat) * above)
        mean = jnp.where(p == 0, 0, p * above).sum(-1)  # a class may be ruled out by -inf
        return jnp.where(each == 0, 0, each * mean).sum()

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        rising = slope(middle) > 0
        return jnp.where(rising, low, middle), jnp.where(rising, middle, high)

    ends = (jnp.asarray(-math.log(end), scores.dtype) for end in (HOTTEST, COLDEST))
    low, _ = jax.lax.fori_loop(0, HALVINGS, halve, tuple(ends))
    unknown = jnp.isnan(slope(low)) | ~(each != 0).any()
    return jnp.where(unknown, jnp.nan, jnp.exp(-low))


def read(logits: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    """Scores of classes `(B, ..., C)`, of two for binary logits, and labels `(B, ...)`."""
    if jnp.shape(logits) == jnp.shape(labels):
        logits, labels = binary_logits("temperature", logits, labels)
        return jnp.stack([jnp.zeros_like(logits), logits], axis=-1), labels
    return class_scores("temperature", logits, labels)


def check_classes(labels: jax.Array, each: jax.Array, classes: int) -> None:
    """Raises where a label of any weight is none of the classes, if its value is known."""
    if isinstance(labels, jax.core.Tracer) or isinstance(each, jax.core.Tracer):
        return
    if (np.asarray(each) < 0).any():
        raise ValueError(
            f"`temperature`: weight must be 0 or more everywhere, got {float(each.min())!r} as its "
            "least. Leave an example out with the weight 0."
        )
    values = np.asarray(labels)[np.asarray(each) != 0]
    wrong = values[(values < 0) | (values >= classes)]
    if wrong.size:
        raise ValueError(
            f"`temperature`: labels must lie in 0 .. {classes - 1}, since there are {classes} "
            f"scores, got {wrong[0]}. Number the classes from 0."
        )
