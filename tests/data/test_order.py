"""The order of examples: a permutation, the same in NumPy and JAX, uniform, random in access.

The chi-square tests are deterministic (keys are fixed). A uniform order would fail one of them with
probability `ALPHA`, so all of them (about 30) with less than 1 %; the mutants fail by far.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from funcnet.data import batch_indices, locate, order, order_words, permute

ALPHA = 3e-4
SQUARES = [k * k + d for k in (20, 31, 100, 255, 256, 257, 999) for d in (-1, 0, 1)]
PRIMES = [1_009, 7_919, 65_537, 104_729, 999_983]
LARGE = [*SQUARES, *PRIMES, 1_000, 4_096, 60_000, 65_536, 999_999, 1_000_000]
HUGE = [2**24 + 1, 46_340**2, 46_340**2 + 1, 46_341**2 - 1, 2**31 - 1, 2**31]


@pytest.fixture(scope="module")
def words():
    return np.asarray(order_words(jax.random.key(7)))


def whole(words, epoch, n):
    return permute(words, [epoch], np.arange(n), n)


def epochs(words, count, n):
    """The orders of epochs `0 .. count-1`, one a row."""
    epoch = np.repeat(np.arange(count), n)
    return permute(words, epoch, np.tile(np.arange(n), count), n).reshape(count, n)


def p_value(counts, expected, freedom, factor=1.0):
    """Chance that a uniform order would give counts as far from `expected` as these, or farther."""
    return chi2.sf(factor * float(((counts - expected) ** 2 / expected).sum()), freedom)


def position_by_element(words, n, count=4_000):
    """The p-value of the table of elements by position.

    A row of the table is a sum of permutation matrices, whose entries (variance (n-1)/n^2) are tied
    by 2n-1 margins: (n-1)/n times the usual statistic is chi-square with (n-1)^2 degrees.
    """
    order = epochs(words, count, n)
    counts = np.zeros((n, n))
    np.add.at(counts, (np.arange(n)[None].repeat(count, 0), order), 1)
    return p_value(counts, count / n, (n - 1) ** 2, (n - 1) / n)


def whole_permutations(words, n):
    count = 200 * math.factorial(n)
    codes = epochs(words, count, n) @ n ** np.arange(n)
    _, counts = np.unique(codes, return_counts=True)
    counts = np.pad(counts, (0, math.factorial(n) - len(counts)))
    return p_value(counts, 200, math.factorial(n) - 1)


def successive_epochs(words, n, count=40_000):
    """The p-value of what stands first in two successive epochs, which never overlap here."""
    first = permute(words, np.arange(count), np.zeros(count, int), n).reshape(-1, 2)
    counts = np.bincount(first[:, 0] * n + first[:, 1], minlength=n * n)
    return p_value(counts, count / 2 / n**2, n * n - 1)


def test_every_small_n_gives_a_permutation(words):
    for n in range(1, 400):
        assert np.array_equal(np.sort(whole(words, 3, n)), np.arange(n)), n


@pytest.mark.parametrize("n", LARGE)
def test_a_large_n_gives_a_permutation(words, n):
    for epoch in (0, 2**32 - 1):
        assert (np.bincount(whole(words, epoch, n), minlength=n) == 1).all()


@pytest.mark.parametrize("n", HUGE)
def test_a_huge_n_gives_distinct_examples_in_range(words, n):
    position = np.concatenate([np.arange(50_000), np.arange(n - 50_000, n)])
    found = permute(words, [5], position, n)
    assert len(np.unique(found)) == len(position)
    assert found.max() < n
    assert abs(found.mean() / (n / 2) - 1) < 0.01  # 5 standard errors: 5 / sqrt(3 * 1e5) = 0.009


def test_the_grid_is_the_least_square_that_holds_n():
    roots = [*range(2, 300), 4_096, 46_340]
    n = np.array([root**2 + d for root in roots for d in (-1, 0, 1)])
    want = [math.isqrt(int(m) - 1) + 1 for m in n]
    assert order.ceil_sqrt(n.astype(np.uint32), np).tolist() == want
    huge = np.array(HUGE, np.uint32)
    assert order.ceil_sqrt(huge, np).tolist() == [math.isqrt(m - 1) + 1 for m in HUGE]


def agree_in_both(words):
    @jax.jit
    def traced(words, epoch, position, n):
        return permute(words, epoch, position, n, jnp)

    for n in [1, 2, 3, 10, *SQUARES[:3], *PRIMES, *HUGE]:
        position = (np.arange(64, dtype=np.int64) * 2_654_435_761 % n).astype(np.uint32)
        epoch = np.arange(64).astype(np.uint32) * np.uint32(67_108_859)
        found = traced(words, epoch, position, np.uint32(n))
        assert found.dtype == jnp.uint32
        assert np.array_equal(found, permute(words, epoch, position, n)), n
    assert traced._cache_size() == 1
    eager = permute(jnp.asarray(words), jnp.arange(5), jnp.arange(5), 100, jnp)
    assert np.array_equal(eager, permute(words, np.arange(5), np.arange(5), 100))


def test_numpy_and_jax_give_the_same_bits(words):
    agree_in_both(words)


def test_numpy_and_jax_give_the_same_bits_in_x64(words, x64):
    agree_in_both(words)


def test_a_batch_is_the_same_in_numpy_and_jax(words, x64):
    for shuffle in (True, False):
        traced = jax.jit(lambda w, k, n: batch_indices(w, k, 7, n, shuffle=shuffle, xp=jnp))  # noqa: B023 - it is called within this turn
        for n, step in [(1, 3), (5, 11), (1_000, 2**31 - 1), (2**31, 2**31 - 1)]:
            here = batch_indices(words, step, 7, n, shuffle=shuffle)
            assert here.dtype == np.uint32
            assert np.array_equal(traced(words, np.int32(step), np.uint32(n)), here)


@pytest.mark.parametrize("n", [2, 3, 7, 10, 16, 17, 50])
def test_each_element_is_as_likely_in_each_position(words, n):
    assert ALPHA < position_by_element(words, n) < 1 - ALPHA


@pytest.mark.parametrize("n", [3, 4, 5])
def test_each_permutation_is_as_likely(words, n):
    assert ALPHA < whole_permutations(words, n) < 1 - ALPHA


@pytest.mark.parametrize("n", [9, 30, 101])
def test_neighbours_are_any_distance_apart(words, n):
    count = 20_000
    for at in (0, n // 2, n - 2):
        pair = permute(words, np.repeat(np.arange(count), 2), np.tile([at, at + 1], count), n)
        apart = np.diff(pair.reshape(-1, 2).astype(int))[:, 0] % n
        counts = np.bincount(apart, minlength=n)
        assert counts[0] == 0
        assert ALPHA < p_value(counts[1:], count / (n - 1), n - 2) < 1 - ALPHA


@pytest.mark.parametrize("n", [5, 16, 40])
def test_successive_epochs_are_independent(words, n):
    assert ALPHA < successive_epochs(words, n) < 1 - ALPHA


def test_keys_are_independent():
    n, count = 11, 40_000
    some = np.random.default_rng(3).integers(0, 2**32, (2, count), dtype=np.uint32)
    for bit in (np.array([0, 1], np.uint32), np.array([2**31, 0], np.uint32)):
        some[:, 1::2] = some[:, ::2] ^ bit[:, None]  # neighbours differ in a single bit
        first = permute(some, [0], np.full(count, 4), n)[0].reshape(-1, 2)
        counts = np.bincount(first[:, 0] * n + first[:, 1], minlength=n * n)
        assert ALPHA < p_value(counts, len(first) / n**2, n * n - 1) < 1 - ALPHA


def test_the_chi_square_tests_see_a_network_of_too_few_rounds(words, monkeypatch):
    monkeypatch.setattr(order, "ROUNDS", 1)
    assert position_by_element(words, 10) < 1e-12
    assert whole_permutations(words, 5) < 1e-12


def test_the_chi_square_tests_see_a_key_without_the_epoch(words, monkeypatch):
    whole = permute

    def forgetful(words, epoch, position, n):
        return whole(words, np.zeros_like(epoch), position, n)

    monkeypatch.setitem(globals(), "permute", forgetful)
    assert successive_epochs(words, 16) < 1e-12
    assert position_by_element(words, 10) < 1e-12


@pytest.mark.parametrize("xp", [np, jnp])
def test_places_agree_with_exact_arithmetic(xp):
    rng = np.random.default_rng(0)
    cases = [(2**31 - 1, 2**20, 2**31), (2**31 - 1, 1, 2**31 - 1), (0, 5, 3), (2**31 - 1, 1_000, 1)]
    cases += [tuple(int(2 ** rng.uniform(0, 31)) for _ in range(3)) for _ in range(400)]
    run = locate if xp is np else jax.jit(lambda k, b, n: locate(k, b, n, jnp), static_argnums=1)
    for step, batch, n in cases if xp is np else [(k, 129, n) for k, _, n in cases]:
        epoch, position = run(np.uint32(step), batch, np.uint32(n))
        want = divmod(step * batch, n)
        assert (int(epoch[0]), int(position[0])) == (want[0] % 2**32, want[1]), (step, batch, n)


@pytest.mark.parametrize("xp", [np, jnp])
def test_a_batch_is_located_alike_where_the_number_of_examples_is_known(xp):
    rng = np.random.default_rng(1)
    known = [(60_000, 128), (1, 2**32 - 1), (2**16, 2**16 - 1), (2**31, 1), (7, 9)]
    for n, batch in known:
        assert n * batch < 2**32
        for step in (0, 1, n - 1, n, 2**31 - 1, *rng.integers(0, 2**31, 20 if xp is np else 2)):
            epoch, position = locate(np.uint32(step), batch, n, xp)
            want = divmod(int(step) * batch, n)
            assert (int(epoch[0]), int(position[0])) == (want[0] % 2**32, want[1]), (step, n)


@pytest.mark.parametrize(("n", "size"), [(12, 4), (7, 3), (5, 12), (5, 5), (1, 3), (6, 1), (3, 9)])
def test_batches_are_the_orders_of_the_epochs_in_a_row(words, n, size):
    steps = 3 * n
    batches = [batch_indices(words, k, size, n) for k in range(steps)]
    assert {len(batch) for batch in batches} == {size}
    orders = np.concatenate([whole(words, e, n) for e in range(steps * size // n + 1)])
    assert np.array_equal(np.concatenate(batches), orders[: steps * size])


@pytest.mark.parametrize(("n", "size"), [(7, 3), (5, 12), (1, 3)])
def test_without_shuffling_the_data_follow_each_other(words, n, size):
    batches = [batch_indices(words, k, size, n, shuffle=False) for k in range(20)]
    assert np.array_equal(np.concatenate(batches), np.arange(20 * size) % n)


def test_keys_and_epochs_have_orders_of_their_own(words):
    other = np.asarray(order_words(jax.random.key(8)))
    found = [whole(w, e, 100).tolist() for w in (words, other) for e in (0, 1, order.SPLIT)]
    assert len(set(map(tuple, found))) == 6
    assert whole(words, 1, 100).tolist() == found[1]


def test_the_words_of_a_key_do_not_depend_on_its_kind():
    new, old = order_words(jax.random.key(3)), order_words(jax.random.PRNGKey(3))
    assert new.dtype == jnp.uint32
    assert np.array_equal(new, old)
    assert order_words(jax.random.key(3, impl="rbg")).shape == (2,)
