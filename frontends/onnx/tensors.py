"""TensorProto to NumPy, and ONNX element types to dlc's; sizes are checked before anything is allocated.

Raw and external bytes are viewed, not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import ml_dtypes
import numpy as np
from onnx import TensorProto

from dlc.errors import InvalidModelError, ResourceLimitError, UnsupportedOpError
from dlc.frontends.onnx.external_data import ExternalFolder, as_array
from dlc.frontends.onnx.names import shown
from dlc.ir import types
from dlc.ir.types import DType

LARGEST_DIMENSION = 1 << 40
LARGEST_DENSE_BYTES = 1 << 30

DTYPES: Mapping[int, DType] = {
    TensorProto.FLOAT: types.float32,
    TensorProto.UINT8: types.uint8,
    TensorProto.INT8: types.int8,
    TensorProto.UINT16: types.uint16,
    TensorProto.INT16: types.int16,
    TensorProto.INT32: types.int32,
    TensorProto.INT64: types.int64,
    TensorProto.STRING: types.string,
    TensorProto.BOOL: types.bool_,
    TensorProto.FLOAT16: types.float16,
    TensorProto.DOUBLE: types.float64,
    TensorProto.UINT32: types.uint32,
    TensorProto.UINT64: types.uint64,
    TensorProto.COMPLEX64: types.complex64,
    TensorProto.COMPLEX128: types.complex128,
    TensorProto.BFLOAT16: types.bfloat16,
    TensorProto.FLOAT8E4M3FN: types.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: types.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: types.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: types.float8_e5m2fnuz,
    TensorProto.FLOAT4E2M1: types.float4_e2m1fn,
    TensorProto.INT4: types.int4,
    TensorProto.UINT4: types.uint4,
}
CODES: Mapping[str, int] = {dtype.name: code for code, dtype in DTYPES.items()}
"""dtype name -> ONNX element type code."""

_FIELDS = {
    "float32": "float_data",
    "complex64": "float_data",
    "float64": "double_data",
    "complex128": "double_data",
    "int64": "int64_data",
    "uint32": "uint64_data",
    "uint64": "uint64_data",
}
_DATA_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def dtype_of(code: int, what: str) -> DType:
    """Return the dtype for an ONNX element type code; ``what`` names its owner in errors."""
    if code in DTYPES:
        return DTYPES[code]
    if code in TensorProto.DataType.values() and code != TensorProto.UNDEFINED:
        raise UnsupportedOpError(f"{what} has element type {TensorProto.DataType.Name(code)}, which dlc does not know")
    raise InvalidModelError(f"{what} has element type code {code}, which ONNX does not define")


def to_array(tensor: TensorProto, folder: ExternalFolder, what: str = "", raw: memoryview | None = None) -> np.ndarray:
    """Return a tensor's array (read-only where it views the file); ``raw`` is its raw data if that is kept apart.

    Raises InvalidModelError for bad dims or too little or too much data, ExternalDataError for external data
    that may not or cannot be read.
    """
    what = what or f"initializer {shown(tensor.name)}"
    dtype = dtype_of(tensor.data_type, what)
    shape = checked_dims(tensor.dims, what)
    if tensor.HasField("segment"):
        raise InvalidModelError(f"{what} is stored in segments, which dlc does not read")
    count = prod(shape)
    packed = dtype.bits == 4
    nbytes = (count + 1) // 2 if packed else count * dtype.itemsize
    if tensor.data_location == TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        return _from_bytes(folder.read(tensor.name, entries, nbytes), dtype, shape)
    if dtype is types.string:
        _expect(len(tensor.string_data), count, "strings", what)
        return np.array([s.decode("utf-8", "replace") for s in tensor.string_data], object).reshape(shape)
    if raw is not None or tensor.HasField("raw_data"):
        stored = raw if raw is not None else tensor.raw_data
        _expect(len(stored), nbytes, "bytes", what)
        return _from_bytes(stored, dtype, shape)
    return _from_fields(tensor, dtype, shape, count, what)


def checked_dims(dims: object, what: str) -> tuple[int, ...]:
    """Return ``dims`` as a tuple; InvalidModelError if one is negative or absurd."""
    shape = tuple(int(d) for d in dims)  # type: ignore[attr-defined]
    if len(shape) > 64 or any(not 0 <= d <= LARGEST_DIMENSION for d in shape) or prod(shape) > 1 << 60:
        raise InvalidModelError(f"{what} has impossible dims {list(shape[:16])}")
    return shape


def _expect(given: int, needed: int, unit: str, what: str) -> None:
    if given != needed:
        problem = "too little" if given < needed else "too much"
        raise InvalidModelError(f"{what} has {problem} data: {given} {unit}, its type takes {needed}")


def _from_bytes(data: memoryview | bytes, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    if dtype.bits == 4:
        return _unpack(np.frombuffer(data, np.uint8), dtype, shape)
    if dtype is types.bool_:
        return as_array(data, np.dtype(np.uint8), shape) != 0
    return as_array(data, dtype.numpy.newbyteorder("<") if dtype.itemsize > 1 else dtype.numpy, shape)


def _unpack(packed: np.ndarray, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Spread two 4-bit elements per byte (the low half first) to one byte each."""
    halves = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(-1)[: prod(shape)]
    if dtype is types.int4:
        signed = halves.astype(np.int8)
        return np.where(signed > 7, signed - 16, signed).astype(ml_dtypes.int4).reshape(shape)
    if dtype is types.uint4:
        return halves.astype(ml_dtypes.uint4).reshape(shape)
    return halves.astype(np.uint8).view(dtype.numpy).reshape(shape)


