"""Jacobian and Hessian against JAX's own, in every chunk length; their memory against the bound."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.autodiff import matrices
from funcnet.autodiff.matrices import hessian, jacobian, peak_bytes
from tests.autodiff import trees


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def log_probs(params):
    found = trees.outputs(params)
    return jnp.concatenate([found["level"][None], found["waves"]])


def block_shapes(outputs, params):
    """The shape of each block by the two paths, with the wider dtype of both."""

    def named(tree):
        return [(jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)]

    return {
        out + into: (jnp.shape(y) + jnp.shape(x), jnp.promote_types(y.dtype, x.dtype))
        for out, y in named(outputs)
        for into, x in named(params)
        if trees.floating(x) and trees.floating(y)
    }


def found_shapes(blocks):
    leaves = jax.tree_util.tree_leaves_with_path(blocks)
    return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}


@pytest.mark.parametrize("kind", trees.TREES)
def test_matrices_are_those_of_flat_vectors_in_both_modes(kind):
    params = trees.TREES[kind]()
    vector, rebuild = trees.flat(params)
    tolerance = 1e-5 if kind == "mixed floats" else 1e-9

    @jax.jit
    def both(params):
        found = {
            "forward": jacobian(trees.outputs, params, mode="forward", dense=True),
            "reverse": jacobian(trees.outputs, params, mode="reverse", dense=True, chunk_bytes=1),
            "hessian": hessian(trees.objective, params, dense=True, chunk_bytes=1),
        }
        jac = jax.jacfwd(lambda z: log_probs(rebuild(z)))(vector)
        of_flat = jax.hessian(lambda z: trees.objective(rebuild(z)))(vector)
        return found, {"forward": jac, "reverse": jac, "hessian": of_flat}

    found, expected = both(params)
    for name in found:
        scale = float(jnp.max(jnp.abs(expected[name])))
        np.testing.assert_allclose(
            found[name], expected[name], rtol=tolerance, atol=tolerance * scale, err_msg=name
        )


@pytest.mark.parametrize("kind", ["rank 0", "nested"])
def test_blocks_are_those_of_jax(kind):
    params = trees.TREES[kind]()

    @jax.jit
    def both(params):
        ours = [jacobian(trees.outputs, params, mode=mode) for mode in ("forward", "reverse")]
        theirs = jax.jacrev(trees.outputs)(params)
        second = hessian(trees.objective, params), jax.hessian(trees.objective)(params)
        return (*ours, second[0]), (theirs, theirs, second[1])

    ours, theirs = both(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["mixed floats", "integers", "bools and keys"])
def test_leaves_that_are_not_differentiated_have_no_block_and_dtypes_are_the_wider(kind):
    params = trees.TREES[kind]()
    outputs = jax.eval_shape(trees.outputs, params)
    expected = block_shapes(outputs, params)
    for mode in ("forward", "reverse"):
        found = jax.eval_shape(partial(jacobian, trees.outputs, mode=mode), params)
        assert found_shapes(found) == expected
    found = jax.eval_shape(partial(hessian, trees.objective), params)
    assert found_shapes(found) == block_shapes(params, params)


def product_by(x):
    """An output of 2 x 4 elements, of 3 x 2 + 1: neither axis divides the other's chunks."""
    waves = jnp.sin(x["w"].ravel()[:, None] * jnp.arange(1.0, 5.0)[None] + x["b"])
    return {"y": waves[:2] * waves[2:4], "z": jnp.sum(waves[4:]) * x["b"]}


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_every_chunk_length_gives_the_same(mode):
    x = {"w": trees.draw(3, 2), "b": trees.draw()}
    expected = jax.jit(jax.jacrev(product_by))(x)
    lengths = set()
    for chunk_bytes in (1, 5_000, 10**6):
        ours = jax.jit(partial(jacobian, product_by, mode=mode, chunk_bytes=chunk_bytes))
        lengths.add(str(jax.make_jaxpr(ours)(x)).count("scan"))
        chex.assert_trees_all_close(ours(x), expected, rtol=1e-12, atol=1e-14)
    assert lengths == {0, 1}


@pytest.mark.parametrize("size", [1, 5, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 6, 7, 9])
@pytest.mark.parametrize("axis", [0, -1])
def test_products_are_stacked_whatever_divides_what(size, length, axis, monkeypatch):
    monkeypatch.setattr(matrices, "COPIES", 1)
    monkeypatch.setattr(matrices, "peak_bytes", lambda jaxpr: 1)
    matrix = np.arange(3.0 * size).reshape(3, size)
    found = matrices.products(lambda v: matrix @ v, jnp.ones(size), length, axis, False)
    np.testing.assert_array_equal(found, matrix.T if axis == 0 else matrix)


