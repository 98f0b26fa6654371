"""`first_nan`: where in a step of training something first is not finite, and made of what."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from funcnet import errors, tree
from funcnet.data.arrays import Columns, check_columns
from funcnet.data.blocks import Resident, look_ahead, take
from funcnet.inspect.flops import operations
from funcnet.inspect.summaries import layers
from funcnet.inspect.tracking import Origin, described, first_of, followed, is_finite
from funcnet.nn.model import kind
from funcnet.trainer import Trainer
from funcnet.trainer.checks import check_kind
from funcnet.trainer.evaluation import brought
from funcnet.training.guarding import guard_of
from funcnet.training.scaling import loss_scale
from funcnet.training.state import NOISE, ORDER, stream
from funcnet.training.step import cut, mean, nonzero
from funcnet.types import Batch, Metrics, Model, ModelState, Objective, Params, TrainState

Stage: TypeAlias = Literal["batch", "state", "forward", "gradient", "update", "compiled"]

WHERE = {"forward": "in the forward pass", "gradient": "in the gradient", "update": "in the update"}

WHOLE = "the model"
"""A scope around the whole model, which tells its operations from those of the loss."""

MOST = 6
"""The most lines of a kind in words."""


@dataclass(frozen=True, repr=False)
class FirstNan:
    """What `first_nan` found; false if all is finite. Its `str` tells it in words.

    Attributes:
        step: which step was looked at, the last one if all are finite.
        stage: `"batch"` or `"state"` if what the step begins with is not finite; `"forward"`,
            `"gradient"` or `"update"`; `"compiled"` if it is only so where XLA puts operations
            together; None if all is finite.
        path: of the layer, as `fn.summary` shows it, or of the leaf; "" outside of all layers.
        kind: the name of the function that made the layer, or "".
        copy: which of the copies in a `layer_stack`, from 0; None outside of one.
        primitive: the operation, as a jaxpr names it, `"log"`.
        line: of code that it comes from, with its file.
        gave: range of what came out of the operation.
        of: ranges of what it was made of.
        came: ranges of what came into the layer, its params among them.
        leaves: params whose gradients or new values are not finite.
    """

    step: int
    stage: Stage | None = None
    path: str = ""
    kind: str = ""
    copy: int | None = None
    primitive: str = ""
    line: str = ""
    gave: str = ""
    of: tuple[str, ...] = ()
    came: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.stage is not None

    def __repr__(self) -> str:
        match self.stage:
            case None:
                return f"step {self.step}: loss, gradients and new params are finite"
            case "batch" | "state":
                return f"step {self.step}: the {self.stage} is not finite, {self.path}: {self.gave}"
            case "compiled":
                return (
                    f"step {self.step} is not finite as compiled, and finite operation by "
                    "operation: numbers are near the end of their range. Lower the learning rate, "
                    "or compute in a wider dtype."
                )
            case stage:
                return "\n".join(
                    [
                        f"step {self.step}: {self.place()} is the first that is not finite, "
                        f"{WHERE[stage]}",
                        f"  {self.primitive} gave {self.gave}",
                        *(f"    of {each}" for each in self.of),
                        *([f"  at {self.line}"] if self.line else []),
                        *(f"  into it came {each}" for each in self.came[:MOST]),
                        *([f"  not finite then: {few(self.leaves)}"] if self.leaves else []),
                    ]
                )

    def place(self) -> str:
        """The layer in words."""
        if not self.kind:
            return "the optimizer" if self.stage == "update" else "the loss"
        words = f"layer {self.path!r} ({self.kind})" if self.path else f"the model ({self.kind})"
        return words + ("" if self.copy is None else f" of copy {self.copy}")


def few(names: tuple[str, ...]) -> str:
    """The first names, and how many there are more."""
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def first_nan(
    trainer: Trainer,
    state: TrainState,
    data: Any,
    *,
    batch_size: int | None = None,
    shuffle: bool = True,
    steps: int | None = None,
) -> FirstNan:
    """Names the layer that first makes something that is not finite, and tells what came into it.

    The step is taken operation by operation: its forward pass, then the gradient from the loss
    backwards, then the update, with the noise that it had in `fit`. What is not finite is followed
    back to the operation that made it of finite numbers; a -inf that is written as such, in a mask
    say, is to blame only where it becomes NaN. Of a gradient the layer is named in whose derivative
    it first is not finite, as that of `sqrt` is at 0.

    After a fit that ended so, `result.best` is finite still, and `trainer.state_at` gives any state
    of a fit with a checkpoint:
    `first_nan(trainer, result.best, (x, y), batch_size=32)`, with the data and settings of the fit,
    takes its steps from there to the bad one.

    Args:
        trainer: what was trained. Its model must be one that can be compiled.
        state: where to begin.
        data: one batch, `(x, y)` or `(x, y, weight)`; the data of a fit, if there is a batch_size.
        batch_size: as of the fit.
        shuffle: as of the fit.
        steps: the most steps to take from `state` on; an epoch unless given.

    Returns:
        What was found, false if all is finite. Print it.

    Raises:
        TypeError, ValueError: an argument is wrong.

    Example:
        >>> import jax, jax.numpy as jnp, funcnet as fn, optax
        >>> model = fn.sequential(fn.dense(4), fn.sequential(jnp.square, jnp.sqrt), fn.dense(1))
        >>> trainer = fn.Trainer(model, loss=optax.losses.squared_error, optimizer=optax.sgd(0.1))
        >>> x = jnp.zeros((8, 2))
        >>> state = trainer.init(jax.random.key(0), x)
        >>> found = first_nan(trainer, state, (x, x[:, :1]))
        >>> found.stage, found.path, found.kind
        ('gradient', '1/1', 'sqrt')
    """
    check(trainer, state, batch_size, steps)
    columns = check_columns("first_nan", data)
    if batch_size is None:
        return look(trainer, state, jax.tree.map(jnp.asarray, columns))
    examples = len(jax.tree.leaves(columns)[0])
    for _ in range(steps or -(-examples // batch_size)):
        after, metrics = trainer.advance(state, 1, columns, batch_size=batch_size, shuffle=shuffle)
        if not went_well(after, metrics):
            batch = batch_of(state, columns, batch_size, shuffle)
            return look(trainer, state, batch) or FirstNan(int(state.step), "compiled")
        state = after
    return FirstNan(int(state.step) - 1)


def check(trainer: Any, state: Any, batch_size: int | None, steps: int | None) -> None:
    """Raises unless the arguments of `first_nan` are of the right kinds."""
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"`first_nan`: trainer must be a fn.Trainer, got {errors.describe(trainer)}. "
            "Give the trainer first, the state after it."
        )
    check_kind("first_nan", state)
    if batch_size is None and steps is not None:
        raise ValueError(
            "`first_nan`: steps needs a batch_size, got none. Without it `data` is the one batch "
            "to look at."
        )
    given = {"batch_size": batch_size, "steps": steps}
    errors.positive("first_nan", **{name: n for name, n in given.items() if n is not None})


def went_well(state: TrainState, metrics: Metrics) -> bool:
    """Whether a step has given a finite loss and finite params, and no guard has left it out."""
    guard = guard_of(state.opt_state)
    leaves = jax.tree.leaves((metrics["loss"], state.params))
    return not (guard is not None and guard.bad) and all(map(is_finite, leaves))


def batch_of(state: TrainState, columns: Columns, batch_size: int, shuffle: bool) -> Batch:
    """The batch that a fit takes at the step of `state`."""
    source = Resident(jax.tree.map(jnp.asarray, columns))
    ready = look_ahead(source, stream(state.key, ORDER), state.step, 1, batch_size, shuffle)
    return take(ready, state.step, batch_size)


def look(trainer: Trainer, state: TrainState, batch: Batch) -> FirstNan:
    """What of one step is not finite."""
    alone = dataclasses.replace(trainer, model=scoped(trainer.model), placement=None, eager=False)
    try:
        return look_at(alone, brought(None, state), batch)
    except Exception as error:
        error.add_note("in `first_nan`, which traces a step as compiling does")
        raise


def scoped(model: Model) -> Model:
    """`model` with its operations under the scope `WHOLE`."""

    def apply(
        params: Params,
        model_state: ModelState,
        x: Any,
        *,
        key: jax.Array | None = None,
        training: bool | None = None,
    ) -> tuple[Any, ModelState]:
        with jax.named_scope(WHOLE):
            y, model_state = model.apply(params, model_state, x, key=key, training=training)
            return checkpoint_name(y, kind(model)), model_state

    return Model(model.init, apply)


def look_at(trainer: Trainer, state: TrainState, batch: Batch) -> FirstNan:
    """The same, of a trainer whose model is scoped."""
    step, scale = int(state.step), loss_scale(state.opt_state)
    value: Any = 0.0
    whole: Any = 0.0
    grads = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), state.params)
    for part, noise in parts_of(trainer, state, batch):
        args = {"params": state.params, "model_state": state.model_state, "key": noise}
        forward = Forward(trainer.programs.objective, trainer.metrics, args | named(part))
        (mean, (weight, model_state, _)), wrong = forward.values()
        if wrong is not None:
            return of_given(step, state, batch, wrong) or of(step, "forward", wrong, forward.kinds)
        found, wrong, leaves = forward.gradient(scale)
        if wrong is not None:
            return of(step, "gradient", wrong, forward.kinds, leaves)
        state = state._replace(model_state=model_state)
        value, whole = value + weight * mean, whole + weight
        grads = jax.tree.map(lambda total, g, w=weight: total + w * g, grads, found)
    whole = nonzero(jnp.asarray(whole))
    grads = jax.tree.map(lambda g, p: (g / whole).astype(p.dtype), grads, state.params)
    wrong, leaves = updated(trainer, state, batch, grads, value / whole)
    return FirstNan(step) if wrong is None else of(step, "update", wrong, {}, leaves)


def parts_of(trainer: Trainer, state: TrainState, batch: Batch) -> Iterator[tuple[Batch, Any]]:
    """The micro-batches of a step, each with its noise."""
    noise = jax.random.fold_in(stream(state.key, NOISE), state.step)
    if trainer.accumulate == 1:
        yield batch, noise
        return
    micro = cut(batch, trainer.accumulate)
    for i in range(trainer.accumulate):
        yield jax.tree.map(itemgetter(i), micro), jax.random.fold_in(noise, i)


def named(batch: Batch) -> dict[str, Any]:
    """The parts of a batch by name."""
    return dict(zip(("x", "y", "weight"), batch, strict=False))


class Forward:
    """A forward pass that is followed operation by operation, and its gradient.

    Args:
        objective: the trainer's.
        metrics: the trainer's.
        args: params, model_state, key, and the parts of a batch, by name.
    """

    def __init__(self, objective: Objective, metrics: Any, args: dict[str, Any]) -> None:
        self.objective, self.metrics, self.args = objective, metrics, args
        self.jaxpr, form = jax.make_jaxpr(self.mean, return_shape=True)(args)
        self.form = jax.tree.structure(form)
        found = layers(operations(self.jaxpr))
        self.kinds = {path: name for path, (name, _) in found.items()}

    def mean(self, args: dict[str, Any]) -> Any:
        """The objective's mean, with its weight and the new model_state."""
        batch = tuple(args[name] for name in ("x", "y", "weight") if name in args)
        return mean(
            self.objective, self.metrics, args["params"], args["model_state"], batch, args["key"]
        )

    def values(self) -> tuple[Any, Origin | None]:
        """What `mean` gives, and where what is not finite in it comes from."""
        held = followed(self.jaxpr, self.args, self.kinds)
        value, (_, model_state, _) = jax.tree.unflatten(self.form, held)
        wrong = first_of([value]) or first_of(jax.tree.leaves(model_state))
        return jax.tree.unflatten(self.form, [each.value for each in held]), wrong

    def gradient(self, scale: Any) -> tuple[Params, Origin | None, tuple[str, ...]]:
        """The gradient of the params, where what is not finite in it comes from, and its leaves."""

        def scaled(params: Params) -> Any:
            value, _ = self.mean(self.args | {"params": params})
            return value if scale is None else value * scale

        value, pullback = jax.vjp(scaled, self.args["params"])
        one = jnp.ones_like(value)
        jaxpr, form = jax.make_jaxpr(pullback, return_shape=True)(one)
        held = followed(jaxpr, one, self.kinds, blame=True)
        (grads,) = jax.tree.unflatten(jax.tree.structure(form), held)
        by_scale = 1 if scale is None else scale
        values = jax.tree.map(lambda each: each.value / by_scale, grads)
        return values, first_of(held), wrong_leaves(grads)


