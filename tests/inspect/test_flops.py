"""`flops` against closed forms, and against the compiler's own count where the rules agree."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from funcnet.inspect.flops import flops, operations


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def counted(f, *specs):
    return flops(jax.make_jaxpr(f)(*specs))


def convolve(x, kernel, **arguments):
    numbers = ("NHWC", "HWIO", "NHWC")
    given = {"window_strides": (1, 1), "padding": "VALID", **arguments}
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **given)


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "VALID")


def looped(x):
    return lax.scan(lambda c, _: (jnp.sin(c), None), x, length=7)[0]


def twice_looped(x):
    return lax.scan(lambda c, _: (jax.jit(looped)(c), None), x, length=3)[0]


def until_large(x):
    return lax.while_loop(lambda c: c[0] < 9, lambda c: c * 2, x)


def either(x):
    return lax.cond(x[0] > 0, jnp.sin, lambda x: jnp.sin(x) + 1, x)


def by_platform(x):
    return lax.platform_dependent(x, cpu=lambda x: jnp.sin(x) + 1, default=jnp.sin)


@jax.custom_vjp
def with_gradient(x):
    return jnp.sin(x)


with_gradient.defvjp(lambda x: (x, x), lambda x, g: (g * jnp.cos(x) * 3,))

CLOSED_FORMS = {
    "matmul": (jnp.matmul, (spec(8, 3), spec(3, 2)), 2 * 8 * 3 * 2),
    "matmul, batched": (jnp.matmul, (spec(5, 8, 3), spec(5, 3, 2)), 2 * 5 * 8 * 3 * 2),
    "two axes contracted": (
        lambda a, b: jnp.einsum("abc,bcd->ad", a, b),
        (spec(2, 3, 4), spec(3, 4, 5)),
        2 * 2 * 3 * 4 * 5,
    ),
    "conv": (convolve, (spec(2, 6, 5, 3), spec(3, 2, 3, 4)), 2 * (2 * 4 * 4 * 4) * (3 * 2 * 3)),
    "conv, padded": (
        lambda x, k: convolve(x, k, padding="SAME"),
        (spec(2, 6, 5, 3), spec(3, 2, 3, 4)),
        2 * (2 * 6 * 5 * 4) * (3 * 2 * 3),
    ),
    "conv, in groups": (
        lambda x, k: convolve(x, k, feature_group_count=2),
        (spec(2, 6, 5, 4), spec(3, 3, 2, 6)),
        2 * (2 * 4 * 3 * 6) * (3 * 3 * 2),
    ),
    "elementwise": (lambda x: jnp.exp(x) + x * 2, (spec(4, 5),), 3 * 20),
    "broadcast": (jnp.add, (spec(4, 1), spec(1, 5)), 20),
    "reduction": (lambda x: jnp.sum(x, 0), (spec(4, 5),), 20),
    "cumulative": (lambda x: lax.cumsum(x), (spec(6),), 6),
    "windows": (pool, (spec(2, 5, 5, 3),), 2 * 3 * 3 * 3 * 9),
    "scatter": (lambda x, y: x.at[jnp.arange(2)].add(y, mode="drop"), (spec(9, 3), spec(2, 3)), 8),
    "moved": (lambda x: x.T.reshape(-1)[::2], (spec(4, 5),), 0),
    "compared": (lambda x: jnp.where(x > 0, x, 0), (spec(4, 5),), 0),
    "scan": (looped, (spec(5),), 7 * 5),
    "scan in jit in scan": (twice_looped, (spec(5),), 3 * 7 * 5),
    "while": (until_large, (spec(5),), 5),
    "cond": (either, (spec(5),), 10),
    "platform": (by_platform, (spec(5),), 5),
    "checkpoint": (jax.checkpoint(jnp.sin), (spec(5),), 5),
    "custom_jvp": (jax.nn.relu, (spec(5),), 5),
    "custom_vjp": (with_gradient, (spec(5),), 5),
    "integers": (lambda x: x.astype(int) + 1, (spec(5),), 5),
}


@pytest.mark.parametrize(("f", "specs", "expected"), CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_closed_form(f, specs, expected):
    assert counted(f, *specs) == expected


@pytest.mark.parametrize("name", ["matmul", "conv", "conv, in groups"])
def test_the_compiler_counts_the_same(name):
    f, specs, _ = CLOSED_FORMS[name]
    analysis = jax.jit(f).lower(*specs).compile().cost_analysis()
    assert counted(f, *specs) == analysis["flops"]


def test_padding_is_counted_here_and_not_by_the_compiler():
    f, specs, expected = CLOSED_FORMS["conv, padded"]
    assert jax.jit(f).lower(*specs).compile().cost_analysis()["flops"] < expected


def test_paths_inside_called_jaxprs_are_whole():
    def inner(x):
        with jax.named_scope("inner"):
            return jnp.sin(x)

    def outer(x):
        with jax.named_scope("outer"):
            return lax.scan(lambda c, _: (jax.jit(inner)(c), None), jnp.cos(x), length=4)[0]

    found = operations(jax.make_jaxpr(outer)(spec(2)))
    assert [(each.path, each.equation.primitive.name, each.times) for each in found] == [
        ("outer", "cos", 1),
        ("outer/inner", "sin", 4),
    ]
