"""Entry functions: what the dispatcher calls, and the loops over tasks behind them.

An entry is ``void symbol(ptr buffers, i64 begin, i64 end, ptr scratch)``. The loop that loads buffers, counts tasks and
tells a kernel's parallel loops apart is the same for all kernels of as many buffers and loops, so they share one, which
is given the function of a task. An entry, one call, is compiled without looking for anything better, which takes LLVM
half a millisecond less. It must not know statements.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlc.codegen.llvm.state import TILES, Callee, ModuleState
from dlc.codegen.llvm.tiles_emulated import TILES_BYTES


def emit_task_loop(module: ModuleState, symbol: str, buffers: int, extents: Sequence[int]) -> None:
    """Emit the entry ``symbol``: it runs tasks ``begin`` to ``end`` of ``symbol.task``, outermost loop first.

    The function of a task takes the pointers of ``buffers``, the index of every parallel loop, and the module's frame.
    """
    key = ("tasks", buffers, len(extents))
    loop = _loop(buffers, len(extents), module.frame)
    shared = module.find(key) or module.define(key, _callee(buffers, len(extents)), loop)
    known = [f"ptr @{symbol}.task", "ptr %buffers", "i64 %begin", "i64 %end", "ptr %scratch"]
    lines = [
        f"define void @{symbol}(ptr noalias %buffers, i64 %begin, i64 %end, ptr noalias %scratch) #2 {{",
        "entry:",
        f"  call void @{shared.symbol}({', '.join([*known, *(f'i64 {extent}' for extent in extents[1:])])}) #0",
        "  ret void",
        "}",
    ]
    module.functions.append("\n".join(lines))


def _callee(buffers: int, loops: int) -> Callee:
    symbol = f"dlc_tasks_{buffers}_{loops}"
    parameters = ["ptr %task", "ptr %buffers", "i64 %begin", "i64 %end", "ptr %scratch"]
    parameters += [f"i64 %extent{number}" for number in range(1, loops)]
    return Callee(symbol, 0, f"void @{symbol}({', '.join(parameters)}) noinline #0")


def _loop(buffers: int, loops: int, frame: Sequence[str]) -> list[str]:
    """Return the body of the loop over tasks: buffers are loaded once, indices divided out of a task's number."""
    lines = ["entry:"]
    if TILES in frame:
        lines.append(f"  {TILES} = alloca [{TILES_BYTES} x i8], align 64")
    arguments = []
    for number in range(buffers):
        lines.append(f"  %p{number} = getelementptr inbounds ptr, ptr %buffers, i64 {number}")
        lines.append(f"  %b{number} = load ptr, ptr %p{number}, align 8")
        arguments.append(f"ptr %b{number}")
    lines += [
        "  %some = icmp slt i64 %begin, %end",
        "  br i1 %some, label %run, label %done",
        "run:",
        "  %number = phi i64 [ %begin, %entry ], [ %next, %run ]",
    ]
    rest = "%number"
    for loop in reversed(range(1, loops)):
        lines.append(f"  %i{loop} = urem i64 {rest}, %extent{loop}")
        lines.append(f"  %q{loop} = udiv i64 {rest}, %extent{loop}")
        rest = f"%q{loop}"
    arguments += [f"i64 {rest if loop == 0 else f'%i{loop}'}" for loop in range(loops)]
    arguments += [f"ptr {pointer}" for pointer in frame]
    return [
        *lines,
        f"  call void %task({', '.join(arguments)}) #0",
        "  %next = add nsw i64 %number, 1",
        "  %more = icmp slt i64 %next, %end",
        "  br i1 %more, label %run, label %done",
        "done:",
        "  ret void",
    ]
