"""Tensor: a value of a graph under definition, with NumPy's operators and methods.

It holds a handle and emits nodes; it never holds numbers. What the operators mean is in
the ``array_*`` modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dlc.errors import GraphError, TypeRuleError
from dlc.frontends.graph import array_elementwise as ew
from dlc.frontends.graph import array_index, array_linear, array_shape
from dlc.frontends.graph import array_reduction as red
from dlc.frontends.graph.scope import LITERAL_LIMIT, Graph, Region, active_graph
from dlc.ir.dims import Dim, Shape
from dlc.ir.graph import Value
from dlc.ir.types import DType


class Tensor:
    """A tensor of a graph under definition: shape and dtype are known, its elements are not.

    Operators follow NumPy: broadcasting, promotion (Python numbers are weak), indexing by ints, slices, None,
    Ellipsis and integer tensors. Comparisons are elementwise; tensors are hashed by identity.
    """

    __slots__ = ("graph", "region", "value")
    __array_ufunc__ = None  # let ``array + tensor`` reach Tensor.__radd__
    __hash__ = object.__hash__

    def __init__(self, value: Value, graph: Graph, region: Region) -> None:
        self.value = value
        self.graph = graph
        self.region = region

    @property
    def shape(self) -> Shape:
        return self.value.type.shape

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def ndim(self) -> int:
        return self.value.type.rank

    @property
    def size(self) -> Dim:
        return self.value.type.size

    @property
    def T(self) -> Tensor:
        """The tensor with its dimensions reversed."""
        return self.transpose()

    def __repr__(self) -> str:
        name = f"{self.value.hint}: " if self.value.hint else ""
        return f"Tensor({name}{self.value.type})"

    # -- what a tensor is not -------------------------------------------------------

    def __bool__(self) -> bool:
        raise GraphError(
            f"{self!r} has no value while the graph is being defined, so it cannot decide an `if`; use dlc.where"
        )

    __float__ = __int__ = __index__ = __complex__ = None  # type: ignore[assignment]

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise GraphError(
            f"{self!r} has no value while the graph is being defined; use dlc functions instead of NumPy's"
        )

    def __len__(self) -> int:
        if self.ndim == 0 or not isinstance(self.shape[0], int):
            raise GraphError(f"{self!r} has no known length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self[i] for i in range(len(self))])

    # -- operators --------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        return emit(array_index.index, self, key)

    def __neg__(self) -> Tensor:
        return emit(ew.negative, self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return emit(ew.absolute, self)

    def __invert__(self) -> Tensor:
        return emit(ew.bitwise_not, self)

    def __add__(self, other: Any) -> Tensor:
        return emit(ew.add, self, other)

    def __radd__(self, other: Any) -> Tensor:
        return emit(ew.add, other, self)

    def __sub__(self, other: Any) -> Tensor:
        return emit(ew.subtract, self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return emit(ew.subtract, other, self)

    def __mul__(self, other: Any) -> Tensor:
        return emit(ew.multiply, self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return emit(ew.multiply, other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return emit(ew.divide, self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return emit(ew.divide, other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return emit(ew.floor_divide, self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return emit(ew.floor_divide, other, self)

    def __mod__(self, other: Any) -> Tensor:
        return emit(ew.remainder, self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return emit(ew.remainder, other, self)

    def __pow__(self, other: Any) -> Tensor:
        return emit(ew.power, self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return emit(ew.power, other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return emit(array_linear.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return emit(array_linear.matmul, other, self)

    def __and__(self, other: Any) -> Tensor:
        return emit(ew.bitwise_and, self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Tensor:
        return emit(ew.bitwise_or, self, other)

    __ror__ = __or__

    def __xor__(self, other: Any) -> Tensor:
        return emit(ew.bitwise_xor, self, other)

    __rxor__ = __xor__

    def __lshift__(self, other: Any) -> Tensor:
        return emit(ew.left_shift, self, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return emit(ew.left_shift, other, self)

    def __rshift__(self, other: Any) -> Tensor:
        return emit(ew.right_shift, self, other)

    def __rrshift__(self, other: Any) -> Tensor:
        return emit(ew.right_shift, other, self)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return emit(ew.equal, self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return emit(ew.not_equal, self, other)

    def __lt__(self, other: Any) -> Tensor:
        return emit(ew.less, self, other)

    def __le__(self, other: Any) -> Tensor:
        return emit(ew.less_equal, self, other)

    def __gt__(self, other: Any) -> Tensor:
        return emit(ew.greater, self, other)

    def __ge__(self, other: Any) -> Tensor:
        return emit(ew.greater_equal, self, other)

    # -- methods ------------------------------------------------------------------------

    def astype(self, dtype: Any) -> Tensor:
        """Convert to ``dtype``."""
        return emit(ew.astype, self, dtype)

    def reshape(self, *shape: Any) -> Tensor:
        """Return the elements in row-major order as ``shape`` (dimensions or one tuple); one may be -1."""
        return emit(array_shape.reshape, self, _spread(shape))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Join the dimensions ``start_dim`` to ``end_dim`` (included)."""
        return emit(array_shape.flatten, self, start_dim, end_dim)

    def transpose(self, *axes: Any) -> Tensor:
        """Permute dimensions (none given: reverse them)."""
        order = _spread(axes)
        return emit(array_shape.transpose, self, order if order else None)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        """Exchange two dimensions."""
        return emit(array_shape.swapaxes, self, axis1, axis2)

    def squeeze(self, axis: Any = None) -> Tensor:
        """Drop dimensions of extent 1."""
        return emit(array_shape.squeeze, self, axis)

    def sum(self, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """Return the sum over ``axis`` (None: all)."""
        return emit(red.sum_, self, axis, keepdims, dtype)

    def prod(self, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """Return the product over ``axis`` (None: all)."""
        return emit(red.prod_, self, axis, keepdims, dtype)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return the mean over ``axis`` (None: all)."""
        return emit(red.mean, self, axis, keepdims)

    def var(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        """Return the variance over ``axis`` (None: all)."""
        return emit(red.var, self, axis, ddof, keepdims)

    def std(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        """Return the standard deviation over ``axis`` (None: all)."""
        return emit(red.std, self, axis, ddof, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return the largest element over ``axis`` (None: all)."""
        return emit(red.max_, self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return the smallest element over ``axis`` (None: all)."""
        return emit(red.min_, self, axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return whether any element over ``axis`` is true."""
        return emit(red.any_, self, axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return whether all elements over ``axis`` are true."""
        return emit(red.all_, self, axis, keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return the index of the first largest element along ``axis``."""
        return emit(red.argmax, self, axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return the index of the first smallest element along ``axis``."""
        return emit(red.argmin, self, axis, keepdims)

    def cumsum(self, axis: int | None = None) -> Tensor:
        """Return running sums along ``axis``."""
        return emit(red.cumsum, self, axis)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        """Limit elements to [``min``, ``max``]."""
        return emit(ew.clip, self, min, max)


def _spread(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) == 1 and isinstance(arguments[0], tuple | list):
        return tuple(arguments[0])
    return () if arguments == (None,) else arguments


def graph_of(arguments: Any, what: str) -> Graph:
    """Return the graph that the tensors in ``arguments`` share, else the open one; GraphError if they differ."""
    found: Graph | None = None
    pending = [arguments]
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            if found is not None and item.graph is not found:
                raise GraphError(
                    f"{what} mixes tensors of two graphs, {found.name!r} and {item.graph.name!r}; "
                    "a tensor can be used only in the graph that made it"
                )
            found = item.graph
        elif isinstance(item, tuple | list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, slice):
            pending.extend((item.start, item.stop, item.step))
    return found if found is not None else active_graph(what)


def emit(function: Callable[..., Any], *arguments: Any, **parameters: Any) -> Any:
    """Call ``function(builder, ...)`` with the values behind tensors; wrap the values that it returns.

    Nodes carry the user's source line. Raises GraphError for tensors of another graph or without an open graph.
    """
    name = getattr(function, "__name__", "a function").rstrip("_")
    graph = graph_of((arguments, parameters), name)
    builder = graph.builder
    origin = graph.origin()
    try:
        with builder.origin(origin):
            result = function(
                builder,
                *(_unwrap(graph, a) for a in arguments),
                **{k: _unwrap(graph, v) for k, v in parameters.items()},
            )
    except TypeRuleError as error:
        if str(origin) in str(error):
            raise
        raise TypeRuleError(f"at {origin}: {error}") from error
    return wrap(graph, result)


def _unwrap(graph: Graph, item: Any) -> Any:
    if isinstance(item, Tensor):
        return graph.import_value(item.value, item.region)
    if isinstance(item, np.ndarray) and item.size > LITERAL_LIMIT:
        return graph.import_value(*graph.add_constant(item))
    if isinstance(item, tuple | list):
        return type(item)([_unwrap(graph, i) for i in item]) if type(item) in (tuple, list) else item
    if isinstance(item, slice):
        return slice(_unwrap(graph, item.start), _unwrap(graph, item.stop), _unwrap(graph, item.step))
    return item


def wrap(graph: Graph, result: Any) -> Any:
    """Return values (alone or in tuples and lists) as tensors of the graph's current region."""
    if isinstance(result, Value):
        return Tensor(result, graph, graph.region)
    if isinstance(result, tuple | list):
        return tuple(wrap(graph, r) for r in result)
    return result


def unwrap(graph: Graph, tensor: Any, what: str) -> Value:
    """Return the value of ``tensor`` in the current region of ``graph``; GraphError if it is no tensor of it."""
    if not isinstance(tensor, Tensor):
        raise GraphError(f"{what} must be a tensor of graph {graph.name!r}, not {type(tensor).__name__}")
    if tensor.graph is not graph:
        raise GraphError(f"{what} is a tensor of graph {tensor.graph.name!r}, not of {graph.name!r}")
    return graph.import_value(tensor.value, tensor.region)
