"""`plot_examples`: some of the data, with labels and what was predicted."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnet import errors
from funcnet.inspect.answers import Answers, Names, answers, verdict
from funcnet.inspect.style import GREY, SERIES, VALIDATION, caption, frame, new_figure
from funcnet.tables import in_columns, shortened, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEATURES = 12
"""The most numbers of an example that stand in a table; more are drawn as a line."""

CHANNELS = 6
"""The most lines in a panel; a sequence with more channels is drawn as an image."""


def plot_examples(
    x: Any,
    y: Any = None,
    y_pred: Any = None,
    *,
    labels: Names = None,
    decode: Callable[[Any], str] | Sequence[str] | None = None,
    count: int = 16,
) -> "Figure":
    """Draws the first examples of some data, with their labels and what was predicted for them.

    | x | is drawn as |
    | --- | --- |
    | `(B, H, W, C)` with 1, 3 or 4 channels, `(B, H, W)` | images |
    | `(B, T, C)` with 6 channels or fewer, floats `(B, T)` with more than 12 numbers | lines |
    | strings, or whole numbers `(B, T)` with `decode` | text |
    | `(B, F)` with 12 numbers or fewer, `(B,)`, a dict of columns | a table |

    A prediction that is not the label is written in colour, as `dog, not cat`. Whole numbers,
    booleans and strings are labels, floats are quantities. Rows of scores stand for the largest,
    and floats beside whole labels are binary logits, 1 above 0; of probabilities give
    `y_pred > 0.5`. To see the mistakes alone, choose them: `x[wrong], y[wrong], y_pred[wrong]`.

    Images of floats within 0 .. 1 and of uint8 are shown as they are, others from the least of
    their values to the most. Pixels that are NaN are vermilion.

    Args:
        x: the examples along the first axis.
        y: a label or number for each; one-hot rows will do.
        y_pred: what was predicted, as `trainer.predict` gives it.
        labels: names of the classes, in their order or by number.
        decode: words of the numbers in x, in their order; or a function that makes a string of one
            example.
        count: the most examples to draw.

    Returns:
        The figure, which no pyplot knows: save it with `figure.savefig("examples.png")`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `count` is no whole number.
        ValueError: there is no example; x has a shape that is none of the table's; y or y_pred is
            not one label, number or row of scores for each example.

    Example:
        >>> import numpy as np, funcnet as fn
        >>> from funcnet.inspect import plot_examples
        >>> x, y = np.zeros((3, 8, 8)), np.array([0, 1, 1])
        >>> figure = plot_examples(x, y, np.array([0, 0, 1]), labels=["cat", "dog"])
        >>> [axes.get_title() for axes in figure.axes]
        ['cat', 'cat, not dog', 'dog']
    """
    errors.positive("plot_examples", count=count)
    columns = {str(k): np.asarray(v) for k, v in x.items()} if isinstance(x, Mapping) else None
    values = array_of(next(iter(columns.values()), np.zeros(0)) if columns is not None else x)
    if not values.shape or not len(values):
        raise ValueError(
            "`plot_examples`: x must hold at least one example, got "
            f"{errors.describe(values)}. Give a batch of the data."
        )
    found = answers(y, y_pred, labels, len(values))
    n = min(count, len(values))
    words = story(found, n, len(values))
    if columns is None and (values.dtype.kind in "USO" or decode is not None):
        return draw_text([decoded(row, decode) for row in values[:n]], found, words)
    if columns is None and not is_table(values):
        return draw_panels(values[:n], found, words)
    if columns is None:
        table = values.reshape(len(values), -1)
        columns = {f"x{i}" if table.shape[1] > 1 else "x": table[:, i] for i in range(len(table.T))}
    return draw_table(columns, found, n, words)


def array_of(x: Any) -> np.ndarray:
    """The examples as numpy has them."""
    try:
        values = np.asarray(x)
    except ValueError:  # rows of unequal lengths
        values = np.array([str(each) for each in x])
    return values.astype(np.float32) if values.dtype.kind == "V" else values


def is_table(values: np.ndarray) -> bool:
    """Whether each example is a few numbers."""
    return values.ndim == 1 or (values.ndim == 2 and values.shape[1] <= FEATURES)


def story(found: Answers, shown: int, all_of_them: int) -> str:
    """How many are shown, and how many of all are wrong."""
    words = f"{shown:,} of {all_of_them:,} example{'s' * (all_of_them > 1)}."
    if found.wrong is not None:
        words += f" {int(found.wrong.sum()):,} of the {all_of_them:,} predicted wrongly"
        words += "; those here are coloured." if found.wrong[:shown].any() else "."
    return words


def draw_panels(values: np.ndarray, found: Answers, words: str) -> "Figure":
    """A panel for each example: an image, or lines."""
    lines = values.ndim == 2 or (values.ndim == 3 and values.shape[2] <= CHANNELS)
    if not lines:
        values, more = pictures(values)
        words += more
    n = len(values)
    columns = min(n, 4 if lines else max(4, min(8, round(np.sqrt(2 * n)))))
    rows = -(-n // columns)
    across, down = (2.3, 1.6) if lines else (1.45, 1.65)
    figure = new_figure("plot_examples", max(across * columns, 3.6), down * rows + 0.5)
    first = None
    for i in range(n):
        axes = figure.add_subplot(rows, columns, i + 1, sharey=first if lines else None)
        if lines:
            first = axes
            draw_lines(axes, values[i])
        else:
            draw_image(axes, values[i])
        head(axes, found, i, most=int(13 * across))
    caption(figure, words)
    return figure


def head(axes: "Axes", found: Answers, i: int, most: int) -> None:
    """Writes label and prediction above an example; a frame is about a wrong one."""
    wrong = found.wrong is not None and bool(found.wrong[i])
    color = VALIDATION if wrong else GREY
    parts = verdict(found, i)
    one_line = ", ".join(parts)
    words = one_line if width(one_line) <= most else "\n".join(shortened(p, most) for p in parts)
    axes.set_title(
        words, fontsize=8.5, color=color, pad=3, parse_math=False,
        fontweight="bold" if wrong else "normal",
    )  # fmt: skip
    if wrong:
        axes.spines[:].set_visible(True)
        axes.spines[:].set(color=color, linewidth=2)


def draw_image(axes: "Axes", image: np.ndarray) -> None:
    """One image, a pixel a square."""
    axes.imshow(image, interpolation="nearest", aspect="auto" if stretched(image) else "equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def stretched(image: np.ndarray) -> bool:
    """Whether an image is so narrow that it is drawn wider than it is."""
    high, wide = image.shape[:2]
    return bool(max(high, wide) > 4 * min(high, wide))


def pictures(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Images as colours within 0 .. 1, and what was done for it."""
    channels = values.shape[3] if values.ndim == 4 else 1
    if values.ndim not in (3, 4) or channels not in (1, 3, 4):
        remedy = "Cut x to one of the shapes that `plot_examples` draws, `x[..., :3]` say."
        if values.ndim == 4 and values.shape[1] in (1, 3, 4):
            remedy = "Put the channels last: `x.transpose(0, 2, 3, 1)`."
        raise ValueError(
            "`plot_examples`: x must be images (B, H, W, 1 | 3 | 4) or (B, H, W), sequences "
            f"(B, T, C), or rows (B, F), got {errors.describe(values)}. {remedy}"
        )
    low, high, words = 0.0, 1.0, ""
    finite = values[np.isfinite(values)].astype(float)
    if values.dtype == np.uint8:
        high = 255.0
    elif finite.size and (finite.min() < 0 or finite.max() > 1):
        low, high = float(finite.min()), float(finite.max())
        words = f" Colours are values from {low:.3g} to {high:.3g}."
    scaled = (values.astype(float) - low) / ((high - low) or 1.0)
    scaled = scaled.reshape(*values.shape[:3], channels)
    broken = np.asarray(~np.isfinite(scaled).all(-1))
    colours = np.repeat(scaled, 3, -1) if channels == 1 else scaled[..., :3]
    if channels == 4:  # upon white
        colours = 1 + scaled[..., 3:] * (colours - 1)
    colours = np.clip(np.where(broken[..., None], (0.835, 0.369, 0.0), colours), 0, 1)
    return colours, words + (" Vermilion pixels are not finite." if broken.any() else "")


