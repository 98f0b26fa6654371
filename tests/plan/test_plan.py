"""`plan` on this machine: sizes by shape, times by given rates, batches that fit, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

import funcnet as fn
from funcnet.planning import Peaks, making, plan, plan_scaling, report
from funcnet.planning.traffic import Collective

PEAKS = Peaks({"f32": 1e9}, memory=1e9, network=1e8, bytes=10**7, source="a guess")


def trainer(**settings):
    return fn.Trainer(
        fn.sequential(fn.dense(16), jnp.tanh, fn.dense(3)),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-3),
        **settings,
    )


def batch(size=64):
    return jax.ShapeDtypeStruct((size, 8), "float32"), jax.ShapeDtypeStruct((size,), "int32")


@pytest.fixture(scope="module")
def found():
    return plan(trainer(), batch(), peaks=PEAKS)


def test_sizes_are_those_of_the_shapes(found):
    params = 4 * (8 * 16 + 16 + 16 * 3 + 3)
    assert found.memory.params == params
    assert found.memory.opt_state == 2 * params + 4  # Adam's two moments and its count
    assert found.memory.batch == 64 * 8 * 4 + 64 * 4
    assert found.memory.arguments >= 3 * params + found.memory.batch
    assert found.memory.peak >= found.memory.arguments
    assert found.flops == {"f32": 2 * 64 * (8 * 16 * 2 + 16 * 3 * 3)}  # x needs no derivative
    assert found.needed_flops == sum(found.flops.values())
    assert (found.devices, found.batch_size, found.tokens) == (1, 64, 0)
    assert found.collectives == ()


def test_times_are_the_work_over_the_rates(found):
    assert found.seconds["compute"] == sum(found.flops.values()) / 1e9
    assert found.seconds["memory"] == found.bytes / 1e9
    assert found.seconds["network"] == 0
    assert found.bound == "memory"
    assert found.step_seconds == found.seconds["memory"]
    assert found.examples_per_second == 64 / found.step_seconds
    assert found.tokens_per_second is None
    slow = dataclasses.replace(found, collectives=(Collective("all-reduce", 1, 5, 10**8),))
    assert (slow.bound, slow.step_seconds) == ("network", 1.0)


def test_without_rates_times_and_fit_are_not_known():
    without = plan(trainer(), batch())
    assert without.fits is None
    assert without.seconds == {}
    assert without.bound is without.step_seconds is without.examples_per_second is None
    assert "needs" in repr(without)
    assert "at best" not in repr(without)
    with pytest.raises(
        ValueError, match="`largest_batch`: it must be known how much memory a device has, got a "
    ):
        without.largest_batch()


def test_whether_it_fits_is_told(found):
    assert found.fits is True
    assert found.memory.available == 10**7
    small = plan(trainer(), batch(), peaks=dataclasses.replace(PEAKS, bytes=1000))
    assert small.fits is False
    assert "does not fit: needs" in repr(small)


def test_a_plan_is_told_as_a_table(found):
    lines = repr(found).splitlines()
    assert lines[0].startswith("1 x ")
    assert lines[0].endswith("Placement(data=1; batch over data)")
    assert lines[1].startswith("batch 64, compiled in ")
    assert lines[2] == f"fits: {report.human(found.memory.peak)} of 10.0 MB on each device"
    assert "  params                   780 B" in lines
    assert "  FLOPs in f32            51.2 k" in lines
    assert any(line.startswith("  memory") and line.endswith("<- binds") for line in lines)
    assert lines[-1].endswith(
        " us a step, which is less than it takes to start one; rates: a guess"
    )
    slow = dataclasses.replace(found, peaks=dataclasses.replace(PEAKS, memory=found.bytes))
    assert repr(slow).endswith("at best 1 s a step, 64 examples a second; rates: a guess")
    assert found._repr_html_() == f"<pre>{found!r}</pre>"
    again = dataclasses.replace(found, flops={"f32": 3 * found.needed_flops})
    assert "3.00 x  what the step needs: devices do the same work" in repr(again)


def test_tokens_are_counted_where_there_are_sequences_of_them():
    model = fn.sequential(fn.embedding(7, 4), fn.dense(7))
    language = dataclasses.replace(trainer(), model=model)
    tokens = jax.ShapeDtypeStruct((6, 5), "int32")
    made = plan(language, (tokens, tokens), batch_size=12, peaks=PEAKS)
    assert (made.batch_size, made.tokens) == (12, 60)
    assert made.tokens_per_second == 60 / made.step_seconds
    assert "batch 12 of 60 tokens" in repr(made)


def test_arrays_will_do_and_nothing_is_kept():
    x, y = np.zeros((64, 8)), np.zeros(64, int)  # float64 and int64 become what JAX makes of them
    before = len(jax.live_arrays())
    made = plan(trainer(), (x, y), batch_size=16)
    assert made.memory.batch == 16 * 8 * 4 + 16 * 4
    assert len(jax.live_arrays()) == before


# ----------------------------------------------------------------------------------- placements


class Chip:
    """A device that only has a kind."""

    platform, device_kind, process_index = "tpu", "TPU v9", 0


def test_a_placement_s_mesh_is_made_anew():
    device = jax.devices()[0]
    one = fn.fully_sharded([device], min_size=7)
    moved = making.moved(one, [Chip() for _ in range(16)])
    assert dict(moved.mesh.shape) == {"data": 16}
    assert (moved.batch, moved.shard, moved.min_size) == (("data",), ("data",), 7)
    grid = np.array([Chip(), Chip()], object).reshape(1, 2)
    mesh = Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    two = dataclasses.replace(one, mesh=mesh, shard=())
    assert dict(making.moved(two, [Chip() for _ in range(8)]).mesh.shape) == {"data": 4, "model": 2}


def test_a_mesh_that_can_not_be_made_anew_is_refused():
    device = jax.devices()[0]
    tensor = fn.on_mesh({"model": 1}, batch=(), devices=[device])
    with pytest.raises(ValueError, match="`plan`: the placement's mesh must be one of 4 devices"):
        making.moved(tensor, [Chip() for _ in range(4)])


def test_a_function_is_called_with_the_devices():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
    seen = []

    def place(devices):
        seen.extend(devices)
        return fn.on_mesh(
            {"data": 1, "model": 1}, rules={"0/kernel": (None, "model")}, devices=devices
        )

    made = plan(trainer(), batch(), topology=mesh, placement=place)
    assert seen == jax.devices()[:1]
    assert made.placement.rules == (("0/kernel", PartitionSpec(None, "model")),)
    own = plan(trainer(placement=fn.fully_sharded(jax.devices()[:1])), batch())
    assert own.placement.shard == ("data",)


# --------------------------------------------------------------------------------- what fits


def grown(size, shares=4, per_example=1000, fixed=10_000, available=1_000_000):
    """A plan whose memory is known, of a batch of some size."""
    peak = fixed + per_example * size + size % 7 * 100  # not quite a line
    memory = report.Memory(0, 0, 0, 0, 0, 0, 0, 0, 0, peak, available)
    tried.append(size)

    class Placed:
        pass

    Placed.shares = shares
    return dataclasses.replace(
        BASE, batch_size=size, memory=memory, placement=Placed(),
        again=lambda size: grown(size, shares, per_example, fixed, available),
    )  # fmt: skip


tried = []
BASE = report.Plan(
    "here", None, 0, 0, None, True, {}, 0, 0, (), None, 0.0, lambda size: None
)  # fmt: skip


@pytest.mark.parametrize("begin", [4, 64, 800, 5000, 10**6])
@pytest.mark.parametrize("shares", [1, 4, 256])
def test_the_largest_batch_fits_and_is_nearly_the_largest(begin, shares):
    tried.clear()
    begin = -(-begin // shares) * shares
    largest = grown(begin, shares).largest_batch(within=0.05)
    assert len(tried) <= 12
    true = max(n for n in range(0, 1100, shares) if n == 0 or grown(n, shares).fits)
    assert largest % shares == 0
    assert true * 0.95 - shares <= largest <= true


def test_where_not_even_the_smallest_batch_fits():
    assert grown(64, fixed=10**7).largest_batch() == 0
    with pytest.raises(ValueError, match="`largest_batch`: within must be a positive number"):
        grown(64).largest_batch(within=-1)


SHORT = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (50.30G) exceeds available HBM (15.75G). HLO module: jit_f."
)


def test_what_the_compiler_refuses_for_memory_is_a_plan_that_does_not_fit(monkeypatch):
    def refuse(lowered):
        raise jax.errors.JaxRuntimeError(SHORT)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    made = plan(trainer(), batch(), peaks=PEAKS)
    assert made.fits is False
    assert made.compiled is False
    assert made.memory.peak == int(50.30 * 2**30)
    assert made.memory.available == int(15.75 * 2**30)
    assert made.memory.params == 780
    assert made.step_seconds is None
    assert "does not fit: needs 54.0 GB of 16.9 GB on each device" in repr(made)
    assert "the compiler stops where memory is short" in repr(made)


def test_what_it_refuses_for_another_reason_is_raised(monkeypatch):
    def refuse(lowered):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in vmem")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    with pytest.raises(jax.errors.JaxRuntimeError, match="vmem"):
        plan(trainer(), batch())


def test_a_compiler_of_another_time_is_told(monkeypatch):
    def refuse(compiled):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", refuse)
    with pytest.raises(RuntimeError) as caught:
        plan(trainer(), batch())
    assert str(caught.value) == (
        f"`plan`: the compiler must go with jax {jax.__version__}, got one whose programs it can't "
        "read: INTERNAL: RET_CHECK failure. For a TPU install the libtpu that belongs to it, with "
        "`pip install 'funcnet[plan]'`."
    )


# ------------------------------------------------------------------------------------ scaling


def test_scaling_keeps_or_grows_the_batch():
    pytest.importorskip("matplotlib")
    here = [jax.devices()[:1]] * 2
    made = plan_scaling(trainer(), batch(8), here, peaks=PEAKS)
    assert [each.batch_size for each in (*made.strong, *made.weak)] == [8] * 4
    assert repr(made).startswith("strong scaling: the same batch on all\ntopology")
    assert "weak scaling: the same batch on each device" in made._repr_html_()
    figure = made.plot()
    assert [axes.get_xlabel() for axes in figure.axes] == ["devices", "devices"]
    assert len(figure.axes[0].lines) == 2
    short = [dataclasses.replace(each, compiled=False, peaks=None) for each in made.strong]
    short = [
        dataclasses.replace(each, memory=dataclasses.replace(each.memory, available=1))
        for each in short
    ]
    figure = dataclasses.replace(made, strong=tuple(short), weak=tuple(short)).plot()
    assert [line.get_label() for line in figure.axes[0].lines] == ["does not fit"]


def test_where_the_batch_grows_it_does_so_with_the_devices(monkeypatch):
    from funcnet.planning import sizes

    monkeypatch.setattr(sizes, "devices_of", lambda function, name: [Chip()] * int(name))
    monkeypatch.setattr(
        sizes, "plan", lambda trainer, shapes, **settings: grown(settings["batch_size"])
    )
    made = plan_scaling(trainer(), batch(8), ["2", "8", "4"])
    assert [each.batch_size for each in made.strong] == [8, 8, 8]
    assert [each.batch_size for each in made.weak] == [8, 32, 16]


# ----------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (
            {"trainer": 3},
            TypeError,
            "`plan`: trainer must be a fn.Trainer, got 3. Make one of the model: "
            "`fn.Trainer(model, loss=..., optimizer=...)`.",
        ),
        (
            {"shapes": ((64, 8), (64,))},
            TypeError,
            "`plan`: shapes must be a batch, (x, y) or (x, y, weight), of arrays or "
            "jax.ShapeDtypeStruct, got ((64, 8), (64)). Give the data of `fit` say, and "
            "batch_size.",
        ),
        (
            {"shapes": (np.zeros((3, 2)), np.zeros(4))},
            ValueError,
            "`plan`: all arrays of shapes must hold the same number of examples, one or more, "
            "along their first axis, got (float64[3, 2], float64[4]).",
        ),
        (
            {"shapes": (np.zeros((0, 2)), np.zeros(0))},
            ValueError,
            "`plan`: all arrays of shapes must hold the same number of examples, one or more, "
            "along their first axis, got (float64[0, 2], float64[0]).",
        ),
        (
            {"batch_size": 0},
            ValueError,
            "`plan`: batch_size must be a positive whole number, got 0.",
        ),
        (
            {"topology": "v5e"},
            ValueError,
            "`plan`: topology must be a TPU's name and grid, a jax.sharding.Mesh or None, got "
            "'v5e'. Say 'v5e:4x4' or 'v5p:4x4x8'.",
        ),
        (
            {"topology": 16},
            TypeError,
            "`plan`: topology must be a TPU's name and grid, a jax.sharding.Mesh or None, got "
            "16. Say 'v5e:4x4' or 'v5p:4x4x8'.",
        ),
        (
            {"placement": "sharded"},
            TypeError,
            "`plan`: placement must be a fn.Placement, or a function that makes one of devices, "
            "got 'sharded'. Say `placement=fn.fully_sharded`.",
        ),
        (
            {"placement": lambda devices: None},
            TypeError,
            "`plan`: placement must give a fn.Placement of the devices it is called with, got "
            "None. Say `lambda devices: fn.on_mesh(..., devices=devices)`.",
        ),
    ],
    ids=["trainer", "shapes", "lengths", "none", "size", "name", "kind", "placement", "made"],
)
def test_what_is_refused(settings, error, words):
    arguments = {"trainer": trainer(), "shapes": batch(), **settings}
    with pytest.raises(error) as caught:
        plan(arguments.pop("trainer"), arguments.pop("shapes"), **arguments)
    assert str(caught.value) == words


def test_scaling_needs_a_list():
    with pytest.raises(TypeError, match="`plan_scaling`: topologies must be a list of them"):
        plan_scaling(trainer(), batch(), "v5e:2x2")
    with pytest.raises(TypeError, match="`plan_scaling`: topologies must be a list of them"):
        plan_scaling(trainer(), batch(), [])


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch):
    from funcnet.planning import topologies

    monkeypatch.setattr(topologies, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(ImportError) as caught:
        plan(trainer(), batch(), topology="v5e:2x2")
    assert str(caught.value) == (
        "`plan`: the TPU compiler must be installed to plan for a TPU, got no libtpu. "
        "Install it with `pip install 'funcnet[plan]'`."
    )


def test_rates_of_products_that_are_not_listed_are_the_slowest():
    peaks = Peaks({"bf16": 4.0, "f32": 2.0}, memory=1.0)
    assert peaks.seconds({"bf16": 8, "f32": 2}) == 3.0
    assert peaks.seconds({"f64": 8}) == 4.0
