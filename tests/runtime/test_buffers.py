"""Aligned memory and the arrays that callers feed."""

import ctypes

import ml_dtypes
import numpy as np
import pytest

from dlc.errors import InputError, ResourceLimitError
from dlc.ir.types import DTYPES, tensor_type
from dlc.runtime.buffers import Arena, address_of, aligned, empty, prepare_input

F32 = tensor_type("float32", (2, 3))
VALUES = np.array([[1.5, -2.0, 3.25], [0.0, 5.0, -6.5]], np.float32)


def check(array, expected=VALUES):
    assert array.dtype == expected.dtype and array.dtype.isnative
    assert array.flags.c_contiguous and array.flags.aligned
    assert array.shape == expected.shape
    assert np.array_equal(array, expected)


def test_an_array_that_fits_is_taken_as_it_is():
    assert prepare_input("x", F32, VALUES) is VALUES


def misaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    shifted = np.ndarray(array.shape, array.dtype, raw, 1)
    shifted[...] = array
    assert not shifted.flags.aligned
    return shifted


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    "make",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
        lambda a: a.astype(">f4"),
        lambda a: a.astype("<f4"),
        misaligned,
        read_only,
        lambda a: misaligned(a.astype(">f4")),
        lambda a: np.lib.stride_tricks.as_strided(a, a.shape, a.strides),
        lambda a: a.tolist(),
        lambda a: [list(a[0]), tuple(map(float, a[1]))],
        lambda a: np.ma.array(a),
    ],
)
def test_any_layout_gives_the_same_values(make):
    check(np.asarray(prepare_input("x", F32, make(VALUES))))


def test_broadcast_and_zero_size_arrays():
    check(prepare_input("x", F32, np.broadcast_to(np.float32(2), (2, 3))), np.full((2, 3), 2, np.float32))
    empty_type = tensor_type("float32", (0, 3))
    assert prepare_input("x", empty_type, np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert prepare_input("x", empty_type, np.zeros((3, 0), np.float32).T).shape == (0, 3)
    assert prepare_input("x", tensor_type("float32", (0,)), []).shape == (0,)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", 1),
        ("float32", 0.5),
        ("float64", 0.1),
        ("int8", -128),
        ("uint8", 255),
        ("int64", 2**63 - 1),
        ("uint64", 2**63),
        ("bool", True),
        ("float32", float("nan")),
        ("float32", float("-inf")),
        ("bfloat16", 0.5),
        ("complex64", 1 + 2j),
        ("float32", np.float32(0.1)),
        ("int64", np.int64(4)),
    ],
)
def test_scalars_that_convert_exactly(dtype, value):
    array = prepare_input("x", tensor_type(dtype), value)
    assert array.shape == () and array.dtype == DTYPES[dtype].numpy
    assert array == value or (value != value and np.isnan(array))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", 0.1),
        ("float32", 2**24 + 1),
        ("float32", 1e300),
        ("int32", 1.5),
        ("int32", float("nan")),
        ("int8", 128),
        ("uint8", -1),
        ("uint64", -1),
        ("int64", 2**63),
        ("int64", 2**64),
        ("bool", 2),
        ("float32", 1 + 2j),
        ("bfloat16", 1.001),
        ("float32", np.float64(0.5)),
        ("int32", np.int64(1)),
        ("float32", "1.0"),
        ("float32", b"1"),
        ("float32", None),
        ("float32", {}),
        ("float32", object()),
        ("float32", np.array(1.0, object)),
        ("float32", np.array("1")),
        ("float32", np.datetime64("2020-01-01")),
        ("float32", np.zeros((), [("a", np.float32)])),
    ],
)
def test_scalars_that_would_change_are_refused(dtype, value):
    with pytest.raises(InputError, match=f"input 'x' expects {dtype}"):
        prepare_input("x", tensor_type(dtype), value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (VALUES.astype(np.float64), r"expects float32\[2, 3\], got float64\[2, 3\].*astype\(numpy\.float32\)"),
        (VALUES.astype(np.int32), "astype"),
        (VALUES.astype(ml_dtypes.bfloat16), r"got bfloat16\[2, 3\].*astype"),
        (VALUES.astype(">f8"), "astype"),
        (VALUES[0], "leading dimension"),
        (VALUES[None], "rank 3 instead of 2"),
        (VALUES.T, "axis 0 is 3 instead of 2, axis 1 is 2 instead of 3"),
        (np.zeros((0, 3), np.float32), "axis 0 is 0 instead of 2"),
        ([[1.0, 2.0], [3.0]], "no array"),
        ([[1.0, None, 3.0]] * 2, "of object"),
        ("text", "input 'x'"),
    ],
)
def test_messages_say_what_is_wrong_and_what_to_do(value, message):
    with pytest.raises(InputError, match=message):
        prepare_input("x", F32, value)


def test_objects_with_an_array_protocol():
    class Wrapped:
        def __array__(self, dtype=None, copy=None):
            return VALUES

    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("on another device")

    check(prepare_input("x", F32, Wrapped()))
    with pytest.raises(InputError, match="on another device"):
        prepare_input("x", F32, Broken())


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (0, 4), (1000, 7)])
def test_empty_is_aligned(shape):
    for dtype in (np.float32, np.float64, np.bool_, ml_dtypes.bfloat16, np.complex128):
        array = empty(shape, np.dtype(dtype))
        assert array.shape == shape and array.dtype == dtype
        assert address_of(array) % 64 == 0
        array[...] = 1
        assert (array == 1).all()


def test_aligned_copies_only_where_needed():
    good = empty((4, 4), np.dtype(np.float32))
    good[...] = np.arange(16).reshape(4, 4)
    assert aligned(good) is good
    for other in (good.T, misaligned(good), good.astype(">f4")):
        copy = aligned(other)
        assert address_of(copy) % 64 == 0 and copy.dtype.isnative
        assert np.array_equal(copy, other)


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 3 << 20])
def test_arena(nbytes):
    arena = Arena(nbytes)
    assert arena.address % 64 == 0
    if nbytes:
        ctypes.memset(arena.address, 7, nbytes)
        assert ctypes.string_at(arena.address + nbytes - 1, 1) == b"\7"


def test_an_absurd_arena_is_a_typed_error():
    for nbytes in (1 << 60, 1 << 70):
        with pytest.raises(ResourceLimitError, match="arena"):
            Arena(nbytes)


def test_array_that_no_memory_holds():
    with pytest.raises(ResourceLimitError, match=r"float32\[1099511627776, 1024\]"):
        empty((1 << 40, 1024), np.dtype(np.float32))
