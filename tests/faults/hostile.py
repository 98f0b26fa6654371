"""Files made to harm: each is refused with a typed error, within bounds, and nothing is run.

`python -m tests.faults.hostile 1000` runs all classes and 1,000 fuzzed files of each kind in a
process whose audit hook watches, and prints what became of them as JSON.
"""

import gc
import json
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from funcnet.checkpoint import (
    DamagedError,
    MismatchError,
    Store,
    load_weights,
    restore,
    save_weights,
    transfer,
    unknown,
)
from tests.checkpoint.trees import same
from tests.faults.hostile_files import FILES, packed
from tests.faults.hostile_steps import CLASSES, STEP, ZARRAY, forge, replace

FINE = "refused", "harmless"
WATCHED = ("os.", "shutil.", "subprocess.", "socket.", "pickle.", "import", "exec", "compile")
ALLOWED = ("os.listdir", "os.scandir", "socket.__new__")
"""Looking, and the pair of sockets by which an event loop of asyncio wakes itself."""


def tree():
    return {"w": jnp.arange(6.0).reshape(2, 3), "x": np.arange(2**10), "n": 3, "rate": 0.5}


def weights():
    return {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(3, jnp.bfloat16)}


VALUES = [None, True, -1, 0, 1, 2**31, 2**63, 1.5, [], {}, [2, 3], [[]]]
VALUES += ["", "../x", "|O", "<f4", "object", "9" * 99]


def mutated(text, draw):
    """Bytes of which a few are changed, cut out or doubled."""
    text = bytearray(text)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at, way = draw.randrange(len(text) or 1), draw.randrange(4)
        if way == 0 and text:
            text[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            text[at:at] = bytes(draw.choices(range(256), k=draw.randrange(1, 5)))
        elif way == 2:
            del text[at : at + draw.randrange(1, 30)]
        else:
            text[at:at] = text[at : at + draw.randrange(1, 200)]
    return bytes(text)


def changed(value, draw):
    """JSON of which one value, anywhere, is another."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {("x" if n == name else n): v for n, v in value.items()}
        return value | {name: changed(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        return [*value[:at], changed(value[at], draw), *value[at + 1 :]]
    return draw.choice([each for each in VALUES if each != value])


def fuzzed_step(seed):
    draw = random.Random(seed)
    way = seed % 4
    if way == 0:
        return forge(lambda content: changed(content, draw))
    if way == 1:
        return forge(lambda content: mutated(json.dumps(content).encode(), draw))
    if way == 2:
        return replace(ZARRAY, lambda text: json.dumps(changed(json.loads(text), draw)).encode())
    return replace(ZARRAY, lambda text: mutated(text, draw))


def fuzzed_file(seed, good):
    draw = random.Random(seed)
    length = int.from_bytes(good[:8], "little")
    head, data = good[8 : 8 + length], good[8 + length :]
    if seed % 3 == 0:
        return packed(changed(json.loads(head), draw), data)
    if seed % 3 == 1:
        return packed(mutated(head, draw), data)
    return mutated(good, draw)


def outcome(call, good):
    """What becomes of a call: refused, or harmless where its result is what was saved."""
    WATCH.on = True
    try:
        found = call()
    except (DamagedError, MismatchError) as error:
        return "refused" if str(error).startswith("`") else f"in other words: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        WATCH.on = False
    return "harmless" if good(found) else "let through"


def like_saved(found):
    """Whether what was restored has the kinds and shapes of what was saved, and its arrays' bits.

    A number of Python's is in the manifest itself: who may forge that may choose it.
    """
    numbers = {"n": 3, "rate": 0.5}
    return (
        type(found.tree["n"]) is int
        and type(found.tree["rate"]) is float
        and same(found.tree | numbers, tree() | numbers)
    )


def steps_of(root, fuzz):
    """Every attacked step, with what becomes of it, by name."""
    good = root / "good"
    with Store(good) as store:
        store.save(1, tree(), {"batch_size": 3})
    attacks = CLASSES | {f"fuzzed step {seed}": fuzzed_step(seed) for seed in range(fuzz)}
    for name, attack in attacks.items():
        place = root / "case" / "run"
        shutil.copytree(good, place)
        attack(place / STEP)
        yield name, outcome(lambda place=place: restore(place, tree()), like_saved)
        if not name.startswith("fuzzed"):
            like = unknown(at_most=2**16)
            yield (
                f"{name}, with nothing known",
                outcome(lambda p=place, w=like: restore(p, w), lambda _: True),
            )
            part = {"w": tree()["w"]}
            yield (
                f"{name}, in part",
                outcome(
                    lambda p=place, w=part: transfer(p, w, under=""),
                    lambda found, w=part: same(found, w),
                ),
            )
        shutil.rmtree(root / "case")


def files_of(root, fuzz):
    """Every attacked file, with what becomes of it, by name."""
    path = root / "w.safetensors"
    save_weights(path, weights())
    good = path.read_bytes()
    cases = FILES | {f"fuzzed file {seed}": fuzzed_file(seed, good) for seed in range(fuzz)}
    shapes = [(np.shape(v), str(v.dtype)) for v in (weights()["a"]["kernel"], weights()["b"])]

    def sound(found):
        return [(v.shape, str(v.dtype)) for v in (found["a"]["kernel"], found["b"])] == shapes

    for name, text in cases.items():
        path.write_bytes(text)
        if not name.startswith("fuzzed"):
            yield name, outcome(lambda: load_weights(path), lambda _: False)
        yield f"{name}, with like", outcome(lambda: load_weights(path, weights()), sound)
    for name, target in {"a device": "/dev/zero", "a folder": str(root)}.items():
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        yield f"a link to {name}", outcome(lambda: load_weights(path), lambda _: False)


class Watch:
    """An audit hook that notes what a reader has no business to do."""

    def __init__(self):
        self.on, self.seen = False, Counter()
        sys.addaudithook(self.note)

    def note(self, event, args):
        if not self.on or event in ALLOWED:
            return
        if event == "open":
            mode, flags = args[1], args[2]
            written = isinstance(mode, str) and set(mode) & set("wax+")
            if written or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.seen[f"open {args[0]!r:.80}"] += 1
        elif event.startswith(WATCHED):
            self.seen[f"{event} {str(args[:2])[:80]}"] += 1


WATCH = Watch()


def must_be_refused(name):
    """Whether a case is one of the classes, attacked as a whole."""
    return name in CLASSES or name in FILES


def listing(root):
    return sorted(str(path) for path in root.rglob("*"))


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    fuzz = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    # threads are started here before they are watched, and modules imported
    found, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with Store(root / "warm") as store:
            store.save(1, tree())
            store.restore(tree())
        save_weights(root / "warm.safetensors", weights())
        load_weights(root / "warm.safetensors", weights())
        outside, before = listing(root / "warm"), memory()
        for kind in (steps_of, files_of):
            for name, what in kind(root, fuzz):
                found[what if what in FINE else "wrong"] += 1
                if what not in FINE or (what == "harmless" and must_be_refused(name)):
                    wrong.append((name, what))
        gc.collect()
        assert listing(root / "warm") == outside
        more = memory() - before
    print(json.dumps({"outcomes": found, "wrong": wrong[:20], "memory": more, "seen": WATCH.seen}))


if __name__ == "__main__":
    main()
