"""An executable: a plan bound to native code, constants, state and threads.

Owns what one run does on the Python side: check what is fed, make the outputs,
find an arena, call the dispatcher once. It must not know graphs, passes or how
code is generated.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any, Protocol

import numpy as np

from dlc.errors import DlcError, InputError
from dlc.ir.plan import Plan, Slot, SlotKind
from dlc.ir.types import TensorType
from dlc.runtime.buffers import Arena, address_of, aligned, empty_at, natural, prepare_input
from dlc.runtime.program import Program, build_program
from dlc.runtime.threads import NativeRuntime, Turn


class NativeCode(Protocol):
    """Loaded machine code; it stays loaded while the object lives."""

    def address(self, symbol: str) -> int:
        """Return the address of ``symbol``."""
        ...


@dataclass(frozen=True)
class Port:
    """An input or output of an executable: ``name`` and ``type``."""

    name: str
    type: TensorType

    @property
    def dtype(self) -> np.dtype:
        return self.type.dtype.numpy

    @property
    def shape(self) -> tuple:
        return self.type.shape

    def __str__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclass(frozen=True)
class MemoryReport:
    """Bytes that an executable holds: constants, state, one arena; and the arenas made so far."""

    constants: int
    state: int
    arena: int
    arenas: int

    @property
    def total(self) -> int:
        """Bytes of constants, state and all arenas."""
        return self.constants + self.state + self.arena * self.arenas


class Executable:
    """Runs one plan; safe to use from several threads at once.

    ``inputs`` and ``outputs`` are ports in the order of the plan's slots, unless given; an input that the plan has no
    slot for is checked and otherwise ignored. ``state`` maps names to arrays that runs update in place.
    Runs of a plan with state take turns; others share nothing but the thread pool.
    """

    def __init__(
        self,
        plan: Plan,
        code: NativeCode,
        native: NativeRuntime,
        *,
        constants: Mapping[str, np.ndarray] | None = None,
        state: Mapping[str, np.ndarray] | None = None,
        threads: int = 1,
        scratch_bytes: int = 0,
        inputs: Sequence[Port] | None = None,
        outputs: Sequence[Port] | None = None,
    ):
        self.plan = plan
        self.code = code
        self.threads = threads
        self.report: Any = None  # what the compilation did, set by whoever compiled
        self._native = native
        self._scratch_bytes = scratch_bytes
        self.program: Program = build_program(plan, code.address, threads=threads, scratch_bytes=scratch_bytes)
        self.constants = _placed(plan, SlotKind.CONSTANT, constants or {})
        self.state = _placed(plan, SlotKind.STATE, state or {})
        self.inputs: tuple[Port, ...] = tuple(inputs) if inputs is not None else _ports(plan, SlotKind.INPUT)
        self.outputs: tuple[Port, ...] = tuple(outputs) if outputs is not None else _ports(plan, SlotKind.OUTPUT)
        self._bases = [0] * len(plan.slots)
        self._pack = struct.Struct(f"={len(plan.slots)}q").pack
        self._arena_slot = -1
        slot_of: dict[str, int] = {}
        self._output_slots: list[tuple[int, str, tuple[int, ...], np.dtype, int]] = []
        for index, slot in enumerate(plan.slots):
            match slot.kind:
                case SlotKind.ARENA:
                    self._arena_slot = index
                case SlotKind.CONSTANT:
                    self._bases[index] = address_of(self.constants[slot.name])
                case SlotKind.STATE:
                    self._bases[index] = address_of(self.state[slot.name])
                case SlotKind.INPUT:
                    slot_of[slot.name] = index
                case SlotKind.OUTPUT:
                    type_ = _static_type(slot)
                    shape = tuple(dim for dim in type_.shape if isinstance(dim, int))
                    dtype = type_.dtype.numpy
                    self._output_slots.append((index, slot.name, shape, dtype, prod(shape) * dtype.itemsize))
        self._input_slots = [
            (slot_of.get(port.name, -1), port.name, port.type, port.shape, port.dtype) for port in self.inputs
        ]
        self._output_names = [port.name for port in self.outputs]
        self._in_slot_order = self._output_names == [name for _, name, _, _, _ in self._output_slots]
        self._arenas: list[Arena] = []
        self._arena_count = 0
        self._turn = Turn() if self.state and self.program.commits else None
        self._closed = False

    def run(self, feeds: Mapping[str, object]) -> dict[str, np.ndarray]:
        """Run once; ``feeds`` maps every input's name to an array. Return fresh arrays by output name.

        Raises InputError for a missing, extra or ill-typed input, and whatever a signal handler raises meanwhile
        (KeyboardInterrupt); then no state has changed, or all of it.
        """
        return self.run_program(self.program, feeds)

    def __call__(self, *arrays: object) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run with inputs in order; return the output alone if there is one, else a tuple of them."""
        if len(arrays) != len(self.inputs):
            raise InputError(
                f"{len(arrays)} arrays given for {len(self.inputs)} inputs: {', '.join(map(str, self.inputs))}"
            )
        results = self.run({port.name: array for port, array in zip(self.inputs, arrays)})
        outputs = tuple(results.values())
        return outputs[0] if len(outputs) == 1 else outputs

    def run_program(self, program: Program, feeds: Mapping[str, object]) -> dict[str, np.ndarray]:
        """Run another program of the same plan (one that records times, say) on ``feeds``."""
        if self._closed:
            raise DlcError("this executable was closed; compile the graph again")
        if type(feeds) is not dict or len(feeds) != len(self._input_slots):
            check_names(feeds, self.inputs)
        bases = self._bases.copy()
        kept = []
        for index, name, type_, shape, dtype in self._input_slots:
            try:
                array = feeds[name]
            except KeyError:
                check_names(feeds, self.inputs)
                raise
            if not (
                type(array) is np.ndarray
                and array.dtype == dtype
                and array.shape == shape
                and array.flags.c_contiguous
                and array.flags.aligned
            ):
                array = prepare_input(name, type_, array)
            kept.append(array)
            if index >= 0:
                bases[index] = address_of(array)
        results = {}
        for index, name, shape, dtype, nbytes in self._output_slots:
            results[name], bases[index] = empty_at(shape, dtype, nbytes)
        arena = self._take_arena()
        try:
            if arena is not None:
                bases[self._arena_slot] = arena.address
            packed = self._pack(*bases)
            threads = self.threads if program.parallel else 1
            if self._turn is None:
                self._native.pools.run(threads, program.address, packed, program.scratch_bytes)
            else:
                self._run_in_turn(self._turn, threads, program, packed)
        finally:
            if arena is not None:
                self._arenas.append(arena)
        return results if self._in_slot_order else {name: results[name] for name in self._output_names}

    def _run_in_turn(self, turn: Turn, threads: int, program: Program, bases: bytes) -> None:
        thread = turn.entering()
        with turn.lock:
            try:
                turn.holder = thread
                self._native.pools.run(threads, program.address, bases, program.scratch_bytes)
            finally:
                turn.holder = 0

    def _take_arena(self) -> Arena | None:
        if self._arena_slot < 0 or self.plan.arena_bytes == 0:
            return None
        try:
            return self._arenas.pop()
        except IndexError:
            self._arena_count += 1
            return Arena(self.plan.arena_bytes)

    @property
    def memory(self) -> MemoryReport:
        """Bytes held by constants, state and arenas."""
        return MemoryReport(
            constants=sum(array.nbytes for array in self.constants.values()),
            state=sum(array.nbytes for array in self.state.values()),
            arena=self.plan.arena_bytes,
            arenas=self._arena_count,
        )

    def take_turns(self, turn: Turn) -> None:
        """Make runs that update state take ``turn``, shared with other executables of the same state."""
        if self._turn is not None:
            self._turn = turn

    def timed_program(self, timing: np.ndarray) -> Program:
        """Return a program of the same plan that records nanoseconds, calls and start per step in ``timing``."""
        return build_program(
            self.plan, self.code.address, threads=self.threads, scratch_bytes=self._scratch_bytes, timing=timing
        )

    def release(self) -> None:
        """Give the memory of idle arenas back; the next run takes new memory."""
        while self._arenas:
            self._arenas.pop()
            self._arena_count -= 1

    def close(self) -> None:
        """Refuse further runs and give all memory back, except state and constants that others still hold."""
        self._closed = True
        self.release()

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _static_type(slot: Slot) -> TensorType:
    if slot.type is None or not slot.type.is_static:
        raise DlcError(f"{slot.kind} {slot.name!r} has type {slot.type}; a plan needs every dimension bound")
    return slot.type


