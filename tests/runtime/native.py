"""Shared tools of the runtime's tests: compile LLVM text with llvmlite alone, tiny kernels, plans made by hand."""

from __future__ import annotations

import platform
from functools import cache

import llvmlite.binding as llvm
import numpy as np

from dlc.codegen.llvm.dispatch import EXPORTS, PYTHON_EXPORTS, dispatcher_text, python_poll_text
from dlc.ir.plan import Argument, KernelStep, LoopBegin, LoopEnd, Plan, Slot, SlotKind, Step
from dlc.ir.types import tensor_type
from dlc.runtime.executable import Executable
from dlc.runtime.threads import NativeRuntime

WIDTH = 64  # elements of a row in the arrays that the kernels below work on
ROW = WIDTH * 8

# mix: out[i] += 3 * in[WIDTH - 1 - i], so that a task reads what another task of the step before wrote.
# mix_all: the same for the whole row as one task. nap: about a millisecond of nothing. count: out[i] += 1.
# fill_scratch: writes a pattern to 64 KiB of scratch memory, reads it back and adds the number of faults to out[i].
KERNELS = f"""
define void @mix(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) {{
entry:
  %in = load ptr, ptr %buffers
  %out.at = getelementptr ptr, ptr %buffers, i64 1
  %out = load ptr, ptr %out.at
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %loop ]
  %mirror = sub i64 {WIDTH - 1}, %i
  %a.at = getelementptr i64, ptr %in, i64 %mirror
  %a = load i64, ptr %a.at
  %b.at = getelementptr i64, ptr %out, i64 %i
  %b = load i64, ptr %b.at
  %c = mul i64 %a, 3
  %d = add i64 %b, %c
  store i64 %d, ptr %b.at
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}}

define void @mix_all(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) {{
  call void @mix(ptr %buffers, i64 0, i64 {WIDTH}, ptr %scratch)
  ret void
}}

define void @count(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) {{
entry:
  %out = load ptr, ptr %buffers
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %loop ]
  %at = getelementptr i64, ptr %out, i64 %i
  %a = load i64, ptr %at
  %b = add i64 %a, 1
  store i64 %b, ptr %at
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}}

define void @nap(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) {{
entry:
  %cell = alloca i64
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  store volatile i64 %i, ptr %cell
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, 3000000
  br i1 %more, label %loop, label %done
done:
  ret void
}}

; Writes down where the tasks it is called for begin, and counts the calls: out[0] = n, out[n] = begin.
define void @note(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) {{
  %out = load ptr, ptr %buffers
  %known = load i64, ptr %out
  %count = add i64 %known, 1
  store i64 %count, ptr %out
  %at = getelementptr i64, ptr %out, i64 %count
  store i64 %begin, ptr %at
  ret void
}}

define void @nothing(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) {{
  ret void
}}

define void @fill_scratch(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) {{
entry:
  %out = load ptr, ptr %buffers
  %address = ptrtoint ptr %scratch to i64
  %misaligned = and i64 %address, 63
  br label %write
write:
  %i = phi i64 [ 0, %entry ], [ %i.next, %write ]
  %word = add i64 %i, %begin
  %at = getelementptr i64, ptr %scratch, i64 %i
  store volatile i64 %word, ptr %at
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, 8192
  br i1 %more, label %write, label %check
check:
  %k = phi i64 [ 0, %write ], [ %k.next, %check ]
  %faults = phi i64 [ %misaligned, %write ], [ %faults.next, %check ]
  %want = add i64 %k, %begin
  %k.at = getelementptr i64, ptr %scratch, i64 %k
  %have = load volatile i64, ptr %k.at
  %wrong = icmp ne i64 %have, %want
  %fault = zext i1 %wrong to i64
  %faults.next = add i64 %faults, %fault
  %k.next = add i64 %k, 1
  %rest = icmp ult i64 %k.next, 8192
  br i1 %rest, label %check, label %sum
sum:
  %j = phi i64 [ %begin, %check ], [ %j.next, %sum ]
  %out.at = getelementptr i64, ptr %out, i64 %j
  %old = load i64, ptr %out.at
  %one = add i64 %old, 1
  %new = add i64 %one, %faults.next
  store i64 %new, ptr %out.at
  %j.next = add i64 %j, 1
  %left = icmp ult i64 %j.next, %end
  br i1 %left, label %sum, label %done
done:
  ret void
}}

; out[i] = in[i] * in[i] in float32: subnormal results show how subnormals are treated.
define void @square(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) {{
entry:
  %in = load ptr, ptr %buffers
  %out.slot = getelementptr ptr, ptr %buffers, i64 1
  %out = load ptr, ptr %out.slot
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %loop ]
  %in.at = getelementptr float, ptr %in, i64 %i
  %a = load float, ptr %in.at
  %b = fmul float %a, %a
  %out.at = getelementptr float, ptr %out, i64 %i
  store float %b, ptr %out.at
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""
SYMBOLS = ("mix", "mix_all", "count", "nap", "note", "nothing", "fill_scratch", "square")


class Code:
    """Loaded code, as an Executable wants it."""

    def __init__(self, addresses: dict[str, int], owner: object):
        self.addresses = addresses
        self.owner = owner

    def address(self, symbol: str) -> int:
        return self.addresses[symbol]


def load(symbols: tuple[str, ...], *texts: str, name: str) -> Code:
    """Compile LLVM texts, link them with the process's own symbols and find the addresses of ``symbols``."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    library = llvm.JITLibraryBuilder()
    for text in texts:
        module = llvm.parse_assembly(text)
        module.verify()
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
        builder.getModulePassManager().run(module, builder)
        library.add_object_img(machine.emit_object(module))
    for symbol in symbols:
        library.export_symbol(symbol)
    jit = llvm.create_lljit_compiler(machine)
    tracker = library.add_current_process().link(jit, name)
    return Code({symbol: tracker[symbol] for symbol in symbols}, (jit, tracker))


