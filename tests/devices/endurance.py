"""Long runs on eight virtual devices, none of which may hang: `python -m tests.devices.endurance`.

Programs that wait for each other on virtual devices would wait for ever; each run has a limit of
time, after which the stacks of all threads are printed and the process ends.
"""

import argparse
import faulthandler
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn


def plain(x):
    return x


def convolved(x):
    """XLA's own convolution: steps with it are dispatched one by one."""
    return jax.lax.conv(x[:, None], jnp.ones((1, 1, 3), x.dtype), (1,), "SAME")[:, 0]


def train(placement, before, steps):
    """One run; gives the most programs that were in flight."""
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(1024, 16)).astype(np.float32)
    y = drawn.integers(0, 4, 1024)
    trainer = fn.Trainer(
        fn.sequential(
            before, fn.dense(32), fn.batch_norm(), jnp.tanh, fn.dropout(0.1), fn.dense(4)
        ),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adam(1e-3),
        placement=placement,
    )
    result = trainer.fit((x, y), validation=0.25, steps=steps, batch_size=16, progress=False)
    assert int(result.last.step) == steps
    return trainer.programs.flight.peak


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=300, help="seconds that a run may take")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    placements = [fn.data_parallel(), fn.fully_sharded(min_size=16), fn.pmapped()]
    began = time.perf_counter()
    for run in range(options.runs):
        placement = placements[run % 3]
        before = (plain, convolved)[run % 2]
        faulthandler.dump_traceback_later(options.limit, exit=True)
        peak = train(placement, before, options.steps)
        faulthandler.cancel_dump_traceback_later()
        assert peak <= 16, peak
        print(f"run {run + 1}: {options.steps} steps, {before.__name__}, at most {peak} in flight")
    print(f"{options.runs} runs without a hang, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
