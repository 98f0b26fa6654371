"""What a GPU is for: `python -m benchmarks.gpu`, whose output is kept under `benchmarks/results/`.

Three parts: the trainings of `benchmarks.training` against PyTorch on the same device (eager,
compiled, compiled into CUDA graphs); an ensemble and a sweep of 256 members against one by one; and
a training step of GPT-2 small (124 million params, sequences of 1,024) in bfloat16, in tokens a
second and as a share of the card's peak, against `torch.compile` of the same size. `--tiny` runs
all of it in small, on a CPU too, only to see that it runs.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn
from benchmarks import peers
from benchmarks.timing import best, interleaved
from benchmarks.training import fit, print_versions
from benchmarks.workloads import NAMES, RATE, Workload, workload
from funcnet.studies.members import Member, gather, keys, train

Run = Callable[[], Any]

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}
"""Dense bfloat16 operations a second of a card, from NVIDIA's data sheets, SXM where there are two.

The name is a part of what the device calls itself.
"""

ONE_BY_ONE = 16
"""Members that are trained one by one, and scaled up to all."""


class Size(NamedTuple):
    """A transformer: GPT-2 small unless told otherwise."""

    vocabulary: int = 50257
    length: int = 1024
    width: int = 768
    heads: int = 12
    depth: int = 12
    batch: int = 16

    @property
    def flops_per_token(self) -> float:
        """Of forward and backward pass, as in PaLM's appendix B: 6 a param, and attention's."""
        per_block = 12 * self.width**2
        params = self.depth * per_block + self.vocabulary * self.width
        return 6 * params + 12 * self.depth * self.width * self.length


TINY = Size(vocabulary=97, length=32, width=32, heads=4, depth=2, batch=2)


# ------------------------------------------------------------------------------- the same trainings


def torch_fit(work: Workload, mode: str | None, device: str) -> Callable[[int], None]:
    """PyTorch's loop over tensors on the device, each batch of one shape.

    Args:
        work: what is trained.
        mode: None for eager, else a mode of `torch.compile`; `reduce-overhead` makes CUDA graphs.
        device: `"cuda"`, or `"cpu"` to see that it runs.
    """
    import torch as t

    net = peers.torch_net(work).to(device)
    x, y = (tensor.to(device) for tensor in peers.tensors(work))
    model = net if mode is None else t.compile(net, mode=mode)
    optimizer = t.optim.Adam(net.parameters(), lr=RATE, fused=device == "cuda")
    entropy = t.nn.CrossEntropyLoss()
    full = len(x) // work.batch_size * work.batch_size

    def run(epochs: int) -> None:
        for _ in range(epochs):
            total = t.zeros((), device=device)
            for index in t.randperm(len(x), device=device)[:full].split(work.batch_size):
                loss = entropy(model(x[index]).flatten(0, -2), y[index].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
            total.item()

    return run


def trainings(rounds: int, device: str, tiny: bool) -> None:
    """The table of trainings."""
    for name in ("mlp32",) if tiny else NAMES:
        work = workload(name)
        if tiny:
            work = work._replace(x=work.x[:256], y=work.y[:256], epochs=1)
        runs = {"fit": fit(work)}
        for words, mode in MODES.items() if find_spec("torch") else ():
            runs[words] = torch_fit(work, mode, device)
        for run in runs.values():
            run(work.epochs)
        times = interleaved({k: partial(run, work.epochs) for k, run in runs.items()}, rounds)
        print(f"\n{work.name}: {work.words}")
        for words, values in times.items():
            step = 1e6 * best(values) / (work.steps * work.epochs)
            print(f"  {words:<28}{step:>10,.0f} us/step{best(values) / best(times['fit']):>8.2f}")


MODES = {"torch eager": None, "torch.compile": "default", "torch, CUDA graphs": "reduce-overhead"}


# ------------------------------------------------------------------------------------------ studies


def studies(members: int) -> None:
    """An ensemble and a sweep as one program, against the same trainings by `fit`."""
    work = workload("mlp128")
    held = jax.device_put((work.x[:1000], work.y[:1000]))
    data = jax.device_put((work.x[1000:], work.y[1000:]))

    def make_trainer(rate: Any) -> fn.Trainer:
        return fn.Trainer(
            fn.sequential(fn.dense(64), jax.nn.relu, fn.dense(10)),
            loss=optax.losses.softmax_cross_entropy_with_integer_labels,
            optimizer=optax.adam(rate),
            metrics={"accuracy": fn.metrics.accuracy()},
        )

    arguments: dict[str, Any] = {"epochs": 10, "batch_size": 128}
    run = fn.make_run(make_trainer, **arguments)
    rates = {
        "ensemble": jnp.full(members, 1e-3),
        "sweep of rates": jnp.asarray(np.geomspace(1e-4, 1e-1, members), jnp.float32),
    }
    trainer, alone = make_trainer(1e-3), min(members, ONE_BY_ONE)

    def one_by_one() -> None:
        for seed in range(alone):
            trainer.fit(data, validation=held, seed=seed, progress=False, **arguments)

    one_by_one()
    seconds = best(interleaved({"one by one": one_by_one}, 3)["one by one"]) * members / alone
    print(f"\n{members} trainings one by one: {seconds:.2f} s (measured on {alone})")
    for name, values in rates.items():
        every = Member(keys(0, members), values)

        def at_once(every: Member = every) -> Any:
            chunks = train(run, every, data, held, by="vmap", progress=False)
            return jax.block_until_ready(gather(chunks))

        at_once()
        together = best(interleaved({name: at_once}, 3)[name])
        print(f"  {name:<28}{together:>8.2f} s{seconds / together:>8.1f} times as fast")


# -------------------------------------------------------------------------------------------- GPT-2


def gpt2(size: Size) -> fn.Model:
    """The model, whose embedding is also its last layer, as in GPT-2."""
    embed = fn.embedding(size.vocabulary, size.width)
    body = fn.sequential(
        fn.learned_positions(size.length),
        fn.layer_stack(fn.encoder_block(size.heads, 4 * size.width, causal=True), size.depth),
        fn.layer_norm(),
    )

    def init(key: jax.Array, x: Any) -> Any:
        first, rest = jax.random.split(key)
        params, _ = embed.init(first, x)
        hidden = jax.ShapeDtypeStruct((*x.shape, size.width), jnp.float32)
        return {"embed": params, "body": body.init(rest, hidden)[0]}, {}

    def apply(params: Any, model_state: Any, x: Any, *, key: Any = None, training: Any = None):
        h, _ = embed.apply(params["embed"], {}, x)
        h, _ = body.apply(params["body"], {}, h, key=key, training=training)
        return h @ params["embed"]["embedding"].T, model_state

    return fn.mixed_precision(fn.Model(init, apply))


def funcnet_gpt2(size: Size, steps: int) -> Run:
    """`steps` steps of AdamW."""
    trainer = fn.Trainer(
        gpt2(size),
        loss=optax.losses.softmax_cross_entropy_with_integer_labels,
        optimizer=optax.adamw(3e-4, weight_decay=0.1),
    )
    x, y = tokens(size, steps)
    state = trainer.init(jax.random.key(0), x[:1])
    print(f"  {fn.tree.size(state.params):,} params")
    advance = jax.jit(
        lambda state: trainer.advance(state, steps, (x, y), batch_size=size.batch)[0],
        donate_argnums=0,
    )
    held = [state]

    def run() -> None:
        held[0] = jax.block_until_ready(advance(held[0]))

    return run


def tokens(size: Size, steps: int) -> Any:
    drawn = np.random.default_rng(0).integers(
        size.vocabulary, size=(steps * size.batch, size.length + 1), dtype=np.int32
    )
    return jax.device_put((drawn[:, :-1], drawn[:, 1:]))


def torch_gpt2(size: Size, steps: int, device: str) -> Run:
    """The same in PyTorch: fused attention, fused AdamW, bfloat16 by autocast, compiled."""
    import torch as t
    from torch import nn
    from torch.nn import functional as f

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(size.width) for _ in range(2)])
            self.qkv = nn.Linear(size.width, 3 * size.width)
            self.out = nn.Linear(size.width, size.width)
            self.wide = nn.Linear(size.width, 4 * size.width)
            self.narrow = nn.Linear(4 * size.width, size.width)

        def forward(self, x: Any) -> Any:
            b, length, width = x.shape
            heads = self.qkv(self.norms[0](x)).view(b, length, 3, size.heads, -1)
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, heads, T, C / heads) each
            y = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(b, length, width))
            return x + self.narrow(f.gelu(self.wide(self.norms[1](x)), approximate="tanh"))

    class Gpt2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(size.vocabulary, size.width)
            self.positions = nn.Parameter(0.02 * t.randn(1, size.length, size.width))
            self.blocks = nn.Sequential(*[Block() for _ in range(size.depth)])
            self.norm = nn.LayerNorm(size.width)

        def forward(self, x: Any) -> Any:
            h = self.norm(self.blocks(self.embed(x) + self.positions))
            return h @ self.embed.weight.T

    t.set_float32_matmul_precision("high")
    net = Gpt2().to(device)
    model = t.compile(net)
    optimizer = t.optim.AdamW(net.parameters(), lr=3e-4, weight_decay=0.1, fused=device == "cuda")
    x, y = (
        t.tensor(np.asarray(part), dtype=t.int64, device=device) for part in tokens(size, steps)
    )

    def run() -> None:
        for k in range(steps):
            part = slice(k * size.batch, (k + 1) * size.batch)
            with t.autocast(device, dtype=t.bfloat16):
                logits = model(x[part])
            loss = f.cross_entropy(logits.float().flatten(0, 1), y[part].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    return run


def language(rounds: int, device: str, tiny: bool) -> None:
    """Tokens a second."""
    size, steps = (TINY, 2) if tiny else (Size(), 20)
    print(f"\nGPT-2 with {size}")
    runs = {"funcnet": funcnet_gpt2(size, steps)}
    if find_spec("torch"):
        runs["torch.compile"] = torch_gpt2(size, steps, device)
    for run in runs.values():
        run()
    times = interleaved(runs, rounds)
    kind = jax.devices()[0].device_kind
    peak = next((rate for name, rate in PEAKS.items() if name in kind), None)
    for name, values in times.items():
        rate = steps * size.batch * size.length / best(values)
        share = f", {rate * size.flops_per_token / peak:.1%} of the peak" if peak else ""
        print(f"  {name:<28}{rate:>12,.0f} tokens/s{share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=("trainings", "studies", "language"))
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    if device == "cpu" and not options.tiny:
        sys.exit("there is no GPU here: `--tiny` only shows that it runs")
    rounds = 1 if options.tiny else options.rounds
    began = time.perf_counter()
    if options.part in (None, "trainings"):
        trainings(rounds, device, options.tiny)
    if options.part in (None, "studies"):
        studies(4 if options.tiny else 256)
    if options.part in (None, "language"):
        language(rounds, device, options.tiny)
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    print_versions()


if __name__ == "__main__":
    main()