def test_chosen_leaves_have_blocks():
    params = {"a": trees.draw(2), "b": trees.draw(3), "n": jnp.array(2)}
    whole = jax.jit(partial(hessian, trees.objective))(params)
    part = jax.jit(partial(hessian, trees.objective, wrt="b"))(params)
    assert (part["a"], part["n"], part["b"]["a"]) == (None, None, None)
    np.testing.assert_allclose(part["b"]["b"], whole["b"]["b"], rtol=1e-10)
    jac = jax.jit(partial(jacobian, trees.outputs))(params)
    chosen = jax.jit(partial(jacobian, trees.outputs, wrt=lambda path, leaf: path == "a"))(params)
    assert chosen["waves"]["b"] is None
    np.testing.assert_allclose(chosen["waves"]["a"], jac["waves"]["a"], rtol=1e-10)


def test_further_arguments_reach_the_function():
    x, by = trees.draw(3), jnp.array([1.0, 2.0, 3.0])
    jac = jacobian(lambda x, by: x**2 * by, x, by)
    np.testing.assert_allclose(jac, np.diag(2 * x * by), rtol=1e-12)
    hess = hessian(lambda x, by: jnp.sum(x**2 * by), x, by)
    np.testing.assert_allclose(hess, np.diag(2 * by), rtol=1e-12)


# --- the mode


def forward_alone(x):
    """A loop of unknown length: JAX has no reverse mode of it."""
    return jax.lax.while_loop(lambda c: jnp.sum(c) < 100, lambda c: c * 2, x)


@jax.custom_vjp
def reverse_alone(x):
    return x


reverse_alone.defvjp(lambda x: (x, None), lambda _, u: (u,))
WIDE, TALL = np.ones((2, 3)), np.ones((3, 2))
MODES = {
    "more outputs": (lambda x: TALL @ forward_alone(x), 2, None, 64 * TALL),
    "as many": (forward_alone, 2, None, 64 * np.eye(2)),
    "fewer outputs": (lambda x: WIDE @ reverse_alone(x), 3, None, WIDE),
    "forward asked for": (lambda x: WIDE @ forward_alone(x), 3, "forward", 32 * WIDE),
    "reverse asked for": (lambda x: TALL @ reverse_alone(x), 2, "reverse", TALL),
}


@pytest.mark.parametrize("name", MODES)
def test_the_mode_follows_from_the_sizes_unless_given(name):
    f, size, mode, expected = MODES[name]
    np.testing.assert_array_equal(jacobian(f, jnp.full(size, 1.2), mode=mode), expected)


# --- memory

INTO, SQUARE = trees.draw(24, 4000), trees.draw(100, 100)


def broad(x):
    """Few inputs and outputs, and 4000 numbers between."""
    for _ in range(2):
        x = jnp.tanh(x @ INTO.astype(x.dtype)) @ INTO.T.astype(x.dtype) / 50
    return x


def recurrent(x):
    def step(c, _):
        c = jnp.tanh(SQUARE @ c)
        return c, c

    return jnp.sum(jax.lax.scan(step, x, None, length=40)[1], 0)


