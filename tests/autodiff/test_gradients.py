"""Gradients against central differences, the choice of leaves as a table, every error's words."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.autodiff.gradients import grad, value_and_grad
from tests.autodiff import trees

PARAMS = {
    "encoder": [{"kernel": trees.draw(2, 2), "bias": trees.draw(2)}, {"kernel": trees.draw(3)}],
    "head": {"kernel": trees.draw(2), "steps": jnp.arange(3)},
}
E0, E1, HEAD = ("encoder/0/kernel", "encoder/0/bias"), ("encoder/1/kernel",), ("head/kernel",)
CHOICES = {
    "all": (None, (*E0, *E1, *HEAD)),
    "a folder": ("encoder/**", (*E0, *E1)),
    "every kernel": ("**/kernel", (E0[0], *E1, *HEAD)),
    "one": ("encoder/1/kernel", E1),
    "integers besides": ("head/*", HEAD),
    "two patterns": (["encoder/1/**", "head/kernel"], (*E1, *HEAD)),
    "patterns that overlap": (("encoder/**", "**/bias"), (*E0, *E1)),
    "by path": (lambda path, leaf: path.startswith("head"), HEAD),
    "by leaf": (lambda path, leaf: leaf.ndim == 1, (E0[1], *E1, *HEAD)),
}


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


def central(f, vector, step=1e-5):
    """Central differences of all elements at once."""
    steps = jnp.eye(vector.size) * step
    ahead, behind = jax.jit(jax.vmap(f))(
        vector[None] + jnp.stack([steps, -steps]).reshape(-1, vector.size)
    ).reshape(2, -1)
    return (ahead - behind) / (2 * step)


@pytest.mark.parametrize("kind", trees.TREES)
def test_gradients_are_those_of_central_differences_and_zero_where_there_are_none(kind, wide):
    params = trees.TREES[kind]()
    vector, rebuild = trees.flat(params)
    value, grads = jax.jit(value_and_grad(trees.objective))(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, jax.tree.map(jnp.asarray, params))
    for leaf, found in zip(*map(jax.tree.leaves, (params, grads)), strict=True):
        assert trees.floating(leaf) or bool(jnp.all(found == jnp.zeros_like(leaf)))
    if kind != "mixed floats":  # float32 has no digits for differences
        np.testing.assert_allclose(value, trees.objective(params), rtol=1e-12)
        expected = central(lambda v: trees.objective(rebuild(v)), vector)
        np.testing.assert_allclose(trees.flat(grads)[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_gradients_keep_the_dtype_and_follow_jax(dtype):
    x = trees.draw(4, dtype=dtype)
    f = lambda x: jnp.sum(jnp.sin(x) ** 2)  # noqa: E731  # one line, used twice
    chex.assert_trees_all_equal(grad(f)(x), jax.grad(f)(x))
    assert grad(f)(x).dtype == dtype


def test_plain_numbers_are_differentiated():
    grads = grad(lambda params: params["a"] ** 2 * params["n"])({"a": 3.0, "n": 2})
    assert (float(grads["a"]), int(grads["n"])) == (12.0, 0)


# --- the choice of leaves


def summed(params):
    leaves = [leaf for leaf in jax.tree.leaves(params) if trees.floating(leaf)]
    return sum(jnp.sum(leaf**3) for leaf in leaves) * jnp.sum(params["head"]["steps"])


def by_path(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.mark.parametrize("name", CHOICES)
def test_chosen_leaves_are_differentiated_and_the_others_frozen(name):
    wrt, chosen = CHOICES[name]
    value, grads = jax.jit(value_and_grad(summed, wrt=wrt))(PARAMS)
    assert float(value) == pytest.approx(float(summed(PARAMS)))
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, PARAMS)
    params, found = by_path(PARAMS), by_path(grads)
    for path, leaf in params.items():
        expected = 9 * leaf**2 if path in chosen else jnp.zeros_like(leaf)  # 0 + 1 + 2 = 3 steps
        np.testing.assert_allclose(found[path], expected, rtol=1e-5)


@pytest.mark.parametrize("name", CHOICES)
def test_only_chosen_leaves_are_inputs_of_the_differentiation(name):
    wrt, chosen = CHOICES[name]
    traced = []

    def f(params):
        traced.extend(p for p, x in by_path(params).items() if isinstance(x, jax.core.Tracer))
        return summed(params)

    grad(f, wrt=wrt)(PARAMS)
    assert sorted(traced) == sorted(chosen)


def test_a_frozen_leaf_may_be_complex():
    params = {"a": jnp.array(2.0), "z": jnp.array(1j)}
    grads = grad(lambda params: params["a"] * jnp.abs(params["z"]), wrt="a")(params)
    assert (float(grads["a"]), complex(grads["z"])) == (1.0, 0.0)


# --- composition


def test_auxiliary_values_arguments_and_keywords_pass_through():
    def f(x, y, *, z):
        return jnp.sum(x * y) * z, {"y": y}

    x, y = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    (value, aux), grads = value_and_grad(f, has_aux=True)(x, y, z=2.0)
    assert (float(value), aux["y"].tolist(), grads.tolist()) == (22.0, [3.0, 4.0], [6.0, 8.0])
    grads, aux = grad(f, has_aux=True)(x, y, z=2.0)
    assert (aux["y"].tolist(), grads.tolist()) == ([3.0, 4.0], [6.0, 8.0])
    assert grad(f, has_aux=True).__name__ == "f"


def test_it_composes_with_jit_vmap_and_grad(wide):
    params, x = {"w": trees.draw(3), "n": jnp.array(2)}, trees.draw(4, 3)
    f = lambda params, x: jnp.sin(jnp.sum(params["w"] ** 2 * x)) * params["n"]  # noqa: E731
    each = jax.jit(jax.vmap(grad(f), (None, 0)))(params, x)
    w = np.asarray(params["w"])
    expected = 4 * np.cos(np.asarray(x) @ w**2)[:, None] * w * np.asarray(x)
    np.testing.assert_allclose(each["w"], expected, rtol=1e-12)
    assert each["n"].tolist() == [0, 0, 0, 0]
    norm = lambda params: jnp.sum(grad(f)(params, x[0])["w"] ** 2)  # noqa: E731
    oracle = lambda w: jnp.sum(jax.grad(lambda w: f({"w": w, "n": 2}, x[0]))(w) ** 2)  # noqa: E731
    np.testing.assert_allclose(grad(norm)(params)["w"], jax.grad(oracle)(params["w"]), rtol=1e-12)


def test_a_second_call_does_not_trace_again():
    counted = chex.assert_max_traces(trees.objective, n=1)
    step = jax.jit(value_and_grad(counted))
    step(trees.draw(3))
    step(trees.draw(3, seed=1))


# --- errors

X = jnp.ones(3)
TREE = {"a": jnp.ones(2), "n": jnp.arange(2)}
ERRORS = {
    "not scalar": (
        lambda: grad(jnp.sin)(X),
        ValueError,
        "`grad`: f must return a real scalar, got float32[3]. Take its mean or sum, or ask "
        "`jacobian` for the derivative of each element.",
    ),
    "one element is not a scalar": (
        lambda: value_and_grad(jnp.sin)(X[:1]),
        ValueError,
        "`value_and_grad`: f must return a real scalar, got float32[1]. Take its mean or sum, or "
        "ask `jacobian` for the derivative of each element.",
    ),
    "complex": (
        lambda: grad(lambda x: jnp.sum(x) * 1j)(X),
        TypeError,
        "`grad`: f must return a real scalar, got complex64[]. Take its real part, or the square "
        "of its modulus.",
    ),
    "integers": (
        lambda: grad(lambda x: jnp.argmax(x))(X),
        TypeError,
        "`grad`: f must return a real scalar, got int32[]. Integers have no derivative: is there "
        "a rounding, a comparison or an argmax at the end of f?",
    ),
    "a bool": (
        lambda: grad(lambda x: x[0] > 0)(X),
        TypeError,
        "`grad`: f must return a real scalar, got bool[]. Integers have no derivative: is there "
        "a rounding, a comparison or an argmax at the end of f?",
    ),
    "nothing": (
        lambda: grad(lambda x: None)(X),
        TypeError,
        "`grad`: f must return a real scalar, got None.",
    ),
    "a pair": (
        lambda: grad(lambda x: (x[0], x))(X),
        TypeError,
        "`grad`: f must return a real scalar, got (float32[], float32[3]). Return auxiliary "
        "values beside the scalar with has_aux=True.",
    ),
    "no pair": (
        lambda: grad(jnp.sum, has_aux=True)(X),
        TypeError,
        "`grad`: f must return a pair (value, aux) with has_aux=True, got float32[]. "
        "Return a tuple of two.",
    ),
    "a triple": (
        lambda: value_and_grad(lambda x: (x[0], 1, 2), has_aux=True)(X),
        TypeError,
        "`value_and_grad`: f must return a pair (value, aux) with has_aux=True, "
        "got (float32[], 1, 2). Return a tuple of two.",
    ),
    "no scalar in the pair": (
        lambda: grad(lambda x: (x, x), has_aux=True)(X),
        ValueError,
        "`grad`: f must return a real scalar, got float32[3]. Take its mean or sum, or ask "
        "`jacobian` for the derivative of each element.",
    ),
    "an empty tree": (
        lambda: grad(lambda params: 0.0)({"a": [], "b": None}),
        ValueError,
        "`grad`: params must hold at least one array, got {'a': [], 'b': None}. "
        "There is nothing to differentiate by.",
    ),
    "no float": (
        lambda: grad(lambda params: 0.0)({"a": jnp.arange(2), "b": True, "c": 3}),
        TypeError,
        "`grad`: params must hold floats to be differentiated, got a: int32[2], b: True, c: 3. "
        "Integers have no derivative: convert with .astype(jnp.float32) what is learnt.",
    ),
    "no float in an array": (
        lambda: grad(jnp.sum)(jnp.arange(2)),
        TypeError,
        "`grad`: params must hold floats to be differentiated, got int32[2]. "
        "Integers have no derivative: convert with .astype(jnp.float32) what is learnt.",
    ),
    "complex params": (
        lambda: grad(lambda params: 0.0)({"a": X, "z": X * 1j}),
        TypeError,
        "`grad`: params must be real where they are differentiated, got z: complex64[3]. "
        "Hold the real and the imaginary part as two leaves.",
    ),
    "no arrays": (
        lambda: grad(lambda params: 0.0)({"a": X, "name": "adam", "f": np.array(["x"])}),
        TypeError,
        "`grad`: params must hold arrays alone, got f: <U1[1], name: 'adam'. "
        "Give f the others as further arguments, or by functools.partial.",
    ),
    "an unmatched pattern": (
        lambda: grad(lambda params: 0.0, wrt="encoder/**")(TREE),
        ValueError,
        "`grad`: a pattern must match some path of params, got 'encoder/**'. The paths are a, n.",
    ),
    "one of two unmatched": (
        lambda: grad(lambda params: 0.0, wrt=["a", "b"])(TREE),
        ValueError,
        "`grad`: a pattern must match some path of params, got 'b'. The paths are a, n.",
    ),
    "a pattern of a subtree": (
        lambda: grad(lambda params: 0.0, wrt="head")({"head": {"w": X}, "body": X}),
        ValueError,
        "`grad`: a pattern must match some path of params, got 'head'. Did you mean 'head/**'? "
        "The paths are body, head/w.",
    ),
    "a misspelt pattern": (
        lambda: grad(lambda params: 0.0, wrt="haed")({"head": X}),
        ValueError,
        "`grad`: a pattern must match some path of params, got 'haed'. Did you mean 'head'? "
        "The paths are head.",
    ),
    "two leaves of one path": (
        lambda: grad(lambda params: 0.0, wrt="a/b")({"a/b": X, "a": {"b": X}}),
        ValueError,
        "`paths`: each leaf must have a path of its own, got 'a/b' twice. Rename the key that has "
        "a '/' in it.",
    ),
    "no function": (
        lambda: grad(X),
        TypeError,
        "`grad`: f must be a function, got float32[3]. Give it first, its arguments after it.",
    ),
    "a pattern of integers": (
        lambda: value_and_grad(lambda params: 0.0, wrt="n")(TREE),
        TypeError,
        "`value_and_grad`: params must hold floats to be differentiated, got n: int32[2]. "
        "Integers have no derivative: convert with .astype(jnp.float32) what is learnt.",
    ),
    "a predicate that is never true": (
        lambda: grad(lambda params: 0.0, wrt=lambda path, leaf: False)(TREE),
        ValueError,
        "`grad`: wrt must choose at least one leaf of params, got none of a, n. "
        "Give a pattern, or None for all.",
    ),
    "no patterns": (
        lambda: grad(lambda params: 0.0, wrt=[])(TREE),
        ValueError,
        "`grad`: wrt must choose at least one leaf of params, got none of a, n. "
        "Give a pattern, or None for all.",
    ),
    "wrt of another kind": (
        lambda: grad(jnp.sum, wrt=0),
        TypeError,
        "`grad`: wrt must be a pattern of paths, a sequence of them, a function (path, leaf) -> "
        "bool or None, got 0.",
    ),
    "wrt of numbers": (
        lambda: value_and_grad(jnp.sum, wrt=(0, 1)),
        TypeError,
        "`value_and_grad`: wrt must be a pattern of paths, a sequence of them, a function "
        "(path, leaf) -> bool or None, got (0, 1).",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_fault(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as found:
        call()
    assert str(found.value) == words


def test_errors_are_the_same_under_jit():
    with pytest.raises(ValueError, match=r"^`grad`: f must return a real scalar, got float32\[3\]"):
        jax.jit(grad(partial(jnp.multiply, 2.0)))(X)
