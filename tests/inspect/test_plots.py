"""What stands in the figures of `plot` and `plot_confusion`, and that they need no pyplot."""

import subprocess
import sys

import numpy as np
import pytest

import funcnet as fn
from funcnet.inspect.style import GREY, TRAIN, VALIDATION
from funcnet.stopping import Reason
from funcnet.trainer import Result

NAN, INF = np.nan, np.inf


def finished(
    history, best_epoch=None, monitor="val_loss", reason=Reason.EPOCHS, losses=(), message=None
):
    arrays = {name: np.asarray(values) for name, values in history.items()}
    words = reason.words if message is None else message
    return Result(
        None, None, arrays, np.asarray(losses, np.float32), best_epoch, monitor, reason, words
    )


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def texts(axes):
    return [(text.get_text(), text.get_color()) for text in axes.texts]


def curves(axes):
    """Values of the lines by colour, without the marks."""
    return {
        line.get_color(): line.get_ydata().tolist()
        for line in axes.lines
        if line.get_linestyle() == "-" and len(line.get_xdata()) > 1
    }


def caption(figure):
    return figure.get_suptitle().replace("\n", " ")


@pytest.fixture
def full():
    history = {
        "learning_rate": [0.1, 0.01, 0.001],
        "loss": [3.0, 2.0, 1.0],
        "accuracy": [0.1, 0.2, 0.3],
        "confusion": np.zeros((3, 2, 2)),
        "val_loss": [4.0, 3.0, 3.5],
        "val_auc": [0.5, 0.6, 0.7],
    }
    return finished(history, 1, reason=Reason.PATIENCE)


def test_a_panel_for_each_name_with_its_twin(full):
    figure = fn.plot(full)
    assert titles(figure) == ["loss", "accuracy", "auc", "learning_rate"]
    loss, accuracy, auc, rate = figure.axes
    assert curves(loss) == {TRAIN: [3.0, 2.0, 1.0], VALIDATION: [4.0, 3.0, 3.5]}
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert curves(accuracy) == {TRAIN: [0.1, 0.2, 0.3]}
    assert curves(auc) == {VALIDATION: [0.5, 0.6, 0.7]}
    assert curves(rate) == {TRAIN: [0.1, 0.01, 0.001]}
    marks = [("best", GREY), ("stop", GREY)]
    assert texts(loss) == [("train", TRAIN), ("validation", VALIDATION), *marks]
    assert texts(auc) == [("validation", VALIDATION), *marks]
    assert texts(rate) == marks


def test_best_epoch_and_end_are_marked_in_every_panel_and_circled_in_one(full):
    figure = fn.plot(full)
    for axes in figure.axes:
        upright = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert upright == [2, 3]
    circles = [
        (axes.get_title(loc="left"), *line.get_xydata()[0].tolist(), line.get_color())
        for axes in figure.axes
        for line in axes.lines
        if line.get_fillstyle() == "none"
    ]
    assert circles == [("loss", 2.0, 3.0, VALIDATION)]
    assert caption(figure) == (
        f"Stopped after 3 epochs: {Reason.PATIENCE.words}. Best val_loss 3 at epoch 2."
    )


def test_no_stop_is_marked_where_all_was_done():
    (axes,) = fn.plot(finished({"loss": [2.0, 1.0]}, 1, "loss")).axes
    assert texts(axes) == [("best", GREY)]


@pytest.mark.parametrize(("epochs", "side"), [(30, "right"), (3, "center")])
def test_best_steps_aside_where_stop_is_near(epochs, side):
    history = {"loss": np.ones(epochs)}
    best, stop = fn.plot(finished(history, epochs - 2, "loss", Reason.PATIENCE)).axes[0].texts
    assert (best.get_ha(), stop.get_ha()) == (side, "center")


def test_best_and_stop_at_one_epoch_share_a_mark():
    result = finished({"loss": [2.0, 1.0]}, 1, "loss", Reason.THRESHOLD)
    assert texts(fn.plot(result).axes[0]) == [("best, stop", GREY)]


def test_one_epoch_alone_is_visible():
    figure = fn.plot(finished({"loss": [0.5]}, 0, "loss"))
    line = figure.axes[0].lines[0]
    assert (line.get_marker(), line.get_markevery()) == ("o", [0])
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]
    assert caption(figure).startswith("Stopped after 1 epoch: ")


def test_many_epochs_mark_only_those_without_a_neighbour():
    values = np.ones(100)
    values[[48, 50]] = NAN
    line = fn.plot(finished({"loss": values}, 0, "loss")).axes[0].lines[0]
    assert line.get_markevery() == [49]


def test_values_that_are_not_finite_are_crosses_with_a_word_on_them():
    figure = fn.plot(finished({"loss": [3, NAN, 1, INF], "val_loss": [1, 1, 1, 1]}, 0))
    (axes,) = figure.axes
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[2, 4], []]
    assert np.isnan(axes.lines[0].get_ydata()).tolist() == [False, True, False, True]
    assert caption(figure).endswith("Crosses mark values that are not finite.")


def test_nothing_finite_still_draws():
    figure = fn.plot(finished({"loss": [NAN, NAN], "val_loss": [NAN, NAN]}, None))
    figure.draw_without_rendering()
    assert texts(figure.axes[0]) == []
    assert figure.axes[0].get_yticks().tolist() == []


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1e4, 1.0], "log"), ([999, 1.0], "linear"), ([1e4, 0.0], "linear"), ([1e4, -1], "linear")],
)
def test_the_axis_is_logarithmic_over_a_factor_of_a_thousand(values, scale):
    (axes,) = fn.plot(finished({"loss": values}, 0, "loss")).axes
    assert axes.get_yscale() == scale


