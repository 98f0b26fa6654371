"""How fast a training is, by a clock that the test holds."""

import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.monitoring import throughput
from funcnet.monitoring.speed import work_of
from funcnet.planning import Peaks
from tests.monitoring.fits import X, Y, fit, trainer

BATCH = (jax.ShapeDtypeStruct((8, 4), np.float32), jax.ShapeDtypeStruct((8,), np.int32))


class Clock:
    """A clock that shows what it is set to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def told(callback, clock, events):
    """What is added at each of the events `(time, kind, step)`."""
    memory, found = callback.init(), []
    for clock.now, kind, step in events:
        event = fn.Event(kind, 0, step, None, {}, {}, {"a": jnp.zeros(1)}, batch=BATCH)
        memory = callback.update(memory, event)
        found.append(callback.adds(memory))
    return found


def test_the_time_of_an_epoch_is_that_of_its_chunks_but_the_first(clock):
    events = [
        (0, "start", 0),
        (30, "chunk", 10),  # compiles
        (31, "chunk", 14),
        (33, "chunk", 24),
        (100, "epoch", 24),  # validation
        (102, "chunk", 34),
        (110, "epoch", 34),
        (110, "end", 34),
    ]
    found = told(throughput(tokens=3), clock, events)
    per_step = [each["seconds_per_step"] for each in found[2:7]]
    assert per_step == [1 / 4, 3 / 14, 3 / 14, 0.2, 0.2]
    examples = [each["examples_per_second"] for each in found[2:7]]
    assert examples == pytest.approx([32, 112 / 3, 112 / 3, 40, 40])
    assert found[5]["tokens_per_second"] == 120
    assert np.isnan(list(found[1].values())).all()
    assert found[0] == found[-1] == {}


def test_an_epoch_of_one_call_that_compiles_has_no_values(clock):
    found = told(throughput(), clock, [(0, "start", 5), (1, "chunk", 9), (2, "epoch", 9)])
    assert np.isnan(list(found[2].values())).all()


def test_work_over_peak_is_utilisation():
    seen = []
    products = 3 * 2 * 8 * (4 * 5 + 5 * 3) - 2 * 8 * 4 * 5  # x has no gradient
    peak = Peaks({"f32": 1e12, "bf16": 4e12}, memory=1.0)
    for given in (1e12, peak):
        fit([throughput(trainer(), peak=given), lambda event: seen.append(event.metrics)])
        last = seen[-1]
        flops = last["flops_per_second"] * last["seconds_per_step"]
        assert products < flops < 3 * products  # with Adam, a dozen operations a param
        assert last["utilisation"] == pytest.approx(last["flops_per_second"] / 1e12)
    result = fit([throughput(trainer()), lambda event: seen.append(event.metrics)])
    assert "utilisation" not in seen[-1]  # nobody knows the peak of a CPU
    assert seen[-1]["examples_per_second"] == pytest.approx(8 / seen[-1]["seconds_per_step"])
    assert "seconds_per_step" not in result.history


def test_operations_are_those_of_the_dtype():
    wide = fn.Trainer(
        fn.mixed_precision(fn.dense(64)), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1)
    )
    x = np.zeros((8, 64), np.float32)
    state = wide.init(jax.random.key(0), x)
    event = fn.Event("start", 0, 0, None, {}, {}, state, batch=(x, x))
    work = work_of(wide, event)
    assert work["bf16"] > 2 * 2 * 8 * 64 * 64 > 0
    assert work["bf16"] > 3 * work["f32"]


def test_of_a_placement_all_devices_count(monkeypatch):
    devices = [SimpleNamespace(id=i, device_kind="NVIDIA H200") for i in range(4)]
    module = sys.modules["funcnet.monitoring.speed"]
    monkeypatch.setattr(module, "devices_of", lambda state: devices)
    seen = []
    fit([throughput(trainer()), lambda event: seen.append(event.metrics)])
    last = seen[-1]
    assert last["utilisation"] == pytest.approx(last["flops_per_second"] / (4 * 494.7e12))


def test_a_batch_of_a_stream_counts_with_its_own_size(clock):
    batches = [(X[:8], Y[:8]), (X[8:10], Y[8:10]), (X[10:12], Y[10:12])]
    seen = []

    def look(memory, event):
        if event.kind == "chunk":
            seen.append((event.step, len(event.losses), event.batch[0].shape[0]))
        return memory

    with pytest.warns(UserWarning, match="compiled again"):
        trainer().fit(batches, callbacks=[fn.Callback(lambda: None, look)])
    assert seen == [(1, 1, 8), (3, 2, 2)]


def test_wrong_arguments_are_refused():
    with pytest.raises(
        TypeError, match=r"`throughput`: trainer must be a fn.Trainer, got 128. Say"
    ):
        throughput(128)
    with pytest.raises(ValueError, match="`throughput`: tokens must be a positive whole number, g"):
        throughput(tokens=0)
    with pytest.raises(
        ValueError, match=r"`throughput`: peak must be a positive number, got -1.0."
    ):
        throughput(trainer(), peak=-1.0)
    with pytest.raises(ValueError, match="`throughput`: peak needs the trainer whose operations"):
        throughput(peak=1e12)
    other = fn.Trainer(fn.dense(3), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="`throughput`: state must be what the trainer's model wo"):
        fit([throughput(other)])
