"""Text that a model writes, token by token, in one compiled program or as it comes."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors, tree
from funcnet.data.arrays import listed
from funcnet.distributed.arrays import gathered
from funcnet.inference.memory import begin, go_on
from funcnet.inference.prompts import read_prompts
from funcnet.inference.sampling import Draw, draw, how_to_draw, log_prob
from funcnet.types import Model, ModelState, Params, TrainState


class Generated(NamedTuple):
    """What a model has written.

    Attributes:
        tokens: int32[B, length], without the prompt. Behind its end a row repeats its last token.
        log_probs: float32[B, length], the log-probability in nats that the model gave each token,
            before temperature, `top_k` and `top_p`; 0 behind the end of a row.
        lengths: int32[B], how many tokens of each row count, the one that stopped it among them.
        model_state: of the model after all of them; with it the next call goes on from there, if
            all rows have ended together. What ended before others has read on, tokens behind its
            end: go on from there with its whole text as the prompt.
    """

    tokens: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    model_state: ModelState


class Task(NamedTuple):
    """What is known of a call when it is compiled."""

    model: Model
    length: int
    least: int
    cached: bool


class Request(NamedTuple):
    """The arrays of a call."""

    params: Params
    model_state: ModelState
    tokens: Any
    sizes: Any
    how: Draw
    stop: Any


class Text(NamedTuple):
    """What has been written so far.

    Attributes:
        position: int32[], of the token that comes next.
        logits: (B, V), of what it may be.
        memory: of the tokens before.
        tokens: int32[B, length].
        log_probs: float32[B, length].
        lengths: int32[B], tokens written.
        ended: bool[B], whether a row is whole.
    """

    position: jax.Array
    logits: jax.Array
    memory: Any
    tokens: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    ended: jax.Array


def generate(
    model: Model,
    params: Params,
    model_state: ModelState,
    prompt: Any,
    length: int,
    *,
    key: jax.Array | None = None,
    temperature: float | jax.Array = 1.0,
    top_k: int | jax.Array | None = None,
    top_p: float | jax.Array | None = None,
    stop: int | Sequence[int] | jax.Array | None = None,
    cached: bool = True,
) -> Generated:
    """Continues prompts by `length` tokens, each from the model's logits for those before it.

    One compiled program: the prompt is read in one call, then a loop writes, and keeps what the
    model remembers. Other numbers for `temperature`, `top_k` and `top_p` compile nothing anew.

    The model is one that decodes: `init(key, int32[B, N])` makes the model_state of nothing read,
    with room for N tokens, and `apply` gives logits `(B, n, V)` for the next n tokens, and the
    model_state after them. Layers do so that are made with `decode=True`; their params are those of
    the model that was trained.

    Args:
        model: such a model; with `cached=False`, any causal one.
        params: of the training, `result.best.params` say.
        model_state: of the training, `result.best.model_state` say; what the model keeps beside it
            is made. Or what a call before returned, to go on from there: `init` must then have had
            room for all.
        prompt: tokens, int[B, P], or a list of rows of any lengths, one or more in each.
        length: how many tokens to write.
        key: what chance comes from; each row draws from a part of it, or from its own of keys[B].
            Without a key the likeliest token is taken each time.
        temperature: what logits are divided by, 0 or more; at 0 the likeliest token is taken.
        top_k: how many of the likeliest tokens may be drawn; see `fn.inference.top_k`.
        top_p: the mass of the likeliest tokens that may be drawn, of what `top_k` has left; see
            `fn.inference.top_p`.
        stop: the token, or tokens, that end a row.
        cached: whether the model keeps what it has read. With False it reads the whole text for
            each token: slow, but any causal model can.

    Returns:
        The tokens, their log-probabilities, how many of each row count, and the model_state.

    Raises:
        TypeError, ValueError: an argument is wrong; the model keeps nothing; a logit is NaN (within
            another compiled function, `log_probs` is NaN instead).

    Source:
        Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> from funcnet.inference import generate
        >>> def make(decode=False):
        ...     return fn.sequential(fn.embedding(5, 8), fn.gru(16, decode=decode), fn.dense(5))
        >>> params, model_state = make().init(jax.random.key(0), jnp.zeros((1, 4), int))
        >>> written = generate(make(decode=True), params, model_state, [[1, 2], [3]], 6)
        >>> written.tokens.shape, written.lengths.tolist()
        ((2, 6), [6, 6])
    """
    task, request = asked(
        *("generate", model, params, model_state, prompt, length, key),
        *(temperature, top_k, top_p, stop, cached),
    )
    written: Generated = write(task, request)
    check_numbers("generate", task, request, written.log_probs)
    return written


def generate_stream(
    model: Model,
    params: Params,
    model_state: ModelState,
    prompt: Any,
    length: int,
    *,
    key: jax.Array | None = None,
    temperature: float | jax.Array = 1.0,
    top_k: int | jax.Array | None = None,
    top_p: float | jax.Array | None = None,
    stop: int | Sequence[int] | jax.Array | None = None,
    cached: bool = True,
) -> Iterator[np.ndarray]:
    """Yields the tokens that `generate` would write as they come, int32[B] each.

    It ends where all rows have ended.

    Args:
        model: as for `generate`, and so all others.
        params: see model.
        model_state: see model.
        prompt: see model.
        length: see model.
        key: see model.
        temperature: see model.
        top_k: see model.
        top_p: see model.
        stop: see model.
        cached: see model.

    Raises:
        TypeError, ValueError: as `generate`, wrong arguments at once.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn
        >>> from funcnet.inference import generate_stream
        >>> model = fn.sequential(fn.embedding(5, 8), fn.gru(16, decode=True), fn.dense(5))
        >>> params, _ = model.init(jax.random.key(0), jnp.zeros((1, 4), int))
        >>> len([token for token in generate_stream(model, params, {}, [[1, 2]], 3)])
        3
    """
    task, request = asked(
        *("generate_stream", model, params, model_state, prompt, length, key),
        *(temperature, top_k, top_p, stop, cached),
    )
    return stream(task, request)


def asked(
    function: str,
    model: Model,
    params: Params,
    model_state: ModelState,
    prompt: Any,
    length: int,
    key: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    stop: Any,
    cached: bool,
) -> tuple[Task, Request]:
    """The arguments of a call, once they have been checked."""
    check_model(function, model, params)
    errors.positive(function, length=length)
    prompts = read_prompts(function, prompt)
    how = how_to_draw(function, len(prompts.sizes), key, temperature, top_k, top_p)
    task = Task(model, int(length), prompts.least, bool(cached))
    stop = stop_tokens(function, stop)
    return task, Request(params, model_state, prompts.tokens, prompts.sizes, how, stop)


def start(task: Task, request: Request) -> Text:
    """The text before its first token."""
    batch, longest = request.tokens.shape
    logits, memory = begin(
        *(task.model, request.params, request.model_state, request.tokens),
        *(task.least, longest + task.length, task.cached),
    )
    shape = batch, task.length
    return Text(
        jnp.int32(task.least),
        logits,
        memory,
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros(batch, bool),
    )


def turn(task: Task, request: Request, text: Text) -> Text:
    """The text with one more token in each row; where a prompt is longer, it is the prompt's."""
    column = text.position - request.sizes
    rows = jnp.arange(len(column))
    own = jnp.take(request.tokens, text.position, axis=1, mode="clip")
    drawn = draw(request.how, text.logits, jnp.maximum(column, 0))
    token = jnp.where(column < 0, own, drawn)
    written = (column >= 0) & ~text.ended
    at = jnp.where(written, column, task.length)  # beyond, where nothing is set
    chance = log_prob(text.logits, token).astype(jnp.float32)
    logits, memory = go_on(
        *(task.model, request.params, request.model_state, token),
        *(text.position, text.memory, task.cached),
    )
    lengths = text.lengths + written
    last = written & jnp.isin(token, request.stop)
    return Text(
        text.position + 1,
        logits,
        memory,
        text.tokens.at[rows, at].set(token, mode="drop"),
        text.log_probs.at[rows, at].set(chance, mode="drop"),
        lengths,
        text.ended | last | (lengths == task.length),
    )


