"""Learns to write like Herman Melville, character by character: a transformer and an LSTM.

    python examples/char_lm.py                     both, in bits a character on text never seen
    python examples/char_lm.py --model lstm        one of them: an hour or so on 2 cores
    python examples/char_lm.py --short             a minute, only to see that it runs
    python examples/char_lm.py --check 2.0         fails unless one of them is below
    python examples/char_lm.py --plan v5e:2x2      what a step takes on four chips of a TPU

Both learn from windows of 128 characters, to predict each from those before it. In the test they
read as much text at once as they can: the transformer has positions for 128, the LSTM none. For
writing, the same params go into the same model made with `decode=True`, which keeps what it has
read in its model_state (a cache of keys and values, or the LSTM's state), so that `fn.generate`
takes one step for a character.
"""

import argparse
import lzma
import math
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

import funcnet as fn

TEXT = Path(__file__).parent / "data" / "moby_dick.txt.xz"  # where it comes from: README.md there
LENGTH = 128
BATCH = 16


def load():
    """The text as numbers of characters, int32[characters], and the characters by number."""
    with lzma.open(TEXT, "rt", encoding="utf8") as file:
        text = file.read()
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    return np.array([number[character] for character in text], np.int32), characters


def windows(tokens, length):
    """Inputs and the characters that follow them, int32[windows, length] each."""
    count = (len(tokens) - 1) // length
    x, y = tokens[: count * length], tokens[1 : count * length + 1]
    return x.reshape(count, length), y.reshape(count, length)


def bigram_bits(train, test, vocabulary):
    """Bits a character of the best guess from the one character before: what is to be beaten."""
    counts = np.full((vocabulary, vocabulary), 0.1)
    np.add.at(counts, (train[:-1], train[1:]), 1)
    chance = counts / counts.sum(1, keepdims=True)
    return -np.log2(chance[test[:-1], test[1:]]).mean()


# -------------------------------------------------------------------------------- the two models


def transformer(vocabulary, *, width=192, heads=6, depth=4, dropout=0.1, decode=False):
    block = fn.encoder_block(heads, 4 * width, dropout=dropout, causal=True, decode=decode)
    return fn.sequential(
        embed=fn.embedding(vocabulary, width),
        positions=fn.learned_positions(LENGTH, decode=decode),
        dropout=fn.dropout(dropout),
        blocks=fn.layer_stack(block, depth),  # one scan: compiled once, however deep
        norm=fn.layer_norm(),
        out=fn.dense(vocabulary),
    )


def lstm(vocabulary, *, width=384, dropout=0.3, decode=False):
    return fn.sequential(
        embed=fn.embedding(vocabulary, 64),
        first=fn.lstm(width, decode=decode),
        drop1=fn.dropout(dropout),
        second=fn.lstm(width, decode=decode),
        drop2=fn.dropout(dropout),
        out=fn.dense(vocabulary),
    )


MODELS = {"lstm": lstm, "transformer": transformer}
READS = {"lstm": 4096, "transformer": LENGTH}  # characters at once, in the test


def make_trainer(model, steps):
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, min(100, steps // 10), steps, 2e-5)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.05))
    return fn.Trainer(
        model, loss=optax.losses.softmax_cross_entropy_with_integer_labels, optimizer=optimizer
    )


# ---------------------------------------------------------------------------------------- writing


def show(make, state, characters, seed=0):
    """What the model writes, greedily and by chance: each text is one compiled program."""
    decoder = make(decode=True)
    prompt = "The whale "
    tokens = [[characters.index(c) for c in prompt]]
    for temperature in (0.0, 0.8):
        written = fn.generate(
            *(decoder, state.params, state.model_state, tokens, LENGTH - len(prompt)),
            key=jax.random.key(seed),
            temperature=temperature,
        )
        text = prompt + "".join(characters[i] for i in np.asarray(written.tokens[0]))
        print(f"  at temperature {temperature}: {text!r}")


# ---------------------------------------------------------------------------------------- running


def main():
    options = parse()
    tokens, characters = load()
    cut = int(0.9 * len(tokens))
    train, test = tokens[:cut], tokens[cut:]
    epochs = options.epochs
    if options.short:
        train, test, epochs = train[:20_000], test[:5_000], 1
    baseline = bigram_bits(train, test, len(characters))
    print(f"{len(train):,} characters, on {jax.devices()[0].device_kind}")
    print(f"bigram: {baseline:.3f} bits a character")
    held = len(train) // 50  # what tells when to stop is neither learnt from nor the test
    data, validation = windows(train[:-held], LENGTH), windows(train[-held:], LENGTH)
    found = {}
    for name in [options.model] if options.model else MODELS:
        small = {"width": 48} if options.short else {}
        make = partial(MODELS[name], len(characters), **small)
        trainer = make_trainer(make(), epochs * -(-len(data[0]) // BATCH))
        print(f"\n{name}", flush=True)
        if options.plan:
            print(fn.plan(trainer, data, topology=options.plan, batch_size=BATCH))
            continue
        began = time.perf_counter()
        result = trainer.fit(
            data,
            validation=validation,
            epochs=epochs,
            batch_size=BATCH,
            stopping=fn.early_stopping("val_loss", patience=3),
            callbacks=[tell],
            seed=options.seed,
            progress=False,
        )
        seconds = time.perf_counter() - began
        found[name] = trainer.evaluate(result.best, windows(test, READS[name]))["loss"] / math.log(
            2
        )
        size = fn.tree.size(result.best.params)
        print(
            f"  {found[name]:.3f} bits a character of the test; {size:,} params; {seconds:.0f} s;"
            f" {result.message}"
        )
        show(make, result.best, characters)
    if options.check is not None and min(found.values()) >= options.check:
        sys.exit(f"no model is below {options.check} bits a character: {found}")


def tell(event):
    m = {name: value / math.log(2) for name, value in event.metrics.items()}
    print(
        f"  epoch {event.epoch:2}   {m['loss']:.3f} bits, validation {m['val_loss']:.3f}",
        flush=True,
    )


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, help="both unless given")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=float, help="fail unless one model is below, in bits")
    parser.add_argument("--short", action="store_true", help="only to see that it runs")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
