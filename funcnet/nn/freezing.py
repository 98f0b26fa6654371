"""A model that is not trained: it computes as outside training, and no gradient reaches it."""

from typing import Any

import jax

from funcnet.nn.combinators import Layer, lift
from funcnet.nn.model import named
from funcnet.types import Model, ModelState, Params


def frozen(layer: Layer) -> Model:
    """Computes a layer as outside training, and stops gradients on their way to its params.

    Dropout and other noise are off; batch norm uses its running statistics, and keeps them. The
    gradient with respect to `x` passes. Params stay where they are in the tree: an optimizer with
    weight decay would still shrink them, and one with a memory keep one of them, so give it none
    of them, `fn.parts({"head/**": optax.adamw(1e-3), "**": None})`.

    Args:
        layer: the model, mostly a pretrained one.

    Returns:
        The model; its trees are those of `layer`.

    Raises:
        TypeError: `layer` is neither a model nor a function.

    Source:
        What `trainable = False` means in Keras, batch norm included.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.sequential(body=fn.frozen(fn.dense(4)), head=fn.dense(1))
        >>> x = jnp.ones((8, 3))
        >>> params, model_state = model.init(jax.random.key(0), x)
        >>> grads = jax.grad(lambda params: model.apply(params, model_state, x)[0].sum())(params)
        >>> [float(abs(grads[name]["kernel"]).max()) > 0 for name in ("body", "head")]
        [False, True]
    """
    inner = lift("frozen", layer)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        return inner.init(key, x)

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        return inner.apply(jax.lax.stop_gradient(params), model_state, x, training=False)

    return named("frozen", Model(init, apply))
