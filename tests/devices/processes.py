"""What several processes do, as a script of theirs: tasks by name, each of which prints lines.

python -m funcnet.distributed.launch -n 2 -m tests.devices.processes 4 fits
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn
from funcnet.distributed import gathered, initialize, is_main
from funcnet.distributed.agreement import share

N, B = 64, 16
LISTENING = "0A"  # the state of a socket, as the kernel writes it


def rows(seed=0):
    x = np.random.default_rng(seed).standard_normal((N, 6)).astype(np.float32)
    return x, (x @ np.arange(18).reshape(6, 3)).argmax(1).astype(np.int32)


def trainer_of(placement, rate=1e-2):
    return fn.Trainer(
        fn.sequential(fn.dense(32), fn.batch_norm(), jnp.tanh, fn.dropout(0.2), fn.dense(3)),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(rate),
        metrics={"accuracy": fn.metrics.accuracy()},
        placement=placement,
    )


def batches(data, size=B):
    """A loader as one writes it for several processes: this one's part of each batch."""
    i, n = jax.process_index(), jax.process_count()
    return [
        tuple(leaf[at + i * size // n : at + (i + 1) * size // n] for leaf in data)
        for at in range(0, N, size)
    ]


def digest(tree):
    """SHA-256 of arrays, their names, shapes and dtypes."""
    found = hashlib.sha256()
    for path, leaf in sorted(fn.tree.paths(gathered(tree)).items()):
        leaf = np.asarray(jax.random.key_data(leaf) if "key" in str(leaf.dtype) else leaf)
        found.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    return found.hexdigest()


def say(name, trainer, result):
    """Prints what has become of a fit, to the bit."""
    x, y = rows(1)
    whole = {
        "history": dict(result.history),
        "losses": result.losses,
        "last": result.last._asdict(),
        "best": result.best._asdict(),
        "evaluated": {k: np.float64(v) for k, v in trainer.evaluate(result.best, (x, y)).items()},
        "predicted": trainer.predict(result.best, x[:13], batch_size=8),
    }
    for part, tree in whole.items():
        print(f"{name}: {part} {result.reason.name} {digest(tree)}", flush=True)


def fits(kinds="resident,staged,stream"):
    """The same trainings, whatever the processes."""
    data, held = rows(), rows(1)
    sharded, parallel = (trainer_of(p) for p in (fn.fully_sharded(min_size=16), fn.data_parallel()))
    stopping = fn.early_stopping("val_loss", patience=2, min_delta=10.0)
    cases = {
        "resident": (parallel, data, {"validation": 0.25, "epochs": 2}),
        "staged": (sharded, fn.data.staged(*data), {"validation": held, "epochs": 2}),
        "stream": (
            sharded,
            batches(data),
            {"validation": batches(held), "epochs": 9, "stopping": stopping},
        ),
    }
    for kind in kinds.split(","):
        trainer, given, more = cases[kind]
        say(kind, trainer, trainer.fit(given, **more, batch_size=B, seed=3))


def states():
    """A state is taken from wherever it lives, and a batch from whatever gives it."""
    data = rows()
    trainer, alone = trainer_of(fn.fully_sharded(min_size=16)), trainer_of(None)
    state = trainer.fit(data, epochs=1, batch_size=B).last
    host = gathered(state)
    there = {k: isinstance(v, np.ndarray) for k, v in fn.tree.paths(host.params).items()}
    print("states: on the host", all(there.values()), flush=True)
    onward = [trainer.fit(data, state=s, epochs=2, batch_size=B).last for s in (state, host)]
    print("states: go on alike", digest(onward[0]) == digest(onward[1]), flush=True)
    values = [t.evaluate(s, data) for t in (trainer, alone) for s in (state, host)]
    print("states: evaluate alike", np.ptp([v["loss"] for v in values]) < 1e-6, flush=True)
    predicted = trainer.predict(state, data[0][:5])
    print("states: predict to each", predicted.is_fully_addressable, flush=True)
    given = data, fn.data.staged(*data), batches(data)
    feeds = [trainer.fit(d, epochs=2, batch_size=B, shuffle=False).losses for d in given]
    print("states: fed alike", np.ptp(feeds, axis=0).max() < 1e-5, flush=True)


def uneven():
    """The last batch of a stream is shorter, and can't be divided among eight devices."""
    me, n = jax.process_index(), jax.process_count()
    x, y = rows()
    last = slice(6 * me // n, 6 * (me + 1) // n)
    try:
        trainer = trainer_of(fn.data_parallel())
        result = trainer.fit([*batches(rows()), (x[last], y[last])], epochs=1)
        print("uneven:", result.last.step, flush=True)
    except ValueError as error:
        print("uneven:", error, flush=True)


def disputes(folder):
    """What one process alone is given, meets or wants."""
    me = jax.process_index()
    trainer, data = trainer_of(fn.data_parallel()), rows()

    def attempt(name, *args, trainer=trainer, **settings):
        try:
            result = trainer.fit(*args, **({"batch_size": B, "epochs": 3} | settings))
            words = f"{result.reason.name} after {len(result.history['loss'])}: {result.message}"
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
        print(f"{name}: {words}", flush=True)

    def stop(event):
        if me == 1 and event.epoch == 2:
            raise fn.StopTraining("enough")

    def fail(event):
        if me == 1 and event.epoch == 2:
            raise KeyError("mine")

    def press(event):
        if me == 1 and event.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    attempt("seed", data, seed=me)
    attempt("data", (data[0] + me, data[1]))
    attempt("shape", (data[0][: N - me], data[1][: N - me]))
    attempt("patience", data, stopping=fn.early_stopping("loss", patience=1 + me, min_delta=9.0))
    attempt("rate", data, trainer=trainer_of(fn.data_parallel(), 1e-2 * (1 + me)))
    attempt("refused", data, batch_size=B - me)
    attempt("stop", data, callbacks=[stop])
    attempt("error", data, callbacks=[fail])
    attempt("interrupt", data, callbacks=[press])
    attempt("shorter", batches(data)[: 4 - me], epochs=1)
    attempt("labels", [(x, y + 9 * me) for x, y in batches(data)], epochs=1)
    attempt("validation", data, validation=batches(data)[: 4 - me], epochs=1)
    attempt("alone", data, seed=me, trainer=trainer_of(None), epochs=1)
    if os.environ["FUNCNET_PROCESSES"] == "2":  # one file of two processes
        lines = fn.json_lines(Path(folder) / "together.jsonl")
        attempt("files", data, callbacks=[lines], progress=True)
        lines = fn.json_lines(Path(folder) / f"alone{me}.jsonl")
        attempt("own file", data, trainer=trainer_of(None), callbacks=[lines], epochs=1)


def sockets():
    """Addresses at which this process listens."""
    own = {os.readlink(f"/proc/self/fd/{fd}") for fd in open_files()}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and f"socket:[{rest[5]}]" in own:
                print("sockets:", local.split(":")[0], flush=True)


def open_files():
    """File descriptors of this process, those that have been closed meanwhile left out."""
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


def die(mark):
    """Process 1 fails before a fit, then kills itself within, and the third time is well."""
    first, second = Path(f"{mark}1"), Path(f"{mark}2")
    share("here")  # from the first exchange on JAX waits at its exit
    if jax.process_index() == 1 and not first.exists():
        first.touch()
        raise ValueError("before the fit")

    def killed(event):
        if jax.process_index() == 1 and event.epoch == 2 and not second.exists():
            second.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = trainer_of(fn.data_parallel())
    result = trainer.fit(rows(), epochs=3, batch_size=B, callbacks=[killed])
    print(f"die: {result.message}, {is_main()}", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    initialize()
    for task in sys.argv[2:]:
        name, _, argument = task.partition("=")
        globals()[name](*filter(None, [argument]))
