"""What a GPU or TPU computes is what the CPU computes, to rounding; keys and orders to the bit.

    JAX_PLATFORMS=cuda,cpu pytest -m accelerator

and `tpu,cpu` on a TPU: each test computes on both. Without either they are skipped.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from tests.models import ROWS
from tests.training.test_laws import data, digest, noisy, trainer_of

pytestmark = [
    pytest.mark.accelerator,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="there is no GPU or TPU"),
]


@pytest.fixture(autouse=True)
def whole_products():
    """float32 products of 24 bits; by default they have 10 there (TF32) or 8 (bfloat16)."""
    with jax.default_matmul_precision("highest"):
        yield


def on_both(f, *args):
    """What `f` gives on the accelerator and on the CPU."""
    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            found.append(jax.device_get(f(*jax.device_put(args, device))))
    return found


def relative(a, b):
    """The distance of two trees, relative to the size of the second."""
    floats = [
        [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(each)] for each in (a, b)
    ]
    first, second = (np.concatenate([np.zeros(1), *leaves]) for leaves in floats)
    return np.linalg.norm(first - second) / max(np.linalg.norm(second), 1e-30)


@pytest.mark.parametrize("name", ROWS)
def test_layers_and_their_gradients_are_those_of_the_cpu(name):
    row = ROWS[name]
    key = jax.random.key(0)
    drawn = np.random.default_rng(0)
    x = drawn.integers(0, 3, row.shape) if row.integer else drawn.normal(size=row.shape)
    x = jnp.asarray(x, jnp.int32 if row.integer else jnp.float32)
    model = row.make()

    @jax.jit
    def all_of_it(key, x):
        params, model_state = model.init(key, x)

        def energy(params):
            y, after = model.apply(params, model_state, x, key=key)
            return sum((leaf**2).mean() for leaf in jax.tree.leaves(y)), (y, after)

        grads, (y, _) = jax.grad(energy, has_aux=True, allow_int=True)(params)
        return y, [g for g in jax.tree.leaves(grads) if g.dtype != jax.dtypes.float0]

    (y, grads), (y_cpu, grads_cpu) = on_both(all_of_it, key, x)
    assert relative(y, y_cpu) <= 1e-5
    assert relative(grads, grads_cpu) <= 1e-4


def test_the_order_of_examples_is_that_of_the_cpu_to_the_bit():
    words = np.array([1, 2], np.uint32)
    order = jax.jit(lambda step: fn.data.batch_indices(words, step, 128, 60_000, xp=jnp, steps=9))
    there, here = on_both(order, np.uint32(467))
    np.testing.assert_array_equal(there, here)
    np.testing.assert_array_equal(here, fn.data.batch_indices(words, 467, 128, 60_000, steps=9))


def test_twenty_steps_are_those_of_the_cpu():
    def train():
        result = trainer_of(noisy()).fit(data(200), validation=0.2, steps=20, batch_size=16)
        return result.last.params, result.losses

    (params, losses), (params_cpu, losses_cpu) = on_both(train)
    assert relative(params, params_cpu) <= 1e-4
    np.testing.assert_allclose(losses, losses_cpu, rtol=1e-4)


def test_a_fit_cut_in_two_is_the_same_to_the_bit():
    columns = data(200)
    whole = trainer_of(noisy()).fit(columns, epochs=4, batch_size=16).last
    half = trainer_of(noisy()).fit(columns, epochs=2, batch_size=16).last
    cut = trainer_of(noisy()).fit(columns, state=half, epochs=4, batch_size=16).last
    assert digest(cut) == digest(whole)


def test_members_that_are_mapped_are_those_trained_one_by_one():
    found = [
        fn.ensemble(trainer_of(), 4, data(200), epochs=1, batch_size=16, by=by).runs.losses
        for by in ("vmap", "loop")
    ]
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_bfloat16_trains():
    model = fn.mixed_precision(fn.sequential(fn.dense(64), jax.nn.relu, fn.dense(3)))
    trainer = fn.Trainer(
        model,
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-2),
    )
    history = trainer.fit(data(400), epochs=20, batch_size=32).history["loss"]
    assert history[-1] < history[0] / 2
