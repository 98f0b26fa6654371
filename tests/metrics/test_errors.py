"""Errors of metrics, word for word."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import metrics
from tests.metrics.table import absolute, value


def whole(words):
    return f"^{re.escape(words)}$"


SHAPES = (
    "y_pred must have the shape of y (binary logits), or one more axis of at least 2 (scores of "
    "classes), got y_pred"
)
ONE_EACH = "Pass one label for each row of scores, or for each logit."
F4, I4 = np.zeros(4, "float32"), np.zeros(4, "int32")
F43, F41, I41 = np.zeros((4, 3), "float32"), np.zeros((4, 1), "float32"), I4[:, None]
REFUSED = [
    (F41, I4, ValueError, f"{SHAPES} float32[4, 1] and y int32[4]. "
     "Pass y_pred.squeeze(-1) if it has binary logits."),
    (F43, I41, ValueError, f"{SHAPES} float32[4, 3] and y int32[4, 1]. Pass y.squeeze(-1)."),
    (F4, I41, ValueError, f"{SHAPES} float32[4] and y int32[4, 1]. Pass y.squeeze(-1)."),
    (F43, I4[:3], ValueError, f"{SHAPES} float32[4, 3] and y int32[3]. {ONE_EACH}"),
    (F4, I4[:3], ValueError, f"{SHAPES} float32[4] and y int32[3]. {ONE_EACH}"),
    (F4[0:1][0], I4[0], TypeError, "y_pred and y must be arrays, got float32[] and int32[]. "
     "Choose one output of the model and its labels."),
    (jnp.zeros(()), jnp.zeros((), int), ValueError,
     f"{SHAPES} float32[] and y int32[]. {ONE_EACH}"),
    (F43, jnp.zeros(()).astype(int), ValueError,
     f"{SHAPES} float32[4, 3] and y int32[]. {ONE_EACH}"),
    (jnp.zeros(3), jnp.zeros((), int), ValueError,
     f"{SHAPES} float32[3] and y int32[]. {ONE_EACH}"),
    (F43[:, :0], I4, ValueError, f"{SHAPES} float32[4, 0] and y int32[4]. {ONE_EACH}"),
    (F43, F43, TypeError, "y must be integer or boolean labels, got float32[4, 3]. Pass "
     "y.argmax(-1) for one-hot labels, y.astype(int) for whole numbers in floats."),
    (I4, I4, TypeError, "y_pred must be scores or logits in floats, got int32[4]. "
     "Pass what the model gives, not labels taken from it."),
    ({"a": F4}, I4, TypeError, "y_pred and y must be arrays, got {'a': float32[4]} and int32[4]. "
     "Choose one output of the model and its labels."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "metric"),
    [
        ("accuracy", metrics.accuracy()),
        ("confusion_matrix", metrics.confusion_matrix(3)),
        ("precision", metrics.precision(3, average="macro")),
        ("calibration_error", metrics.calibration_error()),
    ],
)
@pytest.mark.parametrize(("y_pred", "y", "kind", "words"), REFUSED)
def test_what_the_table_has_not_is_refused(function, metric, y_pred, y, kind, words):
    with pytest.raises(kind, match=whole(f"`{function}`: {words}")):
        metric.update(metric.init(), y_pred, y)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_number_of_classes_must_fit(classes):
    metric = metrics.confusion_matrix(classes)
    words = (
        "`confusion_matrix`: classes must be the number of scores, or 2 for binary logits, "
        f"got {classes} and y_pred float32[4, 3]. Pass classes=3."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), F43, I4)


def test_the_number_of_classes_must_be_2_for_logits():
    metric = metrics.confusion_matrix(3)
    words = (
        "`confusion_matrix`: classes must be the number of scores, or 2 for binary logits, "
        "got 3 and y_pred float32[4]. Pass classes=2."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), F4, I4)


@pytest.mark.parametrize(("classes", "kind"), [(0, ValueError), (2.0, TypeError)])
def test_the_number_of_classes_must_be_whole(classes, kind):
    words = f"`confusion_matrix`: classes must be a positive whole number, got {classes}."
    with pytest.raises(kind, match=whole(words)):
        metrics.confusion_matrix(classes)


@pytest.mark.parametrize(
    ("function", "metric", "y_pred", "y"),
    [
        ("mean", metrics.mean(absolute), F4, F4),
        ("accuracy", metrics.accuracy(), F43, I4),
        ("confusion_matrix", metrics.confusion_matrix(3), F43, I4),
        ("top_k", metrics.top_k(2), F43, I4),
        ("recall", metrics.recall(3, average="micro"), F43, I4),
        ("iou", metrics.iou(2), F4, I4),
        ("auc", metrics.auc(), F4, I4),
        ("mse", metrics.mse(), F4, F4),
        ("r2", metrics.r2(), F43, F43),
        ("perplexity", metrics.perplexity(), F43, I4),
        ("word_error_rate", metrics.word_error_rate(), I4[:, None], I4[:, None]),
        ("calibration_error", metrics.calibration_error(), F43, I4),
        ("mae", metrics.of(metrics.mae(), lambda y_pred, y: (y_pred, y)), F4, F4),
    ],
)
@pytest.mark.parametrize("weight", [np.ones(()), np.ones(3), np.ones((4, 1)), np.ones((4, 3))])
def test_the_weight_has_one_number_an_example(function, metric, y_pred, y, weight):
    got = f"float32[{', '.join(map(str, weight.shape))}]"
    words = (
        f"`{function}`: weight must have one number an example, shape (4,), got {got}. "
        "Pass None to weigh all alike."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), y_pred, y, weight)


def test_f_must_keep_the_examples():
    metric = metrics.mean(lambda y_pred, y: absolute(y_pred, y).mean())
    words = (
        "`mean`: f must give one number an example, or an array whose first axis is the examples, "
        "got float32[]. Leave the mean over examples to the metric."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), F4, F4)


@pytest.mark.parametrize(("y_pred", "y"), [(F41, F4), (F4, F41)])
def test_f_must_not_broadcast(y_pred, y):
    metric = metrics.mean(absolute)
    got = [f"float32{list(a.shape)}" for a in (y_pred, y)]
    words = (
        f"`mean`: f must not broadcast y_pred against y, got {got[0]} and {got[1]}, "
        "and f gave float32[4, 4]. Squeeze the last axis of size 1."
    )
    with pytest.raises(ValueError, match=whole(words)):
        metric.update(metric.init(), y_pred, y)


def test_f_may_squeeze_by_itself():
    metric = metrics.mean(lambda y_pred, y: jnp.abs(y_pred[:, 0] - y))
    assert value(metric, F41, F4 + 1) == 1


# Those of single functions

TOKENS = "of(metric, lambda y_pred, y: (y_pred.argmax(-1), y))` say."
MADE = [
    (lambda: metrics.top_k(0), ValueError, "`top_k`: k must be a positive whole number, got 0."),
    (lambda: metrics.top_k(1.0), TypeError, "`top_k`: k must be a positive whole number, got 1.0."),
    (lambda: metrics.auc(0), ValueError, "`auc`: bins must be a positive whole number, got 0."),
    (lambda: metrics.calibration_error(0), ValueError,
     "`calibration_error`: bins must be a positive whole number, got 0."),
    (lambda: metrics.precision(0, average="macro"), ValueError,
     "`precision`: classes must be a positive whole number, got 0."),
    (lambda: metrics.iou(True), TypeError,
     "`iou`: classes must be a positive whole number, got True."),
    (lambda: metrics.recall(average="weighted"), ValueError,
     "`recall`: average must be 'binary', 'macro' or 'micro', got 'weighted'. "
     "Choose 'macro' to weigh all classes alike, 'micro' to weigh all examples alike."),
    (lambda: metrics.f1(4), ValueError,
     "`f1`: classes must be 2 for average='binary', got 4. "
     "Pass average='macro' or average='micro'."),
    (lambda: metrics.iou(4, ignore=0.5), TypeError,
     "`iou`: ignore must be a whole number or None, got 0.5. "
     "Pass the label of what is to be left out."),
    (lambda: metrics.perplexity(ignore="pad"), TypeError,
     "`perplexity`: ignore must be a whole number or None, got 'pad'. "
     "Pass the label of what is to be left out."),
    (lambda: metrics.word_error_rate(padding=None), TypeError,
     "`word_error_rate`: padding must be a whole number, got None. "
     "Pass the token that fills up the sequences."),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "words"), MADE)
def test_what_no_metric_can_be_made_of(make, kind, words):
    with pytest.raises(kind, match=whole(words)):
        make()


ONE_MORE = "y_pred must have one more axis than y, of at least 2 scores of classes, got y_pred"
ALIKE = "y_pred and y must have the same shape, with the examples along the first axis, got y_pred"
ROC = "y_pred must have the shape of y, got y_pred"
REAL = "y_pred and y must be arrays of real numbers, got"
TARGETS = "Choose one output of the model and its targets."
INTEGER = "y_pred and y must be arrays of integer tokens, got"
C4, I43, F432 = np.zeros(4, "complex64"), np.zeros((4, 3), "int32"), np.zeros((4, 3, 2), "float32")
GIVEN = [
    ("top_k", metrics.top_k(4), F43, I4, ValueError,
     "k must be at most the number of scores, got 4 and y_pred float32[4, 3]. "
     "Choose a k of at most 3."),
    *((name, metric, y_pred, y, ValueError, f"{ONE_MORE} {got}")
      for name, metric in [("top_k", metrics.top_k(1)), ("perplexity", metrics.perplexity())]
      for y_pred, y, got in [
          (F4, I4, "float32[4] and y int32[4]. Pass one label for each row of scores."),
          (F41, I4, "float32[4, 1] and y int32[4]. Pass one label for each row of scores."),
          (F43, I41, "float32[4, 3] and y int32[4, 1]. Pass y.squeeze(-1)."),
      ]),
    *((name, metric, y_pred, y, ValueError, f"{ROC} {got}")
      for name, metric in [("auc", metrics.auc()), ("roc_auc", None)]
      for y_pred, y, got in [
          (F41, I4, "float32[4, 1] and y int32[4]. "
           "Pass y_pred.squeeze(-1) if it has binary logits."),
          (F432, I43, "float32[4, 3, 2] and y int32[4, 3]. "
           "Pass y_pred[..., 1] - y_pred[..., 0] if it has scores of two classes."),
          (F4, I41, "float32[4] and y int32[4, 1]. Pass y.squeeze(-1)."),
          (F4, I4[:3], "float32[4] and y int32[3]. Pass one label for each logit."),
          (jnp.zeros(()), jnp.zeros((), "int32"),
           "float32[] and y int32[]. Pass one label for each logit."),
      ]),
    *((name, metric, y_pred, y, ValueError, f"{ALIKE} {got}")
      for name, metric in [("mse", metrics.mse()), ("mae", metrics.mae()), ("r2", metrics.r2())]
      for y_pred, y, got in [
          (F41, F4, "float32[4, 1] and y float32[4]. Pass y_pred.squeeze(-1)."),
          (F4, F41, "float32[4] and y float32[4, 1]. Pass y.squeeze(-1)."),
          (F4, F4[:3], "float32[4] and y float32[3]. Pass one target for each prediction."),
          (jnp.zeros(()), jnp.zeros(()),
           "float32[] and y float32[]. Pass one target for each prediction."),
      ]),
    ("mse", metrics.mse(), F4, C4, TypeError, f"{REAL} float32[4] and complex64[4]. {TARGETS}"),
    ("mae", metrics.mae(), [F4], F4, TypeError, f"{REAL} [float32[4]] and float32[4]. {TARGETS}"),
    ("r2", metrics.r2(), F432, F432, ValueError,
     "y_pred and y must be (B,) or (B, k), got y_pred float32[4, 3, 2] and y float32[4, 3, 2]. "
     "Reshape each to (len(y), -1), or choose the positions that are compared."),
    ("iou", metrics.iou(2), F43, I4, ValueError,
     "classes must be the number of scores, or 2 for binary logits, "
     "got 2 and y_pred float32[4, 3]. Pass classes=3."),
    ("word_error_rate", metrics.word_error_rate(), F43, I43, TypeError,
     f"{INTEGER} float32[4, 3] and int32[4, 3]. Decode scores first, with `fn.metrics.{TOKENS}"),
    ("word_error_rate", metrics.word_error_rate(), I43, I4, ValueError,
     "y_pred and y must be sequences (B, S) and (B, T), got int32[4, 3] and int32[4]. "
     "Pass one row of tokens an example, filled up with padding."),
    ("word_error_rate", metrics.word_error_rate(), I43, I43[:3], ValueError,
     "y_pred and y must be sequences (B, S) and (B, T), got int32[4, 3] and int32[3, 3]. "
     "Pass one row of tokens an example, filled up with padding."),
    ("of", metrics.of(metrics.mse(), lambda y_pred, y: y_pred), F4, F4, TypeError,
     "select must give (y_pred, y), got float32[4]. "
     'Write `lambda y_pred, y: (y_pred["name"], y["name"])` say.'),
]  # fmt: skip


@pytest.mark.parametrize(("function", "metric", "y_pred", "y", "kind", "words"), GIVEN)
def test_what_a_metric_can_not_be_given(function, metric, y_pred, y, kind, words):
    with pytest.raises(kind, match=whole(f"`{function}`: {words}")):
        metrics.roc_auc(y_pred, y) if metric is None else metric.update(metric.init(), y_pred, y)
