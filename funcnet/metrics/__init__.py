"""Metrics as accumulators: pytrees that gather over batches, devices and processes."""

from funcnet.metrics.accuracy import accuracy, top_k
from funcnet.metrics.calibration import calibration_error
from funcnet.metrics.confusion import confusion_matrix
from funcnet.metrics.means import mean
from funcnet.metrics.metric import Accumulator, Metric, Update, zeros
from funcnet.metrics.outputs import of
from funcnet.metrics.ranking import auc, roc_auc
from funcnet.metrics.rates import f1, iou, precision, recall
from funcnet.metrics.regression import mae, mse, r2
from funcnet.metrics.sequences import perplexity, word_error_rate
from funcnet.metrics.sums import average, weighted

__all__ = [
    "Accumulator",
    "Metric",
    "Update",
    "accuracy",
    "auc",
    "average",
    "calibration_error",
    "confusion_matrix",
    "f1",
    "iou",
    "mae",
    "mean",
    "mse",
    "of",
    "perplexity",
    "precision",
    "r2",
    "recall",
    "roc_auc",
    "top_k",
    "weighted",
    "word_error_rate",
    "zeros",
]