def updated(
    trainer: Trainer, state: TrainState, batch: Batch, grads: Params, value: Any
) -> tuple[Origin | None, tuple[str, ...]]:
    """Where what is not finite in the new params comes from, if the gradient is, and which."""
    noise = jax.random.fold_in(stream(state.key, NOISE), state.step)

    def value_fn(params: Params) -> Any:
        objective, metrics = trainer.programs.objective, trainer.metrics
        return mean(objective, metrics, params, state.model_state, batch, noise)[0]

    def update(args: dict[str, Any]) -> Params:
        updates, _ = optax.with_extra_args_support(trainer.optimizer).update(
            args["grads"],
            args["opt_state"],
            args["params"],
            value=args["value"],
            grad=args["grads"],
            value_fn=value_fn,
        )
        return optax.apply_updates(args["params"], updates)

    args = {"grads": grads, "opt_state": state.opt_state, "params": state.params, "value": value}
    jaxpr, form = jax.make_jaxpr(update, return_shape=True)(args)
    held = followed(jaxpr, args, {})
    return first_of(held), wrong_leaves(jax.tree.unflatten(jax.tree.structure(form), held))


def wrong_leaves(held: Any) -> tuple[str, ...]:
    """The paths of the leaves that are not finite."""
    return tuple(path for path, each in tree.paths(held).items() if each.origin is not None)


def of_given(step: int, state: TrainState, batch: Batch, wrong: Origin) -> FirstNan | None:
    """What was found, if the step begins with what is not finite, and nothing else is to blame."""
    if not wrong.meant:
        return None
    given: dict[Stage, Any] = {
        "state": {"params": state.params, "model_state": state.model_state},
        "batch": named(batch),
    }
    for stage, values in given.items():
        for path, leaf in tree.paths(values).items():
            if not is_finite(leaf):
                return FirstNan(step, stage, path, gave=described(leaf))
    return None


def of(
    step: int,
    stage: Stage,
    wrong: Origin,
    kinds: Mapping[str, str],
    leaves: tuple[str, ...] = (),
) -> FirstNan:
    """What was found, in the terms of the model."""
    stacks = [turn for path, turn, _ in wrong.turns if kinds.get(path) == "layer_stack"]
    return FirstNan(
        step,
        stage,
        path=wrong.path.removeprefix(WHOLE).removeprefix("/"),
        kind=kinds.get(wrong.path, ""),
        copy=stacks[-1] if stacks else None,
        primitive=wrong.primitive,
        line=wrong.line,
        gave=wrong.gave,
        of=wrong.of,
        came=wrong.came if stage == "forward" else (),
        leaves=leaves,
    )
