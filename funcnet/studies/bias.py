"""The expected squared error taken apart: bias, variance and noise, over a range of sizes."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from funcnet import errors
from funcnet.data.arrays import rows
from funcnet.stopping import Reason, Stopping
from funcnet.studies import members
from funcnet.studies.decomposition import as_numbers, decompose, matched, mean_and_error
from funcnet.studies.members import Member, Way
from funcnet.studies.questions import Question, from_data, from_samples
from funcnet.studies.reports import as_table, in_columns
from funcnet.trainer.runs import as_maker, make_run
from funcnet.training.averaging import evaluated_params
from funcnet.types import TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from funcnet.trainer.trainer import Trainer


def bias_variance(
    make_trainer: "Callable[[Any], Trainer]",
    sizes: Iterable[Any],
    sample: Callable[[jax.Array], tuple[Any, Any]] | None = None,
    x: Any = None,
    *,
    truth: Callable[[Any], Any] | None = None,
    noise: Any = None,
    data: Any = None,
    test: Any = None,
    epochs: int,
    repeats: int = 100,
    output: Callable[[Any], Any] | None = None,
    batch_size: int = 32,
    shuffle: bool = True,
    stopping: Stopping | None = None,
    seed: int = 0,
    by: Way | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
) -> "BiasVariance":
    """Takes the expected squared error apart into bias², variance and noise, for models of sizes.

    For each size `repeats` networks are trained, each on a training set and from initial params of
    its own; those of another size get the same sets. With `f` the trained network, at a test input,

        E (y - f)² = (E f - truth)² + E (f - E f)² + E (y - truth)²
                   = bias² + variance + noise,

    the expectation being over training sets, initial params, orders and the noise of `y`. All is
    averaged over the test inputs, and over the further axes of outputs, as a trainer's loss is.
    The estimates are unbiased: the variance is divided by `repeats - 1`, and a `repeats`-th of it
    is taken off the square of the mean's distance from the truth, so that a bias² near 0 may come
    out below it.

    It holds for the squared error alone, that of class probabilities among them: with
    `output=jax.nn.softmax`, labels that are whole numbers are made one-hot (the sum over the
    classes, not their average, is Brier's score).

    Give either a known truth, `sample`, `x` and `truth`; or `data` and `test`, when each network
    trains on a bootstrap resample of `data`, and bias² and noise come as one number, for what is
    no noise can't be known from one `y` for each `x`.

    Args:
        make_trainer: `make_trainer(size) -> trainer`.
        sizes: what it is given, one after the other: numbers of units or layers, degrees. Each is
            compiled once.
        sample: `sample(key) -> (x, y)`, a fresh training set; it is mapped over keys.
        x: the inputs at which bias and variance are measured: many, spread as those of `sample`.
        truth: `truth(x)`, the mean of `y` where the input is `x`.
        noise: the variance of `y` about the truth, a number or a function of `x`; measured on fresh
            samples unless given.
        data: `(x, y)` or `(x, y, weight)`, to take resamples of.
        test: `(x, y)` to measure on.
        epochs: the most epochs a network; its state at the end counts.
        repeats: networks of each size.
        output: makes of a model's outputs what is compared with `y`; the identity unless given.
        batch_size: examples a batch.
        shuffle: whether each epoch has an order of its own.
        stopping: when to stop a training before, by its training loss.
        seed: what all randomness comes from.
        by: `"loop"`, one network after the other, or `"vmap"`; `None` takes what is faster here.
        at_once: networks at once under `"vmap"`; as many as memory holds, unless given.
        progress: whether to show a bar; `None` means in a terminal.

    Returns:
        The parts for each size, with standard errors, and the error measured on fresh samples, at
        least as many examples a network as `x` holds, or on `test`.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Source:
        Geman, Bienenstock and Doursat, "Neural Networks and the Bias/Variance Dilemma", 1992;
        Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 7.3. Standard
        errors by the jackknife over the repeats.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> def make_trainer(degree):
        ...     powers = lambda x: x ** jnp.arange(1, degree + 1)
        ...     return fn.Trainer(
        ...         fn.sequential(powers, fn.dense(1)),
        ...         loss=optax.losses.squared_error,
        ...         optimizer=optax.sgd(0.5),
        ...     )
        >>> def truth(x):
        ...     return x**2
        >>> def sample(key):
        ...     x_key, y_key = jax.random.split(key)
        ...     x = jax.random.uniform(x_key, (20, 1), minval=-1.0)
        ...     return x, truth(x) + 0.1 * jax.random.normal(y_key, x.shape)
        >>> x = jnp.linspace(-1, 1, 41)[:, None]
        >>> found = fn.bias_variance(
        ...     make_trainer, [1, 2], sample, x, truth=truth, noise=0.01, repeats=10, epochs=100
        ... )
        >>> abs(found.bias_squared).round(1).tolist()  # that of a line is 4 / 45
        [0.1, 0.0]
    """
    errors.positive("bias_variance", repeats=repeats)
    if repeats < 3:
        raise ValueError(
            f"`bias_variance`: repeats must be 3 or more, got {repeats}: two for a variance, and "
            "one more for its error. Take 100."
        )
    sizes = check_sizes(sizes)
    keys = members.keys(seed, repeats)
    if data is None:
        question = from_samples(keys, sample, x, truth, noise, test)
    else:
        question = from_data(
            keys, data, test, {"sample": sample, "x": x, "truth": truth, "noise": noise}
        )
    make, found = as_maker("bias_variance", make_trainer), []
    for size in sizes:
        trainer = make(size)
        run = make_run(
            trainer, epochs=epochs, batch_size=batch_size, shuffle=shuffle, stopping=stopping
        )
        trained = members.train(
            *(run, Member(keys, rows=question.rows), question.data),
            by=by,
            at_once=at_once,
            progress=progress,
        )
        found.append(answer(trainer, trained, question, output))
    return collected(sizes, repeats, found)


class Answer(NamedTuple):
    """What has come out for one size: numbers with their standard errors, by name."""

    parts: dict[str, tuple[float, float]]
    outputs: np.ndarray
    broken: int


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BiasVariance:
    """The expected squared error of networks of several sizes, taken apart.

    Attributes:
        sizes: what was given to `make_trainer`.
        repeats: networks of each size.
        parts: float64[sizes] by name: `bias_squared`, or `bias_squared_and_noise` where they can't
            be told apart; `variance`; `noise`, if known; `total`, their sum; `measured`, the mean
            squared error on examples that no network has seen.
        standard_error: of the same names.
        outputs: for each size the outputs at the test inputs, `[repeats, examples, ...]`.
        broken: int[sizes], trainings that ended since a loss or a param was not finite; their
            outputs count all the same.
    """

    sizes: list[Any]
    repeats: int
    parts: dict[str, np.ndarray]
    standard_error: dict[str, np.ndarray]
    outputs: list[np.ndarray]
    broken: np.ndarray

    @property
    def bias_squared(self) -> np.ndarray:
        """Bias² for each size, the noise included where it can't be told apart."""
        both = self.parts.get("bias_squared_and_noise")
        return self.parts["bias_squared"] if both is None else both

    @property
    def variance(self) -> np.ndarray:
        """The variance for each size."""
        return self.parts["variance"]

    @property
    def noise(self) -> np.ndarray | None:
        """The noise, the same for all sizes; None where it is part of `bias_squared`."""
        return self.parts.get("noise")

    @property
    def total(self) -> np.ndarray:
        """The sum of the parts for each size."""
        return self.parts["total"]

    @property
    def measured(self) -> np.ndarray:
        """The mean squared error on unseen examples for each size."""
        return self.parts["measured"]

    def table(self) -> Any:
        """A row for each size: a pandas DataFrame where pandas is installed, else dicts."""
        columns: dict[str, Any] = {"size": self.sizes}
        for name, values in self.parts.items():
            columns |= {name: values, f"{name}_error": self.standard_error[name]}
        return as_table(columns)

    def plot(self) -> "Figure":
        """Draws the parts and their sum over the sizes, with the measured error as dots."""
        from funcnet.studies.curve_plots import draw_bias_variance

        return draw_bias_variance(self)

    def __repr__(self) -> str:
        names = {name: name.replace("_squared", "²").replace("_", " ") for name in self.parts}
        columns = [["size", *map(str, self.sizes)]]
        columns += [[names[name], *map("{:.4g}".format, v)] for name, v in self.parts.items()]
        lines = in_columns(columns)
        head = f"BiasVariance of {len(self.sizes)} sizes, {self.repeats} trainings each"
        lines += [
            f"  {broken} trainings of size {size} broke off: a loss or a param was not finite"
            for size, broken in zip(self.sizes, self.broken, strict=True)
            if broken
        ]
        return "\n".join([head, *lines])


def answer(trainer: Any, trained: Any, question: Question, output: Any) -> Answer:
    """The parts of the error of one size."""

    def predict(state: TrainState, x: Any) -> Any:
        y_pred, _ = trainer.model.apply(evaluated_params(state), state.model_state, x)
        return y_pred if output is None else output(y_pred)

    @jax.jit
    def both(states: TrainState, fresh_x: Any) -> Any:
        def of(member: Any) -> Any:
            state, own = member
            return predict(state, question.x), None if own is None else predict(state, own)

        return jax.lax.map(of, (states, fresh_x))

    outputs, tested, broken = [], [], 0
    for which, runs in trained:
        fresh = None if question.fresh is None else rows(question.fresh[:2], which)
        at_x, at_fresh = both(runs.last, None if fresh is None else fresh[0])
        outputs += list(as_numbers(at_x))
        broken += int((np.asarray(runs.reason) == Reason.NON_FINITE).sum())
        if fresh is not None:
            gaps = zip(as_numbers(at_fresh), fresh[1], strict=True)
            tested += [np.mean((y_pred - matched(y, y_pred)) ** 2) for y_pred, y in gaps]
    found = np.stack(outputs)
    parts = decompose(found, matched(question.target, found[0]), question.noise)
    parts["measured"] = mean_and_error(tested) if tested else parts["total"]
    return Answer(parts, found, broken)


def collected(sizes: list[Any], repeats: int, found: list[Answer]) -> BiasVariance:
    """The answers of all sizes as one value."""
    both = {name: np.array([each.parts[name] for each in found]) for name in found[0].parts}
    return BiasVariance(
        sizes=sizes,
        repeats=repeats,
        parts={name: values[:, 0] for name, values in both.items()},
        standard_error={name: values[:, 1] for name, values in both.items()},
        outputs=[each.outputs for each in found],
        broken=np.array([each.broken for each in found]),
    )


def check_sizes(sizes: Any) -> list[Any]:
    """The sizes as a list, or an error."""
    if isinstance(sizes, str | int) or not hasattr(sizes, "__iter__") or not (each := list(sizes)):
        raise TypeError(
            f"`bias_variance`: sizes must be a list of one or more, got {errors.describe(sizes)}. "
            "Each is given to make_trainer: `[1, 4, 16]` say."
        )
    return [size.item() if isinstance(size, np.generic) else size for size in each]
