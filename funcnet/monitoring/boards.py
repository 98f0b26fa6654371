"""A training as files that TensorBoard shows."""

import math
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.distributed.arrays import gathered
from funcnet.monitoring.points import (
    check_every,
    check_names,
    first_new,
    needed,
    plain_values,
    scalars,
    step_losses,
)
from funcnet.trainer.callbacks import Callback, Event, leads

TRAIN, VALIDATION = "train", "validation"
"""The two runs, one below the other, whose lines TensorBoard lays over each other."""


class Shown(NamedTuple):
    """What is to be shown, as `tensorboard` was told."""

    every: int | None
    histograms: int
    images: dict[str, Callable[[Event], Any]]
    text: dict[str, Any]
    hyperparameters: dict[str, Any]


class Writers:
    """The files of a fit, opened as they are needed.

    Args:
        package: tensorboardX.
        directory: below which they are.
        first: the step from which on this fit writes anew what is already written.
    """

    def __init__(self, package: Any, directory: Path, first: int) -> None:
        self.package, self.directory, self.first = package, directory, first
        self.open: dict[str, Any] = {}

    def of(self, run: str) -> Any:
        """The writer of `"train"`, `"validation"`, or `""` for the directory itself."""
        if run not in self.open:
            self.open[run] = self.package.SummaryWriter(
                str(self.directory / run),
                purge_step=self.first,
                filename_suffix=f".{self.first:010d}",  # one of the same second is another file
            )
        return self.open[run]

    def flush(self) -> None:
        """Has all that was written read by others."""
        for writer in self.open.values():
            writer.flush()

    def close(self) -> None:
        """Ends the files."""
        for writer in self.open.values():
            writer.close()


class Begun(NamedTuple):
    """A fit's memory: the step where it began, and its writers once there is what to write."""

    start: int
    writers: Writers | None = None


def tensorboard(
    directory: str | PathLike[str],
    *,
    every: int | None = 50,
    histograms: bool | int = False,
    images: Mapping[str, Callable[[Event], Any]] | None = None,
    text: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
) -> Callback:
    """Writes a fit as TensorBoard shows it, `tensorboard --logdir directory`; for `callbacks=`.

    Each epoch's values stand at the step that ends it, under their names in the history:
    `val_loss` is the line `loss` of the run `validation`, over that of the run `train`. With them
    stand `epoch`, and what callbacks before it in the list have added. A vector, such as the recall
    of each class, is a line for each of its entries; larger arrays are left out, but can be drawn
    as images; NaN is a gap. `step_loss` is the loss of single steps.

    A fit that goes on, from a checkpoint or a state, or that begins anew in the same directory,
    takes the place of what was written from its first step on: no point is shown twice. Give each
    run a directory of its own to compare them. Of several processes one writes.

    Args:
        directory: where the files go; it is made if it is not there.
        every: steps between two of `step_loss`; `None` for none of them.
        histograms: epochs between two histograms of each param; `True` for each epoch.
        images: by name, functions of the epoch's `fn.Event` that give an image `[H, W]` or
            `[H, W, C]`, several `[N, H, W, C]`, or a figure of matplotlib; or None, for none this
            time. Floats lie in 0 .. 1, whole numbers in 0 .. 255; C is 1, 3 or 4.
        text: by name, texts in Markdown, or functions of the event that give one, or None.
        hyperparameters: by name, the numbers, strings and truth values that this run was made
            with, for the table of TensorBoard's "HParams".

    Raises:
        ImportError: tensorboardX is not installed.
        TypeError, ValueError: an argument is wrong; at an epoch's end, an image or a text is.

    Example:
        >>> import tempfile, jax.numpy as jnp, optax, funcnet as fn
        >>> from pathlib import Path
        >>> from funcnet.monitoring import tensorboard
        >>> trainer = fn.Trainer(
        ...     fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.1)
        ... )
        >>> x = jnp.ones((8, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     board = tensorboard(folder, hyperparameters={"rate": 0.1})
        ...     _ = trainer.fit((x, 2 * x), validation=(x, x), callbacks=[board])
        ...     sorted(each.name for each in Path(folder).iterdir() if each.is_dir())
        ['train', 'validation']
    """
    if not isinstance(directory, str | PathLike):
        raise TypeError(
            f"`tensorboard`: directory must be a path, got {errors.describe(directory)}. "
            "Say `fn.tensorboard('runs/first')`."
        )
    shown = Shown(
        every,
        epochs_between(histograms),
        functions_by_name(images),
        texts_by_name(text),
        plain_values("tensorboard", "hyperparameters", hyperparameters),
    )
    check_every("tensorboard", every)
    package = needed("tensorboard", "tensorboardX", "tensorboard")

    def update(memory: Begun | None, event: Event) -> Begun | None:
        if event.kind == "start":
            return Begun(event.step)
        assert memory is not None  # every fit begins with a start
        histograms = params_to_show(shown, event)  # every process has a part of them
        if not leads(event):
            return memory
        if event.kind == "end":
            return finish(memory, shown)
        writers = memory.writers
        if writers is None:
            writers = Writers(package, Path(directory), first_new(memory.start, event))
            begin(writers, shown)
        for step, loss in step_losses(event, shown.every).items():
            writers.of(TRAIN).add_scalar("step_loss", loss, step)
        if event.kind == "epoch":
            write_epoch(writers, shown, event, histograms)
        return memory._replace(writers=writers)

    return Callback(lambda: None, update, writes=True)


