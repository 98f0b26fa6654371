"""The text of compiled programs: read by hand-written pieces of it with known answers."""

import jax
import jax.numpy as jnp
import pytest

from funcnet.planning import hlo, work

LOOP = """HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

%inside (p: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {{
  %p = (s32[]{{:T(128)}}, f32[4,4]{{1,0:T(8,128)S(1)}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4,4]{{1,0}} get-tuple-element(%p), index=1
  %by = s32[] constant({by})
  %next = s32[] add(%i, %by)
  %y = f32[4,4]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  ROOT %out = (s32[], f32[4,4]{{1,0}}) tuple(%next, %y)
}}

%ends (p.1: (s32[], f32[4,4])) -> pred[] {{
  %p.1 = (s32[]{{:T(128)}}, f32[4,4]{{1,0}}) parameter(0)
  %i.1 = s32[]{{:T(128)}} get-tuple-element(%p.1), index=0
  %n = s32[]{{:T(128)}} constant({end})
  ROOT %less = pred[]{{:T(512)}} compare(%i.1, %n), direction={direction}
}}

ENTRY %main (x.1: f32[4,4]) -> (s32[], f32[4,4]) {{
  %x.1 = f32[4,4]{{1,0}} parameter(0)
  %zero = s32[] constant({start})
  %first = s32[] copy(%zero)
  %carry = (s32[], f32[4,4]{{1,0}}) tuple(%first, %x.1)
  ROOT %l = (s32[], /*index=1*/f32[4,4]{{1,0}}) while(%carry), condition=%ends, body=%inside{more}
}}
"""


def loop(start=0, end=12, by=1, direction="LT", more=""):
    return LOOP.format(start=start, end=end, by=by, direction=direction, more=more)


@pytest.mark.parametrize(
    ("settings", "turns"),
    [
        ({}, 12),
        ({"direction": "LE"}, 13),
        ({"start": 2}, 10),
        ({"by": 5}, 3),
        ({"start": 20}, 0),
        ({"direction": "NE"}, 1),  # not known: counted once
        ({"more": ', backend_config={"known_trip_count":{"n":"7"},"x":1}'}, 7),
    ],
)
def test_loops_count_as_often_as_they_turn(settings, turns):
    module = hlo.parse(loop(**settings))
    visits = list(hlo.visits(module))
    times = {visit.instruction.name: visit.times for visit in visits}
    assert times["l"] == 1
    assert times["y"] == turns
    assert work.flops(visits) == {"f32": turns * 2 * 4 * 4 * 4}


def test_a_comparison_may_be_fused():
    text = loop().replace(
        "ROOT %less = pred[]{:T(512)} compare(%i.1, %n), direction=LT",
        "ROOT %less = pred[] fusion(%i.1, %n), kind=kLoop, calls=%lesser",
    )
    lesser = """
%lesser (q: s32[], r: s32[]) -> pred[] {
  %q = s32[] parameter(0)
  %r = s32[] parameter(1)
  ROOT %c = pred[] compare(%q, %r), direction=LT
}
"""
    module = hlo.parse(text + lesser)
    assert {visit.times for visit in hlo.visits(module) if visit.instruction.name == "y"} == {12}


def test_a_line_is_taken_apart():
    line = hlo.instruction(
        "  %r.2 = (f32[2]{0:T(8)}, /*index=1*/bf16[3,5]{1,0:T(8,128)(2,1)S(1)}) fusion(%a, %b.1), "
        'kind=kLoop, calls=%f.3, backend_config={"a":"(1)"}'
    )
    assert (line.name, line.opcode, line.operands) == ("r.2", "fusion", ("a", "b.1"))
    assert line.arrays == [hlo.Array("f32", (2,), 0), hlo.Array("bf16", (3, 5), 1)]
    assert [array.nbytes for array in line.arrays] == [8, 30]
    assert line.called == ["f.3"]
    assert hlo.instruction("  // nothing") is None
    assert hlo.arrays("pred[7]{0}")[0].nbytes == 7
    assert hlo.arrays("s4[3]{0}")[0].nbytes == 2


def test_branches_all_count():
    text = """
ENTRY %main (p: s32[]) -> f32[2,2] {
  %p = s32[] parameter(0)
  ROOT %c = f32[2,2] conditional(%p, %x, %x), branch_computations={%one, %two}
}

%one (x: f32[2,2]) -> f32[2,2] {
  %x = f32[2,2] parameter(0)
  ROOT %y = f32[2,2] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%two (z: f32[2,2]) -> f32[2,2] {
  ROOT %z = f32[2,2] parameter(0)
}
"""
    assert work.flops(hlo.visits(hlo.parse(text))) == {"f32": 16}
    assert list(hlo.visits(hlo.parse(""))) == []


def test_a_scan_of_jax_s_own_is_counted():
    def f(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    w, x = jax.ShapeDtypeStruct((9, 64, 64), "float32"), jax.ShapeDtypeStruct((32, 64), "float32")
    compiled = jax.jit(f).lower(w, x).compile()
    once = 2 * 32 * 64 * 64
    visits = list(hlo.visits(hlo.parse(compiled.as_text())))
    turns = {visit.times for visit in visits if visit.instruction.name.startswith("while")}
    loops = [visit for visit in visits if visit.instruction.opcode == "while"]
    module = hlo.parse(compiled.as_text())
    assert turns == {1}
    assert [hlo.trips(module, each.computation, each.instruction) for each in loops] == [9]
    assert once <= compiled.cost_analysis()["flops"] < 2 * once  # why they must be counted here
