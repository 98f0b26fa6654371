"""What `as_model` takes for a guest, and how it refuses all else."""

import functools
import subprocess
import sys

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import optax
import pytest

import funcnet as fn
from funcnet.nn.guests import as_model
from funcnet.nn.guests.common import required
from tests.nn.guests.training import KEY, X


def scaled(params, x):
    return params * x


def ones(key, x):
    return jnp.ones(())


def test_a_function_with_its_init_is_a_model():
    model = as_model(scaled, init=ones)
    params, model_state = model.init(KEY, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert model_state == {}
    chex.assert_trees_all_equal(model.apply(3 * params, {}, X, key=KEY), (3 * X, {}))


def test_a_model_is_itself():
    model = fn.dense(3)
    assert as_model(model) is model


UNSEEN = "`as_model`: a function f(params, x) needs its init(key, x) -> params, got init=None. "
AS_IT_IS = "A function x -> y without params goes into `fn.sequential` as it is."
WITH_INIT = "`as_model`: init belongs to a function f(params, x), got it with "
REFUSED = {
    "a function without init": (scaled, None, UNSEEN + AS_IT_IS),
    "an activation": (jax.nn.relu, None, UNSEEN + AS_IT_IS),
    "an activation with an option": (jax.nn.gelu, None, UNSEEN + AS_IT_IS),
    "an activation with an option and init": (
        jax.nn.gelu, ones,
        "`as_model`: a function that comes with init must be f(params, x), got gelu({gelu}). "
        "Wrap it, `lambda params, x: ...`; a function x -> y without params goes into "
        "`fn.sequential` as it is.",
    ),
    "a class": (linen.Dense, None,
        f"`as_model`: guest must be a flax.linen.Module or a function f(params, x), got "
        f"{linen.Dense!r}. Make an instance if it is a class."),
    "a number": (3, None,
        "`as_model`: guest must be a flax.linen.Module or a function f(params, x), got 3. "
        "Make an instance if it is a class."),
    "init with a module": (linen.Dense(3), ones,
        f"{WITH_INIT}{linen.Dense(3)!r}. Leave it out: any other guest makes its own params."),
    "a factory for stax with more": (
        lambda rate, training: None, None,
        "`as_model`: a factory must have one required parameter, training, got rate, training in "
        "<lambda>. Bind the others, `lambda training: <lambda>(..., training=training)` say."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_guest_is_refused(case):
    guest, init, words = REFUSED[case]
    with pytest.raises(TypeError) as raised:
        as_model(guest, init)
    gelu = ", ".join(map(str, fn.nn.guests.common.parameters(jax.nn.gelu).values()))
    assert str(raised.value) == words.replace("{gelu}", gelu)


def test_an_optimizer_is_no_guest():
    with pytest.raises(TypeError, match="guest must be"):
        as_model(optax.adam(1e-3))


@pytest.mark.parametrize(("parameter", "library"), [("rngs", "flax.nnx"), ("key", "equinox")])
def test_a_factory_of_a_library_that_is_not_there(parameter, library, monkeypatch):
    monkeypatch.delitem(sys.modules, library, raising=False)
    make = {"rngs": lambda rngs: None, "key": lambda key: None}[parameter]
    with pytest.raises(TypeError) as raised:
        as_model(make)
    assert str(raised.value) == (
        f"`as_model`: a factory whose parameter is named {parameter} makes a module of {library}, "
        "which must be imported, got a program without it. "
        f"`import {library}` before this."
    )


def test_no_library_is_imported_for_the_question():
    script = (
        "import sys, funcnet as fn\n"
        "try: fn.as_model(3)\n"
        "except TypeError: pass\n"
        "fn.as_model((lambda key, shape: (shape, ()), lambda params, x: x))\n"
        "libraries = {'flax.nnx', 'equinox', 'haiku', 'jax.example_libraries.stax'}\n"
        "there = libraries & set(sys.modules)\n"
        "sys.exit(f'{there} imported' if there else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class Made:
    def __init__(self, features, *, rngs, bias=True):
        pass


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (Made, ["features", "rngs"]),
        (functools.partial(Made, 3), ["rngs"]),
        (functools.partial(Made, 3, rngs=None), []),
        (functools.partial(functools.partial(Made, 3), bias=False), ["rngs"]),
        (lambda x, *more, **options: x, ["x"]),
        (lambda key=None: key, []),
        (max, []),
    ],
)
def test_required_parameters_are_seen(make, names):
    assert required(make) == names
