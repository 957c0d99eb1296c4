"""The text of one LLVM function under construction: lines, blocks, names, scopes and lane masks.

It owns no meaning: expressions, memory access and statements are emitted by
functions in their own modules over this state.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from dlc.codegen.llvm.values import Value
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
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


@dataclass(frozen=True)
class Callee:
    """A shared function that has been emitted: its symbol, the scratch bytes that it needs, its LLVM signature."""

    symbol: str
    scratch_bytes: int
    signature: str


TILES = "%tiles"
"""Where a function finds the tile registers of its thread if they are emulated."""
Library = dict[Hashable, Callee]
"""Functions that kernels share, by what they are made of, and that modules loaded together have emitted so far."""


class ModuleState:
    """What the functions of one module share: declarations, constants and called kernels.

    Without a ``library``, what is called stays within the module.
    """

    def __init__(self, target: CpuTarget, library: Library | None = None) -> None:
        self.target = target
        self.declarations: dict[str, None] = {}
        self.globals: dict[str, str] = {}
        self.shares_callees = library is not None
        self.callees: Library = library if library is not None else {}
        self.own: set[str] = set()
        """Symbols of shared functions that this module defines."""
        self.functions: list[str] = []

    @property
    def frame(self) -> tuple[str, ...]:
        """Pointers that every function gets from its caller: scratch memory, and tiles where they are emulated."""
        return ("%scratch", TILES) if self.target.emulated else ("%scratch",)

    def find(self, key: Hashable) -> Callee | None:
        """Return the shared function of ``key`` and make it known in this module; None if there is none yet."""
        known = self.callees.get(key)
        if known is not None and known.symbol not in self.own:
            self.declarations[known.signature] = None
        return known

    def define(self, key: Hashable, callee: Callee, lines: Sequence[str]) -> Callee:
        """Add the function of ``key``, whose body is ``lines``, for this module and those that share its library."""
        linkage = "" if self.shares_callees else "internal "
        self.functions.append("\n".join([f"define {linkage}{callee.signature} {{", *lines, "}"]))
        self.own.add(callee.symbol)
        self.callees[key] = callee
        return callee


class FunctionState:
    """One function being written."""

    def __init__(self, module: ModuleState, kernel: Kernel) -> None:
        self.module = module
        self.target = module.target
        self.kernel = kernel
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.opening: dict[str, str] = {}
        """Instructions that come with the allocas -> their registers."""
        self.count = 0
        self.block = "entry"
        self.env: dict[str, Value] = {}
        self.memory: dict[str, Memory] = {}
        self.memo: dict[Expr, Value] = {}
        self.reads: dict[Expr, Value] = {}
        self.read_count = 0
        self.write_count = 0
        self.splats: dict[tuple[str, int], str] = {}
        self.halves: dict[tuple[DType, str], str] = {}
        """The 16 bits from which a register of float32 was widened: storing it again needs no rounding."""
        self.flushed: dict[str, str] = {}
        """What a register without subnormal numbers was made of: some instructions flush by themselves."""
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

    def once(self, text: str) -> str:
        """Return the register of an instruction on private arrays and literals alone, which opens the function."""
        name = self.opening.get(text)
        if name is None:
            name = self.opening[text] = f"%{self.label('at')}"
            self.allocas.append(f"  {name} = {text}")
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

    def buffer(self, name: str) -> Memory:
        """Return the buffer ``name`` in scope."""
        try:
            return self.memory[name]
        except KeyError:
            raise CompileError(f"kernel {self.kernel.name}: buffer {name!r} is not defined here") from None

    def bind(self, name: str, value: Value) -> None:
        """Give a variable its value for the rest of the block."""
        if name in self.env:  # what was remembered may depend on the shadowed variable
            self.memo, self.reads = {}, {}
        self.env[name] = value

    def wrote(self) -> None:
        """Forget values read from memory: something has been written."""
        self.write_count += 1
        self.reads = {}

    def scope(self, repeats: bool = False) -> _Scope:
        """Names, remembered values and splats made inside do not outlive the block.

        ``repeats`` says that the block is a loop body, before which its own writes may have run.
        """
        return _Scope(self, repeats)


class _Scope:
    """Restores what a block must not leave behind."""

    __slots__ = ("repeats", "saved", "state")

    def __init__(self, state: FunctionState, repeats: bool) -> None:
        self.state = state
        self.repeats = repeats

    def __enter__(self) -> None:
        s = self.state
        self.saved = s.env, s.memory, s.memo, s.splats, s.scratch_offset, s.reads, s.write_count
        s.env, s.memory, s.memo, s.splats = s.env.copy(), s.memory.copy(), s.memo.copy(), s.splats.copy()
        s.reads = {} if self.repeats else s.reads.copy()

    def __exit__(self, *error: object) -> None:
        s = self.state
        s.env, s.memory, s.memo, s.splats, s.scratch_offset, reads, writes = self.saved
        s.reads = reads if s.write_count == writes else {}
