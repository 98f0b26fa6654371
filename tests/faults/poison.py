"""Numbers that are none, put into the data of guarded runs."""

from collections import Counter

import jax
import numpy as np
import optax

import funcnet as fn
from tests.training.test_laws import data, noisy, trainer_of

EACH = 50
VALUES = (np.nan, np.inf, -np.inf, 3e38, -1e30)


def injected(number):
    """What became of so many injections, fifty a run: NaN, infinities, what can't be squared."""
    trainer = trainer_of(noisy(), fn.guarded(optax.adam(1e-2)))
    wrong, found = [], Counter()
    for run in range(number // EACH):
        draw = np.random.default_rng(run)
        x, y = data(400)
        rows = draw.choice(400, EACH, replace=False)
        x[rows] = draw.choice(VALUES, EACH)[:, None]
        result = trainer.fit((x, y), batch_size=4, seed=run, progress=False)
        state = result.last
        kept = jax.tree.leaves((state.params, state.model_state, state.opt_state))
        if all(np.isfinite(leaf).all() for leaf in kept):
            found["params, statistics and moments finite after"] += EACH
        else:
            wrong.append(f"run {run}: something is not finite")
        found["steps left out"] += int(fn.training.guard_of(state.opt_state).skipped)
    return number, found, wrong
