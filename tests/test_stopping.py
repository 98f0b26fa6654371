import functools
import re
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.stopping import Reason, StopState, early_stopping

NAN, INF = float("nan"), float("inf")
GOING_ON, PATIENCE = Reason.GOING_ON, Reason.PATIENCE
THRESHOLD, DIVERGED = Reason.THRESHOLD, Reason.DIVERGED


class Row(NamedTuple):
    name: str
    arguments: dict
    values: list
    stop: int | None  # index of the check that stopped
    reason: Reason
    best: float
    wait: int


def row(name, arguments, values, stop, reason, best, wait):
    return Row(name, {"mode": "min", "patience": 2} | arguments, values, stop, reason, best, wait)


MAX = {"mode": "max"}
TABLE = [
    row("falling", {}, [5, 4, 3, 2], None, GOING_ON, 2, 0),
    row("rising", {}, [1, 2, 3, 4], 2, PATIENCE, 1, 2),
    row("flat", {}, [1, 1, 1, 1], 2, PATIENCE, 1, 2),
    row("not yet", {}, [1, 2], None, GOING_ON, 1, 1),
    row("reset", {}, [3, 4, 2, 3, 1, 5], None, GOING_ON, 1, 1),
    row("reset, then flat", {}, [3, 4, 2, 3, 3, 1], 4, PATIENCE, 2, 2),
    row("an earlier best counts", {}, [1, 3, 2, 0], 2, PATIENCE, 1, 2),
    row("nothing after the stop", {}, [1, 1, 1, 0, 0, 0], 2, PATIENCE, 1, 2),
    row("patience 1", {"patience": 1}, [2, 1, 1, 0], 2, PATIENCE, 1, 1),
    row("patience 1, NaN first", {"patience": 1}, [NAN, 1], 0, PATIENCE, INF, 1),
    row("patience 3", {"patience": 3}, [1, 1, 1, 1, 0], 3, PATIENCE, 1, 3),
    row("NaN first", {}, [NAN, 2, 1], None, GOING_ON, 1, 0),
    row("NaN first, then flat", {}, [NAN, 2, 2, 2], 3, PATIENCE, 2, 2),
    row("NaN only", {}, [NAN, NAN, NAN], 1, PATIENCE, INF, 2),
    row("NaN between", {}, [3, NAN, 2, NAN, 1], None, GOING_ON, 1, 0),
    row("NaN counts", {}, [3, NAN, 4, 1], 2, PATIENCE, 3, 2),
    row("inf first", {}, [INF, 2, 1], None, GOING_ON, 1, 0),
    row("inf only", {}, [INF, INF], 1, PATIENCE, INF, 2),
    row("inf counts", {}, [3, INF, INF, 1], 2, PATIENCE, 3, 2),
    row("-inf is not the best", {}, [3, -INF, 2], None, GOING_ON, 2, 0),
    row("-inf counts", {}, [3, -INF, -INF, 2], 2, PATIENCE, 3, 2),
    row("exactly min_delta", {"min_delta": 0.5}, [3, 2.5, 2.5], 2, PATIENCE, 3, 2),
    row("just above min_delta", {"min_delta": 0.5}, [3, 2.4375, 2.375], None, GOING_ON, 2.4375, 1),
    row("small steps add up", {"min_delta": 0.5}, [3, 2.75, 2.25], None, GOING_ON, 2.25, 0),
    row("a first large value", {"min_delta": 0.5}, [1e30], None, GOING_ON, 1e30, 0),
    row("start leaves out", {"start_from_epoch": 3}, [1, 1, 1, 5, 5, 5], 5, PATIENCE, 5, 2),
    row("start sets no best", {"start_from_epoch": 2}, [1, 1], None, GOING_ON, INF, 0),
    row("start, then NaN", {"start_from_epoch": 1}, [1, NAN, NAN], 2, PATIENCE, INF, 2),
    row("start 1", {"start_from_epoch": 1}, [0, 3, 2, 2], None, GOING_ON, 2, 1),
    row("threshold reached", {"stopping_threshold": 1}, [3, 2, 1, 0], 2, THRESHOLD, 1, 0),
    row("threshold passed", {"stopping_threshold": 1}, [3, 0.5], 1, THRESHOLD, 0.5, 0),
    row("threshold missed", {"stopping_threshold": 1}, [3, 1.0625], None, GOING_ON, 1.0625, 0),
    row("threshold, not NaN", {"stopping_threshold": 1}, [3, NAN], None, GOING_ON, 3, 1),
    row("threshold, not -inf", {"stopping_threshold": 1}, [3, -INF], None, GOING_ON, 3, 1),
    row(
        *("threshold without improvement", {"stopping_threshold": 1, "min_delta": 3}),
        *([3, 1], 1, THRESHOLD, 3, 1),
    ),
    row(
        *("threshold before patience", {"stopping_threshold": 1, "min_delta": 3}),
        *([3, 2, 1], 2, THRESHOLD, 3, 2),
    ),
    row(
        *("start silences the threshold", {"stopping_threshold": 1, "start_from_epoch": 2}),
        *([0, 0, 0], 2, THRESHOLD, 0, 0),
    ),
    row("divergence", {"divergence_threshold": 5}, [3, 6, 1], 1, DIVERGED, 3, 1),
    row("divergence at once", {"divergence_threshold": 5}, [6, 1], 0, DIVERGED, 6, 0),
    row("divergence, not equal", {"divergence_threshold": 5}, [5, 4], None, GOING_ON, 4, 0),
    row("divergence, inf", {"divergence_threshold": 5}, [3, INF], 1, DIVERGED, 3, 1),
    row("divergence, not NaN", {"divergence_threshold": 5}, [3, NAN], None, GOING_ON, 3, 1),
    row("divergence, not -inf", {"divergence_threshold": 5}, [3, -INF], None, GOING_ON, 3, 1),
    row("divergence before patience", {"divergence_threshold": 5}, [3, 4, 6], 2, DIVERGED, 3, 2),
    row(
        *("start silences divergence", {"divergence_threshold": 5, "start_from_epoch": 1}),
        *([6, 3], None, GOING_ON, 3, 0),
    ),
    row(
        *("both thresholds, stop", {"stopping_threshold": 1, "divergence_threshold": 5}),
        *([3, 1], 1, THRESHOLD, 1, 0),
    ),
    row(
        *("both thresholds, diverge", {"stopping_threshold": 1, "divergence_threshold": 5}),
        *([3, 6], 1, DIVERGED, 3, 1),
    ),
    row("max, rising", MAX, [1, 2, 3], None, GOING_ON, 3, 0),
    row("max, falling", MAX, [3, 2, 1], 2, PATIENCE, 3, 2),
    row("max, below 0", MAX, [-3, -2, -2], None, GOING_ON, -2, 1),
    row("max, NaN first", MAX, [NAN, 1, 2], None, GOING_ON, 2, 0),
    row("max, inf is not the best", MAX, [1, INF, 2], None, GOING_ON, 2, 0),
    row("max, -inf only", MAX, [-INF, -INF], 1, PATIENCE, -INF, 2),
    row("max, exactly min_delta", MAX | {"min_delta": 0.5}, [1, 1.5, 1.5], 2, PATIENCE, 1, 2),
    row("max, above min_delta", MAX | {"min_delta": 0.5}, [1, 1.5625], None, GOING_ON, 1.5625, 0),
    row("max, threshold", MAX | {"stopping_threshold": 0.5}, [0, 0.5], 1, THRESHOLD, 0.5, 0),
    row("max, not at inf", MAX | {"stopping_threshold": 0.5}, [0, INF], None, GOING_ON, 0, 1),
    row("max, divergence", MAX | {"divergence_threshold": 0.5}, [1, 0.25], 1, DIVERGED, 1, 1),
    row("max, -inf diverges", MAX | {"divergence_threshold": 0.5}, [1, -INF], 1, DIVERGED, 1, 1),
]
IDS = [r.name for r in TABLE]
LENGTH = max(len(r.values) for r in TABLE)


