"""The functions that a trainer repeats, compiled once for each signature of their arguments."""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
import optax

from funcnet import tree
from funcnet.data.blocks import Resident, Source, look_ahead, take
from funcnet.eager import is_eager, outline, shapes
from funcnet.metrics import Metric
from funcnet.placement import Placement
from funcnet.stopping import Stopping, StopState
from funcnet.trainer.flight import IN_FLIGHT, Flight
from funcnet.trainer.placing import divided, placed
from funcnet.training.advance import compute, make_advance, make_evaluate, make_once
from funcnet.training.objective import make_objective
from funcnet.training.plateau import plateau_of
from funcnet.training.recipe import Recipe
from funcnet.training.state import init_state, strong
from funcnet.training.step import Accumulators, contribution, make_step, nothing
from funcnet.training.told import after_epoch
from funcnet.training.watching import norms
from funcnet.types import Loss, Metrics, Model, ModelState, Objective, Params, TrainState

CAPACITY = 256
"""The most steps in one call of `advance`."""

CHUNK_FLOPS = {"cpu": 1.5e11}
"""Floating-point operations after which control returns to the host, by platform.

About a second. Each call costs the pages of its scratch memory anew: a convnet of 2e9 a step
took 25 to 32 ms a step in calls of 2 steps, 17 in calls of 32.
"""

OTHER_CHUNK_FLOPS = 4e12
"""The same on a GPU or TPU."""

RATES = "learning_rate", "learning_rate_scale"
"""Names in the history of what the optimizer tells of itself."""

Run: TypeAlias = Callable[[TrainState, Any, Any, int], tuple[TrainState, Any, Any]]
"""`(state, accumulators, source, n) -> (state, accumulators, losses)`: takes `n` steps."""

T = TypeVar("T")


