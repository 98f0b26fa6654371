"""Studies of many trainings as one program: sweeps, ensembles, cross-validation."""

from funcnet.studies.bias import bias_variance
from funcnet.studies.calibrating import temperature
from funcnet.studies.curves import learning_curve
from funcnet.studies.ensembles import ensemble
from funcnet.studies.range_test import lr_range
from funcnet.studies.rungs import halving
from funcnet.studies.space import log_uniform, uniform
from funcnet.studies.sweeps import sweep
from funcnet.studies.validation import cross_validate

__all__ = [
    "bias_variance",
    "cross_validate",
    "ensemble",
    "halving",
    "learning_curve",
    "log_uniform",
    "lr_range",
    "sweep",
    "temperature",
    "uniform",
]