@partial(jax.jit, static_argnames="task")
def write(task: Task, request: Request) -> Generated:
    """The whole text."""
    text = jax.lax.while_loop(
        lambda text: ~text.ended.all(), partial(turn, task, request), start(task, request)
    )
    columns = jnp.minimum(jnp.arange(task.length)[None], text.lengths[:, None] - 1)
    tokens = jnp.take_along_axis(text.tokens, columns, axis=1)
    kept = text.memory if task.cached else request.model_state
    return Generated(tokens, text.log_probs, text.lengths, kept)


jit_start = jax.jit(start, static_argnames="task")
"""The same compiled, for a text that is shown as it comes."""

jit_turn = jax.jit(turn, static_argnames="task")
"""The same compiled, for one token."""


def stream(task: Task, request: Request) -> Iterator[np.ndarray]:
    """The columns of a text, each as soon as every row has come to it or has ended."""
    text, shown, whole = jit_start(task, request), 0, False
    while not whole:
        text = jit_turn(task, request, text)
        found: Text = gathered(text._replace(logits=None, memory=None))
        check_numbers("generate_stream", task, request, found.log_probs)
        whole = bool(found.ended.all())
        ready = int(found.lengths.max() if whole else found.lengths[~found.ended].min())
        rows = np.arange(len(found.lengths))
        for column in range(shown, ready):
            yield np.asarray(found.tokens)[rows, np.minimum(column, found.lengths - 1)]
        shown = ready


