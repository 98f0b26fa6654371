"""Files that are no file of weights: a class of attack each."""

import json
import pickle

from tests.faults.hostile_steps import DEEP


def packed(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(**changes):
    said = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return packed({"a": said}, bytes(8))


def at(begin, end):
    """The entry of an array of bytes."""
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


def long(number):
    """A file with a number in the place of a shape."""
    return packed(b'{"a":{"dtype":"F32","shape":[' + number + b'],"data_offsets":[0,8]}}', bytes(8))


NONE = json.dumps(at(0, 0)).encode()
DTYPES = ["O", "object", "f4", "F4", None, 3, ["F32"], "__import__"]
SHAPES = [[2**40], [2**63], [-2], [2.0], [True], [1] * 99, None, "2", {}, [[2]]]
OFFSETS = [[0, 2**40], [-8, 0], [8, 0], [0], [0, 8, 8], None, [0.0, 8], ["0", "8"], [1, 9]]
OFFSETS += [[2**62, 2**62 + 8]]
FILES = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "a pickle": pickle.dumps(print),
    "a zip": b"PK\x03\x04" + bytes(100),
    "a header beyond the file": packed({}, length=2**63),
    "a header of 2 GiB": packed(b"{}", length=2**31),
    "a header of nothing": packed(b""),
    "a list": packed([]),
    "no JSON": packed(b"import os"),
    "not UTF-8": packed(b"\xff\xfe{}"),
    "nested": packed(b'{"a":' + DEEP + b"}"),
    "nested metadata": packed(b'{"__metadata__":' + DEEP + b"}"),
    "a name twice": packed(b'{"a":' + NONE + b',"a":' + NONE + b"}"),
    **{f"dtype {dtype!r}": one(dtype=dtype) for dtype in DTYPES},
    **{f"shape {shape!r:.20}": one(shape=shape) for shape in SHAPES},
    **{f"offsets {offsets!r:.20}": one(data_offsets=offsets) for offsets in OFFSETS},
    "an entry more": one(code="print(1)"),
    "an entry less": packed({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "an entry that is none": packed({"a": 3}, bytes(8)),
    "NaN": long(b"NaN"),
    "1e999": long(b"1e999"),
    "many digits": long(b"9" * 10**5),
    "overlapping": packed({n: at(0, 8) for n in "ab"}, bytes(8)),
    "a hole": packed({"a": at(1, 2)}, bytes(2)),
    "more data": packed({"a": at(0, 1)}, bytes(2)),
    "less data": packed({"a": at(0, 3)}, bytes(2)),
    "one within another": packed({"a": at(0, 0), "a/b": at(0, 0)}),
}  # fmt: skip
"""Files that are no file of weights, one for each class of attack."""
