"""A guard that keeps NaN and infinity out of params, the optimizer's memory and statistics."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet import errors, tree
from funcnet.types import Params, PyTree

LOSS = -2
"""In place of a leaf's number: the gradient is finite, but the loss is not."""

UPDATES = -3
"""The same: the gradient is finite, but what the optimizer makes of it is not."""


class Guard(NamedTuple):
    """The memory of a guarded optimizer.

    Attributes:
        skipped: int32[], updates that were left out.
        in_a_row: int32[], those among them since the last that was not.
        first: int32[], the first bad leaf of the gradient of the last that was left out, as a
            number in the order of `fn.tree.paths(params)`; `LOSS` or `UPDATES` if it was none of
            them, -1 before there was one.
        bad: bool[], whether the last update was left out.
        tripped: bool[], whether there were too many in a row. No update is made any more then.
        inner: the memory of the optimizer itself.
    """

    skipped: jax.Array
    in_a_row: jax.Array
    first: jax.Array
    bad: jax.Array
    tripped: jax.Array
    inner: optax.OptState


def guarded(
    optimizer: optax.GradientTransformation, *, patience: int = 100
) -> optax.GradientTransformationExtraArgs:
    """Leaves out each update that is not finite, and stops where there are too many in a row.

    Where the loss, a gradient or its square is NaN or infinite, params, the optimizer's memory and
    the model's state stay as they were, and the batch counts for no metric. After `patience` such
    steps in a row a fit stops. A fit with a checkpoint first goes back to what was saved last,
    once, and on from there with the batches that come next.

    Where the optimizer makes something that is not finite of numbers that are, the fault is its
    own: params stay as they were, and the fit stops, or goes back, at once.

    Inside `fn.parts` it looks at its own part alone, and keeps nothing out of the others. The first
    of several that has had too many stops the fit.

    Args:
        optimizer: what makes the updates.
        patience: bad steps in a row after which there is something wrong.

    Returns:
        The optimizer; `fn.training.guard_of(opt_state)` tells of its `skipped`, and of the rest.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Source:
        To go back and on with other batches: Chowdhery et al., "PaLM", 2022, section 5.1.

    Example:
        >>> import jax.numpy as jnp, funcnet as fn, optax
        >>> optimizer = fn.guarded(optax.adam(0.1))
        >>> params = jnp.array(1.0)
        >>> opt_state = optimizer.init(params)
        >>> updates, opt_state = optimizer.update(jnp.array(jnp.nan), opt_state, params)
        >>> float(updates), int(opt_state.skipped), int(opt_state.inner[0].count)
        (0.0, 1, 0)
    """
    if not hasattr(optimizer, "update"):
        raise TypeError(
            "`guarded`: optimizer must be an optax.GradientTransformation, "
            f"got {errors.describe(optimizer)}. Call its factory, `optax.adam(1e-3)` say."
        )
    errors.positive("guarded", patience=patience)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> Guard:
        none, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return Guard(none, none, none - 1, no, no, inner.init(params))

    def update(
        grads: Any, state: Guard, params: Params | None = None, **extra: Any
    ) -> tuple[Any, Guard]:
        def left_out(first: Any) -> tuple[Any, Guard]:
            row = state.in_a_row + 1
            after = Guard(
                skipped=jnp.where(state.tripped, state.skipped, state.skipped + 1),
                in_a_row=jnp.where(state.tripped, state.in_a_row, row),
                first=jnp.where(state.tripped, state.first, first),
                bad=jnp.ones((), bool),
                tripped=state.tripped | (row >= patience),
                inner=state.inner,
            )
            return grads, after

        def made() -> tuple[Any, Guard]:
            updates, memory = inner.update(grads, state.inner, params, **extra)
            good = sound(updates)
            nothing = jnp.zeros_like(state.in_a_row)
            after = Guard(
                skipped=jnp.where(good, state.skipped, state.skipped + 1),
                in_a_row=jnp.where(good, nothing, state.in_a_row + 1),
                first=jnp.where(good, state.first, UPDATES),
                bad=~good,
                tripped=~good,
                inner=tree.alike(state.inner, memory),
            )
            return tree.alike(grads, updates), after

        value = extra.get("value", 0.0)
        good = sound(grads) & jnp.isfinite(value) & ~state.tripped
        updates, after = jax.lax.cond(good, made, lambda: left_out(first_bad(grads)))
        return jax.tree.map(lambda update: jnp.where(after.bad, 0, update), updates), after

    return optax.GradientTransformationExtraArgs(init, update)


