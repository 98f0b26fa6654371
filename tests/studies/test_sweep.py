"""A sweep is the same fits alone, compared, halved, resumed, and steered from outside."""

import json
import math
import os
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.stopping import Reason
from funcnet.studies.rungs import halving
from funcnet.studies.space import as_space, log_uniform, points, uniform, values
from funcnet.studies.sweeps import sweep

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 4)).astype(np.float32)
Y = (X @ np.array([[1.0], [-2.0], [0.5], [3.0]], np.float32)) + np.sin(X[:, :1])
DATA = X, Y
RATES = [0.001, 0.03, 0.1, 0.01]


def make_trainer(chosen):
    width, drop = chosen.get("width", 4), chosen.get("drop", 0.1)
    return fn.Trainer(
        fn.sequential(
            fn.dense(width), chosen.get("activation", jnp.tanh), fn.dropout(drop), fn.dense(1)
        ),
        loss=optax.losses.squared_error,
        optimizer=optax.adam(chosen.get("rate", 0.1)),
        metrics={"mae": fn.metrics.mae(), **chosen.get("metrics", {})},
    )


KINDS = fn.metrics.of(fn.metrics.confusion_matrix(2), lambda p, y: (p[:, 0], y[:, 0] > 0))


def with_matrix(chosen):
    return make_trainer({**chosen, "metrics": {"kinds": KINDS}})


def numbers(swept):
    """All numbers of a sweep, exactly."""
    return [
        (t.number, t.value, t.epochs, t.best_epoch, t.reason, t.rungs, dict(t.history))
        for t in swept.trials
    ]


def assert_same(one, other):
    for a, b in zip(numbers(one), numbers(other), strict=True):
        np.testing.assert_equal(a[:6], b[:6])  # NaN is as NaN
        chex.assert_trees_all_equal(a[6], b[6])
        assert jax.tree.map(lambda line: line.dtype, a[6]) == jax.tree.map(
            lambda line: line.dtype, b[6]
        )


# ------------------------------------------------------------------------------------------- laws


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("by", ["loop", "vmap"])
def test_each_trial_is_the_fit_alone(by):
    data = X.astype(np.float64), Y.astype(np.float64)
    space = {"rate": log_uniform(1e-3, 1.0), "drop": [0, 0.2], "batch_size": [16, 32]}
    arguments = {"validation": 0.25, "epochs": 6, "seed": 3}
    stopping = fn.early_stopping("val_loss", patience=1, min_delta=0.1)
    swept = sweep(make_trainer, space, data, trials=3, stopping=stopping, by=by, **arguments)
    assert len({trial.epochs for trial in swept.trials}) > 1
    for trial in swept.trials:
        chosen = dict(trial.hyperparameters)
        fit = make_trainer(chosen).fit(
            data, stopping=stopping, batch_size=chosen["batch_size"], **arguments
        )
        result = swept.result(trial.number)
        assert (trial.epochs, trial.best_epoch) == (len(fit.history["loss"]), fit.best_epoch)
        assert trial.value == pytest.approx(fit.history["val_loss"][fit.best_epoch], abs=1e-9)
        assert (result.reason, result.message) == (fit.reason, fit.message)
        chex.assert_trees_all_close(dict(result.history), dict(fit.history), atol=1e-9)
        chex.assert_trees_all_close(result.best.params, fit.best.params, atol=1e-9)
        chex.assert_trees_all_close(result.last.opt_state, fit.last.opt_state, atol=1e-9)


def test_64_settings_of_floats_are_one_compilation():
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=8)  # what looks at shapes, and one compilation; the model is in it
    def activation(x):
        return jnp.tanh(x)

    made = []

    def counted(chosen):
        made.append(chosen)
        return make_trainer({**chosen, "activation": activation})

    space = {"rate": log_uniform(1e-3, 0.3), "drop": uniform(0.0, 0.5)}
    swept = sweep(counted, space, DATA, epochs=1, trials=64)
    assert len(made) == 2  # once for the shapes, once to compile
    assert len({trial.value for trial in swept.trials}) == 64


