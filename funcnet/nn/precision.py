"""How a model computes: in a narrower dtype, or a second time to save memory."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcnet.eager import is_eager
from funcnet.nn.combinators import Layer, lift
from funcnet.nn.model import named
from funcnet.policies import policy
from funcnet.types import Model, ModelState, Params, PyTree


def mixed_precision(layer: Layer, compute: Any = jnp.bfloat16, output: Any = jnp.float32) -> Model:
    """Computes a layer in a narrow dtype, with params and model_state in their own.

    Params and `x` are cast to `compute` on the way in, the output to `output` on the way out, so
    that the loss and all reductions after it are in float32; gradients come out in the params'
    dtype. Layers that sum over many values (norms, statistics) do so in float32 all the same.

    float16 overflows where bfloat16 does not: train it with `fn.loss_scaling`.

    Args:
        layer: the model, mostly the whole one.
        compute: dtype of the arithmetic, `jnp.bfloat16` or `jnp.float16`.
        output: dtype of what comes out.

    Returns:
        The model; its trees are those of `layer`.

    Raises:
        TypeError: a dtype is not floating.

    Source:
        Micikevicius et al., "Mixed Precision Training", 2018.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.mixed_precision(fn.sequential(fn.dense(64), jax.nn.relu, fn.dense(2)))
        >>> x = jnp.ones((8, 3))
        >>> params, model_state = model.init(jax.random.key(0), x)
        >>> params["0"]["kernel"].dtype, model.apply(params, model_state, x)[0].dtype
        (dtype('float32'), dtype('float32'))
    """
    inner = lift("mixed_precision", layer)
    for name, dtype in (("compute", compute), ("output", output)):
        try:
            floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
        except TypeError:
            floating = False
        if not floating:
            raise TypeError(
                f"`mixed_precision`: {name} must be a floating dtype, got {dtype!r}. "
                "Take `jnp.bfloat16` say."
            )

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
        narrow, x = cast((params, x), compute)
        y, after = inner.apply(narrow, model_state, x, key=key, training=training)
        kept = jax.tree.map(lambda new, old: new.astype(old.dtype), after, model_state)
        return cast(y, output), kept

    return named("mixed_precision", Model(init, apply))


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """`tree` with its floating arrays in `dtype`."""

    def of_leaf(leaf: Any) -> Any:
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating else leaf

    return jax.tree.map(of_leaf, tree)


def remat(layer: Layer, keep: str | Sequence[str] = "nothing") -> Model:
    """Computes a layer a second time for its gradient, in place of keeping what it computed.

    The output and the gradients are the same; the memory for a deep stack of blocks falls from all
    that they compute to what lies between them: `fn.layer_stack(fn.remat(block), 24)`.

    Args:
        layer: what is computed anew.
        keep: what is kept all the same: `"nothing"`, `"dots"` (the results of matrix products),
            `"dots_without_batch"` (those with params) or `"everything"`; or a list of the kinds of
            layers inside whose outputs are kept, `["attention", "conv"]` say.

    Returns:
        The model; its trees are those of `layer`.

    Raises:
        TypeError, ValueError: `keep` is neither.

    Source:
        Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; `jax.checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> model = fn.remat(fn.sequential(fn.dense(64), jnp.tanh, fn.dense(3)), keep="dots")
        >>> x = jnp.ones((8, 3))
        >>> model.apply(*model.init(jax.random.key(0), x), x)[0].shape
        (8, 3)
    """
    inner = lift("remat", layer)
    kept = policy(keep, "kinds of layers")

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
        def again(
            params: Params, model_state: ModelState, x: Any, key: Any
        ) -> tuple[Any, ModelState]:
            return inner.apply(params, model_state, x, key=key, training=training)

        saving = again if is_eager() else jax.checkpoint(again, policy=kept)
        result: tuple[Any, ModelState] = saving(params, model_state, x, key)
        return result

    return named("remat", Model(init, apply))
