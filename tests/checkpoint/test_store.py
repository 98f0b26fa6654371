"""What a store saves comes back bit for bit, whatever happens on the way."""

import asyncio
import gc
import logging
import os
import resource
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.checkpoint import (
    Mark,
    MismatchError,
    NothingSavedError,
    NotSavedError,
    Store,
    arrays,
    every,
    files,
    restore,
    steps,
    unknown,
)
from funcnet.checkpoint.leaves import DTYPES
from tests.checkpoint.trees import same, small, varied

pytestmark = pytest.mark.filterwarnings(
    # Orbax 0.12 leaves coroutines unawaited where a write fails (2026-11)
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    tree = varied()
    description = {"data": {"shape": (8, 3)}, "rate": 0.1, "none": None, "flag": True}
    with Store(tmp_path) as store:
        store.save(5, tree, description, metric=0.25)
        found = store.restore(tree, description=description)
    assert found.step == 5
    assert same(found.tree, tree)
    assert found.description == description | {"data": {"shape": [8, 3]}}


def test_every_dtype_comes_back_bit_for_bit(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 2, 24).astype(np.uint8)
    tree = {name: drawn.astype(jnp.dtype(name)) for name in DTYPES}
    on_device = [
        n for n in DTYPES if jax.dtypes.canonicalize_dtype(n) == n and n != "float4_e2m1fn"
    ]
    tree |= {f"{name} there": jnp.asarray(tree[name]) for name in on_device}
    with Store(tmp_path) as store:
        store.save(0, tree)
        assert same(store.restore(tree).tree, tree)


def test_shapes_alone_are_enough_to_restore(tmp_path):
    tree = small()
    with Store(tmp_path) as store:
        store.save(0, tree)
    found = restore(tmp_path, jax.eval_shape(small)).tree
    assert same(found, tree)
    assert not found["w"].committed
    assert not restore(tmp_path, tree).tree["w"].committed
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), tree)
    assert restore(tmp_path, placed).tree["w"].committed


def test_a_train_state_goes_on_as_if_nothing_had_been(tmp_path):
    x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    trainer = fn.Trainer(
        fn.sequential(fn.dense(4), fn.dropout(0.1), fn.dense(1)),
        loss=lambda y_pred, y: (y_pred - y) ** 2,
        optimizer=optax.adam(0.1),
    )
    whole = trainer.fit((x, x), epochs=2, batch_size=16).last
    half = trainer.fit((x, x), epochs=1, batch_size=16).last
    with Store(tmp_path) as store:
        store.save(int(half.step), half)
        state = store.restore(jax.eval_shape(trainer.init, jax.random.key(0), x)).tree
    assert same(trainer.fit((x, x), state=state, epochs=2, batch_size=16).last, whole)


def test_what_is_saved_may_change_or_be_donated_at_once(tmp_path, monkeypatch):
    held, begin = threading.Event(), arrays.begin

    def slowly(directory, values):
        wait = begin(directory, values)
        return lambda: (held.wait(30), wait())

    monkeypatch.setattr(arrays, "begin", slowly)
    device, host = jnp.arange(2.0**16), np.arange(2.0**16)
    want = {"device": jnp.copy(device), "host": host.copy()}
    use_up = jax.jit(lambda a: a * 0 - 1, donate_argnums=0)
    with Store(tmp_path) as store:
        store.save(0, {"device": device, "host": host})
        for _ in range(3):
            device = use_up(device)
        host[:] = -1
        held.set()
        assert same(store.restore(want).tree, want)


def test_the_newest_and_the_best_are_kept(tmp_path):
    metrics = [0.5, 0.1, 0.4, float("nan"), 0.1, 0.3, None]
    for mode, best in (("min", [1, 4]), ("max", [0, 2])):
        with Store(tmp_path / mode, keep=2, keep_best=2, mode=mode) as store:
            for step, metric in enumerate(metrics):
                store.save(step, {"a": np.float32(step)}, metric=metric)
        assert steps(tmp_path / mode) == sorted({*best, 5, 6})
        assert sorted(p.name for p in (tmp_path / mode).iterdir())[0] == ".lock"
        assert len(list((tmp_path / mode).iterdir())) == 5


def test_a_step_may_be_saved_again(tmp_path):
    with Store(tmp_path, keep=1) as store:
        store.save(3, {"a": 1})
        store.save(3, {"a": 2})
        assert store.restore({"a": 0}).tree == {"a": 2}
    with pytest.raises(ValueError, match="must be open, got one that was closed"):
        store.save(4, {"a": 1})


def test_what_is_not_known_comes_back_by_path(tmp_path):
    history = {"loss": np.arange(3.0), "val": {"acc": np.ones(2)}}
    tree = {"history": history, "seen": 12, "key": jax.random.key(0)}
    with Store(tmp_path) as store:
        store.save(0, tree)
    found = restore(tmp_path, {"history": unknown(), "seen": 0, "key": unknown()}).tree
    assert same(found["history"], {"loss": np.arange(3.0), "val/acc": np.ones(2)})
    assert found["seen"] == 12
    assert same(found["key"], {"": jax.random.key(0)})
    assert set(restore(tmp_path, unknown()).tree) == {*fn.tree.paths(tree)}
    with pytest.raises(MismatchError, match="history: expected 39 bytes at most, got 40"):
        restore(tmp_path, tree | {"history": unknown(at_most=39)})