def test_what_is_fixed_is_grouped():
    made = []

    def noted(chosen):
        made.append({name: value for name, value in chosen.items() if name != "rate"})
        assert isinstance(chosen["rate"], jax.core.Tracer)
        return make_trainer(chosen)

    space = {"activation": [jnp.tanh, jnp.sin], "rate": [0.1, 0.2], "width": [2]}
    swept = sweep(noted, space, DATA, epochs=1)
    assert made == [{"activation": f, "width": 2} for f in (jnp.tanh, jnp.sin) for _ in range(2)]
    assert [tuple(t.hyperparameters.values()) for t in swept.trials] == [
        *((jnp.tanh, 0.1, 2), (jnp.tanh, 0.2, 2)),
        *((jnp.sin, 0.1, 2), (jnp.sin, 0.2, 2)),
    ]


@pytest.mark.parametrize("by", ["loop", "vmap"])
def test_any_result_comes_again_with_the_same_bits(by):
    swept = sweep(make_trainer, {"rate": [*RATES, 0.3]}, DATA, epochs=3, by=by, at_once=2)
    if by == "vmap":
        assert [trial.chunk for trial in swept.trials] == [(0, 1), (0, 1), (2, 3), (2, 3), (4, 4)]
    for trial in swept.trials:
        result = swept.result(trial.number)
        chex.assert_trees_all_equal(dict(result.history), dict(trial.history))
    assert swept.kept is not None
    assert swept.kept[0] == swept.best.number
    again = swept.bench.again(swept.best, swept.points)
    chex.assert_trees_all_equal(again.best, swept.result().best)
    chex.assert_trees_all_equal(again.losses, swept.result().losses)


@pytest.mark.parametrize("by", ["loop", "vmap"])
def test_finalists_of_halving_have_trained_as_alone(by):
    space = {"rate": log_uniform(1e-3, 0.3), "drop": [0.0, 0.1]}
    arguments = {"epochs": 7, "trials": 9, "validation": 0.25, "by": by}
    whole = sweep(make_trainer, space, DATA, **arguments)
    swept = sweep(make_trainer, space, DATA, halving=halving(eta=2, start=2), **arguments)
    taken = [trial.epochs for trial in swept.trials]
    assert {epochs: taken.count(epochs) for epochs in taken} == {2: 5, 4: 2, 7: 2}
    for trial, alone in zip(swept.trials, whole.trials, strict=True):
        cut = {name: line[: trial.epochs] for name, line in alone.history.items()}
        if by == "loop":
            chex.assert_trees_all_equal(dict(trial.history), cut)
        else:  # a chunk of another size is another program: equal in the first steps
            chex.assert_trees_all_close(dict(trial.history), cut, rtol=1e-4, atol=1e-5)
        assert trial.reason == (Reason.EPOCHS if trial.epochs == 7 else Reason.LIMIT)
        assert len(trial.rungs) == {2: 1, 4: 2, 7: 3}[trial.epochs]
    first = sorted(swept.trials, key=lambda trial: trial.rungs[0])
    assert {t.number for t in first[:4]} == {t.number for t in swept.trials if t.epochs > 2}
    if by == "loop":
        best = swept.best.number
        chex.assert_trees_all_equal(swept.result().best, whole.result(best).best)
        chex.assert_trees_all_equal(swept.result().last, whole.result(best).last)
        again = swept.bench.again(swept.best, swept.points)
        chex.assert_trees_all_equal(again.last, swept.result().last)
    out = next(trial for trial in swept.trials if trial.epochs == 4)
    result = swept.result(out.number)
    assert result.message == "successive halving stopped it after 4 epochs: others were better"
    assert result.reason == Reason.LIMIT
    chex.assert_trees_all_close(dict(result.history), dict(out.history), rtol=1e-4, atol=1e-5)


def test_halving_compiles_once():
    made = []
    sweep(
        lambda chosen: made.append(0) or make_trainer(chosen),
        {"rate": [0.01, 0.02, 0.03, 0.04, float("nan")]},
        DATA,
        epochs=5,
        halving=halving(eta=2),
    )
    assert len(made) == 3  # shapes, the beginning, the way on


