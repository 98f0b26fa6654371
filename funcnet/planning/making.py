"""`plan`: compiles a training step for devices that may not be here, and reads what came out."""

import dataclasses
import math
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from funcnet import errors
from funcnet.data.arrays import Columns
from funcnet.inspect.flops import count, operations
from funcnet.placement import Placement, data_parallel
from funcnet.planning import hlo, traffic, work
from funcnet.planning.peaks import Peaks, peaks_of
from funcnet.planning.report import Memory, Plan
from funcnet.planning.topologies import devices_of
from funcnet.types import PyTree, TrainState

if TYPE_CHECKING:
    from funcnet.trainer import Trainer

Where: TypeAlias = Placement | Callable[[list[Any]], Placement]
"""A placement, or a function from devices to one, such as `fn.fully_sharded`."""

SHORT = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
"""How the TPU compiler says what is needed, and what there is."""

UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}

DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}
"""How XLA writes the dtypes of products."""


def plan(
    trainer: "Trainer",
    shapes: Any,
    *,
    topology: str | Mesh | Sequence[Any] | None = None,
    placement: Where | None = None,
    batch_size: int | None = None,
    peaks: Peaks | None = None,
) -> Plan:
    """Compiles one training step ahead of time, and says what it takes: nothing is run or stored.

    For a TPU the real TPU compiler does it, on a machine that has none: `pip install
    'funcnet[plan]'`. What does not fit in a device's memory is a plan that says so. Times are what
    the published rates allow at best, whatever comes in each other's way left out.

    Args:
        trainer: what would be trained.
        shapes: a batch, `(x, y)` or `(x, y, weight)`: arrays or `jax.ShapeDtypeStruct`s, with the
            examples along the first axis.
        topology: a TPU slice by name, `"v5e:4x4"` or `"v5p:4x4x8"`; a `jax.sharding.Mesh`, whose
            devices are taken; or a list of devices. Those of this machine unless given.
        placement: a `fn.Placement`, whose mesh is made anew of the topology's devices (the axis
            that divides batches takes what is left over); or a function of the devices,
            `fn.fully_sharded` or `lambda devices: fn.on_mesh({"data": -1, "model": 8}, rules=...,
            devices=devices)`. The trainer's own unless given, else data parallel over the topology,
            or one device of this machine.
        batch_size: examples a batch, on all devices together; those of `shapes` unless given.
        peaks: the rates of a device; those of `funcnet.planning.PEAKS` unless given.

    Returns:
        The plan; its `str` is a table.

    Raises:
        TypeError, ValueError: an argument is wrong, or the batch can't be divided.
        ImportError: the TPU compiler is not installed.

    Source:
        Times: Williams, Waterman, Patterson, "Roofline", 2009.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> from funcnet.planning import plan
        >>> trainer = fn.Trainer(
        ...     fn.sequential(fn.dense(64), jax.nn.relu, fn.dense(10)),
        ...     loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        ...     optimizer=optax.adam(1e-3),
        ... )
        >>> batch = jax.ShapeDtypeStruct((128, 784), "float32"), jax.ShapeDtypeStruct((128,), int)
        >>> found = plan(trainer, batch)  # topology="v5e:4x4" for sixteen chips of a TPU
        >>> found.memory.params, sum(found.flops.values())
        (203560, 26181632)
    """
    check_trainer(trainer)
    batch = batch_of(shapes, batch_size)
    devices = devices_of("plan", topology)
    where = placed(trainer.placement if placement is None else placement, devices)
    where.check_batch("plan", len(jax.tree.leaves(batch)[0]))
    name = topology if isinstance(topology, str) else None
    return planned(trainer, batch, where, peaks, name)


def check_trainer(trainer: Any) -> None:
    """Raises unless a trainer is given."""
    if not hasattr(trainer, "programs"):
        raise TypeError(
            f"`plan`: trainer must be a fn.Trainer, got {errors.describe(trainer)}. "
            "Make one of the model: `fn.Trainer(model, loss=..., optimizer=...)`."
        )


