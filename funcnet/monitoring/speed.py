"""How fast a training is: examples and tokens a second, and what share of the device's peak."""

import dataclasses
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.inspect.flops import count, operations
from funcnet.planning.peaks import Peaks, peaks_of
from funcnet.trainer.callbacks import Callback, Event
from funcnet.trainer.checks import check_state
from funcnet.types import Metrics

if TYPE_CHECKING:
    from funcnet.trainer.trainer import Trainer


class Speed(NamedTuple):
    """What has been timed of an epoch so far.

    Attributes:
        step: at the last event.
        last: when that was, in seconds of a clock; None before the first chunk, which compiles.
        seconds, steps, examples: of the chunks that count.
        work: operations of a step by dtype, where they are known.
        peaks: the rates of a device, where they are known.
        devices: how many there are.
    """

    step: int
    last: float | None = None
    seconds: float = 0.0
    steps: int = 0
    examples: int = 0
    work: dict[str, int] | None = None
    peaks: Peaks | None = None
    devices: int = 1


def throughput(
    trainer: "Trainer | None" = None,
    *,
    tokens: int | None = None,
    peak: float | Peaks | None = None,
) -> Callback:
    """Times the training, and adds what it finds to the values that callbacks after it see.

    So it comes first: `callbacks=[fn.throughput(trainer), fn.tensorboard("runs/a")]`. The progress
    bar shows it too, and a function of one's own finds it in `event.metrics`:

    | name | is |
    | --- | --- |
    | `seconds_per_step` | the mean over the epoch |
    | `examples_per_second` | of all devices together |
    | `tokens_per_second` | with `tokens` |
    | `flops_per_second` | with a trainer: operations of its step, over the time |
    | `utilisation` | the share of that which the devices can do at most, where it is known |

    The time of an epoch is that between its first step and its last: preparing batches, saving
    and other callbacks count, validation does not. The first call of the compiled program, which
    waits for its compilation, is left out: where an epoch has no other, its values are NaN. They
    are not part of the history, which is the same each time a run is repeated.

    Operations on floats are counted by rule from shapes, as in `fn.summary`, those of the backward
    pass and the optimizer with them. The least time that they could take is that of `peak`.

    Args:
        trainer: whose step to count the operations of; nothing is compiled for it.
        tokens: of each example, in a model of sequences.
        peak: operations a second of one device; or its `fn.planning.Peaks`. Unless given, what
            the table of the planner has for the device; it has none for a CPU.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Example:
        >>> import jax.numpy as jnp, optax, funcnet as fn
        >>> from funcnet.monitoring import throughput
        >>> trainer = fn.Trainer(
        ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1)
        ... )
        >>> seen = []
        >>> x = jnp.ones((8, 1))
        >>> callbacks = [throughput(trainer), lambda event: seen.append(event.metrics)]
        >>> _ = trainer.fit((x, x), epochs=3, batch_size=4, callbacks=callbacks)
        >>> [name for name in seen[-1] if name != "loss"]
        ['seconds_per_step', 'examples_per_second', 'flops_per_second']
        >>> seen[-1]["examples_per_second"] > 0
        True
    """
    if trainer is not None and not hasattr(trainer, "programs"):
        raise TypeError(
            f"`throughput`: trainer must be a fn.Trainer, got {errors.describe(trainer)}. "
            "Say `fn.throughput(trainer)`, or leave it out."
        )
    if tokens is not None:
        errors.positive("throughput", tokens=tokens)
    if peak is not None and not isinstance(peak, Peaks):
        errors.positive_number("throughput", "peak", peak, say=1e12)
    if peak is not None and trainer is None:
        raise ValueError(
            "`throughput`: peak needs the trainer whose operations are to be counted, got none. "
            "Say `fn.throughput(trainer, peak=...)`."
        )

    def update(memory: tuple[Speed, Metrics], event: Event) -> tuple[Speed, Metrics]:
        """Memory: what has been timed, and what this event is to have of it."""
        if event.kind == "start":
            return begun(trainer, peak, event), {}
        speed, _ = memory
        if event.kind == "end":
            return speed, {}
        if event.kind == "chunk":
            speed = timed(speed, event)
            return speed, told(speed, tokens)
        return fresh(speed, event), told(speed, tokens)

    return Callback(lambda: (Speed(0), {}), update, adds=lambda memory: memory[1])


def begun(trainer: "Trainer | None", peak: float | Peaks | None, event: Event) -> Speed:
    """What is known of a fit before its first step."""
    devices = devices_of(event.state)
    if isinstance(peak, Peaks) or peak is None:
        peaks = peak or peaks_of(devices[0])
    else:
        peaks = Peaks({"any": float(peak)}, memory=math.inf)
    work = None if trainer is None or trainer.eager else work_of(trainer, event)
    return Speed(event.step, work=work, peaks=peaks, devices=len(devices))


def timed(speed: Speed, event: Event) -> Speed:
    """The same after a chunk; the first one, which waits for its compilation, does not count."""
    now = time.perf_counter()
    steps = event.step - speed.step
    found = speed._replace(step=event.step, last=now)
    if speed.last is None:
        return found
    return found._replace(
        seconds=speed.seconds + now - speed.last,
        steps=speed.steps + steps,
        examples=speed.examples + steps * size_of(event.batch),
    )


def fresh(speed: Speed, event: Event) -> Speed:
    """The same at the beginning of an epoch, whose time begins now."""
    return speed._replace(
        step=event.step, last=time.perf_counter(), seconds=0.0, steps=0, examples=0
    )


def told(speed: Speed, tokens: int | None) -> Metrics:
    """The values of an epoch so far by name; NaN where nothing has been timed."""
    seconds = speed.seconds if speed.steps else math.nan
    per_step = seconds / max(speed.steps, 1)
    found = {"seconds_per_step": per_step, "examples_per_second": speed.examples / seconds}
    if tokens is not None:
        found["tokens_per_second"] = speed.examples * tokens / seconds
    if speed.work is not None:
        found["flops_per_second"] = sum(speed.work.values()) / per_step
        if speed.peaks is not None:
            least = speed.peaks.seconds(speed.work) / speed.devices
            found["utilisation"] = least / per_step
    return found


def size_of(batch: Any) -> int:
    """Examples of a batch."""
    return int(jax.tree.leaves(batch)[0].shape[0])


def devices_of(state: Any) -> list[Any]:
    """The devices on which a state lives."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    return sorted(leaves[0].sharding.device_set, key=lambda device: device.id)


def work_of(trainer: "Trainer", event: Event) -> dict[str, int]:
    """The operations of a step by dtype as XLA writes it, counted as on one device."""
    alone = dataclasses.replace(trainer, placement=None)
    assert event.batch is not None  # a fit tells of it at every event
    check_state("throughput", alone.programs, event.state, event.batch[0])
    jaxpr = jax.make_jaxpr(alone.programs.step)(tree.spec(event.state), event.batch)
    work: Counter[str] = Counter()
    for each in operations(jaxpr):
        if flops := count(each.equation) * each.times:
            of: Any = each.equation.invars[0].aval
            if jnp.issubdtype(of.dtype, jnp.inexact):
                work[NAMES.get(str(of.dtype), str(of.dtype))] += flops
    return dict(work)


NAMES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f64"}
"""How XLA writes the dtypes of JAX, as the table of peaks does."""