def test_what_is_not_finite_does_not_go_on():
    nan = float("nan")
    swept = sweep(
        make_trainer, {"rate": [nan, 0.1, nan]}, DATA, epochs=4, halving=halving(eta=2, start=1)
    )
    assert [trial.epochs for trial in swept.trials] == [0, 4, 0]
    assert [trial.reason for trial in swept.trials][::2] == [Reason.NON_FINITE] * 2
    assert swept.result(0).reason == Reason.NON_FINITE
    assert swept.best.number == 1


def test_several_devices_give_the_same_table():
    code = """
        import tests.studies.test_sweep as t
        import jax, numpy as np
        assert jax.device_count() == 4
        swept = t.sweep(t.make_trainer, {"rate": t.RATES + [0.3]}, t.DATA, epochs=3)
        half = t.sweep(
            t.make_trainer, {"rate": t.RATES + [0.3]}, t.DATA, epochs=3, halving=t.halving()
        )
        for each in (swept, half):
            (leaf, *_) = jax.tree.leaves(each.result().best.params)
            assert leaf.devices() == {jax.devices()[0]}
        print([trial.value for trial in swept.trials], [trial.value for trial in half.trials])
    """
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [float(word.strip("[],")) for word in done.stdout.split()]
    space = {"rate": [*RATES, 0.3]}
    one = sweep(make_trainer, space, DATA, epochs=3)
    half = sweep(make_trainer, space, DATA, epochs=3, halving=halving())
    alone = [trial.value for trial in (*one.trials, *half.trials)]
    np.testing.assert_allclose(found, alone, rtol=1e-4)


# ------------------------------------------------------------------------------- space and choice


def test_the_grid_has_the_order_of_product():
    space = as_space({"a": [1, 2], "b": ["x", "y", "z"]})
    assert [tuple(values(space, p).values()) for p in points(space, 0, None)] == [
        (1, "x"), (1, "y"), (1, "z"), (2, "x"), (2, "y"), (2, "z"),
    ]  # fmt: skip


def test_more_draws_leave_the_first_as_they_are():
    space = as_space({"rate": log_uniform(1e-4, 1e-1), "drop": uniform(0.1, 0.5), "n": [1, 2, 3]})
    few, many = points(space, 7, 5), points(space, 7, 400)
    assert many[:5] == few
    assert points(space, 8, 5) != few
    rates, drops, n = (np.array([point[name] for point in many]) for name in space)
    assert 1e-4 <= rates.min() < 1.2e-4
    assert 0.085 < rates.max() <= 1e-1
    assert np.median(rates) == pytest.approx(10**-2.5, rel=0.5)
    assert 0.1 <= drops.min() < 0.11
    assert 0.49 < drops.max() <= 0.5
    assert np.median(drops) == pytest.approx(0.3, abs=0.04)
    assert np.bincount(n).min() > 100


def test_integers_beside_floats_are_floats():
    space = as_space({"drop": [0, 0.5], "width": [1, 2], "flag": [True, 0.5], "rate": np.ones(2)})
    assert [type(value) for value in space["drop"].values] == [float, float]
    assert [type(value) for value in space["width"].values] == [int, int]
    assert [type(value) for value in space["flag"].values] == [bool, float]
    assert space["rate"].values == (1.0, 1.0)


def test_the_best_is_that_of_the_metric():
    space = {"rate": [0.1, float("nan"), 0.03]}
    by_loss = sweep(make_trainer, space, DATA, epochs=2)
    assert (by_loss.metric, by_loss.mode) == ("loss", "min")
    assert by_loss.best.value == min(by_loss.trials[i].value for i in (0, 2))
    assert math.isnan(by_loss.trials[1].value)
    assert [trial.number for trial in by_loss.ranked][2] == 1
    worst = sweep(make_trainer, space, DATA, epochs=2, metric="mae", mode="max")
    assert worst.best.value == max(worst.trials[i].value for i in (0, 2))
    assert worst.best.best_epoch == int(np.argmax(worst.best.history["mae"]))
    ties = sweep(make_trainer, {"rate": [0.1, 0.1]}, DATA, epochs=1)
    assert ties.best.number == 0


