"""Two networks against each other: one draws digits, the other tells them from real ones.

    python examples/gan.py              some minutes on 2 cores; writes out/gan.png
    python examples/gan.py --short      only to see that it runs
    python examples/gan.py --plan v5e:2x2    what a step takes on four chips of a TPU

Both train in one step with one objective. What each is to learn from is said with `stop_gradient`:
the judge's part sees the drawings as given, the artist's part sees the judge as given. The pictures
are drawn with an average of the artist's params, `fn.ema`, which wavers less than they do.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn

DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there
LATENT = 32


def load():
    """The digits in -1 .. 1, float32[10000, 28, 28, 1]."""
    with np.load(DIGITS) as data:
        return (data["x"][..., None] / 127.5 - 1).astype(np.float32)


artist = fn.sequential(
    *(fn.dense(7 * 7 * 32), fn.reshape(7, 7, 32), fn.group_norm(8), jax.nn.relu),
    *(fn.conv_transpose(32, (4, 4), strides=2), fn.group_norm(8), jax.nn.relu),  # (B, 14, 14, 32)
    *(fn.conv_transpose(1, (4, 4), strides=2), jnp.tanh),  # (B, 28, 28, 1)
)
judge = fn.sequential(
    *(fn.conv(32, (4, 4), strides=2), jax.nn.leaky_relu, fn.dropout(0.3)),
    *(fn.conv(64, (4, 4), strides=2), jax.nn.leaky_relu, fn.dropout(0.3)),
    *(fn.flatten(), fn.dense(1), lambda y: y.squeeze(-1)),  # the logit of being real
)


def forward(parts, x):
    """Only to make the params of both: the objective calls them itself."""
    return parts.artist(jnp.zeros((len(x), LATENT))), parts.judge(x)


MODEL = fn.wire(forward, artist=artist, judge=judge)


def objective(params, model_state, batch, *, key, training):
    """What both minimise: Goodfellow et al., 2014, with the artist's part that saturates less."""
    real, _, weight = fn.unpack(batch)
    keys = jax.random.split(jax.random.key(0) if key is None else key, 4)

    def verdict(judging, x, k):
        return judge.apply(judging, {}, x, key=keys[k], training=training)[0]

    drawn, _ = artist.apply(params["artist"], {}, jax.random.normal(keys[0], (len(real), LATENT)))
    given, drawings = jax.lax.stop_gradient((params["judge"], drawn))
    fooling = jax.nn.softplus(-verdict(given, drawn, 1))  # (B,), moves the artist alone
    logits_real = verdict(params["judge"], real, 2)
    logits_drawn = verdict(params["judge"], drawings, 3)
    judging = jax.nn.softplus(-logits_real) + jax.nn.softplus(logits_drawn)
    each = fooling + judging
    weight = jnp.ones_like(each) if weight is None else weight
    found = {
        "artist": fooling.mean(),
        "judge": judging.mean(),
        "right": ((logits_real > 0).mean() + (logits_drawn <= 0).mean()) / 2,
    }
    return ((weight * each).sum(), weight.sum()), (model_state, found)


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    digits = load()
    epochs = 25
    if options.short:
        digits, epochs = digits[:512], 1
    trainer = fn.Trainer(
        MODEL, objective=objective, optimizer=fn.ema(optax.adam(4e-4, b1=0.5), decay=0.99)
    )
    data = digits, np.zeros(len(digits))
    if options.plan:
        print(fn.plan(trainer, data, topology=options.plan, batch_size=64))
        return
    print(f"{len(digits)} digits, on {jax.devices()[0].device_kind}", flush=True)
    result = trainer.fit(data, epochs=epochs, batch_size=64, callbacks=[tell])
    state = fn.averaged(result.last)
    drawn = draw(state, options.out / "gan.png")
    print(
        f"grey levels: real {digits.mean():.2f} +- {digits.std():.2f}, "
        f"drawn {drawn.mean():.2f} +- {drawn.std():.2f}"
    )


def tell(event):
    m = event.metrics
    print(
        f"  epoch {event.epoch:2}   artist {m['artist']:.3f}   judge {m['judge']:.3f}   "
        f"the judge is right in {m['right']:.0%}",
        flush=True,
    )


def draw(state, path):
    """Writes 60 drawings, and gives them."""
    import matplotlib.pyplot as plt

    z = jax.random.normal(jax.random.key(1), (60, LATENT))
    drawn = np.asarray(artist.apply(state.params["artist"], {}, z)[0])
    grid = np.vstack([np.hstack(row[..., 0]) for row in drawn.reshape(5, 12, 28, 28, 1)])
    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    axis.imshow(grid, cmap="gray_r")
    axis.axis("off")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {path}")
    return drawn


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    parser.add_argument("--short", action="store_true", help="only to see that it runs")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
