"""Importers of ONNX reductions, positions of extremes, cumulative sums and softmax-like ops."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.registry import onnx_op
from dlc.ir.builder import Builder
from dlc.ir.dims import size_of
from dlc.ir.graph import Value
from dlc.ir.types import float32

Axes = tuple[int, ...]


def reduction_axes(call: Call) -> Axes | None:
    """Return the axes to reduce, None for a reduction that the node asks to leave out."""
    if call.has(1):
        axes = call.ints(1, "axes")
    else:
        axes = call.int_list("axes", ()) or ()
    if not axes:
        if call.flag("noop_with_empty_axes"):
            return None
        return tuple(range(call.rank()))
    return call.axes(axes, call.rank())


def _plain(name: str) -> Callable[[Builder, Value, Axes, bool], Value]:
    return lambda b, x, axes, keepdims: b.call(name, x, axes=axes, keepdims=keepdims)


def _mean(b: Builder, x: Value, axes: Axes, keepdims: bool) -> Value:
    total = b.reduce_sum(x, axes=axes, keepdims=keepdims)
    return divide_by_size(b, total, x, axes)


def divide_by_size(b: Builder, total: Value, x: Value, axes: Axes) -> Value:
    """Divide ``total`` by the number of elements that ``axes`` of ``x`` hold together."""
    count = size_of(tuple(x.type.shape[a] for a in axes))
    number = float(count) if isinstance(count, int) and x.type.dtype.is_float else count
    if isinstance(number, int | float):
        return b.div(total, b.constant(number, x.type.dtype))
    return b.div(total, b.cast_to(b.dimension(size=number), x.type.dtype))


def _largest(b: Builder, x: Value, axes: Axes, keepdims: bool) -> Value:
    name = "reduce_or" if x.type.dtype.kind == "bool" else "reduce_max"
    return b.call(name, x, axes=axes, keepdims=keepdims)


def _smallest(b: Builder, x: Value, axes: Axes, keepdims: bool) -> Value:
    name = "reduce_and" if x.type.dtype.kind == "bool" else "reduce_min"
    return b.call(name, x, axes=axes, keepdims=keepdims)


def _log_sum_exp(b: Builder, x: Value, axes: Axes, keepdims: bool) -> Value:
    if not x.type.dtype.is_float:
        x = b.cast_to(x, float32)
    return b.logsumexp(x, axes=axes, keepdims=keepdims)


_SUM = _plain("reduce_sum")
_REDUCTIONS: dict[str, Callable[[Builder, Value, Axes, bool], Value]] = {
    "ReduceSum": _SUM,
    "ReduceProd": _plain("reduce_prod"),
    "ReduceMax": _largest,
    "ReduceMin": _smallest,
    "ReduceMean": _mean,
    "ReduceL1": lambda b, x, axes, keepdims: _SUM(b, b.abs(x), axes, keepdims),
    "ReduceL2": lambda b, x, axes, keepdims: _root(b, _SUM(b, b.mul(x, x), axes, keepdims)),
    "ReduceSumSquare": lambda b, x, axes, keepdims: _SUM(b, b.mul(x, x), axes, keepdims),
    "ReduceLogSum": lambda b, x, axes, keepdims: b.log(_SUM(b, x, axes, keepdims)),
    "ReduceLogSumExp": _log_sum_exp,
}


def _root(b: Builder, x: Value) -> Value:
    return b.sqrt(x) if x.type.dtype.is_float else b.cast_to(b.sqrt(b.cast_to(x, float32)), x.type.dtype)


@onnx_op(*_REDUCTIONS)
def import_reduction(call: Call) -> Value:
    """Reduce along axes, given as attribute or input by opset; all of them by default."""
    axes = reduction_axes(call)
    x = call.value(0)
    if axes is None:
        return _without_axes(call, x)
    return call.b.cast_to(_REDUCTIONS[call.op_type](call.b, x, axes, call.flag("keepdims", True)), x.type.dtype)


def _without_axes(call: Call, x: Value) -> Value:
    """Apply a reduction to no axes: only its elementwise parts are left."""
    b = call.b
    match call.op_type:
        case "ReduceL1" | "ReduceL2":
            return b.abs(x)
        case "ReduceSumSquare":
            return b.mul(x, x)
        case "ReduceLogSum":
            return b.log(x)
    return x


@onnx_op("ArgMax", "ArgMin")
def import_arg_extreme(call: Call) -> Value:
    """Position of the first, or last, extreme element along an axis."""
    b, x = call.b, call.value(0)
    axis = call.axis(call.integer("axis", 0), call.rank())
    keepdims = call.flag("keepdims", True)
    name = call.op_type.lower()
    if not call.flag("select_last_index"):
        return b.call(name, x, axis=axis, keepdims=keepdims)
    found = b.call(name, b.reverse(x, axes=(axis,)), axis=axis, keepdims=keepdims)
    last = b.dimension(size=x.type.shape[axis] - 1)
    return b.sub(last, found)


@onnx_op("CumSum")
def import_cumsum(call: Call) -> Value:
    """Sums of the elements up to each one."""
    axis = call.axis(int(call.scalar(1, "axis")), call.rank())
    return call.b.cumsum(call.value(0), axis=axis, reverse=call.flag("reverse"), exclusive=call.flag("exclusive"))


def _flattened(call: Call, emit: Callable[[Value], Value]) -> Value:
    """Before opset 13 softmax-like ops work on the matrix that ``axis`` (default 1) cuts the tensor into."""
    b, x = call.b, call.value(0)
    axis = call.axis(call.integer("axis", 1), x.type.rank) if call.integer("axis", 1) != x.type.rank else x.type.rank
    shape = x.type.shape
    flat = b.reshape_to(x, (prod(shape[:axis], start=1), prod(shape[axis:], start=1)))
    return b.reshape_to(emit(flat), shape)


@onnx_op("Softmax")
def import_softmax_flat(call: Call) -> Value:
    """Softmax of the flattened matrix's rows."""
    return _flattened(call, lambda x: call.b.softmax(x, axis=1))