def test_no_finite_trial_is_said():
    swept = sweep(make_trainer, {"rate": [float("nan")] * 2}, DATA, epochs=2)
    with pytest.raises(ValueError, match="must have a finite loss, got none among 2 trials"):
        swept.best  # noqa: B018 - the look-up is the test
    assert "non finite" in repr(swept)
    assert swept.plot().get_suptitle().startswith("2 trials.")


# ----------------------------------------------------------------------------- what is shown of it


@pytest.fixture(scope="module")
def small():
    space = {"rate": RATES, "width": [2], "loss": ["a"]}
    return sweep(with_matrix, space, DATA, epochs=3, validation=(X[:9], Y[:9]))


def test_the_rows_of_the_table(small):
    first = small.rows(small.trials)[0]
    assert list(first) == [
        *("trial", "rate", "width", "loss*", "epochs", "best_epoch", "reason"),
        *("loss", "mae", "val_loss", "val_mae"),
    ]
    best = small.trials[0].best_epoch
    assert first["val_loss"] == small.trials[0].value == small.trials[0].history["val_loss"][best]
    assert (first["trial"], first["rate"], first["reason"]) == (0, 0.001, "epochs")


def test_the_table_is_of_pandas_if_it_is_there(small):
    pandas = pytest.importorskip("pandas")
    table = small.table(ranked=True)
    assert isinstance(table, pandas.DataFrame)
    assert table.index.tolist() == [trial.number for trial in small.ranked]
    assert table["val_loss"].is_monotonic_increasing
    assert "<table" in small._repr_html_()


def test_without_pandas_the_table_is_a_list(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert small.table() == small.rows(small.trials)
    assert small._repr_html_() is None


def test_the_words_of_a_sweep(small):
    lines = repr(small).splitlines()
    assert lines[0] == "Sweep(4 trials by val_loss, smaller is better)"
    assert lines[1].split() == ["trial", "val_loss", "rate", "width", "loss", "epochs", "reason"]
    assert len(lines) == 6
    assert len({len(line) for line in lines[1:]}) == 1
    assert len(small) == 4
    assert repr(small.best).startswith(f"Trial({small.best.number}: ")


def test_the_picture(small):
    figure = small.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["rate", "width", "loss"]
    best = small.best
    assert f"Best val_loss {best.value:.4g} in trial {best.number}: rate 0." in (
        figure.get_suptitle().replace("\n", " ")
    )
    dots = figure.axes[0].lines[1].get_ydata()
    assert list(dots) == [trial.value for trial in small.trials]
    ringed = figure.axes[0].lines[-1]
    assert ringed.get_ydata() == [best.value]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "0.001", "0.03", "0.1", "0.01",
    ]  # fmt: skip


def test_grey_and_logarithmic_where_it_should_be():
    space = {"rate": log_uniform(1e-3, 0.3), "drop": uniform(0.0, 0.5)}
    swept = sweep(make_trainer, space, DATA, epochs=2, trials=4, halving=halving(eta=2))
    rate, drop = swept.plot().axes
    assert (rate.get_xscale(), drop.get_xscale()) == ("log", "linear")
    grey, blue = rate.lines[:2]
    assert (len(grey.get_xdata()), len(blue.get_xdata())) == (2, 2)
    words = swept.plot().get_suptitle().replace("\n", " ")
    assert words.endswith("Grey ones were stopped by successive halving.")


# ------------------------------------------------------------------------------------------ resume


SPACE = {"rate": [0.001, 0.1, float("nan")], "width": [2, 3]}
ARGUMENTS = {"epochs": 3, "validation": 0.25}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.jsonl"
    return sweep(make_trainer, SPACE, DATA, file=path, **ARGUMENTS), path.read_bytes()


@pytest.mark.parametrize("cut", [1, 40, 9999], ids=["newline", "torn", "lines"])
def test_a_killed_sweep_goes_on(tmp_path, complete, cut):
    swept, text = complete
    path = tmp_path / "sweep.jsonl"
    kept = text[:-cut] if cut < 9999 else b"".join(text.splitlines(keepends=True)[:3])
    path.write_bytes(kept)
    made = []
    again = sweep(
        lambda chosen: made.append(0) or make_trainer(chosen), SPACE, DATA, file=path, **ARGUMENTS
    )
    assert_same(again, swept)
    assert sorted(path.read_bytes().splitlines()) == sorted(text.splitlines())
    assert len(made) == (4 if cut == 9999 else 2)
    chex.assert_trees_all_equal(again.result().best, swept.result().best)


