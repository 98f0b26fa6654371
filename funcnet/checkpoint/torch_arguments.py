"""What `load_torch` and `save_torch` both take: arrays by path, and what is flattened."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax

from funcnet import errors, tree
from funcnet.checkpoint import leaves
from funcnet.checkpoint.torch_layout import Image
from funcnet.checkpoint.transfer import patterns
from funcnet.types import ModelState, Params

Pair: TypeAlias = tuple[Params, ModelState]


class Wanted(NamedTuple):
    """The leaves that are to be filled or written, and what is flattened before some of them."""

    leaves: dict[str, Any]
    images: dict[str, Image]


def wanted_of(function: str, name: str, pair: Any, skip: Any, flatten: Any) -> Wanted:
    """The leaves of a pair by path, less those that are skipped."""
    by_path = both(function, name, pair)
    skipped = {
        path
        for pattern in patterns(function, "skip", skip)
        for path in tree.select(function, by_path, pattern)
    }
    if empty := [p for p in sorted(skipped) if isinstance(by_path[p], jax.ShapeDtypeStruct)]:
        raise ValueError(
            f"`{function}`: what skip leaves as it is must be an array in {name}, got a mere shape "
            f"for {', '.join(empty)}. Give what `model.init` gives."
        )
    kept = {path: value for path, value in by_path.items() if path not in skipped}
    return Wanted(kept, images_of(function, flatten, by_path))


def both(function: str, name: str, pair: Any) -> dict[str, Any]:
    """The leaves of params and model_state by path."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(
            f"`{function}`: {name} must be the pair (params, model_state), as `model.init` gives "
            f"it, got {type(pair).__name__}. For a model without model_state say `(params, {{}})`."
        )
    params, model_state = map(tree.paths, pair)
    if twice := params.keys() & model_state.keys():
        raise ValueError(
            f"`{function}`: params and model_state must have no path in common, got "
            f"{', '.join(sorted(twice))}. Give one of them at a time, and {{}} for the other."
        )
    leaves.leaves_of(function, params | model_state)
    python = [path for path, leaf in (params | model_state).items() if not hasattr(leaf, "dtype")]
    if python:
        raise TypeError(
            f"`{function}`: each leaf of {name} must be an array, got numbers of Python's for "
            f"{', '.join(python)}. Make arrays of them with `jnp.asarray`."
        )
    return params | model_state


def images_of(function: str, flatten: Any, by_path: Mapping[str, Any]) -> dict[str, Image]:
    """What is flattened before dense layers, by the path of their kernels."""
    if not isinstance(flatten, Mapping | None):
        raise TypeError(
            f"`{function}`: flatten must be a dict from paths to shapes, got "
            f"{errors.describe(flatten)}. Say `{{'fc1': (7, 7, 64)}}`."
        )
    found = {}
    for module, image in (flatten or {}).items():
        path = f"{module}/kernel".removeprefix("/")
        dense = [each for each, leaf in by_path.items() if is_matrix(each, leaf)]
        if path not in dense:
            known = [each.removesuffix("kernel").removesuffix("/") for each in dense]
            raise ValueError(
                f"`{function}`: flatten must name dense layers by their paths, got {module!r}. "
                f"{errors.did_you_mean(str(module), known)}"
            )
        check_image(function, path, image, by_path[path].shape[0])
        found[path] = tuple(image)
    return found


def is_matrix(path: str, leaf: Any) -> bool:
    """Whether a leaf is the kernel of a dense layer."""
    return path.rpartition("/")[2] == "kernel" and len(leaf.shape) == 2


def check_image(function: str, path: str, image: Any, size: int) -> None:
    """Raises unless an image is a shape of as many elements as a dense layer has inputs."""
    whole = isinstance(image, Sequence) and all(type(n) is int and n > 0 for n in image)
    if not whole or math.prod(image) != size:
        raise ValueError(
            f"`{function}`: flatten must give the shape (*spatial, C) of what is flattened before "
            f"{path}, of {size} elements, got {image!r}. Leave out the batch."
        )
