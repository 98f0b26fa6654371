"""Overfits five points, and takes the error of polynomials apart: bias, variance and noise.

    python examples/bias_variance.py            about a minute
    python examples/bias_variance.py --short    three degrees, and fewer networks of each
    python examples/bias_variance.py --plan v5e:2x2    what a step takes on four chips of a TPU

A line and a polynomial of degree 6 through the same five points: the line, which has 2 params, is
as good on points that it has not seen; the polynomial, which has 7, goes through every point and is
far off between them. Then the same for many training sets: for degrees 1 to 6 a hundred fits each,
of which `fn.bias_variance` says how far they are off on the average, and how far apart. The
pictures are written into `out/`.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import funcnet as fn

jax.config.update("jax_enable_x64", True)  # powers of x are nearly dependent: 32 bits are too few

SHORT = "--short" in sys.argv
PLAN = sys.argv[-1] if "--plan" in sys.argv else None
DEGREES = [1, 3, 6] if SHORT else [1, 2, 3, 4, 5, 6]
REPEATS = 20 if SHORT else 100
OUT = Path("out")
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#666666"


def make_trainer(degree):
    """A weight for each power of x.

    All begin at 0, and no gradient leaves the space of the training points' powers: so of all the
    polynomials that fit them best, L-BFGS comes to the one with the smallest weights.
    """
    zeros = jax.nn.initializers.zeros
    return fn.Trainer(
        fn.sequential(
            lambda x: x ** jnp.arange(degree + 1),  # (B, 1) -> (B, degree + 1)
            fn.dense(1, bias=False, kernel_init=zeros),
        ),
        loss=optax.losses.squared_error,
        optimizer=optax.lbfgs(),
    )


# ------------------------------------------------------------------------------------ five points


def five_points():
    """Five training and five validation points about the line 4x + 1."""
    # the seed was chosen so that the errors come out as in a published picture
    rng = np.random.default_rng(16227)
    x, x_val = np.sort(rng.uniform(-1, 1, 5)), np.sort(rng.uniform(-1, 1, 5))
    y, y_val = (4 * each + 1 + 3 * rng.standard_normal(5) for each in (x, x_val))
    return [(each[:, None], values[:, None]) for each, values in ((x, y), (x_val, y_val))]


def clean(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(color="#BBBBBB", labelcolor=GREY, labelsize=9)
    axes.set_xlabel("x", color=GREY)


def head(axes, title, words, colors):
    """A title, and two numbers below it."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=20)
    for left, text, color in zip((0, 0.4), words, colors, strict=True):
        axes.text(left, 1.03, text, color=color, transform=axes.transAxes, fontsize=10)


if PLAN:
    x, y = (np.zeros((32, 1)) for _ in range(2))
    print(fn.plan(make_trainer(6), (x, y), topology=PLAN))
    sys.exit()

train, validation = five_points()
grid = np.linspace(-1, 1, 401)[:, None]
figure = Figure(figsize=(9.2, 4), layout="constrained")
panels = figure.subplots(1, 2, sharey=True)
print("five points         params   error on them   on five others   NumPy's lstsq")
for axes, degree, name in zip(panels, (1, 6), ("a line", "degree 6"), strict=True):
    trainer = make_trainer(degree)
    result = trainer.fit(train, epochs=100, batch_size=5, progress=False)
    errors = [trainer.evaluate(result.last, part)["loss"] for part in (train, validation)]

    powers = [x ** np.arange(degree + 1) for x, _ in (train, validation)]
    solution = np.linalg.lstsq(powers[0], train[1], rcond=None)[0]
    labels = train[1], validation[1]
    expected = [np.mean((a @ solution - y) ** 2) for a, y in zip(powers, labels, strict=True)]
    np.testing.assert_allclose(errors, expected, atol=1e-9)
    print(
        f"{name:18} {degree + 1:7} {errors[0]:15.2f} {errors[1]:16.2f}"
        f"     {expected[0]:.2f}, {expected[1]:.2f}"
    )

    clean(axes)
    axes.plot(grid, trainer.predict(result.last, grid), color="#222222", linewidth=1.6)
    axes.plot(grid, 4 * grid + 1, color=GREY, linewidth=1, linestyle=":")
    for (x, y), color, marker in ((train, BLUE, "o"), (validation, VERMILION, "s")):
        axes.plot(x, y, color=color, linestyle="none", marker=marker, markersize=7)
    axes.set_ylim(-8, 8)
    words = f"training error {errors[0]:.2f}", f"validation error {errors[1]:.2f}"
    head(axes, f"{name}, {degree + 1} params", words, (BLUE, VERMILION))
figure.suptitle(
    "Points about the dotted line. The seed was chosen to match a published picture.",
    x=0.01, ha="left", fontsize=9, color=GREY,
)  # fmt: skip
OUT.mkdir(exist_ok=True)
figure.savefig(OUT / "five_points.png", dpi=150)


# ------------------------------------------------------------------------------ bias and variance


def truth(x):
    return jnp.sin(3 * x + 1)


def sample(key):
    """A training set of 30 points, with noise of standard deviation 0.5."""
    x_key, noise_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (30, 1), minval=-1.0)
    return x, truth(x) + 0.5 * jax.random.normal(noise_key, x.shape)


x = (np.arange(200)[:, None] + 0.5) / 100 - 1  # the middles of 200 cells, as dense as the samples
found = fn.bias_variance(
    *(make_trainer, DEGREES, sample, x),
    truth=truth, noise=0.25, repeats=REPEATS, epochs=50, batch_size=30, progress=False,
)  # fmt: skip
print(f"\n{found}")
found.plot().savefig(OUT / "bias_variance.png", dpi=150)

# The fits themselves, with their mean: close together and wrong, or right on the average.
figure = Figure(figsize=(10.2, 3.6), layout="constrained")
panels = figure.subplots(1, 3, sharey=True)
for axes, degree in zip(panels, (1, 3, 6), strict=True):
    place = DEGREES.index(degree)
    fits = found.outputs[place][:, :, 0]  # (repeats, x)
    clean(axes)
    axes.plot(x, fits[:20].T, color=VERMILION, linewidth=0.8, alpha=0.35)
    axes.plot(x, truth(x), color=GREY, linewidth=1.6, linestyle=":")
    axes.plot(x, fits.mean(0), color=BLUE, linewidth=2)
    axes.set_ylim(-2.5, 2.5)
    bias, variance = found.bias_squared[place], found.variance[place]
    words = f"bias² {bias:z.2f}", f"variance {variance:.2f}"
    head(axes, f"degree {degree}", words, (BLUE, VERMILION))
figure.suptitle(
    f"Twenty fits, each to its own {len(sample(jax.random.key(0))[0])} points; the mean of all "
    f"{REPEATS} in blue, the truth dotted.",
    x=0.01, ha="left", fontsize=9, color=GREY,
)  # fmt: skip
figure.savefig(OUT / "polynomial_fits.png", dpi=150)
