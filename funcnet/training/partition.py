"""Parts of params with optimizers of their own, by path; parts that are frozen, or learn later."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet import errors, tree
from funcnet.training.told import Told, nothing_told
from funcnet.types import Params, PyTree


def parts(
    optimizers: Mapping[str, optax.GradientTransformation | None],
) -> optax.GradientTransformationExtraArgs:
    """Gives each part of params an optimizer of its own; what has None is frozen.

    A frozen param gets updates of exactly zero, whatever its gradient, so that no weight decay
    reaches it either. The optimizer keeps nothing of it, and its gradient is not computed unless
    something else looks at it, as clipping by the global norm and `fn.guarded` do: put these
    inside, or wrap that part of the model in `fn.frozen`.

    Args:
        optimizers: from path patterns to optimizers, the first that matches a param counting: `*`
            stands for any part of a name, `**` for any number of names.

    Returns:
        The optimizer of all params, for the trainer or a loop of one's own.

    Raises:
        TypeError: an optimizer is none; there is no pattern.
        ValueError: at `init`, where a pattern matches no param, or is left with none by a wider one
            before it, or a param is matched by none.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn, optax
        >>> optimizer = fn.parts({"head/**": optax.sgd(0.5), "**": None})
        >>> params = {"body": jnp.ones(2), "head": {"kernel": jnp.ones(2)}}
        >>> opt_state = optimizer.init(params)
        >>> updates, opt_state = optimizer.update(params, opt_state, params)
        >>> updates["body"].tolist(), updates["head"]["kernel"].tolist()
        ([0.0, 0.0], [-0.5, -0.5])

    Source:
        Rates that grow from part to part: Howard, Ruder, "Universal Language Model Fine-tuning for
        Text Classification", 2018, section 3.2. The parts are those of `optax.partition`.
    """
    check_parts(optimizers)
    patterns = list(optimizers)
    by_number = {
        i: optax.set_to_zero() if optimizer is None else optimizer
        for i, optimizer in enumerate(optimizers.values())
    }

    def numbered(params: Params) -> PyTree:
        return numbers_of(patterns, params)

    inner = optax.partition(by_number, numbered, mask_compatible_extra_args=True)

    def update(
        grads: Any, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Any, Any]:
        if (whole := extra.get("value_fn")) is not None:
            extra["value_fn"] = lambda part: whole(completed(part, params))
        result: tuple[Any, Any] = inner.update(grads, state, params, **extra)
        return result

    return optax.GradientTransformationExtraArgs(inner.init, update)


def check_parts(optimizers: Any) -> None:
    """Raises unless path patterns have optimizers, or None."""
    if not isinstance(optimizers, Mapping) or not optimizers:
        raise TypeError(
            "`parts`: optimizers must be a dict from path patterns to optimizers, got "
            f"{errors.describe(optimizers)}. Say `{{'head/**': optax.adam(1e-3), '**': None}}`."
        )
    for pattern, optimizer in optimizers.items():
        if not isinstance(pattern, str):
            raise TypeError(
                f"`parts`: a path pattern must be a string, got {pattern!r}. Say 'head/**'."
            )
        if optimizer is not None and not hasattr(optimizer, "update"):
            raise TypeError(
                "`parts`: each part must have an optax.GradientTransformation, or None to freeze "
                f"it, got {errors.describe(optimizer)} for {pattern!r}. "
                "Call its factory, `optax.adam(1e-3)` say."
            )


def numbers_of(patterns: list[str], params: Params) -> PyTree:
    """For each param the number of the first pattern that matches it, as a tree like `params`."""
    found = [set(tree.select("parts", params, pattern)) for pattern in patterns]
    for i, matched in enumerate(found):
        wider = [pattern for pattern, before in zip(patterns, found[:i], strict=False)
                 if matched < before]  # fmt: skip
        if wider:
            raise ValueError(
                "`parts`: a pattern must come before one that matches all of its params and more, "
                f"got {patterns[i]!r} after {wider[0]!r}. Put it first: the first that matches "
                "counts."
            )
    paths = list(tree.paths(params))
    left = [path for path in paths if not any(path in matched for matched in found)]
    if left:
        raise ValueError(
            f"`parts`: each param must be matched by a pattern, got none for {', '.join(left)}. "
            "End with '**', for all that is left: `'**': None` freezes it."
        )
    numbers = [next(i for i, matched in enumerate(found) if path in matched) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(params), numbers)


def completed(part: Params, params: Params) -> Params:
    """A part of params with all others in their places, for an optimizer that evaluates them."""
    return jax.tree.map(
        lambda whole, own: whole if isinstance(own, optax.MaskedNode) else own, params, part
    )


class Waiting(NamedTuple):
    """The memory of an optimizer that begins late.

    Attributes:
        taken: int32[], updates so far, those of zero included.
        told: how many epochs have ended.
        inner: the memory of the optimizer itself, which does not move before it begins.
    """

    taken: jax.Array
    told: Told
    inner: optax.OptState


def from_step(
    step: Any, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Freezes params before an update: its updates are exactly zero, and its memory does not move.

    With `fn.parts` parts of a model are unfrozen one after the other in the middle of a run. Their
    gradients are computed all the while; where that is too slow, let a second fit begin from the
    first one's state, `fit(start=first.best)`.

    Args:
        step: the first update that moves params, counted from 0; may be traced. A schedule of the
            optimizer begins there.
        optimizer: what makes the updates.

    Returns:
        The optimizer that waits.

    Raises:
        TypeError, ValueError: `step` is no whole number, or below 0; `optimizer` is none.

    Source:
        Gradual unfreezing: Howard, Ruder, "Universal Language Model Fine-tuning for Text
        Classification", 2018, section 3.3.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn, optax
        >>> optimizer = fn.parts({"head/**": optax.sgd(1.0), "**": fn.from_step(2, optax.sgd(1.0))})
        >>> params = {"body": jnp.ones(()), "head": {"bias": jnp.ones(())}}
        >>> opt_state = optimizer.init(params)
        >>> for _ in range(3):
        ...     updates, opt_state = optimizer.update(params, opt_state, params)
        ...     float(updates["body"]), float(updates["head"]["bias"])
        (0.0, -1.0)
        (0.0, -1.0)
        (-1.0, -1.0)
    """
    check_when("from_step", "step", step, optimizer)
    return waiting(optimizer, lambda memory: memory.taken >= step)


