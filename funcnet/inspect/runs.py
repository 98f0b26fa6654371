"""The picture of several runs at once: what `jax.vmap` of a run gives, or an ensemble's members."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from funcnet.inspect.style import (
    TRAIN,
    VALIDATION,
    caption,
    frame,
    grid,
    label_ends,
    new_figure,
    scale,
    title,
)
from funcnet.stopping import Reason
from funcnet.trainer import RunResult
from funcnet.training.watching import is_norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = list[tuple[str, str, np.ndarray]]
"""Label, colour, and values `[runs, epochs]` of the curves of a panel."""


def draw_runs(runs: RunResult) -> "Figure":
    """A panel for each metric with the curves of all runs, and the median at each epoch."""
    runs = flat(runs)
    panels = panels_of(runs)
    rows, columns = grid(len(panels), most=3)
    figure = new_figure("plot", max(4.2 * columns, 5.0), 2.9 * rows + 0.5)
    for i, (name, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        frame(axes, "epoch")
        title(axes, name)
        draw(axes, curves)
    caption(figure, story(runs))
    return figure


def flat(runs: RunResult) -> RunResult:
    """The runs without their states, with one axis of runs in place of several."""
    axes = np.ndim(runs.epochs)
    bare: RunResult = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(-1, *np.shape(leaf)[axes:]),
        dataclasses.replace(runs, best=None, last=None),  # type: ignore[arg-type] # not drawn
    )
    return bare


def panels_of(runs: RunResult) -> dict[str, Curves]:
    """The curves of each panel by name; values after a run's last epoch are NaN."""
    epochs = np.asarray(runs.epochs)
    scalars: dict[str, np.ndarray] = {}
    for name, values in runs.history.items():
        if values.ndim == 2 and not (is_norm(name) and "/" in name):
            left = np.arange(values.shape[1]) >= epochs[:, None]
            scalars[name] = np.where(left, np.nan, np.asarray(values, float))
    if not scalars or not epochs.max():
        raise ValueError(
            "`plot`: runs must hold at least one epoch, got none in any of them. See `runs.reason`."
        )
    names = sorted(scalars, key=lambda name: (name.removeprefix("val_") != "loss", name))
    panels: dict[str, Curves] = {}
    for name in dict.fromkeys(name.removeprefix("val_") for name in names):
        twins = (name, "train", TRAIN), (f"val_{name}", "validation", VALIDATION)
        found = [(label, color, scalars[key]) for key, label, color in twins if key in scalars]
        panels[name] = found if len(found) > 1 else [("", *found[0][1:])]
    return panels


def draw(axes: "Axes", curves: Curves) -> None:
    """The curves of a panel: thin ones of the runs, a thick one of their median."""
    from matplotlib.ticker import MaxNLocator

    scale(axes, [values.ravel() for *_, values in curves])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    ends: list[tuple[Any, str, str]] = []
    for label, color, values in curves:
        where = np.arange(1, values.shape[1] + 1)
        finite = np.where(np.isfinite(values), values, np.nan)
        marker = "o" if len(where) == 1 else ""
        thin = max(0.08, min(0.5, 4 / len(values)))
        axes.plot(where, finite.T, color=color, linewidth=0.8, alpha=thin, marker=marker)
        middle = medians(finite)
        axes.plot(where, middle, color=color, linewidth=2, marker=marker)
        known = middle[np.isfinite(middle)]
        ends += [(known[-1], label, color)] if len(known) else []
    label_ends(axes, ends, gap=0.09)


def medians(values: np.ndarray) -> np.ndarray:
    """The median at each epoch of the runs that have a finite value there, NaN where none has."""
    found = np.full(values.shape[1], np.nan)
    some = np.isfinite(values).any(0)
    found[some] = np.nanmedian(values[:, some], axis=0)
    return found


def story(runs: RunResult) -> str:
    """How many runs there are, how long they are, and what the lines mean."""
    epochs, reasons = np.asarray(runs.epochs), np.asarray(runs.reason)
    least, most = int(epochs.min()), int(epochs.max())
    length = f"{most}" if least == most else f"{least} to {most}"
    words = f"{len(epochs)} runs of {length} epoch{'s' * (most > 1)}. "
    words += "Thick lines are medians of the runs that have come so far."
    broken = int((reasons == Reason.NON_FINITE.value).sum())
    if broken:
        words += f" {broken} broke off: a loss or a param was not finite."
    return words
