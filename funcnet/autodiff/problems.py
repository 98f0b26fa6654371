"""A function under a check of its derivatives: what it is differentiated by, and its programs."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import errors, tree
from funcnet.autodiff.differences import coarsest

Leaves = list[Any]
Value = Callable[[Leaves], jax.Array]


class Problem(NamedTuple):
    """A function of the leaves that are differentiated, and where it is checked.

    Attributes:
        f: of these leaves alone; gives its outputs of real floats, in 64 bits.
        x: the leaves, float64.
        paths: their names.
        passed: the names of the others.
        outputs: the shapes of what f gives.
        compiled: whether f can be traced.
        dtype: the coarsest in which f computes.
        numpy: whether f closes over NumPy arrays of 64 bits.
    """

    f: Callable[[Leaves], Leaves]
    x: Leaves
    paths: list[str]
    passed: list[str]
    outputs: list[Any]
    compiled: bool
    dtype: Any
    numpy: bool = False


def pose(f: Callable[..., Any], args: tuple[Any, ...]) -> Problem:
    """The problem for a function and its arguments; raises unless there is one."""
    leaves, form = jax.tree.flatten(args)
    names = leaf_names(f, args)
    chosen = [differentiable(name, leaf) for name, leaf in zip(names, leaves, strict=True)]
    if not any(chosen):
        raise TypeError(
            f"`check_grads`: args must hold an array of real floats, got {errors.describe(args)}. "
            "Give the point at which to differentiate, `jnp.ones(3)` say."
        )
    x = [jnp.asarray(v, jnp.float64) for v, c in zip(leaves, chosen, strict=True) if c]

    def of_leaves(x: Leaves) -> Leaves:
        rest = iter(x)
        whole = [next(rest) if c else v for v, c in zip(leaves, chosen, strict=True)]
        return real_outputs(f(*jax.tree.unflatten(form, whole)))

    paths = [name for name, c in zip(names, chosen, strict=True) if c]
    passed = [name for name, c in zip(names, chosen, strict=True) if not c]
    try:
        jaxpr, outputs = jax.make_jaxpr(of_leaves, return_shape=True)(x)
        wide = [c for c in jaxpr.consts if not isinstance(c, jax.Array) and c.dtype.itemsize == 8]
        dtype = coarsest(jaxpr)
        return Problem(of_leaves, x, paths, passed, outputs, True, dtype, bool(wide))
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        outputs = tree.spec(of_leaves(x))
        return Problem(of_leaves, x, paths, passed, outputs, False, jnp.dtype(jnp.float64))


def differentiable(name: str, leaf: Any) -> bool:
    """Whether a leaf is differentiated; raises where it would have to be and can't."""
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(
            f"`check_grads`: args must be known numbers, got the traced {name}: "
            f"{leaf.dtype}{list(leaf.shape)}. Call it outside of jit, grad and vmap."
        )
    if not (hasattr(leaf, "dtype") or isinstance(leaf, float | complex)):
        return False
    if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
        raise TypeError(
            f"`check_grads`: args must be real, got {name}: {errors.describe(leaf)}. "
            "Check f as a function of the real and the imaginary part."
        )
    return tree.is_float(leaf)


def real_outputs(y: Any) -> Leaves:
    """The real floats among the leaves that f gives, in 64 bits."""
    leaves = jax.tree.leaves(y)
    kinds = [jnp.result_type(leaf) for leaf in leaves]
    if any(jnp.issubdtype(kind, jnp.complexfloating) for kind in kinds):
        raise TypeError(
            "`check_grads`: f must give real numbers, got complex ones. "
            "Check its real and its imaginary part."
        )
    real = [
        jnp.asarray(leaf, jnp.float64)
        for leaf, kind in zip(leaves, kinds, strict=True)
        if jnp.issubdtype(kind, jnp.floating)
    ]
    if not real:
        raise TypeError(
            f"`check_grads`: f must give an array of real floats, got "
            f"{', '.join(map(str, kinds)) or 'nothing'}. Only such outputs have a derivative."
        )
    return real


def dot(a: Leaves, b: Leaves) -> jax.Array:
    """The inner product of two lists of arrays."""
    return jnp.asarray(sum(jnp.sum(x * y) for x, y in zip(a, b, strict=True)))


def moved(x: Leaves, v: Leaves, t: Any) -> Leaves:
    """`x + t v`."""
    return [a + t * b for a, b in zip(x, v, strict=True)]


def forward(value: Value, x: Leaves, v: Leaves) -> jax.Array:
    """The slope of `value` along `v` in forward mode."""
    slope: jax.Array = jax.jvp(value, (x,), (v,))[1]
    return slope


def reverse(value: Value, x: Leaves, v: Leaves) -> jax.Array:
    """The slope of `value` along `v` in reverse mode."""
    slopes = [jnp.where(b == 0, 0, a) for a, b in zip(jax.grad(value)(x), v, strict=True)]
    return dot(slopes, v)  # what does not move may have a slope that is not finite