def draw_lines(axes: "Axes", values: np.ndarray) -> None:
    """One sequence, a line for each channel."""
    frame(axes)
    axes.tick_params(labelsize=7)
    for channel, color in zip(values.reshape(len(values), -1).T, SERIES, strict=False):
        finite = np.where(np.isfinite(channel.astype(float)), channel.astype(float), np.nan)
        axes.plot(finite, color=color, linewidth=1)


def decoded(row: Any, decode: Callable[[Any], str] | Sequence[str] | None) -> str:
    """One example as text."""
    if decode is None:
        return str(row)
    if callable(decode):
        return str(decode(row))
    tokens = [
        str(decode[int(i)]) if 0 <= int(i) < len(decode) else f"<{int(i)}>" for i in np.ravel(row)
    ]
    return ("" if all(len(token) == 1 for token in decode) else " ").join(tokens)


def draw_text(texts: Sequence[str], found: Answers, words: str) -> "Figure":
    """A paragraph for each example, its answer before it."""
    heads = [shortened(", ".join(verdict(found, i)), 30) for i in range(len(texts))]
    indent = max(map(width, heads))
    room = 88 - indent
    lines: list[tuple[str, bool]] = []
    for i, text in enumerate(texts):
        wrong = found.wrong is not None and bool(found.wrong[i])
        parts = textwrap.wrap(" ".join(text.split()), room, max_lines=3, placeholder=" …") or [""]
        before = [heads[i], *[""] * (len(parts) - 1)]
        for start, part in zip(before, parts, strict=True):
            gap = " " * (indent - width(start) + 2 * bool(indent))
            lines.append((f"{start}{gap}{part}", wrong))
    return write(lines, words)


