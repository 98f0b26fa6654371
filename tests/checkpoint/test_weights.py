"""Weights alone: exact, read by others, refused where they are not what they should be."""

import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import funcnet as fn
from funcnet.checkpoint import DamagedError, MismatchError, files, load_weights, save_weights
from funcnet.checkpoint.weights import DTYPES
from tests.checkpoint.trees import same
from tests.faults.hostile_files import packed


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_every_dtype_is_exact(path):
    drawn = np.random.default_rng(0).integers(0, 200, 24).astype(np.uint8)
    params = {"a": {name: drawn.astype(jnp.dtype(name)) for name in DTYPES.values()}}
    params |= {"none": np.zeros((0, 3)), "one": np.float32(2.5).reshape(()), "t": np.eye(3)[::-1].T}
    save_weights(path, params)
    assert same(load_weights(path), params)
    assert same(load_weights(path, params), params)


def test_a_model_s_params_come_back_as_they_were(path):
    model = fn.sequential(fn.dense(4), fn.batch_norm(), fn.dense(2))
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))[0]
    save_weights(str(path), params)
    assert same(load_weights(path, jax.eval_shape(lambda: params)), params)
    assert set(safetensors.numpy.load_file(path)) == set(fn.tree.paths(params))


def test_what_others_have_saved_is_read(path):
    saved = {"layer.weight": np.arange(6.0).reshape(2, 3), "layer.bias": np.ones(2, np.float16)}
    safetensors.numpy.save_file(saved, path, metadata={"format": "pt"})
    assert same(load_weights(path), saved)


def test_one_array_needs_no_name(path):
    save_weights(path, jnp.arange(3))
    assert load_weights(path).tolist() == [0, 1, 2]


def test_differences_are_named_at_once(path):
    save_weights(path, {"a": np.ones(2), "b": {"c": np.ones(3), "d": np.ones(1)}})
    with pytest.raises(MismatchError) as caught:
        load_weights(path, {"a": jnp.ones(2), "b": {"c": np.ones((3, 1))}, "e": np.ones(1)})
    assert str(caught.value) == (
        f"`load_weights`: {path} must hold the arrays of like, got\n"
        "  a: expected float32[2], got float64[2]\n"
        "  b/c: expected float64[3, 1], got float64[3]\n"
        "  e: missing, expected float64[1]\n"
        "  b/d: not expected, got float64[1]\n"
        "Take those that fit with `fn.checkpoint.transfer`."
    )


def test_a_save_that_fails_leaves_what_was_there(path, monkeypatch):
    save_weights(path, {"a": np.ones(2)})

    def full(place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, {"a": np.zeros(2)})
    assert load_weights(path)["a"].tolist() == [1, 1]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_can_not_be_saved_is_named(path):
    with pytest.raises(TypeError) as caught:
        save_weights(path, {"a": jax.random.key(0), "b": 3, "c": np.array(["x"]), "d": np.ones(1)})
    assert "got a: key<fry>[]; b: int; c: <U1[1]. Leave them out" in str(caught.value)
    with pytest.raises(TypeError, match="`save_weights`: path must be that of a file, got None"):
        save_weights(None, {})
    assert not path.exists()


def test_what_is_no_such_file_is_refused(path, tmp_path):
    path.write_bytes(
        packed({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, bytes(8))
    )
    with pytest.raises(DamagedError) as caught:
        load_weights(path)
    assert str(caught.value) == (
        f"`load_weights`: {path} must be a whole safetensors file, got one in which 'a' is "
        "float32[9], but has the bytes [0, 8]. Take a copy of it from elsewhere."
    )
    with pytest.raises(
        DamagedError, match=r"path must be that of a file, got .*: .* no plain file"
    ):
        load_weights(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none")


def test_every_byte_that_a_header_may_lose_is_missed(path):
    save_weights(path, {"a": {"b": jnp.arange(3)}, "c": jnp.ones((2, 2), jnp.bfloat16)})
    text = path.read_bytes()
    for cut in range(len(text)):
        path.write_bytes(text[:cut])
        with pytest.raises(DamagedError):
            load_weights(path)
    header = json.loads(text[8 : 8 + text[0] + 256 * text[1]])
    assert header.keys() == {"a/b", "c"}
