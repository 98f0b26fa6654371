"""What a model knows of the text so far: its own cache, or the text itself, read anew each time."""

from typing import Any

import jax
import jax.numpy as jnp

from funcnet import errors
from funcnet.types import Model, ModelState, Params


def begin(
    model: Model,
    params: Params,
    model_state: ModelState,
    tokens: jax.Array,
    least: int,
    room: int,
    cached: bool,
) -> tuple[jax.Array, Any]:
    """Logits `(B, V)` of what follows the first `least` tokens, and the memory of them.

    Args:
        model: what reads.
        params: its own.
        model_state: what is known of it; what of a cache is missing is made for `room` tokens.
        tokens: int32[B, P], the prompts.
        least: how many tokens of them are read, in one call.
        room: how many there may be in all.
        cached: whether the memory is the model's own.
    """
    space = jax.ShapeDtypeStruct((tokens.shape[0], room), jnp.int32)
    if not cached:
        text = jnp.zeros(space.shape, jnp.int32).at[:, : tokens.shape[1]].set(tokens)
        return read_all(model, params, model_state, text, least - 1), text
    made = model.init(jax.random.key(0), space)[1]  # its params are not used, and not computed
    memory = overlaid(made, model_state)
    logits, after = model.apply(params, memory, tokens[:, :least], training=False)
    check_logits(logits, tokens[:, :least])
    check_memory(memory, after)
    return logits[:, -1], after


def go_on(
    model: Model,
    params: Params,
    model_state: ModelState,
    token: jax.Array,
    position: jax.Array,
    memory: Any,
    cached: bool,
) -> tuple[jax.Array, Any]:
    """Logits `(B, V)` of what follows one more token of each row, int32[B], and the memory."""
    if not cached:
        text = memory.at[:, position].set(token)
        return read_all(model, params, model_state, text, position), text
    logits, memory = model.apply(params, memory, token[:, None], training=False)
    return logits[:, -1], memory


def read_all(
    model: Model, params: Params, model_state: ModelState, text: jax.Array, position: Any
) -> jax.Array:
    """Logits `(B, V)` at one position, from the whole text: what lies behind it is not seen."""
    logits, _ = model.apply(params, model_state, text, training=False)
    check_logits(logits, text)
    found: jax.Array = logits[:, position]
    return found


def overlaid(made: Any, given: Any, path: str = "model_state") -> Any:
    """`given`, and from `made` what is missing in it, such as a cache that training has not had."""
    if isinstance(given, dict) and not given:
        return made
    if isinstance(made, dict) and isinstance(given, dict) and given.keys() <= made.keys():
        return {
            name: overlaid(part, given[name], f"{path}/{name}") if name in given else part
            for name, part in made.items()
        }
    if str(jax.tree.structure(made)) == str(jax.tree.structure(given)):
        return given
    raise ValueError(
        f"`generate`: model_state must be that of a training of this model, or {{}}, or what "
        f"`init` or a call before made, got {errors.describe(given)} in {path}, where the model "
        f"has {errors.describe(made)}. Make both models by the same function."
    )


def check_logits(logits: Any, tokens: jax.Array) -> None:
    """Raises unless the model gives logits for each token."""
    shape = getattr(logits, "shape", ())
    floating = len(shape) == 3 and jnp.issubdtype(logits.dtype, jnp.floating)
    if not floating or shape[:2] != tokens.shape:
        raise TypeError(
            "`generate`: the model must give logits, float[B, T, V], for tokens, int32[B, T], got "
            f"{errors.describe(logits)} for {errors.describe(tokens)}. "
            "End it with `fn.dense(vocabulary)`, and let no layer drop the axis of positions."
        )


def check_memory(before: Any, after: Any) -> None:
    """Raises unless the model keeps what it reads, in a model_state of the same form."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=False)
    if all(old is new for old, new in pairs):
        raise ValueError(
            "`generate`: the model must keep what it has read in its model_state, got one that "
            "leaves it as it is. Make it with `decode=True` in its layers, the params stay the "
            "same; or say `cached=False`, and a causal model reads all of the text for each token."
        )
    if lines := errors.differences(before, after):
        listed = "\n  ".join(lines)
        raise TypeError(
            "`generate`: apply must give a model_state of the form that it was given, got\n  "
            f"{listed}\nCast what it keeps to the dtype that `init` gave it."
        )
