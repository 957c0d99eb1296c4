"""The text of one LLVM function under construction: lines, blocks, names, scopes and lane masks.

It owns no meaning: expressions, memory access and statements are emitted by
functions in their own modules over this state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dlc.codegen.llvm_values import Value
from dlc.codegen.target import CpuTarget
from dlc.ir.expr import Expr
from dlc.ir.kernel import Kernel
from dlc.ir.types import DType


@dataclass(frozen=True)
class Memory:
    """A buffer in scope: its pointer register, what it holds, and whether it is private (promotable)."""

    pointer: str
    dtype: DType
    size: int | None
    writable: bool
    private: bool


class ModuleState:
    """What the functions of one module share: declarations, constants and called kernels."""

    def __init__(self, target: CpuTarget) -> None:
        self.target = target
        self.declarations: dict[str, None] = {}
        self.globals: dict[str, str] = {}
        self.callees: dict[Kernel, tuple[str, int]] = {}
        """Called kernel -> its symbol and the scratch bytes that it needs."""
        self.functions: list[str] = []


class FunctionState:
    """One function being written."""

    def __init__(self, module: ModuleState, kernel: Kernel) -> None:
        self.module = module
        self.target = module.target
        self.kernel = kernel
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.count = 0
        self.block = "entry"
        self.env: dict[str, Value] = {}
        self.memory: dict[str, Memory] = {}
        self.memo: dict[Expr, Value] = {}
        self.splats: dict[tuple[str, int], str] = {}
        self.lanes = 0
        self.mask: str | None = None
        self.scratch_offset = 0
        self.scratch_bytes = 0

    def op(self, text: str) -> str:
        """Append an instruction; return the register that holds its result."""
        count = self.count = self.count + 1
        name = f"%t{count}"
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Append an instruction without result."""
        self.lines.append("  " + text)

    def declare(self, signature: str) -> None:
        """Declare an external function, given as ``type @name(types)``."""
        self.module.declarations[signature] = None

    def label(self, hint: str) -> str:
        """Return a fresh block label."""
        count = self.count = self.count + 1
        return f"{hint}{count}"

    def start(self, label: str) -> None:
        """Begin the block ``label``."""
        self.lines.append(f"{label}:")
        self.block = label

    def branch(self, label: str) -> None:
        """End the block with a jump."""
        self.lines.append(f"  br label %{label}")

    def branch_if(self, condition: str, then: str, otherwise: str) -> None:
        """End the block with a conditional jump on an i1."""
        self.lines.append(f"  br i1 {condition}, label %{then}, label %{otherwise}")

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Names, memoised values and splats made inside do not outlive the block."""
        saved = self.env, self.memory, self.memo, self.splats, self.scratch_offset
        self.env, self.memory = dict(self.env), dict(self.memory)
        self.memo, self.splats = dict(self.memo), dict(self.splats)
        try:
            yield
        finally:
            self.env, self.memory, self.memo, self.splats, self.scratch_offset = saved
