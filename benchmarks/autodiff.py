"""What derivatives cost, as ratios in one run: `python -m benchmarks.autodiff`.

A Hessian-vector product against gradients, of an MLP and a convnet: 2.5 at most. Gradients of each
example against torch.func's `vmap(grad)`, where torch is installed: ahead. The memory of a Jacobian
in chunks, as the compiler reports it: under its bound, where that of `jax.jacrev` is not. The
contenders run in turns and are compared by their minima; the spread of one against its own twin is
printed beside.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeAlias

import jax
import optax

import funcnet as fn
from benchmarks import peers
from benchmarks.timing import best, interleaved, spread
from benchmarks.training import model, print_versions
from benchmarks.workloads import Workload, workload
from funcnet.autodiff.matrices import jacobian
from funcnet.autodiff.per_example import per_example_grads
from funcnet.autodiff.products import hvp

Run: TypeAlias = Callable[[], None]

NAMES = ("mlp32", "convnet")

CALLS = {"mlp32": 100, "convnet": 3}
"""Products or gradients in a timed run, so that it lasts a tenth of a second or so."""

BATCHES = {"mlp32": 5, "convnet": 1}
"""Batches whose examples' gradients are taken in a timed run, likewise."""

GRADIENTS = 2.5
"""Gradients that a Hessian-vector product may cost."""

BOUND = 2**26
"""Bytes that the Jacobian in chunks may take."""

IMAGES = 16
"""Images of whose logits the Jacobian is taken, by the kernels of the first layer."""


def repeated(calls: int, function: Callable[..., Any], *args: Any) -> Run:
    """`calls` calls of a compiled function, each waited for; it is compiled and warm."""
    jax.block_until_ready(function(*args))

    def run() -> None:
        for _ in range(calls):
            jax.block_until_ready(function(*args))

    return run


def ready(work: Workload) -> tuple[fn.types.Params, tuple[jax.Array, jax.Array], Any]:
    """Params, the first batch, and `loss(params, (x, y))` of one example."""
    net = model(work)
    x, y = jax.device_put((work.x[: work.batch_size], work.y[: work.batch_size]))
    params, _ = net.init(jax.random.key(0), x)

    def loss(params: fn.types.Params, example: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = example
        logits, _ = net.apply(params, {}, x[None], training=False)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits[0], y)

    return params, (x, y), loss


def measure_hvp(work: Workload, rounds: int) -> bool:
    """Times gradients and Hessian-vector products of the mean loss of a batch."""
    net, calls = model(work), CALLS[work.name]
    params, (x, y), _ = ready(work)

    def objective(params: fn.types.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        logits, _ = net.apply(params, {}, x, training=False)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    product = jax.jit(lambda params, v, x, y: hvp(objective, params, v, x, y))
    times = interleaved(
        {
            "gradient": repeated(calls, jax.jit(jax.grad(objective)), params, x, y),
            "its twin": repeated(calls, jax.jit(jax.grad(objective)), params, x, y),
            "hvp": repeated(calls, product, params, params, x, y),
        },
        rounds,
    )
    low, high = spread(times["its twin"], times["gradient"])
    ratio = best(times["hvp"]) / best(times["gradient"])
    good = ratio <= GRADIENTS
    print(
        f"{work.name}: gradient {1e6 * best(times['gradient']) / calls:,.0f} us, hvp / gradient = "
        f"{ratio:.2f} (at most {GRADIENTS}, A/A {low:.2f}-{high:.2f}): {'ok' if good else 'NOT ok'}"
    )
    return good


def torch_func(work: Workload) -> Run:
    """`torch.func.vmap(grad(loss))` of the same network over the same batch."""
    import torch as t

    net, (x, y) = peers.torch_net(work), peers.tensors(work)
    x, y = x[: work.batch_size], y[: work.batch_size]
    params = {name: p.detach() for name, p in net.named_parameters()}

    def loss(params: Any, x: Any, y: Any) -> Any:
        logits = t.func.functional_call(net, params, (x[None],))
        return t.nn.functional.cross_entropy(logits, y[None])

    gradients = t.func.vmap(t.func.grad(loss), in_dims=(None, 0, 0))

    def run() -> None:
        for _ in range(BATCHES[work.name]):
            gradients(params, x, y)

    run()
    return run


def measure_per_example(work: Workload, rounds: int, with_peers: bool) -> bool:
    """Times the gradients of each example of a batch."""
    params, batch, loss = ready(work)
    calls = BATCHES[work.name]
    stacked = partial(per_example_grads, loss)
    contenders = {
        "funcnet": repeated(calls, jax.jit(stacked), params, batch),
        "its twin": repeated(calls, jax.jit(stacked), params, batch),
    }
    if with_peers and find_spec("torch") is not None:
        contenders["torch.func"] = torch_func(work)
    times = interleaved(contenders, rounds)
    low, high = spread(times["its twin"], times["funcnet"])
    words = f"{work.name}: per example {1e3 * best(times['funcnet']) / calls:,.2f} ms a batch of"
    words = f"{words} {work.batch_size} (A/A {low:.2f}-{high:.2f})"
    if "torch.func" not in times:
        print(f"{words}; torch.func: absent, not asked for or torch is not installed")
        return True
    ratio = best(times["torch.func"]) / best(times["funcnet"])
    good = ratio >= 1
    print(f"{words}, torch.func / funcnet = {ratio:.2f}: {'ahead' if good else 'NOT ahead'}")
    return good


def measure_memory(work: Workload) -> bool:
    """Asks the compiler for the temporary memory of a Jacobian, in chunks and plain."""
    net = model(work)
    params, (x, _), _ = ready(work)
    first = {"0": params["0"]}

    def logits(first: fn.types.Params) -> jax.Array:
        return net.apply({**params, **first}, {}, x[:IMAGES], training=False)[0]

    def temporary(function: Callable[..., Any]) -> int:
        analysis = jax.jit(function).lower(first).compile().memory_analysis()
        return int(analysis.temp_size_in_bytes)

    plain = temporary(jax.jacrev(logits))
    chunked = temporary(partial(jacobian, logits, mode="reverse", chunk_bytes=BOUND))
    good = chunked <= BOUND < plain
    print(
        f"{work.name}: Jacobian of {IMAGES} images' logits by the first layer, bound "
        f"{BOUND / 2**20:,.0f} MiB: in chunks {chunked / 2**20:,.0f} MiB, jax.jacrev "
        f"{plain / 2**20:,.0f} MiB: {'ok' if good else 'NOT ok'}"
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workload", choices=(*NAMES, "all"), default="all")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--no-check", action="store_true", help="exit with 0 in any case")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # a long run is watched through pipes too
    names = NAMES if options.workload == "all" else (options.workload,)
    good = []
    for work in map(workload, names):
        good.append(measure_hvp(work, options.rounds))
        good.append(measure_per_example(work, options.rounds, options.peers))
        if work.kind == "convnet":
            good.append(measure_memory(work))
    print_versions()
    return int(not all(good) and not options.no_check)


if __name__ == "__main__":
    sys.exit(main())