@cache
def native_runtime() -> NativeRuntime:
    """Return the process's native runtime."""
    code = load(EXPORTS + PYTHON_EXPORTS, dispatcher_text(platform.machine()), python_poll_text(), name="runtime")
    return NativeRuntime.from_addresses(code.addresses, owner=code)


@cache
def kernels() -> Code:
    """Return the compiled KERNELS."""
    return load(SYMBOLS, KERNELS, name="kernels")


def step(symbol: str, *arguments: Argument, tasks: int = WIDTH, **fields: object) -> KernelStep:
    """Return a kernel step whose label is its symbol."""
    return KernelStep(symbol, arguments, tasks, fields.pop("label", symbol), **fields)


def row(slot: int, index: int, *strides: int) -> Argument:
    """Return row ``index`` of a slot; strides are rows per iteration."""
    return Argument(slot, index * ROW, tuple(stride * ROW for stride in strides))


def rows_type(rows: int):
    """Return the type of ``rows`` rows."""
    return tensor_type("int64", (rows, WIDTH))


def state_executable(steps: tuple[Step, ...], rows: int, threads: int, **options: object) -> Executable:
    """Return an executable whose one slot is the state "s", zeros of ``rows`` rows."""
    slots = (Slot(SlotKind.STATE, "s", rows * ROW, rows_type(rows)),)
    return Executable(
        Plan(slots, steps, 0),
        kernels(),
        native_runtime(),
        state={"s": np.zeros((rows, WIDTH), np.int64)},
        threads=threads,
        **options,
    )


def long_steps(milliseconds: int, chains: bool = False) -> tuple[Step, ...]:
    """Return steps that take about ``milliseconds`` or more, both threads of a pool taking part."""
    return (LoopBegin(milliseconds, chains), step("nap", tasks=2), LoopEnd())
