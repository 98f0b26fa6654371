"""What values say of themselves: in a terminal in columns, in a notebook as HTML, always short."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import tables
from funcnet.inspect import show
from funcnet.stopping import Reason
from funcnet.tables import as_html, in_columns, shortened, width
from funcnet.trainer import Result
from funcnet.types import TrainState

WORDS = ["", "layer", "a/very/long/path/of/names", "精度", "e\u0301té", "ﬁ", "naïve/😀", "0"]


@pytest.fixture
def narrow(monkeypatch):
    """Makes the output a terminal of some width."""

    def of(columns):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))

    return of


def test_wide_letters_take_two_places_and_marks_none():
    assert [width(words) for words in WORDS] == [0, 5, 25, 4, 3, 1, 8, 1]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("most", [1, 2, 5, 8, 30])
def test_shortened_words_fit_and_keep_both_ends(words, most):
    found = shortened(words, most)
    assert width(found) <= most
    assert found == words if width(words) <= most else "…" in found
    if most > 4 and found != words:
        assert (found[0], found[-1]) == (words[0], words[-1])


def test_columns_align_by_what_a_terminal_makes_of_wide_letters():
    rows = [
        ["name", "n", "note"],
        None,
        *([word, str(10**i), word] for i, word in enumerate(WORDS)),
    ]
    lines = in_columns(rows, "<><")
    ends = {width(line[: line.rindex(str(10**i)) + i + 1]) for i, line in enumerate(lines[2:])}
    assert len(ends) == 1
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_in_a_narrow_terminal_words_give_way_and_numbers_do_not(narrow, columns):
    narrow(columns)
    rows = [["path", "array", "n"], None, ["encoder/blocks/11/attention/kernel", "x" * 30, "1" * 9]]
    lines = in_columns(rows, "<<>")
    assert max(map(width, lines)) == min(columns, 77)
    assert lines[-1].endswith("  " + "1" * 9)
    assert lines[-1].startswith("enc")


def test_where_nothing_can_give_way_lines_are_as_long_as_they_are(narrow):
    narrow(20)
    rows = [["a" * 30, "1" * 20]]
    assert width(in_columns(rows, "<>")[0]) == tables.LEAST + 2 + 20


def test_output_that_is_no_terminal_is_never_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert in_columns([["a" * 200]], "<") == ["a" * 200]


def test_html_is_escaped_and_has_heads():
    page = as_html([["<a>", "n"], None, ["b", "1"], None, ["total", "1"]], "<>", total=True)
    assert page.count("<tr>") == 3
    assert page.count("<th") == 4
    assert "&lt;a&gt;" in page
    assert "text-align: right'>1<" in page


def test_a_summary_fits_a_narrow_terminal(narrow):
    narrow(64)
    name = "a_layer_with_a_very_long_name_that_nobody_would_want_to_write_twice"
    model = fn.sequential(**{name: fn.sequential(fn.dense(3), fn.dense(3))})
    lines = str(fn.summary(model, jax.ShapeDtypeStruct((8, 4), "float32"))).splitlines()
    assert max(map(len, lines)) == 64


# trees


def test_show_tells_what_numpy_tells():
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    values[0, :3] = [0, 0, np.nan]
    kept = values[np.isfinite(values)]
    line = str(show({"w": jnp.asarray(values)})).splitlines()[2].split()
    numbers = [kept.mean(), kept.std(), kept.min(), kept.max()]
    assert line == ["w", "float32[5,", "7]", "140", "B", *(f"{n:.3g}" for n in numbers), "2", "1"]


@pytest.mark.parametrize(
    "leaf",
    [
        jax.random.key(0), jnp.zeros((0, 3)), jnp.full(2, jnp.nan), np.array(["a"]), "words", len,
        jax.ShapeDtypeStruct((2,), "bfloat16"), jnp.ones(2, jnp.bfloat16), jnp.array([1j]), True,
        np.array([True, False]), 3, 2.5,
    ],
    ids=str,
)  # fmt: skip
def test_whatever_is_in_a_tree_can_be_shown(leaf):
    found = show({"a": leaf, "b": jnp.ones(2)})
    assert str(found).splitlines()[2].startswith("a     ")
    assert found._repr_html_()


def test_a_buffer_that_was_given_away_is_shown_by_its_shape():
    leaf = jnp.ones(3) + 1
    leaf.delete()
    assert "float32[3]" in str(show([leaf]))


def test_a_large_tree_is_cut_and_an_empty_one_is_none():
    lines = str(show([np.ones(1)] * 130)).splitlines()
    assert len(lines) == 105
    assert "... 30 more" in lines[-3]
    assert lines[-1].split()[:5] == ["total", "130", "in", "130", "arrays"]
    assert "0 in 0 arrays" in str(show({}))


def test_a_notebook_unfolds_the_tree_or_has_the_table(monkeypatch):
    found = show({"kernel": jnp.ones((2, 2))})
    monkeypatch.setitem(sys.modules, "treescope", None)
    assert found._repr_html_().startswith("<table>")
    monkeypatch.delitem(sys.modules, "treescope")
    pytest.importorskip("treescope")
    assert "treescope" in found._repr_html_()


# values

STATE = TrainState(
    jnp.int32(1200), {"w": jnp.ones((300, 10)), "b": jnp.ones(10)}, {}, (), jax.random.key(0)
)


def test_a_state_says_how_much_is_in_it_and_prints_no_array():
    words = "params=3,010 in 2 arrays, model_state=none, opt_state=none)"
    assert repr(STATE) == f"TrainState(step=1,200, {words}"
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), STATE)
    assert repr(several).startswith("TrainState(step=int32(2,), params=6,020 in 2 arrays")
    seen = []
    jax.eval_shape(lambda state: seen.append(repr(state)) or state, STATE)
    assert seen == [f"TrainState(step=int32[], {words}"]
    assert repr(STATE._replace(params={"w": "here"})).startswith("TrainState(step=1,200, params=1 ")


def test_a_state_whose_buffers_were_given_away_still_says_so():
    state = STATE._replace(step=jnp.int32(3) + 0)
    state.step.delete()
    assert repr(state).startswith("TrainState(step=int32[], params=3,010")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (fn.sequential(fn.dense(1), jnp.tanh), "Model(sequential)"),
        (fn.Model(len, len), "Model(len)"),
        (fn.early_stopping("val_loss", patience=3), "Stopping(monitor='val_loss', mode='min')"),
        (fn.metrics.mae(), "Metric(mae)"),
        (fn.metrics.f1(), "Metric(f1)"),
        (fn.metrics.accuracy(), "Metric(accuracy)"),
        (fn.json_lines("a"), "Callback(json_lines)"),
        (fn.Callback(len, len, name="mine"), "Callback(len, kept as 'mine')"),
        (fn.objective(optax.squared_error), "objective(squared_error, ...)"),
        (fn.Trainer(
            fn.dense(1), objective=fn.objective(optax.squared_error), optimizer=optax.sgd(0.1),
            metrics={"mae": fn.metrics.mae()}, accumulate=2),
         "Trainer(model=Model(dense), optimizer=chain, metrics=[mae], "
         "objective=objective(squared_error, ...), accumulate=2)"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_made_of_functions_name_them(value, words):
    assert repr(value) == words


def result(losses, best):
    history = {"loss": np.array(losses), "confusion": np.zeros((len(losses), 2, 2))}
    return Result(STATE, STATE, history, np.zeros(1), best, "loss", Reason.EPOCHS, "all is done")


def test_a_result_shows_its_first_its_best_and_its_last_epochs():
    found = result([5.0, 4, 1, 3, 2.125, np.nan, 123456], 2)
    assert repr(found) == (
        "Result(all is done; best in epoch 3: loss=1)\n"
        "epoch       loss\n"
        "    1          5\n"
        "  ...\n"
        "    3          1  best\n"
        "  ...\n"
        "    5      2.125\n"
        "    6        nan\n"
        "    7  1.235e+05"
    )
    page = found._repr_html_()
    assert page.startswith("<p>all is done</p>\n<table>")
    assert page.count("<tr>") == 8


def test_a_result_of_one_epoch_or_none_is_short():
    assert repr(result([0.5], 0)).splitlines()[1:] == ["epoch  loss", "    1   0.5  best"]
    assert repr(result([], None)) == "Result(all is done)"
    assert "<table>" in result([], None)._repr_html_()