def check_model(function: str, model: Any, params: Any) -> None:
    """Raises unless there are a model and its params."""
    if not isinstance(model, Model):
        raise TypeError(
            f"`{function}`: model must be a funcnet model, got {type(model).__name__}. "
            "Make one of it with `fn.as_model(...)`; of a trainer, it is `trainer.model`."
        )
    if isinstance(params, TrainState):
        raise TypeError(
            f"`{function}`: params must be those of the model, got a TrainState. "
            "Give `state.params, state.model_state`."
        )


def stop_tokens(function: str, stop: Any) -> Any:
    """The tokens that end a row, int32[S]."""
    if stop is None:
        return np.zeros(0, np.int32)
    array = stop if isinstance(stop, jax.Array) else np.asarray(stop)
    if not jnp.issubdtype(array.dtype, jnp.integer) or array.ndim > 1:
        raise TypeError(
            f"`{function}`: stop must be a token or a list of tokens, got {errors.describe(stop)}. "
            "Give its number, as in training."
        )
    return array.reshape(-1).astype(np.int32)


def check_numbers(function: str, task: Task, request: Request, log_probs: Any) -> None:
    """Raises where a logit was NaN; within another compiled function it can't be known yet."""
    if isinstance(log_probs, jax.core.Tracer):
        return
    wrong = np.isnan(gathered(log_probs))
    if not wrong.any():
        return
    column = int(wrong.any(0).argmax())
    row = int(wrong[:, column].argmax())
    raise ValueError(
        f"`{function}`: logits must be numbers, got NaN for token {column} of row {row}. "
        f"{why_not_numbers(task, request)}"
    )


def why_not_numbers(task: Task, request: Request) -> str:
    """What may have made a logit NaN, in a sentence."""
    bad = [
        path
        for path, leaf in tree.paths(gathered(request.params)).items()
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.float32(leaf)).all()
    ]
    if bad:
        return f"The params are not finite in {listed(bad)}: train anew, with `fn.guarded` say."
    tokens = np.asarray(request.tokens)
    room = tokens.shape[1] + task.length
    return (
        f"The params are finite, and the prompt holds tokens {tokens.min()} .. {tokens.max()}: "
        f"see that the vocabulary has them, and that the model has room for these {room} positions."
    )
