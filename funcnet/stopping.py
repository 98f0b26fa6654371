"""When training stops: a rule over checks of one value, and words for every reason to stop.

Who watches the clock, counts the epochs and keeps the best state is the trainer, not this module.
"""

import enum
import math
import numbers
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors

Mode: TypeAlias = Literal["min", "max"]

_SMALLER_IS_BETTER = {"error", "loss", "mae", "mse", "nll", "perplexity", "rmse"}
_LARGER_IS_BETTER = {"acc", "accuracy", "auc", "auroc", "dice", "f1", "iou"}
_LARGER_IS_BETTER |= {"precision", "r2", "recall"}


class Reason(enum.IntEnum):
    """Why training stopped, as a number that a compiled loop can carry, with `words` for people.

    Example:
        >>> import funcnet as fn
        >>> fn.stopping.Reason(1).words
        'no improvement of the monitored value in `patience` checks in a row'
    """

    words: str

    GOING_ON = 0, "training has not stopped"
    PATIENCE = 1, "no improvement of the monitored value in `patience` checks in a row"
    THRESHOLD = 2, "the monitored value reached `stopping_threshold`"
    DIVERGED = 3, "the monitored value became worse than `divergence_threshold`"
    NON_FINITE = 4, "a loss, gradient or parameter became NaN or infinite"
    EPOCHS = 5, "all epochs, or steps, that were asked for are done"
    INTERRUPTED = 6, "training was interrupted from outside"
    CALLBACK = 7, "a callback asked to stop"
    LIMIT = 8, "a limit on the run, such as its time, was reached"
    DATA = 9, "the data ended before all epochs, or steps, that were asked for"
    NOT_SAVED = 10, "a checkpoint could not be written"

    def __new__(cls, number: int, words: str = "") -> "Reason":
        """Makes a member; `Reason(number)` looks one up."""
        reason = int.__new__(cls, number)
        reason._value_ = number
        reason.words = words
        return reason


class StopState(NamedTuple):
    """What early stopping remembers from check to check.

    Attributes:
        best: float32[] (float64[] in x64), the best value so far; the worst infinity before it.
        wait: int32[], checks in a row without improvement.
        step: int32[], checks made, those before `start_from_epoch` included.
        reason: int32[], a `Reason`; `Reason.GOING_ON` is 0.
    """

    best: jax.Array
    wait: jax.Array
    step: jax.Array
    reason: jax.Array


class Stopping(NamedTuple):
    """A rule that says when to stop, as pure functions for any loop.

    Attributes:
        monitor: the name in the history of the value to check, such as `"val_loss"`.
        mode: `"min"` or `"max"`, the direction that is better.
        init: `init() -> stop_state`, before the first check.
        update: `update(value, stop_state) -> stop_state`; one call is one check. Once `reason` is
            not 0, the state stays as it is.
        improved: `improved(value, stop_state) -> bool[]`, whether `update` would take `value` as
            the new best: the time to keep a copy of what is trained.
    """

    monitor: str
    mode: Mode
    init: Callable[[], StopState]
    update: Callable[[Any, StopState], StopState]
    improved: Callable[[Any, StopState], jax.Array]

    def __repr__(self) -> str:
        return f"Stopping(monitor={self.monitor!r}, mode={self.mode!r})"


