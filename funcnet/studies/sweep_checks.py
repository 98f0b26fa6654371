"""What is asked of the arguments of `sweep`."""

import dataclasses
from typing import Any

import jax
import numpy as np

from funcnet import errors
from funcnet.stopping import Mode, Stopping, early_stopping
from funcnet.studies.bench import Bench
from funcnet.studies.members import nth
from funcnet.studies.rungs import Halving


def compared_by(
    metric: str | None, mode: Mode | None, stopping: Stopping | None, validated: bool
) -> tuple[str, Mode]:
    """The name of what trials are compared by, and the direction that is better."""
    usual = stopping.monitor if stopping else "val_loss" if validated else "loss"
    name = usual if metric is None else metric
    if not isinstance(name, str):
        raise TypeError(
            "`sweep`: metric must be the name of a value in the history, "
            f"got {errors.describe(name)}. Say `metric='val_accuracy'`."
        )
    if mode not in (None, "min", "max"):
        raise ValueError(
            f"`sweep`: mode must be 'min' or 'max', got {mode!r}. "
            f"{errors.did_you_mean(str(mode), ('min', 'max'))}"
        )
    if mode is not None:
        return name, mode
    if stopping and name == stopping.monitor:
        return name, stopping.mode
    try:
        return name, early_stopping(name, patience=1).mode
    except ValueError:
        raise ValueError(
            "`sweep`: mode must be given where the name of the metric does not tell it, "
            f"got metric={name!r}. Pass mode='min' if smaller is better, else mode='max'."
        ) from None


def check(epochs: Any, batch_size: Any, stopping: Any, trials: Any, seed: Any) -> None:
    """Raises unless the arguments are of their kinds."""
    errors.positive("sweep", epochs=epochs, batch_size=batch_size)
    if trials is not None:
        errors.positive("sweep", trials=trials)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(
            f"`sweep`: seed must be a whole number, got {errors.describe(seed)}. "
            "All trials train with the key `jax.random.key(seed)`."
        )
    if not isinstance(stopping, Stopping | None):
        raise TypeError(
            f"`sweep`: stopping must come from `fn.early_stopping`, got {stopping!r}. "
            'Say `stopping=fn.early_stopping("val_loss", patience=5)`.'
        )


def check_together(halving: Any, epochs: int, file: Any, study: Any, trials: Any) -> None:
    """Raises unless the arguments go together."""
    if not isinstance(halving, Halving | None):
        raise TypeError(
            f"`sweep`: halving must come from `fn.halving`, got {halving!r}. "
            "Say `halving=fn.halving(eta=3, start=2)`."
        )
    if halving is not None and halving.start > epochs:
        raise ValueError(
            f"`sweep`: halving must start within the epochs, got start={halving.start} "
            f"of {epochs}. Ask for more epochs, or start before."
        )
    if study is None:
        return
    if trials is None:
        raise ValueError(
            "`sweep`: trials must say how many settings the study is asked for, got None. "
            "Say `trials=32`."
        )
    for name, given in (("halving", halving), ("file", file)):
        if given is not None:
            raise ValueError(
                f"`sweep`: give either study or {name}, got both. An optuna study has pruners "
                "and a storage of its own: leave one out."
            )


def check_study(study: Any, mode: Mode) -> None:
    """Raises unless it is an optuna study of one value that is to be as small, or as large."""
    if not (hasattr(study, "ask") and hasattr(study, "tell")):
        raise TypeError(
            f"`sweep`: study must be an optuna study, got {errors.describe(study)}. "
            "Make one with `optuna.create_study()`."
        )
    want = [f"{mode}imize"]
    got = [each.name.lower() for each in study.directions]
    if got != want:
        raise ValueError(
            f"`sweep`: study must {want[0]} as the metric asks, got {' and '.join(got)}. "
            f"Make it with `optuna.create_study(direction={want[0]!r})`, or pass the other mode."
        )


def check_metric(bench: Bench) -> None:
    """Raises unless the metric is reported, as one number an epoch."""
    point = {name: each.at(0.0) for name, each in bench.space.items()}
    run = dataclasses.replace(bench, stopping=None, runs={}).run(point)
    member = nth(bench.members([point]), 0)
    progress = jax.eval_shape(
        run.init, member.key, bench.data, member.hyperparameters, bench.validation
    )
    if bench.metric not in progress.history:
        raise ValueError(
            f"`sweep`: metric must be reported, got {bench.metric!r}, which nobody reports. "
            f"{errors.did_you_mean(bench.metric, progress.history)}"
        )
    shape = progress.history[bench.metric].shape[1:]
    if shape:
        raise ValueError(
            f"`sweep`: metric must be one number an epoch, got {bench.metric!r} with the shape "
            f"{list(shape)}. Compare by another, or by its mean as a metric of its own."
        )
