"""How y_pred and y are read: as labels, scores or numbers; what can't be is refused in words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.metrics.sums import real, widened

NO_LABEL = -1
"""What is predicted from scores with a NaN."""

SQUEEZE_LOGITS = "Pass y_pred.squeeze(-1) if it has binary logits."


def labels(function: str, y_pred: Any, y: Any, threshold: Any) -> tuple[jax.Array, jax.Array, int]:
    """Predicted labels, true labels and the number of classes, by the table of `accuracy`."""
    y_pred, y = scores_and_labels(function, y_pred, y)
    if are_alike(y_pred, y):
        label, unknown, classes = y_pred > threshold, jnp.isnan(y_pred), 2
    elif has_scores(y_pred, y):
        label, unknown = jnp.argmax(y_pred, axis=-1), jnp.isnan(y_pred).any(-1)
        classes = y_pred.shape[-1]
    else:
        must = (
            "y_pred must have the shape of y (binary logits), or one more axis of at least 2 "
            "(scores of classes)"
        )
        fix = "Pass one label for each row of scores, or for each logit."
        raise mismatch(function, must, y_pred, y, fix, SQUEEZE_LOGITS)
    return jnp.where(unknown, NO_LABEL, label).astype(jnp.int32), y, classes


def class_scores(function: str, y_pred: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Scores of classes `(B, ..., C)`, widened, and their labels `(B, ...)`."""
    y_pred, y = scores_and_labels(function, y_pred, y)
    if not has_scores(y_pred, y):
        must = "y_pred must have one more axis than y, of at least 2 scores of classes"
        fix = "Pass one label for each row of scores."
        raise mismatch(function, must, y_pred, y, fix, fix)
    return widened(y_pred), y


def binary_logits(function: str, y_pred: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Binary logits `(B, ...)`, widened, and their labels of the same shape."""
    y_pred, y = scores_and_labels(function, y_pred, y)
    if not are_alike(y_pred, y):
        must, fix = "y_pred must have the shape of y", "Pass one label for each logit."
        if y_pred.shape == (*y.shape, 2):
            fix = "Pass y_pred[..., 1] - y_pred[..., 0] if it has scores of two classes."
        raise mismatch(function, must, y_pred, y, fix, SQUEEZE_LOGITS)
    return widened(y_pred), y


def scores_and_labels(function: str, y_pred: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """`y_pred` as an array of floats and `y` as one of int32; raises where they are none."""
    if not are_arrays(y_pred, y):
        raise TypeError(
            f"`{function}`: y_pred and y must be arrays, got {errors.describe(y_pred)} and "
            f"{errors.describe(y)}. Choose one output of the model and its labels."
        )
    y_pred, y = jnp.asarray(y_pred), jnp.asarray(y)
    if not jnp.issubdtype(y_pred.dtype, jnp.floating):
        raise TypeError(
            f"`{function}`: y_pred must be scores or logits in floats, "
            f"got {errors.describe(y_pred)}. Pass what the model gives, not labels taken from it."
        )
    if not is_whole(y, boolean=True):
        raise TypeError(
            f"`{function}`: y must be integer or boolean labels, got {errors.describe(y)}. "
            "Pass y.argmax(-1) for one-hot labels, y.astype(int) for whole numbers in floats."
        )
    return y_pred, y.astype(jnp.int32)


def numbers(function: str, y_pred: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Predictions and targets as floats of 32 bits or more, of one shape `(B, ...)`."""
    if not (are_arrays(y_pred, y) and is_real(y_pred) and is_real(y)):
        raise TypeError(
            f"`{function}`: y_pred and y must be arrays of real numbers, "
            f"got {errors.describe(y_pred)} and {errors.describe(y)}. "
            "Choose one output of the model and its targets."
        )
    y_pred, y = jnp.asarray(y_pred), jnp.asarray(y)
    if not are_alike(y_pred, y):
        must = "y_pred and y must have the same shape, with the examples along the first axis"
        fix = "Pass one target for each prediction."
        raise mismatch(function, must, y_pred, y, fix, "Pass y_pred.squeeze(-1).")
    return real(widened(y_pred)), real(widened(y))


def tokens(function: str, y_pred: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    """Predicted and true tokens in int32, `(B, S)` and `(B, T)`."""
    if not (are_arrays(y_pred, y) and is_whole(y_pred) and is_whole(y)):
        raise TypeError(
            f"`{function}`: y_pred and y must be arrays of integer tokens, "
            f"got {errors.describe(y_pred)} and {errors.describe(y)}. Decode scores first, with "
            "`fn.metrics.of(metric, lambda y_pred, y: (y_pred.argmax(-1), y))` say."
        )
    if not (y_pred.ndim == y.ndim == 2 and len(y_pred) == len(y)):
        raise ValueError(
            f"`{function}`: y_pred and y must be sequences (B, S) and (B, T), "
            f"got {errors.describe(y_pred)} and {errors.describe(y)}. "
            "Pass one row of tokens an example, filled up with padding."
        )
    return jnp.asarray(y_pred, jnp.int32), jnp.asarray(y, jnp.int32)


def check_classes(function: str, classes: int, found: int, y_pred: Any) -> None:
    """Raises unless `classes` are as many as y_pred speaks of."""
    if found != classes:
        raise ValueError(
            f"`{function}`: classes must be the number of scores, or 2 for binary logits, "
            f"got {classes} and y_pred {errors.describe(y_pred)}. Pass classes={found}."
        )


def check_ignore(function: str, ignore: Any) -> None:
    """Raises unless `ignore` is a label or None."""
    if isinstance(ignore, bool) or not isinstance(ignore, int | np.integer | None):
        raise TypeError(
            f"`{function}`: ignore must be a whole number or None, got {ignore!r}. "
            "Pass the label of what is to be left out."
        )


def mismatch(
    function: str, must: str, y_pred: jax.Array, y: jax.Array, fix: str, squeeze: str
) -> ValueError:
    """The error for shapes that don't go together; `squeeze` is the fix for y_pred `(B, 1)`."""
    if y_pred.shape == (*y.shape, 1):
        fix = squeeze
    elif y.shape[-1:] == (1,):
        fix = "Pass y.squeeze(-1)."
    return ValueError(
        f"`{function}`: {must}, got y_pred {errors.describe(y_pred)} and "
        f"y {errors.describe(y)}. {fix}"
    )


def are_alike(y_pred: jax.Array, y: jax.Array) -> bool:
    """Whether y_pred has one number for each of y, and there is an axis of examples."""
    return y.ndim > 0 and y_pred.shape == y.shape


def has_scores(y_pred: jax.Array, y: jax.Array) -> bool:
    """Whether y_pred has a row of scores for each label."""
    return y.ndim > 0 and y_pred.shape[:-1] == y.shape and y_pred.shape[-1] > 1


def are_arrays(*values: Any) -> bool:
    """Whether all are arrays, of NumPy or JAX."""
    return all(isinstance(value, jax.Array | np.ndarray) for value in values)


def is_whole(array: Any, *, boolean: bool = False) -> bool:
    """Whether an array holds whole numbers, or booleans where they may stand for them."""
    return bool(jnp.issubdtype(array.dtype, jnp.integer)) or (boolean and array.dtype == bool)


def is_real(array: Any) -> bool:
    """Whether an array holds whole numbers, booleans or floats."""
    return is_whole(array, boolean=True) or bool(jnp.issubdtype(array.dtype, jnp.floating))