def begin(writers: Writers, shown: Shown) -> None:
    """Writes what is known before the first epoch: texts that are constant, hyperparameters."""
    for name, words in shown.text.items():
        if isinstance(words, str):
            writers.of(TRAIN).add_text(name, words, writers.first)
    if shown.hyperparameters:
        session = writers.package.summary.hparams(shown.hyperparameters, {})[1]
        writers.of("").file_writer.add_summary(session)
    writers.flush()


def finish(memory: Begun, shown: Shown) -> Begun:
    """Ends the files of a fit, if it has any."""
    if memory.writers is not None:
        if shown.hyperparameters:
            ended = memory.writers.package.summary.hparams({}, {})[2]
            memory.writers.of("").file_writer.add_summary(ended)
        memory.writers.close()
    return memory._replace(writers=None)


def write_epoch(
    writers: Writers, shown: Shown, event: Event, histograms: Mapping[str, np.ndarray]
) -> None:
    """Writes what is to be shown of an epoch."""
    train, step = writers.of(TRAIN), event.step
    for name, value in scalars(event.metrics).items():
        if math.isnan(value):
            continue
        run = VALIDATION if name.startswith("val_") else TRAIN
        writers.of(run).add_scalar(name.removeprefix("val_"), value, step)
    train.add_scalar("epoch", event.epoch, step)
    for path, values in histograms.items():
        train.add_histogram(f"params/{path}", values, step)
    for name, image in shown.images.items():
        if (found := image(event)) is not None:
            write_image(train, name, found, step)
    for name, words in shown.text.items():
        if callable(words) and (found := words(event)) is not None:
            train.add_text(name, checked_text(name, found), step)
    writers.flush()


def params_to_show(shown: Shown, event: Event) -> dict[str, np.ndarray]:
    """The finite values of each param, by path, at an epoch where histograms are due."""
    if event.kind != "epoch" or not shown.histograms or event.epoch % shown.histograms:
        return {}
    whole = {
        path: as_float(leaf) for path, leaf in tree.paths(gathered(event.state.params)).items()
    }
    finite = {path: leaf[np.isfinite(leaf)] for path, leaf in whole.items()}
    return {path: values for path, values in finite.items() if values.size}


def as_float(leaf: Any) -> np.ndarray:
    """An array on the host, in numbers that NumPy can count."""
    return np.asarray(jnp.asarray(leaf).astype(float))


def write_image(writer: Any, name: str, image: Any, step: int) -> None:
    """Writes one image, or several side by side, or a figure."""
    if hasattr(image, "savefig"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas: Any = FigureCanvasAgg(image)
        canvas.draw()
        image = np.asarray(canvas.buffer_rgba())
    array = np.asarray(image)
    array = array[:, :, None] if array.ndim == 2 else array
    whole_numbers = array.dtype.kind in "iu"
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, 4) or not array.size:
        raise ValueError(
            f"`tensorboard`: the image {name!r} must be [H, W], [H, W, C] or [N, H, W, C] with C "
            f"of 1, 3 or 4, got {errors.describe(image)}. Several grey ones are `x[..., None]`."
        )
    if not whole_numbers and not (array.dtype.kind == "f" or array.dtype == jnp.bfloat16):
        raise TypeError(
            f"`tensorboard`: the image {name!r} must hold numbers, got {errors.describe(image)}. "
            "Give floats in 0 .. 1, or whole numbers in 0 .. 255."
        )
    if not whole_numbers:
        array = np.nan_to_num(array.astype(np.float32)) * 255
    array = np.clip(array, 0, 255).astype(np.uint8)
    if array.ndim == 3:
        writer.add_image(name, array, step, dataformats="HWC")
    else:
        writer.add_images(name, array, step, dataformats="NHWC")


def epochs_between(histograms: Any) -> int:
    """Epochs between two histograms; 0 for none."""
    if isinstance(histograms, bool):
        return int(histograms)
    errors.positive("tensorboard", histograms=histograms)
    return int(histograms)


def functions_by_name(images: Any) -> dict[str, Callable[[Event], Any]]:
    """The images as given, once they are known to be functions."""
    found = check_names("tensorboard", "images", images)
    for name, image in found.items():
        if not callable(image):
            raise TypeError(
                "`tensorboard`: each image must be a function of an event, got "
                f"{errors.describe(image)} for {name!r}. Say `lambda event: ...`."
            )
    return found


def texts_by_name(text: Any) -> dict[str, Any]:
    """The texts as given, once they are known to be texts or functions."""
    found = check_names("tensorboard", "text", text)
    for name, words in found.items():
        if not callable(words):
            checked_text(name, words)
    return found


def checked_text(name: str, words: Any) -> str:
    """A text, once it is known to be one."""
    if not isinstance(words, str):
        raise TypeError(
            f"`tensorboard`: the text {name!r} must be a string, or a function that gives one, "
            f"got {errors.describe(words)}. Say `str(...)` of it."
        )
    return words
