"""What is minimised: a loss per example, averaged by weight over a batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.metrics import Metric
from funcnet.tree import spec
from funcnet.types import Batch, Loss, Model, ModelState, Objective, Params


def unpack(batch: Batch) -> tuple[Any, Any, jax.Array | None]:
    """The parts `(x, y, weight)` of a batch, `weight` being None where it has none.

    Example:
        >>> unpack((1, 2))
        (1, 2, None)
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise TypeError(
            f"`unpack`: a batch must be a tuple (x, y) or (x, y, weight), "
            f"got {errors.describe(batch)}. Where there is no y, give x in its place."
        )
    x, y, *weight = batch
    return x, y, weight[0] if weight else None


def make_objective(model: Model, loss: Loss, metrics: Mapping[str, Metric]) -> Objective:
    """The objective that is the weighted mean of `loss` over the examples of a batch.

    Args:
        model: what predicts.
        loss: `loss(y_pred, y)`, one number an example; further axes are averaged.
        metrics: accumulators updated with each batch's predictions, by name.

    Returns:
        The objective, whose metrics are the accumulators of this batch alone.
    """

    def objective(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        *,
        key: jax.Array | None,
        training: bool,
    ) -> tuple[tuple[Any, Any], tuple[ModelState, dict[str, Any]]]:
        x, y, weight = unpack(batch)
        y_pred, model_state = model.apply(params, model_state, x, key=key, training=training)
        each = per_example(evaluated(loss, y_pred, y), y_pred, y)
        check_broadcast(loss, y_pred, y)
        reported = jax.lax.stop_gradient(y_pred)
        found = {
            name: metric.update(metric.init(), reported, y, weight)
            for name, metric in metrics.items()
        }
        return weigh(each, weight), (model_state, found)

    return objective


def weigh(each: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, Any]:
    """Sum and weight of one number an example; an example of weight 0 counts as if absent."""
    if weight is None:
        return each.sum(), np.float32(each.shape[0])
    weight = weight.astype(each.dtype)
    return jnp.where(weight == 0, 0, weight * each).sum(), weight.sum()


def evaluated(loss: Loss, y_pred: Any, y: Any) -> Any:
    """`loss(y_pred, y)`; an error of its own is told what it was given."""
    try:
        return loss(y_pred, y)
    except Exception as error:
        if extra_axis(y_pred, y):
            raise mismatch(y_pred, y) from error
        if remedy := of_labels(y_pred, y, error):
            raise type(error)(
                "`loss`: y must be a class for each example, whole numbers without the last axis "
                f"of y_pred = {errors.describe(spec(y_pred))}, got {errors.describe(spec(y))}. "
                f"{remedy}"
            ) from error
        error.add_note(
            f"in `loss`, for y_pred = {errors.describe(spec(y_pred))} and "
            f"y = {errors.describe(spec(y))}"
        )
        raise


def per_example(value: Any, y_pred: Any, y: Any) -> jax.Array:
    """What a loss gave as one number an example, in float32 at least.

    Raises:
        TypeError: it is not an array of real numbers.
        ValueError: it is a scalar, or has not the batch's length.
    """
    if not hasattr(value, "shape") or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"`loss`: it must give an array of real numbers, one for each example, "
            f"got {errors.describe(value)}. Take the array out of it."
        )
    length = len(jax.tree.leaves(y_pred)[0])
    if value.ndim == 0:
        raise ValueError(
            f"`loss`: it must give one number for each of the {length} examples, got a single "
            f"{errors.describe(value)}. Leave out its mean or sum; a loss that has no value for "
            "one example alone is given as `Trainer(objective=...)`."
        )
    if value.shape[0] != length:
        raise ValueError(
            f"`loss`: it must give one number for each of the {length} examples, "
            f"got {errors.describe(value)}. Its first axis must be that of y_pred."
        )
    wide = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    each: jax.Array = wide.mean(tuple(range(1, value.ndim)))
    return each


PROBE = 7919
"""A batch size, a prime, that no other axis is likely to have."""


def check_broadcast(loss: Loss, y_pred: Any, y: Any) -> None:
    """Raises where a loss broadcasts examples against each other, as (B, 1) against (B,).

    Its output for `PROBE` examples then has a second axis of that length, or there is none; and
    where one of y_pred and y has a last axis of 1 more, nothing on the way may have one. Only
    shapes are traced, and only where those of y_pred and y differ.
    """
    if getattr(y_pred, "shape", ()) == getattr(y, "shape", ()):
        return
    many = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((PROBE, *leaf.shape[1:]), leaf.dtype), spec((y_pred, y))
    )
    try:
        jaxpr = jax.make_jaxpr(loss)(*many)
        on_the_way = extra_axis(y_pred, y) and f"[{PROBE},{PROBE}" in str(jaxpr)
        broadcasts = on_the_way or jaxpr.out_avals[0].shape.count(PROBE) > 1
    except (TypeError, ValueError):  # it only works because this batch is as long as another axis
        broadcasts = True
    if broadcasts:
        raise mismatch(y_pred, y)


def extra_axis(y_pred: Any, y: Any) -> str | None:
    """Which of both has a last axis of length 1 more than the other, if one has."""
    if not (hasattr(y_pred, "shape") and hasattr(y, "shape")):
        return None
    if y_pred.shape == (*y.shape, 1):
        return "y_pred"
    return "y" if y.shape == (*y_pred.shape, 1) else None


def of_labels(y_pred: Any, y: Any, error: Exception) -> str:
    """How to mend labels that may have been meant as classes, where a loss has refused them."""
    if not (hasattr(y_pred, "shape") and hasattr(y, "shape")):
        return ""
    if y.ndim > 1 and y.shape == (*y_pred.shape[:-1], 1):
        return "Take the axis off y, with `y[..., 0]`."
    refused = isinstance(error, TypeError) and jnp.issubdtype(y.dtype, jnp.floating)
    if y.shape == y_pred.shape[:-1] and refused:
        return 'Make whole numbers of them, with `y.astype("int32")`.'
    return ""


def mismatch(y_pred: Any, y: Any) -> ValueError:
    """The error for shapes of y_pred and y that a loss can't compare example by example."""
    remedy = {
        "y_pred": "Give y the axis too, with `y[:, None]`, or end the model with "
        "`lambda y: y.squeeze(-1)`.",
        "y": "Take the axis off y, with `y[:, 0]`.",
        None: "Bring y into the shape of y_pred, or choose a loss for labels of this shape.",
    }
    return ValueError(
        f"`loss`: y_pred and y must have the same shape, got {errors.describe(spec(y_pred))} "
        f"and {errors.describe(spec(y))}, which must not be broadcast against each other. "
        f"{remedy[extra_axis(y_pred, y)]}"
    )
