"""Norms of gradients, updates and params, kept in the optimizer's memory for each epoch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcnet import errors, tree
from funcnet.training.told import Told, nothing_told
from funcnet.types import Metrics, Params, PyTree

KINDS = ("grad_norm", "update_norm", "param_norm")
"""What is measured, in the order in which the memory holds it."""


class Watched(NamedTuple):
    """The memory of an optimizer that is watched.

    Attributes:
        told: how many epochs have ended.
        epoch: int32[], the epoch of the last update.
        updates: int32[], updates in that epoch.
        measured: int32[], those of them whose norms were taken.
        sums: float[3] by path, the sums over these of the norms of gradients, updates and params;
            `""` is all params together.
        inner: the memory of the optimizer itself.
    """

    told: Told
    epoch: jax.Array
    updates: jax.Array
    measured: jax.Array
    sums: dict[str, jax.Array]
    inner: optax.OptState


def watched(
    optimizer: optax.GradientTransformation, *, depth: int | None = None, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Reports the norms of gradients, updates and params, of each array of params and of all.

    The history of `fit` and of a run has, beside the loss, the mean over each epoch's updates, or
    over those that are measured, of

    | name | is the norm of |
    | --- | --- |
    | `grad_norm`, `grad_norm/0/kernel` | what the optimizer is given |
    | `update_norm`, `update_norm/0/kernel` | what it makes of it, which is added to params |
    | `param_norm`, `param_norm/0/kernel` | params before that |

    A norm is the square root of the sum of squares. The training itself is the same to the bit.
    Around `fn.guarded` it also sees the gradients that are left out, NaN and all; inside it, only
    those that count. Inside `fn.parts` it sees its own part.

    Args:
        optimizer: what makes the updates; it is not changed.
        depth: how many names of a path to tell apart: 1 for one norm a layer, 0 for all params
            together alone; `None` for each array.
        every: updates from one that is measured to the next, the first of each epoch being one. A
            measurement passes once more over gradients, updates and params, which on a CPU can
            make a step of a small batch half as long again: give 10 there, say.

    Returns:
        The optimizer, for the trainer. In a loop of one's own `fn.training.norms(opt_state)` tells
        the means since the last `opt_state = fn.training.after_epoch(opt_state, {})`.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from funcnet.training.watching import norms, watched
        >>> optimizer = watched(optax.sgd(0.1))
        >>> params = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array(0.0)}
        >>> grads = {"kernel": jnp.array([6.0, 8.0]), "bias": jnp.array(0.0)}
        >>> updates, opt_state = optimizer.update(grads, optimizer.init(params), params)
        >>> found = norms(opt_state)
        >>> float(found["grad_norm/kernel"]), float(found["param_norm"])
        (10.0, 5.0)
    """
    if not hasattr(optimizer, "update"):
        raise TypeError(
            "`watched`: optimizer must be an optax.GradientTransformation, "
            f"got {errors.describe(optimizer)}. Call its factory, `optax.adam(1e-3)` say."
        )
    check_depth(depth)
    errors.positive("watched", every=every)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> Watched:
        zero = jnp.zeros((), jnp.int32)
        sums = {path: jnp.zeros(len(KINDS), float) for path in grouped(params, depth)}
        return Watched(nothing_told(), zero, zero, zero, sums, inner.init(params))

    def update(
        grads: Any, state: Watched, params: Params | None = None, **extra: Any
    ) -> tuple[Any, Watched]:
        if params is None:
            raise ValueError(
                "`watched`: update needs the params, got none. "
                "Call `optimizer.update(grads, opt_state, params)`."
            )
        updates, memory = inner.update(grads, state.inner, params, **extra)
        same = state.told.epochs == state.epoch
        taken, done, sums = jax.tree.map(
            lambda leaf: jnp.where(same, leaf, jnp.zeros_like(leaf)),
            (state.updates, state.measured, state.sums),
        )

        def more() -> dict[str, jax.Array]:
            found: dict[str, jax.Array] = tree.alike(sums, measured(grads, updates, params, depth))
            return found

        due = taken % every == 0
        found = more() if every == 1 else jax.lax.cond(due, more, lambda: nothing(sums))
        sums = jax.tree.map(jnp.add, sums, found)
        epoch = state.told.epochs
        return updates, Watched(state.told, epoch, taken + 1, done + due, sums, memory)

    return optax.GradientTransformationExtraArgs(init, update)


def nothing(sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Sums of no norm."""
    return {path: jnp.zeros_like(leaf) for path, leaf in sums.items()}


def check_depth(depth: Any) -> None:
    """Raises unless a depth is None or a whole number of names."""
    words = (
        f"`watched`: depth must be None or a whole number of names, 0 or more, got {depth!r}. "
        "Give 1 for one norm a layer."
    )
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int)):
        raise TypeError(words)
    if depth is not None and depth < 0:
        raise ValueError(words)


def grouped(params: PyTree, depth: int | None) -> dict[str, list[Any]]:
    """Leaves by the first `depth` names of their paths; by `""` all of them."""
    found: dict[str, list[Any]] = {"": []}
    for path, leaf in tree.paths(params).items():
        name = path if depth is None else "/".join(path.split("/")[:depth])
        for each in {"", name}:
            found.setdefault(each, []).append(leaf)
    return found


def measured(
    grads: PyTree, updates: PyTree, params: PyTree, depth: int | None
) -> dict[str, jax.Array]:
    """The three norms by path."""
    of_kind = []
    for leaves in (grads, updates, params):
        squares = jax.tree.map(square, leaves)
        of_kind.append({path: sum(each) for path, each in grouped(squares, depth).items()})
    return {path: jnp.sqrt(jnp.stack([kind[path] for kind in of_kind])) for path in of_kind[0]}


def square(leaf: jax.Array) -> jax.Array:
    """The sum of squares of an array, in float32 at least."""
    wide = tree.widen(leaf)
    return jnp.vdot(wide, wide)


def norms(opt_state: optax.OptState) -> Metrics:
    """The means of an epoch's norms by name, where an optimizer is watched; else nothing.

    NaN where the epoch has had no update. Of several optimizers that are watched, of different
    parts of params, each tells of its own arrays, and none of all together.

    Args:
        opt_state: an optimizer's memory.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> norms(optax.sgd(0.1).init(jnp.zeros(2)))
        {}
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=is_watched)
    found = [node for node in nodes if is_watched(node)]
    means = {
        path: total / node.measured
        for node in found
        for path, total in node.sums.items()
        if path or len(found) == 1
    }
    return {
        f"{kind}/{path}" if path else kind: mean[i]
        for i, kind in enumerate(KINDS)
        for path, mean in means.items()
    }


def is_watched(node: Any) -> bool:
    """Whether a node of an optimizer's memory is that of one that is watched."""
    return isinstance(node, Watched)


def is_norm(name: str) -> bool:
    """Whether a name of the history is one of these."""
    return name.split("/")[0] in KINDS
