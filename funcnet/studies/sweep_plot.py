"""The picture of a sweep: its metric over each hyperparameter."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnet.inspect.style import (
    GREY,
    PALE,
    TRAIN,
    VALIDATION,
    frame,
    grid,
    new_figure,
    title,
)
from funcnet.stopping import Reason
from funcnet.studies.ledger import Trial
from funcnet.studies.space import Choices, Range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from funcnet.studies.swept import Sweep

GOLDEN = (math.sqrt(5) - 1) / 2


def draw_sweep(swept: "Sweep") -> "Figure":
    """Draws the metric over each hyperparameter, a panel for each; see `fn.plot`."""
    names = list(swept.space)
    rows, columns = grid(len(names), most=4)
    figure = new_figure("plot", max(3.1 * columns + 0.4, 5.0), 2.9 * rows + 0.6)
    first = None
    for i, name in enumerate(names):
        first = axes = figure.add_subplot(rows, columns, i + 1, sharey=first)
        frame(axes)
        title(axes, name)
        draw(axes, swept, name)
        if i % columns:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel(swept.metric, color=GREY)
    if first is not None:
        fit_height(first, np.array([trial.value for trial in swept.trials]))
    words = textwrap.fill(story(swept), int(15 * figure.get_figwidth()))
    figure.suptitle(words, x=0.01, ha="left", fontsize=9, color=GREY, parse_math=False)
    return figure


def draw(axes: "Axes", swept: "Sweep", name: str) -> None:
    """Draws all trials over one hyperparameter."""
    part = swept.space[name]
    at = {trial.number: swept.points[trial.number][name] for trial in swept.trials}
    if isinstance(part, Choices):
        write_choices(axes, part)
        if not any(halved(trial) for trial in swept.trials):
            draw_medians(axes, swept.trials, at)
        at = {number: index + beside(number) for number, index in at.items()}
    else:
        write_range(axes, part)
    good = [trial for trial in swept.trials if np.isfinite(trial.value)]
    draw_dots(axes, [trial for trial in good if halved(trial)], at, PALE)
    draw_dots(axes, [trial for trial in good if not halved(trial)], at, TRAIN)
    broken = [at[trial.number] for trial in swept.trials if not np.isfinite(trial.value)]
    axes.plot(
        broken, [0.99] * len(broken), color=GREY, linestyle="none", marker="x", markersize=5,
        transform=axes.get_xaxis_transform(), clip_on=False, in_layout=False,
    )  # fmt: skip
    if good:
        axes.plot(
            at[swept.best.number], swept.best.value, color=VALIDATION, marker="o", markersize=11,
            markeredgewidth=1.6, fillstyle="none", clip_on=False, in_layout=False, zorder=4,
        )  # fmt: skip


def halved(trial: Trial) -> bool:
    """Whether successive halving stopped it."""
    return trial.reason == Reason.LIMIT


def draw_dots(axes: "Axes", trials: Sequence[Trial], at: dict[int, Any], color: str) -> None:
    """A dot for each trial."""
    axes.plot(
        [at[trial.number] for trial in trials], [trial.value for trial in trials], color=color,
        linestyle="none", marker="o", markersize=5.5, markeredgewidth=0.6, markeredgecolor="white",
        clip_on=False, in_layout=False, zorder=3 if color == TRAIN else 2,
    )  # fmt: skip


def draw_medians(axes: "Axes", trials: Sequence[Trial], at: dict[int, int]) -> None:
    """A line at the median of each choice."""
    for index in sorted(set(at.values())):
        values = [trial.value for trial in trials if at[trial.number] == index]
        finite = [value for value in values if np.isfinite(value)]
        if len(finite) > 2:
            axes.hlines(
                np.median(finite), index - 0.35, index + 0.35, color=TRAIN, alpha=0.45, linewidth=2
            )


def beside(number: int) -> float:
    """How far beside its choice a trial stands, so that dots don't hide each other."""
    return 0.5 * (number * GOLDEN % 1 - 0.5)


def write_choices(axes: "Axes", part: Choices) -> None:
    """Names the choices below the axis."""
    words = [short(each) for each in part.labels]
    wide = max(map(len, words)) * len(words) > 30
    axes.set_xticks(
        range(len(words)), words, rotation=30 * wide, ha="right" if wide else "center",
        rotation_mode="anchor", parse_math=False,
    )  # fmt: skip
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(words) - 0.5)


def short(value: Any) -> str:
    """A choice in 16 characters at most."""
    words = f"{value:.4g}" if isinstance(value, float) else str(value)
    return words if len(words) <= 16 else words[:15] + "…"


def write_range(axes: "Axes", part: Range) -> None:
    """Sets the axis of a range: logarithmic if its draws are."""
    if part.log:
        margin = (part.high / part.low) ** 0.04
        axes.set_xscale("log")
        axes.set_xlim(part.low / margin, part.high * margin)
        return
    margin = 0.04 * (part.high - part.low)
    axes.set_xlim(part.low - margin, part.high + margin)


def fit_height(axes: "Axes", values: np.ndarray) -> None:
    """Sets the shared axis of the metric: logarithmic where it spans more than a factor of 5."""
    from matplotlib.ticker import LogFormatter, LogLocator, StrMethodFormatter

    finite = values[np.isfinite(values)]
    if not len(finite):
        axes.set_yticks([])
        return
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.6g}"))
    if finite.min() > 0 and finite.max() > 5 * finite.min():
        axes.set_yscale("log")
        few = finite.max() < 1000 * finite.min()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.6g}"))
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(0, 0)))


def story(swept: "Sweep") -> str:
    """Which trial was best, and what the colours and marks are, in a line or two."""
    trials = swept.trials
    n, lost = len(trials), sum(not np.isfinite(trial.value) for trial in trials)
    words = f"{n} trial{'s' * (n > 1)}."
    if lost < n:
        best = swept.best
        at = ", ".join(f"{name} {short(value)}" for name, value in swept.labels(best).items())
        words += f" Best {swept.metric} {best.value:.4g} in trial {best.number}: {at}."
    if any(map(halved, trials)):
        words += " Grey ones were stopped by successive halving."
    elif any(isinstance(each, Choices) for each in swept.space.values()):
        words += " Lines are medians."
    if lost:
        words += " Crosses mark values that are not finite."
    return words
