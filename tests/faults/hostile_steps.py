"""What may be done to a step by one who wants to harm: a class of attack each.

The manifest has the right digest, and says of the files what is true, unless that is the attack.
"""

import hashlib
import json
import os
import shutil

STEP = "step-000000000001"
FIRST = "arrays/000002"
ZARRAY = f"{FIRST}/.zarray"
CHUNK = f"{FIRST}/0.0"
MEBIBYTE = 2**20


def content_of(step):
    return json.loads((step / "manifest.json").read_bytes())["content"]


def put_content(step, content):
    """Writes a manifest whose digest is right."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    whole = b'{"content":' + text + b',"sha256":"' + digest + b'"}\n'
    (step / "manifest.json").write_bytes(whole)


def forge(change):
    """An attack that changes the content of the manifest."""

    def attack(step):
        content = content_of(step)
        found = change(content)
        put_content(step, content if found is None else found)

    return attack


def replace(name, text):
    """An attack that changes a file, and tells the manifest so."""

    def attack(step):
        path = step / name
        path.write_bytes(text(path.read_bytes()) if callable(text) else text)
        content = content_of(step)
        content["files"][name] = [
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        ]
        put_content(step, content)

    return attack


def header(**changes):
    """An attack that changes the header of an array."""

    def text(before):
        said = json.loads(before) | changes
        return json.dumps({name: value for name, value in said.items() if value != "-"}).encode()

    return replace(ZARRAY, text)


def entry(**changes):
    """An attack that changes what the manifest says of the array."""
    return forge(lambda content: arrays_of(content)[0].update(changes))


def arrays_of(content):
    return [leaf for leaf in content["leaves"] if leaf["kind"] == "array"]


def listed(name, size=3, digest="0" * 64):
    """An attack that names a file more."""
    return forge(lambda content: content["files"].update({name: [size, digest]}))


def both(*attacks):
    def attack(step):
        for each in attacks:
            each(step)

    return attack


def linked(name, target=None):
    """An attack that has a link in place of a file or folder."""

    def attack(step):
        path = step / name if name else step
        away = step.parent.parent / "outside"
        shutil.move(path, away)
        path.symlink_to(away if target is None else target)

    return attack


def piped(name):
    def attack(step):
        (step / name).unlink()
        os.mkfifo(step / name)

    return attack


def sparse(name, size):
    def attack(step):
        os.truncate(step / name, size)
        content = content_of(step)
        if name in content["files"]:
            content["files"][name][0] = size
            put_content(step, content)

    return attack


def crowded(step):
    for i in range(1_100):
        (step / f"{i}").touch()


def swollen(step):
    """An array of 4 TiB that takes no room on the disk, and for which all is in order."""
    size = 2**42
    header(shape=[size // 4], chunks=[size // 4])(step)
    (step / CHUNK).rename(step / FIRST / "0")
    os.truncate(step / FIRST / "0", size)
    content = content_of(step)
    content["files"][f"{FIRST}/0"] = [size, "0" * 64]
    content["files"].pop(CHUNK)
    arrays_of(content)[0]["shape"] = [size // 4]
    put_content(step, content)


def foldered(step):
    (step / CHUNK).unlink()
    (step / CHUNK).mkdir()


def described(content, text):
    """The content with a text of JSON in its description."""
    said = json.dumps(content | {"description": {"a": 7777}}).encode()
    return said.replace(b"7777", text)


SHAPES = [[2**40], [2**47, 2**47], [2**63], [-1], [2, -3], [2.0, 3], [True, 3], [1] * 99, [[6]]]
SHAPES += [{}, "6", None]
OBJECTS = ["|O", "object", "O8", "<U9", "|V8", "os.system", [["a", "<f4"]], None, 4, "json"]
CODE = {
    "int": ["__import__('os').getpid()", "9" * 5000, 3, "\uff11"],
    "float": ["0x1p99999999", "1" * 99, None],
    "bool": ["True"],
    "eval": ["1"],
    "NoneType": [None],
    "str": [3, "a" * 2**21],
}
ENTRIES = {
    "files": [[], {ZARRAY: 3}, {ZARRAY: [1, 2]}, {ZARRAY: [-1, "0" * 64]}],
    "leaves": [{}, [3], None],
    "description": [[]],
    "metric": ["nine", []],
    "step": [1.0, True, -1],
}
MORE = {"path": "../x", "kind": "bool", "value": True}
DEEP = b"[" * 200_000 + b"]" * 200_000
CLASSES = {
    **{
        f"path traversal: {name}": listed(name)
        for name in ("../../x", "/etc/passwd", f"{FIRST}/../../x", f"{FIRST}/0\\..", "C:x", "", ".")
    },
    "a link for a file": linked(CHUNK),
    "a link for a folder": linked(FIRST),
    "a link for the manifest": linked("manifest.json"),
    "a link for the step": linked(""),
    "a link to a device": linked(CHUNK, "/dev/zero"),
    "a link to itself": linked(CHUNK, "0.0"),
    "a pipe for a file": piped(CHUNK),
    "a pipe for the manifest": piped("manifest.json"),
    "a pipe beside": lambda step: os.mkfifo(step / "pipe"),
    "a folder for a file": foldered,
    "too many files": crowded,
    **{
        f"shape bomb: {shape}": both(entry(shape=shape), header(shape=shape, chunks=shape))
        for shape in SHAPES
    },
    **{
        f"chunk bomb: {chunks}": header(chunks=chunks)
        for chunks in ([2**40, 3], [0, 3], [-2, 3], [2], [2, 3, 1], [2.0, 3], None, "23", [2, 2])
    },
    "shapes of two minds": header(shape=[2, 4]),
    "4 TiB that take no room": swollen,
    "a sparse file": sparse(CHUNK, 2**42),
    "a sparse manifest": lambda step: os.truncate(step / "manifest.json", 2**40),
    "a manifest of 65 MiB": lambda step: put_content(step, b" " * 65 * MEBIBYTE),
    **{
        f"zip bomb: {codec}": header(compressor={"id": codec, "level": 1})
        for codec in ("zlib", "gzip", "bz2", "zstd", "blosc", "lzma", "pickle")
    },
    "a filter": header(filters=[{"id": "pickle"}]),
    **{
        f"object array: {dtype}": both(entry(dtype=dtype), header(dtype=dtype))
        for dtype in OBJECTS
    },
    "dtypes of two minds": header(dtype="<f8"),
    **{f"kind {kind!r}": entry(kind=kind) for kind in ("pickle", "int", None, 3, {}, [], "key<>")},
    "keys for numbers": entry(kind="key<fry>"),
    "keys of one's own": entry(kind="key<os.system>"),
    **{
        f"a value that is code: {kind} {value!r:.20}": forge(
            lambda content, k=kind, v=value: content["leaves"][0].update(kind=k, value=v)
        )
        for kind, values in CODE.items()
        for value in values
    },
    "a key twice": forge(lambda c: json.dumps(c).encode()[:-1] + b', "step": 1}'),
    "a header's key twice": replace(ZARRAY, lambda text: text[:-1] + b',"order":"C"}'),
    **{
        f"a number of JSON's: {text:.9}": forge(
            lambda content, text=text: described(content, text.encode())
        )
        for text in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 30, "9" * 5000, "1" * 2**20)
    },
    "nested": forge(lambda content: json.dumps(content).encode()[:-1] + b',"a":' + DEEP + b"}"),
    "a nested description": forge(lambda content: described(content, DEEP)),
    "a nested shape": entry(shape=json.loads(DEEP[199_500:200_500])),
    "a nested header": replace(ZARRAY, DEEP),
    "a long header": replace(ZARRAY, lambda text: text + b" " * 5000),
    "a header that is none": replace(ZARRAY, b"[]"),
    "a header without a dtype": header(dtype="-"),
    "a header with more": header(attributes={"a": 1}),
    "a header of Zarr 3": header(zarr_format=3),
    "a header of another order": header(order="F"),
    "a header that fills": header(fill_value=0.5),
    "a header of other names": header(dimension_separator="/"),
    "not UTF-8": forge(lambda content: b'{"step": "\xff\xfe"}'),
    "UTF-16": forge(lambda content: json.dumps(content).encode("utf-16")),
    "no manifest's text": forge(lambda content: b"import os"),
    "an empty manifest": lambda step: (step / "manifest.json").write_bytes(b""),
    "another step's manifest": forge(lambda content: content.update(step=2)),
    "another format": forge(lambda content: content.update(format=2)),
    "an entry more": forge(lambda content: content.update(run="me")),
    "an entry less": forge(lambda content: content.pop("files")),
    **{
        f"{name} as {value!r:.40}": forge(lambda content, n=name, v=value: content.update({n: v}))
        for name, values in ENTRIES.items()
        for value in values
    },
    "a leaf twice": forge(lambda content: content["leaves"].append(content["leaves"][0])),
    "a leaf without a path": forge(lambda content: content["leaves"][0].pop("path")),
    "a leaf more": forge(lambda content: content["leaves"].append(dict(MORE))),
    "a leaf less": forge(lambda content: content["leaves"].pop()),
    "no leaves": forge(lambda content: content["leaves"].clear()),
    "a file that is not named": forge(lambda content: content["files"].pop(CHUNK)),
    "a header that is not named": forge(lambda content: content["files"].pop(ZARRAY)),
    "a file of another's": lambda step: shutil.copy(step / "arrays/000003/0", step / CHUNK),
    "a file that is short": replace(CHUNK, lambda text: text[:-1]),
    "a file that is long": replace(CHUNK, lambda text: text + b"\0"),
    "a file of other bits": lambda step: (step / CHUNK).write_bytes(bytes(24)),
}  # fmt: skip
"""What is done to a step, one entry for each class of attack."""
