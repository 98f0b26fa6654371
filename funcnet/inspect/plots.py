"""`plot`: the picture of a finished training, or of whatever value has one; matplotlib is lazy."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from funcnet import errors
from funcnet.inspect.runs import draw_runs
from funcnet.inspect.style import (
    GREY,
    PALE,
    SERIES,
    TRAIN,
    VALIDATION,
    frame,
    grid,
    label_ends,
    new_figure,
    spans_decades,
    title,
)
from funcnet.stopping import Reason
from funcnet.tables import shortened
from funcnet.trainer import Result, RunResult, Trainer
from funcnet.training.watching import is_norm
from funcnet.types import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALL_MARKED = 40
"""The most epochs that each get a marker; beyond it only those without a neighbour do."""


class Curve(NamedTuple):
    """A line of a panel: its label, its colour, and a value for each epoch."""

    label: str
    color: str
    values: np.ndarray


def plot(value: Any) -> "Figure":
    """Draws a value of funcnet's own: what a fit, a run, a study, `graph`, `describe` gives.

    | a value of | shows |
    | --- | --- |
    | `Trainer.fit` | loss and metrics over the epochs, each with its validation twin |
    | `make_run`'s run | the same; of several runs all curves, and their medians |
    | `sweep` | the metric over each hyperparameter |
    | `ensemble` | the curves of its members |
    | `cross_validate`, `learning_curve`, `bias_variance` | scores with their standard errors |
    | `lr_range` | the loss over the learning rate |
    | `graph` | the operations, and the arrays between them |
    | `describe` | which device has which part of each array |
    | `plan_scaling` | the least time of a step by the number of devices |

    Of a fit, the best epoch is marked in all panels, and circled in that of the monitored value; so
    is the last one if training stopped before its time. An epoch whose value is not finite has a
    cross at the upper edge. An axis is logarithmic where its values span more than a factor of
    1,000. A run that ended within its first epoch shows the loss of each step. Entries of the
    history that are not one number an epoch are left out. Norms of `fn.watched` have a panel for
    each kind, with a line for each array; more than six are grey.

    What is no value of funcnet's own has a function of its own: `fn.plot_confusion`,
    `fn.plot_histograms` for params and gradients, `fn.plot_examples` for data and predictions,
    `fn.plot_schedule` for learning rates.

    Args:
        value: one of the table, or any value with a method `plot()` that gives a figure.

    Returns:
        The figure, which no pyplot knows: save it with `figure.savefig("training.png")`. A
        notebook shows it.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `value` has no picture.
        ValueError: there is nothing to draw, for no step was taken.

    Example:
        >>> import jax.numpy as jnp, optax, funcnet as fn
        >>> x = jnp.linspace(0, 1, 32)[:, None]
        >>> trainer = fn.Trainer(fn.dense(1), loss=optax.squared_error, optimizer=optax.sgd(0.1))
        >>> result = trainer.fit((x, 2 * x), validation=0.25, epochs=5, batch_size=8)
        >>> [axes.get_title(loc="left") for axes in fn.plot(result).axes]
        ['loss']
    """
    if isinstance(value, RunResult):
        if np.shape(value.epochs):
            return draw_runs(value)
        value = value.as_result()
    if isinstance(value, Result):
        return draw_result(value)
    if not callable(getattr(value, "plot", None)):
        raise without_picture(value)
    figure: Figure = value.plot()
    return figure


def without_picture(value: Any) -> TypeError:
    """The error for a value that can't be drawn, with what might have been meant."""
    if isinstance(value, Model):
        remedy = "Print `fn.summary(model, x)`, or draw `fn.graph(model.apply, params, ...)`."
    elif isinstance(value, Trainer):
        remedy = "Train first, `result = trainer.fit(...)`, then `fn.plot(result)`."
    elif callable(value):
        remedy = "A schedule is drawn by `fn.plot_schedule`, any other function by `fn.graph`."
    else:
        remedy = (
            "Arrays are drawn by `fn.plot_histograms`, `fn.plot_examples` and `fn.plot_confusion`."
        )
    return TypeError(
        "`plot`: value must be what `Trainer.fit` gives back, or have a picture of its own, got "
        f"{shortened(errors.describe(value), 120)}. {remedy}"
    )