def early_stopping(
    monitor: str,
    *,
    patience: Any,
    mode: Mode | None = None,
    min_delta: Any = 0.0,
    start_from_epoch: Any = 0,
    stopping_threshold: Any = None,
    divergence_threshold: Any = None,
) -> Stopping:
    """Stops when `patience` checks in a row bring no improvement of one value.

    | a value that is | does |
    | --- | --- |
    | finite, and better than the best by more than `min_delta` | sets `best`, and `wait` to 0 |
    | any other, NaN and both infinities among them | adds 1 to `wait` |
    | finite, and as good as `stopping_threshold` or better | stops: `THRESHOLD` |
    | worse than `divergence_threshold`, even by being infinite | stops: `DIVERGED` |
    | the one that brings `wait` to `patience` | stops: `PATIENCE` |
    | among the first `start_from_epoch` | adds 1 to `step`, none of the above |
    | given after the stop | nothing |

    Where several reasons hold, the upper one is given. Better by more than `min_delta` means
    `value + min_delta < best` (`value - min_delta > best` with `"max"`), in the dtype of `best`.

    Args:
        monitor: the name of the value in the history.
        patience: checks in a row without improvement after which to stop, 1 or more. It has no
            default, since none suits most runs: Keras has 0, Lightning 3, Flax 0.
        mode: `"min"` or `"max"`. `None` tells it from the last word of `monitor`: loss, error,
            mse, rmse, mae, nll, perplexity are better when smaller; accuracy, acc, auc, auroc,
            f1, precision, recall, r2, iou, dice when larger (`f1_score` too).
        min_delta: the size that an improvement must exceed.
        start_from_epoch: how many first checks to leave out (epochs, if each ends in a check).
        stopping_threshold: the value that is good enough.
        divergence_threshold: the value beyond which the run is lost.

        All numbers may be arrays, traced ones too; plain numbers are validated.

    Returns:
        The rule as functions that can be traced by jit, vmap, scan and while_loop.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of its range, or `mode` can't be told from `monitor`.

    Example:
        >>> import funcnet as fn
        >>> stopping = fn.early_stopping("val_loss", patience=2)
        >>> stop_state = stopping.init()
        >>> for value in [0.9, 0.7, float("nan"), 0.8]:
        ...     stop_state = stopping.update(value, stop_state)
        >>> fn.stopping.Reason(int(stop_state.reason)).name, round(float(stop_state.best), 3)
        ('PATIENCE', 0.7)

    Source: `min_delta` and `start_from_epoch` follow Keras' `EarlyStopping`, the thresholds
        Lightning's (where reaching `stopping_threshold` exactly isn't enough). We differ from Keras
        in that no infinity is ever the best, and from Flax in that a first NaN isn't, and that the
        stop comes after `patience` checks, not one later.
    """
    mode = direction("early_stopping", monitor, mode)
    given = {"patience": patience, "min_delta": min_delta, "start_from_epoch": start_from_epoch}
    if stopping_threshold is not None:
        given["stopping_threshold"] = stopping_threshold
    if divergence_threshold is not None:
        given["divergence_threshold"] = divergence_threshold
    require("early_stopping", **given)
    worst = math.inf if mode == "min" else -math.inf
    goal = -worst if stopping_threshold is None else stopping_threshold
    bound = worst if divergence_threshold is None else divergence_threshold

    def better(value: Any, than: Any, margin: Any = 0.0) -> Any:
        return value + margin < than if mode == "min" else value - margin > than

    if not (_is_array(goal) or _is_array(bound) or better(goal, bound)):
        raise ValueError(
            "`early_stopping`: stopping_threshold must be better than divergence_threshold, "
            f"got {goal!r} and {bound!r} with mode={mode!r}. Swap them, or pass the other mode."
        )

    def init() -> StopState:
        zero = jnp.zeros((), jnp.int32)
        return StopState(jnp.full((), worst, dtype=float), wait=zero, step=zero, reason=zero)

    def checked(stop_state: StopState) -> Any:
        return (stop_state.reason == Reason.GOING_ON.value) & (stop_state.step >= start_from_epoch)

    def improved(value: Any, stop_state: StopState) -> jax.Array:
        value = _scalar(monitor, value, stop_state)
        is_better = jnp.isfinite(value) & better(value, stop_state.best, min_delta)
        return jnp.logical_and(checked(stop_state), is_better)

    def verdict(value: jax.Array, wait: jax.Array) -> jax.Array:
        reason = jnp.where(wait >= patience, Reason.PATIENCE.value, Reason.GOING_ON.value)
        reason = jnp.where(better(bound, value), Reason.DIVERGED.value, reason)
        reached = jnp.isfinite(value) & ~better(goal, value)
        return jnp.where(reached, Reason.THRESHOLD.value, reason)

    def update(value: Any, stop_state: StopState) -> StopState:
        value = _scalar(monitor, value, stop_state)
        best, wait, step, reason = stop_state
        is_checked, is_best = checked(stop_state), improved(value, stop_state)
        waited = jnp.where(is_best, 0, wait + 1)
        return StopState(
            best=jnp.where(is_best, value, best),
            wait=jnp.where(is_checked, waited, wait),
            step=jnp.where(reason == Reason.GOING_ON.value, step + 1, step),
            reason=jnp.where(is_checked, verdict(value, waited), reason),
        )

    return Stopping(monitor, mode, init, update, improved)


