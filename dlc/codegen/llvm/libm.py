"""Calls into the C library, lane by lane: for rare arguments and rarely used functions."""

from __future__ import annotations

from dlc.codegen.llvm.formula import Flag, Formula, Number
from dlc.codegen.llvm.scalar import flag_type


def per_lane(f: Formula, name: str, *args: Number) -> Number:
    """Apply the C function ``name`` (its float64 name; float32 gets an ``f``) to every lane."""
    s, element, lanes = f.s, f.element, f.lanes
    symbol = f"@{name}{'f' if element == 'float' else ''}"
    s.declare(f"{element} {symbol}({', '.join([element] * len(args))}) #1")
    if not lanes:
        return Number(f, s.op(f"call {element} {symbol}({', '.join(f'{element} {a.text}' for a in args)}) #1"))
    head, done, before = s.label("each"), s.label("each_end"), s.block
    lane, following = f"%{s.label('l')}", f"%{s.label('l')}"
    result, updated = f"%{s.label('v')}", f"%{s.label('v')}"
    s.branch(head)
    s.start(head)
    s.do(f"{lane} = phi i64 [ 0, %{before} ], [ {following}, %{head} ]")
    s.do(f"{result} = phi {f.kind} [ poison, %{before} ], [ {updated}, %{head} ]")
    ones = [s.op(f"extractelement {f.kind} {a.text}, i64 {lane}") for a in args]
    value = s.op(f"call {element} {symbol}({', '.join(f'{element} {one}' for one in ones)}) #1")
    s.do(f"{updated} = insertelement {f.kind} {result}, {element} {value}, i64 {lane}")
    s.do(f"{following} = add nuw nsw i64 {lane}, 1")
    s.branch_if(s.op(f"icmp eq i64 {following}, {lanes}"), done, head)
    s.start(done)
    return Number(f, updated)


def unless(f: Formula, rare: Flag, common: Number, name: str, *args: Number) -> Number:
    """Return ``common``, or the C function's results if ``rare`` holds in any lane."""
    s = f.s
    any_rare = rare.text
    if f.lanes:
        any_rare = s.op(f"bitcast {flag_type(f.lanes)} {rare.text} to i{f.lanes}")
        any_rare = s.op(f"icmp ne i{f.lanes} {any_rare}, 0")
    slow, joined, before = s.label("rare"), s.label("usual"), s.block
    s.branch_if(any_rare, slow, joined)
    s.start(slow)
    exact = per_lane(f, name, *args)
    end = s.block
    s.branch(joined)
    s.start(joined)
    return Number(f, s.op(f"phi {f.kind} [ {common.text}, %{before} ], [ {exact.text}, %{end} ]"))
