"""The functions of the graph API on tensors, with NumPy's names and semantics (``dlc.exp``, ``dlc.concatenate``, ...).

Each is the function of the ``array_*`` modules and ``neural`` of the same name, lifted from builder
values to tensors.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dlc.frontends.graph import array_elementwise as ew
from dlc.frontends.graph import array_index, array_linear, array_shape, neural
from dlc.frontends.graph import array_reduction as red
from dlc.frontends.graph.scope import active_graph, as_shape
from dlc.frontends.graph.tensor import Tensor, emit, graph_of
from dlc.ir.types import as_dtype

pi = math.pi
e = math.e
inf = math.inf
nan = math.nan
newaxis = None


def lift(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return ``function(builder, ...)`` as a function of tensors called ``name``."""
    signature = inspect.signature(function)
    kept = [p.replace(annotation=inspect.Parameter.empty) for p in list(signature.parameters.values())[1:]]

    @functools.wraps(function)
    def public(*arguments: Any, **parameters: Any) -> Any:
        return emit(function, *arguments, **parameters)

    public.__name__ = public.__qualname__ = name
    function.__name__ = name
    public.__module__ = __name__
    public.__annotations__ = {}
    public.__signature__ = signature.replace(parameters=kept, return_annotation=inspect.Signature.empty)  # type: ignore[attr-defined]
    return public


# arithmetic
add = lift(ew.add, "add")
subtract = lift(ew.subtract, "subtract")
multiply = lift(ew.multiply, "multiply")
divide = true_divide = lift(ew.divide, "divide")
floor_divide = lift(ew.floor_divide, "floor_divide")
remainder = mod = lift(ew.remainder, "remainder")
fmod = lift(ew.fmod, "fmod")
power = lift(ew.power, "power")
negative = lift(ew.negative, "negative")
absolute = abs = lift(ew.absolute, "absolute")
sign = lift(ew.sign, "sign")
square = lift(ew.square, "square")
sqrt = lift(ew.sqrt, "sqrt")
rsqrt = lift(ew.rsqrt, "rsqrt")
reciprocal = lift(ew.reciprocal, "reciprocal")
maximum = lift(ew.maximum, "maximum")
minimum = lift(ew.minimum, "minimum")
clip = lift(ew.clip, "clip")
floor = lift(ew.floor, "floor")
ceil = lift(ew.ceil, "ceil")
round = rint = lift(ew.round_, "round")
trunc = lift(ew.trunc, "trunc")
astype = lift(ew.astype, "astype")

# exponentials, trigonometry
exp = lift(ew.exp, "exp")
exp2 = lift(ew.exp2, "exp2")
expm1 = lift(ew.expm1, "expm1")
log = lift(ew.log, "log")
log2 = lift(ew.log2, "log2")
log10 = lift(ew.log10, "log10")
log1p = lift(ew.log1p, "log1p")
logaddexp = lift(ew.logaddexp, "logaddexp")
sin = lift(ew.sin, "sin")
cos = lift(ew.cos, "cos")
tan = lift(ew.tan, "tan")
arcsin = asin = lift(ew.arcsin, "arcsin")
arccos = acos = lift(ew.arccos, "arccos")
arctan = atan = lift(ew.arctan, "arctan")
arctan2 = atan2 = lift(ew.arctan2, "arctan2")
sinh = lift(ew.sinh, "sinh")
cosh = lift(ew.cosh, "cosh")
tanh = lift(ew.tanh, "tanh")
arcsinh = asinh = lift(ew.arcsinh, "arcsinh")
arccosh = acosh = lift(ew.arccosh, "arccosh")
arctanh = atanh = lift(ew.arctanh, "arctanh")
erf = lift(ew.erf, "erf")

# comparison and logic
equal = lift(ew.equal, "equal")
not_equal = lift(ew.not_equal, "not_equal")
less = lift(ew.less, "less")
less_equal = lift(ew.less_equal, "less_equal")
greater = lift(ew.greater, "greater")
greater_equal = lift(ew.greater_equal, "greater_equal")
logical_and = lift(ew.logical_and, "logical_and")
logical_or = lift(ew.logical_or, "logical_or")
logical_xor = lift(ew.logical_xor, "logical_xor")
logical_not = lift(ew.logical_not, "logical_not")
bitwise_and = lift(ew.bitwise_and, "bitwise_and")
bitwise_or = lift(ew.bitwise_or, "bitwise_or")
bitwise_xor = lift(ew.bitwise_xor, "bitwise_xor")
bitwise_not = invert = lift(ew.bitwise_not, "bitwise_not")
left_shift = lift(ew.left_shift, "left_shift")
right_shift = lift(ew.right_shift, "right_shift")
isnan = lift(ew.isnan, "isnan")
isinf = lift(ew.isinf, "isinf")
isfinite = lift(ew.isfinite, "isfinite")
where = lift(ew.where, "where")

