"""What stands in the pictures of data, params, schedules, graphs and runs, against numpy."""

import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import inspect
from funcnet.inspect import plot_confusion, plot_examples, plot_histograms, plot_schedule
from funcnet.inspect.graph_drawing import captions
from funcnet.inspect.graphs import Graph
from funcnet.inspect.ranges import QUANTILES
from funcnet.inspect.style import GREY, PALE, SERIES, TRAIN, VALIDATION
from funcnet.stopping import Reason
from funcnet.studies.range_test import LrRange
from funcnet.trainer import Result, RunResult
from funcnet.types import TrainState

NAN, INF = np.nan, np.inf
RANDOM = np.random.default_rng(0)


def caption(figure):
    return figure.get_suptitle().replace("\n", " ")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def heads(figure):
    return [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes]


def bars(axes):
    """Heights and edges of the outlines of histograms."""
    found = [patch for patch in axes.patches if not patch.get_fill()]
    return [(patch.get_data().values, patch.get_data().edges) for patch in found]


# histograms


def test_bars_are_shares_of_all_numbers_and_the_rest_is_counted():
    values = RANDOM.normal(size=200).astype(np.float32)
    values[:50], values[50:53] = 0, [NAN, INF, -INF]
    (axes,) = plot_histograms({"a": values}).axes
    ((heights, edges),) = bars(axes)
    kept = values[53:]
    np.testing.assert_allclose(heights, np.histogram(kept, edges)[0] / 2)
    assert heights.sum() == pytest.approx(100 * 147 / 200)
    assert edges[0] < kept.min() < kept.max() < edges[-1]
    assert texts(axes) == ["25 % zeros, 3 not finite"]
    assert axes.get_title(loc="left") == "a\nfloat32[200]"


def test_few_values_far_off_do_not_flatten_the_bars_and_are_counted():
    values = np.concatenate([np.linspace(-1, 1, 999), [1e6]])
    (axes,) = plot_histograms(values).axes
    low, high = axes.get_xlim()
    assert -2.2 < low < -1 < 1 < high < 2.2
    assert texts(axes) == ["1 beyond, to 1e+06"]


def test_several_trees_are_drawn_over_one_another_with_their_names():
    before, after = {"k": RANDOM.normal(size=99)}, {"k": np.zeros(99)}
    (axes,) = plot_histograms(before, after, labels=["before", "after"]).axes
    assert [(text.get_text(), text.get_color()) for text in axes.texts] == [
        ("before", TRAIN),
        ("after  all zeros", VALIDATION),
    ]
    (first, edges), (second, same) = bars(axes)
    assert first.sum() == pytest.approx(100)
    assert second.sum() == 0
    np.testing.assert_array_equal(edges, same)


def test_many_trees_stand_one_before_the_other():
    trees = [{"k": RANDOM.normal(size=50) + i} for i in range(9)]
    figure = plot_histograms(*trees, labels=[f"epoch {i}" for i in range(9)])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["epoch 0", "epoch 2"]
    feet = [line.get_ydata().min() for line in axes.lines]
    assert feet == sorted(feet, reverse=True)
    assert "From back to front: epoch 0 to epoch 8." in caption(figure)


def test_layers_are_in_the_order_of_their_numbers_and_whole_numbers_left_out():
    params = {str(i): {"w": np.ones(2)} for i in (10, 9, 2)} | {"count": np.arange(3)}
    assert heads(plot_histograms(params)) == ["2/w", "9/w", "10/w"]
    assert heads(plot_histograms(params, pattern="9/*")) == ["9/w"]


@pytest.mark.parametrize("make", [jnp.asarray, np.asarray, lambda v: jnp.asarray(v, jnp.bfloat16)])
def test_a_state_means_its_params_whatever_their_dtype(make):
    state = TrainState(jnp.int32(0), {"w": make([1.0, 2.0])}, {}, (), jax.random.key(0))
    assert heads(plot_histograms(state)) == ["w"]


def test_a_deep_network_has_a_row_for_each_array_on_a_logarithmic_axis():
    params = {str(i): {"w": RANDOM.normal(size=99) * 0.1**i, "b": np.zeros(3)} for i in range(15)}
    params["3"]["w"][:5] = NAN
    figure = plot_histograms(params, params, labels=["grads", "params"])
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:2] + names[-2:] == ["0/b", "0/w", "14/b", "14/w"]
    medians = axes.lines[0].get_xdata()
    wanted = [
        np.quantile(np.abs(params[str(i)]["w"][5 * (i == 3) :]), QUANTILES)[2] for i in range(15)
    ]
    np.testing.assert_allclose(medians, wanted)
    assert texts(axes).count("all zeros") == 15
    assert "10 not finite" in texts(axes)
    assert caption(figure).startswith("30 arrays.")


