"""What the outputs of several members say together: pure functions of `outputs[n, N, ...]`."""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax.scipy.special import entr, logsumexp

from funcnet import errors
from funcnet.types import PyTree

Reading: TypeAlias = Literal["softmax", "sigmoid", "identity"]
"""How outputs become probabilities; "identity" where they are plain numbers."""

READINGS: tuple[Reading, ...] = get_args(Reading)

BY_LOSS: dict[str, Reading] = {
    "softmax": "softmax",
    "poly_loss_cross_entropy": "softmax",
    "sigmoid": "sigmoid",
}
"""What a word in the name of a loss says about the outputs that it takes."""


class Entropies(NamedTuple):
    """What is uncertain about predictions, in nats: `predictive = mean + disagreement`.

    Attributes:
        predictive: the entropy of the mean of the members' probabilities.
        mean: the mean of the members' own entropies: what the data leave open.
        disagreement: the mutual information of label and member: what more data could settle.
    """

    predictive: jax.Array
    mean: jax.Array
    disagreement: jax.Array


def reading_of(loss: Any, given: Any) -> Reading:
    """How outputs are read: as it was said, or else as the name of the loss tells.

    Raises:
        ValueError: what was said is none of the three.
    """
    if given is None:
        name = getattr(getattr(loss, "func", loss), "__name__", "")  # of a partial, its function
        return next((reading for word, reading in BY_LOSS.items() if word in name), "identity")
    if given not in READINGS:
        raise ValueError(
            "`ensemble`: probabilities must be 'softmax', 'sigmoid' or 'identity', "
            f"got {given!r}. {errors.did_you_mean(str(given), READINGS)}"
        )
    found: Reading = given
    return found


def log_probabilities(reading: Reading, outputs: jax.Array) -> jax.Array:
    """The logarithms of the probabilities of each class, of two for a binary logit."""
    if reading == "softmax":
        return jax.nn.log_softmax(outputs)
    return jnp.stack([jax.nn.log_sigmoid(-outputs), jax.nn.log_sigmoid(outputs)], axis=-1)


def log_mean(logs: jax.Array, shares: jax.Array | None) -> jax.Array:
    """The logarithm of the mean over members of what `logs[n, N, ...]` are logarithms of."""
    return logsumexp(logs, axis=0, b=1 / len(logs) if shares is None else aligned(shares, logs))


def pool(reading: Reading, outputs: PyTree, shares: jax.Array | None = None) -> PyTree:
    """The mean prediction in the form of an output, as the loss and the metrics take it.

    Plain numbers are averaged; of classes the probabilities are, and given as their logarithms,
    whose softmax (or sigmoid, of a binary logit) is the mean of probabilities.

    Args:
        reading: how the outputs are read.
        outputs: `[n, N, ...]`.
        shares: `[n, N]`, how much each member counts for each example, with sum 1; all alike
            unless given.
    """
    if reading == "identity":
        return jax.tree.map(lambda leaf: mean(leaf, shares), outputs)
    logs = log_mean(log_probabilities(reading, outputs), shares)
    return logs if reading == "softmax" else logs[..., 1] - logs[..., 0]


def mean(leaf: jax.Array, shares: jax.Array | None) -> jax.Array:
    """The mean over members, by their shares."""
    return leaf.mean(0) if shares is None else (aligned(shares, leaf) * leaf).sum(0)


def aligned(shares: jax.Array, leaf: jax.Array) -> jax.Array:
    """`shares[n, N]` with axes of length 1 for all others of `leaf[n, N, ...]`."""
    return jnp.expand_dims(shares, tuple(range(2, leaf.ndim)))


def probabilities(reading: Reading, outputs: PyTree) -> PyTree:
    """Outputs as probabilities: of each class, or of label 1; plain numbers as they are."""
    if reading == "identity":
        return outputs
    return jax.nn.softmax(outputs) if reading == "softmax" else jax.nn.sigmoid(outputs)


def votes(reading: Reading, outputs: jax.Array) -> jax.Array:
    """The label that most members give, int32[N, ...]; of several the lowest."""
    binary = reading == "sigmoid"
    label = (outputs > 0).astype(jnp.int32) if binary else outputs.argmax(-1)
    classes = 2 if binary else outputs.shape[-1]
    return jax.nn.one_hot(label, classes, dtype=jnp.int32).sum(0).argmax(-1).astype(jnp.int32)


def entropies(reading: Reading, outputs: jax.Array) -> Entropies:
    """What is uncertain about each prediction."""
    logs = log_probabilities(reading, outputs)
    predictive = entr(jnp.exp(log_mean(logs, None))).sum(-1)
    own = entr(jnp.exp(logs)).sum(-1).mean(0)
    return Entropies(predictive, own, jnp.maximum(predictive - own, 0))  # below 0 by rounding only
