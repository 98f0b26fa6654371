"""Data in memory: checked, split by a key, padded for evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.data import examples, order_words, permute, staged
from funcnet.data.arrays import check_columns, pad, split
from funcnet.data.blocks import Resident, gather_block, group, look_ahead, take, to_block

N = 20
X, Y = np.arange(3 * N, dtype=np.float32).reshape(N, 3), np.arange(N, dtype=np.int32)


def words(raised):
    return str(raised.value)


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.8, 0.949])
def test_a_split_is_disjoint_and_complete_and_keeps_the_order(fraction):
    (x, y), (xv, yv) = split("fit", (X, Y), fraction, jax.random.key(1))
    assert len(yv) == round(N * fraction)
    assert sorted([*y, *yv]) == list(range(N))
    assert (np.diff(y) > 0).all()
    assert (np.diff(yv) > 0).all()
    assert np.array_equal(x, X[y])
    assert np.array_equal(xv, X[yv])


def test_a_split_depends_on_the_key_alone():
    held = [split("fit", (X, Y), 0.5, jax.random.key(k))[1][1].tolist() for k in (0, 0, 1, 2)]
    assert held[0] == held[1]
    assert len(set(map(tuple, held))) == 3


def test_a_split_draws_every_example_alike():
    times = np.zeros(N)
    for k in range(300):
        times[split("fit", (X, Y), 0.25, jax.random.key(k))[1][1]] += 1
    # 75 each, with a standard deviation of sqrt(300 * 0.25 * 0.75) = 7.5; 4 of them are 30
    assert np.abs(times - 75).max() < 30


def test_a_split_is_no_epoch_s_beginning():
    key = jax.random.key(3)
    _, (_, held) = split("fit", (X, Y), 0.5, key)
    orders = [permute(np.asarray(order_words(key)), [e], np.arange(N), N)[:10] for e in range(50)]
    assert not any(sorted(first.tolist()) == held.tolist() for first in orders)


def test_a_split_takes_trees_weights_and_jax_arrays():
    data = ({"a": jnp.asarray(X), "b": X}, (Y, Y), np.ones(N))
    kept, held = split("fit", check_columns("fit", data), 0.2, jax.random.key(0))
    assert [leaf.shape for leaf in jax.tree.leaves(held)] == [(4, 3), (4, 3), (4,), (4,), (4,)]
    assert np.array_equal(held[0]["a"], held[0]["b"])
    assert examples(kept) == 16


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, -0.5, float("nan"), float("inf")])
def test_a_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(ValueError, match="fraction") as raised:
        split("fit", (X, Y), fraction, jax.random.key(0))
    assert words(raised) == (
        "`fit`: validation must lie between 0 and 1 where it is a fraction, "
        f"got {fraction!r}. Give the share of the examples to hold out, or the data itself as a "
        "tuple."
    )


@pytest.mark.parametrize(("fraction", "held"), [(0.01, 0), (0.99, 20)])
def test_a_fraction_leaves_examples_on_both_sides(fraction, held):
    with pytest.raises(ValueError, match="both sides") as raised:
        split("fit", (X, Y), fraction, jax.random.key(0))
    assert words(raised) == (
        f"`fit`: validation={fraction} must leave examples on both sides, got {held} of 20 for "
        "validation. Give another fraction, or the data itself as a tuple."
    )


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(("size", "length"), [(1, 20), (8, 24), (20, 20), (64, 64)])
def test_padding_repeats_the_last_example_with_weight_0(xp, size, length):
    x, y, weight = pad((xp.asarray(X), xp.asarray(Y)), size)
    assert len(x) == len(y) == len(weight) == length
    assert np.array_equal(x[:N], X)
    assert (np.asarray(x[N:]) == X[-1]).all()
    assert (np.asarray(y[N:]) == Y[-1]).all()
    assert weight.dtype == np.int32
    assert weight.tolist() == [1] * N + [0] * (length - N)
    assert isinstance(x, jax.Array) == (xp is jnp)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, bool])
def test_padding_keeps_the_dtype_of_the_weight(dtype):
    weight = pad((X, Y, np.ones(N, dtype)), 8)[2]
    assert weight.dtype == dtype
    assert weight.tolist() == [1] * N + [0] * 4


DTYPES = [(np.float64, "float32"), (np.int64, "int32"), (np.uint64, "uint32"), (np.uint8, "uint8"),
          (np.float16, "float16"), (bool, "bool"), (jnp.bfloat16, "bfloat16")]  # fmt: skip


@pytest.mark.parametrize(("dtype", "own"), DTYPES)
def test_columns_come_in_the_dtypes_of_jax(dtype, own):
    x, y = check_columns("fit", (np.ones((2, 1), dtype), np.ones(2, dtype)))
    assert (x.dtype, y.dtype) == (own, own)


def test_64_bits_stay_in_x64(x64):
    x, y = check_columns("fit", (np.ones((2, 1)), np.full(2, 2**40)))
    assert (x.dtype, y.dtype, int(y[0])) == (np.float64, np.int64, 2**40)


def test_data_of_jax_dtypes_are_not_copied():
    x, y = check_columns("fit", (X, Y))
    assert np.shares_memory(x, X)
    assert np.shares_memory(y, Y)


@pytest.mark.parametrize(
    "x", [[[1.0, 2.0], [3.0, 4.0]], [(1.0, 2.0), (3.0, 4.0)], np.array([[1.0, 2.0], [3.0, 4.0]])]
)
def test_lists_of_numbers_are_arrays(x):
    found, y = check_columns("fit", (x, [0, 1]))
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2], [3, 4]]
    assert y.dtype == np.int32


def test_tuples_and_lists_of_arrays_and_dicts_are_several_arrays():
    x, _ = check_columns("fit", (({"a": X}, [X, Y]), Y))
    assert jax.tree.structure(x) == jax.tree.structure(({"a": 0}, [0, 0]))


class Pandas:
    """What a data frame offers to others."""

    def __array__(self, dtype=None, copy=None):
        return np.asarray(X, dtype)


def test_whatever_gives_an_array_is_one():
    x, _ = check_columns("fit", (Pandas(), memoryview(Y)))
    assert np.array_equal(x, X)


REFUSED = {
    "an array alone": (
        X, TypeError,
        "data must be a tuple (x, y) or (x, y, weight), got float32[20, 3]. Where there is no y, "
        "give x in its place."),
    "x alone": (
        (X,), TypeError,
        "data must be a tuple (x, y) or (x, y, weight), got (float32[20, 3]). Where there is no y, "
        "give x in its place."),
    "no y": (
        (X, None), TypeError,
        "each part of the data must hold an array, got (float32[20, 3], None). Where there is no "
        "y, give x in its place."),
    "lengths": (
        ({"b": X, "a": X[1:]}, Y), ValueError,
        "all arrays of the data must hold the same number of examples, got x/a: 19, x/b: 20, "
        "y: 20. Check how they were cut; a tuple or a list of arrays is several arrays, `np.stack` "
        "makes them one."),
    "many arrays": (
        (list(X), Y), ValueError,
        "all arrays of the data must hold the same number of examples, got x/0: 3, x/1: 3, x/2: 3 "
        "and 18 more. Check how they were cut; a tuple or a list of arrays is several arrays, "
        "`np.stack` makes them one."),
    "numbers": (
        (1.0, (2, 3, 4)), ValueError,
        "each array of the data must have the examples along its first axis, got a single number "
        "for x, y/0, y/1 and 1 more. Make an array of one example with `x[None]`; a tuple is "
        "several arrays, a list of numbers one."),
    "no example": (
        (X[:0], Y[:0]), ValueError,
        "data must hold at least one example, got float32[0, 3] for x. Check how it was read."),
    "objects": (
        (X.astype(object), Y), TypeError,
        "data must hold numbers, got object[20, 3]. Convert it, categories to integers say, before "
        "training."),
    "words": (
        (X, ["cat", "dog"]), TypeError,
        "data must hold numbers, got <U3[2]. Convert it, categories to integers say, before "
        "training."),
    "dates": (
        (X, np.zeros(N, "timedelta64[s]")), TypeError,
        "data must hold numbers, got timedelta64[s][20]. Convert it, categories to integers say, "
        "before training."),
    "records": (
        (X, np.zeros(N, [("a", int)])), TypeError,
        "data must hold numbers, got [('a', '<i8')][20]. Convert it, categories to integers say, "
        "before training."),
    "ragged lists": (
        ([[1.0], [2.0, 3.0]], [0, 1]), ValueError,
        "the lists in data must hold as many numbers each, got lists of different lengths. Fill "
        "them up, or cut them, to one length."),
    "large integers": (
        (X, Y.astype(np.int64) + 2**40), ValueError,
        "integers of data must fit int32, got 1099511627776. Number them anew from 0, or switch 64 "
        "bits on in JAX."),
    "a negative weight": (
        (X, Y, np.where(Y == 3, -2.0, 1.0)), ValueError,
        "weight must be 0 or more everywhere, got -2.0 as its least. Leave an example out with the "
        "weight 0."),
    "a NaN as weight": (
        (X, Y, np.where(Y == 3, np.nan, 1.0)), ValueError,
        "weight must be 0 or more everywhere, got nan as its least. Leave an example out with the "
        "weight 0."),
    "a weight of two axes": (
        (X, Y, np.ones((N, 1))), ValueError,
        "weight must hold one real number an example, got float32[20, 1]. Flatten it with "
        "`weight.reshape(-1)`."),
    "a complex weight": (
        (X, Y, np.ones(N, complex)), ValueError,
        "weight must hold one real number an example, got complex64[20]. Flatten it with "
        "`weight.reshape(-1)`."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_data_are_refused_in_words(case):
    data, error, said = REFUSED[case]
    with pytest.raises(error) as raised:
        check_columns("evaluate", data)
    assert words(raised) == f"`evaluate`: {said}"


def test_staged_data_are_checked_at_once():
    with pytest.raises(ValueError, match="`staged`: all arrays of the data must hold the same"):
        staged(X, Y[1:])
    assert examples(staged(X, Y)) == N
    assert check_columns("fit", staged(X, Y)) == staged(X, Y).columns


def test_data_may_be_traced_weights_too():
    trainer = fn.Trainer(fn.dense(3), loss=lambda a, b: (a - b) ** 2, optimizer=optax.sgd(1e-4))
    state = trainer.init(jax.random.key(0), X)

    @jax.jit
    def run(x, weight):
        return trainer.advance(state, 2, (x, x, weight), batch_size=4)[0].params

    kernel = run(X, np.ones(N, np.float32))["kernel"]
    assert np.array_equal(
        kernel, trainer.advance(state, 2, (X, X, np.ones(N)), batch_size=4)[0].params["kernel"]
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_block_holds_the_batches_that_resident_data_give(shuffle):
    key = np.asarray(order_words(jax.random.key(5)))
    block = gather_block((X, Y), key, 4, 6, batch_size=7, capacity=8, shuffle=shuffle)
    assert len(block.columns[1]) == 56
    ready = look_ahead(Resident((X, Y)), jax.random.key(5), jnp.int32(3), 8, 7, shuffle)
    assert look_ahead(block, jax.random.key(5), 4, 6, 7, shuffle) is block
    for step in range(4, 10):
        want, found = (take(source, jnp.int32(step), 7) for source in (ready, block))
        assert np.array_equal(found[0], want[0])
        assert np.array_equal(found[1], want[1])


def test_batches_of_one_shape_share_a_block():
    batches = [(X[:4], Y[:4])] * 5 + [(X[:3], Y[:3])] * 2 + [(X[:3], Y[:3], Y[:3])]
    blocks = list(group(batches, capacity=3, start=10))
    assert [(int(b.start), steps, size) for b, steps, size in blocks] == [
        (10, 3, 4), (13, 2, 4), (15, 2, 3), (17, 1, 3)]  # fmt: skip
    assert [len(b.columns) for b, _, _ in blocks] == [2, 2, 2, 3]
    assert [len(b.columns[1]) for b, _, _ in blocks] == [12, 12, 9, 9]


def test_a_block_joins_what_it_is_given():
    block = to_block([(X[:2], Y[:2]), (X[5:7], Y[5:7])], start=3, size=6)
    assert np.asarray(block.columns[1])[:4].tolist() == [0, 1, 5, 6]
    assert block.start == 3
