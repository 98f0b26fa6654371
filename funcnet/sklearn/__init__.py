"""Estimators of scikit-learn over the trainer; imported at the first use of `fn.sklearn`."""

try:
    import sklearn  # noqa: F401 - for its absence to be told in words
except ImportError as error:
    raise ImportError(
        "`fn.sklearn`: scikit-learn must be installed. Run `pip install 'funcnet[sklearn]'`."
    ) from error

from funcnet.sklearn.classifier import Classifier
from funcnet.sklearn.regressor import Regressor

__all__ = ["Classifier", "Regressor"]
