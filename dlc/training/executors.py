"""What runs a training step or an evaluation: compiled code, or the NumPy interpreter for checking.

Both update named state arrays in place and specialise to the shapes that are fed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dlc.driver.artifact import Shared
from dlc.driver.compile import compile_bound, initial_state, ports
from dlc.driver.machine_probe import roofline
from dlc.driver.options import CompileOptions, binding_from_shapes, graph_symbols
from dlc.errors import DlcError
from dlc.ir.graph import Graph
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode
from dlc.passes.bind import bind
from dlc.passes.state.orders import state_orders
from dlc.passes.state.store import StoreStateOptions, inverse, store_state
from dlc.runtime.buffers import as_input_array
from dlc.runtime.executable import Executable, Port, check_names
from dlc.runtime.profile import Profile, profile
from dlc.runtime.specialise import SpecialisingExecutable, infer_binding


class Executor(Protocol):
    """Runs a graph; ``inputs`` are the ports that are fed, ``report`` says what the last compilation did, if any."""

    inputs: tuple[Port, ...]

    @property
    def report(self) -> Any:
        """A CompileReport, or None if nothing was compiled yet."""
        ...

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once and return results by name; state arrays change in place."""
        ...


class InterpretedExecutor:
    """Runs ``graph`` in the interpreter: slow, and the definition of what compiled code must do."""

    def __init__(self, graph: Graph, mode: Mode, state: Mapping[str, np.ndarray], binding: Mapping[str, int]) -> None:
        self.graph, self.mode, self.state, self.binding = graph, mode, state, dict(binding)
        self.inputs = ports(graph)[0]
        self.report = None
        self._bound: dict[tuple[tuple[str, int], ...], Graph] = {}

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once; state arrays change together at the end."""
        check_names(feeds, self.inputs)
        arrays = {port.name: as_input_array(port.name, port.type, feeds[port.name]) for port in self.inputs}
        binding = infer_binding(self.inputs, arrays)
        key = tuple(sorted(binding.items()))
        if key not in self._bound:
            self._bound[key] = bind(self.graph, {**self.binding, **binding})
        outputs = interpret(self._bound[key], {**self.state, **arrays}, self.mode)
        replaced = self.graph.signature.replacements
        following = {input_name: outputs[name].copy() for name, input_name in replaced.items()}  # they may be old ones
        for input_name, array in following.items():
            self.state[input_name][...] = array
        return {name: array for name, array in outputs.items() if name not in replaced}


def make_executor(
    graph: Graph,
    mode: Mode,
    *,
    device: str,
    precision: str,
    threads: int | None,
    shapes: Mapping[str, Sequence[int]] | None,
    dump: str | Path | None = None,
    memory_limit: int | None = None,
) -> tuple[Executor, dict[str, np.ndarray]]:
    """Return what runs ``graph`` and the state arrays that its runs replace, by input name.

    Compiled code keeps some of them in another order of dimensions; they are views of it then.

    ``device`` is that of ``dlc.compile``, or "interpreter". Symbols that ``shapes`` leaves open are bound, and code
    is made, when a run first brings them.
    """
    binding = binding_from_shapes(graph, shapes or {})
    if device == "interpreter":
        state = initial_state(graph)
        return InterpretedExecutor(graph, mode, state, binding), state
    orders = state_orders(graph)
    graph = store_state(graph, StoreStateOptions(orders))
    shared = Shared(initial_state(graph))
    state = {n: a.transpose(inverse(orders[n])) if n in orders else a for n, a in shared.state.items()}
    options = CompileOptions.make(mode, device, precision, threads, dump, memory_limit)

    def compile_for(values: dict[str, int]) -> Executable:
        return compile_bound(graph, options, shared, {**binding, **values})

    if set(graph_symbols(graph)) <= set(binding):
        return compile_for({}), state
    return SpecialisingExecutable(*ports(graph), compile_for), state


def profile_steps(executor: Executor, feeds: Mapping[str, Any], runs: int, warmup: int) -> Profile:
    """Run ``executor`` on ``feeds`` ``warmup + runs`` times and return the median time and the floor of every step.

    Raises DlcError where nothing is compiled.
    """
    if isinstance(executor, SpecialisingExecutable):
        executor = executor.executable_for(feeds)
    if not isinstance(executor, Executable):
        raise DlcError("the interpreter has no compiled steps to profile; compile with device='cpu'")
    return profile(executor, feeds, runs, warmup, roofline(executor.threads))