@onnx_op("LogSoftmax")
def import_log_softmax_flat(call: Call) -> Value:
    """Logarithm of the softmax of the flattened matrix's rows."""
    return _flattened(call, lambda x: call.b.log_softmax(x, axis=1))


@onnx_op("Softmax", since=13)
def import_softmax(call: Call) -> Value:
    """Softmax along one axis."""
    return call.b.softmax(call.value(0), axis=call.axis(call.integer("axis", -1), call.rank()))


@onnx_op("LogSoftmax", since=13)
def import_log_softmax(call: Call) -> Value:
    """Logarithm of the softmax along one axis."""
    return call.b.log_softmax(call.value(0), axis=call.axis(call.integer("axis", -1), call.rank()))


@onnx_op("LpNormalization")
def import_lp_normalization(call: Call) -> Value:
    """Divide by the p-norm along an axis; a zero norm gives zeros."""
    b, x = call.b, call.value(0)
    axis, p = call.axis(call.integer("axis", -1), call.rank()), call.integer("p", 2)
    if p not in (1, 2):
        call.fail(f"p is {p}; it must be 1 or 2")
    if p == 1:
        norm = b.reduce_sum(b.abs(x), axes=(axis,), keepdims=True)
    else:
        norm = b.sqrt(b.reduce_sum(b.mul(x, x), axes=(axis,), keepdims=True))
    empty = b.equal(norm, 0.0)
    return b.div(x, b.where(empty, 1.0, norm))


@onnx_op("MeanVarianceNormalization")
def import_mean_variance_normalization(call: Call) -> Value:
    """(x - mean) / (standard deviation + 1e-9) over axes, by default all but channels."""
    b, x = call.b, call.value(0)
    axes = call.axes(call.int_list("axes", (0, 2, 3)), call.rank())
    centred = b.sub(x, _mean(b, x, axes, True))  # the difference of two means of squares may be below 0
    variance = _mean(b, b.mul(centred, centred), axes, True)
    return b.div(centred, b.add(b.sqrt(variance), 1e-9))
