"""Draws what each augmentation does to a few images, in one picture.

    python examples/augmentation.py               half a minute, most of it compiling
    python examples/augmentation.py --seed 1      other random keys
    python examples/augmentation.py --short       four keys of each instead of nine

Each row is one function of `fn.augmentation`; its first image is the original, the others have a
key each. The picture is written as `augmentation.png` into `out/` (or `--out`).
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import funcnet as fn
from funcnet.data import augmentation as aug

DIGITS = Path(__file__).parent / "data" / "mnist10k.npz"  # where they come from: README.md there


def load_digit():
    """A digit, (28, 28, 1) in 0 .. 1."""
    with np.load(DIGITS) as data:
        x, y = data["x"], data["y"]
    return jnp.asarray(x[y == 5][3] / 255, jnp.float32)[..., None]


def load_photos():
    """Crops of two photographs, (B, 64, 64, 3) in 0 .. 1, so small that pixels can be seen."""
    china, flower = (
        load_sample_image(name) / np.float32(255) for name in ("china.jpg", "flower.jpg")
    )
    corners = [(china, 20, 0), (flower, 60, 200), (china, 171, 384)]
    crops = [photo[top : top + 256, left : left + 256] for photo, top, left in corners]
    blocks = np.stack(crops).reshape(-1, 64, 4, 64, 4, 3)
    return jnp.asarray(blocks.mean((2, 4)))  # (3, 64, 64, 3): means of 4 x 4 pixels


# ----------------------------------------------------------------------------------------- the rows

PLACES = {  # an image of one channel
    "rotate(30)": aug.rotate(30),
    "scale(0.6, 1.4)": aug.scale(0.6, 1.4),
    "shift(5)": aug.shift(5),
    "affine(\n    degrees=20, shear=20,\n    scale=(0.8, 1.2), shift=3)": aug.affine(
        degrees=20, shear=20, scale=(0.8, 1.2), shift=3
    ),
    "crop(5)": aug.crop(5),
    "flip()": aug.flip(),
    'flip("vertical")': aug.flip("vertical"),
    "cutout(10)": aug.cutout(10, fill=0.5),
    "noise(0.2)": aug.noise(0.2),
}
SEQUENCES = {  # the same digit as a sequence: its columns are the steps, from left to right
    "time_shift(5)": aug.time_shift(5),
    "time_mask(10)": aug.time_mask(10, fill=0.5),
    "frequency_mask(10)": aug.frequency_mask(10, fill=0.5),
}
COLORS = {
    "brightness(0.3)": aug.brightness(0.3),
    "contrast(0.8)": aug.contrast(0.8),
    "saturation(1)": aug.saturation(1),
    "hue(0.5)": aug.hue(0.5),
    "color(0.2, 0.3, 0.3, 0.05)": aug.color(brightness=0.2, contrast=0.3, saturation=0.3, hue=0.05),
    'crop(16, fill="reflect")': aug.crop(16, fill="reflect"),
    "cutout(24)": aug.cutout(24, fill=0.5),
    "chain(\n    flip(), affine(...),\n    color(...))": aug.chain(
        aug.flip(),
        aug.affine(degrees=15, scale=(1.0, 1.3), shift=4),
        aug.color(brightness=0.2, contrast=0.3, saturation=0.3, hue=0.05),
    ),
    "apply_with(0.3, hue(0.5))": aug.apply_with(0.3, aug.hue(0.5)),
}
PAIRS = {"mixup(1)": aug.mixup(1.0), "cutmix(1)": aug.cutmix(1.0)}


def changed(f, x, key, count):
    """`x`, and what `fn.augment` makes of `count` copies of it, (count + 1, ...)."""
    copies = jnp.stack([x] * count)
    y, _ = fn.augment(f).apply({}, {}, copies, key=key)
    return np.concatenate([x[None], y])


def as_sequence(f, x, key, count):
    """The same for a digit whose columns are read as steps, and turned back to be looked at."""
    y = changed(f, x[..., 0].T, key, count)  # (count + 1, T, C)
    return y.swapaxes(1, 2)[..., None]


def mixed(mix, photos, key, count):
    """A photo and its mixtures with the others of a batch, and its share in each."""
    own = jnp.repeat(jnp.arange(len(photos)), 4 * count)  # each photo often
    y, partner, share = mix(key, photos[own])
    chosen = np.flatnonzero((own == 0) & (own[partner] != 0))[:count]
    return np.concatenate([photos[:1], y[chosen]]), ["", *(f"{share[i]:.2f}" for i in chosen)]


# -------------------------------------------------------------------------------------- the picture


def draw_row(axes, name, images, labels=None):
    """One row of images side by side, a pixel apart, with its name before it."""
    size = images.shape[1]
    strip = np.ones((size, len(images) * (size + 2), 3))
    for i, image in enumerate(images):
        strip[:, i * (size + 2) : i * (size + 2) + size] = np.clip(image, 0, 1)
        if labels and labels[i]:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(i * (size + 2), size - 1, labels[i], size=8, va="bottom", bbox=box)
    axes.imshow(strip, interpolation="nearest")
    axes.text(
        -3 * size / 64 - 1, size / 2, name, ha="right", va="center", family="monospace", size=9
    )
    axes.axis("off")


def draw(digit, photos, key, count):
    """All rows: on the left those of a digit, on the right those of photographs."""
    left = [(name, changed, f, digit) for name, f in PLACES.items()]
    left += [(name, as_sequence, f, digit) for name, f in SEQUENCES.items()]
    right = [(name, changed, f, photos[0]) for name, f in COLORS.items()]
    right += [(name, mixed, f, photos) for name, f in PAIRS.items()]
    rows = max(len(left), len(right))
    width, height = 0.8 * (count + 1) + 2.6, 0.85 * rows + 0.5  # in inches, 2.6 for the names
    figure = Figure(figsize=(2 * width, height))
    words = "the original, then one key each"
    headings = (words, f"{words}; a number is the share of its own label")
    for column, part in enumerate((left, right)):
        start = (column * width + 2.5) / (2 * width)
        figure.text(start, 1 - 0.3 / height, headings[column])
        for row, (name, make, f, x) in enumerate(part):
            images = make(f, x, jax.random.fold_in(key, 100 * column + row), count)
            images, labels = images if isinstance(images, tuple) else (images, None)
            bottom = 1 - (0.85 * row + 1.25) / height
            place = (start, bottom, (width - 2.6) / (2 * width), 0.8 / height)
            draw_row(figure.add_axes(place), name, images, labels)
    return figure


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    figure = draw(
        load_digit(), load_photos(), jax.random.key(options.seed), 4 if options.short else 9
    )
    path = options.out / "augmentation.png"
    figure.savefig(path, dpi=110)
    print(f"The picture is {path}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER")
    parser.add_argument("--short", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
