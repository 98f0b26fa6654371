"""Objectives put together of losses, weights, smoothing and penalties."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet import errors, tree
from funcnet.metrics import Metric
from funcnet.training.objective import (
    check_broadcast,
    evaluated,
    per_example,
    unpack,
)
from funcnet.types import Batch, Loss, Model, ModelState, Objective, Params, maker

Mix: TypeAlias = Callable[[jax.Array, Any], tuple[Any, jax.Array, jax.Array]]
"""`mix(key, x) -> (x, partner, share)`: see `fn.augmentation.mixup`."""

Strength: TypeAlias = float | jax.Array | Mapping[str, float | jax.Array]


class Recipe(NamedTuple):
    """An objective that still needs its model, which the trainer has.

    Attributes:
        make: `make(model, metrics) -> objective`.
        loss: the loss at its core, or None where there are several.
        ignore: the label that counts for nothing, or None.
    """

    make: Callable[[Model, Mapping[str, Metric]], Objective]
    loss: Loss | None
    ignore: int | None = None

    def __repr__(self) -> str:
        return "objective(...)" if self.loss is None else f"objective({maker(self.loss)}, ...)"


def objective(
    loss: Loss | Mapping[str, Loss],
    *,
    weights: Mapping[str, float | jax.Array] | None = None,
    class_weights: Any = None,
    label_smoothing: float | jax.Array = 0.0,
    ignore: int | None = None,
    l1: Strength | None = None,
    l2: Strength | None = None,
    mix: Mix | None = None,
) -> Recipe:
    """Puts an objective together, for `Trainer(objective=...)`.

    What is added to the loss counts in training only: evaluation reports the plain loss, so that
    it compares across settings. All numbers but `ignore` may be traced arrays.

    Args:
        loss: `loss(y_pred, y)`, one number an example; or a dict of losses, for a model whose
            output is a dict with these names, as y is. Each is then reported as `<name>_loss`.
        weights: what each loss of a dict is multiplied by; 1 where not given.
        class_weights: `[classes]`, the weight of each example by its integer label. The mean is
            divided by the sum of weights, as PyTorch does.
        label_smoothing: the share of each label that is spread evenly over all classes; for
            optax's softmax and sigmoid cross-entropies.
        ignore: the integer label of positions that count for nothing, here and in evaluation, such
            as those that fill up a sequence; the mean is over the others. Metrics have their own.
        l1: adds `strength * sum(|p|)`: a number, for every param named `kernel`, or a dict from
            path patterns to numbers, `{"encoder/**": 1e-4}`.
        l2: adds `strength * sum(p**2)`, in the same way.
        mix: mixes the examples of a batch, such as `fn.augmentation.mixup(0.2)`; the loss is mixed
            by the same shares.

    Returns:
        What the trainer makes its objective of.

    Raises:
        TypeError, ValueError: arguments that do not go together; a pattern matches no param.

    Source:
        Label smoothing: Szegedy et al., "Rethinking the Inception Architecture", 2015, section 7.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> objective = fn.objective(
        ...     optax.losses.softmax_cross_entropy_with_integer_labels,
        ...     class_weights=jnp.array([1.0, 5.0]),
        ...     label_smoothing=0.1,
        ...     l2=1e-4,
        ... )
        >>> trainer = fn.Trainer(fn.dense(2), objective=objective, optimizer=optax.adam(1e-2))
        >>> x, y = jnp.linspace(-1, 1, 32)[:, None], jnp.arange(32) // 28
        >>> float(trainer.fit((x, y), epochs=20).history["loss"][-1]) < 0.7
        True
    """
    check(loss, weights, class_weights, ignore)
    check_numbers(label_smoothing, l1, l2, mix)
    smooth = {} if is_zero(label_smoothing) else {"alpha": label_smoothing}

    def in_training(one: Loss) -> Loss:
        return smoothed(one, **smooth) if smooth else one

    many = dict(loss) if isinstance(loss, Mapping) else {"": loss}
    trained = {name: in_training(one) for name, one in many.items()}

    def make(model: Model, metrics: Mapping[str, Metric]) -> Objective:
        def objective(
            params: Params,
            model_state: ModelState,
            batch: Batch,
            *,
            key: jax.Array | None,
            training: bool,
        ) -> tuple[tuple[Any, Any], tuple[ModelState, dict[str, Any]]]:
            x, y, weight = unpack(batch)
            sides: list[tuple[Any, Any, Any]] = [(y, weight, 1.0)]
            if training and mix is not None:
                key, mixing = jax.random.split(required(key))
                x, partner, share = mix(mixing, x)
                sides = [
                    (y, weight, share),
                    (*jax.tree.map(lambda leaf: leaf[partner], (y, weight)), 1 - share),
                ]
            y_pred, model_state = model.apply(params, model_state, x, key=key, training=training)
            classes = class_weights if training else None
            parts = {
                name: [
                    sums(one, of(y_pred, name), of(y, name), weight, share, classes, ignore)
                    for y, weight, share in sides
                ]
                for name, one in (trained if training else many).items()
            }
            found = {
                name: metric.update(metric.init(), jax.lax.stop_gradient(y_pred), y, weight)
                for name, metric in metrics.items()
            }
            totals: dict[str, Any] = {
                name: sum(total for total, _ in each) for name, each in parts.items()
            }
            whole: Any = sum(w for _, w in next(iter(parts.values())))
            for name, total in totals.items() if isinstance(loss, Mapping) else ():
                check_free(f"{name}_loss", metrics)
                found[f"{name}_loss"] = jax.lax.stop_gradient(total / jnp.where(whole, whole, 1))
            factors = weights or {}
            total = sum((factors.get(name, 1.0) * each for name, each in totals.items()), 0.0)
            if training:
                total = total + whole * penalty(params, l1, l2)
            return (total, whole), (model_state, found)

        return objective

    return Recipe(make, None if isinstance(loss, Mapping) else loss, ignore)


def sums(
    loss: Loss,
    y_pred: Any,
    y: Any,
    weight: Any,
    share: Any,
    class_weights: Any,
    ignore: int | None,
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of a loss over examples, and the sum of weights."""
    at: Any = 1.0 if ignore is None else (jnp.asarray(y) != ignore).astype(jnp.result_type(float))
    y = y if ignore is None else jnp.where(at > 0, y, 0)  # a label that any loss can read
    value = evaluated(loss, y_pred, y)
    check_broadcast(loss, y_pred, y)
    if class_weights is None and ignore is None:
        each = per_example(value, y_pred, y)
        counted = jnp.ones_like(each)
    else:
        check_whole_labels(y, value)
        at = at if class_weights is None else at * of_class(class_weights, y_pred, y)
        each = per_example(jnp.where(at == 0, 0, at * value), y_pred, y)
        counted = per_example(at, y_pred, y)
    counted = counted * share
    if weight is not None:
        counted = counted * weight
    by = jnp.broadcast_to(jnp.asarray(share if weight is None else share * weight), each.shape)
    return jnp.where(by == 0, 0, by * each).sum(), counted.sum()


