"""`plan_scaling`: the same training on slices of several sizes, as a table and as a picture."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax

from funcnet.inspect.style import GREY, TRAIN, VALIDATION, new_figure
from funcnet.planning.making import Where, batch_of, plan
from funcnet.planning.peaks import Peaks
from funcnet.planning.report import COLUMNS, SIDES, Plan, row
from funcnet.planning.topologies import devices_of
from funcnet.tables import in_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from funcnet.trainer import Trainer


@dataclasses.dataclass(frozen=True, repr=False)
class Scaling:
    """What `fn.plan_scaling` gives; its `str` is two tables, and `plot` draws them.

    Attributes:
        strong: a plan for each topology, with one batch for all.
        weak: the same with a batch that grows with the devices.
    """

    strong: tuple[Plan, ...]
    weak: tuple[Plan, ...]

    def __repr__(self) -> str:
        parts = {
            "strong scaling: the same batch on all": self.strong,
            "weak scaling: the same batch on each device": self.weak,
        }
        return "\n\n".join(f"{title}\n{table(plans)}" for title, plans in parts.items())

    def _repr_html_(self) -> str:
        return f"<pre>{self!r}</pre>"

    def plot(self) -> "Figure":
        """The least time of a step, and the most examples a second, against perfect scaling."""
        figure = new_figure("plan_scaling", 9.0, 3.6)
        left, right = figure.subplots(1, 2)
        times = [each.step_seconds for each in self.strong]
        rates = [each.examples_per_second for each in self.weak]
        draw(left, self.strong, times, "strong scaling: one batch", "least seconds a step", -1)
        draw(right, self.weak, rates, "weak scaling: one batch a device", "examples a second", 1)
        return figure


def plan_scaling(
    trainer: "Trainer",
    shapes: Any,
    topologies: Sequence[Any],
    *,
    placement: Where | None = None,
    batch_size: int | None = None,
    peaks: Peaks | None = None,
) -> Scaling:
    """Plans one training for several topologies: with one batch for all, and with a growing one.

    Args:
        trainer: what would be trained.
        shapes: a batch, as `fn.plan` takes it.
        topologies: as `fn.plan` takes them, from the smallest on: `["v5e:2x2", "v5e:4x4"]`.
        placement: as in `fn.plan`.
        batch_size: examples a batch, those of `shapes` unless given. Where the batch grows, the
            smallest topology has this one.
        peaks: as in `fn.plan`.

    Returns:
        The plans of both, `strong` and `weak`.

    Raises:
        TypeError, ValueError: as in `fn.plan`, or there is no topology.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> from funcnet.planning import Peaks, plan_scaling
        >>> trainer = fn.Trainer(
        ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1)
        ... )
        >>> x = jax.ShapeDtypeStruct((64, 1), "float32")
        >>> found = plan_scaling(trainer, (x, x), [jax.devices()[:1]])
        >>> [made.batch_size for made in found.weak]
        [64]
    """
    if isinstance(topologies, str) or not isinstance(topologies, Sequence) or not topologies:
        raise TypeError(
            "`plan_scaling`: topologies must be a list of them, one or more, got "
            f"{topologies!r}. Say `['v5e:2x2', 'v5e:4x4']`."
        )
    first = len(jax.tree.leaves(batch_of(shapes, batch_size))[0])
    counts = [len(devices_of("plan_scaling", each) or jax.devices()) for each in topologies]

    def at(topology: Any, size: int) -> Plan:
        return plan(
            trainer, shapes, topology=topology, placement=placement, batch_size=size, peaks=peaks
        )

    strong = tuple(at(topology, first) for topology in topologies)
    sizes = [first * count // min(counts) for count in counts]
    weak = tuple(
        made if size == first else at(topology, size)
        for made, topology, size in zip(strong, topologies, sizes, strict=True)
    )
    return Scaling(strong, weak)


def table(plans: Sequence[Plan]) -> str:
    """A line for each plan, in columns."""
    return "\n".join(in_columns([COLUMNS, None, *map(row, plans)], SIDES))


def draw(
    axes: "Axes",
    plans: Sequence[Plan],
    values: Sequence[float | None],
    title: str,
    label: str,
    power: int,
) -> None:
    """Values by the number of devices, and `devices ** power`; crosses where it does not fit."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("devices", color=GREY)
    axes.set_ylabel(label, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    known = [(each, value) for each, value in zip(plans, values, strict=True) if value]
    if known:
        devices, heights = [each.devices for each, _ in known], [value for _, value in known]
        perfect = [heights[0] * (count / devices[0]) ** power for count in devices]
        axes.plot(devices, perfect, color=GREY, linestyle=":", linewidth=1, label="perfect")
        axes.plot(devices, heights, color=TRAIN, marker="o", markersize=5, label="at best")
    for each, value in known:
        axes.annotate(
            each.bound or "", (each.devices, value), xytext=(4, 5),
            textcoords="offset points", color=GREY, fontsize=8,
        )  # fmt: skip
    short = [each.devices for each in plans if each.fits is False]
    if short:
        height = known[0][1] if known else 1.0
        axes.plot(short, [height] * len(short), "x", color=VALIDATION, label="does not fit")
    axes.set_xticks([each.devices for each in plans], [str(each.devices) for each in plans])
    axes.minorticks_off()
    if known or short:
        axes.legend(frameon=False, fontsize=8)
