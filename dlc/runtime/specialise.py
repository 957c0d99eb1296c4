"""Executables for symbolic shapes: one per concrete binding, a bounded number of them.

Owns how a binding follows from the shapes that are fed, and which executables are
kept. Compiling is a function given by the driver.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dlc.errors import InputError
from dlc.ir.dims import Dim, Symbol, SymbolicDim, bind_dim, symbols_of
from dlc.runtime.buffers import as_input_array
from dlc.runtime.executable import Executable, MemoryReport, Port, check_names
from dlc.runtime.threads import Turn

Binding = dict[str, int]


class SpecialisingExecutable:
    """Behaves like an Executable whose ports have symbolic dimensions.

    ``compile_for(binding)`` makes the executable for one binding of the symbols; the last ``limit`` used are kept.
    All of them take turns where they update state, which they share.
    """

    def __init__(
        self,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        compile_for: Callable[[Binding], Executable],
        limit: int = 8,
    ):
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._compile_for = compile_for
        self._limit = limit
        self._kept: OrderedDict[tuple[tuple[str, int], ...], Executable] = OrderedDict()
        self._bindings: dict[tuple[tuple[int, ...], ...], Binding] = {}
        self._change = Turn()
        self._state_turn = Turn()

    def run(self, feeds: Mapping[str, object]) -> dict[str, np.ndarray]:
        """Run once, as Executable.run does; compiles first where the shapes are new."""
        arrays = self._arrays(feeds)
        return self.executable(self._binding(arrays)).run(arrays)

    def executable_for(self, feeds: Mapping[str, object]) -> Executable:
        """Return the executable that a run on ``feeds`` takes, compiled if their shapes are new."""
        return self.executable(self._binding(self._arrays(feeds)))

    def _arrays(self, feeds: Mapping[str, object]) -> dict[str, np.ndarray]:
        check_names(feeds, self.inputs)
        return {port.name: as_input_array(port.name, port.type, feeds[port.name]) for port in self.inputs}

    def _binding(self, arrays: Mapping[str, np.ndarray]) -> Binding:
        shapes = tuple(array.shape for array in arrays.values())
        binding = self._bindings.get(shapes)
        if binding is None:
            binding = infer_binding(self.inputs, arrays)
            if len(self._bindings) > 64 * self._limit:
                self._bindings = {}
            self._bindings[shapes] = binding
        return binding

    def __call__(self, *arrays: object) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run with inputs in order; return the output alone if there is one, else a tuple of them."""
        if len(arrays) != len(self.inputs):
            raise InputError(
                f"{len(arrays)} arrays given for {len(self.inputs)} inputs: {', '.join(map(str, self.inputs))}"
            )
        outputs = tuple(self.run({port.name: array for port, array in zip(self.inputs, arrays)}).values())
        return outputs[0] if len(outputs) == 1 else outputs

    def executable(self, binding: Mapping[str, int]) -> Executable:
        """Return the executable for ``binding``, compiled if it is not among those kept."""
        key = tuple(sorted(binding.items()))
        change = self._change
        thread = change.entering()
        with change.lock:
            try:
                change.holder = thread
                executable = self._kept.get(key)
                if executable is None:
                    executable = self._compile_for(dict(key))
                    executable.take_turns(self._state_turn)
                    while len(self._kept) >= self._limit:
                        self._kept.popitem(last=False)  # one still running stays alive through its caller
                    self._kept[key] = executable
                self._kept.move_to_end(key)
                return executable
            finally:
                change.holder = 0

    @property
    def bindings(self) -> list[Binding]:
        """The bindings that are compiled now, the one used last at the end."""
        return [dict(key) for key in self._kept]

    @property
    def report(self) -> Any:
        """What the compilation of the binding used last did; None if there is none yet."""
        return next(reversed(self._kept.values())).report if self._kept else None

    @property
    def memory(self) -> MemoryReport:
        """Bytes held: constants and state, which all executables share, counted once by array; arenas summed."""
        executables = list(self._kept.values())
        constants = {id(array): array.nbytes for e in executables for array in e.constants.values()}
        state = {id(array): array.nbytes for e in executables for array in e.state.values()}
        arenas = sum(e.memory.arena * e.memory.arenas for e in executables)
        return MemoryReport(sum(constants.values()), sum(state.values()), arena=arenas, arenas=1 if arenas else 0)

    def release(self) -> None:
        """Give the memory of idle arenas back."""
        for executable in list(self._kept.values()):
            executable.release()

    def close(self) -> None:
        """Drop all executables; a later run compiles again."""
        with self._change.lock:
            self._kept.clear()


def infer_binding(inputs: Sequence[Port], arrays: Mapping[str, np.ndarray]) -> Binding:
    """Solve the symbols in the shapes of ``inputs`` from the arrays fed, whose ranks are right.

    Raises InputError if shapes contradict each other or a symbol cannot be found.
    """
    equations = [
        (port.name, axis, dim, arrays[port.name].shape[axis])
        for port in inputs
        for axis, dim in enumerate(port.type.shape)
    ]
    binding: Binding = {}
    source: dict[str, str] = {}
    pending = equations
    while pending:
        later = []
        for equation in pending:
            name, axis, dim, extent = equation
            found = _solve(bind_dim(dim, binding), extent)
            if found is None:
                later.append(equation)
            elif found:
                symbol_name, value = found
                binding[symbol_name] = value
                source[symbol_name] = f"input {name!r} axis {axis}"
        if len(later) == len(pending):
            break
        pending = later
    unknown = {symbol_name for _, _, dim, _ in equations for symbol_name in symbols_of(dim)} - set(binding)
    if unknown:
        raise InputError(
            f"dimension {', '.join(sorted(unknown))} does not follow from the shapes fed to "
            f"{', '.join(str(port) for port in inputs)}; compile with shapes={{...}} that say it"
        )
    for name, axis, dim, extent in equations:
        expected = bind_dim(dim, binding)
        if expected != extent:
            known = ", ".join(f"{s} = {binding[s]} from {source[s]}" for s in sorted(symbols_of(dim)))
            raise InputError(
                f"input {name!r} has {extent} on axis {axis} where it expects {dim}"
                + (f" = {expected} ({known}); feed arrays that agree" if known else "; feed that shape")
            )
    return binding


def _solve(dim: Dim, extent: int) -> tuple[str, int] | tuple[()] | None:
    """Solve ``dim == extent``: the symbol and its value, () if there is nothing to find, None if not yet solvable."""
    if not isinstance(dim, SymbolicDim):
        return ()
    constant = sum(coefficient for monomial, coefficient in dim.terms if not monomial)
    terms = [(monomial, coefficient) for monomial, coefficient in dim.terms if monomial]
    if len(terms) != 1 or len(terms[0][0]) != 1 or not isinstance(terms[0][0][0], Symbol):
        return None
    value, rest = divmod(extent - constant, terms[0][1])
    if rest or value < 0:
        raise InputError(f"no value of {terms[0][0][0]} makes {dim} equal to the {extent} that was fed")
    return str(terms[0][0][0]), value
