"""Collectives of compiled programs: kinds, groups, bytes, and how often, by hand-written text."""

import pytest

from funcnet.planning import hlo
from funcnet.planning.traffic import Collective, collectives, group_size


def found(lines, devices=8, around=""):
    text = "ENTRY %main (x: f32[16,4]) -> f32[] {\n  %x = f32[16,4]{1,0} parameter(0)\n"
    text += "\n".join(f"  {line}" for line in lines) + "\n}\n" + around
    return collectives(hlo.visits(hlo.parse(text)), devices)


ALL = "replica_groups={{0,1,2,3,4,5,6,7}}"
X = 16 * 4 * 4  # bytes of %x


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            f"%a = f32[16,4]{{1,0}} all-reduce(%x), channel_id=1, {ALL}, to_apply=%add",
            Collective("all-reduce", 1, X, 2 * 7 * X // 8),
        ),
        (
            f"%a = f32[128,4]{{1,0}} all-gather(%x), {ALL}, dimensions={{0}}",
            Collective("all-gather", 1, 8 * X, 7 * X),
        ),
        (
            f"%a = f32[2,4]{{1,0}} reduce-scatter(%x), {ALL}, dimensions={{0}}, to_apply=%add",
            Collective("reduce-scatter", 1, X, 7 * X // 8),
        ),
        (
            f"%a = f32[16,4]{{1,0}} all-to-all(%x), {ALL}, dimensions={{0}}",
            Collective("all-to-all", 1, X, 7 * X // 8),
        ),
        (
            "%a = f32[16,4]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}",
            Collective("collective-permute", 1, X, X),
        ),
        (
            "%a = f32[64,4]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}",
            Collective("all-gather", 1, 4 * X, 3 * X),
        ),
        (
            f"%a = (f32[16,4]{{1,0}}, f32[16,4]{{1,0}}) all-reduce(%x, %x), {ALL}, to_apply=%add",
            Collective("all-reduce", 1, 2 * X, 4 * 7 * X // 8),
        ),
    ],
    ids=["reduce", "gather", "scatter", "to all", "permute", "iota", "tuple"],
)
def test_each_kind(line, expected):
    assert found([line]) == (expected,)


def test_what_is_started_and_done_is_one():
    lines = [
        f"%s = (f32[16,4]{{1,0}}, f32[128,4]{{1,0}}) all-gather-start(%x), {ALL}, dimensions={{0}}",
        "%d = f32[128,4]{1,0} all-gather-done(%s)",
        f"%t = f32[16,4]{{1,0}} all-reduce-start(%x), {ALL}, to_apply=%add",
        "%e = f32[16,4]{1,0} all-reduce-done(%t)",
    ]
    assert [(each.kind, each.count, each.bytes) for each in found(lines)] == [
        ("all-reduce", 1, X),
        ("all-gather", 1, 8 * X),
    ]


def test_wrapped_in_an_async_start():
    around = f"""
%wrapped (y: f32[16,4]) -> f32[2,4] {{
  %y = f32[16,4]{{1,0}} parameter(0)
  ROOT %r = f32[2,4]{{1,0}} reduce-scatter(%y), {ALL}, dimensions={{0}}, to_apply=%add
}}
"""
    lines = [
        "%s = ((f32[16,4]{1,0}), f32[2,4]{1,0}) async-start(%x), calls=%wrapped",
        "%d = f32[2,4]{1,0} async-done(%s)",
    ]
    assert found(lines, around=around) == (Collective("reduce-scatter", 1, X, 7 * X // 8),)


def test_in_loops_they_count_as_often_as_these_turn():
    around = f"""
%inside (y: f32[16,4]) -> f32[16,4] {{
  %y = f32[16,4]{{1,0}} parameter(0)
  ROOT %r = f32[16,4]{{1,0}} all-reduce(%y), {ALL}, to_apply=%add
}}
"""
    known = 'backend_config={"known_trip_count":{"n":"6"}}'
    lines = [f"%w = f32[16,4]{{1,0}} while(%x), condition=%ends, body=%inside, {known}"]
    (reduced,) = found(lines, around=around)
    assert (reduced.count, reduced.bytes) == (6, 6 * X)


def test_parts_of_one_in_several_fusions_are_one():
    gather = f"all-gather(%y), channel_id=3, {ALL}, dimensions={{0}}"
    parts = [
        f"""
%part{n} (y: f32[16,4]) -> f32[128,4] {{
  %y = f32[16,4]{{1,0}} parameter(0)
  ROOT %r = f32[128,4]{{1,0}} {gather}
}}
"""
        for n in range(3)
    ]
    lines = [f"%f{n} = f32[128,4]{{1,0}} fusion(%x), calls=%part{n}" for n in range(3)]
    around = "".join(parts)
    assert [each.count for each in found(lines, around=around)] == [1]


def test_an_all_reduce_of_which_each_keeps_a_slice_is_a_reduce_scatter():
    around = f"""
%all-reduce-scatter (y: f32[16,4]) -> f32[2,4] {{
  %y = f32[16,4]{{1,0}} parameter(0)
  %i = s32[] constant(0)
  %r = f32[16,4]{{1,0}} all-reduce(%y), {ALL}, to_apply=%add
  ROOT %s = f32[2,4]{{1,0}} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={{2,4}}
}}
"""
    lines = ["%f = f32[2,4]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter"]
    assert found(lines, around=around) == (Collective("reduce-scatter", 1, X, 7 * X // 8),)


def test_groups_of_one_tell_nobody_anything():
    assert found(["%a = f32[16,4]{1,0} all-reduce(%x), replica_groups={{0},{1}}"], 2) == ()
    assert found(["%a = f32[16,4]{1,0} negate(%x)"]) == ()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={}", 8),
        ("replica_groups={{0,2},{1,3}}", 2),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", 4),
        ("", 8),
    ],
)
def test_groups(text, size):
    assert group_size(text, 8) == size
