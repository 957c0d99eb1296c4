"""Memory of executables: aligned arrays, arenas, and the arrays that callers feed.

Owns alignment, huge pages and the checks of fed arrays. It must not know plans,
threads or native code.
"""

from __future__ import annotations

import ctypes
import mmap
from math import prod

import numpy as np

from dlc.errors import DlcError, InputError, ResourceLimitError
from dlc.ir.types import TensorType, as_dtype

ALIGNMENT = 64
_HUGE_PAGE = 1 << 21


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised C-ordered array whose data begins at a multiple of 64 bytes."""
    return empty_at(shape, dtype, prod(shape) * dtype.itemsize)[0]


def empty_at(shape: tuple[int, ...], dtype: np.dtype, nbytes: int) -> tuple[np.ndarray, int]:
    """Return such an array of ``nbytes`` bytes and its address, which takes a microsecond to ask for again.

    Raises ResourceLimitError if the system refuses the size.
    """
    try:
        raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    except MemoryError as error:
        raise ResourceLimitError(
            f"no memory for an array {dtype}{list(shape)} of {nbytes} bytes; use smaller shapes or a smaller batch"
        ) from error
    start = address_of(raw)
    offset = -start % ALIGNMENT
    return np.ndarray(shape, dtype, raw, offset), start + offset


def address_of(array: np.ndarray) -> int:
    """Return the address of the array's first element."""
    return array.__array_interface__["data"][0]


def aligned(array: np.ndarray) -> np.ndarray:
    """Return ``array`` itself if it is C-ordered, native-endian and aligned to 64 bytes, else such a copy."""
    if array.flags.c_contiguous and array.dtype.isnative and address_of(array) % ALIGNMENT == 0:
        return array
    copy = empty(array.shape, array.dtype.newbyteorder("="))
    copy[...] = array
    return copy


