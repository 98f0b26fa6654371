"""Where arrays live: one value that tells of each array how it is divided among devices.

Models and steps know nothing of it. XLA's partitioner keeps the meaning of the program: what is
computed on many devices is what one device would have computed, batch norm and noise included.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from funcnet import errors, tree
from funcnet.types import PyTree

Rules: TypeAlias = Mapping[str, PartitionSpec | Sequence[str | None]]
"""From path patterns of params to the mesh axes of their axes: `{"**/kernel": (None, "model")}`."""

MIN_SIZE = 2**14
"""Elements under which an array is not worth dividing: it would be gathered in many small parts."""


def memory() -> int | None:
    """Bytes of memory of the default device, or None where data costs nothing to keep there.

    On CPU the device's memory is the host's, and the answer is None.
    """
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return None if stats is None else int(stats["bytes_limit"])


@dataclasses.dataclass(frozen=True)
class Placement:
    """How arrays are divided among devices: given to `fn.Trainer(placement=...)`.

    Attributes:
        mesh: the devices, as a grid with named axes.
        batch: the mesh axes among which the examples of a batch are divided.
        rules: path patterns of params, and the mesh axis of each of their axes, the first that
            matches counting.
        shard: the mesh axes among which params that no rule divides are divided, by size.
        min_size: elements under which `shard` leaves an array whole.
        mapped: whether each device computes for its part of the batch alone, as `jax.pmap` has it.
    """

    mesh: Mesh
    batch: tuple[str, ...] = ()
    rules: tuple[tuple[str, PartitionSpec], ...] = ()
    shard: tuple[str, ...] = ()
    min_size: int = MIN_SIZE
    mapped: bool = False

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        parts = [f"batch over {'*'.join(self.batch) or 'nothing'}"]
        parts += [f"{pattern} as {spec_words(spec)}" for pattern, spec in self.rules]
        if self.shard:
            parts.append(f"from {self.min_size:,} elements on over {'*'.join(self.shard)}")
        if self.mapped:
            parts.append("each device for itself")
        return f"Placement({axes}; {'; '.join(parts)})"

    @property
    def whole(self) -> NamedSharding:
        """A copy on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def shares(self) -> int:
        """How many parts a batch is cut into."""
        return math.prod(self.mesh.shape[axis] for axis in self.batch)

    def check_batch(self, function: str, batch_size: int) -> None:
        """Raises unless a batch can be divided evenly."""
        if batch_size % self.shares:
            raise ValueError(
                f"`{function}`: batch_size must be a multiple of {self.shares}, the parts that the "
                f"placement divides a batch into, got {batch_size}. "
                f"Take {-(-batch_size // self.shares) * self.shares}."
            )

    def copied(self, arrays: PyTree) -> PyTree:
        """`arrays` on every device: within a compiled program."""
        return jax.lax.with_sharding_constraint(arrays, self.whole)

    def divide(self, batch: PyTree) -> PyTree:
        """`batch` with its examples divided among devices: within a compiled program."""
        first = NamedSharding(self.mesh, PartitionSpec(self.batch or None))
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, first), batch)

    def keep(self, state: PyTree) -> PyTree:
        """`state` where it lives: within a compiled program."""
        return jax.lax.with_sharding_constraint(state, self.of_state(state))

    def of_state(self, state: PyTree) -> PyTree:
        """Where each array of a `TrainState` lives, as a tree of `jax.sharding.NamedSharding`.

        What an optimizer keeps of a param (its path ends in the param's, and its shape is the same)
        lives where the param does.

        Raises:
            ValueError: a rule matches no param, or does not fit one.
        """
        specs = self.of_params(state.params)
        shapes = {path: tuple(leaf.shape) for path, leaf in tree.paths(state.params).items()}

        def of_leaf(path: str, leaf: Any) -> NamedSharding:
            for end, spec in specs.items():
                same = path == end or path.endswith(f"/{end}") or not end
                if same and shapes[end] == tuple(leaf.shape):
                    return NamedSharding(self.mesh, spec)
            return NamedSharding(self.mesh, self.by_size(tuple(leaf.shape), PartitionSpec()))

        leaves, structure = jax.tree.flatten(state)
        found = map(of_leaf, tree.paths(state), leaves)
        return jax.tree.unflatten(structure, list(found))

    def of_params(self, params: PyTree) -> dict[str, PartitionSpec]:
        """The mesh axes of each param's axes, by path."""
        chosen: dict[str, PartitionSpec] = {}
        for pattern, spec in self.rules:
            for path in tree.select("placement", params, pattern):
                chosen.setdefault(path, spec)
        found = {}
        for path, leaf in tree.paths(params).items():
            spec = chosen.get(path, PartitionSpec())
            check_fits(self.mesh, path, leaf, spec)
            found[path] = self.by_size(tuple(leaf.shape), spec)
        return found

    def by_size(self, shape: tuple[int, ...], spec: PartitionSpec) -> PartitionSpec:
        """`spec`, and the longest axis that it leaves whole divided, if the array is large."""
        parts = math.prod(self.mesh.shape[axis] for axis in self.shard)
        taken = {axis for part in spec for axis in names(part or ())}
        if parts == 1 or math.prod(shape) < self.min_size or taken & set(self.shard):
            return spec
        axes = [*spec, *[None] * (len(shape) - len(spec))]
        free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % parts == 0]
        if not free:
            return spec
        axes[max(free, key=lambda i: (shape[i], -i))] = self.shard
        return PartitionSpec(*axes)