@pytest.mark.parametrize(
    "tree",
    [
        {"a": np.full((3, 3), 2.0)},
        {"a": np.float32(3.0)},
        {"a": np.zeros((0, 3))},
        {"a": np.full(3, NAN)},
        {"a": np.array([-1e-30, 1e30])},
        {"a": 0.5, "$x_{": np.ones(2)},
        {f"{'long/' * 30}{i}": np.full(2, 0.0) for i in range(30)},
    ],
    ids=["constant", "scalar", "empty", "nan", "spread", "odd names", "deep zeros"],
)
def test_hard_numbers_are_drawn(tree):
    plot_histograms(tree).draw_without_rendering()
    plot_histograms(*[tree] * 6).draw_without_rendering()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plot_histograms({"a": "b"}), TypeError, "a tree must hold arrays, got 'b' at a"),
        (lambda: plot_histograms(jax.ShapeDtypeStruct((2,), "float32")), TypeError,
         r"a tree must hold arrays, got float32\[2\] at the top"),
        (lambda: plot_histograms({"a": np.arange(3)}), ValueError,
         "a tree must hold at least one array of floats, got"),
        (lambda: plot_histograms({"a": np.ones(2)}, {"b": np.ones(2)}), ValueError,
         "all trees must have the same paths, got tree 1, which differs from the first at a, b"),
        (lambda: plot_histograms({"a": np.ones(2)}, labels=["x", "y"]), ValueError,
         r"labels must name each of the 1 trees, got \['x', 'y'\]"),
        (lambda: plot_histograms({"a": np.ones(2)}, bins=0), ValueError, "bins must be a positive"),
        (lambda: plot_histograms({"a": np.ones(2)}, pattern="z"), ValueError,
         "a pattern must match some path of params, got 'z'"),
        (lambda: plot_histograms({}), ValueError, "a pattern must match some path"),
    ],
)  # fmt: skip
def test_histograms_say_what_they_need(call, error, words):
    with pytest.raises(error, match=f"^`plot_histograms`: {words}"):
        call()


# examples


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_images_have_their_labels_and_wrong_ones_a_frame():
    x, y, y_pred = np.zeros((3, 4, 4, 1)), [0, 1, 1], [0, 0, 1]
    figure = plot_examples(x, y, np.array(y_pred), labels={0: "cat", 1: "dog"})
    assert titles(figure) == ["cat", "cat, not dog", "dog"]
    assert [axes.title.get_color() for axes in figure.axes] == [GREY, VALIDATION, GREY]
    assert [axes.spines["top"].get_visible() for axes in figure.axes] == [False, True, False]
    assert (
        caption(figure) == "3 of 3 examples. 1 of the 3 predicted wrongly; those here are coloured."
    )


@pytest.mark.parametrize(
    ("y", "y_pred", "labels", "shown"),
    [
        (["a", "b", "a"], [0, 1, 1], ["a", "b"], ["a", "b", "b, not a"]),
        ([0, 1, 0], ["a", "b", "b"], ["a", "b"], ["a", "b", "b, not a"]),
        (["a", "b", "a"], [-1.0, 2.0, 2.0], ["a", "b"], ["a", "b", "b, not a"]),
        ([0, 1, 0], [False, True, True], None, ["0", "1", "1, not 0"]),
        ([False, True, False], [-1.0, 2.0, 2.0], None, ["0", "1", "1, not 0"]),
        ([False, True, False], [False, True, True], None, ["False", "True", "True, not False"]),
    ],
)
def test_labels_and_predictions_of_two_kinds_are_compared_as_classes(y, y_pred, labels, shown):
    figure = plot_examples(np.zeros((3, 4, 4)), np.array(y), np.array(y_pred), labels=labels)
    assert titles(figure) == shown
    assert [axes.title.get_color() for axes in figure.axes] == [GREY, GREY, VALIDATION]


def test_long_names_take_two_lines():
    figure = plot_examples(np.zeros((1, 4, 4)), [0], [1], labels=["a long name", "a longer name"])
    assert titles(figure) == ["a longer name\nnot a long name"]


@pytest.mark.parametrize(
    "scores", [RANDOM.normal(size=(99, 3)), RANDOM.normal(size=99), np.linspace(-0.1, 0.4, 99)]
)
def test_what_is_wrong_is_what_the_metric_counts(scores):
    scores = scores.astype(np.float32)
    scores[:7] = NAN
    y = RANDOM.integers(0, scores.ndim + 1, 99)
    metric = fn.metrics.accuracy()
    right = metric.compute(metric.update(metric.init(), scores, y))
    words = f"{99 - round(99 * float(right))} of the 99 predicted wrongly"
    figure = plot_examples(np.zeros((99, 2, 2)), y, scores)
    assert words in caption(figure)
    assert len(figure.axes) == 16