def draw_table(columns: Mapping[str, np.ndarray], found: Answers, n: int, words: str) -> "Figure":
    """A row for each example, with label and prediction at its end."""
    ragged = {name: len(column) for name, column in columns.items() if column.ndim != 1}
    lengths = {len(column) for column in columns.values()}
    if ragged or len(lengths) > 1:
        shapes = ", ".join(f"{name} {errors.describe(each)}" for name, each in columns.items())
        raise ValueError(
            "`plot_examples`: each column of x must have one entry for each example, got "
            f"{shapes}. Draw one of several inputs at a time."
        )
    chosen = dict(list(columns.items())[:FEATURES])
    if found.true is not None:
        chosen["true"] = np.array(found.true)
    if found.predicted is not None:
        chosen["predicted"] = np.array(found.predicted)
    rows = [list(chosen), *zip(*(map(cell, column[:n]) for column in chosen.values()), strict=True)]
    lines = in_columns(rows, ">" * len(chosen))
    wrong = [False, *(found.wrong[:n] if found.wrong is not None else [False] * n)]
    left = len(columns) - FEATURES
    more = f" {left} more columns are not shown." if left > 0 else ""
    return write(list(zip(lines, map(bool, wrong), strict=True)), words + more)


def cell(value: Any) -> str:
    """An entry of the table."""
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def write(lines: Sequence[tuple[str, bool]], words: str) -> "Figure":
    """Lines of letters of one width; those of wrong predictions coloured."""
    across = max(4.5, 0.082 * max(width(line) for line, _ in lines) + 0.3)
    figure = new_figure("plot_examples", across, 0.2 * len(lines) + 0.7)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(len(lines), 0))
    axes.axis("off")
    for i, (line, wrong) in enumerate(lines):
        axes.text(
            0, i + 0.5, line, family=["monospace", "sans-serif"], fontsize=9, va="center",
            parse_math=False, color=VALIDATION if wrong else "#222222",
            fontweight="bold" if wrong else "normal",
        )  # fmt: skip
    caption(figure, words)
    return figure
