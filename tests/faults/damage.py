"""Files that a disk has damaged: what is restored is what was saved, or the step before it."""

import random
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.checkpoint import DamagedError, Store, restore
from tests.checkpoint.trees import same

NEWEST = "step-000000000002"


def tree(step):
    """A tree whose values tell of which step it is."""
    return {
        "w": jnp.arange(12.0).reshape(3, 4) + step,
        "half": jnp.full(5, step, jnp.bfloat16),
        "key": jax.random.key(step),
        "host": np.arange(3) * step,
        "count": step,
        "rate": step / 3,
    }


@cache
def trees():
    """The trees of both steps; made late, since a process that will fork may not start JAX."""
    return {step: tree(step) for step in (1, 2)}


def save_two(directory):
    """Two steps, of which the second is to be damaged."""
    with Store(directory) as store:
        for step, saved in trees().items():
            store.save(step, saved, {"batch_size": 32})


def verdict(directory):
    """What is restored: `"newest"` or `"before"`, or what is wrong with it."""
    found = restore(directory, trees()[1], description={"batch_size": 32})
    if not same(found.tree, trees()[found.step]):
        return f"step {found.step} has wrong values"
    return {1: "before", 2: "newest"}[found.step]


def files_of(directory):
    return sorted(path for path in (directory / NEWEST).rglob("*") if path.is_file())


def flip(path, bit):
    """Turns one bit of a file over."""
    text = bytearray(path.read_bytes())
    text[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(text)


def flips(directory, number, seed=0):
    """What becomes of single bits turned over, anywhere in the files of the newest step."""
    draw = random.Random(seed)
    files = files_of(directory)
    sizes = [path.stat().st_size for path in files]
    for _ in range(number):
        [path] = draw.choices(files, sizes)
        bit = draw.randrange(8 * path.stat().st_size)
        flip(path, bit)
        yield f"bit {bit} of {path.relative_to(directory)}", verdict(directory)
        flip(path, bit)


def losses(directory):
    """What becomes of each file cut short, emptied, lengthened, deleted, or of its folder."""
    ways = {
        "cut short": lambda path, text: path.write_bytes(text[: len(text) // 2]),
        "less a byte": lambda path, text: path.write_bytes(text[:-1]),
        "emptied": lambda path, text: path.write_bytes(b""),
        "lengthened": lambda path, text: path.write_bytes(text + b"\0"),
        "zeroed": lambda path, text: path.write_bytes(bytes(len(text))),
        "deleted": lambda path, text: path.unlink(),
        "its folder deleted": lambda path, text: shutil.rmtree(path.parent),
    }
    spare = directory.with_name("spare")
    shutil.copytree(directory, spare)
    for path in files_of(directory):
        for way, harm in ways.items():
            harm(path, path.read_bytes())
            yield f"{path.relative_to(directory)} {way}", verdict(directory)
            shutil.rmtree(directory / NEWEST, ignore_errors=True)
            shutil.copytree(spare / NEWEST, directory / NEWEST)
    shutil.rmtree(spare)


def all_damaged(directory):
    """The words of the error where no step is left; None if there is none."""
    for step in (1, 2):
        flip(Path(directory) / f"step-{step:012d}" / "arrays/000001/0", 3)
    try:
        restore(directory, trees()[1])
    except DamagedError as error:
        return str(error)
    return None
