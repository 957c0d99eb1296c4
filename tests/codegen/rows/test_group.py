"""Row problems: what is recognised, what is kept between stages, where rows need no test."""

from __future__ import annotations

import dlc.ir.ops  # noqa: F401 - registers the ops
from dlc.codegen.compute_group import ComputeGroup
from dlc.codegen.lower.in_place import row_pairs
from dlc.codegen.places import whole
from dlc.codegen.rows.group import row_problem
from dlc.codegen.rows.interior import interior
from dlc.codegen.rows.problem import RowProblem
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.types import float32, tensor_type


def problem_of(function, *shapes: tuple[int, ...]) -> RowProblem | None:
    b = Builder("test")
    inputs = [b.input(f"i{k}", tensor_type(float32, s)) for k, s in enumerate(shapes)]
    results = function(b, *inputs)
    outputs: list[Value] = list(results) if isinstance(results, tuple) else [results]
    group = ComputeGroup(inputs, b.nodes)
    results = {v: whole(f"y{k}", v.type) for k, v in enumerate(outputs)}
    return row_problem(group, outputs, results, {k: whole(f"x{k}", v.type) for k, v in enumerate(inputs)})


def softmax(b: Builder, x: Value, axis: int = 1) -> Value:
    e = b.exp(b.sub(x, b.reduce_max(x, axes=(axis,), keepdims=True)))
    return b.div(e, b.reduce_sum(e, axes=(axis,), keepdims=True))


def test_softmax_has_three_stages_and_keeps_its_exponentials() -> None:
    problem = problem_of(softmax, (6, 40))
    assert problem is not None
    assert [len(s.reductions) for s in problem.stages] == [1, 1, 0]
    assert [len(s.keeps) for s in problem.stages] == [0, 1, 0]
    assert len(problem.stages[2].writes) == 1 and problem.row_writes == ()


def test_kept_value_that_is_written_anyway_is_read_back() -> None:
    def function(b: Builder, x: Value) -> tuple[Value, Value]:
        e = b.exp(b.sub(x, b.reduce_max(x, axes=(1,), keepdims=True)))
        return e, b.div(e, b.reduce_sum(e, axes=(1,), keepdims=True))

    problem = problem_of(function, (6, 40))
    assert problem is not None
    assert [k.buffer for s in problem.stages for k in s.keeps] == ["y0"]


def test_elements_overwrite_the_operand_beside_results_of_rows() -> None:
    def function(b: Builder, x: Value) -> tuple[Value, Value]:
        largest = b.reduce_max(x, axes=(1,), keepdims=True)
        return b.reshape(largest, shape=(6,)), b.sub(x, largest)

    problem = problem_of(function, (6, 40))
    assert problem is not None and len(problem.row_writes) == 1
    types = {"x0": tensor_type(float32, (6, 40)), "y0": tensor_type(float32, (6,)), "y1": tensor_type(float32, (6, 40))}
    assert row_pairs(problem, types) == [("y1", "x0")]


def test_cheap_values_are_computed_again() -> None:
    def function(b: Builder, x: Value) -> Value:
        centred = b.sub(x, b.reduce_sum(x, axes=(1,), keepdims=True))
        return b.mul(centred, b.reduce_sum(b.mul(centred, centred), axes=(1,), keepdims=True))

    problem = problem_of(function, (6, 40))
    assert problem is not None and not any(s.keeps for s in problem.stages)


def test_sums_of_one_tensor_are_one_stage() -> None:
    def function(b: Builder, x: Value) -> tuple[Value, Value]:
        return b.reduce_sum(x, axes=(0,)), b.reduce_sum(b.mul(x, x), axes=(0,))

    problem = problem_of(function, (30, 16))
    assert problem is not None
    assert len(problem.stages) == 1 and len(problem.stages[0].reductions) == 2 and len(problem.row_writes) == 2


def test_different_axes_are_no_row_problem() -> None:
    def function(b: Builder, x: Value) -> tuple[Value, Value]:
        return b.reduce_sum(x, axes=(0,)), b.reduce_sum(x, axes=(1,))

    assert problem_of(function, (8, 8)) is None


def test_rows_read_in_another_order_are_no_row_problem() -> None:
    def function(b: Builder, x: Value) -> Value:
        total = b.reduce_sum(x, axes=(1,))
        return b.sub(x, b.broadcast(b.reverse(total, axes=(0,)), shape=(8, 8), dims=(0,)))

    assert problem_of(function, (8, 8)) is None


def test_interior_of_padded_windows() -> None:
    def pool(b: Builder, x: Value) -> Value:
        zero = b.constant(0.0, float32)
        padded = b.pad(x, zero, low=(1, 2, 0), high=(1, 0, 0), interior=(0, 0, 0))
        return b.reduce_window(padded, combiner="add", window=(3, 3, 1), strides=(1, 2, 1), dilations=(1, 1, 1))

    problem = problem_of(pool, (10, 20, 16))
    assert problem is not None
    found = interior(problem, problem.kept[-1])
    assert found is not None
    test, inner = found
    assert "select" not in repr(inner.exprs()) and "select" in repr(problem.exprs())
    rows, columns = problem.kept[0], problem.kept[1]
    assert (rows.extent, columns.extent) == (10, 10)
    inside = [
        (i, j) for i in range(rows.extent) for j in range(columns.extent) if truth(test, {rows.var: i, columns.var: j})
    ]
    assert inside == [(i, j) for i in range(1, 9) for j in range(1, 10)]


def truth(test, values) -> bool:
    from tests.ir.test_simplify import evaluate

    return bool(evaluate(test, values))
