"""TensorBoard's files, read back by TensorBoard's own reader."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import funcnet as fn
from funcnet.monitoring import tensorboard
from funcnet.trainer import limits
from tests.monitoring.fits import absent, fit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # protobuf's, of its reader


def read(directory):
    """What TensorBoard reads of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory), size_guidance={"images": 0, "histograms": 0})
    found.Reload()
    return found


def points(directory, tag):
    """Steps and values of a scalar."""
    return [(each.step, each.value) for each in read(directory).Scalars(tag)]


def test_values_of_training_and_validation_lie_over_each_other(tmp_path):
    result = fit([tensorboard(tmp_path, every=3)], epochs=2)
    train, validation = read(tmp_path / "train"), read(tmp_path / "validation")
    assert set(train.Tags()["scalars"]) == {
        "loss", "hits/0", "hits/1", "hits/2", "epoch", "step_loss",
    }  # fmt: skip
    assert set(validation.Tags()["scalars"]) == {"loss", "hits/0", "hits/1", "hits/2"}
    for run, name in (("train", "loss"), ("validation", "val_loss")):
        expected = zip([4, 8], result.history[name].astype(np.float32).tolist(), strict=True)
        assert points(tmp_path / run, "loss") == list(expected)
    expected = [(step, float(result.losses[step - 1])) for step in (3, 6)]
    assert points(tmp_path / "train", "step_loss") == expected
    assert points(tmp_path / "train", "epoch") == [(4, 1), (8, 2)]
    assert [p[1] for p in points(tmp_path / "validation", "hits/1")] == pytest.approx(
        result.history["val_hits"][:, 1].tolist()
    )


@pytest.mark.parametrize("anew", [False, True])
def test_no_point_is_there_twice(tmp_path, anew):
    board = tmp_path / "board"
    first = fit([tensorboard(board, every=2)], epochs=3, checkpoint=tmp_path / "run")
    again = {"state": fit(epochs=1).last}  # from before the end of what is written
    if anew:
        again = {"seed": 1}
    result = fit([tensorboard(board, every=2)], epochs=4, **again)
    steps = [step for step, _ in points(board / "train", "step_loss")]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 16]
    values = [np.float32(value) for _, value in points(board / "train", "loss")]
    kept = [] if anew else first.history["loss"][:1].tolist()
    assert values == [np.float32(each) for each in (*kept, *result.history["loss"].tolist())]
    assert [step for step, _ in points(board / "validation", "loss")] == [4, 8, 12, 16]


def test_an_epoch_that_was_cut_short_is_not_there_twice(tmp_path):
    board, run = tmp_path / "board", tmp_path / "run"
    for _ in range(2):
        fit([tensorboard(board)], epochs=None, steps=6, checkpoint=run)
    assert [step for step, _ in points(board / "train", "loss")] == [4, 6]


def test_histograms_are_of_the_finite_params(tmp_path):
    result = fit([tensorboard(tmp_path, histograms=2)], epochs=4)
    found = read(tmp_path / "train")
    tags = {f"params/{path}" for path in fn.tree.paths(result.last.params)}
    assert set(found.Tags()["histograms"]) == tags
    histograms = found.Histograms("params/0/kernel")
    assert [each.step for each in histograms] == [8, 16]
    kernel = np.asarray(result.last.params["0"]["kernel"], float)
    last = histograms[-1].histogram_value
    assert (last.num, last.min, last.max) == (20, kernel.min(), kernel.max())
    assert last.sum == pytest.approx(kernel.sum())
    broken = {"a": np.array([1.0, np.nan, np.inf]), "b": np.array([np.nan])}
    state = result.last._replace(params=broken)
    callback = tensorboard(tmp_path / "broken", histograms=True)
    memory = callback.init()
    for kind in ("start", "epoch", "end"):
        memory = callback.update(memory, fn.Event(kind, 1, 4, 4, {}, {}, state))
    found = read(tmp_path / "broken" / "train")
    assert found.Tags()["histograms"] == ["params/a"]
    assert found.Histograms("params/a")[0].histogram_value.num == 1


def figure(event):
    drawn = Figure(figsize=(2, 1), dpi=50)
    drawn.subplots().plot(event.history["loss"])
    return drawn


