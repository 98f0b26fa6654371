"""Metrics of sequences of tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.metrics.metric import Accumulator, Metric, make_metric
from funcnet.metrics.reading import check_ignore, class_scores, tokens
from funcnet.metrics.sums import average, example_weight, tally, weighted


def perplexity(*, ignore: int | None = None) -> Metric:
    """The exponential of the mean cross-entropy, in nats, over all positions of all examples.

    Long sequences count more than short ones: it is the mean over positions, each with its
    example's weight, not over examples. A label that no score stands for has probability 0 and
    makes it infinite.

    Args:
        ignore: the label of positions that are left out, such as those that fill up a sequence.

    Raises:
        TypeError: if `ignore` isn't a whole number; at the update, if y_pred doesn't hold floats or
            y doesn't hold integer labels.
        ValueError: at the update, if y_pred isn't logits `(B, ..., C)` for y `(B, ...)`.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.perplexity(ignore=-1)
        >>> logits, y = jnp.zeros((2, 3, 8)), jnp.array([[5, 0, 7], [2, -1, -1]])
        >>> round(float(metric.compute(metric.update(metric.init(), logits, y))), 3)
        8.0

    Source: Jelinek, Mercer, Bahl, Baker 1977, Perplexity: a measure of the difficulty of speech
    recognition tasks, with natural logarithms.
    """
    check_ignore("perplexity", ignore)

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        logits, true = class_scores("perplexity", y_pred, y)
        weight = example_weight("perplexity", weight, true)
        known = (true >= 0) & (true < logits.shape[-1])
        label = jnp.where(known, true, 0)
        p = jax.nn.log_softmax(logits)
        nats = -jnp.take_along_axis(p, label[..., None], axis=-1)[..., 0]
        counted = jnp.ones_like(known) if ignore is None else true != ignore
        further = tuple(range(1, true.ndim))
        values = jnp.where(counted, jnp.where(known, nats, jnp.inf), 0).sum(further)
        return tally(values, weight, positions=counted.sum(further))

    def compute(accumulator: Accumulator) -> jax.Array:
        return jnp.exp(average(accumulator))

    return make_metric(lambda: weighted(0.0, 0), contribution, compute)


def word_error_rate(*, padding: int = -1) -> Metric:
    """Edits that turn y_pred into y, over the words of y: of all examples together.

    An edit is a word put in, left out or exchanged. y_pred is `(B, S)` and y is `(B, T)`, integer
    tokens; those equal to `padding` are no words, wherever they stand. An example of weight 2
    counts as two. Without words in y it is NaN, or infinite if there are words in y_pred.

    Args:
        padding: the token that fills up a sequence, in y_pred and in y.

    Raises:
        TypeError: if `padding` isn't a whole number; at the update, if y_pred and y aren't arrays
            of whole numbers.
        ValueError: at the update, if they aren't sequences of as many examples.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn
        >>> metric = fn.metrics.word_error_rate()
        >>> y_pred, y = jnp.array([[7, 8, 9], [5, -1, -1]]), jnp.array([[7, 9, -1], [5, 6, -1]])
        >>> float(metric.compute(metric.update(metric.init(), y_pred, y)))
        0.5

    Source: the distance of Wagner, Fischer 1974, The String-to-String Correction Problem, as the
    recurrence over rows of which each is one prefix minimum.
    """
    check_padding(padding)

    def contribution(y_pred: Any, y: Any, weight: Any) -> Accumulator:
        found, true = tokens("word_error_rate", y_pred, y)
        weight = example_weight("word_error_rate", weight, true)
        words = jnp.sum(true != padding, axis=1)
        return tally(edits(found, true, padding), weight, positions=words)

    return make_metric(lambda: weighted(0, 0), contribution, average)


def edits(found: jax.Array, true: jax.Array, padding: int) -> jax.Array:
    """The edit distances of `found` `(B, S)` and `true` `(B, T)`: int32 `(B,)`.

    Row s of the table has the distances of the first s tokens of `found` from each beginning of
    `true`. A row's chains of words that are left out are a prefix minimum, once the words up to
    each column are taken off.
    """
    words = jnp.cumsum(true != padding, axis=1)
    words = jnp.pad(words, ((0, 0), (1, 0)))  # (B, T + 1)

    def next_row(row: jax.Array, token: jax.Array) -> tuple[jax.Array, None]:
        token = token[:, None]
        exchanged = row[:, :-1] + (true != token)
        least = (row + 1).at[:, 1:].min(exchanged)
        new = words + jax.lax.cummin(least - words, axis=1)
        return jnp.where(token == padding, row, new), None

    last, _ = jax.lax.scan(next_row, words, found.T)
    return last[:, -1]


def check_padding(padding: Any) -> None:
    """Raises unless `padding` is a token."""
    if isinstance(padding, bool) or not isinstance(padding, int | np.integer):
        raise TypeError(
            f"`word_error_rate`: padding must be a whole number, got {padding!r}. "
            "Pass the token that fills up the sequences."
        )
