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


EXEMPT = {
    "autodiff/eigenvalues": "eigenvectors are constants to it: its first derivative alone is right",
    "autodiff/straight_through": "its derivative is meant to be another function's",
    "autodiff/reverse_gradient": "its derivative is meant to be the negative",
    "autodiff/clip_gradient": "its derivative is meant to be clipped, and is of reverse mode only",
    "autodiff/score_function": "its value is a mean of samples, its derivative that of expectation",
}
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

IMAGE = (5, 4, 3)
AUGMENTATIONS = {
    "affine": fn.augmentation.affine(degrees=20, scale=(0.8, 1.2), shear=10, shift=1),
    "crop": fn.augmentation.crop(1),
    "flip": fn.augmentation.flip(),
    "color": fn.augmentation.color(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.1),
    "noise": fn.augmentation.noise(0.1),
    "cutout": fn.augmentation.cutout(2),
    "mixup": lambda key, x: fn.augmentation.mixup(0.5)(key, x)[0],
}


def changed(f):
    """An augmentation with a fixed key, as a function of its image."""

    def make():
        x = jax.random.uniform(jax.random.key(0), IMAGE)
        return Case(lambda x: f(jax.random.key(1), x), (x,))

    return make


def bowl(x, a):
    """A convex function of two numbers."""
    return jnp.log(jnp.exp(x).sum() + jnp.exp(-a * x).sum()) + (x**2).sum()


def square(x, a):
    """Three outputs of two numbers."""
    return jnp.array([x[0] ** 2 * x[1], jnp.sin(a * x[0]), x[1] ** 3])


ad = fn.autodiff
X, A = np.array([0.3, -0.6]), 0.7
BATCH = np.array([[0.2, 0.4], [0.5, -0.3], [-0.1, 0.8]])


def example_loss(x, example):
    return jnp.tanh((x * example).sum()) ** 2 + (x**3).sum()


DERIVATIVES = {
    "value_and_grad": lambda x, a: ad.value_and_grad(bowl)(x, a),
    "hvp": lambda x, a: ad.hvp(bowl, x, 2 * x, a),
    "gauss_newton_vp": lambda x, a: ad.gauss_newton_vp(square, lambda y: (y**4).sum(), x, x, a),
    "fisher_vp": lambda x, a: ad.fisher_vp(lambda x: square(x, a)[None], "categorical", x, x),
    "jvps": lambda x, a: ad.jvps(square, x, jnp.stack([x, x**2]), a),
    "vjps": lambda x, a: ad.vjps(square, x, jnp.ones((2, 3)), a),
    "jacobian": lambda x, a: ad.jacobian(square, x, a),
    "hessian": lambda x, a: ad.hessian(bowl, x, a),
    "trace": lambda x, a: ad.trace(ad.hessian_operator(bowl, x, a)),
    "eigenvalues": lambda x, a: (
        ad.eigenpairs(ad.hessian_operator(bowl, x, a), 1, key=jax.random.key(0)).eigenvalues
    ),
    "laplacian": lambda x, a: ad.laplacian(bowl, x, a),
    "per_example_norms": lambda x, a: ad.per_example_norms(example_loss, x, a * BATCH),
    "gram": lambda x, a: ad.gram(example_loss, x, a * BATCH),
    "clipped_sum": lambda x, a: ad.clipped_sum(example_loss, x, a * BATCH, norm=0.5).grads,
    "taylor": lambda x, a: ad.taylor(bowl, x, jnp.ones(2), 3, a),
    "nth_derivative": lambda x, a: ad.nth_derivative(lambda t: jnp.sin(t * a), 3)(x[0]),
    "partial": lambda x, a: ad.partial(lambda t, s: jnp.sin(t * s * a), "t", "s")(x[0], x[1]),
    "root": lambda x, a: ad.root(lambda z, x, a: z**3 + z - a * x, 0.1 * X, x, a),
    "fixed_point": lambda x, a: ad.fixed_point(lambda z, x, a: 0.3 * jnp.sin(z) + a * x, X, x, a),
    "argmin": lambda x, a: ad.argmin(lambda z, x, a: bowl(z - x, a), X, x, a),
    "linear_solve": lambda x, a: ad.linear_solve(lambda v: (1 + a**2) * v + v[::-1], x),
    "unrolled": lambda x, a: ad.unrolled(lambda z, a: jnp.sin(a * z), x, 5, a),
    "remat": lambda x, a: ad.remat(bowl)(x, a),
    "stop_gradient": lambda x, a: ad.stop_gradient({"x": x, "c": 1.0}, "c")["x"] * a,
    "straight_through": lambda x, a: ad.straight_through(jnp.round)(x * a),
    "reverse_gradient": lambda x, a: ad.reverse_gradient(x * a),
    "clip_gradient": lambda x, a: ad.clip_gradient(x * a, norm=0.1),
    "score_function": lambda x, a: ad.score_function(
        lambda z: (z**2).sum(),
        lambda key, x: jax.random.normal(key, (2,)) + jax.lax.stop_gradient(x),
        lambda x, z: -((z - x) ** 2).sum() / 2,
        samples=4,
    )(x * a, key=jax.random.key(0)),
}

FUNCTIONS = {
    **{f"nn/{name}": layer(row) for name, row in ROWS.items() if name not in LEFT_OUT},
    "nn/lstm": layer(Row(lambda: fn.lstm(3), (2, 3, 2))),
    **{f"objective/{name}": make for name, make in OBJECTIVES.items()},
    **{f"augmentation/{name}": changed(f) for name, f in AUGMENTATIONS.items()},
    **{f"autodiff/{name}": lambda f=f: Case(f, (X, A)) for name, f in DERIVATIVES.items()},
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