def expected(r):
    step = len(r.values) if r.stop is None else r.stop + 1
    return StopState(np.float32(r.best), np.int32(r.wait), np.int32(step), np.int32(r.reason))


def whole(words):
    return f"^{re.escape(words)}$"


def rule(r):
    return early_stopping("value", **r.arguments)


def eagerly(stopping, values):
    return functools.reduce(lambda s, value: stopping.update(value, s), values, stopping.init())


@functools.partial(jax.jit, static_argnames="mode")
def jitted_update(arguments, value, s, *, mode):
    return early_stopping("value", mode=mode, **arguments).update(value, s)


def jitted(arguments, values, length, *, mode):
    s = early_stopping("value", patience=1, mode=mode).init()
    for value in values[: int(length)]:
        s = jitted_update(arguments, value, s, mode=mode)
    return s


@functools.partial(jax.jit, static_argnames="mode")
def scanned(arguments, values, length, *, mode):
    stopping = early_stopping("value", mode=mode, **arguments)

    def body(s, indexed):
        i, value = indexed
        after = stopping.update(value, s)
        return jax.tree.map(lambda a, b: jnp.where(i < length, a, b), after, s), None

    return jax.lax.scan(body, stopping.init(), (jnp.arange(len(values)), values))[0]


@functools.partial(jax.jit, static_argnames="mode")
def looped(arguments, values, length, *, mode):
    stopping = early_stopping("value", mode=mode, **arguments)

    def body(carry):
        i, s = carry
        return i + 1, stopping.update(values[i], s)

    def goes_on(carry):
        i, s = carry
        return (i < length) & (s.reason == GOING_ON.value)

    return jax.lax.while_loop(goes_on, body, (0, stopping.init()))[1]