def test_pixels_are_shown_as_they_are_or_from_the_least_to_the_most():
    def first(x):
        axes = plot_examples(np.asarray(x)).axes[0]
        return axes.images[0].get_array()[0, 0].tolist(), caption(axes.figure)

    colours = np.zeros((1, 2, 7, 3))
    colours[0, 0, 0] = [0.25, 0.5, 1.0]
    assert first(colours)[0] == [0.25, 0.5, 1.0]
    assert first((colours * 255).astype(np.uint8))[0][2] == 1.0
    shown, words = first(colours * 8 - 4)
    assert shown == [0.25, 0.5, 1.0]
    assert words.endswith("Colours are values from -4 to 4.")
    colours[0, 0, 0, 1] = NAN
    shown, words = first(colours)
    assert shown == pytest.approx([0.835, 0.369, 0.0])
    assert words.endswith("Vermilion pixels are not finite.")
    clear = np.zeros((1, 2, 7, 4))
    assert first(clear)[0] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("x", "lines"), [((3, 50, 2), 2), ((3, 50), 1)])
def test_sequences_are_lines(x, lines):
    figure = plot_examples(RANDOM.normal(size=x))
    assert [len(axes.lines) for axes in figure.axes] == [lines] * 3


def test_few_numbers_are_a_table_whose_columns_align():
    x = {"age": np.array([22, 8]), "fare": np.array([7.25, 100.0])}
    axes = plot_examples(x, [1, 0], jnp.array([[2.0], [3.0]]), labels=["lost", "saved"]).axes[0]
    assert texts(axes) == [
        "age  fare   true  predicted",
        " 22  7.25  saved      saved",
        "  8   100   lost      saved",
    ]
    assert [text.get_color() for text in axes.texts][1:] == ["#222222", VALIDATION]


def test_quantities_are_neither_right_nor_wrong():
    figure = plot_examples(np.zeros((1, 50)), np.array([2.5]), np.array([[2.0]]))
    assert titles(figure) == ["2, true 2.5"]
    assert caption(figure) == "1 of 1 example."


@pytest.mark.parametrize(
    ("x", "decode", "shown"),
    [
        (["good", "bad  film"], None, ["good", "bad film"]),
        (np.array([[0, 1], [1, 9]]), "ab", ["ab", "b<9>"]),
        (np.array([[0, 1], [1, 1]]), ["an", "egg"], ["an egg", "egg egg"]),
        (np.array([[0, 1], [1, 1]]), lambda row: str(row.sum()), ["1", "2"]),
    ],
)
def test_text_is_written(x, decode, shown):
    assert texts(plot_examples(x, decode=decode).axes[0]) == shown


def test_long_text_is_cut_after_three_lines():
    lines = texts(plot_examples(["word " * 500], ["spam"]).axes[0])
    assert len(lines) == 3
    assert lines[0].startswith("spam  word")
    assert lines[2].endswith(" …")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([np.zeros((0, 4, 4))], r"x must hold at least one example, got float64\[0, 4, 4\]"),
        ([{}], "x must hold at least one example"),
        ([np.zeros((2, 3, 8, 8))], r".*got float64\[2, 3, 8, 8\]. Put the channels last: `x.tran"),
        ([np.zeros((2, 8, 8, 9))], r"x must be images .*float64\[2, 8, 8, 9\]. Cut x to one of"),
        ([np.zeros((2, 8, 8)), [1]], r"y must have one entry for each of the 2 .* got int64\[1\]"),
        ([np.zeros((2, 8, 8)), None, np.zeros((2, 3, 3))], "y_pred must be a class, a number or"),
        (
            [np.zeros((2, 8, 8)), ["a", "b"], [0, 1]],
            r"y and y_pred must both be names or both be numbers of classes, got <U1\[2\] and "
            r"int64\[2\]. Say in labels what the classes are called.",
        ),
        ([{"a": np.zeros(2), "b": np.zeros((2, 2))}], r"each column .* got a float64\[2\], b flo"),
    ],
)
def test_examples_say_what_they_need(arguments, words):
    with pytest.raises(ValueError, match=f"^`plot_examples`: {words}"):
        plot_examples(*arguments)


# schedules


