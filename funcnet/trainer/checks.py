"""What is refused before anything is trained, with words for the user."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.data.arrays import Columns
from funcnet.trainer.programs import Programs
from funcnet.types import PyTree, TrainState


def check_state(function: str, programs: Programs, state: Any, x: PyTree) -> None:
    """Raises unless `state` is what this trainer's `init` would make for inputs like `x`.

    Args:
        function: the public function that was called.
        programs: the trainer's.
        state: what the caller gave.
        x: a batch of inputs, or what describes one.
    """
    check_kind(function, state)
    expected = programs.expected(x)
    wrong = errors.differences(
        {"params": expected.params, "model_state": expected.model_state},
        {"params": state.params, "model_state": state.model_state},
    )
    if function == "fit":
        wrong += errors.differences(
            {"opt_state": expected.opt_state}, {"opt_state": state.opt_state}
        )
    if wrong:
        lines = "\n  ".join(sorted(wrong))
        made = "model and optimizer" if function == "fit" else "model"
        one = errors.describe(tree.spec(x))
        raise ValueError(
            f"`{function}`: state must be what the trainer's {made} would make for x like {one}, "
            f"got\n  {lines}\n"
            "Give the state of this very trainer, and x of the shape that it was made for."
        )


def check_kind(function: str, state: Any) -> None:
    """Raises unless `state` is a `TrainState`."""
    if not isinstance(state, TrainState):
        raise TypeError(
            f"`{function}`: state must be a fn.TrainState, got {type(state).__name__}. "
            "Give `result.best`, or what `trainer.init` makes."
        )


class Labels(NamedTuple):
    """What labels must be: `least .. most`, with the reason and the remedy in words."""

    least: int
    most: int
    since: str
    fix: str
    ignore: int | None = None


def labels_of(programs: Programs, state: Any, example: Columns) -> Labels | None:
    """What y must be, where that is known.

    Classes, where the trainer has a `loss`, y holds integers, and y_pred has one axis more; 0 to 1
    for optax's binary cross-entropy.
    """
    x, y = example[:2]
    if programs.loss is None or not hasattr(y, "dtype"):
        return None
    if getattr(programs.loss, "__name__", "") == "sigmoid_binary_cross_entropy":
        fix = "Map two classes to 0 and 1, with `y > 0` or `y == name` say."
        return Labels(0, 1, "the loss is binary cross-entropy", fix)
    y_pred = programs.output(state, x)
    if y.dtype.kind not in "iu" or getattr(y_pred, "shape", ())[:-1] != y.shape:
        return None
    classes = y_pred.shape[-1]
    return Labels(
        *(0, classes - 1, f"the model gives {classes} scores"),
        "Number the classes from 0, or give the model's last layer more features; if y holds "
        "no classes, give it as floats. A label that is to count for nothing is told by "
        "`fn.objective(loss, ignore=...)`.",
        programs.ignore,
    )


def check_labels(function: str, labels: Labels | None, columns: Columns) -> None:
    """Raises where y is not what `labels` says; examples of weight 0 are passed over."""
    if labels is None:
        return
    y = np.asarray(columns[1])
    if y.min() >= labels.least and y.max() <= labels.most:
        return
    wrong = (y < labels.least) | (y > labels.most)
    if labels.ignore is not None:
        wrong = wrong & (y != labels.ignore)
    if len(columns) == 3:
        wrong = wrong & np.asarray(columns[2] != 0).reshape(-1, *[1] * (wrong.ndim - 1))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"`{function}`: labels must lie in {labels.least} .. {labels.most}, since "
            f"{labels.since}, got {y[place].item()} in row {place[0]} "
            f"({int(wrong.sum())} such labels in all). {labels.fix}"
        )


def where_not_finite(columns: Columns) -> str:
    """A sentence about the first value of the data that is NaN or infinite, if there is one."""
    for path, leaf in tree.paths(dict(zip(("x", "y", "weight"), columns, strict=False))).items():
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            wrong = ~np.isfinite(np.asarray(leaf, np.float32))
            if wrong.any():
                row = int(np.argwhere(wrong)[0][0])
                return (
                    f" The data is not finite: {path} holds {wrong.sum()} such values, "
                    f"the first in row {row}."
                )
    return (
        " `fn.first_nan` names the layer. The data is finite: a smaller learning rate, or clipping "
        "the gradient, may help."
    )
