"""Plans for TPUs that are not here, by the real compiler; skipped where it is not installed."""

import os

import jax
import jax.numpy as jnp
import optax
import pytest

import funcnet as fn
from funcnet.planning import plan

pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install libtpu")


def trainer(width, **settings):
    return fn.Trainer(
        fn.sequential(fn.dense(width), jnp.tanh, fn.dense(width), jnp.tanh, fn.dense(8)),
        loss=optax.losses.squared_error,
        optimizer=optax.sgd(1e-3, momentum=0.9),
        **settings,
    )


def batch(size, width):
    return tuple(jax.ShapeDtypeStruct((size, each), "float32") for each in (width, 8))


def test_what_data_parallel_devices_tell_each_other_is_the_gradient():
    before = dict(os.environ)
    found = plan(trainer(256), batch(512, 256), topology="v5e:2x2")
    assert before == dict(os.environ)
    assert jax.default_backend() == "cpu"
    params = 4 * (2 * 256 * 256 + 2 * 256 + 256 * 8 + 8)
    (reduced,) = found.collectives
    assert reduced.kind == "all-reduce"
    assert params <= reduced.bytes <= params + 16  # and the sum of the losses
    assert reduced.sent == pytest.approx(2 * 3 / 4 * reduced.bytes, abs=4)
    assert found.memory.params == params
    assert found.memory.opt_state == params
    assert found.memory.aliased >= 2 * params  # the new state takes the place of the old
    assert found.memory.batch == 128 * 256 * 4 + 128 * 8 * 4
    products = 2 * 128 * (256 * 256 * 2 + 256 * 256 * 3 + 256 * 8 * 3)
    assert sum(found.flops.values()) == pytest.approx(products, rel=1e-3)
    assert found.needed_flops == pytest.approx(products, rel=1e-3)
    assert found.topology == "v5e:2x2"
    assert found.fits is True
    assert set(found.seconds) == {"compute", "memory", "network"}


def test_what_is_sharded_is_gathered():
    found = plan(trainer(256), batch(512, 256), topology="v5e:2x2", placement=fn.fully_sharded)
    kinds = {each.kind: each for each in found.collectives}
    assert found.memory.params < 4 * (2 * 256 * 256 + 2 * 256 + 256 * 8 + 8) / 3.5
    assert kinds["all-gather"].bytes >= 4 * 2 * 256 * 256 / 2  # of what is sent as bfloat16


def test_what_does_not_fit_does_not_fit():
    found = plan(trainer(50_000), batch(4, 8), topology="v5e:1x1")
    assert found.fits is False
    assert not found.compiled
    assert found.memory.available == int(15.75 * 2**30)
    assert found.memory.peak > 2 * 4 * 50_000**2
    assert "does not fit: needs" in repr(found)


def test_a_slice_that_there_is_not():
    with pytest.raises(ValueError, match="`plan`: topology must be one that the TPU compiler know"):
        plan(trainer(8), batch(4, 8), topology="v5e:3x5")
    with pytest.raises(ValueError, match="batch_size must be a multiple of 16"):
        plan(trainer(8), batch(24, 8), topology="v5e:4x4")


def test_a_v4_chip_is_one_device():
    from funcnet.planning.topologies import devices_of

    assert len(devices_of("plan", "v4:2x2x1")) == 4
    assert len(devices_of("plan", "v5p:4x4x8")) == 128
