"""The Laplacian, against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from funcnet.autodiff.laplacians import laplacian

CHUNKS = pytest.mark.parametrize("chunk_bytes", [2**28, 300, 1])


@CHUNKS
def test_against_closed_forms(chunk_bytes):
    x = np.random.default_rng(0).normal(size=5)
    dense = np.random.default_rng(1).normal(size=(5, 5))
    rows = {
        "gaussian": (lambda x: jnp.exp(-x @ x / 2), np.exp(-x @ x / 2) * (x @ x - 5)),
        "quadratic": (lambda x: x @ dense @ x, 2 * np.trace(dense)),
        "harmonic": (lambda x: (x @ x) ** -1.5, 0.0),  # |x|^(2 - n) in n = 5 dimensions
        "vector": (
            lambda x: jnp.stack([x[0] ** 3, jnp.sin(x).sum()]),
            [6 * x[0], -np.sin(x).sum()],
        ),
        "linear": (lambda x: x @ x[0:5] * 0 + x.sum(), 0.0),
    }
    with jax.enable_x64(True):
        found = jax.jit(
            lambda x: [laplacian(f, x, chunk_bytes=chunk_bytes) for f, _ in rows.values()]
        )(x)
    for value, (_, want) in zip(found, rows.values(), strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-11, atol=1e-13)


def test_any_shape_of_array_and_output():
    x = jnp.arange(6.0).reshape(2, 3)
    found = laplacian(lambda x: {"all": x**3, "first": x[0, 0] ** 2}, x)
    np.testing.assert_allclose(found["all"], 6 * x)
    assert found["first"] == 2
    assert laplacian(lambda x: x**2, 3.0) == 2


def test_trees_and_the_choice_of_leaves():
    x = {"time": jnp.array(2.0), "space": (jnp.array([1.0, 3.0]), jnp.array(5, jnp.int32))}

    def wave(x):
        place, power = x["space"]
        return x["time"] ** 2 * jnp.sum(place**2) * power

    assert laplacian(wave, x) == 2 * 10 * 5 + 4 * 2 * 2 * 5
    assert laplacian(wave, x, wrt="space/*") == 4 * 2 * 2 * 5
    assert laplacian(wave, x, wrt="time") == 2 * 10 * 5


def test_further_arguments_vmap_and_derivatives():
    points = jnp.array([[1.0, 2.0], [0.5, -1.0]])

    def f(x, a, b):
        return a * jnp.sum(x**4) + b

    found = jax.vmap(lambda x: laplacian(f, x, 2.0, 1.0, chunk_bytes=1))(points)
    np.testing.assert_allclose(found, 24 * (points**2).sum(1))
    with jax.enable_x64(True):
        together = jax.jit(lambda x: laplacian(f, x, 2.0, 1.0, chunk_bytes=1))
        check_grads(together, (np.ones(2),), order=1)


def test_sums_of_low_precision_are_taken_in_float32():
    x = jnp.ones(300, jnp.bfloat16)
    found = laplacian(lambda x: jnp.sum(x**2) / 2, x, chunk_bytes=1)
    assert (found, found.dtype) == (300, jnp.float32)
    mixed = laplacian(lambda x: jnp.sum(x[0] ** 2) + x[1] ** 3, (x, jnp.array(2.0)))
    assert (mixed, mixed.dtype) == (612, jnp.float32)


def test_memory_keeps_to_the_bound():
    def network(x):
        return jnp.tanh(jnp.tanh(x @ weight) @ weight).sum()

    weight, x = jnp.ones((512, 512)), jnp.ones(512)

    def temporary(chunk_bytes):
        function = jax.jit(partial(laplacian, network, chunk_bytes=chunk_bytes))
        return function.lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(2**17) < 2**17 + weight.nbytes  # its copy in another layout
    assert temporary(2**28) > 2**20 + weight.nbytes


def test_errors():
    with pytest.raises(TypeError, match="`laplacian`: params must hold floats"):
        laplacian(lambda x: x * 1.0, jnp.arange(3))
    with pytest.raises(TypeError, match="`laplacian`: f must return arrays of real floats"):
        laplacian(lambda x: jnp.argmax(x), jnp.ones(3))
    with pytest.raises(ValueError, match="`laplacian`: params must hold at least one array"):
        laplacian(lambda x: 1.0, {})
    with pytest.raises(TypeError) as caught:
        laplacian(lambda x: x @ x, jnp.ones(3), chunk_bytes=1e6)
    assert str(caught.value) == (
        "`laplacian`: chunk_bytes must be a positive whole number, got 1000000.0."
    )