def test_a_schedule_is_drawn_at_every_step_of_the_optimizer():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)
    (axes,) = plot_schedule({"cosine": schedule, "flat": 0.03}, 100).axes
    cosine, flat = axes.lines
    assert cosine.get_xdata().tolist() == list(range(100))
    np.testing.assert_allclose(cosine.get_ydata(), [schedule(k) for k in range(100)], rtol=1e-5)
    assert set(flat.get_ydata()) == {0.03}
    assert [(text.get_text(), text.get_color()) for text in axes.texts] == [
        ("cosine", TRAIN),
        ("flat", VALIDATION),
    ]
    assert caption(axes.figure) == (
        "cosine: 0 at first, 0.1 at step 10, 3.05e-05 at step 99. flat: 0.03 throughout."
    )


def test_a_schedule_in_python_is_called_step_by_step():
    def halved(step):
        return 0.1 if step < 300 else 0.05

    (line,) = plot_schedule(halved, 400).axes[0].lines
    assert line.get_ydata().tolist() == [0.1] * 300 + [0.05] * 100


@pytest.mark.parametrize(
    ("schedule", "scale"),
    [(optax.exponential_decay(1.0, 10, 0.1), "log"), (lambda k: 1.0 - k, "linear")],
)
def test_rates_far_apart_have_a_logarithmic_axis(schedule, scale):
    assert plot_schedule(schedule, 100).axes[0].get_yscale() == scale


@pytest.mark.parametrize("steps", [1, 10**6])
def test_hard_schedules_are_drawn(steps):
    many = {f"{i} $_{{": 0.1 / (i + 1) for i in range(20)} | {"nan": lambda k: NAN}
    plot_schedule(many, steps).draw_without_rendering()
    plot_schedule(lambda k: NAN, steps).draw_without_rendering()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plot_schedule(optax.adam(1e-3), 10), TypeError, "schedule must be a function of"),
        (lambda: plot_schedule({"a": "b"}, 10), TypeError, ".* got 'b' for 'a'. Give the schedule"),
        (lambda: plot_schedule({}, 10), ValueError, "schedule must hold at least one"),
        (lambda: plot_schedule(0.1, 0), ValueError, "steps must be a positive whole number"),
        (lambda: plot_schedule(lambda k: jnp.ones(3) * k, 10), ValueError,
         "a schedule must give one number a step"),
    ],
)  # fmt: skip
def test_schedules_say_what_they_need(call, error, words):
    with pytest.raises(error, match=f"^`plot_schedule`: {words}"):
        call()


# values with a picture of their own


def test_a_graph_has_a_box_for_each_node_and_an_arrow_for_each_edge():
    graph = fn.graph(lambda w, x: jnp.tanh(x @ w).sum(), jnp.ones((3, 2)), jnp.ones((8, 3)))
    (axes,) = fn.plot(graph).axes
    kinds = dict.fromkeys(node.kind for node in graph.nodes)
    names = [type(patch).__name__ for patch in axes.patches]
    assert names.count("FancyBboxPatch") == len(graph.nodes) + len(kinds)
    assert names.count("FancyArrowPatch") == len(graph.edges)
    written = texts(axes)
    assert all(part in written for node in graph.nodes for part in captions(node))


def test_graphs_of_nothing_and_of_very_much_are_drawn():
    fn.plot(Graph((), ())).draw_without_rendering()
    long = fn.graph(lambda x: [x := x @ x for _ in range(150)][-1], jnp.ones((2, 2)))
    figure = fn.plot(long)
    assert figure.get_figheight() == pytest.approx(60)


def runs_of(history, epochs, reasons=None):
    count = len(epochs)
    zeros = np.zeros(count, int)
    found = zeros + Reason.EPOCHS if reasons is None else np.array(reasons)
    return RunResult(
        None, None, history, np.zeros((count, 3)), np.array(epochs), zeros, found, zeros, "loss"
    )


def test_runs_have_thin_lines_and_the_median_of_those_that_have_come_so_far():
    loss = np.array([[4.0, 3, 2], [6, 5, 77], [11, INF, 1]])  # 77 is after a run's end
    runs = runs_of({"loss": loss, "val_loss": loss + 1}, [3, 2, 3], [5, 5, Reason.NON_FINITE])
    figure = fn.plot(runs)
    (axes,) = figure.axes
    *thin, median = axes.lines[:4]
    assert [line.get_linewidth() for line in thin] == [0.8] * 3
    assert median.get_ydata().tolist() == [6, 4, 1.5]
    assert texts(axes) == ["train", "validation"]
    assert caption(figure).startswith("3 runs of 2 to 3 epochs.")
    assert caption(figure).endswith("1 broke off: a loss or a param was not finite.")


