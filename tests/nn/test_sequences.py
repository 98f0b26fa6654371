"""Recurrent layers, attention and transformer blocks against Flax, PyTorch and their own laws."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import funcnet as fn

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 6, 4))
LENGTHS = jnp.array([6, 1, 4])
MASK = jnp.arange(6)[None] < LENGTHS[:, None]
CELLS = {"rnn": linen.SimpleCell, "lstm": linen.OptimizedLSTMCell, "gru": linen.GRUCell}


def ready(model, x=X):
    return model, *model.init(KEY, x)


def output(model, params, model_state, x=X):
    return model.apply(params, model_state, x)[0]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_recurrent_layer_equals_flax(name, direction):
    model, params, _ = ready(getattr(fn, name)(5, direction=direction))
    found = []
    for way in ("forward", "backward"):
        if direction in (way, "both"):
            guest = linen.RNN(CELLS[name](5), reverse=way == "backward", keep_order=True)
            found.append(guest.apply({"params": {"cell": params[way]}}, X))
    chex.assert_trees_all_close(output(model, params, {}), jnp.concatenate(found, -1), rtol=1e-5)


def test_a_new_lstm_remembers():
    ways = ready(fn.lstm(5, direction="both"))[1]
    biases = {path: leaf for path, leaf in fn.tree.paths(ways).items() if path.endswith("bias")}
    assert {path: leaf.tolist() for path, leaf in biases.items()} == {
        f"{way}/{gate}/bias": [1.0 if gate == "hf" else 0.0] * 5
        for way in ("backward", "forward")
        for gate in ("hf", "hg", "hi", "ho")
    }


@pytest.mark.parametrize("name", CELLS)
def test_the_last_state_of_masked_sequences(name):
    model, params, _ = ready(getattr(fn, name)(5, direction="both", sequence=False))
    y = output(model, params, {}, (X, MASK))
    for i, n in enumerate(LENGTHS):
        alone = output(model, params, {}, X[i : i + 1, :n])
        chex.assert_trees_all_close(y[i : i + 1], alone, rtol=1e-5, atol=1e-6)


def test_masked_steps_give_zeros_and_may_hold_anything():
    model, params, _ = ready(fn.gru(5))
    wild = jnp.where(MASK[..., None], X, 1e6)
    y, other = (output(model, params, {}, (x, MASK)) for x in (X, wild))
    chex.assert_trees_all_equal(y, other)
    assert bool((y[~MASK] == 0).all())


@pytest.mark.parametrize("name", CELLS)
def test_decoding_step_by_step_equals_the_whole_sequence(name):
    model, params, _ = ready(getattr(fn, name)(5))
    stepwise, _, state = ready(getattr(fn, name)(5, decode=True))
    steps = []
    for t in range(6):
        y, state = stepwise.apply(params, state, X[:, t : t + 1])
        steps.append(y)
    chex.assert_trees_all_close(
        jnp.concatenate(steps, 1), output(model, params, {}), rtol=1e-5, atol=1e-6
    )


def test_gradients_flow_through_time():
    model, params, _ = ready(fn.lstm(5, sequence=False))
    grads = jax.grad(lambda x: output(model, params, {}, x).sum())(X)
    assert bool((jnp.abs(grads).sum((0, 2)) > 0).all())


# --- attention


def by_hand(params, q, kv, allowed):
    """Attention in numpy; `allowed` bool[B, T, S]."""
    p = jax.tree.map(np.asarray, params)
    project = {n: np.einsum("btc,chd->bthd", kv if n != "query" else q, p[n]["kernel"])
               + p[n]["bias"] for n in ("query", "key", "value")}  # fmt: skip
    scores = np.einsum("bthd,bshd->bhts", project["query"], project["key"])
    scores = np.where(allowed[:, None], scores / np.sqrt(project["query"].shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("bhts,bshd->bthd", weights, project["value"])
    return np.einsum("bthd,hdc->btc", y, p["out"]["kernel"]) + p["out"]["bias"]


ALL = np.ones((3, 6, 6), bool)
KEYS = np.broadcast_to(np.asarray(MASK)[:, None], (3, 6, 6))


@pytest.mark.parametrize(
    ("settings", "x", "allowed"),
    [
        ({}, X, ALL),
        ({}, (X, MASK), KEYS),
        ({"causal": True}, X, np.tril(ALL)),
        ({"causal": True}, (X, MASK), np.tril(ALL) & KEYS),
        ({}, (X, jnp.asarray(np.tril(ALL))), np.tril(ALL)),
        ({}, (X, jnp.asarray(np.repeat(KEYS[:, None], 2, 1))), KEYS),
    ],
)
def test_attention_equals_its_formula(settings, x, allowed):
    model, params, _ = ready(fn.attention(2, **settings), x)
    x_only = x[0] if isinstance(x, tuple) else x
    want = by_hand(params, np.asarray(x_only), np.asarray(x_only), allowed)
    chex.assert_trees_all_close(output(model, params, {}, x), want, rtol=1e-4, atol=1e-5)


def test_cross_attention_equals_its_formula():
    memory = jax.random.normal(jax.random.key(2), (3, 5, 4))
    mask = jnp.arange(5)[None] < jnp.array([5, 2, 3])[:, None]
    model, params, _ = ready(fn.attention(2), (X, memory, mask))
    allowed = np.broadcast_to(np.asarray(mask)[:, None], (3, 6, 5))
    chex.assert_trees_all_close(
        output(model, params, {}, (X, memory, mask)),
        by_hand(params, np.asarray(X), np.asarray(memory), allowed),
        rtol=1e-4,
        atol=1e-5,
    )


def language_model(decode=False):
    return fn.sequential(
        fn.embedding(7, 8),
        fn.learned_positions(6, decode=decode),
        fn.layer_stack(fn.encoder_block(2, 16, causal=True, decode=decode), 2),
        fn.sinusoidal_positions(decode=decode),
        fn.dense(7),
    )


@pytest.mark.parametrize("pieces", [[1] * 6, [3, 1, 2], [6]])
def test_decoding_with_a_cache_equals_the_whole_sequence(pieces):
    tokens = jax.random.randint(KEY, (3, 6), 0, 7)
    model, params, _ = ready(language_model(), tokens)
    cached, same, state = ready(language_model(decode=True), tokens)
    chex.assert_trees_all_equal(params, same)
    apply = jax.jit(cached.apply)
    found, at = [], 0
    for n in pieces:
        y, state = apply(params, state, tokens[:, at : at + n])
        found.append(y)
        at += n
    chex.assert_trees_all_close(
        jnp.concatenate(found, 1), output(model, params, {}, tokens), rtol=1e-4, atol=1e-5
    )


def test_a_causal_model_does_not_see_what_comes_later():
    tokens = jax.random.randint(KEY, (3, 6), 0, 7)
    model, params, _ = ready(language_model(), tokens)
    other = tokens.at[:, 4:].set(0)
    y, z = (output(model, params, {}, x) for x in (tokens, other))
    chex.assert_trees_all_close(y[:, :4], z[:, :4], rtol=1e-6)


def test_blocks_hand_on_masks_and_memory():
    model, params, state = ready(fn.layer_stack(fn.encoder_block(2, 8), 2), (X, MASK))
    y, mask = output(model, params, state, (X, MASK))
    wild = jnp.where(MASK[..., None], X, 9.0)
    other, _ = output(model, params, state, (wild, MASK))
    chex.assert_trees_all_close(y[MASK], other[MASK], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(mask, MASK)
    memory = jax.random.normal(jax.random.key(3), (3, 5, 7))
    model, params, state = ready(fn.layer_stack(fn.decoder_block(2, 8), 2), (X, memory))
    y, same = output(model, params, state, (X, memory))
    chex.assert_shape(y, X.shape)
    chex.assert_trees_all_equal(same, memory)


def test_sinusoids_are_those_of_the_paper():
    y = output(fn.sinusoidal_positions(), {}, {}, jnp.zeros((1, 9, 6)))[0]
    p, i = np.arange(9)[:, None], np.arange(3)[None]
    want = np.zeros((9, 6))
    want[:, 0::2], want[:, 1::2] = np.sin(p / 1e4 ** (2 * i / 6)), np.cos(p / 1e4 ** (2 * i / 6))
    chex.assert_trees_all_close(y, want.astype(np.float32), atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_block_equals_pytorch(norm_first):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.TransformerEncoderLayer(
        4, 2, 8, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    block = fn.encoder_block(
        2, 8, norm_first=norm_first, activation=jax.nn.relu, epsilon=theirs.norm1.eps
    )
    model, params, _ = ready(block)
    w = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    q, k, v = (m.T.reshape(4, 2, 2) for m in np.split(w["self_attn.in_proj_weight"], 3))
    qb, kb, vb = (m.reshape(2, 2) for m in np.split(w["self_attn.in_proj_bias"], 3))
    params = {
        "attention": {
            "query": {"kernel": q, "bias": qb},
            "key": {"kernel": k, "bias": kb},
            "value": {"kernel": v, "bias": vb},
            "out": {
                "kernel": w["self_attn.out_proj.weight"].T.reshape(2, 2, 4),
                "bias": w["self_attn.out_proj.bias"],
            },
        },
        "attention_norm": {"scale": w["norm1.weight"], "bias": w["norm1.bias"]},
        "mlp_norm": {"scale": w["norm2.weight"], "bias": w["norm2.bias"]},
        "mlp": {
            "hidden": {"kernel": w["linear1.weight"].T, "bias": w["linear1.bias"]},
            "out": {"kernel": w["linear2.weight"].T, "bias": w["linear2.bias"]},
        },
    }
    theirs.train()
    want = theirs(torch.tensor(np.asarray(X))).detach().numpy()
    chex.assert_trees_all_close(output(model, params, {}), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("block", "x", "norms"), [(fn.encoder_block, X, 2), (fn.decoder_block, (X, X), 3)]
)
def test_epsilon_is_that_of_all_norms_of_a_block(block, x, norms):
    model = block(2, 8, epsilon=1e12)
    found = jax.jit(lambda: fn.intermediates(model, *model.init(KEY, x), x))()
    sizes = [float(abs(y).max()) for path, y in found.items() if path.endswith("_norm")]
    assert len(sizes) == norms
    assert max(sizes) < 1e-5


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_recurrent_layer_equals_pytorch(name):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name.upper())(4, 5, batch_first=True)
    w = {n: p.detach().numpy() for n, p in theirs.named_parameters()}
    gates = "ifgo" if name == "lstm" else "rzn"
    cut = {n: dict(zip(gates, np.split(w[n], len(gates)), strict=True)) for n in w}
    params = {}
    for g in gates:
        gate_bias = cut["bias_ih_l0"][g], cut["bias_hh_l0"][g]
        hidden = {"kernel": cut["weight_hh_l0"][g].T}
        into = {"kernel": cut["weight_ih_l0"][g].T}
        if name == "lstm":
            hidden["bias"] = sum(gate_bias)
        elif g == "n":
            into["bias"], hidden["bias"] = gate_bias
        else:
            into["bias"] = sum(gate_bias)
        params |= {f"i{g}": into, f"h{g}": hidden}
    y = output(getattr(fn, name)(5), {"forward": params}, {})
    want = theirs(torch.tensor(np.asarray(X)))[0].detach().numpy()
    chex.assert_trees_all_close(y, want, rtol=1e-4, atol=1e-5)


def beyond(model, calls):
    """Which of so many calls of one position, after `init` with three, give NaN."""
    model, params, state = ready(model, X[:, :3])
    found = []
    for k in range(calls):
        y, state = model.apply(params, state, X[:, k : k + 1])
        found.append(bool(jnp.isnan(y).all()))
    return found


@pytest.mark.parametrize(
    "model",
    [
        fn.attention(2, decode=True),
        fn.encoder_block(2, 8, decode=True),
        fn.mixed_precision(fn.attention(2, decode=True)),
    ],
)
def test_positions_beyond_the_cache_are_nan(model):
    assert beyond(model, 5) == [False] * 3 + [True] * 2


def test_a_model_in_bfloat16_decodes_as_it_reads():
    whole, params, state = ready(fn.mixed_precision(fn.attention(2, causal=True)))
    step = fn.mixed_precision(fn.attention(2, decode=True))
    cache = step.init(KEY, X)[1]
    want, got = output(whole, params, state), output(step, params, cache)
    chex.assert_trees_all_close(got, want, atol=0.02)
    after = step.apply(params, cache, X)[1]
    chex.assert_trees_all_equal_dtypes(after, cache)


def test_attention_drops_for_each_example_anew():
    model, params, _ = ready(fn.attention(2, dropout=0.5))
    same = jnp.broadcast_to(X[:1], X.shape)
    y = model.apply(params, {}, same, key=KEY)[0]
    assert not np.allclose(y[0], y[1])


REFUSED = {
    "more than the cache can hold": (
        lambda: fn.attention(2, decode=True).apply(
            *ready(fn.attention(2, decode=True), X[:, :3])[1:], X
        ),
        "`attention`: the cache holds 3 examples of 3 positions, as x had at `init`, got "
        "float32[3, 6, 4]. Call `init` with an x of this batch, as long as all that is to come.",
    ),
    "a dropout above 1": (
        lambda: fn.attention(2, dropout=1.5),
        "`attention`: dropout must be a plain number in 0 .. 1, got 1.5.",
    ),
    "a dropout that is an array": (
        lambda: fn.encoder_block(2, 8, dropout=jnp.float32(0.5)),
        "`attention`: dropout must be a plain number in 0 .. 1, got Array(0.5, dtype=float32). "
        "Put `fn.dropout(rate)` after it where the rate is an array.",
    ),
    "a mask of integers": (
        lambda: ready(fn.attention(2), (X, MASK.astype(int))),
        "`attention`: a mask must be bool, got (float32[3, 6, 4], int32[3, 6]). "
        "Say `mask.astype(bool)`: True for what may be attended to.",
    ),
    "a mask of three heads of two": (
        lambda: output(*ready(fn.attention(2)), (X, jnp.ones((3, 3, 6, 6), bool))),
        "`attention`: mask must be bool[3, 6], bool[3, 6, 6] or bool[3, 2, 6, 6], "
        "got bool[3, 3, 6, 6].",
    ),
    "another batch of a state": (
        lambda: output(*ready(fn.lstm(5, decode=True)), X[:2]),
        "`lstm`: x must be of the batch that `init` was given where decode=True, 3 examples, "
        "got float32[2, 6, 4]. Call `init` with this batch.",
    ),
    "other channels": (
        lambda: output(*ready(fn.gru(5)), X[..., :3]),
        "`gru`: x must have 4 channels in its last axis, as at `init`, got float32[3, 6, 3]. "
        "Give `init` an x of the same shape.",
    ),
    "a mask that is a list": (
        lambda: ready(fn.rnn(5), (X[:1, :2], [[True, False]])),
        "`rnn`: mask must be bool[1, 2], one for each step, got [[True, False]].",
    ),
    "a direction misspelt": (
        lambda: fn.lstm(3, direction="backwards"),
        "`lstm`: direction must be one of 'forward', 'backward', 'both', got 'backwards'. "
        "Did you mean 'backward'?",
    ),
    "decoding backwards": (
        lambda: fn.gru(3, direction="both", decode=True),
        "`gru`: direction must be 'forward' where decode=True, got 'both'. "
        "What comes later is not known yet.",
    ),
    "tokens not embedded": (
        lambda: ready(fn.rnn(3), jnp.zeros((2, 5), int)),
        "`rnn`: x must have the axes (B, T, C), got int32[2, 5]. Embed tokens with "
        "`fn.embedding` before; add a missing axis with `x[..., None]`.",
    ),
    "a mask of another length": (
        lambda: ready(fn.lstm(3), (X, MASK[:, :5])),
        "`lstm`: mask must be bool[3, 6], one for each step, got bool[3, 5].",
    ),
    "heads that do not divide": (
        lambda: ready(fn.attention(3)),
        "`attention`: heads must divide the features, got heads=3 and 4 features. "
        "Choose heads among the divisors of 4, or give `features`.",
    ),
    "an attention mask of another shape": (
        lambda: output(*ready(fn.attention(2), (X, MASK)), (X, MASK[:, :4])),
        "`attention`: mask must be bool[3, 6], bool[3, 6, 6] or bool[3, 2, 6, 6], got bool[3, 4].",
    ),
    "keys of another batch": (
        lambda: ready(fn.attention(2), (X, X[:2])),
        "`attention`: keys and values must be of the same length, and all of the same batch, got "
        "(float32[3, 6, 4], float32[2, 6, 4]).",
    ),
    "dropout without a key": (
        lambda: fn.attention(2, dropout=0.1).apply(*ready(fn.attention(2))[1:], X, training=True),
        "`attention`: training with dropout needs randomness, got key=None. Give `apply` a key, "
        "`key=jax.random.key(0)` say, or `training=False`.",
    ),
    "too many positions": (
        lambda: ready(fn.sequential(fn.learned_positions(4))),
        "`learned_positions`: x must have at most length=4 positions, got float32[3, 6, 4]. "
        "Cut it, or give a greater length.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_words_of_errors(case):
    act, words = REFUSED[case]
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    assert str(caught.value) == words