SLOPES = {"fwd": forward, "rev": reverse}


class Programs:
    """The functions that are evaluated at many points, compiled where they can be.

    Attributes:
        missing: the modes that f's rules do not allow, with JAX's words, once `derive` ran.
        finite: whether f was finite wherever `derive` ran.
    """

    def __init__(self, problem: Problem, order: int, modes: tuple[str, ...]) -> None:
        self.problem, self.order, self.modes = problem, order, modes
        self.missing: dict[str, str] = {}
        self.finite = True
        self.along = {1: self.compiled(self._value), 2: self.compiled(self._slope)}
        self.derivatives = self.compiled(self._derivatives)

    def compiled(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """A program, compiled anew if it can be: JAX would keep its trace for the same function."""
        if not self.problem.compiled:
            return program
        # The programs run for an instant and take seconds to compile.
        quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        return jax.jit(lambda *at: program(*at), compiler_options=quick)

    def contracted(self, c: Leaves) -> Value:
        """The outputs of f, contracted with `c`."""
        return lambda x: dot(c, self.problem.f(x))

    def _value(self, x: Leaves, c: Leaves, w: Leaves, v: Leaves, t: Any) -> jax.Array:
        """The contracted outputs at `x + t v`."""
        return self.contracted(c)(moved(x, v, t))

    def _slope(self, x: Leaves, c: Leaves, w: Leaves, v: Leaves, t: Any) -> jax.Array:
        """Their slope along `w`, there."""
        mode = "rev" if "rev" in self.names(1) else "fwd"
        return SLOPES[mode](self.contracted(c), moved(x, v, t), w)

    def names(self, order: int) -> list[str]:
        """The modes of an order that f has: `fwd`, or `rev-fwd` for reverse over forward."""
        firsts = [mode for mode in self.modes if mode not in self.missing]
        seconds = [f"{outer}-{inner}" for outer in self.modes for inner in firsts]
        return firsts if order == 1 else [name for name in seconds if name not in self.missing]

    def derivative(self, name: str, x: Leaves, c: Leaves, w: Leaves, v: Leaves) -> jax.Array:
        """The derivative along `v`, of the slope along `w` at order 2, in one mode."""
        outer, _, inner = name.partition("-")
        value = self.contracted(c)
        return SLOPES[outer](partial(SLOPES[inner], value, v=w) if inner else value, x, v)

    def _derivatives(self, *at: Leaves) -> tuple[dict[str, jax.Array], jax.Array]:
        names = [name for order in range(1, self.order + 1) for name in self.names(order)]
        x, c, *_ = at
        terms = zip(c, self.problem.f(x), strict=True)
        size = jnp.asarray(sum(jnp.sum(jnp.abs(a * b)) for a, b in terms))
        return {name: self.derivative(name, *at) for name in names}, size

    def derive(self, *at: Leaves) -> tuple[dict[str, float], float]:
        """The derivatives by mode at `x, c, w, v`, and the size of f's terms."""
        try:
            found, size = jax.device_get(self.derivatives(*at))
        except (TypeError, ValueError, NotImplementedError) as error:
            if self.missing or not is_missing_rule(error):
                raise
            self.search(*at)
            self.derivatives = self.compiled(self._derivatives)
            return self.derive(*at)
        self.finite &= bool(jnp.isfinite(size))
        return {name: float(value) for name, value in found.items()}, float(size)

    def search(self, *at: Leaves) -> None:
        """Tries each mode alone, and notes those that f's rules do not allow."""
        for order in range(1, self.order + 1):
            for name in self.names(order):
                one = partial(self.derivative, name)
                try:
                    # JAX tells of some missing rules in tracing, of others in lowering.
                    jax.jit(one).lower(*at) if self.problem.compiled else one(*at)
                except (TypeError, ValueError, NotImplementedError) as error:
                    if not is_missing_rule(error):
                        raise
                    self.missing[name] = str(error).splitlines()[0]


def is_missing_rule(error: Exception) -> bool:
    """Whether an error of JAX says that there is no rule, rather than that a rule fails."""
    words = (
        "to a custom_vjp function",
        "Reverse-mode differentiation does not work",
        "do not support JVP",
    )
    missing = isinstance(error, NotImplementedError) and " rule " in str(error)
    return missing or any(word in str(error) for word in words)


def leaf_names(f: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """A name for each leaf of `args`, `"params/0/kernel"`: by f's own words for its arguments.

    Example:
        >>> leaf_names(lambda params, *rest: None, ({"w": 1, "b": 2}, 3, [4]))
        ['params/b', 'params/w', 'rest/0', 'rest/1/0']
    """
    try:
        bound = inspect.signature(f).bind(*args).arguments
    except (TypeError, ValueError):  # a builtin has no signature; f itself says what does not fit
        bound = {str(k): arg for k, arg in enumerate(args)}
    return [
        f"{name}/{path}" if path else name
        for name, arg in bound.items()
        for path in tree.paths(arg)
    ]