def sound(leaves: PyTree) -> jax.Array:
    """Whether all numbers are finite, and so far below the largest that their squares are too.

    They are summed, since a product with a vector takes the least time of all passes over an
    array; what is too large overflows by the size of the vector's elements.
    """
    wide = map(tree.widen, jax.tree.leaves(leaves))
    sums = [total(leaf) for leaf in wide if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.isfinite(jnp.array(sums)).all()


def total(leaf: jax.Array) -> jax.Array:
    """The sum of an array's elements, each times a number that makes of large ones infinity."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return total(leaf.real) + total(leaf.imag)
    large = 4 * float(np.finfo(leaf.dtype).max) ** 0.5  # infinite whatever it is added to
    row = leaf.shape[-1] if leaf.size and leaf.ndim else 1
    return (leaf.reshape(-1, row) @ jnp.full(row, large, leaf.dtype)).sum()


def first_bad(grads: PyTree) -> jax.Array:
    """The number of the first leaf that is not finite, or whose square is not; `LOSS` if none."""
    own = jax.tree.leaves(grads, is_leaf=is_masked)  # those of other parts have numbers too
    bad = jnp.array([~sound(leaf) for leaf in own])
    return jnp.where(bad.any(), jnp.argmax(bad), LOSS).astype(jnp.int32)


def guard_of(opt_state: optax.OptState) -> Guard | None:
    """The guard in an optimizer's memory; several as one; None if there is none.

    Of several, in parts of `fn.parts`, it tells of the worst, without its memory; it is bad, or
    tripped, where any is.
    """
    found = [node for node in jax.tree.leaves(opt_state, is_leaf=is_guard) if is_guard(node)]
    return together(found) if len(found) > 1 else next(iter(found), None)


def together(guards: list[Guard]) -> Guard:
    """Several guards as one."""
    every = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(guard[:-1] for guard in guards))
    skipped, in_a_row, first, bad, tripped = every
    worst = jnp.argmax(jnp.where(tripped, np.iinfo(np.int32).max, in_a_row))
    return Guard(skipped.max(), in_a_row[worst], first[worst], bad.any(), tripped.any(), ())


def is_guard(node: Any) -> bool:
    """Whether a node of an optimizer's memory is that of one that is guarded."""
    return isinstance(node, Guard)


def is_masked(node: Any) -> bool:
    """Whether a node stands for a param of another part."""
    return isinstance(node, optax.MaskedNode)


def calmed(opt_state: optax.OptState, now: optax.OptState) -> optax.OptState:
    """An optimizer's memory, whose guards go on counting where those of `now` are."""

    def calm(node: Any, guard: Any) -> Any:
        if not is_guard(node):
            return node
        none, no = jnp.zeros_like(node.in_a_row), jnp.zeros_like(node.tripped)
        return guard._replace(in_a_row=none, tripped=no, inner=node.inner)

    return jax.tree.map(calm, opt_state, now, is_leaf=is_guard)


def words_of(guard: Guard, params: Params) -> str:
    """What was wrong with the last update that was left out."""
    first = int(guard.first)
    if first == LOSS:
        return "the loss was not finite"
    if first == UPDATES:
        return "what the optimizer made of finite gradients was not"
    return f"the gradient of {list(tree.paths(params))[first]} was not finite, or too large"
