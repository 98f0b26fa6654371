"""Soups: members become one by averaging their params, in place of their predictions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import tree
from funcnet.trainer.trainer import Trainer
from funcnet.training.state import strong
from funcnet.types import TrainState


class Soup(NamedTuple):
    """One state of several members.

    Attributes:
        state: the average, of step 0 and with the optimizer's memory new, for `trainer.evaluate`,
            or for `trainer.fit(state=...)` to go on from.
        members: the numbers of those in it, in the order in which they joined.
    """

    state: TrainState
    members: np.ndarray


def average(trainer: Trainer, states: TrainState, which: np.ndarray) -> Soup:
    """The mean of some of the stacked states; what holds no floats is the first one's."""

    def mean(leaf: jax.Array) -> jax.Array:
        if not tree.is_float(leaf):
            return leaf[which[0]]
        return tree.widen(leaf[which]).mean(0).astype(leaf.dtype)

    params, model_state = jax.tree.map(mean, (states.params, states.model_state))
    zero, key = jnp.zeros((), jnp.int32), states.key[which[0]]
    state = TrainState(zero, params, model_state, trainer.optimizer.init(params), key)
    return Soup(strong(state), which)


def greedy(trainer: Trainer, states: TrainState, score: Callable[[TrainState], float]) -> Soup:
    """The mean of members that each made it no worse when it joined, the best ones first.

    Args:
        trainer: that of the members.
        states: theirs, stacked.
        score: the smaller the better.
    """
    n = len(states.step)
    alone = [score(average(trainer, states, np.array([i])).state) for i in range(n)]
    first, *others = np.argsort(alone, kind="stable")
    soup, least = average(trainer, states, np.array([first])), alone[first]
    for i in others:
        candidate = average(trainer, states, np.append(soup.members, i))
        value = score(candidate.state)
        if value <= least:
            soup, least = candidate, value
    return soup
