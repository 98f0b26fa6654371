"""What is refused before anything is trained, with words for the user."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.data.arrays import Columns, rows
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


def check_labels(function: str, programs: Programs, state: Any, columns: Columns) -> None:
    """Raises where integer labels lie outside the classes that the model predicts.

    Labels are taken to be classes where the trainer has a `loss`, y holds integers, and y_pred has
    one axis more. Examples of weight 0 are passed over.
    """
    y = columns[1]
    if programs.loss is None or not hasattr(y, "dtype") or y.dtype.kind not in "iu":
        return
    one = tree.spec(rows(columns, slice(0, 1)))
    y_pred = programs.output(state, one[0])
    if getattr(y_pred, "shape", ())[:-1] != one[1].shape:
        return
    classes = y_pred.shape[-1]
    y = np.asarray(y)
    if y.min() >= 0 and y.max() < classes:
        return
    wrong = (y < 0) | (y >= classes)
    if len(columns) == 3:
        wrong = wrong & np.asarray(columns[2] != 0).reshape(-1, *[1] * (wrong.ndim - 1))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"`{function}`: labels must lie in 0 .. {classes - 1}, since the model gives {classes} "
            f"scores, got {int(np.asarray(y)[place])} in row {place[0]} "
            f"({int(wrong.sum())} such labels in all). "
            "Number the classes from 0, or give the model's last layer more features; if y holds "
            "no classes, give it as floats."
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
    return " The data is finite: a smaller learning rate, or clipping the gradient, may help."