def test_all_differences_are_named_at_once(tmp_path):
    with Store(tmp_path) as store:
        store.save(2, varied(), {"batch_size": 32, "data": {"digest": "ab"}, "old": 1})
    like = varied()
    like["nested"]["list"][0] = jnp.ones(3)
    like["python"][1], like["x64"] = -3.0, np.float32(1)
    like["keys"] = (jax.random.key(1, impl="rbg"), like["keys"][1])
    del like["mask"]
    like["new"] = jnp.ones((1, 2))
    with pytest.raises(MismatchError) as caught:
        restore(
            tmp_path,
            like,
            description={"batch_size": 64, "data": {"digest": "cd"}, "new": None},
            accept_changes=("data", "old"),
        )
    assert str(caught.value) == (
        f"`restore`: step 2 of {tmp_path} must hold what is asked for, got\n"
        "  keys/0: expected key<rbg>[], got key<fry>[]\n"
        "  nested/list/0: expected float32[3], got float32[2]\n"
        "  new: missing, expected float32[1, 2]\n"
        "  python/1: expected a Python float, got a Python int\n"
        "  x64: expected float32[], got float64[]\n"
        "  mask: not expected, got bool[2]\n"
        "  batch_size: expected 64, saved with 32\n"
        "  new: expected None, saved with none\n"
        "Ask for what was saved, name what may differ of the description in accept_changes, or "
        "take params alone with `fn.checkpoint.transfer`."
    )


REFUSED = {
    "object": (
        lambda store: store.save(0, {"a": np.array(["x"]), "b": object(), "c": "fine"}),
        TypeError,
        "`save`: each leaf must be an array of numbers, a key, or a bool, int, float or str, got "
        r"a: <U1\[1\]; b: object. Leave it out",
    ),
    "step": (
        lambda store: store.save(-1, {}),
        ValueError,
        "`save`: step must be a whole number from 0 on, got -1",
    ),
    "metric": (lambda store: store.save(0, {}, metric="a"), TypeError, "`save`: metric must be"),
    "description": (
        lambda store: store.save(0, {}, {"data": {"x": np.zeros(2)}}),
        TypeError,
        r"finite numbers.*got float64\[2\] for data/x",
    ),
    "not finite": (lambda store: store.save(0, {}, {"a": np.inf}), TypeError, "got inf for a"),
    "no dict": (lambda store: store.save(0, {}, [1]), TypeError, "description must be a dict"),
    "directory": (lambda store: Store(3), TypeError, "`Store`: directory must be a path, got 3"),
    "bucket": (lambda store: Store("gs://a/b"), ValueError, "must be a folder of this machine"),
    "keep": (lambda store: Store("x", keep=0), ValueError, "`Store`: keep must be a positive"),
    "best": (lambda store: Store("x", keep_best=-1), ValueError, "keep_best must be a positive"),
    "mode": (lambda store: Store("x", mode="mix"), ValueError, "must be 'min' or 'max', got 'mix'"),
    "none saved": (lambda store: store.restore({}), NothingSavedError, "a step must have"),
    "accepted": (
        lambda store: (store.save(0, {}, {"batch_size": 3}),
                       store.restore({}, description={}, accept_changes=["batchsize"])),
        ValueError,
        "accept_changes must name entries of the description, got 'batchsize'. Did you mean 'b",
    ),
    "one name": (
        lambda store: store.restore({}, accept_changes="data"), TypeError, "must be a list of",
    ),
    "no such step": (
        lambda store: (store.save(0, {}), store.restore({}, step=3)),
        ValueError,
        "step must be one of those saved in .*, got 3; there are 0. Leave it out",
    ),
    "policy": (lambda store: every("x", steps=1.5), TypeError, "`every`: steps must be a positive"),
    "minutes": (lambda store: every("x", minutes=0), ValueError, "minutes must be a positive"),
    "unknown": (lambda store: unknown(at_most=0), ValueError, "`unknown`: at_most must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, case):
    call, kind, words = REFUSED[case]
    with Store(tmp_path) as store, pytest.raises(kind, match=words):
        call(store)


def test_a_second_store_waits_its_turn(tmp_path):
    with Store(tmp_path) as store:
        with pytest.raises(NotSavedError, match="one store at a time can save in"):
            Store(tmp_path)
        store.save(0, {"a": 1})
    Store(tmp_path).close()
    assert steps(tmp_path) == [0]


@pytest.fixture
def saved(tmp_path):
    """A store with a step, and a larger tree that is yet to be saved."""
    with Store(tmp_path / "run") as store:
        store.save(1, small())
        store.wait()
        yield store, {"a": jnp.ones(2**14), "w": small()["w"]}
    gc.collect()


def still_there(store):
    left = sorted(p.name for p in store.directory.iterdir())
    assert left == [".lock", "step-000000000001"]
    assert same(store.restore(small()).tree, small())


def test_a_full_disk_loses_nothing(saved, caplog):
    store, tree = saved
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, before[1]))
    try:
        store.save(2, tree)
        with pytest.raises(NotSavedError, match="step 2 must be written to"):
            store.save(3, tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    still_there(store)
    store.save(3, tree)
    assert same(store.restore(tree).tree, tree)


@pytest.mark.parametrize("name", ["fsync", "rename", "replace", "mkdir"])
def test_what_the_system_refuses_loses_nothing(saved, monkeypatch, name):
    store, tree = saved
    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        store.save(2, tree)
        with pytest.raises(NotSavedError, match=r"No space left on device\. What was saved before"):
            store.wait()
    assert calls
    files.clean(store.directory)
    still_there(store)


def test_a_directory_that_is_gone_is_said_so(saved, caplog):
    store, tree = saved
    shutil.rmtree(store.directory)
    store.save(2, tree)
    with caplog.at_level(logging.ERROR), pytest.raises(NotSavedError, match="No such file"):
        store.close()
    assert not store.directory.exists()


def test_a_step_that_can_not_be_replaced_stays(saved, monkeypatch):
    store, tree = saved
    rename, calls = os.rename, []

    def second_fails(old, new):
        calls.append(new)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", second_fails)
        store.save(1, tree)
        with pytest.raises(NotSavedError, match="Input/output error"):
            store.wait()
    still_there(store)


def test_a_place_that_can_not_be_written_to_is_said_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        NotSavedError, match=r"must be a folder that can be written to, got: .*Not a"
    ):
        Store(tmp_path / "file" / "run")


