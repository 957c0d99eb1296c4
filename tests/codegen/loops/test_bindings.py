"""Where scalar bindings stand: shared values once, invariants outside, guarded reads where they are."""

from __future__ import annotations

from dlc.codegen.loops.bindings import names, place, write_all
from dlc.ir.expr import Apply, Const, Load, Var, apply, const, select
from dlc.ir.kernel import Let, Store
from dlc.ir.types import float32

I, J = Var("i"), Var("j")
LEVELS = {I: 1, J: 2}


def load(index, name: str = "x") -> Load:
    return Load(name, index, float32)


def test_shared_value_is_bound_once() -> None:
    e = apply("exp", load(J))
    lets, (value,) = place([apply("div", e, apply("add", e, Const(1.0, float32)))], LEVELS, 2, names())
    assert [len(level) for level in lets] == [0, 0, 1]
    assert lets[2][0].value == e and "exp" not in repr(value)


def test_invariants_stand_at_their_loop() -> None:
    value = apply("add", apply("mul", load(const(0), "s"), load(J)), apply("exp", load(I, "r")))
    lets, (rest,) = place([value], LEVELS, 2, names())
    assert [let.value for let in lets[0]] == [load(const(0), "s")]
    assert [let.value for let in lets[1]] == [apply("exp", load(I, "r"))]
    assert isinstance(rest, Apply) and rest.op == "add" and lets[2] == []


def test_reads_behind_a_selection_stay_there() -> None:
    guarded = load(apply("sub", I, const(1)))
    value = select(apply("greater_equal", I, const(1)), guarded, Const(0.0, float32))
    lets, (rest,) = place([apply("add", value, load(J))], LEVELS, 2, names())
    assert all(guarded != let.value for level in lets for let in level)
    assert guarded in rest.args[0].args if isinstance(rest.args[0], Apply) else True


def test_index_arithmetic_is_left_to_the_emitter() -> None:
    index = apply("add", apply("mul", I, const(8)), J)
    lets, _ = place([load(index), load(index, "y")], LEVELS, 2, names())
    assert lets == [[], [], []]


def test_values_come_before_the_first_write() -> None:
    statements = write_all([("y", I, apply("neg", load(I))), ("z", I, apply("exp", load(I)))], names())
    assert [type(s) for s in statements] == [Let, Let, Store, Store]
