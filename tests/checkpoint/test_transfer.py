"""Params taken over: some of them, renamed, onto others that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.checkpoint import MismatchError, Store, save_weights, transfer
from tests.checkpoint.trees import same

SAVED = {
    "encoder": {"0": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "1": {"w": jnp.full((2, 2), 2.0)}},
    "head": {"w": jnp.ones((2, 10))},
}
PARAMS = {
    "encoder": {"0": {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}, "1": {"w": jnp.zeros((2, 2))}},
    "head": {"w": jnp.zeros((2, 3))},
}


@pytest.fixture(scope="module", params=["a directory", "a file"])
def source(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("source")
    if request.param == "a file":
        save_weights(place / "w.safetensors", SAVED)
        return place / "w.safetensors"
    with Store(place) as store:
        store.save(1, {"params": SAVED, "best": {"params": PARAMS}, "step": 3})
    return place


def test_a_head_is_replaced(source):
    found = transfer(source, PARAMS, skip="head/**")
    assert same(found, {"encoder": SAVED["encoder"], "head": PARAMS["head"]})


def test_some_are_taken_by_their_paths(source):
    found = transfer(source, PARAMS, take=["**/b", "encoder/1/*"])
    want = {"0": {"w": jnp.zeros((2, 2)), "b": jnp.ones(2)}, "1": SAVED["encoder"]["1"]}
    assert same(found, {"encoder": want, "head": PARAMS["head"]})


@pytest.mark.parametrize(
    "rename",
    [
        {"encoder/0/*": "trunk/*", "encoder/*/w": "top/*"},
        lambda path: path.replace("encoder/0", "trunk").replace("encoder/1/w", "top/1"),
    ],
    ids=["patterns", "a function"],
)
def test_paths_are_renamed(source, rename):
    params = {"trunk": PARAMS["encoder"]["0"], "top": {"1": jnp.zeros((2, 2))}}
    found = transfer(source, params, rename=rename)
    assert same(found, {"trunk": SAVED["encoder"]["0"], "top": {"1": SAVED["encoder"]["1"]["w"]}})


def test_what_does_not_fit_is_named_at_once(source):
    params = {"encoder": {"0": {"w": jnp.ones(2)}, "2": jnp.ones(1)}, "head": np.float64(1)}
    with pytest.raises(MismatchError) as caught:
        transfer(source, params)
    where = source if source.is_file() else f"step 1 of {source}"
    assert str(caught.value) == (
        f"`transfer`: {where} must hold what is to be taken, got\n"
        "  encoder/0/w: expected float32[2], got float32[2, 2]\n"
        "  encoder/2: missing, expected one float32[1]\n"
        "  head: missing, expected one float64[]\n"
        "Name it in skip, or rename it; saved are "
        "encoder/0/b, encoder/0/w, encoder/1/w, head/w."
    )


def test_two_can_not_become_one(source):
    with pytest.raises(MismatchError, match="w: got 2: encoder/0/w, encoder/1/w, expected one"):
        transfer(source, {"w": jnp.ones((2, 2))}, rename={"encoder/0/w": "w", "encoder/1/w": "w"})


def test_another_part_of_a_run_is_taken(source):
    if source.is_file():
        return
    assert same(transfer(source, SAVED, under="best/params", skip="head/*")["head"], SAVED["head"])
    with pytest.raises(MismatchError, match=r"got 'parms'\. Did you mean 'params'"):
        transfer(source, PARAMS, under="parms")


def test_what_is_taken_lives_where_the_params_do(source):
    device = jax.devices()[0]
    params = jax.device_put({"encoder": PARAMS["encoder"]}, device)
    found = transfer(source, params)["encoder"]
    assert all(leaf.committed for leaf in jax.tree.leaves(found))
    abstract = jax.eval_shape(lambda: params)
    assert same(transfer(source, abstract), transfer(source, params))


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"take": "head"}, ValueError, "`transfer`: a pattern must match .* 'head'. Did you mean"),
        ({"skip": "haed/w"}, ValueError, "`transfer`: a pattern must match some path.*'haed/w'"),
        ({"take": 3}, TypeError, "`transfer`: take must be path patterns, got 3"),
        ({"rename": {"a/**": "b/*"}}, ValueError, "must have the same wildcards in the same order"),
        (
            {"rename": "a"},
            TypeError,
            "rename must be a dict of path patterns, or a function, got 'a'",
        ),
    ],
)
def test_what_is_refused(source, arguments, kind, words):
    with pytest.raises(kind, match=words):
        transfer(source, PARAMS, **arguments)


def test_a_pretrained_network_trains_on(tmp_path):
    x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    old, new = (fn.sequential(fn.dense(4), jnp.tanh, fn.dense(n)) for n in (3, 1))
    before = old.init(jax.random.key(0), x)[0]
    save_weights(tmp_path / "old.safetensors", before)
    params = new.init(jax.random.key(1), x)[0]
    found = transfer(tmp_path / "old.safetensors", params, take="0/**")
    assert same(found["0"], before["0"])
    assert same(found["2"], params["2"])
