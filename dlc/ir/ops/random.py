"""Counter-based random numbers: every element is a function of key, stream and position.

Threefry-2x32 with 13 rounds (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011), the fewest that pass all tests there. Results do not depend on
how work is split, and every executor gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.compute import Axis, Compute, output_axes, pointwise
from dlc.ir.dims import size_of
from dlc.ir.expr import Expr, Read, Var, apply, const, select
from dlc.ir.expr import cast as cast_expr
from dlc.ir.graph import Value
from dlc.ir.opdef import NOT_DIFFERENTIABLE, Attribute, Mode, OpDef, Trait, Types, register
from dlc.ir.ops.rules import axis_vars, check_float, check_shape, linear_index, spread
from dlc.ir.types import DType, TensorType, float32, float64, int32, uint32

ROUNDS = 13
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA
_KEY_STREAM = 0xFFFFFFFF
_SECOND_STREAM = 2**30
"""Added to the stream of a normal draw for its second uniform numbers."""


def threefry_array(
    key: tuple[np.ndarray, np.ndarray], counter: tuple[np.ndarray, np.ndarray], rounds: int = ROUNDS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the two words of Threefry-2x32 for uint32 arrays of key and counter words."""
    with np.errstate(over="ignore"):
        keys = [np.asarray(key[0], np.uint32), np.asarray(key[1], np.uint32)]
        keys.append(keys[0] ^ keys[1] ^ np.uint32(_PARITY))
        x, y = np.add(counter[0], keys[0], dtype=np.uint32), np.add(counter[1], keys[1], dtype=np.uint32)
        for number in range(rounds):
            turn = _ROTATIONS[number % 8]
            x = np.add(x, y, dtype=np.uint32)
            y = ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn))) ^ x
            if number % 4 == 3:
                block = number // 4 + 1
                x = np.add(x, keys[block % 3], dtype=np.uint32)
                y = np.add(np.add(y, keys[(block + 1) % 3], dtype=np.uint32), np.uint32(block), dtype=np.uint32)
        return x, y


def threefry_expr(key: tuple[Expr, Expr], counter: tuple[Expr, Expr], rounds: int = ROUNDS) -> tuple[Expr, Expr]:
    """Return the same as uint32 expressions."""
    keys = [*key, apply("bit_xor", apply("bit_xor", *key), const(_PARITY, uint32))]
    x, y = apply("add", counter[0], keys[0]), apply("add", counter[1], keys[1])
    for number in range(rounds):
        turn = _ROTATIONS[number % 8]
        x = apply("add", x, y)
        turned = apply(
            "bit_or",
            apply("shift_left", y, const(turn, uint32)),
            apply("shift_right", y, const(32 - turn, uint32)),
        )
        y = apply("bit_xor", turned, x)
        if number % 4 == 3:
            block = number // 4 + 1
            x = apply("add", x, keys[block % 3])
            y = apply("add", apply("add", y, keys[(block + 1) % 3]), const(block, uint32))
    return x, y


def check_key(key: TensorType) -> None:
    """Raise TypeRuleError unless ``key`` is uint32[2]."""
    if key.dtype is not uint32 or key.shape != (2,):
        raise TypeRuleError(f"the random key is {key}; it must be uint32[2]")


def _check_stream(stream: int, limit: int = 2**31) -> None:
    if not 0 <= stream < limit:
        raise TypeRuleError(f"stream is {stream}; it must be in [0, {limit})")


def _key_reads() -> tuple[Expr, Expr]:
    return Read(0, (const(0),), uint32), Read(0, (const(1),), uint32)


# -- key_next ------------------------------------------------------------------------------


def key_next_type(inputs: Types, attributes: Attributes) -> Types:
    """uint32[2] -> uint32[2]."""
    check_key(inputs[0])
    return (inputs[0],)