# reductions
sum = lift(red.sum_, "sum")
prod = lift(red.prod_, "prod")
mean = lift(red.mean, "mean")
var = lift(red.var, "var")
std = lift(red.std, "std")
max = amax = lift(red.max_, "max")
min = amin = lift(red.min_, "min")
any = lift(red.any_, "any")
all = lift(red.all_, "all")
argmax = lift(red.argmax, "argmax")
argmin = lift(red.argmin, "argmin")
cumsum = lift(red.cumsum, "cumsum")
logsumexp = lift(red.logsumexp, "logsumexp")
norm = lift(red.norm, "norm")

# shape
reshape = lift(array_shape.reshape, "reshape")
flatten = lift(array_shape.flatten, "flatten")
transpose = permute_dims = lift(array_shape.transpose, "transpose")
swapaxes = lift(array_shape.swapaxes, "swapaxes")
moveaxis = lift(array_shape.moveaxis, "moveaxis")
squeeze = lift(array_shape.squeeze, "squeeze")
expand_dims = lift(array_shape.expand_dims, "expand_dims")
concatenate = concat = lift(array_shape.concatenate, "concatenate")
stack = lift(array_shape.stack, "stack")
split = lift(array_shape.split, "split")
flip = lift(array_shape.flip, "flip")
roll = lift(array_shape.roll, "roll")
tile = lift(array_shape.tile, "tile")
repeat = lift(array_shape.repeat, "repeat")
pad = lift(array_shape.pad, "pad")
tril = lift(array_shape.tril, "tril")
triu = lift(array_shape.triu, "triu")
zeros_like = lift(array_shape.zeros_like, "zeros_like")
ones_like = lift(array_shape.ones_like, "ones_like")
full_like = lift(array_shape.full_like, "full_like")

# indexing
take = lift(array_index.take, "take")
take_along_axis = lift(array_index.take_along_axis, "take_along_axis")
scatter_add = lift(array_index.scatter_add, "scatter_add")
one_hot = lift(array_index.one_hot, "one_hot")

# products
matmul = lift(array_linear.matmul, "matmul")
dot = lift(array_linear.dot, "dot")
einsum = lift(array_linear.einsum, "einsum")
tensordot = lift(array_linear.tensordot, "tensordot")
outer = lift(array_linear.outer, "outer")
inner = lift(array_linear.inner, "inner")

# neural networks
relu = lift(neural.relu, "relu")
relu6 = lift(neural.relu6, "relu6")
leaky_relu = lift(neural.leaky_relu, "leaky_relu")
elu = lift(neural.elu, "elu")
selu = lift(neural.selu, "selu")
celu = lift(neural.celu, "celu")
gelu = lift(neural.gelu, "gelu")
silu = swish = lift(neural.silu, "silu")
softplus = lift(neural.softplus, "softplus")
softsign = lift(neural.softsign, "softsign")
hardsigmoid = lift(neural.hardsigmoid, "hardsigmoid")
hardswish = lift(neural.hardswish, "hardswish")
hardtanh = lift(neural.hardtanh, "hardtanh")
mish = lift(neural.mish, "mish")
logsigmoid = lift(neural.logsigmoid, "logsigmoid")
glu = lift(neural.glu, "glu")
prelu = lift(neural.prelu, "prelu")
sigmoid = lift(ew.sigmoid, "sigmoid")
softmax = lift(neural.softmax, "softmax")
log_softmax = lift(neural.log_softmax, "log_softmax")
linear = lift(neural.linear, "linear")
conv = lift(neural.conv, "conv")
conv_transpose = lift(neural.conv_transpose, "conv_transpose")
max_pool = lift(neural.max_pool, "max_pool")
avg_pool = lift(neural.avg_pool, "avg_pool")
adaptive_avg_pool = lift(neural.adaptive_avg_pool, "adaptive_avg_pool")
adaptive_max_pool = lift(neural.adaptive_max_pool, "adaptive_max_pool")
layer_norm = lift(neural.layer_norm, "layer_norm")
rms_norm = lift(neural.rms_norm, "rms_norm")
group_norm = lift(neural.group_norm, "group_norm")
embedding = lift(neural.embedding, "embedding")