def test_images_and_text_are_what_functions_of_the_event_give(tmp_path):
    from PIL import Image

    grey = np.array([[0.0, 0.5], [1.0, 2.0]])
    images = {
        "grey": lambda event: grey,
        "whole": lambda event: np.full((3, 2, 3), 7, np.uint8),
        "several": lambda event: np.ones((5, 4, 6, 1)),
        "drawn": figure,
        "seldom": lambda event: grey if event.epoch == 2 else None,
    }
    text = {"about": "**first** try", "told": lambda event: f"epoch {event.epoch}"}
    fit([tensorboard(tmp_path, images=images, text=text)], epochs=2)
    found = read(tmp_path / "train")
    sizes = {tag: (found.Images(tag)[0].width, found.Images(tag)[0].height) for tag in images}
    assert {tag: sizes[tag] for tag in ("grey", "whole", "drawn")} == {
        "grey": (2, 2), "whole": (2, 3), "drawn": (100, 50),
    }  # fmt: skip
    assert sizes["several"] >= (12, 8)
    assert [each.step for each in found.Images("seldom")] == [8]
    path = tmp_path / "grey.png"
    path.write_bytes(found.Images("grey")[0].encoded_image_string)
    pixels = np.asarray(Image.open(path).convert("L"))
    np.testing.assert_array_equal(pixels, [[0, 127], [255, 255]])
    words = {
        tag: [
            each.tensor_proto.string_val[0].decode()
            for each in found.Tensors(f"{tag}/text_summary")
        ]
        for tag in text
    }
    assert words == {"about": ["**first** try"], "told": ["epoch 1", "epoch 2"]}


def test_hyperparameters_are_read_by_the_plugin_that_shows_them(tmp_path):
    from tensorboard.plugins.hparams import metadata

    given = {"rate": np.float32(0.5), "depth": 3, "name": "adam", "nesterov": True}
    fit([tensorboard(tmp_path, hyperparameters=given)], epochs=1)
    found = read(tmp_path)
    started, ended = (
        found.SummaryMetadata(f"_hparams_/session_{part}_info").plugin_data.content
        for part in ("start", "end")
    )
    values = metadata.parse_session_start_info_plugin_data(started).hparams
    assert values["rate"].number_value == 0.5
    assert values["depth"].number_value == 3
    assert values["name"].string_value == "adam"
    assert values["nesterov"].bool_value is True
    assert metadata.parse_session_end_info_plugin_data(ended).status == 1  # success


def test_a_trial_run_and_a_fit_of_no_step_write_nothing(tmp_path):
    fit([tensorboard(tmp_path / "a")], limits=limits(fast_dev_run=True))
    fit([tensorboard(tmp_path / "a")], epochs=1, state=fit(epochs=1).last)
    assert list(tmp_path.iterdir()) == []


def test_nan_is_a_gap(tmp_path, caplog):
    callback = tensorboard(tmp_path)
    memory = callback.init()
    state = fit(epochs=1).last
    for step, (kind, value) in enumerate([("start", 0), ("epoch", np.nan), ("epoch", 2.0)]):
        memory = callback.update(memory, fn.Event(kind, 1, step, 4, {"a": value}, {}, state))
    callback.update(memory, fn.Event("end", 1, 2, 4, {}, {}, state))
    assert points(tmp_path / "train", "a") == [(2, 2.0)]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"every": 0}, ValueError, "`tensorboard`: every must be a positive whole number, got 0."),
        ({"histograms": 0.5}, TypeError, "`tensorboard`: histograms must be a positive whole num"),
        ({"images": [1]}, TypeError, r"`tensorboard`: images must be a dict by name, got \[1\]. S"),
        ({"images": {"a": 3}}, TypeError, "`tensorboard`: each image must be a function of an ev"),
        ({"text": {"a": 3}}, TypeError, "`tensorboard`: the text 'a' must be a string, or a func"),
        (
            {"hyperparameters": {"layers": [1, 2]}},
            TypeError,
            r"`tensorboard`: hyperparameters must hold numbers, strings and truth values, got "
            r"\[1, 2\] for 'layers'. Say `str\(...\)` of it.",
        ),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, more, error, words):
    with pytest.raises(error, match=words):
        tensorboard(tmp_path, **more)


def test_a_directory_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"`tensorboard`: directory must be a path, got None. Say"):
        tensorboard(None)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.ones((5, 4, 6)), ValueError, r"the image 'a' must be \[H, W\], .*, got float64\[5, 4"),
        (np.ones(3), ValueError, r"got float64\[3\]. Several grey ones are `x\[..., None\]`."),
        (np.ones((2, 2), complex), TypeError, "the image 'a' must hold numbers, got complex128"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(tmp_path, image, error, words):
    with pytest.raises(error, match=words):
        fit([tensorboard(tmp_path, images={"a": lambda event: image})], epochs=1)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("funcnet.monitoring.points.import_module", absent)
    words = "`tensorboard`: tensorboardX must be installed, .*pip install 'funcnet.tensorboard.'`."
    with pytest.raises(ImportError, match=words):
        tensorboard(tmp_path)
