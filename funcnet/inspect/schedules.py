"""`plot_schedule`: a learning rate over the steps of a training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.inspect.style import (
    GREY,
    SERIES,
    caption,
    frame,
    label_ends,
    new_figure,
    spans_decades,
)
from funcnet.tables import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE = 20_000
"""The most steps that are all looked at; of more that many are, evenly."""

SPARSE = 500
"""The same for a schedule that must be called for each step by itself."""


def plot_schedule(schedule: Any, steps: int, *, name: str = "learning rate") -> "Figure":
    """Draws a schedule of optax, or several, over the steps at which an optimizer asks for it.

    The axis is logarithmic where values span more than a factor of 1,000.

    Args:
        schedule: `schedule(step) -> value`, from `optax.cosine_decay_schedule` say; or a number,
            which stays the same; or a dict of them by name.
        steps: how many, from step 0 on.
        name: what the values are, which stands beside the axis.

    Returns:
        The figure, which no pyplot knows: save it with `figure.savefig("schedule.png")`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: a schedule is neither a function nor a number; `steps` is no whole number.
        ValueError: there is none; one gives more than one number a step; `steps` is below 1.

    Example:
        >>> import optax, funcnet as fn
        >>> from funcnet.inspect import plot_schedule
        >>> warm = optax.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=10, decay_steps=100)
        >>> figure = plot_schedule({"cosine": warm, "constant": 0.03}, steps=100)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['cosine', 'constant']
    """
    errors.positive("plot_schedule", steps=steps)
    named = schedule if isinstance(schedule, Mapping) else {"": schedule}
    if not named:
        raise ValueError(
            "`plot_schedule`: schedule must hold at least one, got an empty dict. "
            'Say `{"cosine": optax.cosine_decay_schedule(0.1, 1000)}`.'
        )
    lines = {str(label): values_of(str(label), each, steps) for label, each in named.items()}
    figure = new_figure("plot_schedule", 6.4, 3.4)
    axes = figure.add_subplot()
    frame(axes, "step")
    axes.set_ylabel(name, color=GREY, parse_math=False)
    if spans_decades(np.concatenate([values for _, values in lines.values()])):
        axes.set_yscale("log")
    ends = []
    for i, (label, (where, values)) in enumerate(lines.items()):
        color, style = SERIES[i % len(SERIES)], ("-", "--", ":")[i // len(SERIES) % 3]
        marker = "o" if len(where) == 1 else ""
        axes.plot(where, values, color=color, linewidth=1.6, linestyle=style, marker=marker)
        known = values[np.isfinite(values)]
        words = shortened(label, 28) + ("" if len(known) or not label else " (not finite)")
        ends.append((known[-1] if len(known) else 0.0, words, color))
    label_ends(axes, ends, gap=0.075)
    caption(figure, story(lines))
    return figure


def values_of(label: str, schedule: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the values there."""
    number = isinstance(schedule, int | float | np.number | jax.Array) and not np.ndim(schedule)
    if not (number or callable(schedule)) or isinstance(schedule, bool):
        named = f" for {label!r}" if label else ""
        raise TypeError(
            "`plot_schedule`: schedule must be a function of the step, a number, or a dict of "
            f"them, got {errors.describe(schedule)}{named}. Give the schedule, not the optimizer "
            "made with it."
        )
    where = np.unique(np.linspace(0, steps - 1, min(steps, DENSE)).astype(np.int32))
    if number:
        return where, np.full(len(where), float(schedule))
    try:
        found = jax.vmap(schedule)(jnp.asarray(where))
    except jax.errors.JAXTypeError:  # it asks for the step in Python: call it step by step
        where = where[np.linspace(0, len(where) - 1, min(len(where), SPARSE)).astype(int)]
        found = np.stack([np.asarray(schedule(int(step)), float) for step in where])
    values = np.broadcast_to(np.asarray(found, float), (len(where), *np.shape(found)[1:]))
    if values.ndim != 1:
        raise ValueError(
            "`plot_schedule`: a schedule must give one number a step, got "
            f"{errors.describe(values[0])}. Draw its parts one by one."
        )
    return where, values


def story(lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Where each schedule begins, is highest and ends."""
    words = []
    for label, (where, values) in lines.items():
        named = f"{label}: " if label else ""
        if not np.isfinite(values).any():
            words.append(f"{named}no finite value.")
            continue
        top = int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))
        if values[0] == values[top] == values[-1] and values.min() == values.max():
            words.append(f"{named}{values[0]:.3g} throughout.")
            continue
        peak = f", {values[top]:.3g} at step {where[top]:,}" if 0 < top < len(where) - 1 else ""
        words.append(
            f"{named}{values[0]:.3g} at first{peak}, {values[-1]:.3g} at step {where[-1]:,}."
        )
    crosses = [label for label, (_, values) in lines.items() if not np.isfinite(values).all()]
    return " ".join(words[:4]) + (" Gaps are not finite." if crosses else "")
