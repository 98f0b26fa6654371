"""A variational autoencoder: digits as 16 numbers each, and new digits from random numbers.

    python examples/vae.py              half a minute on 2 cores; writes out/vae.png
    python examples/vae.py --short      only to see that it runs
    python examples/vae.py --plan v5e:2x2    what a step takes on four chips of a TPU

Nothing here is special to it: the model's output is a tuple, its noise comes from `key` like that
of dropout, and the loss is a function of output and input, one number an example.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn

DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there
LATENT = 16


def load():
    """The digits in 0 .. 1, 8,000 to learn from and 2,000 for the test."""
    with np.load(DIGITS) as data:
        x = (data["x"][..., None] / 255).astype(np.float32)  # (10000, 28, 28, 1)
    return x[:8000], x[8000:]


# ------------------------------------------------------------------------------------- the model


def sample():
    """`(mean, log_variance) -> z`: a draw in training, the mean otherwise. A layer of one's own."""

    def init(key, x):
        return {}, {}

    def apply(params, model_state, x, *, key=None, training=None):
        mean, log_variance = x
        if not fn.is_training(key, training):
            return mean, model_state
        noise = jax.random.normal(key, mean.shape)
        return mean + jnp.exp(log_variance / 2) * noise, model_state

    return fn.Model(init, apply)


encoder = fn.sequential(fn.flatten(), fn.dense(400), jax.nn.relu)
decoder = fn.sequential(
    *(fn.dense(400), jax.nn.relu),
    *(fn.dense(28 * 28), fn.reshape(28, 28, 1)),  # the logit of each pixel
)


def forward(parts, x):
    """How the parts hang together: `x -> (logits, mean, log_variance)`."""
    hidden = parts.encoder(x)
    mean, log_variance = parts.mean(hidden), parts.log_variance(hidden)
    return parts.decoder(parts.sample((mean, log_variance))), mean, log_variance


MODEL = fn.wire(
    forward,
    encoder=encoder,
    mean=fn.dense(LATENT),
    log_variance=fn.dense(LATENT),
    sample=sample(),
    decoder=decoder,
)


def reconstruction(y_pred, x):
    """Nats that the digit costs given its code, float32[B]."""
    return optax.losses.sigmoid_binary_cross_entropy(y_pred[0], x).sum((1, 2, 3))


def divergence(y_pred, x):
    """Nats that the code costs: the divergence of N(mean, variance) from N(0, 1), float32[B]."""
    _, mean, log_variance = y_pred
    return (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1) / 2


def negative_elbo(y_pred, x):
    """An upper bound on the nats of a digit: Kingma, Welling, 2013, equation 10."""
    return reconstruction(y_pred, x) + divergence(y_pred, x)


# --------------------------------------------------------------------------------------- running


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    train, test = load()
    epochs = 100
    if options.short:
        train, test, epochs = train[:512], test[:128], 1
    steps = epochs * -(-len(train) // 128)
    trainer = fn.Trainer(
        MODEL,
        loss=negative_elbo,
        optimizer=optax.adam(optax.cosine_decay_schedule(2e-3, steps, alpha=0.05)),
        metrics={
            "reconstruction": fn.metrics.mean(reconstruction),
            "divergence": fn.metrics.mean(divergence),
        },
    )
    if options.plan:
        print(fn.plan(trainer, (train, train), topology=options.plan, batch_size=128))
        return
    print(f"{len(train)} digits, on {jax.devices()[0].device_kind}", flush=True)
    result = trainer.fit((train, train), epochs=epochs, batch_size=128, callbacks=[tell])
    values = trainer.evaluate(result.last, (test, test))
    told = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
    print(f"the test, at the mean of each code, in nats a digit: {told}")
    draw(result.last, test[:12], options.out / "vae.png")


def tell(event):
    if event.epoch % 10 and event.epoch != 1:
        return
    m = event.metrics
    print(
        f"  epoch {event.epoch:3}   {m['loss']:6.1f} nats = {m['reconstruction']:.1f} for the "
        f"pixels + {m['divergence']:.1f} for the code",
        flush=True,
    )


def draw(state, digits, path):
    """Digits, the same through their codes, digits of random codes, and a way from one to one."""
    import matplotlib.pyplot as plt

    logits, mean, _ = MODEL.apply(state.params, state.model_state, digits)[0]
    z = jax.random.normal(jax.random.key(0), (len(digits), LATENT))
    way = jnp.linspace(0, 1, len(digits))[:, None]
    between = (1 - way) * mean[:1] + way * mean[1:2]

    def decoded(z):
        return jax.nn.sigmoid(decoder.apply(state.params["decoder"], {}, z)[0])

    rows = {
        "digits of the test": digits,
        "through their codes": jax.nn.sigmoid(logits),
        "from random codes": decoded(z),
        "from one to another": decoded(between),
    }
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, 4), layout="constrained")
    for axis, (title, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(np.hstack(np.asarray(images)[..., 0]), cmap="gray_r")
        axis.set_title(title, loc="left", fontsize=9)
        axis.axis("off")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {path}")


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
