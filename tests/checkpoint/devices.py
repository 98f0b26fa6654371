"""What is saved on some devices is restored on others: run on eight virtual ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import funcnet as fn
from funcnet.checkpoint import Store, restore, transfer
from tests.checkpoint.trees import same

COUNTS = 1, 2, 4, 8


def mesh(n):
    return jax.make_mesh(
        (n,), ("a",), devices=jax.devices()[:n], axis_types=(jax.sharding.AxisType.Auto,)
    )


def placed(n):
    """A tree on `n` devices: divided, copied, and keys of either kind."""
    rows, whole = (NamedSharding(mesh(n), PartitionSpec(*axes)) for axes in (("a",), ()))
    return {
        "rows": jax.device_put(jnp.arange(16 * 6.0).reshape(16, 6), rows),
        "columns": jax.device_put(
            jnp.arange(48, dtype=jnp.bfloat16).reshape(3, 16),
            NamedSharding(mesh(n), PartitionSpec(None, "a")),
        ),
        "whole": jax.device_put(jnp.arange(24.0).reshape(8, 3), whole),
        "scalar": jax.device_put(jnp.int32(7), whole),
        "key": jax.device_put(jax.random.key(4), whole),
        "keys": jax.device_put(jax.random.split(jax.random.key(5), 8), rows),
    }


@pytest.mark.parametrize("there", COUNTS)
@pytest.mark.parametrize("here", COUNTS)
def test_values_are_the_same_on_any_number_of_devices(tmp_path_factory, here, there):
    directory = tmp_path_factory.getbasetemp() / f"from-{here}"
    if not directory.exists():
        with Store(directory) as store:
            store.save(0, placed(here))
    like = placed(there)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
    )
    for wanted in (like, shapes):
        found = restore(directory, wanted).tree
        assert same(found, placed(here))
        for name, leaf in found.items():
            assert leaf.sharding.is_equivalent_to(like[name].sharding, leaf.ndim), name


def test_a_fit_goes_on_where_another_left_off(tmp_path):
    drawn = np.random.default_rng(0)
    columns = (
        drawn.normal(size=(64, 16)).astype(np.float32),
        drawn.normal(size=(64, 1)).astype(np.float32),
    )

    def trainer(placement):
        return fn.Trainer(
            fn.sequential(fn.dense(32), fn.dropout(0.1), fn.dense(1)),
            loss=optax.losses.squared_error,
            optimizer=optax.adam(1e-2),
            placement=placement,
        )

    sharded = trainer(fn.fully_sharded(min_size=16))
    half = sharded.fit(columns, epochs=1, batch_size=16).last
    whole = sharded.fit(columns, state=half, epochs=2, batch_size=16).last
    with Store(tmp_path) as store:
        store.save(int(half.step), half)
        found = store.restore(half).tree
        assert same(sharded.fit(columns, state=found, epochs=2, batch_size=16).last, whole)
        alone = store.restore(jax.eval_shape(trainer(None).init, half.key, columns[0])).tree
    assert same(jax.device_get(alone.params), jax.device_get(half.params))
    params = transfer(tmp_path, jax.tree.map(jnp.zeros_like, half.params))
    assert same(params, half.params)


def test_each_device_writes_its_part(tmp_path):
    with Store(tmp_path) as store:
        store.save(0, placed(8))
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("[0-9]*.[0-9]*")}
    assert sum("arrays/000000/" in name for name in files) == 8