def test_nothing_is_trained_twice(tmp_path, complete):
    path = tmp_path / "sweep.jsonl"
    path.write_bytes(complete[1])
    again = sweep(lambda chosen: pytest.fail("trained"), SPACE, DATA, file=path, **ARGUMENTS)
    assert_same(again, complete[0])
    assert path.read_bytes() == complete[1]


def test_every_line_is_json(complete):
    def refuse(word):
        raise AssertionError(word)

    head, *lines = [json.loads(line, parse_constant=refuse) for line in complete[1].splitlines()]
    assert head["sweep"] == [["rate", "[0.001, 0.1, nan]"], ["width", "[2, 3]"]]
    assert sorted(line["trial"] for line in lines) == list(range(6))
    assert {line["reason"] for line in lines} == {"EPOCHS", "NON_FINITE"}


def test_another_study_is_refused_with_all_differences(tmp_path, complete):
    path = tmp_path / "sweep.jsonl"
    path.write_bytes(complete[1])
    with pytest.raises(ValueError, match="`sweep`: file must be of this sweep") as error:
        sweep(
            make_trainer, {**SPACE, "rate": [0.5]}, (X + 1, Y), file=path,
            **{**ARGUMENTS, "epochs": 4}, stopping=fn.early_stopping("val_loss", patience=2),
        )  # fmt: skip
    lines = str(error.value).splitlines()
    assert "  epochs: 3 in the file, 4 asked for" in lines
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == [
        "sweep", "epochs", "stopping", "data", "validation",
    ]  # fmt: skip
    assert path.read_bytes() == complete[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello\n", "must be one that a sweep has written"),
        ('{"other": 1}\n', "must be one that a sweep has written"),
        ("hello", "must be one that a sweep has written"),
        ("HEAD\nx\n{}\n", "must be a JSON object, got b'x.n' in line 2"),
    ],
)
def test_what_is_no_file_of_a_sweep_is_left_alone(tmp_path, complete, text, words):
    path = tmp_path / "sweep.jsonl"
    path.write_bytes(text.replace("HEAD", complete[1].decode().splitlines()[0]).encode())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=words):
        sweep(make_trainer, SPACE, DATA, file=path, **ARGUMENTS)
    assert path.read_bytes() == before


def test_more_random_trials_may_follow(tmp_path):
    path, space = tmp_path / "sweep.jsonl", {"rate": log_uniform(1e-3, 0.3)}
    few = sweep(make_trainer, space, DATA, epochs=1, trials=2, file=path)
    more = sweep(make_trainer, space, DATA, epochs=1, trials=4, file=path)
    assert len(path.read_text().splitlines()) == 5
    assert numbers(more)[0][:2] == numbers(few)[0][:2]


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    path = tmp_path_factory.mktemp("halved") / "sweep.jsonl"
    return sweep(make_trainer, HALVED[0], DATA, file=path, **HALVED[1]), path.read_bytes()


HALVED = {"rate": [*RATES, 0.3, 0.2], "width": [3]}, {"epochs": 4, "halving": halving(eta=2)}


@pytest.mark.parametrize("lines", [2, 4, 7])
def test_halving_goes_on(tmp_path, halved, lines):
    path = tmp_path / "sweep.jsonl"
    path.write_bytes(b"".join(halved[1].splitlines(keepends=True)[:lines]))
    again = sweep(make_trainer, HALVED[0], DATA, file=path, **HALVED[1])
    assert_same(again, halved[0])
    assert path.read_bytes() == halved[1]


@pytest.mark.parametrize("line", [1, 4, 6], ids=["first-rung", "second-rung", "finalist"])
def test_halving_trains_again_what_is_taken_out(tmp_path, halved, line):
    path = tmp_path / "sweep.jsonl"
    lines = halved[1].splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    again = sweep(make_trainer, HALVED[0], DATA, file=path, **HALVED[1])
    assert_same(again, halved[0])
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)


