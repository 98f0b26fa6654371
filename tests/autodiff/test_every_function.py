"""The law: `check_grads` passes on every differentiable public function, at order 2, in both modes.

To bring a function under it, add a row to `FUNCTIONS`; what can't pass stands in `EXEMPT`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.autodiff.checking import check_grads
from tests.models import ROWS, Row, example
from tests.nn.guests.rows import GUESTS


class Case(NamedTuple):
    """A function and where its derivatives are checked; made in x64."""

    f: Callable[..., Any]
    args: tuple[Any, ...]


EXEMPT: dict[str, str] = {}
"""Rows that the law spares, each with its reason."""

LEFT_OUT = {
    "linen": "its rules are Flax's",
    **dict.fromkeys(GUESTS, "its rules are another library's; nnx stops gradients through state"),
    "lstm-both": "one direction, in the row of lstm below, has its rules",
    "conv-1d": "conv-2d and conv-3d have its rules",
    "dense-no-bias": "dense has its rules",
    "conv_transpose-valid": "conv_transpose has its rules",
    "attention-dropout": "attention and dropout have its rules",
    "encoder_block-stack": "encoder_block and layer_stack have its rules",
    "layer_stack-batch": "layer_stack and batch_norm have its rules",
    "residual-shortcut": "residual has its rules",
    "sequential-named": "sequential has its rules",
}
"""Layers of the other laws that have no rule of their own here: each takes seconds to compile."""


def layer(row):
    """A layer in training, with a fixed key, as a function of its params, state and input."""

    def make():
        model = row.make()
        x = example(row._replace(shape=(min(row.shape[0], 3), *row.shape[1:])), jnp.float64)
        params, model_state = model.init(jax.random.key(0), x)

        def f(params, model_state, x):
            return model.apply(params, model_state, x, key=jax.random.key(1))

        return Case(f, (params, model_state, x))

    return make


def objective(loss, y, **settings):
    """An objective in training, as a function of its params and batch."""

    def make():
        model = fn.sequential(fn.dense(4), jnp.tanh, fn.batch_norm(), fn.dense(3))
        x = jax.random.normal(jax.random.key(0), (4, 2))
        params, model_state = model.init(jax.random.key(1), x)
        recipe = fn.objective(loss, **settings)
        trainer = fn.Trainer(model, objective=recipe, optimizer=optax.sgd(0.1))

        def f(params, x, y, weight):
            (total, size), _ = trainer.programs.objective(
                params, model_state, (x, y, weight), key=jax.random.key(2), training=True
            )
            return total / size

        return Case(f, (params, x, y, np.array([1.0, 0.5, 2.0, 0.3])))

    return make


LABELS = np.array([0, 2, 1, 1])
TARGETS = np.linspace(-1, 2, 12).reshape(4, 3)
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels

OBJECTIVES = {
    "plain": objective(cross_entropy, LABELS),
    "classes, smoothing": objective(
        cross_entropy, LABELS, class_weights=np.array([1.0, 2.0, 3.0]), label_smoothing=0.1
    ),
    "l1, l2": objective(optax.losses.squared_error, TARGETS, l1=0.1, l2={"0/*": 0.2}),
}

FUNCTIONS = {
    **{f"nn/{name}": layer(row) for name, row in ROWS.items() if name not in LEFT_OUT},
    "nn/lstm": layer(Row(lambda: fn.lstm(3), (2, 3, 2))),
    **{f"objective/{name}": make for name, make in OBJECTIVES.items()},
}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in EXEMPT])
def test_derivatives(name, x64):
    f, args = FUNCTIONS[name]()
    report = check_grads(f, *args, order=2)
    assert report.ok, f"{name}\n{report}"
    assert not [note for note in report.notes if note.startswith("no ")], report


@pytest.mark.parametrize("name", EXEMPT)
def test_the_exempt_are_rows_and_have_a_reason(name):
    assert name in FUNCTIONS
    assert EXEMPT[name]