def direction(function: str, monitor: str, mode: Mode | None) -> Mode:
    """`mode`, or what the last word of `monitor` tells; `function` is named in errors."""
    if not isinstance(monitor, str):
        raise TypeError(
            f"`{function}`: monitor must be the name of a value in the history, "
            f"got {errors.describe(monitor)}. Pass a name such as 'val_loss'."
        )
    if mode in ("min", "max"):
        return mode
    if mode is not None:
        raise ValueError(
            f"`{function}`: mode must be 'min' or 'max', got {mode!r}. "
            f"{errors.did_you_mean(str(mode), ('min', 'max'))}"
        )
    words = re.findall("[a-z0-9]+", monitor.lower())
    last = [word for word in words if word != "score"][-1:]
    if not {"neg", "negative"}.intersection(words):
        if _SMALLER_IS_BETTER.intersection(last):
            return "min"
        if _LARGER_IS_BETTER.intersection(last):
            return "max"
    raise ValueError(
        f"`{function}`: mode must be given where the name of the monitor does not tell it, "
        f"got monitor={monitor!r}. Pass mode='min' if smaller is better, else mode='max'."
    )


class _Rule(NamedTuple):
    """What an argument must be, where it is a plain number."""

    kind: Any
    least: float
    must: str
    fix: str


_THRESHOLD = _Rule(numbers.Real, -math.inf, "a finite number", "Pass None for no threshold.")
_RULES = {
    "patience": _Rule(
        *(numbers.Integral, 1, "a whole number of at least 1"),
        "Pass 1 to stop at the first check without improvement.",
    ),
    "min_delta": _Rule(
        *(numbers.Real, 0, "a finite number of at least 0"),
        "Pass its size; mode has the direction.",
    ),
    "start_from_epoch": _Rule(
        *(numbers.Integral, 0, "a whole number of at least 0"),
        "Pass the number of first checks to leave out.",
    ),
    "stopping_threshold": _THRESHOLD,
    "divergence_threshold": _THRESHOLD,
}


def require(function: str, **arguments: Any) -> None:
    """Raises unless each argument is an array of no axes, or the number that its rule asks for.

    Args:
        function: the public function that asks.
        arguments: by the names of the table.
    """
    for name, value in arguments.items():
        kind, least, must, fix = _RULES[name]
        got = errors.describe(value)
        if _is_array(value):
            if value.shape:
                raise ValueError(
                    f"`{function}`: {name} must be a scalar, got {got}. "
                    "Map over several with jax.vmap."
                )
        elif isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"`{function}`: {name} must be {must}, got {got}. {fix}")
        elif not (math.isfinite(value) and value >= least):
            raise ValueError(f"`{function}`: {name} must be {must}, got {got}. {fix}")


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


def _scalar(monitor: str, value: Any, stop_state: StopState) -> jax.Array:
    """`value` in the dtype of `best`, so that a loop's carry keeps its dtypes."""
    array = jnp.asarray(value)
    if array.shape:
        raise ValueError(
            f"`early_stopping`: the value of {monitor!r} must be a scalar, "
            f"got {errors.describe(array)}. Average it, or map the update with jax.vmap."
        )
    return array.astype(stop_state.best.dtype)
