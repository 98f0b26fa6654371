"""One row a metric: what it is, data that fit it, and an oracle that we did not write."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.metrics as oracle

from funcnet import metrics


class Row(NamedTuple):
    metric: metrics.Metric
    data: Callable[[int], tuple[Any, Any]]
    oracle: Callable[[Any, Any, Any], Any]
    """`oracle(y_pred, y, weight)` of arrays without examples of weight 0."""
    exact: bool = True
    """Whether all its sums are exact in float32: of whole numbers and eighths."""


def absolute(y_pred, y):
    return jnp.abs(y_pred - y)


def value(metric, *batch):
    """The metric of one batch, in one compiled call."""
    measure = jax.jit(lambda *batch: metric.compute(metric.update(metric.init(), *batch)))
    return np.asarray(measure(*batch))


# Data: multiples of 1/8, so that float sums are exact and halves hold them


def scores(n, classes=4, positions=()):
    """Scores and labels, of which about half are right; with ties."""
    random = np.random.default_rng(0)
    y = random.integers(classes, size=(n, *positions))
    noise = random.integers(-8, 8, size=(n, *positions, classes)) / 8
    return (noise + np.eye(classes)[y]).astype(np.float32), y


def logits(n, positions=()):
    random = np.random.default_rng(1)
    y = random.integers(2, size=(n, *positions))
    return (random.integers(-8, 8, size=y.shape) / 8 + y / 2).astype(np.float32), y


def probabilities(n):
    y_pred, y = logits(n)
    return (y_pred + 1.125) / 4, y


def numbers(n, positions=()):
    random = np.random.default_rng(2)
    a, b = random.integers(-8, 8, size=(2, n, *positions)).astype(np.float32) / 8
    return a, b


def near(n, positions=()):
    """Numbers far from 0, and predictions not far from them."""
    a, b = numbers(n, positions)
    return 3 + b + a / 8, 3 + b


def with_gaps(n):
    """Scores at positions of which some are left out."""
    y_pred, y = scores(n, positions=(5,))
    y[::3, 3:] = -1
    return y_pred, y


def sentences(n):
    random = np.random.default_rng(3)
    y_pred, y = random.integers(4, size=(n, 6)), random.integers(4, size=(n, 5))
    for tokens in (y_pred, y):
        tokens[np.arange(tokens.shape[1]) >= random.integers(1, 7, size=(n, 1))] = -1
    y_pred[:, 1] = -1
    return y_pred.astype(np.int32), y.astype(np.int32)


def two_outputs(n):
    y_pred, y = scores(n)
    return {"digit": y_pred, "more": y_pred[:, :1]}, {"digit": y, "more": y + 0.5}


# Oracles


def of_labels(score, **settings):
    """A score of scikit-learn's, of all positions, each with its example's weight."""

    def expected(y_pred, y, weight):
        predicted = y_pred > 0 if y_pred.shape == y.shape else y_pred.argmax(-1)
        each = np.broadcast_to(weight.reshape(-1, *[1] * (y.ndim - 1)), y.shape)
        kept = y.ravel() != -1
        labels = y.ravel()[kept], predicted.ravel()[kept].astype(int)
        return score(*labels, sample_weight=each.ravel()[kept], **settings)

    return expected


def of_numbers(score):
    return lambda y_pred, y, weight: score(y, y_pred, sample_weight=weight)


def among_the_first(y_pred, y, weight):
    # of equal scores scikit-learn's last ranks first, so that both are turned round
    return oracle.top_k_accuracy_score(
        3 - y, y_pred[:, ::-1], k=2, sample_weight=weight, labels=range(4)
    )


def ranked(p, y, weight, bins):
    rounded = np.digitize(p, np.arange(1, bins) / bins, right=True)
    return oracle.roc_auc_score(y, rounded, sample_weight=weight)


def sigmoid(y_pred):
    return 1 / (1 + np.exp(-y_pred.astype(np.float64)))


def softmax(y_pred):
    powers = np.exp(y_pred.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def perplexed(y_pred, y, weight):
    each = np.broadcast_to(weight.reshape(-1, *[1] * (y.ndim - 1)), y.shape)
    kept = y != -1
    return np.exp(
        oracle.log_loss(y[kept], softmax(y_pred)[kept], sample_weight=each[kept], labels=range(4))
    )


def miscalibrated(p, predicted, y, weight, bins):
    """Guo's own steps: for each bin, the difference of two means by its share."""
    error = 0
    for m in range(bins):
        inside = (p > m / bins) & (p <= (m + 1) / bins)
        if weight[inside].sum():
            right = np.average((predicted == y)[inside], weights=weight[inside])
            confidence = np.average(p[inside], weights=weight[inside])
            error += abs(right - confidence) * weight[inside].sum() / weight.sum()
    return error


