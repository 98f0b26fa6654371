"""What three networks take on TPUs that are not here: `python -m benchmarks.plan`.

Compiles a training step of each for several slices and placements with the real TPU compiler, a
minute or two each on 2 cores, and writes `benchmarks/results/plan.md`. Rows that are finished are
kept in `out/plan.jsonl`, and a second run goes on from there; `--afresh` begins anew.
"""

import argparse
import json
import runpy
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import funcnet as fn
from funcnet.planning import Plan, plan
from funcnet.planning.report import COLUMNS, row

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "mnist.py"
RESULT = HERE / "results" / "plan.md"
KEPT = Path("out/plan.jsonl")

CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels
SLICES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x8")


class Network(NamedTuple):
    """What is planned: a trainer, a batch for one device, and the ways to place it."""

    title: str
    trainer: fn.Trainer
    batch: tuple[Any, Any]
    places: dict[str, Callable[[list[Any]], fn.Placement]]
    slices: tuple[str, ...] = SLICES


def transformer(width: int, heads: int, depth: int, length: int, vocabulary: int) -> fn.Model:
    """A decoder of the kind of GPT, in bfloat16, one block after the other computed anew."""
    block = fn.encoder_block(heads, 4 * width, causal=True)
    return fn.mixed_precision(
        fn.sequential(
            embed=fn.embedding(vocabulary, width),
            positions=fn.learned_positions(length),
            blocks=fn.layer_stack(fn.remat(block), depth),
            norm=fn.layer_norm(),
            out=fn.dense(vocabulary),
        )
    )


def tensor_parallel(model: int, shard: tuple[str, ...] = ()) -> Callable[[list[Any]], fn.Placement]:
    """Each block's heads and hidden features among `model` devices, one sum after each half."""
    rules: dict[str, Any] = {
        f"blocks/attention/{part}/kernel": (None, None, "model") for part in PROJECTIONS
    }
    rules |= {f"blocks/attention/{part}/bias": (None, "model") for part in PROJECTIONS}
    rules |= {
        "blocks/attention/out/kernel": (None, "model"),
        "blocks/mlp/hidden/kernel": (None, None, "model"),
        "blocks/mlp/hidden/bias": (None, "model"),
        "blocks/mlp/out/kernel": (None, "model"),
        "embed/embedding": ("model",),
        "out/kernel": (None, "model"),
        "out/bias": ("model",),
    }

    def place(devices: list[Any]) -> fn.Placement:
        return fn.on_mesh({"data": -1, "model": model}, rules=rules, shard=shard, devices=devices)

    return place


PROJECTIONS = ("query", "key", "value")


def language(
    title: str,
    examples: int,
    length: int,
    model: int,
    depth: int,
    heads: int,
    width: int,
    both: bool,
) -> Network:
    """A language model, and the ways to divide it: three, and the last two at once if asked."""
    together = {f"tensor parallel, {model}, the rest sharded": tensor_parallel(model, ("data",))}
    tokens = jax.ShapeDtypeStruct((examples, length), jnp.int32)
    return Network(
        title,
        fn.Trainer(
            transformer(width, heads, depth, length, 50_304),
            loss=CROSS_ENTROPY,
            optimizer=optax.adamw(3e-4, weight_decay=0.1),
        ),
        (tokens, tokens),
        {
            "data parallel": fn.data_parallel,
            "fully sharded": fn.fully_sharded,
            f"tensor parallel, {model}": tensor_parallel(model),
            **(together if both else {}),
        },
    )


def mnist() -> Network:
    """The convolutional network of `examples/mnist.py`, its trainer and all."""
    example = runpy.run_path(str(EXAMPLE))
    x = jax.ShapeDtypeStruct((128, 28, 28, 1), jnp.uint8)
    return Network(
        "The convolutional network of `examples/mnist.py`, 128 images a chip",
        example["make_trainer"](example["MODELS"]["convolutional"], 20, 7200),
        (x, jax.ShapeDtypeStruct((128,), jnp.uint8)),
        {"data parallel": fn.data_parallel, "fully sharded": fn.fully_sharded},
    )


NETWORKS: dict[str, Callable[[], Network]] = {
    "mnist": mnist,
    "gpt2": lambda: language(
        "GPT-2 small: 12 blocks of width 768, an output matrix of its own, 8 x 1,024 tokens a chip",
        *(8, 1024, 4, 12, 12, 768, False),
    ),
    "7b": lambda: language(
        "7 billion params: 32 blocks of width 4,096, 1 x 2,048 tokens a chip",
        *(1, 2048, 16, 32, 32, 4096, True),
    ),
}


def rows(network: Network, kept: dict[str, list[str]]) -> Iterator[list[str]]:
    """A row for each slice and placement."""
    for topology in network.slices:
        for name, place in network.places.items():
            key = f"{network.title}; {topology}; {name}"
            if key not in kept:
                began = time.perf_counter()
                found = attempt(network, topology, place)
                kept[key] = [name, *row(found)] if isinstance(found, Plan) else [name, found]
                keep(key, kept[key])
                print(f"{key}: {time.perf_counter() - began:.0f} s\n{found}\n", flush=True)
            yield kept[key]


def attempt(
    network: Network, topology: str, place: Callable[[list[Any]], fn.Placement]
) -> Plan | str:
    """The plan, or why there can be none."""
    devices = prod(int(n) for n in topology.split(":")[1].split("x"))
    batch_size = devices * len(network.batch[1])
    try:
        return plan(
            network.trainer,
            network.batch,
            topology=topology,
            placement=place,
            batch_size=batch_size,
        )
    except ValueError as error:
        return str(error)


def keep(key: str, cells: list[str]) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("a") as file:
        file.write(json.dumps({"key": key, "row": cells}) + "\n")


def write(sections: dict[str, list[list[str]]]) -> None:
    """The page, with as many rows as there are so far."""
    head = ("placement", *COLUMNS)
    lines = [
        "# What three networks take on TPUs, planned without one",
        "",
        f"Made by `python -m benchmarks.plan` with jax {jax.__version__} and libtpu "
        f"{version('libtpu')}. Memory, FLOPs, bytes moved and bytes sent are those of one chip and "
        "one step; the rest is of all chips together. docs/planning.md says what they mean.",
    ]
    for title, found in sections.items():
        lines += ["", f"## {title}", "", table(head), table(["---"] * len(head))]
        lines += [table(cells) for cells in found]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join([*lines, ""]))


def table(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--slices", nargs="+", help="other slices than those of the page")
    parser.add_argument("--afresh", action="store_true", help="forget the rows that are finished")
    options = parser.parse_args()
    if options.afresh:
        KEPT.unlink(missing_ok=True)
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    kept = {found["key"]: found["row"] for found in map(json.loads, lines)}
    sections: dict[str, list[list[str]]] = {}
    for name in options.only:
        network = NETWORKS[name]()
        if options.slices:
            network = network._replace(slices=tuple(options.slices))
        sections[network.title] = []
        for cells in rows(network, kept):
            sections[network.title].append(cells)
            write(sections)


if __name__ == "__main__":
    main()
