"""The arguments of `fit` that are not data, and what is asked of them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from funcnet import errors
from funcnet.nn.model import Start, pair_of
from funcnet.stopping import Stopping
from funcnet.trainer.callbacks import Callback
from funcnet.trainer.limiting import Limits
from funcnet.types import TrainState


class Settings(NamedTuple):
    """The arguments of `fit` that are not data."""

    epochs: int | None
    steps: int | None
    batch_size: int
    shuffle: bool
    stopping: Stopping | None
    callbacks: Any
    seed: int | None
    state: TrainState | None
    progress: bool | None
    checkpoint: Any = None
    accept_changes: tuple[str, ...] = ()
    start: Start | None = None
    limits: Limits | None = None


def check_settings(settings: Settings) -> None:
    """Raises unless the arguments of `fit` are of the right kinds."""
    for name in ("epochs", "steps"):
        if getattr(settings, name) is not None:
            errors.positive("fit", **{name: getattr(settings, name)})
    seed = settings.seed
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer)):
        raise TypeError(
            f"`fit`: seed must be a whole number, got {errors.describe(seed)}. "
            "To use a key of your own, give `state=trainer.init(key, x)`."
        )
    if isinstance(settings.callbacks, Callback) or not isinstance(settings.callbacks, Iterable):
        raise TypeError(
            f"`fit`: callbacks must be a list, got {settings.callbacks!r}. "
            "Write `callbacks=[...]` around a single one too."
        )
    if settings.accept_changes and settings.checkpoint is None:
        raise ValueError(
            "`fit`: accept_changes needs a checkpoint to go on from, got none. "
            "Give `checkpoint=` too, or leave it out."
        )
    if seed is not None and settings.state is not None:
        raise ValueError(
            "`fit`: give either seed or state, got both. A state holds its own key; to begin "
            "anew, leave the state out."
        )
    if settings.start is not None:
        pair_of("fit", settings.start)
        if settings.state is not None:
            raise ValueError(
                "`fit`: give either state or start, got both. From a state a fit goes on, with its "
                "step and the optimizer's memory; of a start it takes params and model_state."
            )
    if not isinstance(settings.limits, Limits | None):
        raise TypeError(
            f"`fit`: limits must come from `fn.limits`, got {settings.limits!r}. "
            "Say `limits=fn.limits(seconds=3600)`."
        )
    if not isinstance(settings.stopping, Stopping | None):
        raise TypeError(
            f"`fit`: stopping must come from `fn.early_stopping`, got {settings.stopping!r}. "
            'Say `stopping=fn.early_stopping("val_loss", patience=5)`.'
        )