def as_arrays(r):
    """A row's numbers, values and their count, for one program that serves every row of a mode."""
    worst = INF if r.arguments["mode"] == "min" else -INF
    numbers = {"min_delta": 0.0, "start_from_epoch": 0}
    numbers |= {"stopping_threshold": -worst, "divergence_threshold": worst}
    numbers |= {name: value for name, value in r.arguments.items() if name != "mode"}
    dtypes = {"patience": jnp.int32, "start_from_epoch": jnp.int32}
    arguments = {k: jnp.asarray(v, dtypes.get(k, jnp.float32)) for k, v in numbers.items()}
    values = r.values + [0] * (LENGTH - len(r.values))
    return arguments, jnp.asarray(values, jnp.float32), jnp.asarray(len(r.values))


@pytest.mark.parametrize("r", TABLE, ids=IDS)
def test_every_row_of_the_truth_table(r):
    chex.assert_trees_all_equal(eagerly(rule(r), r.values), expected(r))


@pytest.mark.parametrize("run", [jitted, scanned, looped])
@pytest.mark.parametrize("r", TABLE, ids=IDS)
def test_every_row_compiled_with_traced_arguments(r, run):
    state = run(*as_arrays(r), mode=r.arguments["mode"])
    chex.assert_trees_all_equal_shapes_and_dtypes(state, expected(r))
    chex.assert_trees_all_equal(state, expected(r))


@pytest.mark.parametrize("run", [scanned, looped])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_all_rows_at_once_under_vmap(mode, run):
    rows = [r for r in TABLE if r.arguments["mode"] == mode]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(as_arrays, rows))
    together = jax.vmap(functools.partial(run, mode=mode))(*stacked)
    wanted = jax.tree.map(lambda *leaves: np.stack(leaves), *map(expected, rows))
    chex.assert_trees_all_equal(together, wanted)


@pytest.mark.parametrize("r", TABLE, ids=IDS)
def test_improved_says_beforehand_what_update_takes_as_best(r):
    stopping = rule(r)
    s = stopping.init()
    for value in r.values:
        improved, before = bool(stopping.improved(value, s)), s
        s = stopping.update(value, s)
        assert improved == (float(s.best) != float(before.best))
        if improved:
            assert float(s.best) == np.float32(value)
            assert int(s.wait) == 0


def test_one_trace_serves_all_checks():
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(early_stopping("loss", patience=2).update, n=1))
    s = early_stopping("loss", patience=2).init()
    for value in [3.0, 2.0, 1.0]:
        s = update(value, s)
    assert float(s.best) == 1.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("x64", [False, True])
