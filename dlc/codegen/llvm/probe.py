"""LLVM text of two probes: one multiplies and adds in registers, one reads memory, both as fast as the target can.

What they reach on all threads together is the roofline that kernels are measured by. It must not know clocks or
threads.
"""

from __future__ import annotations

from dlc.codegen.target import CpuTarget

PEAK, READ = "dlc_probe_peak", "dlc_probe_read"
"""Symbols, both ``void f(i64 count, i64 iterations, ptr data)``: ``count`` floats are read, whole strides of them."""

_READ_CHAINS = 8

# `chains` accumulators, each a vector; the last sum is stored beside what is read first, so that nothing is dead.
_FRAME = """
define void @{symbol}(i64 %count, i64 %iterations, ptr %data) {{
entry:
  %x = load {v}, ptr %data, align 4
  br label %loop
loop:
  %n = phi i64 [ 0, %entry ], [ %n.next, %loop ]
  %i = phi i64 [ 0, %entry ], [ %place, %loop ]
  {phis}
  {body}
  %next = add i64 %i, {stride}
  %inside = icmp slt i64 %next, %count
  %place = select i1 %inside, i64 %next, i64 0
  %n.next = add i64 %n, 1
  %more = icmp slt i64 %n.next, %iterations
  br i1 %more, label %loop, label %done
done:
  {sums}
  %end = getelementptr float, ptr %data, i64 {lanes}
  store {v} %s{last}, ptr %end, align 4
  ret void
}}
"""


def peak_chains(target: CpuTarget) -> int:
    """Return how many independent accumulators hide the latency of a multiply-add and still fit the registers."""
    return 24 if target.vector_registers >= 32 else 12


def peak_flops(target: CpuTarget) -> int:
    """Return the operations of one iteration of ``PEAK``: a multiply-add counts two."""
    return 2 * peak_chains(target) * target.lanes(4)


def read_stride(target: CpuTarget) -> int:
    """Return how many floats one iteration of ``READ`` reads; after ``count`` it begins again."""
    return _READ_CHAINS * target.lanes(4)


def probe_text(target: CpuTarget) -> str:
    """Return a module with both probes for ``target``."""
    lanes, chains = target.lanes(4), peak_chains(target)
    v, suffix = f"<{lanes} x float>", f"v{lanes}f32"
    multiplied: list[str] = []
    for c in range(chains):
        if target.has_fma:
            multiplied.append(f"%b{c} = call {v} @llvm.fma.{suffix}({v} %a{c}, {v} %x, {v} %x)")
        else:
            multiplied += [f"%m{c} = fmul {v} %a{c}, %x", f"%b{c} = fadd {v} %m{c}, %x"]
    read: list[str] = []
    for c in range(_READ_CHAINS):
        read += [
            f"%o{c} = add i64 %i, {c * lanes}",
            f"%p{c} = getelementptr float, ptr %data, i64 %o{c}",
            f"%l{c} = load {v}, ptr %p{c}, align 4",
            f"%b{c} = fadd {v} %a{c}, %l{c}",
        ]
    declared = f"declare {v} @llvm.fma.{suffix}({v}, {v}, {v})\n" if target.has_fma else ""
    return _function(PEAK, lanes, chains, multiplied) + _function(READ, lanes, _READ_CHAINS, read) + declared


def _function(symbol: str, lanes: int, chains: int, body: list[str]) -> str:
    v = f"<{lanes} x float>"
    phis = [f"%a{c} = phi {v} [ zeroinitializer, %entry ], [ %b{c}, %loop ]" for c in range(chains)]
    sums = [f"%s{c} = fadd {v} {'%b0' if c == 1 else f'%s{c - 1}'}, %b{c}" for c in range(1, chains)]
    parts = {"phis": phis, "body": body, "sums": sums}
    joined = {name: "\n  ".join(lines) for name, lines in parts.items()}
    return _FRAME.format(symbol=symbol, v=v, lanes=lanes, stride=chains * lanes, last=chains - 1, **joined)