def draw_result(result: Result) -> "Figure":
    """Loss and metrics over the epochs, one panel for each with its validation twin."""
    panels, unit = panels_of(result)
    rows, columns = grid(len(panels), most=3)
    figure = new_figure("plot", max(4.2 * columns, 5.0), 2.9 * rows + 0.5)
    for i, (name, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        draw(axes, curves, first=int(unit == "epoch"))
        title(axes, name, pad=20)
        axes.set_xlabel(unit, color=GREY)
        if unit == "epoch":
            circle_best(axes, result, name, curves)
            mark_ends(axes, result, len(curves[0].values))
    words = textwrap.fill(story(result, panels, unit), int(15 * figure.get_figwidth()))
    figure.suptitle(words, x=0.01, ha="left", fontsize=9, color=GREY, parse_math=False)
    return figure


def panels_of(result: Result) -> tuple[dict[str, list[Curve]], str]:
    """The curves of each panel by name, and what their horizontal axis counts."""
    scalars = {
        name: np.asarray(values, float)
        for name, values in result.history.items()
        if np.ndim(values) == 1 and len(values)
    }
    if scalars:
        kinds = dict.fromkeys(name.partition("/")[0] for name in scalars if is_norm(name))
        names = dict.fromkeys(name.removeprefix("val_") for name in scalars if not is_norm(name))
        last = [name for name in names if name == "learning_rate"]
        ordered = [name for name in names if name not in last] + last
        panels = {name: pair(name, scalars) for name in ordered}
        return panels | {kind: norms_of(kind, scalars) for kind in kinds}, "epoch"
    if len(result.losses):
        return {"loss": [Curve("", TRAIN, np.asarray(result.losses, float))]}, "step"
    raise ValueError(
        "`plot`: a result must hold at least one step, got an empty history and no losses. "
        "Train for one step at least."
    )


def pair(name: str, scalars: Mapping[str, np.ndarray]) -> list[Curve]:
    """The curves of one panel, labelled where validation is among them."""
    twin = f"val_{name}"
    label = "train" if twin in scalars else ""
    curves = [Curve(label, TRAIN, scalars[name])] if name in scalars else []
    if twin in scalars:
        curves.append(Curve("validation", VALIDATION, scalars[twin]))
    return curves


def norms_of(kind: str, scalars: Mapping[str, np.ndarray]) -> list[Curve]:
    """The norms of one kind: of each array by its path, grey if they are many, and of all."""
    paths = [name for name in scalars if name.startswith(f"{kind}/")]
    curves = [
        Curve(shortened(path.removeprefix(f"{kind}/"), 20), color, scalars[path])
        for path, color in zip(paths, SERIES[1:], strict=False)
    ]
    if len(paths) >= len(SERIES):
        curves = [Curve("", PALE, scalars[path]) for path in paths]
    if kind in scalars:
        curves.append(Curve("all" if paths else "", TRAIN, scalars[kind]))
    return curves


def draw(axes: "Axes", curves: list[Curve], first: int) -> None:
    """Draws the curves of a panel from position `first` on, with their labels at their ends."""
    values = np.concatenate([curve.values for curve in curves])
    finite = values[np.isfinite(values)]
    clean(axes, first, first + max(len(curve.values) for curve in curves) - 1)
    if spans_decades(values):
        axes.set_yscale("log")
    for curve in curves:
        draw_curve(axes, curve, first)
    if not len(finite):
        axes.set_yticks([])
    axes.set_ylim(axes.get_ylim())
    axes.minorticks_off()
    label_ends(axes, ends_of(curves), gap=0.09)


def clean(axes: "Axes", first: int, last: int) -> None:
    """Leaves of the frame what is read, with whole numbers below."""
    from matplotlib.ticker import MaxNLocator

    frame(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    margin = 0.03 * (last - first) or 0.5
    axes.set_xlim(first - min(margin, 0.9), last + margin)


def draw_curve(axes: "Axes", curve: Curve, first: int) -> None:
    """Draws one line, with gaps and crosses where it is not finite."""
    where = np.arange(first, first + len(curve.values))
    finite = np.isfinite(curve.values)
    edged = np.pad(finite, 1)
    marked = finite & ~(edged[:-2] | edged[2:]) if len(where) > ALL_MARKED else finite
    values = np.where(finite, curve.values, np.nan)
    marks = np.flatnonzero(marked).tolist()
    axes.plot(
        where, values, color=curve.color, linewidth=1.6, marker="o", markersize=3.5,
        markevery=marks, clip_on=False,
    )  # fmt: skip
    height = 0.98 if curve.color == TRAIN else 0.93
    axes.plot(
        where[~finite], np.full((~finite).sum(), height), color=curve.color, linestyle="none",
        marker="x", markersize=5, transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def ends_of(curves: list[Curve]) -> list[tuple[Any, str, str]]:
    """The last finite value of each curve, with its label and its colour."""
    known = [(curve, curve.values[np.isfinite(curve.values)]) for curve in curves]
    return [(values[-1], curve.label, curve.color) for curve, values in known if len(values)]


def circle_best(axes: "Axes", result: Result, name: str, curves: list[Curve]) -> None:
    """Circles the best value, where it is on one of these curves."""
    color = VALIDATION if result.monitor.startswith("val_") else TRAIN
    if result.best_epoch is None or result.monitor.removeprefix("val_") != name:
        return
    for curve in curves:
        if curve.color == color:
            axes.plot(
                result.best_epoch + 1, curve.values[result.best_epoch], marker="o", markersize=9,
                fillstyle="none", color=color, clip_on=False,
            )  # fmt: skip


def mark_ends(axes: "Axes", result: Result, last: int) -> None:
    """Marks the best epoch, and the last one where training stopped before its time."""
    marks: dict[int, list[str]] = {}
    if result.best_epoch is not None:
        marks[result.best_epoch + 1] = ["best"]
    if result.reason != Reason.EPOCHS:
        marks.setdefault(last, []).append("stop")
    for epoch, words in marks.items():
        axes.axvline(epoch, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
        near = words == ["best"] and last in marks and 0 < last - epoch < 0.15 * last
        axes.text(
            epoch, 1.03, ", ".join(words), transform=axes.get_xaxis_transform(), color=GREY,
            fontsize=8, ha="right" if near else "center",
        )  # fmt: skip


def story(result: Result, panels: Mapping[str, list[Curve]], unit: str) -> str:
    """Why training stopped, what was best and what the crosses are, in a line or two."""
    curves = [curve for panel in panels.values() for curve in panel]
    end = len(curves[0].values)
    words = f"Stopped after {end} {unit}{'s' * (end > 1)}: {result.message.rstrip('.')}."
    if result.best_epoch is not None:
        best = float(result.history[result.monitor][result.best_epoch])
        words += f" Best {result.monitor} {best:.4g} at epoch {result.best_epoch + 1}."
    if not all(np.isfinite(curve.values).all() for curve in curves):
        words += " Crosses mark values that are not finite."
    return words
