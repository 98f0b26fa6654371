"""Low-rank adaptation: a model whose kernels stay, and learn a small change of low rank."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.nn.combinators import Layer, lift
from funcnet.nn.model import Start, kind, named, started
from funcnet.types import Model, ModelState, Params, PyTree

FACTORS = 0x10BA
"""The stream of the key from which factors are drawn, apart from those of layers, 0, 1, ..."""

PROJECTIONS = ("query", "key", "value")
"""Flax's kernels `(in, heads, size)`, which map their first axis; all others map to their last."""


def lora(
    layer: Layer,
    patterns: str | Sequence[str] = "**/kernel",
    *,
    rank: int = 8,
    alpha: Any = 16.0,
    start: Start | None = None,
) -> Model:
    """Learns for each chosen kernel a change of low rank, `kernel + alpha / rank * (a @ b)`.

    `a` is drawn at random and `b` is zero, so that the model computes exactly what it did before
    anything has been learnt. The params of the model are these factors and nothing else: all that
    `layer` has, its biases too, is in model_state, under `"base"`. So any optimizer trains the
    factors alone, and keeps a memory of them alone; weight decay shrinks the change, not the
    kernels; and a file of the params is small. A head that is to be learnt whole stands beside:
    `fn.sequential(body=fn.lora(body, ...), head=fn.dense(10))`.

    | kernel | `a` | `b` |
    | --- | --- | --- |
    | dense `(in, out)` | `(in, rank)` | `(rank, out)` |
    | convolution `(*window, in, out)` | `(*window, in, rank)` | `(rank, out)` |
    | attention's query, key, value `(in, heads, size)` | `(in, rank)` | `(rank, heads, size)` |
    | attention's out `(heads, size, out)` | `(heads, size, rank)` | `(rank, out)` |

    A kernel is put together anew at each step: what is saved is the optimizer's memory and the size
    of files, not the memory of gradients. Blocks of `fn.layer_stack` are adapted inside it:
    `fn.layer_stack(fn.lora(block), n)`.

    Args:
        layer: the model, mostly a pretrained one.
        patterns: path patterns of the kernels, `("**/query/kernel", "**/value/kernel")` say.
        rank: how many columns `a` has.
        alpha: the change is multiplied by `alpha / rank`; may be traced.
        start: the params and model_state of `layer` to begin with, as a `TrainState` or as a pair,
            such as `layer.init` gives; new ones are made of the key unless given.

    Returns:
        The model. Its params are `{"0": {"kernel": {"a", "b"}}}`, in float32 at least, and its
        model_state `{"base", "scale", "state"}`, that of `layer` being `"state"`.

    Raises:
        TypeError, ValueError: an argument is wrong. At `init`, where a pattern matches no param, or
            one of fewer than two axes, or `start` is of another model.

    Source:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> x = jnp.ones((8, 64))
        >>> model = fn.sequential(fn.dense(32), jax.nn.relu, fn.dense(10))
        >>> base = model.init(jax.random.key(0), x)
        >>> adapted = fn.lora(model, rank=2, start=base)
        >>> params, model_state = adapted.init(jax.random.key(1), x)
        >>> fn.tree.size(params), fn.tree.size(base)
        (276, 2410)
        >>> y, _ = adapted.apply(params, model_state, x)
        >>> bool((y == model.apply(*base, x)[0]).all())
        True
    """
    inner = lift("lora", layer)
    chosen = check_lora(inner, patterns, rank, alpha)

    def init(key: jax.Array, x: Any) -> tuple[Params, ModelState]:
        base, state = inner.init(key, x) if start is None else started("lora", inner, start, x)
        kernels = {
            path: k for each in chosen for path, k in tree.select("lora", base, each).items()
        }
        check_kernels(kernels)
        keys = jax.random.split(jax.random.fold_in(key, FACTORS), len(kernels))
        pairs = {
            path: factors(drawn, path, kernel, rank)
            for drawn, (path, kernel) in zip(keys, kernels.items(), strict=True)
        }
        scale = jnp.asarray(alpha, float) / rank
        return nested(pairs), {"base": base, "scale": scale, "state": state}

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        whole, state = lora_merged(params, model_state)
        y, state = inner.apply(whole, state, x, key=key, training=training)
        return y, model_state | {"state": state}

    return named("lora", Model(init, apply))