# -- functions that take a shape or no tensor -------------------------------------------


def zeros(shape: Any, dtype: Any = None) -> Tensor:
    """Return zeros of ``shape``, of the graph's dtype unless given."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = None) -> Tensor:
    """Return ones of ``shape``, of the graph's dtype unless given."""
    return full(shape, 1, dtype)


def full(shape: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """Return a tensor of ``shape`` filled with ``fill_value``; ``dtype`` defaults to the graph's."""
    graph = graph_of(fill_value, "full")
    chosen = dtype if dtype is not None else fill_value.dtype if isinstance(fill_value, Tensor) else graph.dtype
    return emit(array_shape.full, as_shape(shape, "full"), fill_value, chosen)


def eye(n: int, m: int | None = None, k: int = 0, dtype: Any = None) -> Tensor:
    """Return an ``n`` x ``m`` matrix with ones on the ``k``-th diagonal."""
    return emit(array_shape.eye, n, m, k, dtype if dtype is not None else active_graph("eye").dtype)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """Return ``start, start + step, ...`` below ``stop``; ``arange(n)`` counts from 0 and ``n`` may be symbolic.

    Integers are int64, floats of the graph's dtype, unless ``dtype`` is given.
    """
    numbers = [n.item() if isinstance(n, np.generic) else n for n in (start, stop, step)]
    if dtype is None and float in {type(n) for n in numbers}:
        dtype = active_graph("arange").dtype
    return emit(array_shape.arange, *numbers, dtype)


def iota(shape: Any, axis: int = 0, dtype: Any = "int64") -> Tensor:
    """Return a tensor of ``shape`` whose elements are their index along ``axis``."""
    return emit(array_shape.iota, as_shape(shape, "iota"), axis, dtype)


def broadcast_to(x: Any, shape: Any) -> Tensor:
    """Broadcast ``x`` to ``shape``; -1 keeps a dimension."""
    return emit(array_shape.broadcast_to, x, tuple(shape) if isinstance(shape, tuple | list) else (shape,))


def dropout(x: Tensor, p: float = 0.5) -> Tensor:
    """Zero elements with probability ``p`` while training, scaling the rest; in inference return ``x``.

    Draws from the graph's random key, so that a seed repeats a run. Inside a scan every iteration drops the same.
    """
    graph = graph_of(x, "dropout")
    key, stream = graph.random_key()
    return emit(neural.dropout, x, Tensor(key, graph, graph.root), p, stream)


def random_uniform(shape: Any, low: float = 0.0, high: float = 1.0, dtype: Any = None) -> Tensor:
    """Draw from [``low``, ``high``) anew in every run, repeatably from the graph's seed."""
    return _random(neural.random_uniform, shape, float(low), float(high), dtype)


def random_normal(shape: Any, mean: float = 0.0, std: float = 1.0, dtype: Any = None) -> Tensor:
    """Draw from a normal distribution anew in every run, repeatably from the graph's seed."""
    return _random(neural.random_normal, shape, float(mean), float(std), dtype)


def _random(function: Callable[..., Any], shape: Any, first: float, second: float, dtype: Any) -> Tensor:
    graph = active_graph(function.__name__)
    key, stream = graph.random_key()
    chosen = as_dtype(dtype) if dtype is not None else graph.dtype
    return emit(function, Tensor(key, graph, graph.root), stream, as_shape(shape, "shape"), first, second, chosen)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return ``softmax(query @ key.T * scale + attn_mask) @ value`` over (..., sequence, features), as PyTorch's.

    A bool mask is True where a query attends; numbers are added to the scores. ``scale`` defaults to one over the
    root of the features. ``dropout_p`` applies to the weights while training.
    """
    if dropout_p == 0.0:
        return emit(neural.attention, query, key, value, attn_mask, is_causal, scale)
    weights = emit(neural.attention_weights, query, key, attn_mask, is_causal, scale)
    return dropout(weights, dropout_p) @ value
