"""The public face, as an installed package shows it: run against the wheel too."""

import subprocess
import sys
from importlib.resources import files

import pytest

import funcnet as fn


def test_every_public_name_is_there():
    without_scikit_learn = "sklearn"  # it says what to install
    names = [name for name in fn.__all__ if name != without_scikit_learn]
    assert [name for name in names if not hasattr(fn, name)] == []


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="module 'funcnet' has no attribute 'losses'"):
        fn.losses  # noqa: B018 - the look-up is the test


def test_the_types_are_shipped():
    assert files("funcnet").joinpath("py.typed").is_file()


def test_import_loads_nothing_heavy():
    code = "import funcnet, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    heavy = {"orbax", "grain", "matplotlib", "flax", "sklearn", "pandas"}
    heavy |= {"tensorboardX", "treescope", "trackio", "wandb"}
    assert loaded & heavy == set()


def test_it_trains():
    import jax.numpy as jnp
    import optax

    x = jnp.linspace(-1, 1, 32)[:, None]
    trainer = fn.Trainer(fn.dense(1), loss=optax.losses.squared_error, optimizer=optax.sgd(0.5))
    result = trainer.fit((x, 2 * x + 1), epochs=20, batch_size=8)
    assert abs(float(trainer.predict(result.best, jnp.array([[3.0]]))[0, 0]) - 7) < 0.01
