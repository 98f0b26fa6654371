"""Tells two classes apart, with one layer and with several; sees the overfit, and stops it.

    python examples/binary.py            about 20 seconds
    python examples/binary.py --short    fewer epochs
    python examples/binary.py --plan v5e:2x2    what a step takes on four chips of a TPU

The model gives one number an example, the logit: the class is 1 where it is above 0, and its
sigmoid is the probability of class 1. The loss is the binary cross entropy. Two data sets:
scikit-learn's breast cancer, 569 tumours described by 30 numbers, and points that scikit-learn
makes up, a tenth of them with labels drawn by lot, which a large network learns by heart if it is
let. The curves of every fit are written into `out/`.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.model_selection import train_test_split

import funcnet as fn

PLAN = sys.argv[-1] if "--plan" in sys.argv else None
EPOCHS = 10 if "--short" in sys.argv else 100
OUT = Path("out")

STOPPING = {"to end": None, "stopped": fn.early_stopping("val_loss", patience=5)}


def split(x, y):
    """Training, validation and test data, 60 : 20 : 20, in units in which they are all alike."""
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    mean, std = x.mean(0), x.std(0)  # of the training data alone: the test must stay unseen
    parts = (x, y), (x_val, y_val), (x_test, y_test)
    return [((part - mean) / std, label) for part, label in parts]


DATA = {
    "breast cancer": load_breast_cancer(return_X_y=True),
    "made up": make_classification(
        2000, n_features=20, n_informative=5, flip_y=0.1, class_sep=0.8, random_state=0
    ),
}


def logit(x):
    return x[:, 0]  # (B, 1) -> (B,): one number an example, as the labels have


MODELS = {
    "one layer": fn.sequential(fn.dense(1), logit),
    "three layers": fn.sequential(
        *(fn.dense(64), jax.nn.relu, fn.dense(64), jax.nn.relu, fn.dense(1)), logit
    ),
}


def make_trainer(model):
    return fn.Trainer(
        model,
        loss=optax.losses.sigmoid_binary_cross_entropy,  # of logits: the sigmoid is inside
        optimizer=optax.adam(3e-3),
        metrics={"accuracy": fn.metrics.accuracy()},
    )


if PLAN:
    for name, model in MODELS.items():
        print(name)
        print(fn.plan(make_trainer(model), DATA["made up"], topology=PLAN, batch_size=32))
    sys.exit()

OUT.mkdir(exist_ok=True)
print("                                      epochs   train loss   test loss   test accuracy")
for data_name, (x, y) in DATA.items():
    train, validation, test = split(x, y)
    for model_name, model in MODELS.items():
        trainer = make_trainer(model)
        for end, stopping in STOPPING.items():
            result = trainer.fit(
                train, validation=validation, epochs=EPOCHS, stopping=stopping, progress=False
            )
            # whoever does not look at the validation loss takes what the last epoch left
            state = result.last if stopping is None else result.best
            fitted, held = trainer.evaluate(state, train), trainer.evaluate(state, test)
            print(
                f"{data_name:14} {model_name:13} {end:8} {len(result.history['loss']):6}"
                f" {fitted['loss']:12.3f} {held['loss']:11.3f} {held['accuracy']:15.3f}",
                flush=True,
            )
            name = f"binary_{data_name}_{model_name}_{end}.png".replace(" ", "_")
            fn.plot(result).savefig(OUT / name)

# The sigmoid makes a probability of a logit.
x_test, y_test = test
probability = jax.nn.sigmoid(trainer.predict(state, x_test))
sure = np.abs(probability - 0.5) > 0.4
right = (probability > 0.5) == y_test
print(f"\nOf {len(y_test)} made-up test points {sure.sum()} are told with a probability over 0.9,")
print(
    f"and {np.mean(right[sure]):.0%} of these rightly; of the others {np.mean(right[~sure]):.0%}."
)