def _from_fields(tensor: TensorProto, dtype: DType, shape: tuple[int, ...], count: int, what: str) -> np.ndarray:
    name = _FIELDS.get(dtype.name, "int32_data")
    given = getattr(tensor, name)
    filled = [field for field in _DATA_FIELDS if len(getattr(tensor, field)) and field != name]
    if filled:
        raise InvalidModelError(f"{what} is {dtype} but its data is in {filled[0]}; it belongs in {name}")
    if dtype.kind == "complex":
        _expect(len(given), 2 * count, "numbers", what)
        part = np.float32 if dtype is types.complex64 else np.float64
        return np.array(given, part).view(dtype.numpy).reshape(shape)
    if dtype.bits == 4:
        _expect(len(given), (count + 1) // 2, "bytes", what)
        return _unpack(np.array(given, np.int64).astype(np.uint8), dtype, shape)
    _expect(len(given), count, "elements", what)
    if dtype.kind == "float" and name == "int32_data":  # bit patterns of 16 and 8 bit floats
        bits = np.array(given, np.int64).astype(np.uint16 if dtype.bits == 16 else np.uint8)
        return bits.view(dtype.numpy).reshape(shape)
    return np.array(given, np.int64 if name == "int32_data" else None).astype(dtype.numpy).reshape(shape)


def densify(values: np.ndarray, indices: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return the dense array of a sparse tensor (linear or coordinate indices)."""
    if prod(shape) * values.dtype.itemsize > LARGEST_DENSE_BYTES:
        raise ResourceLimitError(
            f"{what} is sparse with dims {list(shape)}: more than {LARGEST_DENSE_BYTES} bytes when dense"
        )
    dense = np.zeros(prod(shape), values.dtype)
    linear = indices
    if indices.ndim == 2:
        inside = indices.shape[1] == len(shape) and bool(((indices >= 0) & (indices < np.array(shape))).all())
        linear = np.ravel_multi_index(tuple(indices.T), shape) if inside else np.array([-1])
    if linear.shape != values.shape or (linear.size and (linear.min() < 0 or linear.max() >= dense.size)):
        raise InvalidModelError(f"{what} is sparse and its indices do not fit dims {list(shape)}")
    dense[linear] = values
    return dense.reshape(shape)
