"""Weights of models of ours, written as PyTorch names them and lays them out."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from funcnet.checkpoint import torch_layout, torch_names, weights
from funcnet.checkpoint.torch_arguments import Pair, wanted_of
from funcnet.checkpoint.torch_layout import Image, Row
from funcnet.checkpoint.torch_names import Rule


def save_torch(
    path: Any,
    trained: Pair,
    *,
    names: Mapping[str, str] | None = None,
    skip: str | Sequence[str] = (),
    flatten: Mapping[str, Image] | None = None,
) -> None:
    """Saves weights as a safetensors file with PyTorch's names and layouts.

    The inverse of `fn.checkpoint.load_torch` with the same arguments. In PyTorch
    `model.load_state_dict(safetensors.torch.load_file(path))` takes it.

    Args:
        path: of the file; its folder must be there.
        trained: the pair `(params, model_state)`.
        names: from PyTorch's names to our paths, as for `load_torch`, but a dict only.
        skip: path patterns of ours that are left out.
        flatten: as for `load_torch`.

    Raises:
        TypeError, ValueError: an argument is none of these; a leaf has no name of its own.
        OSError: it could not be written; a file that was there is as it was.

    Example:
        >>> import funcnet as fn, jax, numpy as np, os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> model = fn.sequential(body=fn.dense(2), norm=fn.layer_norm())
        >>> trained = model.init(jax.random.key(0), np.ones((1, 3), np.float32))
        >>> fn.checkpoint.save_torch(path, trained, names={"net.0": "body", "net.1": "norm"})
        >>> sorted(fn.checkpoint.load_weights(path))
        ['net.0.bias', 'net.0.weight', 'net.1.bias', 'net.1.weight']
    """
    wanted = wanted_of("save_torch", "trained", trained, skip, flatten)
    rules = [] if names is None else torch_names.rules_of("save_torch", names)
    weights.check_arrays("save_torch", wanted.leaves)
    copies = dict(unstacked(rules, wanted.leaves))
    found: dict[str, np.ndarray] = {}
    written: set[str] = set()
    for row in torch_layout.rows_of(copies):
        found[name_of(rules, row, copies, found)] = packed(row, copies, wanted.images, written)
        written |= {*row.ours}
    weights.write(weights.as_path("save_torch", path), found, {"format": "pt"})


def unstacked(rules: Sequence[Rule], by_path: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Leaves by path; of those that rules take apart, each copy on its own: `blocks[3]/kernel`."""
    for path, leaf in by_path.items():
        parts = torch_names.with_index(rules, path).split("[*]")
        array = np.asarray(leaf)
        for index in product(*map(range, array.shape[: len(parts) - 1])):
            words = [f"[{k}]" for k in index] + [""]
            yield "".join(a + b for a, b in zip(parts, words, strict=True)), array[index]


def name_of(
    rules: Sequence[Rule], row: Row, ours: Mapping[str, Any], found: Mapping[str, Any]
) -> str:
    """PyTorch's name of a tensor.

    Raises:
        ValueError: another has it, or the rules lead elsewhere from it.
    """
    of_leaf = torch_names.names_leaf(rules, row.ours[0]) and len(row.ours) == 1
    name = torch_names.to_theirs(rules, row.ours[0] if of_leaf else row.theirs)
    back, _ = torch_names.to_ours(rules, name)
    again = torch_layout.leaves_in(back, ours)
    if name in found or again is None or again.ours != row.ours:
        reason = "another has" if name in found else f"is read as {back!r}"
        raise ValueError(
            "`save_torch`: each tensor must have a name of its own that leads back to it, got "
            f"{name!r} for {row.theirs!r}, which {reason}. Make the rules of names more exact."
        )
    return name


def packed(
    row: Row, copies: Mapping[str, Any], images: Mapping[str, Image], written: set[str]
) -> np.ndarray:
    """A tensor of PyTorch's, of the leaves that lie in it; zeros for those that lie in another."""

    def part(path: str) -> np.ndarray:
        leaf = np.zeros_like(copies[path]) if path in written else copies[path]
        image = images.get(torch_names.split_index(path)[0])
        return torch_layout.to_torch(path, leaf, row.inputs, image)

    parts = [part(path) for path in row.ours]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]