class Program:
    """A pure function, compiled ahead of time, once for each signature of its arguments.

    Args:
        f: the function.
        donate: names of the arguments whose buffers the results may take.
        out: gives of the results' shapes where they are to live; XLA decides unless given.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        donate: tuple[str, ...] = (),
        out: Callable[[Any], Any] | None = None,
    ) -> None:
        self.f, self.donate, self.out = f, donate, out
        self.jitted = jax.jit(f, donate_argnames=donate)
        self.lowered: dict[Any, Any] = {}
        self.compiled: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        """Runs the program, which is compiled first where no such arguments have come before."""
        return self.f(*outline(args)) if is_eager() else self.compile(*args)(*args)

    def lower(self, *args: Any) -> Any:
        """The traced program for arguments like these, before XLA compiles it."""
        signature = signature_of(args)
        if signature not in self.lowered:
            self.lowered[signature] = self.with_places(args).lower(*args)
        return self.lowered[signature]

    def with_places(self, args: Any) -> Any:
        """The jitted function, told where the results for these arguments are to live."""
        if self.out is None:
            return self.jitted
        where = self.out(jax.eval_shape(self.f, *args))
        return jax.jit(self.f, donate_argnames=self.donate, out_shardings=where)

    def compile(self, *args: Any) -> Any:
        """The executable for arguments like these."""
        signature = signature_of(args)
        if signature not in self.compiled:
            self.compiled[signature] = self.lower(*args).compile()
        return self.compiled[signature]

    @property
    def traces(self) -> int:
        """How many signatures have been compiled."""
        return len(self.compiled)


class Programs:
    """The functions that a trainer's settings define, and their compiled forms."""

    def __init__(
        self,
        model: Model,
        optimizer: optax.GradientTransformation,
        loss: Loss | None,
        metrics: Mapping[str, Metric],
        objective: Objective | Recipe | None,
        accumulate: int,
        placement: Placement | None = None,
    ) -> None:
        alone = placement is None or (placement.mesh.size == 1 and not placement.mapped)
        self.placement = None if alone else placement
        self.model, self.optimizer, self.metrics = model, optimizer, metrics
        self.loss = objective.loss if isinstance(objective, Recipe) else loss
        self.ignore = objective.ignore if isinstance(objective, Recipe) else None
        if isinstance(objective, Recipe):
            objective = objective.make(model, metrics)
        self.objective = objective or make_objective(model, loss, metrics)  # type: ignore[arg-type] # one of both is given
        if self.placement is not None:
            self.objective = divided(self.objective, metrics, self.placement)
        self.step = make_step(self.objective, optimizer, metrics, accumulate)
        if self.placement is not None:
            self.step = placed(self.step, self.placement)
        self.made: dict[Any, Any] = {}
        self.flight = Flight()

    @property
    def traces(self) -> dict[str, int]:
        """How often each program has been compiled."""
        counts: dict[str, int] = {}
        for (name, *_), program in self.made.items():
            if isinstance(program, Program) and program.traces:
                counts[name] = counts.get(name, 0) + program.traces
        return counts

    def get(self, name: str, *settings: Any, make: Callable[[], T]) -> T:
        """What `make` gives, made once for each name and settings."""
        if (name, *settings) not in self.made:
            self.made[name, *settings] = make()
        found: T = self.made[name, *settings]
        return found

    def init(self) -> Program:
        """`(key, x) -> state`."""

        def init(key: jax.Array, x: Any) -> TrainState:
            return init_state(self.model, self.optimizer, key, x)

        out = None if self.placement is None else self.placement.of_state
        return self.get("init", make=lambda: Program(init, out=out))

    def begin(self) -> Program:
        """`(key, x, start) -> state`, the params and model_state being those of `start`."""

        def begin(key: jax.Array, x: Any, start: Any) -> TrainState:
            return init_state(self.model, self.optimizer, key, x, tree.copy(start))

        out = None if self.placement is None else self.placement.of_state
        return self.get("begin", make=lambda: Program(begin, out=out))

    def after_epoch(self) -> Program:
        """`(state, values) -> state`, whose optimizer has been told the values of an epoch."""

        def after(state: TrainState, values: Metrics) -> TrainState:
            return state._replace(opt_state=after_epoch(state.opt_state, values))

        out = None if self.placement is None else self.placement.of_state
        return self.get("after_epoch", make=lambda: Program(after, donate=("state",), out=out))

    def loop(self, batch_size: int, shuffle: bool) -> Any:
        """`(state, accumulators, source, n) -> (state, accumulators, losses)`, not compiled."""
        return make_advance(
            self.step, self.metrics, batch_size=batch_size, shuffle=shuffle, capacity=CAPACITY
        )

    def single(self, batch_size: int, shuffle: bool) -> Program:
        """`(state, accumulators, source) -> (state, accumulators, loss)`: one step, no loop."""
        return self.get(
            "single",
            batch_size,
            shuffle,
            make=lambda: Program(
                make_once(self.step, self.metrics, batch_size=batch_size, shuffle=shuffle),
                donate=("state", "found"),
                out=self.after_steps,
            ),
        )

    def advance(self, batch_size: int, shuffle: bool) -> Program:
        """`(state, accumulators, source, n) -> (state, accumulators, losses)`."""
        return self.get(
            "advance",
            batch_size,
            shuffle,
            make=lambda: Program(
                self.loop(batch_size, shuffle), donate=("state", "found"), out=self.after_steps
            ),
        )

    @property
    def after_steps(self) -> Callable[[Any], Any] | None:
        """Where `(state, accumulators, losses)` live, for a `Program` that gives them."""
        if (placement := self.placement) is None:
            return None
        return lambda shapes: (placement.of_state(shapes[0]), placement.whole, placement.whole)

    def runner(
        self, batch_size: int, shuffle: bool, state: TrainState, found: Accumulators, source: Source
    ) -> tuple[Run, int]:
        """The function that takes steps, and the most that it should take at a time.

        A loop in one program, of about `CHUNK_FLOPS` operations. The exception is a step with
        XLA's own convolutions on CPU, which are slow inside loops: it is called once a step. So is
        one that runs eagerly.
        """
        if is_eager():
            return one_by_one(self.single(batch_size, shuffle), self.flight), 1
        args = state, found, source, np.int32(0)

        def make() -> tuple[Run, int]:
            platform = jax.default_backend()
            program = self.advance(batch_size, shuffle)
            if platform == "cpu" and has_xla_convolution(program.lower(*args)):
                return one_by_one(self.single(batch_size, shuffle), self.flight), IN_FLIGHT
            work = flops(program.compile(*args))
            budget = CHUNK_FLOPS.get(platform, OTHER_CHUNK_FLOPS)
            return looped(program), int(max(1, min(CAPACITY, budget // max(work, 1))))

        return self.get("runner", batch_size, shuffle, signature_of(args), make=make)

    def pure_advance(self, batch_size: int, shuffle: bool) -> Any:
        """`(state, source, n) -> (state, accumulators)`, donating nothing, for any caller."""

        def advance(state: TrainState, source: Resident, n: Any) -> Any:
            found = self.nothing(state, source, batch_size, shuffle)
            loop = self.loop(batch_size, shuffle)

            def block(k: jax.Array, carry: Any) -> Any:
                return loop(*carry, source, jax.numpy.minimum(n - k * CAPACITY, CAPACITY))[:2]

            blocks = (n + CAPACITY - 1) // CAPACITY
            return jax.lax.fori_loop(0, blocks, block, (state, found))

        return self.get("pure_advance", batch_size, shuffle, make=lambda: jax.jit(advance))

    def nothing(
        self, state: TrainState, source: Source, batch_size: int, shuffle: bool
    ) -> Accumulators:
        """Accumulators of no batch, for the batches of `source`."""

        def found(state: TrainState, source: Source) -> Accumulators:
            ready = look_ahead(source, state.key, state.step, 1, batch_size, shuffle)
            batch = take(ready, state.step, batch_size)
            return contribution(
                self.objective, self.metrics, state.params, state.model_state, batch, state.key
            )

        def make() -> Callable[[], Accumulators]:
            of_one = shapes(found, state, source)
            return jax.jit(lambda: nothing(self.metrics, of_one))

        return self.get("nothing", batch_size, signature_of((state, source)), make=make)()

    def shapes(self, name: str, f: Callable[..., Any], *args: Any) -> Any:
        """The shapes of `f(*args)`, found once for each name and signature."""
        return self.get(name, signature_of(args), make=lambda: shapes(f, *args))

    def reported(self, state: TrainState, batch: Any) -> Accumulators:
        """Shapes of the accumulators of a batch outside training, by the names it reports."""

        def found(state: TrainState, batch: Any) -> Accumulators:
            return contribution(
                self.objective, self.metrics, state.params, state.model_state, batch, key=None
            )

        reported: Accumulators = self.shapes("reported", found, state, outline(batch))
        return reported

    def trained(self, state: TrainState, batch: Any) -> Accumulators:
        """Shapes of the accumulators of a batch in training."""

        def found(state: TrainState, batch: Any) -> Accumulators:
            return contribution(
                self.objective, self.metrics, state.params, state.model_state, batch, state.key
            )

        trained: Accumulators = self.shapes("trained", found, state, outline(batch))
        return trained

    def closing(self) -> Program:
        """`(params, opt_state, accumulators) -> (finite, metrics)`: an epoch's end in one call.

        `finite` tells of each param whether it holds neither NaN nor infinity.
        """

        def closing(params: Params, opt_state: Any, found: Accumulators) -> tuple[Any, Metrics]:
            finite = jax.tree.map(lambda leaf: jax.numpy.isfinite(leaf).all(), params)
            return finite, with_own(compute(self.metrics, found), opt_state)

        return self.get("closing", make=lambda: Program(closing))

    def output(self, state: TrainState, x: Any) -> Any:
        """Shapes and dtypes of the model's output for `x`."""
        args = state.params, state.model_state, outline(x)
        return self.shapes("output", self.predict().jitted, *args)

    def expected(self, x: Any) -> Any:
        """Shapes and dtypes of the state that `init` makes for inputs like `x`."""
        return self.shapes("expected", self.init().jitted, jax.random.key(0), outline(x))

    def evaluate(self, batch_size: int) -> Program:
        """`(params, model_state, columns) -> accumulators`."""
        return self.get(
            "evaluate",
            batch_size,
            make=lambda: Program(
                make_evaluate(self.objective, self.metrics, batch_size=batch_size)
            ),
        )

    def compute(self) -> Callable[[Accumulators], Metrics]:
        """`(accumulators) -> metrics`, compiled."""
        return self.get("compute", make=lambda: jax.jit(lambda found: compute(self.metrics, found)))

    def predict(self) -> Program:
        """`(params, model_state, x) -> y`."""

        def predict(params: Params, model_state: ModelState, x: Any) -> Any:
            return self.model.apply(params, model_state, x, training=False)[0]

        return self.get("predict", make=lambda: Program(predict))

    def check(self, stopping: Stopping) -> Callable[[Any, StopState], tuple[Any, StopState]]:
        """`(value, stop_state) -> (improved, stop_state)`, one check as one call."""

        def check(value: Any, stop_state: StopState) -> tuple[Any, StopState]:
            return stopping.improved(value, stop_state), stopping.update(value, stop_state)

        return self.get("check", stopping, make=lambda: jax.jit(check))

    def copy(self) -> Program:
        """`(state) -> state` in new buffers."""

        def copy(state: TrainState) -> TrainState:
            new: TrainState = strong(tree.copy(state))
            return new

        out = None if self.placement is None else self.placement.of_state
        return self.get("copy", make=lambda: Program(copy, out=out))


def learning_rate(opt_state: optax.OptState) -> Metrics:
    """The learning rate where the optimizer's state holds it, as `optax.inject_hyperparams` does.

    With it the scale of `fn.reduce_on_plateau`. Of several, the first.
    """
    rates = optax.tree.get_all_with_path(opt_state, "learning_rate")
    plateau = plateau_of(opt_state)
    found = {"learning_rate": rates[0][1]} if rates else {}
    return found if plateau is None else found | {"learning_rate_scale": plateau.scale}


def with_own(values: Metrics, opt_state: optax.OptState) -> Metrics:
    """An epoch's values, with those that the optimizer tells of itself: its rate, and its norms."""
    own = learning_rate(opt_state) | norms(opt_state)
    if clash := sorted(values.keys() & own.keys()):
        raise ValueError(
            f"`Trainer`: a metric can't be named {clash[0]!r}, which the optimizer reports. "
            "Give it another name."
        )
    return values | own


def looped(program: Program) -> Run:
    """`n` steps as one call."""

    def run(state: TrainState, found: Any, source: Any, n: int) -> Any:
        return program(state, found, source, np.int32(n))

    return run


def one_by_one(program: Program, flight: Flight) -> Run:
    """`n` steps as `n` calls, whose results are awaited at the end."""

    def run(state: TrainState, found: Any, source: Any, n: int) -> Any:
        losses = []
        for _ in range(n):
            state, found, loss = flight.launch(program, state, found, source, watch=itemgetter(2))
            losses.append(loss)
        flight.land()
        return state, found, np.asarray(jax.device_get(losses), np.float32)

    return run


def signature_of(args: Any) -> Any:
    """The structure and types of arguments: what a program is compiled for."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple(jax.typeof(leaf) for leaf in leaves)


def flops(executable: Any) -> float:
    """Floating-point operations of an executable, the body of a loop counted once; 0 if unknown."""
    cost = executable.cost_analysis() or {}
    return max(float(cost.get("flops", 0.0)), 0.0)


def has_xla_convolution(lowered: Any) -> bool:
    """Whether a lowered program holds a convolution of XLA's own."""
    return "stablehlo.convolution" in lowered.as_text()