@pytest.mark.parametrize("values", [([1.0, 1.0], [1.0, 1.0]), ([1e5, 1.0], [1e5, 1.01])])
def test_labels_lie_beside_the_ends_and_not_upon_another(values):
    figure = fn.plot(finished(dict(zip(("loss", "val_loss"), values, strict=True)), 0))
    figure.draw_without_rendering()
    train, validation = (
        text.get_window_extent() for text in figure.axes[0].texts if text.get_color() != GREY
    )
    assert not train.overlaps(validation)
    end = figure.axes[0].transData.transform((2, 1.0))[1]
    assert abs((train.y0 + validation.y1) / 2 - end) < 0.05 * figure.axes[0].bbox.height


def test_a_run_without_an_epoch_shows_its_steps_by_the_numbers_of_the_message():
    message = "the loss was nan at step 2."
    figure = fn.plot(
        finished({}, reason=Reason.NON_FINITE, losses=[2.0, 1.0, NAN], message=message)
    )
    (axes,) = figure.axes
    assert axes.get_xlabel() == "step"
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0, 1, 2], [2]]
    assert caption(figure).startswith("Stopped after 3 steps: the loss was nan at step 2. Crosses")


@pytest.mark.parametrize(("panels", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (7, (3, 3))])
def test_the_size_fits_the_panels(panels, grid):
    figure = fn.plot(finished({f"m{i}": [1.0] for i in range(panels)}))
    spec = figure.axes[0].get_subplotspec().get_gridspec()
    assert (spec.nrows, spec.ncols) == grid
    assert figure.get_figheight() == pytest.approx(2.9 * grid[0] + 0.5)
    assert figure.get_figwidth() == pytest.approx(max(4.2 * grid[1], 5))


def test_dollars_in_a_message_are_no_formula():
    figure = fn.plot(finished({"loss": [1.0]}, message="it cost $2{, not $3"))
    figure.draw_without_rendering()


def test_plot_says_what_it_needs():
    with pytest.raises(TypeError, match=r"^`plot`: value must be what `Trainer.fit` gives back, "):
        fn.plot({"loss": [1.0]})
    with pytest.raises(ValueError, match=r"^`plot`: a result must hold at least one step, got an "):
        fn.plot(finished({}))


def test_confusion_has_counts_in_cells_and_shares_as_colours():
    figure = fn.plot_confusion([[6, 2], [0, 0]], labels=["cat", "dog"])
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 0.0]]
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [
        ("6", (0, 0)),
        ("2", (1, 0)),
        ("0", (0, 1)),
        ("0", (1, 1)),
    ]
    assert axes.texts[0].get_color() == "white"
    assert axes.texts[1].get_color() != "white"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["cat", "dog"]


def test_confusion_takes_what_the_metric_gives_and_weighted_counts():
    counts = np.array([[1234567.0, 0.5], [1 / 3, 2.0]])
    axes = fn.plot_confusion(counts).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1234567", "0.5", "0.3333", "2"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "1"]


@pytest.mark.parametrize("classes", [1, 2, 30])
def test_counts_fit_into_their_cells(classes):
    figure = fn.plot_confusion(np.full((classes, classes), 123456789))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    cell = axes.bbox.width / classes
    assert max(text.get_window_extent().width for text in axes.texts) < cell
    assert max(figure.get_size_inches()) < 20


@pytest.mark.parametrize(
    ("matrix", "labels", "words"),
    [
        ([[1, 2]], None, r"matrix must be \[classes, classes\], got int64\[1, 2\]"),
        ([1, 2], None, r"matrix must be \[classes, classes\], got int64\[2\]"),
        (np.zeros((0, 0)), None, r"matrix must be \[classes, classes\], got float64\[0, 0\]"),
        ([[1, -2], [0, 1]], None, "matrix must hold counts, finite and not negative, got"),
        ([[1, NAN], [0, 1]], None, "matrix must hold counts, finite and not negative, got"),
        ([["a"]], None, "matrix must hold counts, finite and not negative, got"),
        ([[1, 2], [3, 4]], ["a"], "labels must name each of the 2 classes, got 1: a"),
    ],
)
def test_confusion_says_what_it_needs(matrix, labels, words):
    with pytest.raises(ValueError, match=f"^`plot_confusion`: {words}"):
        fn.plot_confusion(matrix, labels)


def test_a_notebook_is_given_a_picture(full):
    assert fn.plot(full)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("call", ["fn.plot(result)", "fn.plot_confusion([[1]])"])
def test_without_matplotlib_an_error_says_how_to_get_it(call, monkeypatch):
    monkeypatch.delitem(sys.modules, "funcnet.inspect.canvas", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = finished({"loss": [1.0]}, 0, "loss")
    with pytest.raises(ImportError, match=r"must be installed.*pip install 'funcnet\[plots\]'"):
        eval(call, {"fn": fn, "result": result})


def test_matplotlib_is_loaded_by_plotting_and_pyplot_never():
    code = """
        import sys, funcnet as fn
        assert "funcnet.inspect" not in sys.modules
        fn.summary, fn.plot
        assert "matplotlib" not in sys.modules
        fn.plot_confusion([[1]])
        assert "matplotlib" in sys.modules
        assert "matplotlib.pyplot" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
