"""Masks on logits against numpy, and draws against the softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from funcnet.inference import top_k, top_p
from funcnet.inference.sampling import Draw, draw

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 9)).astype(np.float32) * 2
TIED = RNG.integers(-1, 2, (6, 9)).astype(np.float32)


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def first_k(row, k):
    return set(sorted(range(len(row)), key=lambda i: (-row[i], i))[:k])


def nucleus(row, p):
    """The smallest set of the likeliest tokens with mass p, and how far p is from a tie."""
    chance = softmax(row)
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    mass = np.cumsum(chance[order])
    size = int((mass < p).sum()) + 1
    return set(order[:size]), np.abs(mass[:-1] - p).min()


def kept(logits):
    return [set(np.flatnonzero(np.isfinite(row))) for row in np.asarray(logits)]


@pytest.mark.parametrize("logits", [LOGITS, TIED], ids=["distinct", "tied"])
def test_top_k_keeps_the_first_k_of_a_stable_order(logits):
    masked = jax.jit(top_k)
    for k in range(1, 11):
        found = masked(logits, k)
        assert kept(found) == [first_k(row, k) for row in logits]
        assert bool(((found == logits) | (found == -np.inf)).all())
    assert masked._cache_size() == 1


@pytest.mark.parametrize("logits", [LOGITS, TIED], ids=["distinct", "tied"])
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits):
    masked, tried = jax.jit(top_p), 0
    for p in np.linspace(0.03, 0.97, 41):
        found = kept(masked(logits, p))
        for row, got in zip(logits, found, strict=True):
            want, distance = nucleus(row, p)
            if distance > 1e-5:  # else float32 may round the sum to either side of p
                tried += 1
                assert got == want
    assert tried > 200
    assert masked._cache_size() == 1


@pytest.mark.parametrize(("p", "size"), [(0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (1, 4)])
def test_of_equal_chances_the_first_are_kept(p, size):
    assert kept(top_p(jnp.zeros((1, 4)), p)) == [set(range(size))]  # quarters are exact


def test_of_many_equal_ones_the_first_are_kept_too():
    assert kept(top_k(jnp.zeros((1, 500)), 200)) == [set(range(200))]


def test_all_of_the_mass_keeps_what_has_next_to_none():
    logits = jnp.array([0.0, -90.0, 3.0, -200.0])
    assert top_p(logits, 1.0).tolist() == logits.tolist()
    assert top_p(logits, jnp.float32(1)).tolist() == logits.tolist()
    assert top_p(logits, 0).tolist() == [-np.inf, -np.inf, 3.0, -np.inf]


@pytest.mark.parametrize(("mask", "value"), [(top_k, 1), (top_p, 0.0)])
def test_nan_stays_to_be_seen_and_dtypes_are_kept(mask, value):
    found = mask(jnp.array([[1.0, jnp.nan, 2.0], [3.0, 1.0, 2.0]], jnp.bfloat16), value)
    assert found.dtype == jnp.bfloat16
    assert np.isnan(np.float32(found)).tolist() == [[False, True, False], [False] * 3]
    assert kept(found[1:]) == [{0}]


def test_masks_map_over_rows():
    for mask, value in ((top_k, 3), (top_p, 0.6)):
        each = jax.vmap(mask, (0, None))(LOGITS, value)
        np.testing.assert_array_equal(each, mask(LOGITS, value))


def how(rows, seed=0, temperature=1.0, k=None, p=None):
    keys = jax.random.split(jax.random.key(seed), rows)
    return Draw(keys, *(None if v is None else jnp.asarray(v) for v in (temperature, k, p)))


LIKELY = np.array([1.2, -0.3, 0.4, 0.9, -1.5, 0.1, -0.2], np.float32)
N = 4000


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, range(7)),
        ({"temperature": 0.6}, range(7)),
        ({"temperature": 2.5, "k": 4}, first_k(LIKELY, 4)),
        ({"p": 0.8}, nucleus(LIKELY, 0.8)[0]),
        ({"k": 5, "p": 0.7}, nucleus(np.where(LIKELY > -0.25, LIKELY, -np.inf), 0.7)[0]),
    ],
    ids=str,
)
def test_draws_come_as_often_as_the_softmax_says(settings, left):
    rows = jnp.broadcast_to(jnp.asarray(LIKELY), (N, 7))
    drawn = jax.jit(draw)(how(N, **settings), rows, jnp.zeros(N, jnp.int32))
    left = sorted(left)
    assert set(np.unique(drawn)) == set(left)
    chance = softmax(LIKELY[left] / settings.get("temperature", 1.0))
    counts = np.bincount(np.asarray(drawn), minlength=7)[left]
    assert stats.chisquare(counts, N * chance).pvalue > 0.01


def test_each_turn_and_each_key_draw_anew():
    rows = jnp.zeros((N, 7))
    first, second = (draw(how(N), rows, jnp.full(N, t, jnp.int32)) for t in (0, 1))
    other = draw(how(N, seed=1), rows, jnp.zeros(N, jnp.int32))
    for found in (second, other):
        table = np.zeros((7, 7))
        np.add.at(table, (np.asarray(first), np.asarray(found)), 1)
        assert stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"temperature": 2e-38}, {"k": 1}, {"p": 0.0}], ids=str
)
def test_what_leaves_one_token_is_greedy(settings):
    turn = jnp.arange(6, dtype=jnp.int32)
    for logits in (LOGITS, 1e4 * LOGITS, TIED):
        if "temperature" in settings and logits is TIED and settings["temperature"] > 0:
            continue  # the lowest of temperatures still draws among equals
        got = draw(how(6, **settings), jnp.asarray(logits), turn)
        np.testing.assert_array_equal(got, logits.argmax(-1))


REFUSED = {
    "k = 0": (
        lambda: top_k(LOGITS, 0), ValueError,
        "`top_k`: k must be a positive whole number, got 0. Leave it out to keep all tokens."),
    "k = 2.5": (
        lambda: top_k(LOGITS, 2.5), TypeError,
        "`top_k`: k must be a positive whole number, got 2.5. Leave it out to keep all tokens."),
    "k = True": (
        lambda: top_k(LOGITS, True), TypeError,
        "`top_k`: k must be a positive whole number, got True. Leave it out to keep all tokens."),
    "k for each row": (
        lambda: top_k(LOGITS, jnp.ones(6, int)), ValueError,
        "`top_k`: k must be a positive whole number, got int32[6]. Leave it out to keep all "
        "tokens."),
    "p = 1.5": (
        lambda: top_p(LOGITS, 1.5), ValueError,
        "`top_p`: p must be a number in 0 .. 1, got 1.5. It is the mass that is kept: 0.9 say."),
    "p = nan": (
        lambda: top_p(LOGITS, float("nan")), ValueError,
        "`top_p`: p must be a number in 0 .. 1, got nan. It is the mass that is kept: 0.9 say."),
    "p in words": (
        lambda: top_p(LOGITS, "0.9"), TypeError,
        "`top_p`: p must be a number in 0 .. 1, got '0.9'. It is the mass that is kept: 0.9 say."),
    "tokens in place of logits": (
        lambda: top_k(jnp.arange(3), 1), TypeError,
        "`top_k`: logits must be floats with the tokens along the last axis, got int32[3]. Give "
        "what the model gives, or `jnp.log(p)`."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_words_of_errors(case):
    act, kind, words = REFUSED[case]
    with pytest.raises(kind) as caught:
        act()
    assert str(caught.value) == words