def data_parallel(devices: Sequence[Any] | None = None) -> Placement:
    """Divides each batch among devices; params are on each.

    The result is that of one device on the whole batch.

    Args:
        devices: which, all unless given.

    Example:
        >>> import funcnet as fn
        >>> fn.data_parallel().batch
        ('data',)
    """
    return Placement(grid({"data": -1}, devices), batch=("data",))


def pmapped(devices: Sequence[Any] | None = None, *, axis_name: str = "devices") -> Placement:
    """Maps the objective over devices, each of which knows its part of the batch alone.

    What `jax.pmap` does, which itself is `jax.jit(jax.shard_map(...))` by now. Params are on each
    device; losses, gradients and metrics are summed over all. `fn.data_parallel` divides a batch
    as well, and gives what one device would give, whatever the model; here that holds but for

    - noise: each device draws its own, so dropout is as good as on one device but not the same;
    - batch norm: statistics are of a device's own examples, and the running ones the mean over
      devices, unless it is told of the others, `fn.batch_norm(axis_name="devices")`;
    - losses that look at several examples at once.

    In return nothing is sent between devices but these sums, whatever XLA's partitioner thinks of
    the model, and layers may use collectives of their own, `jax.lax.pmean(x, "devices")` say.

    Args:
        devices: which, all unless given.
        axis_name: by which collectives in a model name the devices.

    Example:
        >>> import funcnet as fn
        >>> fn.pmapped(axis_name="replica").batch
        ('replica',)
    """
    return Placement(grid({axis_name: -1}, devices), batch=(axis_name,), mapped=True)


def fully_sharded(devices: Sequence[Any] | None = None, *, min_size: int = MIN_SIZE) -> Placement:
    """Divides each batch, and params with all that the optimizer keeps of them, among devices.

    An array of `min_size` elements or more is divided along its longest axis that the number of
    devices divides; XLA gathers it where it is used. No array is ever whole on one device, at the
    beginning neither.

    Args:
        devices: which, all unless given.
        min_size: elements from which on an array is divided.

    Source:
        Rajbhandari et al., "ZeRO", 2020, stage 3; Xu et al., "Automatic Cross-Replica Sharding of
        Weight Update in Data-Parallel Training", 2020.

    Example:
        >>> import funcnet as fn
        >>> fn.fully_sharded().shard
        ('data',)
    """
    errors.positive("fully_sharded", min_size=min_size)
    mesh = grid({"data": -1}, devices)
    return Placement(mesh, batch=("data",), shard=("data",), min_size=min_size)