def test_a_grid_of_runs_and_runs_of_one_epoch_are_drawn():
    grid = runs_of({"loss": np.ones((2, 1))}, [1, 1])
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * 3), grid)
    figure = fn.plot(stacked)
    figure.draw_without_rendering()
    assert caption(figure).startswith("6 runs of 1 epoch.")
    with pytest.raises(ValueError, match=r"^`plot`: runs must hold at least one epoch, got none"):
        fn.plot(runs_of({"loss": np.ones((2, 1))}, [0, 0]))


def test_one_run_is_drawn_as_a_result():
    runs = runs_of({"loss": np.ones((2, 4))}, [4, 4])
    last = runs.__class__(**vars(runs) | {"last": TrainState(*[np.ones(2, int)] * 5)})
    assert caption(fn.plot(last[0])).startswith("Stopped after 4 epochs: all epochs")


@pytest.mark.parametrize(("arrays", "labels"), [(3, ["1", "0", "2", "all"]), (9, ["all"])])
def test_norms_of_a_kind_share_a_panel(arrays, labels):
    history = {"loss": [1.0, 2.0], "grad_norm": [9.0, 99.0]}
    history |= {f"grad_norm/{i}": [1.0, [20.0, 2.0, 40.0][i % 3]] for i in range(arrays)}
    result = Result(
        None, None, {k: np.array(v) for k, v in history.items()}, (), 0, "loss", Reason.EPOCHS, ""
    )
    _, norms = fn.plot(result).axes
    assert norms.get_title(loc="left") == "grad_norm"
    assert [word for word in texts(norms) if word not in ("best", "stop")] == labels
    grey = [line for line in norms.lines if line.get_color() == PALE and len(line.get_xdata()) == 2]
    assert len(grey) == (arrays if arrays >= len(SERIES) else 0)


def test_a_range_test_marks_its_suggestion():
    rates = np.geomspace(1e-6, 1, 60)
    found = LrRange(rates, np.linspace(2, 1, 60), np.linspace(2, 1, 60))
    (axes,) = fn.plot(found).axes
    assert texts(axes) == [f"{found.suggestion:.2g}"]
    assert axes.get_xscale() == "log"
    rising = fn.plot(LrRange(rates, np.linspace(1, 2, 60), np.linspace(1, 2, 60)))
    assert "so that no rate is suggested" in caption(rising)
    with pytest.raises(ValueError, match=r"^`plot`: a range test must hold at least one step"):
        fn.plot(LrRange(*[np.zeros(0)] * 3))


def test_very_many_classes_have_their_large_counts_written():
    counts = np.ones((60, 60)) + np.diag(np.full(60, 50))
    assert texts(plot_confusion(counts).axes[0]) == ["51"] * 60


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (fn.dense(1), r"got \(<function .*Print `fn.summary\(model, x\)`"),
        (fn.Trainer(fn.dense(1), loss=optax.squared_error, optimizer=optax.sgd(0.1)),
         r"got Trainer\(model=Model\(dense\).*Train first"),
        (optax.constant_schedule(0.1), r"A schedule is drawn by `fn.plot_schedule`"),
        ({"w": np.ones(2)}, r"got {'w': float64\[2\]}. Arrays are drawn by `fn.plot_histograms`"),
    ],
    ids=["model", "trainer", "schedule", "arrays"],
)  # fmt: skip
def test_plot_says_what_to_do_with_what_has_no_picture(value, words):
    with pytest.raises(TypeError, match=f"^`plot`: value must be .*{words}"):
        fn.plot(value)


@pytest.mark.parametrize(
    "draw",
    [
        lambda name: plot_confusion(np.eye(2), labels=[name, name]),
        lambda name: plot_histograms(*[{name: np.arange(9.0)}] * 5, labels=[name] * 5),
        lambda name: plot_schedule({name: 0.1}, 9, name=name),
        lambda name: plot_examples(np.zeros((1, 2, 2)), [name]),
    ],
    ids=["confusion", "histograms", "schedule", "examples"],
)
def test_names_with_dollars_are_no_formulas(draw):
    draw("$1_$2").savefig(io.BytesIO())


@pytest.mark.parametrize("name", ["plot_histograms", "plot_examples", "plot_schedule"])
def test_without_matplotlib_an_error_says_how_to_get_it(name, monkeypatch):
    monkeypatch.delitem(sys.modules, "funcnet.inspect.canvas", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    call = getattr(inspect, name)
    with pytest.raises(ImportError, match=rf"^`{name}`: .*pip install 'funcnet\[plots\]'"):
        call(0.1, 3) if name == "plot_schedule" else call(np.ones((2, 2)))
