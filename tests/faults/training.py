"""A small training that tells, from the outside, which examples each of its steps has seen.

The number of each example is a column of the data. A ledger of the examples of each step is a part
of the model's state, and so of what is saved; what is new in it goes, after each chunk, to a file
that a killed process leaves behind.
"""

import hashlib
import json
import os
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn
from funcnet.distributed import gathered
from funcnet.training.state import ORDER, stream

EXAMPLES, BATCH, EPOCHS, SEED = 100, 16, 16, 3
RATE, PATIENCE = 1e-2, 6
PER_EPOCH = -(-EXAMPLES // BATCH)
STEPS = EPOCHS * PER_EPOCH


def data():
    """Examples whose last column is their number, what is to be told of them, and some more."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(EXAMPLES + 20, 6)).astype(np.float32)
    x[:, -1] = np.arange(len(x))
    y = (x[:, :5] @ draw.normal(size=(5, 3)).astype(np.float32)).argmax(1)
    y[::4] = draw.integers(0, 3, size=len(y[::4]))  # some that can't be learnt, only known by heart
    return (x[:EXAMPLES], y[:EXAMPLES]), (x[EXAMPLES:], y[EXAMPLES:])


def watched(model):
    """A model whose state has the examples of each step, int32[steps, batch], -1 for none yet."""

    def init(key, x):
        params, inner = model.init(key, jax.eval_shape(lambda x: x[:, :-1], x))
        return params, {"model": inner, "ledger": jnp.full((STEPS, BATCH), -1), "at": jnp.int32(0)}

    def apply(params, model_state, x, *, key=None, training=None):
        inner, ledger, at = (model_state[name] for name in ("model", "ledger", "at"))
        y, inner = model.apply(params, inner, x[:, :-1], key=key, training=training)
        if key is None if training is None else not training:
            return y, model_state
        ledger = ledger.at[at].set(x[:, -1].astype(jnp.int32))
        return y, {"model": inner, "ledger": ledger, "at": at + 1}

    return fn.Model(init, apply)


def make_trainer(placement=None):
    """Batch statistics, noise, a schedule, metrics: all that a run carries."""
    model = fn.sequential(fn.dense(16), fn.batch_norm(), jax.nn.relu, fn.dropout(0.3), fn.dense(3))
    return fn.Trainer(
        watched(model),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(optax.cosine_decay_schedule(RATE, STEPS)),
        metrics={"accuracy": fn.metrics.accuracy()},
        placement=placement,
    )


def train(trainer, checkpoint=None, *, staged=False, callbacks=(), **settings):
    """The training, from wherever it was left, to its end or that of `settings`."""
    train_data, validation = data()
    if staged:
        train_data = fn.data.staged(*train_data)
    settings = {
        "epochs": EPOCHS,
        "stopping": fn.early_stopping("val_loss", patience=PATIENCE),
    } | settings
    return trainer.fit(
        train_data,
        validation=validation,
        batch_size=BATCH,
        seed=SEED,
        progress=False,
        callbacks=callbacks,
        checkpoint=checkpoint,
        **settings,
    )


def telling(path, begun=lambda kind: None):
    """A callback that appends to a file the steps of each chunk with their examples."""

    def update(_, event):
        ledger = gathered(event.state.model_state["ledger"])
        if event.kind == "start":
            update.told = event.step
        if event.kind in ("start", "chunk"):
            rows = ledger[update.told : event.step].tolist()
            append(path, {"start": event.step} if event.kind == "start" else {"rows": rows})
            update.told = event.step
            begun(event.kind)

    update.told = 0
    return fn.Callback(lambda: None, update)


def append(path, line):
    """Adds a line in one write: a process killed in between has written all of it, or nothing."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


def digest(tree):
    """SHA-256 of arrays, their names, shapes and dtypes."""
    found = hashlib.sha256()
    for path, leaf in sorted(fn.tree.paths(gathered(tree)).items()):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaf = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        found.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    return found.hexdigest()


def outcome(result):
    """All that has become of a training, each part by its SHA-256."""
    found = {
        f"{which}.{name}": digest(part)
        for which, state in {"last": result.last, "best": result.best}.items()
        for name, part in state._asdict().items()
    }
    ledger, step = gathered(result.last.model_state["ledger"]), int(result.last.step)
    seen = np.where(np.arange(STEPS)[:, None] < step, expected(), -1)
    return found | {
        "history": digest(result.history),
        "losses": digest({"losses": result.losses}),
        "ended": f"{result.reason.name} {result.message} {result.best_epoch}",
        "step": step,
        "ledger": bool((ledger == seen).all()),
    }


def expected():
    """The examples of each step, in the order that the seed says."""
    words = np.asarray(fn.data.order_words(stream(jax.random.key(SEED), ORDER)))
    steps = [fn.data.batch_indices(words, step, BATCH, EXAMPLES) for step in range(STEPS)]
    return np.stack(steps).astype(np.int32)


def attempts(path):
    """What each process has told: the step it began at, and each step's examples from there."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        said = json.loads(line)
        if "start" in said:
            found.append((said["start"], []))
        else:
            found[-1][1].extend(said["rows"])
    return found


def reached(path):
    """The step that the last process had come to."""
    *_, (start, rows) = [(0, []), *attempts(path)]
    return start + len(rows)


def what_is_wrong(path, order, lost=True):
    """What the ledger that is outside says against the run, or None.

    Args:
        path: of the file.
        order: the examples of each step, as they must be.
        lost: whether steps taken after the last save may have been taken again.
    """
    at = 0
    for start, rows in attempts(path):
        if start > at or (start < at and not lost):
            return f"went on at step {start}, was at {at}"
        if rows != order[start : start + len(rows)].tolist():
            return f"other examples in the steps from {start} to {start + len(rows)}"
        at = max(at, start + len(rows))
    if at != len(order):
        return f"{at} steps instead of {len(order)}"
    seen = Counter(i for row in order.tolist() for i in row)
    return None if max(seen.values()) - min(seen.values()) <= 1 else "examples seen unequally often"
