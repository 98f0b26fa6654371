"""Outputs of a model without a trainer, batch by batch."""

from functools import partial
from typing import Any

import jax

from funcnet.inference.generating import check_model
from funcnet.trainer.evaluation import batches, outputs_of
from funcnet.trainer.flight import Flight
from funcnet.types import Model, ModelState, Params


def predict(
    model: Model, params: Params, model_state: ModelState, x: Any, *, batch_size: int = 128
) -> Any:
    """The model's outputs for all examples of `x`, outside training, compiled and batch by batch.

    What `trainer.predict(state, x)` does, for a model without a trainer.

    Args:
        model: what predicts.
        params: its own.
        model_state: its own, as training left it; `{}` where it has none.
        x: inputs with the examples along the first axis, an array, or a tuple or dict of arrays; or
            an iterable of batches of them. A tuple that an iterable gives is `(x, y)` or
            `(x, y, weight)`, as for `fit`, and only its x is used.
        batch_size: examples a batch.

    Returns:
        The outputs of all examples in their order, arrays or trees as `model.apply` gives them.
        What would fill more than a quarter of the device's memory comes as NumPy arrays.

    Raises:
        TypeError, ValueError: an argument is wrong; there is no example; an output is not per
            example.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> from funcnet.inference import predict
        >>> model = fn.dense(2)
        >>> params, model_state = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> predict(model, params, model_state, jnp.ones((1000, 3)), batch_size=64).shape
        (1000, 2)
    """
    check_model("predict", model, params)
    flight = Flight()
    run = partial(flight.launch, outputs, model, params, model_state)
    return outputs_of("predict", run, batches("predict", x, batch_size), flight)


@partial(jax.jit, static_argnames="model")
def outputs(model: Model, params: Params, model_state: ModelState, x: Any) -> Any:
    """What the model gives outside training."""
    return model.apply(params, model_state, x, training=False)[0]
