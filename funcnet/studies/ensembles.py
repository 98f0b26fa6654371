"""Ensembles: many members trained as one study; what they say together is in `committee`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.data.arrays import check_columns, examples, split
from funcnet.stopping import Stopping
from funcnet.studies import members, pooling
from funcnet.studies.committee import Ensemble
from funcnet.studies.members import Member, Way
from funcnet.studies.pooling import Reading
from funcnet.trainer.runs import MakeTrainer, as_maker, as_number, make_run
from funcnet.trainer.trainer import Trainer
from funcnet.training.state import INIT, ORDER, RESAMPLE, check_key, stream
from funcnet.types import PyTree


def ensemble(
    make_trainer: "MakeTrainer | Trainer",
    n: int,
    data: Any,
    *,
    validation: Any = None,
    hyperparameters: PyTree = None,
    epochs: int,
    batch_size: int = 32,
    shuffle: bool = True,
    stopping: Stopping | None = None,
    bootstrap: bool = False,
    same_init: bool = False,
    probabilities: Reading | None = None,
    seed: Any = 0,
    by: Way | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
) -> Ensemble:
    """Trains `n` members that differ by their key: by first params, order of examples and noise.

    Each member is the training that `fit` does alone, with its own early stop and its own best
    state. Member i has the key `fold_in(jax.random.key(seed), i)`, whatever `n` is.

    Args:
        make_trainer: a trainer, or `make_trainer(hyperparameters) -> trainer` as for `fn.make_run`.
        n: how many members.
        data: `(x, y)` or `(x, y, weight)`, arrays.
        validation: data of the same form; or the share of `data` to hold out, the same examples
            for all members.
        hyperparameters: what `make_trainer` is given, the same for all.
        epochs: the most epochs of each.
        batch_size: examples a batch, in evaluation too.
        shuffle: whether each epoch has an order of its own.
        stopping: when a member stops before, from `fn.early_stopping`.
        bootstrap: whether each member trains on its own resample of `data`, drawn with replacement
            and as large; a member then misses 37 % of the examples, and `out_of_bag` tells how well
            the others predict them.
        same_init: whether all begin with the params of member 0, which a soup needs.
        probabilities: how outputs are read, `"softmax"` or `"sigmoid"` for logits, and
            `"identity"` for numbers, which are averaged as they are. Unless given, it is told by
            the name of the loss: those of optax with "softmax" or "sigmoid" in it take logits.
        seed: a whole number, or a key.
        by: `"loop"` for one after the other, or `"vmap"`; what is faster here unless given.
        at_once: members a chunk under `"vmap"`, to save memory.
        progress: whether to show a bar; `None` means in a terminal.

    Returns:
        The members, as an `Ensemble`.

    Raises:
        TypeError, ValueError: an argument is wrong; nothing has been trained then.

    Source:
        Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation
        using Deep Ensembles", 2017; bootstrap: Breiman, "Bagging Predictors", 1996.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> x = jnp.linspace(-1, 1, 64)[:, None]
        >>> trainer = fn.Trainer(
        ...     fn.sequential(fn.dense(8), jnp.tanh, fn.dense(1)),
        ...     loss=optax.losses.squared_error,
        ...     optimizer=optax.adam(0.05),
        ... )
        >>> committee = fn.ensemble(trainer, 5, (x, x**2), validation=0.25, epochs=20)
        >>> len(committee), committee.predict(x[:3]).shape, committee.outputs(x[:3]).shape
        (5, (3, 1), (5, 3, 1))
        >>> alone = committee[3]  # an ordinary result
        >>> bool(committee.evaluate((x, x**2)).ensemble["loss"] < 0.1)
        True
    """
    errors.positive("ensemble", n=n, epochs=epochs, batch_size=batch_size)
    key = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
    check_key("ensemble", key)
    keys = members.keys(key, n)
    make = as_maker("ensemble", make_trainer)
    if same_init:
        make = beginning_with(make, stream(keys[0], INIT))
    given = jax.tree.map_with_path(as_number, hyperparameters)
    trainer = make(given)
    reading = pooling.reading_of(trainer.programs.loss, probabilities)
    columns = check_columns("ensemble", data)
    if isinstance(validation, float):
        columns, validation = split("ensemble", columns, validation, stream(key, ORDER))
    columns = jax.tree.map(jnp.asarray, columns)
    drawn = resampled(keys, examples(columns)) if bootstrap else None
    run = make_run(make, epochs=epochs, batch_size=batch_size, shuffle=shuffle, stopping=stopping)
    every = Member(keys, jax.tree.map(lambda leaf: jnp.stack([leaf] * n), given), drawn)
    chunks = members.train(
        run, every, columns, validation, by=by, at_once=at_once, progress=progress
    )
    runs = members.gather(chunks)
    return Ensemble(
        trainer, runs, columns, drawn, reading, run.plan(validation is not None).stopping, by=by
    )


def beginning_with(make: MakeTrainer, key: jax.Array) -> MakeTrainer:
    """`make`, with trainers whose model has the same first params whatever a run's key is."""

    def make_alike(hyperparameters: Any) -> Trainer:
        trainer = make(hyperparameters)
        model = trainer.model

        def init(_: jax.Array, x: Any) -> Any:
            return model.init(key, x)

        return dataclasses.replace(trainer, model=model._replace(init=init))

    return make_alike


def resampled(keys: jax.Array, n: int) -> jax.Array:
    """For each key `n` examples of `n`, drawn with replacement, int32[keys, n]."""

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.randint(stream(key, RESAMPLE), (n,), 0, n)

    return jax.vmap(draw)(keys)
