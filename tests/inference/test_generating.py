"""Generation against the whole text read at once, row against batch, and its edges."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import funcnet as fn
from funcnet.inference import generate, generate_stream, generating

KEY = jax.random.key(0)
V, ROOM = 7, 16
PROMPT = np.array([[1, 2, 3], [4, 0, 6]])
RAGGED = [[1, 2, 3], [5]]


def transformer(decode=False):
    block = fn.encoder_block(2, 16, causal=True, decode=decode)
    return fn.sequential(
        fn.embedding(V, 8),
        fn.learned_positions(ROOM, decode=decode),
        fn.layer_stack(block, 2),
        fn.sinusoidal_positions(decode=decode),
        fn.dense(V),
    )


def attentive(decode=False):
    """The least model with a cache of keys and values."""
    return fn.sequential(
        fn.embedding(V, 8),
        fn.sinusoidal_positions(decode=decode),
        fn.attention(2, causal=not decode, decode=decode),
        fn.dense(V),
    )


def lstm(decode=False):
    return fn.sequential(
        fn.embedding(V, 8), fn.lstm(12, decode=decode), fn.dropout(0.5), fn.dense(V)
    )


def normed(decode=False):
    """A model that has statistics of its training beside its cache."""
    return fn.sequential(
        fn.embedding(V, 8), fn.gru(12, decode=decode), fn.batch_norm(), fn.dense(V)
    )


def sums(decode=False):
    """A model as one writes it by hand: what may follow depends on the sum of all tokens."""

    def init(key, x):
        table = jax.random.normal(key, (V, V))
        return {"table": table}, {"sum": jnp.zeros(x.shape[0], jnp.int32)} if decode else {}

    def apply(params, model_state, x, *, key=None, training=None):
        before = model_state["sum"] if decode else jnp.zeros(x.shape[0], jnp.int32)
        total = before[:, None] + jnp.cumsum(x, 1)
        state = {"sum": total[:, -1]} if decode else model_state
        return params["table"][total % V], state

    return fn.Model(init, apply)


MAKE = {
    "transformer": transformer,
    "attentive": attentive,
    "lstm": lstm,
    "normed": normed,
    "sums": sums,
}


@cache
def ready(name):
    """The model that decodes, the one that was trained, and the params and state of a training."""
    plain = MAKE[name]()
    params, model_state = jax.jit(plain.init)(KEY, jnp.zeros((2, 4), int))
    params = jax.tree.map(lambda leaf: 2 * leaf, params)  # so that texts are not all alike
    if name == "normed":
        model_state = jax.tree.map(lambda leaf: leaf + jnp.linspace(0, 1, 12), model_state)
    return MAKE[name](True), plain, params, model_state


def written(name, prompt=PROMPT, length=5, how=generate, **settings):
    model, _, params, model_state = ready(name)
    return how(model, params, model_state, prompt, length, **settings)


@pytest.mark.parametrize("name", ["transformer", "lstm", "normed", "sums"])
def test_greedy_tokens_are_those_of_the_whole_text_read_at_once(name):
    _, plain, params, model_state = ready(name)
    found = written(name)
    text = np.concatenate([PROMPT, found.tokens], 1)
    logits = jax.jit(plain.apply)(params, model_state, jnp.asarray(text))[0][:, 2:-1]
    np.testing.assert_array_equal(found.tokens, logits.argmax(-1))
    want = np.take_along_axis(
        jax.nn.log_softmax(logits, -1), np.asarray(found.tokens)[..., None], -1
    )
    np.testing.assert_allclose(found.log_probs, want[..., 0], rtol=1e-4, atol=1e-5)
    assert found.lengths.tolist() == [5, 5]


def test_without_a_cache_the_same_comes_out():
    _, plain, params, model_state = ready("attentive")
    slow = generate(plain, params, model_state, RAGGED, 5, cached=False)
    fast = written("attentive", RAGGED)
    np.testing.assert_array_equal(slow.tokens, fast.tokens)
    np.testing.assert_allclose(slow.log_probs, fast.log_probs, rtol=1e-4, atol=1e-5)
    assert slow.model_state == model_state == {}


@pytest.mark.parametrize("name", ["attentive", "normed"])
def test_a_batch_of_any_lengths_equals_its_rows_alone(name):
    keys = jax.random.split(jax.random.key(3), 2)
    how = {"temperature": 0.9, "top_k": 5, "top_p": 0.95}
    found = written(name, RAGGED, key=keys, **how)
    for i, prompt in enumerate(RAGGED):
        alone = written(name, [prompt], key=keys[i : i + 1], **how)
        np.testing.assert_array_equal(found.tokens[i : i + 1], alone.tokens)
        np.testing.assert_allclose(
            found.log_probs[i : i + 1], alone.log_probs, rtol=1e-4, atol=1e-5
        )


def test_one_key_is_parted_among_rows_and_gives_the_same_again():
    first, again = (written("sums", key=KEY).tokens for _ in range(2))
    np.testing.assert_array_equal(first, again)
    parts = written("sums", key=jax.random.split(KEY, 2)).tokens
    np.testing.assert_array_equal(first, parts)
    other = written("sums", key=jax.random.key(1)).tokens
    assert (np.asarray(first) != np.asarray(other)).any()


def test_tokens_come_as_often_as_the_softmax_says():
    n = 3000
    params = ready("sums")[2]
    settings = {"temperature": 1.7, "top_k": 6, "top_p": 0.99}
    found = written("sums", np.full((n, 1), 3), 1, key=KEY, **settings)
    log_p = jax.nn.log_softmax(params["table"][3])
    np.testing.assert_allclose(found.log_probs[:, 0], log_p[found.tokens[:, 0]], rtol=1e-5)
    left = np.sort(np.argsort(-log_p)[:6])
    weights = np.exp(np.float64(log_p)[left] / 1.7)
    counts = np.bincount(np.asarray(found.tokens[:, 0]), minlength=V)
    assert counts.sum() == counts[left].sum()
    assert stats.chisquare(counts[left], n * weights / weights.sum()).pvalue > 0.01


def test_other_numbers_compile_nothing_anew():
    traced = []

    def apply(params, model_state, x, **flags):
        traced.append(x.shape)
        return sums(True).apply(params, model_state, x, **flags)

    model, params = fn.Model(sums(True).init, apply), ready("sums")[2]
    for temperature, k, p in ((1.0, 3, 0.9), (0, 1, 1), (jnp.float32(0.3), np.int64(5), 0.2)):
        how = {"key": KEY, "temperature": temperature, "top_k": k, "top_p": p}
        generate(model, params, {}, PROMPT, 4, **how)
    assert traced == [(2, 3), (2, 1)]


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}], ids=str)
def test_one_likeliest_token_is_greedy(how):
    greedy = written("sums")
    np.testing.assert_array_equal(written("sums", key=KEY, **how).tokens, greedy.tokens)


# --- the end of a row


def test_a_row_ends_at_a_token_that_stops_and_the_others_go_on():
    whole = written("sums", length=8)
    tokens = np.asarray(whole.tokens)
    stop = next(t for t in tokens[0, 1:] if t not in (*tokens[1], tokens[0, 0]))
    end = tokens[0].tolist().index(stop) + 1
    assert 1 < end < 8
    for given in (int(stop), [int(stop), 99], jnp.asarray(stop)):
        found = written("sums", length=8, stop=given)
        assert found.lengths.tolist() == [end, 8]
        assert found.tokens[0].tolist() == [*tokens[0, :end], *[stop] * (8 - end)]
        assert found.tokens[1].tolist() == tokens[1].tolist()
        assert found.log_probs[0, end:].tolist() == [0.0] * (8 - end)
        np.testing.assert_array_equal(found.log_probs[0, :end], whole.log_probs[0, :end])


def test_when_all_rows_have_ended_nothing_more_is_read():
    read = []

    def init(key, x):
        return {}, {"read": jnp.zeros((), jnp.int32)}

    def apply(params, model_state, x, *, key=None, training=None):
        count = model_state["read"] + x.shape[1]
        logits = jax.nn.one_hot(jnp.full(x.shape, 2) + (count > 5), V)
        return logits, {"read": count}

    found = generate(fn.Model(init, apply), {}, {}, PROMPT, 50, stop=3)
    read = int(found.model_state["read"])
    assert found.lengths.tolist() == [4, 4]
    assert found.tokens[0, :5].tolist() == [2, 2, 2, 3, 3]
    assert read == 3 + 4


def test_a_text_goes_on_from_the_model_state_of_the_call_before():
    model, _, params, _ = ready("attentive")
    cache = jax.jit(lambda: model.init(KEY, jnp.zeros((2, 8), int))[1])()
    first = generate(model, params, cache, PROMPT, 2)
    text = np.concatenate([PROMPT, first.tokens, [[6], [5]]], 1)
    onward = generate(model, params, first.model_state, text[:, -1:], 2)
    np.testing.assert_array_equal(onward.tokens, written("attentive", text, 2).tokens)
    with pytest.raises(ValueError, match="got NaN for token 0 of row 0"):
        generate(model, params, onward.model_state, text[:, -1:], 2)


# --- as it comes, and within other programs


@pytest.mark.parametrize("prompt", [PROMPT, RAGGED], ids=["even", "ragged"])
def test_a_stream_gives_the_same_tokens_as_they_come(prompt):
    for settings in ({"key": KEY, "temperature": 0.8}, {"stop": [0, 1, 2]}):
        whole = written("sums", prompt, 6, **settings)
        columns = list(written("sums", prompt, 6, generate_stream, **settings))
        most = int(whole.lengths.max())
        np.testing.assert_array_equal(np.stack(columns, 1), whole.tokens[:, :most])


def test_a_stream_takes_one_turn_for_each_token(monkeypatch):
    turns, turn = [], generating.jit_turn
    monkeypatch.setattr(generating, "jit_turn", lambda *args: turns.append(1) or turn(*args))
    stop = int(written("sums").tokens[0, 1])  # one row ends, the other goes on
    for k, _ in enumerate(written("sums", how=generate_stream, stop=stop)):
        assert len(turns) == k + 1
    assert sorted(written("sums", stop=stop).lengths.tolist()) == [2, 5]


def test_it_can_be_compiled_and_mapped():
    model, _, params, _ = ready("sums")

    def tokens(key, temperature):
        return generate(model, params, {}, PROMPT, 5, key=key, temperature=temperature).tokens

    keys, heats = jax.random.split(KEY, 3), jnp.array([0.0, 0.7, 2.0])
    found = jax.jit(jax.vmap(tokens))(keys, heats)
    for i in range(3):
        np.testing.assert_array_equal(found[i], tokens(keys[i], heats[i]))


def test_in_bfloat16_it_writes_too():
    model = fn.mixed_precision(attentive(True))
    found = generate(model, ready("attentive")[2], {}, PROMPT, 5)
    assert found.log_probs.dtype == jnp.float32
    assert bool(jnp.isfinite(found.log_probs).all())


# --- what is wrong

MUST = "must hold tokens as integers, "
FINITE = (
    "The params are finite, and the prompt holds tokens {}: see that the vocabulary has them, and "
    "that the model has room for these {} positions."
)


def with_params(change):
    model, _, params, _ = ready("lstm")
    return generate(model, jax.tree.map(change, params), {}, PROMPT, 5)


def asked(name="sums", prompt=PROMPT, length=5, **settings):
    return lambda: written(name, prompt, length, **settings)


def model_of(apply, state=None):
    def init(key, x):
        return {}, {"n": jnp.zeros((), jnp.int32)} if state is None else state

    return lambda: generate(fn.Model(init, apply), {}, {}, PROMPT, 5)


REFUSED = {
    "a token beyond the vocabulary": (
        asked("lstm", [[1, 2, 3], [4, 9, 6]]), ValueError,
        "`generate`: logits must be numbers, got NaN for token 0 of row 1. "
        + FINITE.format("1 .. 9", 8)),
    "the same in a stream": (
        lambda: list(written("lstm", [[-1]], how=generate_stream)), ValueError,
        "`generate_stream`: logits must be numbers, got NaN for token 0 of row 0. "
        + FINITE.format("-1 .. -1", 6)),
    "params that are NaN": (
        lambda: with_params(lambda leaf: leaf.at[0].set(jnp.nan)), ValueError,
        "`generate`: logits must be numbers, got NaN for token 0 of row 0. The params are not "
        "finite in 0/embedding, 1/forward/hf/bias, 1/forward/hf/kernel and 12 more: train anew, "
        "with `fn.guarded` say."),
    "a model that keeps nothing": (
        lambda: generate(*ready("lstm")[1:], PROMPT, 5), ValueError,
        "`generate`: the model must keep what it has read in its model_state, got one that leaves "
        "it as it is. Make it with `decode=True` in its layers, the params stay the same; or say "
        "`cached=False`, and a causal model reads all of the text for each token."),
    "a model that keeps its statistics alone": (
        lambda: generate(*ready("normed")[1:], PROMPT, 5), ValueError,
        "`generate`: the model must keep what it has read in its model_state, got one that leaves "
        "it as it is. Make it with `decode=True` in its layers, the params stay the same; or say "
        "`cached=False`, and a causal model reads all of the text for each token."),
    "the state of another model": (
        lambda: generate(ready("sums")[0], ready("sums")[2], {"n": 0}, PROMPT, 5), ValueError,
        "`generate`: model_state must be that of a training of this model, or {}, or what `init` "
        "or a call before made, got {'n': int32[]} in model_state, where the model has {'sum': "
        "int32[2]}. Make both models by the same function."),
    "a model of one output a text": (
        model_of(lambda p, s, x, **flags: (jnp.ones((2, V)), {"n": s["n"] + 1})), TypeError,
        "`generate`: the model must give logits, float[B, T, V], for tokens, int32[B, T], got "
        "float32[2, 7] for int32[2, 3]. End it with `fn.dense(vocabulary)`, and let no layer drop "
        "the axis of positions."),
    "a model whose state changes its type": (
        model_of(lambda p, s, x, **flags: (jnp.ones((*x.shape, V)), {"n": s["n"] + 0.5})),
        TypeError,
        "`generate`: apply must give a model_state of the form that it was given, got\n"
        "  n: expected int32[], got float32[]\n"
        "Cast what it keeps to the dtype that `init` gave it."),
    "a trainer in place of a model": (
        lambda: generate("model", {}, {}, PROMPT, 5), TypeError,
        "`generate`: model must be a funcnet model, got str. Make one of it with "
        "`fn.as_model(...)`; of a trainer, it is `trainer.model`."),
    "a state in place of params": (
        lambda: generate(sums(True), fn.TrainState(0, {}, {}, (), KEY), {}, PROMPT, 5), TypeError,
        "`generate`: params must be those of the model, got a TrainState. Give "
        "`state.params, state.model_state`."),
    "a text that is not numbered": (
        asked(prompt="The whale"), TypeError,
        f"`generate`: prompt {MUST}got 'The whale'. Number the characters or words as in training, "
        "`[[number[c] for c in text]]` say."),
    "one text alone": (
        asked(prompt=[1, 2, 3]), ValueError,
        f"`generate`: prompt {MUST}a row for each text, got [1, 2, 3]. Give int[B, P], or a list "
        "of rows of any lengths; one text alone is `[prompt]`."),
    "an empty row": (
        asked(prompt=[[1], []]), ValueError,
        f"`generate`: prompt {MUST}one or more in each row, got []. Begin with a token that stands "
        "for the beginning of a text."),
    "floats": (
        asked(prompt=np.ones((2, 3), np.float32)), TypeError,
        f"`generate`: prompt {MUST}got float32[2, 3]. Convert it with `prompt.astype(int)`."),
    "chance without a key": (
        asked(temperature=0.8), ValueError,
        "`generate`: tokens drawn by chance need a key, got key=None. Give "
        "`key=jax.random.key(0)`, or leave temperature, top_k and top_p out to take the likeliest "
        "token each time."),
    "a seed": (
        asked(key=3), TypeError,
        "`generate`: key must be one key, or one for each of 2 rows, got 3. Make it with "
        "`jax.random.key(0)`."),
    "keys for other rows": (
        asked(key=jax.random.split(KEY, 3)), TypeError,
        "`generate`: key must be one key, or one for each of 2 rows, got key<fry>[3]. Make it with "
        "`jax.random.key(0)`."),
    "top_k = 0": (
        asked(key=KEY, top_k=0), ValueError,
        "`generate`: top_k must be a positive whole number, got 0. Leave it out to keep all "
        "tokens."),
    "top_p = 90": (
        asked(key=KEY, top_p=90), ValueError,
        "`generate`: top_p must be a number in 0 .. 1, got 90. It is the mass that is kept: 0.9 "
        "say."),
    "a stop in words": (
        asked(stop="."), TypeError,
        "`generate`: stop must be a token or a list of tokens, got '.'. Give its number, as in "
        "training."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_words_of_errors(case):
    act, kind, words = REFUSED[case]
    with pytest.raises(kind) as caught:
        act()
    assert str(caught.value) == words


def test_within_another_program_a_nan_comes_back_as_a_value():
    model, _, params, _ = ready("lstm")
    found = jax.jit(lambda prompt: generate(model, params, {}, prompt, 3))(jnp.array([[1], [9]]))
    assert jnp.isnan(found.log_probs).tolist() == [[False] * 3, [True] * 3]


def test_a_stream_refuses_wrong_arguments_at_once():
    with pytest.raises(ValueError, match="`generate_stream`: length must be a positive"):
        written("sums", length=0, how=generate_stream)


def test_more_positions_than_the_model_has_are_refused():
    with pytest.raises(ValueError, match="x must have at most length=16 positions, got"):
        written("transformer", length=14)