def on_mesh(
    mesh: Mapping[str, int] | Mesh,
    *,
    batch: str | Sequence[str] = "data",
    rules: Rules | None = None,
    shard: str | Sequence[str] = (),
    min_size: int = MIN_SIZE,
    devices: Sequence[Any] | None = None,
) -> Placement:
    """Divides batches and params among the devices of a grid with named axes.

    Args:
        mesh: size of each axis by name, one of which may be -1 for what is left over:
            `{"data": -1, "model": 4}`; or a `jax.sharding.Mesh`.
        batch: the axes among which the examples of a batch are divided; `()` for none.
        rules: of params by path pattern the mesh axis of each of their axes, None for an axis that
            stays whole: `{"**/kernel": (None, "model")}` is tensor parallelism by columns.
        shard: the axes among which large arrays are divided by size, as `fn.fully_sharded` does.
        min_size: elements from which on they are.
        devices: which, all unless given.

    Raises:
        TypeError, ValueError: an axis is not of the mesh; the sizes do not give the number of
            devices.

    Source:
        Tensor parallelism: Shoeybi et al., "Megatron-LM", 2019.

    Example:
        >>> import funcnet as fn
        >>> fn.on_mesh({"data": -1, "model": 1}, rules={"**/kernel": (None, "model")})
        Placement(data=1, model=1; batch over data; **/kernel as (None, model))
    """
    errors.positive("placement", min_size=min_size)
    whole = as_mesh(mesh, devices)
    ordered = tuple((p, PartitionSpec(*names(spec))) for p, spec in (rules or {}).items())
    found = Placement(whole, names(batch), ordered, names(shard), min_size)
    used = {*found.batch, *found.shard}
    used |= {axis for _, spec in ordered for part in spec for axis in names(part or ())}
    unknown = sorted(used - set(whole.axis_names))
    if unknown:
        raise ValueError(
            f"`on_mesh`: {unknown[0]!r} is no axis of the mesh. "
            f"{errors.did_you_mean(unknown[0], whole.axis_names)}"
        )
    for pattern, spec in ordered:
        axes = [axis for part in spec for axis in names(part or ())]
        if len(set(axes)) < len(axes):
            raise ValueError(
                f"`on_mesh`: a rule must use an axis of the mesh once, got {spec_words(spec)} for "
                f"{pattern!r}. An array has one axis for each."
            )
    return found


def as_mesh(mesh: Any, devices: Sequence[Any] | None) -> Mesh:
    """The mesh that is given, with axes that XLA may use as it likes, or the grid of its sizes."""
    if isinstance(mesh, Mapping):
        return grid(mesh, devices)
    if not isinstance(mesh, Mesh) or devices is not None:
        got = errors.describe(mesh) if devices is None else "a mesh, and devices too"
        raise TypeError(
            "`on_mesh`: mesh must be a dict of sizes by name, or a jax.sharding.Mesh, which has "
            f"its devices, got {got}. Say `{{'data': -1}}`."
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def names(axes: Any) -> tuple[Any, ...]:
    """Names of axes, of which one may stand alone."""
    return (axes,) if isinstance(axes, str) else tuple(axes)


def grid(axes: Mapping[str, int], devices: Sequence[Any] | None) -> Mesh:
    """Devices in the order that suits their connections, as a grid with named axes."""
    if isinstance(devices, int):
        raise TypeError(
            f"`placement`: devices must be a list of them, got {devices}. "
            f"Say `jax.devices()[:{devices}]`."
        )
    found = list(jax.devices() if devices is None else devices)
    sizes = [int(size) for size in axes.values()]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known and len(found) % known == 0:
        sizes[sizes.index(-1)] = len(found) // known
    if not sizes or math.prod(sizes) != len(found) or min(sizes) < 1:
        raise ValueError(
            f"`on_mesh`: the sizes of the mesh must multiply to the number of devices, "
            f"{len(found)}, got {dict(axes)}. Give one of them as -1 for what is left over."
        )
    kinds = (AxisType.Auto,) * len(sizes)
    if devices is None:
        return jax.make_mesh(tuple(sizes), tuple(axes), axis_types=kinds)
    return Mesh(np.array(found).reshape(sizes), tuple(axes), axis_types=kinds)


def check_fits(mesh: Mesh, path: str, leaf: Any, spec: PartitionSpec) -> None:
    """Raises unless each axis can be divided as `spec` says."""
    shape = tuple(leaf.shape)
    sizes = [math.prod(mesh.shape[axis] for axis in names(part or ())) for part in spec]
    if len(spec) > len(shape) or any(n % size for n, size in zip(shape, sizes, strict=False)):
        raise ValueError(
            f"`placement`: a rule must divide a param evenly, got {spec_words(spec)} for {path}: "
            f"{errors.describe(leaf)} on a mesh of {dict(mesh.shape)}. "
            "Change the rule, or the size of the layer."
        )


def spec_words(spec: PartitionSpec) -> str:
    """A spec as one writes it: `(None, model)`."""
    return f"({', '.join('*'.join(names(part)) if part else 'None' for part in spec)})"
