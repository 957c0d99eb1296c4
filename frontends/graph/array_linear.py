"""Products of tensors with NumPy's names, over builder values."""

from __future__ import annotations

from typing import Any

from dlc.errors import TypeRuleError
from dlc.frontends.graph.promotion import as_value, normalize_axes, same_dtype
from dlc.ir.builder import Builder
from dlc.ir.graph import Value


def matmul(b: Builder, x: Any, y: Any) -> Value:
    """Return the matrix product ``x @ y``; leading dimensions broadcast, vectors are promoted, as in NumPy."""
    return b.matmul(*same_dtype(b, (x, y)))


def dot(b: Builder, x: Any, y: Any) -> Value:
    """Return NumPy's dot product: of vectors the inner product, of matrices the matrix product."""
    left, right = same_dtype(b, (x, y))
    if left.type.rank == 0 or right.type.rank == 0:
        return b.mul(left, right)
    if left.type.rank <= 2 and right.type.rank <= 2:
        return b.matmul(left, right)
    return tensordot(b, left, right, ((left.type.rank - 1,), (max(right.type.rank - 2, 0),)))


def einsum(b: Builder, subscripts: str, *operands: Any) -> Value:
    """Return the Einstein summation of ``operands``, for example ``einsum("bij,bjk->bik", x, y)``."""
    return b.einsum(*same_dtype(b, operands), equation=subscripts)


def tensordot(b: Builder, x: Any, y: Any, axes: Any = 2) -> Value:
    """Sum products over ``axes``: a count of trailing and leading dimensions, or a pair of axis sequences."""
    left, right = same_dtype(b, (x, y))
    if isinstance(axes, int):
        pair = (tuple(range(left.type.rank - axes, left.type.rank)), tuple(range(axes)))
    else:
        pair = (normalize_axes(axes[0], left.type.rank), normalize_axes(axes[1], right.type.rank))
    if len(pair[0]) != len(pair[1]):
        raise TypeRuleError(
            f"tensordot sums over {len(pair[0])} dimensions of one operand and {len(pair[1])} of the other"
        )
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first = [next(letters) for _ in range(left.type.rank)]
    shared = dict(zip(pair[1], (first[a] for a in pair[0])))
    second = [shared.get(i) or next(letters) for i in range(right.type.rank)]
    result = [c for i, c in enumerate(first) if i not in pair[0]] + [
        c for i, c in enumerate(second) if i not in pair[1]
    ]
    return b.einsum(left, right, equation=f"{''.join(first)},{''.join(second)}->{''.join(result)}")


def outer(b: Builder, x: Any, y: Any) -> Value:
    """Return all products of an element of ``x`` and one of ``y`` (both flattened), as a matrix."""
    left, right = same_dtype(b, (x, y))
    return b.mul(b.reshape_to(left, (left.type.size, 1)), b.reshape_to(right, (1, right.type.size)))


def inner(b: Builder, x: Any, y: Any) -> Value:
    """Sum products over the last dimensions of both tensors."""
    left, right = same_dtype(b, (x, y))
    return tensordot(b, left, right, ((left.type.rank - 1,), (right.type.rank - 1,)))


def addmm(b: Builder, x: Any, weight: Any, bias: Any | None) -> Value:
    """Return ``x @ weight.T + bias`` for a weight (out, in)."""
    value, matrix = as_value(b, x), as_value(b, weight)
    product = b.matmul(value, b.transpose_to(matrix, (1, 0)))
    return product if bias is None else b.add(product, as_value(b, bias))