def batch_of(shapes: Any, batch_size: int | None) -> Columns:
    """Shapes and dtypes of a batch."""
    leaves = jax.tree.leaves(shapes)
    arrays = all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves)
    if not isinstance(shapes, tuple | list) or len(shapes) not in (2, 3) or not arrays:
        raise TypeError(
            "`plan`: shapes must be a batch, (x, y) or (x, y, weight), of arrays or "
            f"jax.ShapeDtypeStruct, got {errors.describe(shapes)}. Give the data of `fit` say, and "
            "batch_size."
        )
    lengths = {leaf.shape[:1] for leaf in leaves}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            "`plan`: all arrays of shapes must hold the same number of examples, one or more, "
            f"along their first axis, got {errors.describe(shapes)}."
        )
    columns: Columns = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype)),
        tuple(shapes),
    )
    if batch_size is None:
        return columns
    errors.positive("plan", batch_size=batch_size)
    return sized(columns, batch_size)


def sized(batch: Columns, size: int) -> Columns:
    """A batch of another size."""
    found: Columns = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), batch
    )
    return found


def placed(placement: Any, devices: list[Any] | None) -> Placement:
    """The placement on the devices that are planned for."""
    if placement is None:
        return data_parallel(jax.devices()[:1] if devices is None else devices)
    if isinstance(placement, Placement):
        return placement if devices is None else moved(placement, devices)
    if not callable(placement):
        raise TypeError(
            "`plan`: placement must be a fn.Placement, or a function that makes one of devices, "
            f"got {errors.describe(placement)}. Say `placement=fn.fully_sharded`."
        )
    found = placement(list(jax.devices()) if devices is None else devices)
    if not isinstance(found, Placement):
        raise TypeError(
            "`plan`: placement must give a fn.Placement of the devices it is called with, got "
            f"{errors.describe(found)}. Say `lambda devices: fn.on_mesh(..., devices=devices)`."
        )
    return found


def moved(placement: Placement, devices: list[Any]) -> Placement:
    """The same placement on other devices: the first axis of the batch takes what is left over."""
    sizes = dict(placement.mesh.shape)
    if math.prod(sizes.values()) != len(devices) and placement.batch:
        stretched = placement.batch[0]
        others = math.prod(size for axis, size in sizes.items() if axis != stretched)
        sizes[stretched] = len(devices) // others
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"`plan`: the placement's mesh must be one of {len(devices)} devices, got "
            f"{dict(placement.mesh.shape)}. Give a function of the devices, `lambda devices: "
            'fn.on_mesh({"data": -1, ...}, devices=devices)`.'
        )
    grid = np.array(devices, object).reshape(list(sizes.values()))
    mesh = Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    return dataclasses.replace(placement, mesh=mesh)


