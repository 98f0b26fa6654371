"""What members score, together and alone."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet import errors
from funcnet.trainer.trainer import Trainer
from funcnet.training.recipe import Recipe
from funcnet.types import Metrics, Model, TrainState


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """What members score together, and each alone.

    Attributes:
        ensemble: the metrics of the mean prediction, as `trainer.evaluate` gives them.
        members: the metrics of each member, `[n, ...]`.
    """

    ensemble: Metrics
    members: dict[str, np.ndarray]

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """The mean over members of each metric."""
        return {name: values.mean(0) for name, values in self.members.items()}

    @property
    def standard_error(self) -> dict[str, np.ndarray]:
        """The standard error of that mean; NaN for one member."""
        return {name: standard_error(values) for name, values in self.members.items()}

    def __repr__(self) -> str:
        lines = [("", "ensemble", "members alone")]
        for name, values in self.members.items():
            if values.ndim == 1:
                lines.append((name, f"{self.ensemble[name]:.4g}", mean_and_error(values)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def standard_error(values: np.ndarray) -> np.ndarray:
    """The standard error of the mean over the first axis."""
    n = len(values)
    spread = values.std(0, ddof=1) if n > 1 else np.full(values.shape[1:], np.nan)
    return np.asarray(spread / np.sqrt(n))


def mean_and_error(values: np.ndarray) -> str:
    """The mean in words, with its standard error where there is one."""
    error = f" ± {standard_error(values):.2g}" if len(values) > 1 else ""
    return f"{values.mean():.4g}{error}"


def of_outputs(trainer: Trainer) -> Trainer:
    """The trainer of a model that gives what it is given, to evaluate predictions themselves.

    Raises:
        TypeError: the objective is a function of params, which a mean prediction has none of.
    """
    if trainer.loss is None and not isinstance(trainer.objective, Recipe):
        raise TypeError(
            "`evaluate`: the trainer of an ensemble must have a loss, or an objective from "
            f"`fn.objective`, got {errors.describe(trainer.objective)}. Take the mean prediction, "
            "`committee.predict(x)`, and measure it."
        )

    def init(key: jax.Array, x: Any) -> Any:
        return {}, {}

    def apply(params: Any, model_state: Any, x: Any, **_: Any) -> Any:
        return x, model_state

    return dataclasses.replace(trainer, model=Model(init, apply), optimizer=optax.identity())


def score(trainer: Trainer, y_pred: Any, columns: Any, batch_size: int) -> Metrics:
    """The metrics of predictions that are there already."""
    judge = trainer.programs.get("of_outputs", make=partial(of_outputs, trainer))
    state = TrainState(jnp.int32(0), {}, {}, (), jax.random.key(0))
    return judge.evaluate(state, (y_pred, *columns[1:]), batch_size=batch_size)