def test_the_state_keeps_its_dtypes_whatever_the_value_has(dtype, x64):
    with jax.enable_x64(x64):
        stopping = early_stopping("loss", patience=2)
        state = stopping.init()
        assert state.best.dtype == ("float64" if x64 else "float32")
        assert [leaf.dtype for leaf in state[1:]] == ["int32"] * 3
        after = stopping.update(np.asarray(1, dtype), state)
        chex.assert_trees_all_equal_dtypes(state, after)
        assert not any(leaf.weak_type for leaf in [*state, *after])


def test_a_bfloat16_value_is_compared_in_float32():
    # In bfloat16 2 + 2**-8 is 2, and an improvement of exactly min_delta would look larger.
    stopping = early_stopping("loss", patience=2, min_delta=2**-8)
    s = stopping.update(2 + 2**-8, stopping.init())
    assert not stopping.improved(jnp.bfloat16(2), s)
    assert stopping.update(jnp.bfloat16(2), s).wait == 1


def test_x64_keeps_the_digits_of_the_best():
    with jax.enable_x64(True):
        stopping = early_stopping("loss", patience=2)
        s = stopping.update(1 - 1e-12, stopping.update(1.0, stopping.init()))
        assert float(s.best) == 1 - 1e-12


@pytest.mark.parametrize("number", [np.float64, np.float32, jnp.float32, np.asarray])
def test_numbers_of_any_maker_mean_the_same(number):
    stopping = early_stopping(
        "loss",
        patience=np.int64(2),
        min_delta=number(0.5),
        stopping_threshold=number(0.25),
        divergence_threshold=number(8.0),
    )
    assert eagerly(stopping, [3.0, 2.5, 2.5]).reason == PATIENCE.value
    assert eagerly(stopping, [3.0, 0.25]).reason == THRESHOLD.value
    assert eagerly(stopping, [3.0, 9.0]).reason == DIVERGED.value


def test_a_state_from_numpy_goes_on():
    stopping = early_stopping("loss", patience=2)
    state = jax.tree.map(np.asarray, stopping.update(1.0, stopping.init()))
    chex.assert_trees_all_equal(stopping.update(2.0, state), eagerly(stopping, [1.0, 2.0]))


MODES = [
    *[(name, "min") for name in ["loss", "val_loss", "error", "val_mse", "mae", "rmse", "nll"]],
    *[(name, "min") for name in ["mean_squared_error", "log_loss", "val_perplexity", "Loss"]],
    *[(name, "max") for name in ["accuracy", "val_accuracy", "acc", "auc", "roc_auc", "AUROC"]],
    *[(name, "max") for name in ["f1", "val_f1_score", "f1 score", "precision", "recall", "r2"]],
    *[(name, "max") for name in ["r2_score", "val_iou", "mean-iou", "dice", "top5_accuracy"]],
]


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_the_mode_is_told_from_the_name(name, mode):
    assert early_stopping(name, patience=1).mode == mode
    assert early_stopping(name, patience=1).monitor == name


UNTOLD = ["val_elbo", "score", "brier_score", "", "accuracy_drop", "loss_scale", "entropy"]


@pytest.mark.parametrize("name", [*UNTOLD, "neg_mean_squared_error", "negative_loss"])
def test_a_name_that_tells_no_mode_is_refused(name):
    words = (
        "`early_stopping`: mode must be given where the name of the monitor does not tell it, "
        f"got monitor={name!r}. Pass mode='min' if smaller is better, else mode='max'."
    )
    with pytest.raises(ValueError, match=whole(words)):
        early_stopping(name, patience=1)
    assert early_stopping(name, patience=1, mode="max").mode == "max"


