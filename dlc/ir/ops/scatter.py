"""Scatters: kernels that combine updates into a tensor at indices.

Updates are applied in order, in parallel only where places differ, so results do
not depend on threads. Indices wrap once and are clamped, as in ``index``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlc.errors import NotDifferentiableError, TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.dims import Shape
from dlc.ir.expr import Expr, Load, Var, apply, const
from dlc.ir.graph import Node, Value
from dlc.ir.kernel import Accumulate, Buffer, For, If, Kernel, Let, LoopKind, Stmt, Store
from dlc.ir.opdef import Attribute, OpDef, Types, register
from dlc.ir.ops.index import (
    AXIS,
    coordinates_of,
    gather_elements_type,
    gather_type,
    tuple_length,
    wrapped,
    wrapped_expr,
)
from dlc.ir.ops.rules import lanes_for, linear_index, normalize_axis, single_vjp, vector_lanes
from dlc.ir.types import DType, TensorType, bool_

COMBINERS = ("none", "add", "mul", "maximum", "minimum")
_UFUNCS: dict[str, Any] = {"add": np.add, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum}

# -- scatters of slices ----------------------------------------------------------------------


def _static(shape: Shape) -> list[int]:
    return [int(d) for d in shape]  # type: ignore[arg-type]


def _product(extents: Sequence[int]) -> int:
    return int(np.prod(extents, dtype=np.int64))


def _combine(combiner: str, buffer: str, index: Expr, value: Expr) -> Stmt:
    return Store(buffer, index, value) if combiner == "none" else Accumulate(buffer, index, combiner, value)


_CHUNK = 64
"""Inner elements of one task: four cache lines of float32."""


def _along_inner(inner: int, chunk: Expr, body: Callable[[Expr], tuple[Stmt, ...]]) -> tuple[Stmt, ...]:
    """Run ``body(position)`` for the positions of an inner extent that are in ``chunk``, as vectors."""
    lanes = lanes_for(inner)
    v = Var("v")
    start = apply("add", apply("mul", chunk, const(_CHUNK)), apply("mul", v, const(lanes)))
    vectors, most = -(-inner // lanes), _CHUNK // lanes
    steps: Expr = const(min(vectors, most))
    if vectors > most and vectors % most:  # the last chunk is shorter
        steps = apply("minimum", steps, apply("sub", const(vectors), apply("mul", chunk, const(most))))
    return (For(v, steps, LoopKind.SERIAL, vector_lanes(inner, start, lanes, body)),)


def rows_kernel(
    name: str,
    dtypes: tuple[DType, DType],
    sizes: tuple[int, int, int],
    extents: tuple[int, int, int, int],
    row: Expr,
    combiner: str,
) -> Kernel:
    """Copy x, then combine updates into its rows, in order.

    ``sizes`` are the elements of x, indices and updates; ``extents`` (outer, rows, updates, inner): x is viewed as
    (outer, rows, inner), updates as (outer, updates, inner); ``row`` is the place of update number ``u``.
    Tasks are (outer, chunks of inner): no two tasks touch one element.
    """
    (dtype, index_dtype), (x_size, i_size, u_size) = dtypes, sizes
    outer, rows, updates, inner = extents
    o, chunk, r, u, target = (Var(n) for n in ("o", "chunk", "r", "u", "target"))

    def at(count: int, number: Expr, position: Expr) -> Expr:
        line = apply("add", apply("mul", o, const(count)), number)
        return apply("add", apply("mul", line, const(inner)), position)

    def copy(position: Expr) -> tuple[Stmt, ...]:
        place = at(rows, r, position)
        return (Store("y", place, Load("x", place, dtype)),)

    def update(position: Expr) -> tuple[Stmt, ...]:
        value = Load("updates", at(updates, u, position), dtype)
        return (_combine(combiner, "y", at(rows, target, position), value),)

    body = (
        For(r, const(rows), LoopKind.SERIAL, _along_inner(inner, chunk, copy)),
        For(u, const(updates), LoopKind.SERIAL, (Let(target, row), *_along_inner(inner, chunk, update))),
    )
    chunks = For(chunk, const(-(-inner // _CHUNK)), LoopKind.PARALLEL, body)
    buffers = (
        Buffer("x", dtype, x_size),
        Buffer("indices", index_dtype, i_size),
        Buffer("updates", dtype, u_size),
        Buffer("y", dtype, x_size, writable=True),
    )
    return Kernel(name, buffers, (), (For(o, const(outer), LoopKind.PARALLEL, (chunks,)),))


def _check_updates(x: TensorType, updates: TensorType, shape: Shape) -> None:
    if updates.dtype is not x.dtype or x.dtype is bool_ or x.dtype.kind == "string":
        raise TypeRuleError("operand and updates must have one numeric dtype; cast them first")
    if updates.shape != shape:
        raise TypeRuleError(f"updates have shape {list(updates.shape)}; they must have {list(shape)}")


def scatter_add_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, integer indices, updates shaped as gather's result) -> x."""
    x, indices, updates = inputs
    (wanted,) = gather_type((x, indices), attributes)
    _check_updates(x, updates, wanted.shape)
    return (x,)