def lora_merged(params: Params, model_state: ModelState) -> tuple[Params, ModelState]:
    """The params and model_state of the model that was adapted, with the changes in its kernels.

    That model computes with them what the adapted one does, without its factors. Of a model with
    an adapted part give that part's trees, `params["body"]` and `model_state["body"]`; of blocks
    within `fn.layer_stack`, map it: `jax.vmap(fn.lora_merged)(params, model_state)`.

    Args:
        params: the factors, `result.best.params` say.
        model_state: what belongs to them.

    Raises:
        TypeError, ValueError: they are not those of a `fn.lora` model.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> x, model = jnp.ones((8, 3)), fn.dense(2)
        >>> params, model_state = fn.lora(model, rank=1).init(jax.random.key(0), x)
        >>> params, model_state = fn.lora_merged(params, model_state)
        >>> jax.tree.map(jnp.shape, params)
        {'bias': (2,), 'kernel': (3, 2)}
    """
    if not isinstance(model_state, Mapping) or model_state.keys() != {"base", "scale", "state"}:
        got = list(model_state) if isinstance(model_state, Mapping) else type(model_state).__name__
        raise TypeError(
            "`lora_merged`: model_state must be that of a `fn.lora` model, with base, scale and "
            f"state, got {got}. Of a model with an adapted part give that part's, "
            "`model_state['body']` say."
        )
    base, scale = model_state["base"], model_state["scale"]
    pairs: dict[str, dict[str, Any]] = {}
    for path, leaf in tree.paths(params).items():
        kernel, _, name = path.rpartition("/")
        pairs.setdefault(kernel, {})[name] = leaf
    by_path = tree.paths(base)
    if unknown := sorted(set(pairs) - set(by_path)):
        raise ValueError(
            f"`lora_merged`: params must be factors of kernels of the base, got {unknown[0]!r}. "
            f"{errors.did_you_mean(unknown[0], by_path)}"
        )
    leaves = [changed(leaf, pairs.get(path), scale) for path, leaf in by_path.items()]
    return jax.tree.unflatten(jax.tree.structure(base), leaves), model_state["state"]


def changed(kernel: Any, pair: Mapping[str, Any] | None, scale: Any) -> Any:
    """`kernel + scale * (a @ b)`, in the kernel's dtype; the kernel itself where there is none."""
    if pair is None:
        return kernel
    change = jnp.tensordot(pair["a"], pair["b"], axes=1)
    return (tree.widen(kernel) + scale.astype(change.dtype) * change).astype(kernel.dtype)


def factors(key: jax.Array, path: str, kernel: Any, rank: int) -> dict[str, jax.Array]:
    """A normal `a` whose product with unit inputs has variance 1, and a `b` of zeros."""
    projects = kernel.ndim == 3 and path.split("/")[-2:-1] in [[name] for name in PROJECTIONS]
    at = 1 if projects else kernel.ndim - 1
    into, out = kernel.shape[:at], kernel.shape[at:]
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    a = jax.random.normal(key, (*into, rank), dtype) / math.sqrt(math.prod(into))
    return {"a": a, "b": jnp.zeros((rank, *out), dtype)}


def nested(pairs: Mapping[str, Any]) -> PyTree:
    """Dicts in dicts, of what is given by path."""
    found: dict[str, Any] = {}
    for path, pair in pairs.items():
        *above, last = path.split("/")
        inner = found
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = pair
    return found.get("", found)  # a model of one array has no path


def check_lora(layer: Model, patterns: Any, rank: Any, alpha: Any) -> list[str]:
    """The patterns as a list, once all arguments are known to be right."""
    errors.positive("lora", rank=rank)
    errors.positive_number("lora", "alpha", alpha, say=16.0)
    found = [patterns] if isinstance(patterns, str) else patterns
    listed = isinstance(found, Sequence) and all(isinstance(each, str) for each in found)
    if not listed or not found:
        raise TypeError(
            f"`lora`: patterns must be path patterns, got {errors.describe(patterns)}. "
            "Say '**/kernel'."
        )
    if kind(layer) == "frozen":
        raise TypeError(
            "`lora`: gradients must reach the kernels, got a model of `fn.frozen`. "
            "Leave that out: the kernels themselves stay as they are anyway."
        )
    return list(found)


def check_kernels(kernels: Mapping[str, Any]) -> None:
    """Raises unless each kernel is an array of two axes or more."""
    wrong = [f"{path}: {errors.describe(k)}" for path, k in kernels.items() if k.ndim < 2]
    if wrong:
        raise ValueError(
            "`lora`: patterns must match kernels of two axes or more, got "
            f"{', '.join(wrong)}. Say '**/kernel'."
        )