def test_a_loop_that_is_running_does_no_harm(tmp_path):
    async def in_a_notebook():
        with Store(tmp_path) as store:
            store.save(0, small())
            return store.restore(small()).tree

    assert same(asyncio.run(in_a_notebook()), small())


def test_an_error_on_the_way_is_not_hidden_by_one_in_the_writer(saved, monkeypatch):
    store, tree = saved
    monkeypatch.setattr(files, "seal", lambda draft: 1 / 0)
    store.save(2, tree)
    with pytest.raises(KeyError, match="first"), store:
        raise KeyError("first")


def test_old_steps_that_can_not_be_deleted_do_no_harm(tmp_path, monkeypatch, caplog):
    with Store(tmp_path, keep=1) as store:
        store.save(0, {"a": 1})
        monkeypatch.setattr(files, "discard", lambda *_: files.sync(tmp_path / "none"))
        store.save(1, {"a": 1})
        store.wait()
        assert store.steps() == [0, 1]
    assert "can't be deleted" in caplog.text


def test_a_crash_leaves_nothing_behind_and_takes_nothing_with_it(tmp_path):
    with Store(tmp_path) as store:
        store.save(1, {"a": 1})
    (tmp_path / ".saving-000000000002-00000001" / "arrays").mkdir(parents=True)
    (tmp_path / ".deleted-000000000000-0123abcd").mkdir()
    os.rename(tmp_path / "step-000000000001", tmp_path / ".replaced-000000000001-0123abcd")
    for name in (".saving-1", ".hidden", "step-1", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "notes")
    assert steps(tmp_path) == []
    with Store(tmp_path) as store:
        assert store.restore({"a": 0}).tree == {"a": 1}
    left = {path.name for path in tmp_path.iterdir()}
    others = {".saving-1", ".hidden", "step-1", "notes", "elsewhere"}
    assert left == {".lock", "step-000000000001", *others}


def test_a_process_that_ends_at_once_has_saved(tmp_path):
    code = (
        "import jax.numpy as jnp, sys; from funcnet.checkpoint import Store\n"
        "Store(sys.argv[1]).save(4, {'a': jnp.arange(2**18)})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    assert same(restore(tmp_path, {"a": jnp.zeros(2**18, int)}).tree, {"a": jnp.arange(2**18)})


def test_a_policy_says_when():
    begin = Mark(0, 0, 0.0)
    policy = every("runs", steps=10, minutes=2)
    assert [policy.due(begin, Mark(n, 5, 0.0)) for n in (9, 10, 19)] == [False, True, True]
    assert policy.due(begin, Mark(1, 0, 120.0))
    assert not policy.due(Mark(10, 0, 60.0), Mark(19, 9, 120.0))
    assert [policy.steps_left(n) for n in (0, 3, 10)] == [10, 7, 10]
    by_epoch = every("runs")
    assert (by_epoch.epochs, by_epoch.steps_left(3)) == (1, None)
    assert [by_epoch.due(Mark(9, 2, 0.0), Mark(99, e, 9.0)) for e in (2, 3)] == [False, True]


def test_a_policy_opens_its_store(tmp_path):
    with every(tmp_path, keep=3, keep_best=1, asynchronous=False).open("max") as store:
        assert (store.keep, store.keep_best, store.mode, store.asynchronous) == (3, 1, "max", False)
        store.save(0, {"a": 1})
        assert store.pending is None
