"""Releasing what a compilation touched: the pages go, and come back when they are needed."""

import sys

import pytest

from dlc.codegen.llvm.calls import LIBRARY
from dlc.codegen.llvm.jit import compile_module
from dlc.codegen.llvm.target import host_target
from dlc.runtime.resident import release_memory, unmodified

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
TEXT = "define i32 @twice(i32 %x) {\n  %y = add i32 %x, %x\n  ret i32 %y\n}"


def resident(ranges):
    wanted, total, inside = {start for start, _ in ranges}, 0, False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            head = line.split()[0]
            if "-" in head and not head.endswith(":"):
                inside = int(head.split("-")[0], 16) in wanted
            elif inside and head == "Rss:":
                total += int(line.split()[1]) * 1024
    return total


def test_pages_of_a_library_go_and_come_back():
    first = compile_module(TEXT, host_target())
    ranges = unmodified(LIBRARY)
    before = resident(ranges)
    assert ranges and before > 1 << 20
    release_memory(LIBRARY)
    assert resident(ranges) < before / 4
    assert compile_module(TEXT, host_target()) == first


def test_written_and_unknown_mappings_are_left_alone():
    assert unmodified("/no/such/library.so") == []
    with open("/proc/self/maps") as lines:
        mappings = [line.split() for line in lines if line.rstrip().endswith(".so")]
    writable = {int(m[0].split("-")[0], 16) for m in mappings if "w" in m[1]}
    assert writable and not writable & {start for start, _ in unmodified(LIBRARY)}
    release_memory("/no/such/library.so")