def planned(
    trainer: "Trainer", batch: Columns, placement: Placement, peaks: Peaks | None, name: str | None
) -> Plan:
    """The plan of a batch, once all has been checked."""
    device = placement.mesh.devices.flat[0]
    peaks = peaks or peaks_of(device)
    trainer = dataclasses.replace(trainer, placement=placement)
    state = first_state(trainer, batch[0])
    part = NamedSharding(placement.mesh, PartitionSpec(placement.batch or None))
    where = placement.of_state(state)
    jitted = jax.jit(
        trainer.programs.step,
        in_shardings=(where, part),
        out_shardings=(where, placement.whole),
        donate_argnums=0,
    )
    traced = jitted.trace(state, batch)
    began = time.perf_counter()
    executable, short = compiled(traced.lower())
    seconds = time.perf_counter() - began
    devices = placement.mesh.size
    on_tpu = device.platform == "tpu"
    spread = batch, part
    limit = available(device, peaks)
    module = hlo.parse("" if executable is None else text_of(executable))
    visits = list(hlo.visits(module))
    needed = Counter({k: v // devices for k, v in products(traced.jaxpr).items()})
    batch_size = len(jax.tree.leaves(batch)[0])
    return Plan(
        topology=name or f"{devices} x {device.device_kind}",
        placement=placement,
        batch_size=batch_size,
        tokens=tokens_of(batch[0]),
        memory=memory_of(executable, short, state, where, spread, limit, on_tpu),
        compiled=executable is not None,
        # elsewhere products may be calls of a library, which the text does not tell apart
        flops=work.flops(visits) if on_tpu else needed,
        needed_flops=sum(needed.values()),
        bytes=work.moved(module, visits),
        collectives=traffic.collectives(visits, devices),
        peaks=peaks,
        compile_seconds=seconds,
        again=lambda size: planned(trainer, sized(batch, size), placement, peaks, name),
    )


def first_state(trainer: "Trainer", x: Any) -> TrainState:
    """Shapes and dtypes of the state that training begins with."""
    state: TrainState = jax.eval_shape(lambda seed: trainer.init(jax.random.key(seed), x), 0)
    return state


def compiled(lowered: Any) -> tuple[Any, tuple[int, int] | None]:
    """The executable, or the bytes that it needs and those that there are where it does not fit."""
    try:
        with warnings.catch_warnings():
            # what was compiled for devices that are not here can be kept, but not read again
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
            return lowered.compile(), None
    except jax.errors.JaxRuntimeError as error:
        found = SHORT.search(str(error))
        if found is None or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needs, there = (int(float(found[i]) * 1024 ** UNITS[found[i + 1]]) for i in (1, 3))
        return None, (needs, there)


def text_of(executable: Any) -> str:
    """What the compiler has made, as text."""
    try:
        text: str = executable.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(
            f"`plan`: the compiler must go with jax {jax.__version__}, got one whose programs it "
            f"can't read: {str(error).splitlines()[0]}. For a TPU install the libtpu that belongs "
            "to it, with `pip install 'funcnet[plan]'`."
        ) from error
    return text


def available(device: Any, peaks: Peaks | None) -> int | None:
    """Bytes of a device's memory; None where that is not known, as on CPU."""
    if peaks is not None and peaks.bytes is not None:
        return peaks.bytes
    try:
        stats = None if device.platform == "cpu" else device.memory_stats()
    except Exception:  # a device that is only compiled for has none to ask
        stats = None
    return int(stats["bytes_limit"]) if stats and "bytes_limit" in stats else None


def memory_of(
    executable: Any,
    short: tuple[int, int] | None,
    state: TrainState,
    where: TrainState,
    batch: tuple[Columns, NamedSharding],
    limit: int | None,
    on_tpu: bool,
) -> Memory:
    """Bytes on a device: by shape, and as the compiler says."""
    spread = jax.tree.map(lambda leaf: batch[1], batch[0])
    parts = {
        "params": local(state.params, where.params),
        "opt_state": local(state.opt_state, where.opt_state),
        "rest": local(state.model_state, where.model_state),
        "batch": local(batch[0], spread),
    }
    if executable is None:
        assert short is not None
        needs, there = short
        return Memory(**parts, **dict.fromkeys(ANALYSED, 0), peak=needs, available=there)
    found = executable.memory_analysis()
    sizes = {name: int(getattr(found, field)) for name, field in ANALYSED.items()}
    together = sizes["arguments"] + sizes["output"] - sizes["aliased"] + sizes["temporaries"]
    peak = int(getattr(found, "peak_memory_in_bytes", 0))
    if not on_tpu:  # what the others call the peak leaves temporaries out
        peak = max(peak, together)
    return Memory(**parts, **sizes, peak=peak, available=limit)


ANALYSED = {
    "arguments": "argument_size_in_bytes",
    "output": "output_size_in_bytes",
    "aliased": "alias_size_in_bytes",
    "temporaries": "temp_size_in_bytes",
    "code": "generated_code_size_in_bytes",
}
"""The fields of `memory_analysis()`."""


def local(arrays: PyTree, where: PyTree) -> int:
    """Bytes of arrays on one device."""
    sizes = [
        math.prod(place.shard_shape(tuple(leaf.shape))) * int(leaf.dtype.itemsize)
        for leaf, place in zip(jax.tree.leaves(arrays), jax.tree.leaves(where), strict=True)
    ]
    return sum(sizes)


def products(jaxpr: Any) -> Counter[str]:
    """Operations of the matrix products and convolutions of a jaxpr by dtype."""
    found: Counter[str] = Counter()
    for each in operations(jaxpr):
        if each.equation.primitive.name in ("dot_general", "conv_general_dilated"):
            aval: Any = each.equation.invars[0].aval
            dtype = str(aval.dtype)
            found[DTYPES.get(dtype, dtype)] += each.times * count(each.equation)
    return found


def tokens_of(x: Any) -> int:
    """The tokens of a batch where it holds sequences of them, `int (B, T)`; 0 otherwise."""
    whole = hasattr(x, "shape") and len(x.shape) == 2
    return math.prod(x.shape) if whole and np.issubdtype(x.dtype, np.integer) else 0
