"""Emits ``fma_pairs``: products of words of two bfloat16 numbers, added to float32.

One instruction where the target has AVX512-BF16, else two multiply-adds of widened halves. It must not know
which kernels use it.
"""

from __future__ import annotations

from dlc.codegen.llvm.expr import evaluate, evaluate_deep
from dlc.codegen.llvm.memory import load, store
from dlc.codegen.llvm.scalar import call, int_constant
from dlc.codegen.llvm.state import FunctionState, Memory
from dlc.codegen.llvm.types import register_type
from dlc.codegen.llvm.values import Value, materialize
from dlc.errors import CompileError
from dlc.ir.expr import Apply
from dlc.ir.kernel import Accumulate
from dlc.ir.types import float32, uint32

_NATIVE = {16: "512", 8: "256", 4: "128"}
"""Lanes -> bits of the registers, as the instruction's name has them."""


def accumulate_pairs(s: FunctionState, memory: Memory, statement: Accumulate) -> None:
    """Add both products of each lane's words to ``memory``."""
    product = statement.value
    if not isinstance(product, Apply) or product.op != "mul" or memory.dtype is not float32:
        raise CompileError(f"kernel {s.kernel.name}: fma_pairs into {statement.buffer!r} wants a product of words")
    values = [evaluate_deep(s, operand) for operand in product.args]
    index = evaluate(s, statement.index)
    old = load(s, memory, index)
    lanes = s.lanes if old.varies or any(value.varies for value in values) else 0
    words = [materialize(s, value, lanes) for value in values]
    current = materialize(s, old, lanes)
    form = _native if s.target.has("avx512bf16") and lanes in _NATIVE else _widened
    store(s, memory, index, Value(form(s, words, current, lanes), float32, lanes))


def _native(s: FunctionState, words: list[str], current: str, lanes: int) -> str:
    kind, word, halves = register_type(float32, lanes), register_type(uint32, lanes), f"<{2 * lanes} x bfloat>"
    symbol = f"@llvm.x86.avx512bf16.dpbf16ps.{_NATIVE[lanes]}"
    s.declare(f"{kind} {symbol}({kind}, {halves}, {halves})")
    a, b = (s.op(f"bitcast {word} {text} to {halves}") for text in words)
    return s.op(f"call {kind} {symbol}({kind} {current}, {halves} {a}, {halves} {b})")


def _widened(s: FunctionState, words: list[str], current: str, lanes: int) -> str:
    kind, word = register_type(float32, lanes), register_type(uint32, lanes)
    upper = [s.op(f"and {word} {text}, {int_constant(-0x10000, word)}") for text in words]
    lower = [s.op(f"shl {word} {text}, {int_constant(16, word)}") for text in words]
    for halves in (upper, lower):
        a, b = (s.op(f"bitcast {word} {text} to {kind}") for text in halves)
        if s.target.has_fma:
            current = call(s, "fma", kind, a, b, current)
        else:
            current = s.op(f"fadd {kind} {current}, " + s.op(f"fmul {kind} {a}, {b}"))
    return current