def from_epoch(
    epoch: Any, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Freezes params before an epoch, as `fn.from_step` does before an update.

    The trainer tells the optimizer of each epoch that ends; a loop of one's own does so by
    `opt_state = fn.training.after_epoch(opt_state, values)`.

    Args:
        epoch: the first epoch that moves params, counted from 0; may be traced.
        optimizer: what makes the updates.

    Returns:
        The optimizer that waits.

    Raises:
        TypeError, ValueError: `epoch` is no whole number, or below 0; `optimizer` is none.

    Example:
        >>> import funcnet as fn, optax
        >>> optimizer = fn.parts({
        ...     "head/**": optax.adam(1e-3),
        ...     "body/2/**": fn.from_epoch(2, optax.adam(1e-4)),
        ...     "body/**": fn.from_epoch(4, optax.adam(1e-5)),
        ... })
    """
    check_when("from_epoch", "epoch", epoch, optimizer)
    return waiting(optimizer, lambda memory: memory.told.epochs >= epoch)


def waiting(optimizer: optax.GradientTransformation, begun: Any) -> Any:
    """Updates of zero, with a memory that rests, until `begun(memory)`."""
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> Waiting:
        return Waiting(jnp.zeros((), jnp.int32), nothing_told(), inner.init(params))

    def update(
        grads: Any, state: Waiting, params: Params | None = None, **extra: Any
    ) -> tuple[Any, Waiting]:
        def made() -> tuple[Any, Any]:
            new: tuple[Any, Any] = inner.update(grads, state.inner, params, **extra)
            return tree.alike(grads, new[0]), tree.alike(state.inner, new[1])

        def nothing() -> tuple[Any, Any]:
            return jax.tree.map(jnp.zeros_like, grads), state.inner

        updates, memory = jax.lax.cond(begun(state), made, nothing)
        taken = optax.safe_increment(state.taken)
        return updates, Waiting(taken, state.told, memory)

    return optax.GradientTransformationExtraArgs(init, update)


def check_when(function: str, name: str, value: Any, optimizer: Any) -> None:
    """Raises unless an optimizer is to begin at a whole number, or a traced one."""
    words = f"`{function}`: {name} must be a whole number, 0 or more, got {errors.describe(value)}."
    array = isinstance(value, jax.Array)
    if not array and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
        raise TypeError(f"{words} Give it first, the optimizer after it.")
    if np.shape(value) or (not array and value < 0):
        raise ValueError(words)
    if not hasattr(optimizer, "update"):
        raise TypeError(
            f"`{function}`: optimizer must be an optax.GradientTransformation, "
            f"got {errors.describe(optimizer)}. Call its factory, `optax.adam(1e-3)` say."
        )
