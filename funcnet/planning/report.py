"""What a plan says: memory, work, traffic, and the time that they take at least."""

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from funcnet import errors
from funcnet.placement import Placement
from funcnet.planning.peaks import Peaks
from funcnet.planning.traffic import Collective
from funcnet.tables import human

BOUNDS = ("compute", "memory", "network")

LAUNCH = 1e-4
"""Seconds below which the least time of a step says nothing: to start it takes about as long."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        params, opt_state, rest, batch: what a step is given, by shape; `rest` is model_state.
        arguments: the same together, as the compiler lays it out.
        output: what comes out.
        aliased: of that, what takes the place of arguments.
        temporaries: what lies between.
        code: the program itself.
        peak: the most at one time; where the program does not fit, what it would need. With `code`
            this is what has to fit.
        available: what there is; None where that is not known.
    """

    params: int
    opt_state: int
    rest: int
    batch: int
    arguments: int
    output: int
    aliased: int
    temporaries: int
    code: int
    peak: int
    available: int | None

    @property
    def fits(self) -> bool | None:
        """Whether there is enough of it; None where that is not known."""
        return None if self.available is None else self.peak + self.code <= self.available


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """What `fn.plan` gives: one training step, compiled and never run. All numbers are a device's.

    Attributes:
        topology: what it was compiled for, in words.
        placement: what lives where.
        batch_size: examples a step, on all devices together.
        tokens: of them, where x is `int (B, T)`; 0 otherwise.
        memory: bytes by kind.
        compiled: whether the compiler finished; it does not where memory is short, and then all
            that follows is unknown and empty.
        flops: operations of matrix products, by dtype, loops as often as they turn.
        needed_flops: of the step as it is written, an equal share of it. More `flops` than that is
            work done several times.
        bytes: moved from and to the main memory.
        collectives: by kind.
        peaks: the rates that times stand on; None where they are not known.
        compile_seconds: what compiling took here.
        again: makes the same plan for another batch size.
    """

    topology: str
    placement: Placement
    batch_size: int
    tokens: int
    memory: Memory
    compiled: bool
    flops: Mapping[str, int]
    needed_flops: int
    bytes: int
    collectives: tuple[Collective, ...]
    peaks: Peaks | None
    compile_seconds: float
    again: Callable[[int], "Plan"]

    @property
    def devices(self) -> int:
        """How many there are."""
        return int(self.placement.mesh.size)

    @property
    def fits(self) -> bool | None:
        """Whether the step fits in a device's memory; None where that is not known."""
        return self.memory.fits

    @property
    def seconds(self) -> dict[str, float]:
        """The least time of a step by what bounds it: `compute`, `memory` and `network`."""
        if self.peaks is None or not self.compiled:
            return {}
        sent = sum(each.sent for each in self.collectives)
        found = {
            "compute": self.peaks.seconds(self.flops),
            "memory": self.bytes / self.peaks.memory,
        }
        if self.peaks.network is not None:
            found["network"] = sent / self.peaks.network
        return found

    @property
    def step_seconds(self) -> float | None:
        """The least time of a step: no step is faster, most are slower. None if unknown."""
        return max(self.seconds.values(), default=None)

    @property
    def bound(self) -> str | None:
        """What bounds it: `compute`, `memory` or `network`."""
        return max(self.seconds, key=self.seconds.__getitem__, default=None)

    @property
    def examples_per_second(self) -> float | None:
        """The most examples a second, on all devices together."""
        return None if not self.step_seconds else self.batch_size / self.step_seconds

    @property
    def tokens_per_second(self) -> float | None:
        """The most tokens a second, on all devices together; None where x is no `int (B, T)`."""
        return None if not (self.step_seconds and self.tokens) else self.tokens / self.step_seconds

    def largest_batch(self, *, within: float = 0.05) -> int:
        """The largest batch that fits: found by compiling for some others, a minute each for large.

        Memory grows nearly in proportion to the batch, so each try is where the ones before say
        that the end lies.

        Args:
            within: the share by which it may be too small.

        Returns:
            A batch size that has been compiled and fits, a multiple of the parts that the placement
            divides a batch into; 0 where not even the smallest does.

        Raises:
            ValueError: it is not known how much memory there is.
        """
        return largest(self, within)

    def __repr__(self) -> str:
        return "\n".join([*heading(self), "", *memory_lines(self.memory), *work_lines(self)])

    def _repr_html_(self) -> str:
        return f"<pre>{self!r}</pre>"


def largest(plan: Plan, within: float) -> int:
    """See `Plan.largest_batch`."""
    if plan.fits is None:
        raise ValueError(
            "`largest_batch`: it must be known how much memory a device has, got a "
            f"{plan.placement.mesh.devices.flat[0].device_kind} without. Plan with "
            "`peaks=Peaks(..., bytes=16 * 2**30)`."
        )
    errors.positive_number("largest_batch", "within", within, say=0.05)
    shares = plan.placement.shares
    good, bad = (plan, None) if plan.fits else (None, plan)
    while bad is None or bad.batch_size > max(shares, (good.batch_size if good else 0)):
        size = next_size(good, bad, shares)
        edge = None if bad is None else bad.batch_size
        low = good.batch_size if good else 0
        if size <= low or (edge is not None and (size >= edge or edge - low <= within * low)):
            break
        tried = plan.again(size)
        good, bad = (tried, bad) if tried.fits else (good, tried)
    return good.batch_size if good else 0