def convolved(x):
    kernel = SQUARE[:9, :8].reshape(3, 3, 1, 8).astype(x.dtype)
    y = jax.lax.conv_general_dilated(
        x.reshape(1, 12, 12, 1), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = jax.lax.reduce_window(
        jax.nn.relu(y), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return jnp.ravel(y)[:100]


FORWARD, REVERSE = partial(jacobian, mode="forward"), partial(jacobian, mode="reverse")
MEMORY = {
    "forward": (FORWARD, jax.jacfwd, broad, 24, 600_000),
    "reverse": (REVERSE, jax.jacrev, broad, 24, 600_000),
    "hessian": (hessian, jax.hessian, lambda x: jnp.sum(broad(x) ** 2), 24, 1_000_000),
    "a scan forward": (FORWARD, jax.jacfwd, recurrent, 100, 900_000),
    "a scan in reverse": (REVERSE, jax.jacrev, recurrent, 100, 900_000),
    "a convolution forward": (FORWARD, jax.jacfwd, convolved, 144, 1_500_000),
    "a convolution in reverse": (REVERSE, jax.jacrev, convolved, 144, 1_500_000),
}


@pytest.mark.parametrize("name", MEMORY)
def test_chunks_keep_to_the_bound_where_the_plain_one_does_not(name):
    ours, plain, f, size, bound = MEMORY[name]
    x = trees.draw(size)

    def temporary(g):
        compiled = jax.jit(g).lower(x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(partial(ours, f, chunk_bytes=bound)) < bound < temporary(plain(f))


def test_the_count_of_bytes_is_that_of_what_is_alive():
    x = jnp.ones(100)  # 800 bytes, an argument
    rows = [
        (lambda x: x + 1, 800),
        (lambda x: jnp.sin(jnp.cos(x)), 1600),  # one goes in, one comes out
        (lambda x: jnp.sin(jnp.cos(jnp.exp(x))), 1600),  # the first is gone by then
        (lambda x: jnp.sin(x) * jnp.cos(x), 2400),
        (jax.jit(lambda x: jnp.sin(jnp.cos(x))), 1600),
        (lambda x: jnp.exp(jax.jit(lambda x: jnp.sin(jnp.cos(x)))(x)), 1600),
        (lambda x: jax.lax.scan(lambda c, _: (c, jnp.cos(c)), x, None, 10)[1], 8000 + 800),
        (lambda x: x, 1),
        (lambda x: jnp.sum(x), 8),
    ]
    for k, (f, expected) in enumerate(rows):
        assert peak_bytes(jax.make_jaxpr(f)(x)) == expected, k


# --- composition


def test_matrices_compose_with_jit_vmap_and_grad():
    x = trees.draw(4, 3)
    f = lambda x: jnp.sin(x) * x[::-1]  # noqa: E731  # one line, used often
    for mode in ("forward", "reverse"):
        ours = partial(jacobian, f, mode=mode, chunk_bytes=1)
        np.testing.assert_allclose(
            jax.jit(jax.vmap(ours))(x), jax.vmap(jax.jacrev(f))(x), rtol=1e-12
        )
        norm = jax.jit(jax.grad(lambda x, g: jnp.sum(g(x) ** 2)), static_argnums=1)
        np.testing.assert_allclose(norm(x[0], ours), norm(x[0], jax.jacrev(f)), rtol=1e-12)
        forward = jax.jit(jax.jacfwd(ours))(x[0])
        np.testing.assert_allclose(forward, jax.jacfwd(jax.jacrev(f))(x[0]), rtol=1e-12)
    g = lambda x: jnp.sum(f(x) ** 2)  # noqa: E731
    ours = jax.jit(jax.vmap(partial(hessian, g, chunk_bytes=1)))(x)
    np.testing.assert_allclose(ours, jax.vmap(jax.hessian(g))(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_matrices_keep_the_dtype(dtype):
    x = trees.draw(3, dtype=dtype)
    for chunk_bytes in (1, 10**6):
        jac = jacobian(jnp.sin, x, chunk_bytes=chunk_bytes)
        assert jac.dtype == dtype
        np.testing.assert_allclose(np.diag(jac.astype(float)), jnp.cos(x).astype(float), rtol=1e-2)
    assert hessian(lambda x: jnp.sum(x**3), x).dtype == dtype


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_the_dtype_is_the_wider_whatever_the_mode(mode):
    x = {"a": trees.draw(2, dtype=jnp.float32), "b": trees.draw(1, dtype=jnp.float16)}
    for f, wider in (
        (lambda x: x["a"].astype(float), jnp.float64),
        (lambda x: x["b"], jnp.float32),
    ):
        assert jacobian(f, x, mode=mode, dense=True).dtype == wider
    blocks = jacobian(lambda x: x["a"].astype(jnp.float16), x, mode=mode)
    assert (blocks["a"].dtype, blocks["b"].dtype) == (jnp.float32, jnp.float16)


# --- errors


def test_blocks_are_in_the_wider_of_both_dtypes_of_python_numbers_too():
    params = {"a": jnp.float32(2.0), "b": 1 / 3}
    blocks = hessian(lambda params: params["a"] * params["b"] ** 2, params)
    assert blocks["a"]["a"].dtype == jnp.float32
    assert blocks["a"]["b"].dtype == blocks["b"]["b"].dtype == jnp.float64
    assert hessian(lambda params: params["a"] ** 3, params, dense=True).dtype == jnp.float64


X = np.ones(3)
ERRORS = {
    "a mode of JAX": (
        lambda: jacobian(jnp.sin, X, mode="fwd"),
        ValueError,
        "`jacobian`: mode must be 'forward', 'reverse' or None, got 'fwd'. "
        "None chooses by the sizes of params and output.",
    ),
    "no bytes": (
        lambda: hessian(jnp.sum, X, chunk_bytes=0),
        ValueError,
        "`hessian`: chunk_bytes must be a positive whole number, got 0.",
    ),
    "half a byte": (
        lambda: jacobian(jnp.sin, X, chunk_bytes=0.5),
        TypeError,
        "`jacobian`: chunk_bytes must be a positive whole number, got 0.5.",
    ),
    "hessian of a vector": (
        lambda: hessian(jnp.sin, X),
        ValueError,
        "`hessian`: f must return a real scalar, got float64[3]. Take its mean or sum, or ask "
        "`jacobian` for the derivative of each element.",
    ),
    "jacobian of words": (
        lambda: jacobian(lambda x: {"y": x, "name": "sin"}, X),
        TypeError,
        "`jacobian`: f must return arrays of real floats, got {'y': float64[3], 'name': 'sin'}.",
    ),
    "no float": (
        lambda: hessian(jnp.sum, {"n": np.arange(3)}),
        TypeError,
        "`hessian`: params must hold floats to be differentiated, got n: int64[3]. "
        "Integers have no derivative: convert with .astype(jnp.float32) what is learnt.",
    ),
    "an empty tree": (
        lambda: jacobian(jnp.sin, {}),
        ValueError,
        "`jacobian`: params must hold at least one array, got {}. There is nothing to "
        "differentiate by.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_fault(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as found:
        call()
    assert str(found.value) == words
