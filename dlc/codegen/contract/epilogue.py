"""Reads pointwise nodes after a contraction as its epilogue: an expression over one element of the sum."""

from __future__ import annotations

from math import prod

from dlc.codegen.compute_group import ComputeGroup
from dlc.ir.compute import Compute
from dlc.ir.epilogue import ACCUMULATOR, Epilogue
from dlc.ir.expr import Expr, Read, Var, substitute, transform
from dlc.ir.graph import Node, Value
from dlc.ir.simplify import Simplifier, linear_index, unravel


def epilogue_of(contraction: Node, group: ComputeGroup, output: Value) -> tuple[Epilogue, list[Value]] | None:
    """Return the nodes after the contraction as its epilogue and the tensors it reads; None if rows do not match."""
    if group.reductions:
        return None
    assert contraction.op.compute is not None
    contract = contraction.op.compute(contraction.input_types, contraction.output_types, contraction.attributes)
    result = group.inline((), [output])[output]
    bounds = {a.var: (0, max(a.extent - 1, 0)) for a in contract.axes}
    simplify = Simplifier(bounds)
    indices = _output_indices(contract, result, simplify)
    if indices is None:
        return None
    body = simplify(substitute(result.body, {a.var: i for a, i in zip(result.axes, indices, strict=True)}))
    accumulated = contraction.outputs[0]
    store = tuple(simplify(i) for i in contract.store)
    extra: list[Value] = []
    failed = False

    def rule(expr: Expr) -> Expr | None:
        nonlocal failed
        if not isinstance(expr, Read):
            return None
        value = group.sources[expr.input]
        if value is accumulated:
            if expr.indices != store:
                failed = True
            return Var(ACCUMULATOR, expr.dtype)
        if value not in extra:
            extra.append(value)
        return Read(extra.index(value), expr.indices, expr.dtype)

    body = transform(body, rule)
    if failed:
        return None
    return Epilogue(body, body.dtype, tuple(v.type for v in extra)), extra


def _output_indices(contract: Compute, result: Compute, simplify: Simplifier) -> list[Expr] | None:
    """Return the result's index per dimension over the contraction's axes: the same row-major position."""
    if contract.shape == result.shape:
        return list(contract.store)
    if prod(contract.shape) != prod(result.shape):
        return None
    position = linear_index(contract.store, contract.shape, simplify)
    return unravel(position, result.shape, simplify)