def next_size(good: Plan | None, bad: Plan | None, shares: int) -> int:
    """The batch to try next, where memory says that the end lies if it grows along a line."""
    if bad is None:
        assert good is not None
        guess = max(2.0 * good.batch_size, good.batch_size * room(good))
        return int(guess) // shares * shares
    high, low = bad.batch_size, 0
    if good is None:
        guess = high * min(0.9, room(bad))
    else:
        low = good.batch_size
        slope = (bad.memory.peak - good.memory.peak) / (high - low)
        left = (good.memory.available or 0) - good.memory.peak - good.memory.code
        guess = low + left / slope if slope > 0 else (low + high) / 2
        guess = min(max(guess, 0.9 * low + 0.1 * high), 0.1 * low + 0.9 * high)
    size = int(guess) // shares * shares
    return min(max(size, low + shares), high - shares)


def room(plan: Plan) -> float:
    """How many times what a plan needs there is."""
    memory = plan.memory
    return (memory.available or 0) / (memory.peak + memory.code)


def heading(plan: Plan) -> list[str]:
    """What was planned, and whether it fits."""
    memory = plan.memory
    needs = human(memory.peak + memory.code)
    if memory.available is None:
        verdict = f"needs {needs} on each device"
    elif memory.fits:
        verdict = f"fits: {needs} of {human(memory.available)} on each device"
    else:
        verdict = f"does not fit: needs {needs} of {human(memory.available)} on each device"
    tokens = f" of {plan.tokens:,} tokens" if plan.tokens else ""
    title = f"{plan.topology}, {plan.placement!r}"
    return [
        *textwrap.wrap(title, 100, subsequent_indent="  ", break_on_hyphens=False),
        f"batch {plan.batch_size:,}{tokens}, compiled in {plan.compile_seconds:.0f} s",
        verdict,
    ]


def memory_lines(memory: Memory) -> list[str]:
    """The bytes of each kind, those that are nothing left out."""
    names = ("params", "opt_state", "rest", "batch", "temporaries", "code", "peak")
    found = [(name, getattr(memory, name)) for name in names]
    return [f"  {name:<20}{human(size):>10}" for name, size in found if size]


def work_lines(plan: Plan) -> list[str]:
    """Operations, bytes and collectives, with the time that each takes at least."""
    if not plan.compiled:
        return ["", "What it would do is not known: the compiler stops where memory is short."]
    seconds = plan.seconds
    rows: list[tuple[str, str, str]] = []
    for dtype, count in plan.flops.items():
        rows.append((f"FLOPs in {dtype}", quantity(count), ""))
    if not plan.flops:
        rows.append(("FLOPs", "0", ""))
    total = sum(plan.flops.values())
    if plan.needed_flops and total > 1.1 * plan.needed_flops:
        more = total / plan.needed_flops
        rows.append(("", f"{more:.2f} x", "what the step needs: devices do the same work"))
    rows.append(("bytes moved", human(plan.bytes), ""))
    for each in plan.collectives:
        words = f"{each.count:,} of them, {human(each.sent)} sent"
        rows.append((each.kind, human(each.bytes), words))
    lines = ["", *(f"  {a:<20}{b:>10}  {c}".rstrip() for a, b, c in rows)]
    if seconds:
        lines += [
            "",
            *(time_line(plan, name) for name in BOUNDS if name in seconds),
            total_line(plan),
        ]
    return lines


def time_line(plan: Plan, name: str) -> str:
    """One bound, and whether it is the one that counts."""
    binds = "  <- binds" if name == plan.bound else ""
    return f"  {name:<20}{duration(plan.seconds[name]):>10}{binds}"


def total_line(plan: Plan) -> str:
    """The least time of a step, and what that is a second."""
    assert plan.step_seconds is not None
    assert plan.peaks is not None
    words = [f"at best {duration(plan.step_seconds)} a step"]
    if plan.step_seconds < LAUNCH:
        words.append("which is less than it takes to start one")
    elif plan.examples_per_second:
        words.append(f"{quantity(plan.examples_per_second)} examples a second")
    if plan.step_seconds >= LAUNCH and plan.tokens_per_second:
        words.append(f"{quantity(plan.tokens_per_second)} tokens a second")
    source = f"; rates: {plan.peaks.source}" if plan.peaks.source else ""
    return f"{', '.join(words)}{source}"


def quantity(number: float) -> str:
    """A large number with the letter of its thousands.

    Example:
        >>> quantity(12), quantity(1234), quantity(6.2e14)
        ('12', '1.23 k', '620 T')
    """
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 0.9995 * 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    Example:
        >>> duration(0.0123), duration(2.5e-5), duration(3)
        ('12.3 ms', '25 us', '3 s')
    """
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def row(plan: Plan) -> list[str]:
    """The numbers of a plan as words, for a table of several: see `COLUMNS`."""
    memory = plan.memory
    verdict: dict[Any, str] = {True: "yes", False: "no", None: "?"}
    unknown = "" if plan.compiled else "-"
    step = plan.step_seconds
    rate = plan.tokens_per_second or plan.examples_per_second
    return [
        plan.topology,
        str(plan.devices),
        f"{plan.batch_size:,}",
        verdict[plan.fits],
        human(memory.peak + memory.code),
        unknown or quantity(sum(plan.flops.values())),
        unknown or human(plan.bytes),
        unknown or human(sum(each.sent for each in plan.collectives)),
        "-" if step is None else duration(step),
        plan.bound or "-",
        "-" if rate is None else quantity(rate),
    ]


COLUMNS = (
    *("topology", "devices", "batch", "fits", "memory", "FLOPs", "moved", "sent"),
    *("at best", "bound", "a second"),
)
SIDES = "<" + ">" * (len(COLUMNS) - 1)
