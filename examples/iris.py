"""Three kinds of iris from four measures of their flowers: the smallest real problem there is.

python examples/iris.py             some seconds; writes out/iris.png
python examples/iris.py --short     fewer epochs
python examples/iris.py --plan v5e:2x2    what a step takes on four chips of a TPU
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

import funcnet as fn


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    iris = load_iris()
    x, x_test, y, y_test = train_test_split(
        iris.data.astype("float32"), iris.target, test_size=50, stratify=iris.target, random_state=0
    )
    mean, std = jnp.asarray(x.mean(0)), jnp.asarray(x.std(0))
    model = fn.sequential(
        lambda x: (x - mean[None]) / std[None],  # in the model: whoever uses it can't forget it
        fn.dense(16),
        jax.nn.tanh,
        fn.dense(3),
    )
    trainer = fn.Trainer(
        model,
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adamw(1e-2),
        metrics={
            "accuracy": fn.metrics.accuracy(),
            "f1": fn.metrics.f1(3, average="macro"),
            "confusion": fn.metrics.confusion_matrix(3),
        },
    )
    if options.plan:
        print(fn.plan(trainer, (x, y), topology=options.plan, batch_size=16))
        return
    result = trainer.fit(
        (x, y),
        validation=0.2,
        epochs=20 if options.short else 200,
        batch_size=16,
        stopping=fn.early_stopping("val_loss", patience=20),
    )
    print(result)
    values = trainer.evaluate(result.best, (x_test, y_test))
    print(f"of 50 flowers never seen: accuracy {values['accuracy']:.2f}, F1 {values['f1']:.2f}")
    print("true kind (rows) and predicted kind (columns):")
    for name, row in zip(iris.target_names, values["confusion"], strict=True):
        print(f"  {name:<12}{' '.join(f'{n:3}' for n in row)}")
    fn.plot(result).savefig(options.out / "iris.png", dpi=150)
    print(f"wrote {options.out / 'iris.png'}")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    parser.add_argument("--short", action="store_true", help="fewer epochs")
    parser.add_argument("--plan", metavar="TOPOLOGY", help="only say what a step takes there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
