"""Element types and tensor types.

A dtype is one of a closed table, each with its NumPy counterpart. A tensor type
is a dtype and a shape; layout is never part of a type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Literal

import numpy as np

from dlc.errors import DlcError
from dlc.ir.dims import Dim, Shape, bind_dim, size_of

Kind = Literal["bool", "int", "uint", "float", "complex", "string"]


@dataclass(frozen=True, eq=False, slots=True)
class DType:
    """An element type: ``name``, ``kind``, ``bits`` of storage; ``builtin`` is NumPy's own dtype, if it has one."""

    name: str
    kind: Kind
    bits: int
    builtin: np.dtype | None = None

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype that holds it."""
        return self.builtin if self.builtin is not None else _from_ml_dtypes(self.name)

    @property
    def itemsize(self) -> int:
        """Bytes of one element as held in memory (sub-byte types take one byte each)."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


@cache
def _from_ml_dtypes(name: str) -> np.dtype:
    """Return the dtype of that name; few programs need any of them, and the package takes long to import."""
    return np.dtype(getattr(import_module("ml_dtypes"), name))


bool_ = DType("bool", "bool", 8, np.dtype(np.bool_))
int8 = DType("int8", "int", 8, np.dtype(np.int8))
int16 = DType("int16", "int", 16, np.dtype(np.int16))
int32 = DType("int32", "int", 32, np.dtype(np.int32))
int64 = DType("int64", "int", 64, np.dtype(np.int64))
uint8 = DType("uint8", "uint", 8, np.dtype(np.uint8))
uint16 = DType("uint16", "uint", 16, np.dtype(np.uint16))
uint32 = DType("uint32", "uint", 32, np.dtype(np.uint32))
uint64 = DType("uint64", "uint", 64, np.dtype(np.uint64))
float16 = DType("float16", "float", 16, np.dtype(np.float16))
bfloat16 = DType("bfloat16", "float", 16)
float32 = DType("float32", "float", 32, np.dtype(np.float32))
float64 = DType("float64", "float", 64, np.dtype(np.float64))
complex64 = DType("complex64", "complex", 64, np.dtype(np.complex64))
complex128 = DType("complex128", "complex", 128, np.dtype(np.complex128))
float8_e4m3fn = DType("float8_e4m3fn", "float", 8)
float8_e4m3fnuz = DType("float8_e4m3fnuz", "float", 8)
float8_e5m2 = DType("float8_e5m2", "float", 8)
float8_e5m2fnuz = DType("float8_e5m2fnuz", "float", 8)
float4_e2m1fn = DType("float4_e2m1fn", "float", 4)
int4 = DType("int4", "int", 4)
uint4 = DType("uint4", "uint", 4)
string = DType("string", "string", 64, np.dtype(object))

DTYPES: Mapping[str, DType] = {
    d.name: d
    for d in (
        bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, float32, float64,
        complex64, complex128, float8_e4m3fn, float8_e4m3fnuz, float8_e5m2, float8_e5m2fnuz, float4_e2m1fn,
        int4, uint4, string,
    )
}  # fmt: skip
_BY_NUMPY = {d.builtin: d for d in DTYPES.values() if d.builtin is not None}


@lru_cache(maxsize=1)
def _others() -> Mapping[np.dtype, DType]:
    return {d.numpy: d for d in DTYPES.values() if d.builtin is None}


def as_dtype(value: DType | str | np.dtype | type) -> DType:
    """Return the DType for a DType, its name, or a NumPy dtype; raise DlcError for anything else."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    try:
        native = np.dtype(value).newbyteorder("=")
        return _BY_NUMPY[native] if native in _BY_NUMPY else _others()[native]
    except (TypeError, KeyError):
        raise DlcError(f"{value!r} is not a dtype that dlc knows; it knows {', '.join(DTYPES)}") from None


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dtype and a shape; each dimension an int or a symbolic expression."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return size_of(self.shape)

    @property
    def nbytes(self) -> Dim:
        return self.size * self.dtype.itemsize

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    __repr__ = __str__


def tensor_type(dtype: DType | str | np.dtype | type, shape: Iterable[Dim] = ()) -> TensorType:
    """Build a TensorType from anything that names a dtype and any iterable of dimensions."""
    return TensorType(as_dtype(dtype), tuple(d if not isinstance(d, np.integer) else int(d) for d in shape))


def bind_type(type_: TensorType, binding: Mapping[str, Dim]) -> TensorType:
    """Substitute symbols in the shape of ``type_``."""
    if type_.is_static:
        return type_
    return TensorType(type_.dtype, tuple(bind_dim(d, binding) for d in type_.shape))
