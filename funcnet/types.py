"""Names of the values that flow between the parts of funcnet; no behaviour lives here."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import optax

PyTree: TypeAlias = Any
"""Any nesting of dicts, lists, tuples and registered classes with arrays as leaves."""

Params: TypeAlias = PyTree
ModelState: TypeAlias = PyTree

Batch: TypeAlias = tuple[Any, ...]
"""The data of one step: `(x, y)` or `(x, y, weight)`, with the examples along the first axis."""

Loss: TypeAlias = Callable[[Any, Any], jax.Array]
"""`loss(y_pred, y)`: one number an example, or an array whose first axis is the examples."""

Metrics: TypeAlias = dict[str, Any]
"""Reported values by name, such as `{"loss": 0.3, "accuracy": 0.9}`."""


class Init(Protocol):
    """Makes a model's arrays; `x` is a batch, or `jax.ShapeDtypeStruct`s that describe one."""

    def __call__(self, key: jax.Array, x: Any, /) -> tuple[Params, ModelState]:
        """Gives the first params and model_state for inputs like `x`."""


class Apply(Protocol):
    """Computes a model's output and its next state; `training=None` means `key is not None`."""

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: Any,
        /,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        """Gives the output for `x` and the next model_state."""


class Model(NamedTuple):
    """A pair of pure functions: what every layer, network and guest of another library is.

    Attributes:
        init: `init(key, x) -> (params, model_state)`. The first axis of `x` is the batch.
        apply: `apply(params, model_state, x, *, key=None, training=None) -> (y, model_state)`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.dense(2)
        >>> params, model_state = model.init(jax.random.key(0), jnp.ones((8, 3)))
        >>> y, model_state = model.apply(params, model_state, jnp.ones((8, 3)))
        >>> y.shape
        (8, 2)
    """

    init: Init
    apply: Apply


class TrainState(NamedTuple):
    """All that one step of training carries to the next.

    Attributes:
        step: int32[], batches consumed so far, those of skipped updates included.
        params: the learnt arrays.
        model_state: the model's other arrays, such as running statistics.
        opt_state: the optimizer's memory.
        key: the key of the whole run; it never changes.
    """

    step: jax.Array
    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    key: jax.Array


class Objective(Protocol):
    """What is minimised, over one batch: `((sum, weight), (model_state, metrics))`.

    The mean `sum / weight` is differentiated with respect to `params`. A weight that is a plain
    number, not an array computed from the batch, can't be zero, and spares the step a test for it.
    `metrics` maps names to accumulators of the trainer's metrics, or to scalars, which are averaged
    over batches by their weight.
    """

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        /,
        *,
        key: jax.Array | None,
        training: bool,
    ) -> tuple[tuple[Any, Any], tuple[ModelState, Mapping[str, Any]]]:
        """Gives sum and weight over the batch, the next model_state and the metrics."""