WHOLE = "must be a whole number of at least"
FIX_PATIENCE = "Pass 1 to stop at the first check without improvement."
FIX_DELTA = "Pass its size; mode has the direction."
FIX_START = "Pass the number of first checks to leave out."
FIX_THRESHOLD = "Pass None for no threshold."
ORDER = "stopping_threshold must be better than divergence_threshold, got"
SWAP = "Swap them, or pass the other mode."
REFUSED = [
    ({"patience": 0}, ValueError, f"patience {WHOLE} 1, got 0. {FIX_PATIENCE}"),
    ({"patience": 2.0}, TypeError, f"patience {WHOLE} 1, got 2.0. {FIX_PATIENCE}"),
    ({"patience": True}, TypeError, f"patience {WHOLE} 1, got True. {FIX_PATIENCE}"),
    ({"patience": None}, TypeError, f"patience {WHOLE} 1, got None. {FIX_PATIENCE}"),
    (
        {"patience": np.array([1, 2])},
        ValueError,
        "patience must be a scalar, got int64[2]. Map over several with jax.vmap.",
    ),
    (
        {"min_delta": -0.5},
        ValueError,
        f"min_delta must be a finite number of at least 0, got -0.5. {FIX_DELTA}",
    ),
    (
        {"min_delta": NAN},
        ValueError,
        f"min_delta must be a finite number of at least 0, got nan. {FIX_DELTA}",
    ),
    (
        {"min_delta": "small"},
        TypeError,
        f"min_delta must be a finite number of at least 0, got 'small'. {FIX_DELTA}",
    ),
    ({"start_from_epoch": -1}, ValueError, f"start_from_epoch {WHOLE} 0, got -1. {FIX_START}"),
    ({"start_from_epoch": 0.5}, TypeError, f"start_from_epoch {WHOLE} 0, got 0.5. {FIX_START}"),
    (
        {"stopping_threshold": NAN},
        ValueError,
        f"stopping_threshold must be a finite number, got nan. {FIX_THRESHOLD}",
    ),
    (
        {"divergence_threshold": -INF},
        ValueError,
        f"divergence_threshold must be a finite number, got -inf. {FIX_THRESHOLD}",
    ),
    (
        {"stopping_threshold": 2, "divergence_threshold": 1},
        ValueError,
        f"{ORDER} 2 and 1 with mode='min'. {SWAP}",
    ),
    (
        {"stopping_threshold": 1, "divergence_threshold": 2, "mode": "max"},
        ValueError,
        f"{ORDER} 1 and 2 with mode='max'. {SWAP}",
    ),
    (
        {"stopping_threshold": 1, "divergence_threshold": 1},
        ValueError,
        f"{ORDER} 1 and 1 with mode='min'. {SWAP}",
    ),
    (
        {"mode": "mim"},
        ValueError,
        "mode must be 'min' or 'max', got 'mim'. Did you mean 'min'?",
    ),
    (
        {"mode": "auto"},
        ValueError,
        "mode must be 'min' or 'max', got 'auto'. Known are: 'max', 'min'.",
    ),
    (
        {"monitor": np.mean(np.zeros(3))},
        TypeError,
        "monitor must be the name of a value in the history, got float64[]. "
        "Pass a name such as 'val_loss'.",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "words"), REFUSED, ids=[r[2][:40] for r in REFUSED])
def test_wrong_arguments_are_refused_in_words(arguments, kind, words):
    with pytest.raises(kind, match=whole(f"`early_stopping`: {words}")):
        early_stopping(**{"monitor": "loss", "patience": 1} | arguments)


def test_patience_must_be_said():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'patience'"):
        early_stopping("loss")


@pytest.mark.parametrize("function", ["update", "improved"])
def test_a_check_takes_one_number(function):
    words = (
        "`early_stopping`: the value of 'val_loss' must be a scalar, got float32[3]. "
        "Average it, or map the update with jax.vmap."
    )
    stopping = early_stopping("val_loss", patience=1)
    with pytest.raises(ValueError, match=whole(words)):
        getattr(stopping, function)(jnp.zeros(3), stopping.init())


def test_every_reason_has_words_of_its_own():
    assert Reason.GOING_ON == 0
    assert list(Reason) == list(range(len(Reason)))
    assert len({reason.words for reason in Reason}) == len(Reason)
    assert all(reason.words for reason in Reason)
    assert Reason(1) is Reason.PATIENCE
    assert Reason.PATIENCE.words == (
        "no improvement of the monitored value in `patience` checks in a row"
    )