def scatter_add_evaluate(a: Attributes, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """np.add.at along the axis."""
    y = x.copy()
    if updates.size:
        axis = a["axis"]
        places = wrapped(indices, x.shape[axis]).reshape(-1)
        lines = updates.reshape(*x.shape[:axis], places.size, *x.shape[axis + 1 :])
        np.add.at(y, (slice(None),) * axis + (places,), lines)
    return y


def scatter_add_kernel(inputs: Types, outputs: Types, attributes: Attributes) -> Kernel:
    """Rows of x are addressed by one index each."""
    x, indices, updates = inputs
    shape, axis = _static(x.shape), attributes["axis"]
    count = _product(_static(indices.shape))
    row = wrapped_expr(Load("indices", Var("u"), indices.dtype), shape[axis])
    extents = (_product(shape[:axis]), shape[axis], count, _product(shape[axis + 1 :]))
    sizes = (_product(shape), count, _product(_static(updates.shape)))
    return rows_kernel("scatter_add", (x.dtype, indices.dtype), sizes, extents, row, "add")


def _scatter_add_vjp(b: Builder, dy: Value, node: Node) -> tuple[Value | None, ...]:
    return dy, None, b.gather(dy, node.inputs[1], axis=node.attributes["axis"])


register(
    OpDef(
        name="scatter_add",
        arity=3,
        infer=scatter_add_type,
        evaluate=scatter_add_evaluate,
        attributes={"axis": AXIS},
        kernel=scatter_add_kernel,
        vjp=single_vjp(_scatter_add_vjp),
        normalize=normalize_axis,
        doc="Operand 0 plus slices (operand 2) added along an axis at indices (operand 1), in order.",
    )
)


def _check_combiner(combiner: str) -> None:
    if combiner not in COMBINERS:
        raise TypeRuleError(f"combiner is {combiner!r}; it must be one of {', '.join(COMBINERS)}")


def scatter_nd_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, coordinate tuples, updates shaped as gather_nd's result) -> x."""
    x, indices, updates = inputs
    _check_combiner(attributes["combiner"])
    length = tuple_length(x, indices)
    _check_updates(x, updates, (*indices.shape[:-1], *x.shape[length:]))
    return (x,)


def _np_scatter(y: np.ndarray, places: tuple[np.ndarray, ...], updates: np.ndarray, combiner: str) -> None:
    """Apply updates in row-major order of the places: later ones win for "none"."""
    if not updates.size:
        return
    with np.errstate(all="ignore"):
        if combiner == "none":
            for number in np.ndindex(*places[0].shape):
                y[tuple(p[number] for p in places)] = updates[number]
        else:
            _UFUNCS[combiner].at(y, places, updates)


def scatter_nd_evaluate(a: Attributes, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """Apply the updates in order."""
    y = x.copy()
    _np_scatter(y, coordinates_of(x.shape, indices, 0), updates, a["combiner"])
    return y


def scatter_nd_kernel(inputs: Types, outputs: Types, attributes: Attributes) -> Kernel:
    """Rows of x are addressed by coordinate tuples."""
    x, indices, updates = inputs
    shape, length = _static(x.shape), int(indices.shape[-1])  # type: ignore[arg-type]
    count = _product(_static(indices.shape[:-1]))
    start = apply("mul", Var("u"), const(length))
    coordinates = [
        wrapped_expr(Load("indices", apply("add", start, const(k)), indices.dtype), shape[k]) for k in range(length)
    ]
    extents = (1, _product(shape[:length]), count, _product(shape[length:]))
    sizes = (_product(shape), count * length, _product(_static(updates.shape)))
    row = linear_index(coordinates, shape[:length])
    return rows_kernel("scatter_nd", (x.dtype, indices.dtype), sizes, extents, row, attributes["combiner"])


def _scatter_gradients(
    b: Builder, dy: Value, node: Node, gather: Callable[[Value], Value], scatter: Callable[..., Value]
) -> tuple[Value | None, ...]:
    """Gradients of a scatter by combiner, from the matching gather and scatter."""
    combiner, (x, _, updates), y = node.attributes["combiner"], node.inputs, node.outputs[0]
    match combiner:
        case "add":
            return dy, None, gather(dy)
        case "none":
            return scatter(dy, b.zeros_like(updates), "none"), None, gather(dy)
        case "maximum" | "minimum":
            kept = b.where(b.equal(x, y), dy, 0.0)
            return kept, None, b.where(b.equal(updates, gather(y)), gather(dy), 0.0)
    raise NotDifferentiableError(f"{node!r}: combiner {combiner!r} has no gradient; multiply after a gather instead")


def _scatter_nd_vjp(b: Builder, dy: Value, node: Node) -> tuple[Value | None, ...]:
    indices = node.inputs[1]
    return _scatter_gradients(
        b, dy, node, lambda v: b.gather_nd(v, indices), lambda v, u, c: b.scatter_nd(v, indices, u, combiner=c)
    )


_COMBINER = Attribute((str,), default="none", required=False, doc="'none' (the last update wins), 'add', 'mul', ...")

register(
    OpDef(
        name="scatter_nd",
        arity=3,
        infer=scatter_nd_type,
        evaluate=scatter_nd_evaluate,
        attributes={"combiner": _COMBINER},
        kernel=scatter_nd_kernel,
        vjp=single_vjp(_scatter_nd_vjp),
        doc="Operand 0 with slices (operand 2) combined in at coordinate tuples (operand 1), in order.",
    )
)


# -- scatter of elements -----------------------------------------------------------------------


def scatter_elements_type(inputs: Types, attributes: Attributes) -> Types:
    """(x, integer indices of x's rank, updates of the indices' shape) -> x."""
    x, indices, updates = inputs
    _check_combiner(attributes["combiner"])
    gather_elements_type((x, indices), attributes)
    _check_updates(x, updates, indices.shape)
    return (x,)


def scatter_elements_evaluate(a: Attributes, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """Apply the updates in row-major order."""
    y, axis = x.copy(), a["axis"]
    places = [np.broadcast_to(g, indices.shape) for g in np.ogrid[tuple(slice(n) for n in indices.shape)]]
    places[axis] = wrapped(indices, x.shape[axis])
    _np_scatter(y, tuple(places), updates, a["combiner"])
    return y


def scatter_elements_kernel(inputs: Types, outputs: Types, attributes: Attributes) -> Kernel:
    """Tasks over the dimensions before the axis; each copies its part of x, then applies its updates in order."""
    x, indices, _ = inputs
    shape, counts, axis = _static(x.shape), _static(indices.shape), attributes["axis"]
    slab = _product(shape[axis:])
    outer = [Var(f"o{k}") for k in range(axis)]
    inner = [Var(f"i{k}") for k in range(axis, len(shape))]
    base, element, target = Var("base"), Var("element"), Var("target")
    place = apply("add", base, element)
    copy = For(element, const(slab), LoopKind.SERIAL, (Store("y", place, Load("x", place, x.dtype)),))
    source = linear_index([*outer, *inner], counts)
    spot = linear_index([target, *inner[1:]], shape[axis:])
    body: tuple[Stmt, ...] = (
        Let(target, wrapped_expr(Load("indices", source, indices.dtype), shape[axis])),
        _combine(attributes["combiner"], "y", apply("add", base, spot), Load("updates", source, x.dtype)),
    )
    for var, count in zip(reversed(inner), reversed(counts[axis:]), strict=True):
        body = (For(var, const(count), LoopKind.SERIAL, body),)
    for var, extent, count in zip(outer, shape, counts[:axis]):
        if count < extent:
            body = (If(apply("less", var, const(count)), body),)
    start = apply("mul", linear_index(outer, shape[:axis]), const(slab))
    body = (Let(base, start), copy, *body)
    for var, extent in zip(reversed(outer), reversed(shape[:axis]), strict=True):
        body = (For(var, const(extent), LoopKind.PARALLEL, body),)
    size, count = _product(shape), _product(counts)
    buffers = (
        Buffer("x", x.dtype, size),
        Buffer("indices", indices.dtype, count),
        Buffer("updates", x.dtype, count),
        Buffer("y", x.dtype, size, writable=True),
    )
    return Kernel("scatter_elements", buffers, (), body)


def _scatter_elements_vjp(b: Builder, dy: Value, node: Node) -> tuple[Value | None, ...]:
    indices, axis = node.inputs[1], node.attributes["axis"]
    return _scatter_gradients(
        b,
        dy,
        node,
        lambda v: b.gather_elements(v, indices, axis=axis),
        lambda v, u, c: b.scatter_elements(v, indices, u, axis=axis, combiner=c),
    )


register(
    OpDef(
        name="scatter_elements",
        arity=3,
        infer=scatter_elements_type,
        evaluate=scatter_elements_evaluate,
        attributes={"axis": AXIS, "combiner": _COMBINER},
        kernel=scatter_elements_kernel,
        vjp=single_vjp(_scatter_elements_vjp),
        normalize=normalize_axis,
        doc="Operand 0 with elements (operand 2) combined in at indices (operand 1) along an axis, in order.",
    )
)
