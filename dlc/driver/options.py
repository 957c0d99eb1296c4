"""Options of a compilation, checked and completed from the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from operator import index
from pathlib import Path

from dlc import config
from dlc.errors import CompileError, InputError
from dlc.ir.dims import Dim, SymbolicDim, bind_dim, symbols_of
from dlc.ir.graph import Graph, Role
from dlc.ir.interface import interface_of, type_of_input
from dlc.ir.mode import Mode

PRECISIONS = ("float32", "bfloat16", "bf16x3")


@dataclass(frozen=True)
class CompileOptions:
    """Everything but the graph that decides what is compiled."""

    mode: Mode
    device: str
    precision: str
    threads: int
    features: str
    fold_limit: int
    verify: int
    dump: Path | None
    memory_limit: int | None = None
    short_run: int = 0

    @staticmethod
    def make(
        mode: Mode,
        device: str,
        precision: str,
        threads: int | None,
        dump: str | Path | None = None,
        memory_limit: int | None = None,
    ) -> CompileOptions:
        """Check what the caller gave and take the rest from the configuration; CompileError for what dlc lacks."""
        if device != "cpu":
            known = isinstance(device, str) and re.fullmatch(r"cuda(:\d+)?", device)
            reason = "this build compiles for cpu only" if known else "devices are 'cpu'"
            raise CompileError(f"device {device!r} is not available: {reason}; pass device='cpu'")
        if precision not in PRECISIONS:
            raise CompileError(f"precision {precision!r} is not available; use one of {', '.join(PRECISIONS)}")
        if threads is not None and not (isinstance(threads, Integral) and 1 <= threads <= 1024):
            raise CompileError(f"threads={threads!r} is not an integer in 1 .. 1024")
        return CompileOptions(
            mode=mode,
            device=device,
            precision=precision,
            threads=int(threads) if threads is not None else config.num_threads(),
            features=config.cpu_features(),
            fold_limit=config.fold_limit(),
            verify=config.verify_level(),
            dump=Path(dump) if dump is not None else config.dump_dir(),
            memory_limit=memory_limit,
            short_run=config.short_run_microseconds(),
        )


def graph_symbols(graph: Graph) -> list[str]:
    """Return the names of the symbols in the graph's inputs, in order of appearance."""
    names: dict[str, None] = {}
    for _, type_ in interface_of(graph).inputs:
        for dim in type_.shape:
            if isinstance(dim, SymbolicDim):
                names.update(dict.fromkeys(sorted(symbols_of(dim))))
    return list(names)


def binding_from_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the value of each symbol that ``shapes`` (input name -> extents) fixes.

    Raises InputError for what is no shape, an unknown input, a wrong rank, a known extent that differs, or extents
    that contradict each other. A lone symbol is read off; an expression of symbols must agree with what the others fix.
    """
    interface = interface_of(graph)
    binding: dict[str, int] = {}
    pending: list[tuple[str, Dim, int]] = []
    if not isinstance(shapes, Mapping):
        raise InputError(f"shapes is a dict of input name -> extents, not a {type(shapes).__name__}")
    for name, shape in shapes.items():
        try:
            extents = tuple(index(extent) for extent in shape)
        except TypeError:
            raise InputError(f"shapes gives {shape!r} for input {name!r}; a shape is a tuple of integers") from None
        known = [spec.name for spec, _ in interface.inputs_with(Role.DATA, Role.TARGET)]
        if name not in known:
            raise InputError(f"shapes names the input {name!r}; graph {graph.name!r} has {', '.join(known) or 'none'}")
        declared = type_of_input(interface, name).shape
        if len(declared) != len(extents):
            raise InputError(f"shapes gives {list(extents)} for input {name!r}, which has shape {list(declared)}")
        pending += [(name, dim, extent) for dim, extent in zip(declared, extents, strict=True)]
    for name, dim, extent in pending:
        if extent < 0:
            raise InputError(f"shapes gives the negative extent {extent} for input {name!r}")
        if isinstance(dim, SymbolicDim) and len(symbols_of(dim)) == 1 and str(dim).isidentifier():
            symbol = str(dim)
            if binding.setdefault(symbol, extent) != extent:
                raise InputError(f"shapes binds {symbol!r} to {binding[symbol]} and, for input {name!r}, to {extent}")
    for name, dim, extent in pending:
        value = bind_dim(dim, binding)
        if isinstance(value, int) and value != extent:
            raise InputError(f"shapes gives extent {extent} for {dim} of input {name!r}, which is {value}")
    return binding