def key_next_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Both words of the block at a counter that no draw uses."""
    axes = (Axis(Var("i0"), 2),)
    x, y = threefry_expr(_key_reads(), (const(0, uint32), const(_KEY_STREAM, uint32)))
    # A mask instead of a choice between the words: choices are evaluated lazily, and these share their work.
    second = select(apply("equal", axes[0].var, const(0)), const(0, uint32), const(0xFFFFFFFF, uint32))
    return pointwise((2,), uint32, axes, apply("bit_xor", x, apply("bit_and", apply("bit_xor", x, y), second)))


register(
    OpDef(
        name="key_next",
        arity=1,
        infer=key_next_type,
        evaluate=lambda attributes, key: np.stack(
            threefry_array((key[0], key[1]), (np.zeros((), np.uint32), np.asarray(_KEY_STREAM, np.uint32)))
        ),
        compute=key_next_compute,
        vjp=NOT_DIFFERENTIABLE,
        traits=frozenset({Trait.STATEFUL_KEY}),
        doc="The key for the next run, independent of all numbers drawn from this one.",
    )
)


# -- uniform and normal ----------------------------------------------------------------------


def random_type(inputs: Types, attributes: Attributes) -> Types:
    """uint32[2] -> ``dtype`` of ``shape``."""
    check_key(inputs[0])
    shape, dtype = check_shape(attributes["shape"]), attributes["dtype"]
    size = size_of(shape)
    if isinstance(size, int) and size >= 2**32:
        raise TypeRuleError(f"shape {list(shape)} has 2**32 elements or more; draw in parts with several streams")
    if dtype is not float32 and dtype is not float64:
        raise TypeRuleError(f"dtype is {dtype}; draw float32 or float64 and cast")
    return (TensorType(dtype, shape),)


def random_uniform_type(inputs: Types, attributes: Attributes) -> Types:
    """uint32[2] -> ``dtype`` of ``shape``."""
    _check_stream(attributes["stream"])
    return random_type(inputs, attributes)


def uniform_array(key: np.ndarray, shape: Sequence[int], stream: int, dtype: np.dtype) -> np.ndarray:
    """Draw from [0, 1): 24 random bits for float32, 53 for float64."""
    counter = np.arange(math.prod(shape), dtype=np.uint32)
    x, y = threefry_array((key[0], key[1]), (counter, np.full_like(counter, stream)))
    if dtype == np.float32:
        return ((x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)
    high, low = (x >> np.uint32(5)).astype(np.float64), (y >> np.uint32(6)).astype(np.float64)
    return ((high * 2.0**26 + low) * 2.0**-53).reshape(shape)


def random_uniform_compute(inputs: Types, outputs: Types, attributes: Attributes) -> Compute:
    """Bits of the block numbered by the position, scaled."""
    shape, dtype = outputs[0].shape, outputs[0].dtype
    axes = output_axes(shape)
    position = cast_expr(linear_index(axis_vars(axes), shape), uint32)
    x, y = threefry_expr(_key_reads(), (position, const(attributes["stream"], uint32)))

    def number(word: Expr, shift: int) -> Expr:  # fewer than 32 bits remain: signed conversion is exact and faster
        return cast_expr(cast_expr(apply("shift_right", word, const(shift, uint32)), int32), dtype)

    if dtype is float32:
        body: Expr = apply("mul", number(x, 8), const(2.0**-24, dtype))
    else:
        whole = apply("add", apply("mul", number(x, 5), const(2.0**26, dtype)), number(y, 6))
        body = apply("mul", whole, const(2.0**-53, dtype))
    return pointwise(shape, dtype, axes, body)


_ATTRIBUTES = {
    "shape": Attribute((int,), many=True, symbolic=True, doc="the result's shape"),
    "stream": Attribute((int,), default=0, required=False, doc="distinguishes draws from one key"),
    "dtype": Attribute((DType,), default=float32, required=False, doc="float32 or float64"),
}


def _random_attributes(types: Types, a: Attributes) -> Attributes:
    return a.updated(shape=spread(a["shape"], 1))


register(
    OpDef(
        name="random_uniform",
        arity=1,
        infer=random_uniform_type,
        evaluate=lambda a, key: uniform_array(key, a["shape"], a["stream"], a["dtype"].numpy),
        attributes=_ATTRIBUTES,
        compute=random_uniform_compute,
        vjp=NOT_DIFFERENTIABLE,
        normalize=_random_attributes,
        traits=frozenset({Trait.STATEFUL_KEY}),
        doc="Independent numbers from [0, 1) for a key (uint32[2]) and stream.",
    )
)


def random_normal_type(inputs: Types, attributes: Attributes) -> Types:
    """uint32[2] -> ``dtype`` of ``shape``."""
    _check_stream(attributes["stream"], _SECOND_STREAM)
    return random_type(inputs, attributes)


def random_normal_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Box and Muller: sqrt(-2 log(1 - u)) cos(2 pi v)."""
    u, v = (
        b.random_uniform(inputs[0], shape=a["shape"], stream=a["stream"] + extra, dtype=a["dtype"])
        for extra in (0, _SECOND_STREAM)
    )
    radius = b.sqrt(b.mul(b.log(b.sub(1.0, u)), -2.0))
    return (b.mul(radius, b.cos(b.mul(v, 2 * math.pi))),)


def random_normal_evaluate(a: Attributes, key: np.ndarray) -> np.ndarray:
    """The same transformation in float64."""
    u, v = (
        uniform_array(key, a["shape"], a["stream"] + extra, a["dtype"].numpy).astype(np.float64)
        for extra in (0, _SECOND_STREAM)
    )
    return (np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)).astype(a["dtype"].numpy)


register(
    OpDef(
        name="random_normal",
        arity=1,
        infer=random_normal_type,
        evaluate=random_normal_evaluate,
        attributes=_ATTRIBUTES,
        expand=random_normal_expand,
        vjp=NOT_DIFFERENTIABLE,
        normalize=_random_attributes,
        traits=frozenset({Trait.STATEFUL_KEY}),
        doc="Independent standard normal numbers for a key (uint32[2]) and stream.",
    )
)


# -- dropout -------------------------------------------------------------------------------


def dropout_type(inputs: Types, attributes: Attributes) -> Types:
    """(T, key uint32[2]) -> T."""
    check_float(inputs[:1])
    check_key(inputs[1])
    _check_stream(attributes["stream"])
    if not 0 <= attributes["rate"] <= 1:
        raise TypeRuleError(f"rate is {attributes['rate']}; it must be between 0 and 1")
    return (inputs[0],)


def dropout_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Inference: the operand. Training: elements kept with probability 1 - rate, scaled by its reciprocal."""
    x, key = inputs
    if mode is Mode.INFERENCE or a["rate"] == 0:
        return (x,)
    if a["rate"] == 1:
        return (b.zeros_like(x),)
    kept = b.greater_equal(b.random_uniform(key, shape=x.type.shape, stream=a["stream"]), a["rate"])
    return (b.where(kept, b.mul(x, 1 / (1 - a["rate"])), 0.0),)


register(
    OpDef(
        name="dropout",
        arity=2,
        infer=dropout_type,
        evaluate=lambda attributes, x, key: x,
        attributes={
            "rate": Attribute((float,), default=0.5, required=False, doc="probability of zeroing an element"),
            "stream": Attribute((int,), default=0, required=False, doc="distinguishes draws from one key"),
        },
        expand=dropout_expand,
        traits=frozenset({Trait.MODAL, Trait.STATEFUL_KEY}),
        doc="Zero elements at random in training (inverted scaling); the operand itself in inference.",
    )
)