def _ports(plan: Plan, kind: SlotKind) -> tuple[Port, ...]:
    return tuple(Port(slot.name, _static_type(slot)) for slot in plan.slots if slot.kind is kind)


def _placed(plan: Plan, kind: SlotKind, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of all slots of ``kind`` as code can read them; those that are fit stay the same objects.

    State is aligned to cache lines. Constants, which may be large and memory-mapped, need their elements' own only.
    """
    placed: dict[str, np.ndarray] = {}
    for slot in plan.slots:
        if slot.kind is not kind:
            continue
        array = arrays.get(slot.name)
        if array is None:
            raise DlcError(f"no array was given for {kind} {slot.name!r} of the plan")
        type_ = slot.type
        if array.nbytes != slot.nbytes or (type_ and (array.dtype, array.shape) != (type_.dtype.numpy, type_.shape)):
            raise DlcError(
                f"{kind} {slot.name!r} expects {type_ or f'{slot.nbytes} bytes'}, got {array.dtype}{list(array.shape)}"
            )
        if kind is SlotKind.STATE and not array.flags.writeable:
            array = array.copy()
        placed[slot.name] = natural(array) if kind is SlotKind.CONSTANT else aligned(array)
    return placed


def check_names(feeds: Mapping[str, object], ports: Sequence[Port]) -> None:
    """Raise InputError if ``feeds`` is no mapping, or names are missing or unknown, with the nearest names."""
    if not isinstance(feeds, Mapping):
        raise InputError(
            f"feed a dict of name -> array, not a {type(feeds).__name__}; "
            f"the inputs are {', '.join(map(str, ports)) or 'none'}"
        )
    names = [port.name for port in ports]
    missing = [str(port) for port in ports if port.name not in feeds]
    extra = [name for name in feeds if name not in names]
    problems = []
    if missing:
        problems.append(f"missing input {', '.join(missing)}")
    for name in extra:
        near = import_module("difflib").get_close_matches(str(name), names, n=1)
        problems.append(f"there is no input {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    if problems:
        raise InputError(f"{'; '.join(problems)}; the inputs are {', '.join(map(str, ports)) or 'none'}")