def check_whole_labels(y: Any, value: jax.Array) -> None:
    """Raises unless `y` is integers or bools, one for each value of a loss."""
    floats = jnp.issubdtype(jnp.result_type(y), jnp.inexact)
    if floats or jnp.shape(y) != value.shape:
        raise (TypeError if floats else ValueError)(
            "`objective`: class_weights and ignore need integer labels, one for each value of the "
            f"loss, got y {errors.describe(tree.spec(y))} and values {errors.describe(value)}. "
            f"{'Say `y.astype(int)`.' if floats else 'Say `y.argmax(-1)` if y is one-hot.'}"
        )


def of_class(class_weights: Any, y_pred: Any, y: Any) -> jax.Array:
    """The weight of each label; raises unless there is one for each class."""
    weights = jnp.asarray(class_weights, jnp.result_type(float))
    scores, labels = jnp.shape(y_pred), jnp.shape(y)
    classes = 2 if scores == labels else scores[-1] if scores else 0
    if weights.shape != (classes,):
        raise ValueError(
            f"`objective`: class_weights must have one number for each of {classes} classes, "
            f"got {errors.describe(weights)}."
        )
    return weights[jnp.asarray(y, jnp.int32)]


def smoothed(loss: Loss, alpha: Any) -> Loss:
    """A cross-entropy of optax whose labels are spread over all classes by `alpha`."""
    name = getattr(loss, "__name__", "")

    def integer(y_pred: Any, y: Any) -> jax.Array:
        even = jax.nn.logsumexp(y_pred, -1) - y_pred.mean(-1)
        smooth: jax.Array = (1 - alpha) * loss(y_pred, y) + alpha * even
        return smooth

    def soft(y_pred: Any, y: Any) -> jax.Array:
        return loss(y_pred, optax.losses.smooth_labels(y, alpha))

    def binary(y_pred: Any, y: Any) -> jax.Array:
        return loss(y_pred, (1 - alpha) * y + alpha / 2)

    kinds = {
        "softmax_cross_entropy_with_integer_labels": integer,
        "softmax_cross_entropy": soft,
        "sigmoid_binary_cross_entropy": binary,
    }
    if name not in kinds:
        raise ValueError(
            f"`objective`: label_smoothing goes with the cross-entropies of optax, "
            f"{', '.join(kinds)}, got {name or repr(loss)}. Smooth the labels in your own loss."
        )
    return kinds[name]


