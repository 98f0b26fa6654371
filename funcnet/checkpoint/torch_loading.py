"""Weights of PyTorch models, read from safetensors files into models of ours."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import errors
from funcnet.checkpoint import leaves, reading, torch_layout, torch_names, weights
from funcnet.checkpoint.failures import MismatchError
from funcnet.checkpoint.leaves import Leaf
from funcnet.checkpoint.torch_arguments import Pair, Wanted, both, wanted_of
from funcnet.checkpoint.torch_layout import Image
from funcnet.checkpoint.torch_names import Names, Rule
from funcnet.checkpoint.transfer import patterns


class Source(NamedTuple):
    """Tensors by PyTorch's names: what each is, and how it is read."""

    where: str
    tensors: dict[str, Leaf]
    read: Callable[[str], np.ndarray]


class Piece(NamedTuple):
    """One part of a tensor of PyTorch's, and the leaf, or the copy in one, that it fills."""

    name: str
    part: int
    parts: int
    path: str
    at: tuple[int, ...]
    added: bool

    @property
    def place(self) -> str:
        """The leaf, or the copy in one: `blocks/kernel[3]`."""
        return place_words(self.path, self.at)


def load_torch(
    source: Any,
    like: Pair,
    *,
    names: Names | None = None,
    skip: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    flatten: Mapping[str, Image] | None = None,
    cast: bool = False,
) -> Pair:
    """`(params, model_state)` with the weights of a PyTorch model, of a safetensors file.

    Each array is turned as our layer has it: matrices and kernels, the packed projections of
    attention, the gates of recurrent layers; the statistics of batch norm go into model_state. All
    names of either side that are left over are refused, and all that does not fit is told at once.

    Args:
        source: a safetensors file, a list of several that hold one model together, or a dict of
            arrays by PyTorch's names.
        like: the pair that `model.init` gives, or `jax.eval_shape` of it; the result has its
            structure, and lives where it does.
        names: from PyTorch's names to our paths, such as `{"layer1.*.conv1": "layer1/*/conv"}`. A
            rule is for a whole name or its beginning: a module's `weight`, `bias` and so on need no
            rule. `*` stands for any part of a name between dots, `**` for any number of names,
            `[*]` in a path for the copy in a `layer_stack`. The first that matches counts; what
            none matches keeps its name, with `/` for each dot. Or a function from name to path.
        skip: path patterns of ours that stay as they are in `like`, a new head's say; what the
            file has for them is left out.
        ignore: patterns of PyTorch's names that are left out; `num_batches_tracked` always is.
        flatten: by the path of a dense layer the shape `(*spatial, C)` of what is flattened before
            it, such as `{"fc1": (7, 7, 64)}`: PyTorch flattens the channels first. Where it is
            forgotten no error can tell, as all shapes fit.
        cast: whether floats of another width become those of `like`.

    Raises:
        MismatchError: names, shapes or dtypes do not fit; all of them are named.
        DamagedError: it is no safetensors file, but a pickle say.
        TypeError, ValueError: an argument is none of the above; a pattern matches nothing.
        OSError: it can't be read.

    Example:
        >>> import funcnet as fn, jax, numpy as np
        >>> model = fn.sequential(body=fn.dense(2), head=fn.dense(1))
        >>> like = model.init(jax.random.key(0), np.ones((1, 3), np.float32))
        >>> theirs = {"net.0.weight": np.eye(2, 3), "net.0.bias": np.ones(2)}
        >>> params, model_state = fn.checkpoint.load_torch(
        ...     theirs, like, names={"net.0": "body"}, skip="head/**", cast=True
        ... )
        >>> params["body"]["kernel"].tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    wanted = wanted_of("load_torch", "like", like, skip, flatten)
    by_path = both("load_torch", "like", like)
    with opened(source) as found:
        kept = not_ignored(found.tensors, patterns("load_torch", "ignore", ignore))
        pieces, lost = planned(placed(names, kept), wanted, by_path)
        wrong = [*lost_lines(found, wanted, pieces, lost), *unlike(found, wanted, pieces, cast)]
        check(found, wrong)
        read = filled(found, wanted, pieces)
    values = by_path | {
        path: reading.finish(leaf_of(array), array, wanted.leaves[path])
        for path, array in read.items()
    }
    params, model_state = like
    return reading.assemble(params, values), reading.assemble(model_state, values)


@contextmanager
def opened(source: Any) -> Iterator[Source]:
    """The tensors of a file, of several, or of a dict of arrays."""
    if isinstance(source, Mapping):
        arrays = {str(name): np.asarray(array) for name, array in source.items()}
        yield Source("the dict", {n: leaf_of(a) for n, a in arrays.items()}, arrays.__getitem__)
        return
    found: dict[str, tuple[Any, weights.Tensor]] = {}
    paths = source if isinstance(source, list | tuple) else [source]
    places = [weights.as_path("load_torch", path) for path in paths]
    with ExitStack() as stack:
        for place in places:
            file = stack.enter_context(weights.opened("load_torch", place))
            there = weights.tensors("load_torch", place, file)
            if twice := found.keys() & there.keys():
                raise MismatchError(
                    f"`load_torch`: each tensor must be in one of the files, got "
                    f"{min(twice)!r} in {place} too. Give the files of one model."
                )
            found |= {name: (file, tensor) for name, tensor in there.items()}
        tensors = {name: tensor.leaf for name, (_, tensor) in found.items()}
        where = ", ".join(map(str, places))
        yield Source(where, tensors, lambda name: weights.read(*found[name]))


def leaf_of(array: np.ndarray) -> Leaf:
    """What an array is."""
    return Leaf(leaves.ARRAY, str(array.dtype), tuple(array.shape))


def planned(
    places: Mapping[str, str], wanted: Wanted, ours: Mapping[str, Any]
) -> tuple[list[Piece], dict[str, str]]:
    """What fills what, and the places that are none by the names that were to come there."""
    pieces: list[Piece] = []
    lost: dict[str, str] = {}
    for name, place in places.items():
        path, index = torch_names.split_index(place)
        row = torch_layout.leaves_in(path, ours)
        if row is None:
            lost[name] = place
            continue
        pieces += [
            Piece(name, part, len(row.ours), each, index, row.added)
            for part, each in enumerate(row.ours)
            if each in wanted.leaves
        ]
    return pieces, lost


def not_ignored(tensors: Iterable[str], ignore: Sequence[str]) -> list[str]:
    """The names that are not to be left out."""
    kept = [name for name in tensors if name.rpartition(".")[2] != "num_batches_tracked"]
    for pattern in ignore:
        if not any(torch_names.matches(pattern, name) for name in tensors):
            raise ValueError(
                f"`load_torch`: each pattern of ignore must match a name of PyTorch's, got "
                f"{pattern!r}. {torch_names.meant(pattern, tensors)}"
            )
        kept = [name for name in kept if not torch_names.matches(pattern, name)]
    return kept


def placed(names: Any, kept: Sequence[str]) -> dict[str, str]:
    """For each name the path that rules, or a function, say.

    Raises:
        TypeError: the function gives no path.
        ValueError: a rule is of no use.
    """
    if callable(names):
        given = {name: names(name) for name in kept}
        if wrong := [name for name, path in given.items() if not isinstance(path, str)]:
            raise TypeError(
                "`load_torch`: names must give a path for each name, got "
                f"{given[wrong[0]]!r} for {wrong[0]!r}. Leave a name out with ignore."
            )
        return given
    rules = [] if names is None else torch_names.rules_of("load_torch", names)
    found = {name: torch_names.to_ours(rules, name) for name in kept}
    used = {rule for _, rule in found.values()}
    for rule in rules:
        if rule not in used:
            refuse_rule(rule, kept)
    return {name: path for name, (path, _) in found.items()}


def refuse_rule(rule: Rule, kept: Sequence[str]) -> None:
    """Raises with what became of the names that a rule was meant for."""
    before = [name for name in kept if torch_names.matches(rule.theirs, name)]
    raise ValueError(
        f"`load_torch`: each rule of names must be the first that matches some name, got "
        f"{rule.theirs!r}. "
        + (
            f"One before it matches {before[0]!r}: put it first."
            if before
            else torch_names.meant(rule.theirs, kept)
        )
    )


def lost_lines(
    found: Source, wanted: Wanted, pieces: Sequence[Piece], lost: Mapping[str, str]
) -> Iterator[str]:
    """A line for each tensor that has no place, with the free one that it may be meant for."""
    taken = {piece.path for piece in pieces}
    free = {path: leaf for path, leaf in wanted.leaves.items() if path not in taken}
    for name, path in lost.items():
        array = stand_in(found.tensors[name])
        kinds = torch_layout.kinds_for(name.rpartition(".")[2])
        fit = [
            each
            for each, leaf in free.items()
            if (not kinds or each.rpartition("/")[2] in kinds)
            and torch_layout.from_torch(each, array, leaf.shape, None).shape == leaf.shape
        ]
        near = difflib.get_close_matches(path, fit, n=1, cutoff=0.0)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        yield f"{name}: no place for {found.tensors[name]} at {path!r}.{hint}"


def stand_in(leaf: Leaf) -> np.ndarray:
    """An array that takes no room, to see what shape becomes of it."""
    return np.broadcast_to(np.zeros((), jnp.dtype(leaf.dtype)), leaf.shape)


def missing(wanted: Wanted, pieces: Sequence[Piece]) -> Iterator[str]:
    """A line for each leaf, or copy in one, that nothing fills."""
    there: dict[str, set[tuple[int, ...]]] = {}
    for piece in pieces:
        there.setdefault(piece.path, set()).add(piece.at)
    for path, leaf in wanted.leaves.items():
        filled = there.get(path, set())
        depth = max(map(len, filled), default=0)
        if len({*map(len, filled)}) > 1:
            yield f"{path}: expected tensors for all of it or for each copy, got both"
        for index in product(*map(range, leaf.shape[:depth])):
            if index not in filled:
                yield f"{place_words(path, index)}: missing, expected {leaf_words(leaf, depth)}"


def unlike(found: Source, wanted: Wanted, pieces: Sequence[Piece], cast: bool) -> Iterator[str]:
    """A line for each leaf that is not filled once, by arrays of its shape and dtype."""
    by: dict[str, str] = {}
    for piece in pieces:
        if line := difference(found, wanted, piece, cast):
            yield line
        elif piece.place in by and not piece.added:
            yield f"{piece.place}: expected one tensor, got {by[piece.place]} and {piece.name}"
        by[piece.place] = piece.name
    yield from missing(wanted, pieces)


def difference(found: Source, wanted: Wanted, piece: Piece, cast: bool) -> str | None:
    """How what fills a leaf differs from it."""
    tensor, leaf = found.tensors[piece.name], wanted.leaves[piece.path]
    shape, depth = leaf.shape, len(piece.at)
    if depth > len(shape) or any(k >= n for k, n in zip(piece.at, shape, strict=False)):
        return f"{piece.place}: not expected, got {tensor} ({piece.name})"
    got = cut(stand_in(tensor), piece, wanted)
    floats = all(jnp.issubdtype(each.dtype, jnp.floating) for each in (got, leaf))
    same = got.dtype == leaf.dtype or (cast and floats)
    if same and got.shape == shape[depth:]:
        return None
    came = f"got {errors.describe(got)} ({piece.name}, {tensor})"
    return f"{piece.place}: expected {leaf_words(leaf, depth)}, {came}"


def cut(array: np.ndarray, piece: Piece, wanted: Wanted) -> np.ndarray:
    """The part of a tensor that fills a leaf, as the leaf lies."""
    several = piece.parts > 1 and array.ndim > 0
    part = np.array_split(array, piece.parts)[piece.part] if several else array
    shape = wanted.leaves[piece.path].shape[len(piece.at) :]
    return torch_layout.from_torch(piece.path, part, shape, wanted.images.get(piece.path))


def filled(found: Source, wanted: Wanted, pieces: Sequence[Piece]) -> dict[str, np.ndarray]:
    """The leaves, each made of all that fills it; each tensor is read once."""
    arrays = {
        path: np.empty(leaf.shape, jnp.dtype(leaf.dtype)) for path, leaf in wanted.leaves.items()
    }
    begun: set[str] = set()
    name, array = "", np.zeros(())
    for piece in pieces:
        if piece.name != name:
            name, array = piece.name, found.read(piece.name)
        whole = arrays[piece.path]
        part = cut(array, piece, wanted).astype(whole.dtype)
        whole[piece.at] = whole[piece.at] + part if piece.place in begun else part
        begun.add(piece.place)
    return arrays


def check(found: Source, wrong: Sequence[str]) -> None:
    """Raises with all that does not fit, if there is anything."""
    if wrong:
        raise MismatchError(
            f"`load_torch`: {found.where} must hold the arrays of like, got\n  "
            + "\n  ".join(wrong)
            + "\nSay in names where a tensor belongs, in ignore which are left out, in skip what "
            "stays as it is in like; cast=True takes floats of other widths."
        )


def place_words(path: str, index: tuple[int, ...]) -> str:
    """A leaf, or a copy in it."""
    return path + "".join(f"[{k}]" for k in index)


def leaf_words(leaf: Any, depth: int) -> str:
    """What is wanted of a leaf, or of each copy in it."""
    return errors.describe(jax.ShapeDtypeStruct(leaf.shape[depth:], leaf.dtype))