# ------------------------------------------------------------------------------------------ optuna


def test_an_optuna_study_steers():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = {
        "rate": log_uniform(1e-3, 0.3),
        "drop": uniform(0.0, 0.3),
        "width": [2, 3],
        "activation": [jnp.tanh, jax.nn.relu],
        "spoil": [1.0, float("inf")],
    }

    def spoiled(chosen):
        return make_trainer({**chosen, "rate": chosen["rate"] * chosen["spoil"]})

    swept = sweep(spoiled, space, DATA, epochs=2, trials=6, study=study, at_once=4)
    assert len(study.trials) == len(swept) == 6
    for trial, told in zip(swept.trials, study.trials, strict=True):
        chosen = trial.hyperparameters
        assert told.params["rate"] == chosen["rate"]
        assert told.params["width"] == chosen["width"]
        assert told.params["activation"] == chosen["activation"].__name__
        assert told.state.name == ("COMPLETE" if chosen["spoil"] == 1 else "FAIL")
        assert told.value == (trial.value if chosen["spoil"] == 1 else None)
    assert study.best_trial.number == swept.best.number
    again = swept.bench.again(swept.trials[0], swept.points)
    chex.assert_trees_all_equal(dict(again.history), dict(swept.trials[0].history))
    with pytest.raises(ValueError, match="study must maximize as the metric asks, got minimize"):
        sweep(make_trainer, space, DATA, epochs=1, trials=1, study=study, metric="mae", mode="max")


# ------------------------------------------------------------------------------------------ errors