def penalty(params: Params, l1: Strength | None, l2: Strength | None) -> Any:
    """What is added to the mean for the size of params."""

    def absolute(p: jax.Array) -> jax.Array:
        return jnp.abs(p).sum()

    def square(p: jax.Array) -> jax.Array:
        return jnp.square(p).sum()

    added: Any = 0.0
    for strengths, size in ((l1, absolute), (l2, square)):
        if strengths is None:
            continue
        if not isinstance(strengths, Mapping):
            strengths = {"**/kernel": strengths}
        for pattern, strength in strengths.items():
            found = tree.select("objective", params, pattern)
            added += strength * sum(size(tree.widen(p)) for p in found.values())
    return added


def of(value: Any, name: str) -> Any:
    """The part of an output or of y that a loss of this name is about."""
    if not name:
        return value
    if not isinstance(value, Mapping) or name not in value:
        raise ValueError(
            f"`objective`: the model's output and y must be dicts with an entry for each loss, "
            f"got none for {name!r} in {errors.describe(tree.spec(value))}."
        )
    return value[name]


def check_free(name: str, metrics: Mapping[str, Metric]) -> None:
    """Raises where a metric has the name under which a loss is reported."""
    if name in metrics:
        raise ValueError(
            f"`objective`: no metric can be named {name!r}, under which a loss is reported. "
            "Give it another name."
        )


def required(key: jax.Array | None) -> jax.Array:
    """The key, without which nothing can be mixed."""
    if key is None:
        raise ValueError("`objective`: mix needs randomness in training, got key=None.")
    return key


def is_zero(value: Any) -> bool:
    """Whether `value` is a plain 0, and not an array that may be anything."""
    return isinstance(value, int | float) and value == 0


def check(loss: Any, weights: Any, class_weights: Any, ignore: Any) -> None:
    """Raises where arguments of `objective` are of a wrong kind, or do not go together."""
    many = loss if isinstance(loss, Mapping) else {"loss": loss}
    for name, one in many.items():
        if not callable(one):
            raise TypeError(
                f"`objective`: {name} must be a function loss(y_pred, y), got {one!r}. "
                "Take one of `optax.losses`, `optax.losses.squared_error` say."
            )
    if not isinstance(weights, Mapping | None):
        raise TypeError(
            "`objective`: weights must be a dict from the names of losses to numbers, got "
            f"{errors.describe(weights)}. Weights of examples come with the data, "
            "`(x, y, weight)`."
        )
    if isinstance(class_weights, Mapping | str):
        raise TypeError(
            "`objective`: class_weights must be an array, one number for each class, got "
            f"{class_weights!r}. Say `jnp.array([1.0, 5.0])`."
        )
    if weights is not None:
        unknown = sorted(set(weights) - set(many)) if isinstance(loss, Mapping) else sorted(weights)
        if unknown:
            raise ValueError(
                f"`objective`: weights must be by the names of the losses, got {unknown[0]!r}. "
                f"{errors.did_you_mean(unknown[0], many)}"
            )
    if isinstance(loss, Mapping) and not (class_weights is None and ignore is None):
        raise TypeError(
            "`objective`: class_weights and ignore go with one loss, got a dict of them. Weigh the "
            "classes in the loss that has them, and give each example's value."
        )
    if isinstance(ignore, bool) or not isinstance(ignore, int | np.integer | None):
        raise TypeError(f"`objective`: ignore must be a whole number or None, got {ignore!r}.")


def check_numbers(label_smoothing: Any, l1: Any, l2: Any, mix: Any) -> None:
    """Raises unless strengths are numbers or arrays that make sense, and `mix` is a function."""
    strengths = {"label_smoothing": label_smoothing}
    for name, given in (("l1", l1), ("l2", l2)):
        by_path = given if isinstance(given, Mapping) else {"": given}
        strengths |= {f"{name}{path and f' of {path!r}'}": each for path, each in by_path.items()}
    for name, value in strengths.items():
        if value is None and name != "label_smoothing":
            continue
        most = 1 if name == "label_smoothing" else np.inf
        words = f"`objective`: {name} must be a number {'in 0 .. 1' if most == 1 else '>= 0'}"
        if not isinstance(value, int | float | np.number | jax.Array):
            raise TypeError(f"{words}, got {value!r}.")
        if not isinstance(value, jax.Array) and not 0 <= value <= most:
            raise ValueError(f"{words}, got {value!r}.")
    if not (mix is None or callable(mix)):
        raise TypeError(
            f"`objective`: mix must be a function (key, x) -> (x, partner, share), got {mix!r}. "
            "Say `fn.augmentation.mixup(0.2)`."
        )
