"""Loading relocatable objects: what they call, what they hold, what is refused, and when memory goes."""

import ctypes
import gc
import struct
from pathlib import Path

import numpy as np
import pytest

from dlc.codegen.llvm.jit import compile_module
from dlc.codegen.llvm.target import host_target
from dlc.errors import DlcError
from dlc.runtime.object_code import ObjectCode, UnsupportedObjectError, can_load, load_objects

pytestmark = pytest.mark.skipif(not can_load(), reason="this loader is for x86-64 Linux")

CALLER = """
declare double @twice(double)
declare double @pow(double, double)
declare ptr @memcpy(ptr, ptr, i64)
@table = internal constant [4 x double] [double 1.5, double 2.5, double 3.5, double 4.5], align 64
define double @entry(i64 %at, double %x) {
  %p = getelementptr [4 x double], ptr @table, i64 0, i64 %at
  %c = load double, ptr %p
  %y = call double @twice(double %x)
  %z = call double @pow(double %y, double %c)
  %w = call double @inner(double %z)
  ret double %w
}
define internal double @inner(double %x) noinline {
  %y = fadd double %x, 0.125
  ret double %y
}
define void @move(ptr %to, ptr %from, i64 %n) {
  %r = call ptr @memcpy(ptr %to, ptr %from, i64 %n)
  ret void
}
"""
CALLED = "define double @twice(double %x) {\n  %y = fmul double %x, 2.0\n  ret double %y\n}\n"


def compiled(text):
    target = host_target("generic")
    return compile_module(f'target triple = "{target.triple}"\n{text}', target)


@pytest.fixture(scope="module")
def images():
    return [compiled(CALLER), compiled(CALLED)]


@pytest.mark.parametrize("order", [1, -1])
def test_objects_call_one_another_and_the_c_library(images, order):
    code = load_objects(images[::order])
    entry = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_double)(code.address("entry"))
    for at, exponent in enumerate((1.5, 2.5, 3.5, 4.5)):
        assert entry(at, 3.0) == 6.0**exponent + 0.125
    move = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(code.address("move"))
    source, target = np.arange(100.0), np.zeros(100)
    move(target.ctypes.data, source.ctypes.data, source.nbytes)
    assert np.array_equal(source, target)


def test_the_same_object_may_be_loaded_often(images):
    addresses = [code.address("twice") for code in [load_objects(images[1:]) for _ in range(5)]]
    assert len(addresses) == 5
    kept = [load_objects(images[1:]) for _ in range(5)]
    assert len({code.address("twice") for code in kept}) == 5


def test_a_missing_symbol_is_an_error(images):
    with pytest.raises(DlcError, match="absent"):
        load_objects(images).address("absent")
    with pytest.raises(UnsupportedObjectError, match="twice"):
        load_objects(images[:1])


def test_variables_are_refused():
    text = "@count = global i64 7\ndefine i64 @get() {\n  %x = load i64, ptr @count\n  ret i64 %x\n}\n"
    with pytest.raises(UnsupportedObjectError, match="variables"):
        load_objects([compiled(text)])


def test_nothing_is_writable_and_memory_goes_with_the_object(images):
    code = load_objects(images)
    address = code.address("entry")

    def region():
        for line in Path("/proc/self/maps").read_text().splitlines():
            first, _, last = line.split()[0].partition("-")
            if int(first, 16) <= address < int(last, 16):
                return line.split()[1]
        return ""

    assert region() == "r-xp"
    del code
    gc.collect()
    assert region() != "r-xp"


def test_damaged_objects_are_refused(images):
    image = images[0]
    for wrong in (b"", b"\x7fELF", image[:100], image[: len(image) // 2], bytes(len(image))):
        with pytest.raises(UnsupportedObjectError):
            load_objects([wrong])
    other = bytearray(image)
    struct.pack_into("<H", other, 18, 183)  # another machine
    with pytest.raises(UnsupportedObjectError, match="x86-64"):
        load_objects([bytes(other)])


def test_cut_and_changed_objects_never_crash(images):
    rng = np.random.default_rng(0)
    loaded = 0
    for _ in range(300):
        data = bytearray(images[0])
        for _ in range(3):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            code = load_objects([bytes(data), images[1]])
        except UnsupportedObjectError:
            continue
        assert isinstance(code, ObjectCode)
        loaded += 1
    assert loaded  # most bytes are code or names
