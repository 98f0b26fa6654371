"""Operations and bytes of compiled programs, against XLA's own count and by hand."""

import re

import jax
import pytest

from funcnet.planning import hlo, work


def visited(text):
    module = hlo.parse(text)
    return module, list(hlo.visits(module))


CONVOLUTIONS = {
    "same": {"window_strides": (1, 1), "padding": "SAME"},
    "strides": {"window_strides": (2, 3), "padding": "VALID"},
    "dilated": {"window_strides": (1, 1), "padding": [(2, 3), (0, 1)], "rhs_dilation": (2, 1)},
    "transposed": {"window_strides": (1, 1), "padding": [(2, 2), (2, 2)], "lhs_dilation": (2, 2)},
    "groups": {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_counted_as_xla_does(name):
    settings = CONVOLUTIONS[name]
    channels = 4 // settings.get("feature_group_count", 1)
    x = jax.ShapeDtypeStruct((5, 12, 11, 4), "float32")
    kernel = jax.ShapeDtypeStruct((3, 4, channels, 6), "float32")

    def f(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **settings)

    lowered = jax.jit(f).lower(x, kernel)
    text = lowered.compiler_ir(dialect="hlo").as_hlo_text()
    _, visits = visited(named(text))
    assert sum(work.flops(visits).values()) == lowered.cost_analysis()["flops"]


def named(text):
    """XLA's short form has no sign before names."""
    known = set(re.findall(r"^\s*(?:ROOT )?([\w.\-]+) = ", text, re.M))
    return re.sub(r"(?<![\w.%\-])([\w\-]+\.\d+)(?![\w.])", lambda m: with_sign(m[1], known), text)


def with_sign(name, known):
    return f"%{name}" if name in known else name


def test_products_are_told_apart_by_dtype_and_precision():
    text = """
ENTRY %main (a: f32[2,3], b: f32[3,5], c: bf16[7,3], d: bf16[3,1]) -> f32[2,5] {
  %a = f32[2,3]{1,0} parameter(0)
  %b = f32[3,5]{1,0} parameter(1)
  %c = bf16[7,3]{1,0} parameter(2)
  %d = bf16[3,1]{1,0} parameter(3)
  %e = bf16[7,1]{1,0} dot(%c, %d), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %f = f32[2,5]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %g = f32[2,5] convolution(%a, %b), dim_labels=bf_io->bf, operand_precision={highest,highest}
}
"""
    _, visits = visited(text)
    assert work.flops(visits) == {"bf16": 42, "f32": 60, "f32 highest": 60}


SLICED = """
%inner (s: f32[10,8], u: f32[8], i: s32[], c: f32[8]) -> f32[10,8] {
  %s = f32[10,8]{1,0} parameter(0)
  %u = f32[8]{0} parameter(1)
  %i = s32[] parameter(2)
  %c = f32[8]{0:S(1)} parameter(3)
  %part = f32[1,8]{1,0} dynamic-slice(%s, %i, %i), dynamic_slice_sizes={1,8}
  %flat = f32[8]{0} bitcast(%part)
  %sum = f32[8]{0} add(%flat, %u)
  %more = f32[8]{0} add(%sum, %c)
  %back = f32[1,8]{1,0} bitcast(%more)
  ROOT %new = f32[10,8]{1,0} dynamic-update-slice(%s, %back, %i, %i)
}

ENTRY %main (s.1: f32[10,8], u.1: f32[8], i.1: s32[]) -> f32[10,8] {
  %s.1 = f32[10,8]{1,0} parameter(0)
  %u.1 = f32[8]{0} parameter(1)
  %i.1 = s32[] parameter(2)
  %c.1 = f32[8]{0:T(8)S(1)} copy(%u.1)
  ROOT %f = f32[10,8]{1,0} fusion(%s.1, %u.1, %i.1, %c.1), kind=kLoop, calls=%inner
}
"""


def test_what_is_sliced_or_updated_in_place_costs_the_slice():
    module, visits = visited(SLICED)
    copied = 32  # read; written into a memory of its own, which costs nothing
    fused = 32 + 32 + 4 + 32  # a slice, u, the index, and the update
    assert work.moved(module, visits) == copied + fused


def test_copies_into_the_chip_s_own_memory_read_what_they_take():
    text = """
ENTRY %main (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  %c = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%x)
  %d = f32[100]{0:S(1)} copy-done(%c)
  %s = ((f32[100]{0}), f32[10]{0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:10]}
  %t = f32[10]{0:S(1)} slice-done(%s)
  ROOT %y = f32[100]{0} negate(%d)
}
"""
    module, visits = visited(text)
    assert work.moved(module, visits) == 400 + 40 + 400


def test_bytes_of_a_product_are_those_of_its_arrays():
    x, w = jax.ShapeDtypeStruct((64, 32), "float32"), jax.ShapeDtypeStruct((32, 16), "float32")
    compiled = jax.jit(lambda x, w: x @ w).lower(x, w).compile()
    module, visits = visited(compiled.as_text())
    assert work.moved(module, visits) == 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert work.moved(module, visits) == compiled.cost_analysis()["bytes accessed"]