def miscalibrated_scores(y_pred, y, weight):
    p = softmax(y_pred)
    return miscalibrated(p.max(-1), p.argmax(-1), y, weight, 15)


def miscalibrated_logits(y_pred, y, weight):
    p = sigmoid(y_pred)
    return miscalibrated(np.maximum(p, 1 - p), p > 0.5, y, weight, 10)


def distance(a, b):
    """The edit distance, from its definition."""

    @functools.cache
    def of(i, j):
        if not i or not j:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return of(len(a), len(b))


def misheard(y_pred, y, weight):
    pairs = [([t for t in a if t != -1], [t for t in b if t != -1]) for a, b in zip(y_pred, y)]  # noqa: B905 - rows of one batch
    edits = sum(w * distance(a, b) for (a, b), w in zip(pairs, weight, strict=True))
    return edits / sum(w * len(b) for (_, b), w in zip(pairs, weight, strict=True))


SCORES = {
    "precision": (metrics.precision, oracle.precision_score),
    "recall": (metrics.recall, oracle.recall_score),
    "f1": (metrics.f1, oracle.f1_score),
}
ROWS = {
    "mean": Row(metrics.mean(absolute), numbers, of_numbers(oracle.mean_absolute_error)),
    "mean of rows": Row(
        metrics.mean(absolute),
        functools.partial(numbers, positions=(4,)),
        of_numbers(oracle.mean_absolute_error),
    ),
    "accuracy": Row(metrics.accuracy(), scores, of_labels(oracle.accuracy_score)),
    "accuracy of logits": Row(metrics.accuracy(), logits, of_labels(oracle.accuracy_score)),
    "accuracy at positions": Row(
        metrics.accuracy(),
        functools.partial(scores, positions=(3,)),
        of_labels(oracle.accuracy_score),
    ),
    "accuracy with gaps": Row(
        metrics.accuracy(ignore=-1), with_gaps, of_labels(oracle.accuracy_score)
    ),
    "confusion matrix": Row(
        metrics.confusion_matrix(4), scores, of_labels(oracle.confusion_matrix, labels=range(4))
    ),
    "confusion of logits": Row(
        metrics.confusion_matrix(2), logits, of_labels(oracle.confusion_matrix, labels=range(2))
    ),
    "top 2": Row(metrics.top_k(2), scores, among_the_first),
    **{
        name: Row(make(), logits, of_labels(score, zero_division=0))
        for name, (make, score) in SCORES.items()
    },
    **{
        f"{name}, {average}": Row(
            make(4, average=average), scores, of_labels(score, average=average, zero_division=0)
        )
        for name, (make, score) in SCORES.items()
        for average in ("macro", "micro")
    },
    "iou": Row(metrics.iou(4), scores, of_labels(oracle.jaccard_score, average="macro")),
    "iou with gaps": Row(
        metrics.iou(4, ignore=-1), with_gaps, of_labels(oracle.jaccard_score, average="macro")
    ),
    "auc": Row(metrics.auc(8), logits, lambda y_pred, *rest: ranked(sigmoid(y_pred), *rest, 8)),
    "auc of probabilities": Row(
        metrics.auc(16, logits=False), probabilities, lambda *batch: ranked(*batch, 16)
    ),
    "mse": Row(metrics.mse(), numbers, of_numbers(oracle.mean_squared_error)),
    "mae": Row(
        metrics.mae(),
        functools.partial(numbers, positions=(4,)),
        of_numbers(oracle.mean_absolute_error),
    ),
    "r2": Row(metrics.r2(), near, of_numbers(oracle.r2_score), exact=False),
    "r2 of outputs": Row(
        metrics.r2(), functools.partial(near, positions=(3,)), of_numbers(oracle.r2_score), False
    ),
    "perplexity": Row(metrics.perplexity(), scores, perplexed, exact=False),
    "perplexity with gaps": Row(metrics.perplexity(ignore=-1), with_gaps, perplexed, exact=False),
    "word error rate": Row(metrics.word_error_rate(), sentences, misheard),
    "calibration error": Row(
        metrics.calibration_error(), scores, miscalibrated_scores, exact=False
    ),
    "calibration error of logits": Row(
        metrics.calibration_error(10), logits, miscalibrated_logits, exact=False
    ),
    "of": Row(
        metrics.of(metrics.accuracy(), lambda y_pred, y: (y_pred["digit"], y["digit"])),
        two_outputs,
        lambda y_pred, y, weight: of_labels(oracle.accuracy_score)(
            y_pred["digit"], y["digit"], weight
        ),
    ),
}
WEIGHTS = {
    "none": lambda n: None,
    "uint8": lambda n: (np.arange(n) % 3).astype(np.uint8),
    "bfloat16": lambda n: jnp.asarray(np.arange(n) % 3 / 2, jnp.bfloat16),
}