def natural(array: np.ndarray) -> np.ndarray:
    """Return ``array`` itself if it is C-ordered, native-endian and aligned to its elements, else an aligned copy."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned and array.dtype.isnative else aligned(array)


class Arena:
    """One anonymous mapping for a run's intermediate values, on huge pages where the system has them.

    Pages take no memory before they are touched. Raises ResourceLimitError if the system refuses the size.
    """

    def __init__(self, nbytes: int):
        huge = nbytes >= _HUGE_PAGE
        try:
            self._map = mmap.mmap(-1, max(nbytes, 1) + (_HUGE_PAGE if huge else 0))
        except (OSError, ValueError, OverflowError) as error:
            raise ResourceLimitError(
                f"no memory for an arena of {nbytes} bytes ({error}); compile for smaller shapes or a smaller batch"
            ) from error
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            _advise_huge(self._map)
        self.nbytes = nbytes
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = start + (-start % _HUGE_PAGE if huge else 0)


def _advise_huge(mapping: mmap.mmap) -> None:
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return  # a kernel without huge pages; small ones do


def prepare_input(name: str, type_: TensorType, value: object) -> np.ndarray:
    """Return ``value`` as a C-ordered, aligned, native-endian array of exactly ``type_`` (a static type).

    Arrays are taken as they are where possible, else copied; Python scalars and lists are taken if every element
    converts exactly. Raises InputError that names the input, what it expects and what was given.
    """
    array = _as_array(name, type_, value)
    if array.shape != type_.shape:
        raise InputError(f"{_mismatch(name, type_, array)}; {_shape_advice(array.shape, type_.shape)}")
    flags = array.flags
    if flags.c_contiguous and flags.aligned and array.dtype.isnative:
        return array
    copy = empty(array.shape, type_.dtype.numpy)
    copy[...] = array
    return copy


def as_input_array(name: str, type_: TensorType, value: object) -> np.ndarray:
    """Return ``value`` as an array of the dtype and rank of ``type_``, whose dimensions may be symbolic."""
    array = _as_array(name, type_, value)
    if array.ndim != type_.rank:
        raise InputError(f"{_mismatch(name, type_, array)}; {_shape_advice(array.shape, type_.shape)}")
    return array


def _as_array(name: str, type_: TensorType, value: object) -> np.ndarray:
    expected = type_.dtype.numpy
    if value is None:
        raise InputError(f"input {name!r} expects {type_}, got None; feed an array")
    if not isinstance(value, np.ndarray | np.generic) and not hasattr(value, "__array__"):
        return _from_python(name, type_, value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        given = type(value).__name__
        raise InputError(f"input {name!r} expects {type_}, and this {given} is no array: {error}") from error
    if array.dtype == expected or (array.dtype.kind in "biufc" and array.dtype.newbyteorder("=") == expected):
        return array
    if _is_numeric(array.dtype):
        advice = f"convert it first: array.astype({_spelled(expected)})"
    else:
        advice = f"build it with numpy.array(..., dtype={_spelled(expected)})"
    raise InputError(f"{_mismatch(name, type_, array)}; {advice}")


def _is_numeric(dtype: np.dtype) -> bool:
    try:
        return as_dtype(dtype).kind != "string"
    except DlcError:
        return False


def _from_python(name: str, type_: TensorType, value: object) -> np.ndarray:
    expected = type_.dtype.numpy
    try:
        given = np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"input {name!r} expects {type_}, and the value is no array: {error}") from error
    if given.size == 0 and given.dtype == np.float64:
        return given.astype(expected)  # an empty list has no elements that could say their dtype
    if given.dtype.kind not in "biufc":
        raise InputError(
            f"input {name!r} expects {type_}, got a {type(value).__name__} of {given.dtype}; "
            f"feed numpy.array(..., {_spelled(expected)})"
        )
    with np.errstate(all="ignore"):
        converted = given.real.astype(expected) if expected.kind != "c" else given.astype(expected)
        exact = _same_values(given, converted)
    if not exact:
        raise InputError(
            f"input {name!r} expects {type_}, and the given {given.dtype} numbers change when they are converted; "
            f"if that is meant, feed numpy.array(..., dtype={_spelled(expected)})"
        )
    return converted


def _same_values(given: np.ndarray, converted: np.ndarray) -> bool:
    if given.dtype.kind == "c" and converted.dtype.kind != "c":
        return not np.any(given.imag) and _same_values(given.real, converted)
    if given.dtype.kind == "i" and converted.dtype.kind == "u" and np.any(given < 0):
        return False  # wraps around and would wrap back
    if given.dtype.kind == "u" and converted.dtype.kind == "i" and np.any(given > np.iinfo(converted.dtype).max):
        return False
    back = converted.astype(given.dtype)
    return bool(np.array_equal(back, given, equal_nan=given.dtype.kind in "fc"))


def _spelled(dtype: np.dtype) -> str:
    module = "numpy" if hasattr(np, dtype.name) or dtype.name == "bool" else "ml_dtypes"
    return f"{module}.{dtype.name if dtype.name != 'bool' else 'bool_'}"


def _mismatch(name: str, type_: TensorType, array: np.ndarray) -> str:
    return f"input {name!r} expects {type_}, got {array.dtype}[{', '.join(map(str, array.shape))}]"


def _shape_advice(given: tuple[int, ...], expected: tuple) -> str:
    if len(given) != len(expected):
        if len(given) + 1 == len(expected) and tuple(given) == tuple(expected[1:]):
            return "the leading dimension is missing: array[numpy.newaxis]"
        return f"rank {len(given)} instead of {len(expected)}: reshape it"
    wrong = [axis for axis, (have, want) in enumerate(zip(given, expected)) if have != want]
    which = ", ".join(f"axis {axis} is {given[axis]} instead of {expected[axis]}" for axis in wrong)
    return f"{which}; feed that shape or compile for the other one (shapes={{...}})"