ERRORS = {
    "space-empty": ({"space": {}}, TypeError, "one at least, got {}"),
    "space-list": ({"space": [1]}, TypeError, r"a dict from names .* got \[1\]"),
    "space-name": ({"space": {1: [2]}}, TypeError, "names of space must be strings, got 1"),
    "space-tuple": (
        {"space": {"rate": (0.1, 0.2)}},
        TypeError,
        r"got \(0.1, 0.2\) for 'rate'. Say `\[1, 2\]` for these two",
    ),
    "space-choices": ({"space": {"rate": []}}, ValueError, r"must hold a choice, got \[\] for"),
    "batch-range": (
        {"space": {"batch_size": uniform(1, 2)}, "trials": 1},
        TypeError,
        "batch_size must be a list of whole numbers, got uniform",
    ),
    "batch-zero": ({"space": {"batch_size": [0]}}, ValueError, "batch_size must be a positive"),
    "trials": (
        {"space": {"rate": uniform(0, 1)}},
        ValueError,
        r"trials must say how many .* None with 'rate' in uniform\(0.0, 1.0\)",
    ),
    "trials-zero": ({"trials": 0}, ValueError, "trials must be a positive whole number, got 0"),
    "epochs": ({"epochs": 0}, ValueError, "`sweep`: epochs must be a positive"),
    "seed": ({"seed": 0.5}, TypeError, "seed must be a whole number, got 0.5"),
    "stopping": ({"stopping": 5}, TypeError, "`sweep`: stopping must come from"),
    "metric": (
        {"metric": "val_mea", "mode": "min", "validation": 0.5},
        ValueError,
        "got 'val_mea', which nobody reports. Did you mean 'val_mae'",
    ),
    "metric-monitor": (
        {"metric": "los", "mode": "min", "stopping": fn.early_stopping("loss", patience=1)},
        ValueError,
        "got 'los', which nobody reports. Did you mean 'loss'",
    ),
    "metric-matrix": (
        {"make_trainer": with_matrix, "metric": "kinds", "mode": "min"},
        ValueError,
        r"one number an epoch, got 'kinds' with the shape \[2, 2\]",
    ),
    "metric-kind": ({"metric": 3}, TypeError, "metric must be the name of a value"),
    "mode": ({"metric": "kinds"}, ValueError, "does not tell it, got metric='kinds'"),
    "mode-word": ({"mode": "mix"}, ValueError, "got 'mix'. Did you mean 'min'"),
    "validation": ({"validation": 1.5}, ValueError, "`sweep`: validation must lie .* got 1.5"),
    "halving": ({"halving": 3}, TypeError, "halving must come from `fn.halving`, got 3"),
    "halving-start": ({"halving": halving(start=9)}, ValueError, "got start=9 of 2"),
    "by": ({"by": "pmap"}, ValueError, "'loop', 'vmap' or None, got 'pmap'"),
    "trainer": ({"make_trainer": make_trainer({})}, TypeError, "got a trainer"),
    "not-callable": ({"make_trainer": 3}, TypeError, "`sweep`: make_trainer must be a function"),
    "no-trainer": ({"make_trainer": lambda c: 3}, TypeError, "must give a trainer, got 3"),
    "key": ({"make_trainer": lambda c: c["rat"]}, KeyError, "rat"),
    "study": ({"study": 3, "trials": 1}, TypeError, "study must be an optuna study, got 3"),
    "study-trials": ({"study": 3}, ValueError, "how many settings the study is asked for"),
    "study-file": (
        {"study": 3, "trials": 1, "file": "never.jsonl"},
        ValueError,
        "give either study or file",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_words_of_errors(case):
    given, kind, words = ERRORS[case]
    arguments = {
        "make_trainer": make_trainer, "space": {"rate": [0.1]}, "data": DATA, "epochs": 2, **given
    }  # fmt: skip
    with pytest.raises(kind, match=words):
        sweep(**arguments)


def test_words_of_ranges():
    with pytest.raises(ValueError, match="`log_uniform`: low must be above 0, got 0"):
        log_uniform(0, 1)
    with pytest.raises(
        ValueError, match="`uniform`: low must be below high and both finite, got 2 and 1"
    ):
        uniform(2, 1)
    with pytest.raises(ValueError, match="both finite, got 0 and inf"):
        uniform(0, float("inf"))
    with pytest.raises(TypeError, match="`uniform`: high must be a number, got 'a'"):
        uniform(0, "a")
    with pytest.raises(ValueError, match="`halving`: eta must be 2 or more, got 1"):
        halving(eta=1)
    with pytest.raises(ValueError, match="`halving`: start must be a positive whole number"):
        halving(start=0)


def test_words_of_a_number_that_is_not_there(small):
    with pytest.raises(IndexError, match=r"number must lie in 0 .. 3, got 4"):
        small.result(4)


def plain_trainer(rate):
    return fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(rate))


def line():
    x = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
    return x, 2 * x + 1


def in_file(path, space, make=lambda chosen: plain_trainer(np.mean(chosen["rate"]))):
    return fn.sweep(make, space, line(), epochs=2, file=path, progress=False)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"rate": [0.01, 0.1], "m": [1.0, 2.0]}, {"m": [1.0, 2.0], "rate": [0.01, 0.1]}),
        (
            {"rate": [np.full(200, 0.01, np.float32)]},
            {"rate": [np.full(200, 0.1, np.float32)]},
        ),
    ],
    ids=["another order", "another array"],
)
def test_a_file_of_another_space_is_refused(tmp_path, first, second):
    def make(chosen):
        return plain_trainer(chosen["rate"] if "m" in chosen else chosen["rate"].mean())

    in_file(tmp_path / "sweep.jsonl", first, make)
    in_file(tmp_path / "sweep.jsonl", first, make)
    with pytest.raises(ValueError, match="`sweep`: file must be of this sweep"):
        in_file(tmp_path / "sweep.jsonl", second, make)


def test_a_file_can_not_tell_one_lambda_from_another(tmp_path):
    space = {"rate": [0.1], "f": [lambda x: x]}
    with pytest.raises(ValueError, match=r"got a lambda for 'f'. Define a function"):
        in_file(tmp_path / "sweep.jsonl", space, lambda chosen: plain_trainer(chosen["rate"]))


def test_a_hyperparameter_may_be_called_trial():
    swept = fn.sweep(
        lambda chosen: plain_trainer(0.1), {"trial": [7, 8]}, line(), epochs=1, progress=False
    )
    assert [row["trial"] for row in swept.rows(swept.trials)] == [0, 1]
    assert [row["trial*"] for row in swept.rows(swept.trials)] == [7, 8]
