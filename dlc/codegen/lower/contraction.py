"""Lowers a contraction with its fused epilogue to kernels: the entry point of the contraction code path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from dlc.codegen.contract.analysis import OUT, Problem, analyze, extent_of, output_steps
from dlc.codegen.contract.blocking import DIRECT, LOCAL, PACKED, can_block, choose_blocking
from dlc.codegen.contract.dot import dot_kernel, dot_tiles, fits_dot, sides
from dlc.codegen.contract.generic import epilogue_kernel, generic_kernel, sum_kernel
from dlc.codegen.contract.macro import macro_kernel
from dlc.codegen.contract.pack import pack_kernel, packed_panels
from dlc.codegen.contract.pairs import paired, pairs_pay
from dlc.codegen.contract.split import split_depth
from dlc.codegen.copy import copy_kernel
from dlc.codegen.target import CpuTarget
from dlc.codegen.tiles.fixed_blocking import choose_fixed, choose_fixed_blocking
from dlc.codegen.tiles.fixed_macro import AmxFixedKernel
from dlc.codegen.tiles.fixed_panels import FIXED_DTYPES, fixed_sizes, fixed_weights_kernel
from dlc.codegen.tiles.fixed_row_tiles import ROW_BUFFERS, SplitRowsKernel
from dlc.codegen.tiles.pair_runs import pack_runs_kernel, runs_size
from dlc.codegen.tiles.pairs_blocking import amx_takes_pairs, choose_pairs_blocking
from dlc.codegen.tiles.pairs_macro import amx_pairs_kernel
from dlc.codegen.winograd.blocking import WinogradBlocking, choose_winograd
from dlc.codegen.winograd.fixed_macro import FixedWinogradKernel
from dlc.codegen.winograd.fixed_pack import split_weights_kernel, worst_columns_kernel
from dlc.codegen.winograd.macro import WinogradKernel
from dlc.codegen.winograd.pack import transform_weights_kernel
from dlc.codegen.winograd.problem import WinogradProblem, recognise
from dlc.codegen.winograd.taps_blocking import TapsBlocking, choose_taps
from dlc.codegen.winograd.taps_macro import TapsKernel
from dlc.codegen.winograd.taps_problem import TapsProblem, recognise_taps
from dlc.codegen.winograd.watch import limit_kernel
from dlc.ir.contraction import ContractSpec, group_shape
from dlc.ir.epilogue import Epilogue, no_epilogue
from dlc.ir.kernel import Kernel
from dlc.ir.lowering import KernelCall, Lowered, Operand, OperandKind
from dlc.ir.placement import Layout
from dlc.ir.types import DType, TensorType, bfloat16, float32, float64

FEW_VECTORS = 3
"""With at most so many vectors on one side, dot products read the other side once and need no packing."""
MOST_LOCAL_DEPTH = 4096
"""Panels deeper than this do not fit a task's scratch whole."""
OUTPUT = Operand(OperandKind.OUTPUT, 0)


@dataclass(frozen=True)
class Request:
    """A contraction with its epilogue, and for what it is lowered; ``label`` differs between different contractions.

    ``constants`` numbers the operands (0, 1) known to be the same in every run: packing them costs nothing.
    ``layout`` is that of the output if it is not contiguous.
    """

    spec: ContractSpec
    extents: Mapping[str, int]
    lhs: TensorType
    rhs: TensorType
    epilogue: Epilogue
    target: CpuTarget
    threads: int
    constants: frozenset[int]
    layout: Layout | None = None

    @cached_property
    def label(self) -> str:
        epilogue = self.epilogue
        parts = (str(self.spec), sorted(self.extents.items()), self.lhs, self.rhs, epilogue.body, epilogue.inputs)
        text = repr(parts if self.layout is None else (*parts, self.layout))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def analyzed(self) -> Problem | None:
        """Return the contraction over affine reads with its epilogue; None if the epilogue does not fit."""
        return analyze(self.spec, self.extents, self.lhs, self.rhs, self.epilogue, self.layout)

    def takes(self, layout: Layout) -> bool:
        """Tell whether the output may lie in ``layout``: its dimensions fit, and rows that run as one still do."""
        if output_steps(self.spec, self.extents, layout) is None:
            return False
        whole, placed = self.analyzed(), replace(self, layout=layout).analyzed()
        return whole is None or placed is None or _axes(whole) == _axes(placed)


def _axes(problem: Problem) -> list[int]:
    return [len(axes) for axes in (problem.batch, problem.rows, problem.columns)]


def lower_contraction(
    spec: ContractSpec,
    extents: Mapping[str, int],
    lhs: TensorType,
    rhs: TensorType,
    epilogue: Epilogue,
    target: CpuTarget,
    threads: int,
    constants: frozenset[int] = frozenset(),
    result: DType | None = None,
    layout: Layout | None = None,
) -> Lowered:
    """Return the kernel calls that compute ``epilogue(contract(lhs, rhs))``, products added in ``result``.

    Inputs of the result are lhs, rhs, then the epilogue's; its one output has the shape of the output side.
    ``constants`` numbers the operands (0, 1) known to be the same in every run: packing them costs nothing. The output
    is placed as ``layout`` says where that costs nothing.
    """
    known = {name: int(extent) for name, extent in extents.items()}
    request = Request(spec, known, lhs, rhs, epilogue, target, threads, constants)
    if layout is None or 0 in known.values() or not request.takes(layout):
        return _lowered(request, result or lhs.dtype)
    return replace(_lowered(replace(request, layout=layout), result or lhs.dtype), placed=(0,))


def _lowered(request: Request, result: DType) -> Lowered:
    if result is not request.lhs.dtype:
        return _of_halves(request, result)
    problem = None
    if result in (float32, float64) and 0 not in (request.extents[name] for name in request.spec.axes):
        problem = request.analyzed()
        if problem is None:
            return _two_steps(request, result)
        found = _by_structure(problem, request)
        if found is not None:
            return found
    kernel = generic_kernel(
        request.spec,
        request.extents,
        request.lhs,
        request.rhs,
        request.epilogue,
        request.target,
        f"contract_{request.label}",
        request.layout,
    )
    operands = (_input(0), _input(1), OUTPUT, *_epilogue_inputs(request))
    return Lowered((KernelCall(kernel, operands, problem.flops if problem else 0),))


def _by_structure(problem: Problem, request: Request) -> Lowered | None:
    """Choose among filtering, fixed point, panels and dot products; None for the generic loop nest."""
    target, threads, constants = request.target, request.threads, request.constants
    windows = None if _wants_dot(problem, constants) else recognise(problem)
    if windows is not None:
        blocking = choose_winograd(windows, target, threads, problem.panel_operand in constants)
        if blocking is not None:
            return _winograd(windows, blocking, request)
    positions = None if _wants_dot(problem, constants) else recognise_taps(problem)
    if positions is not None:
        cut = choose_taps(positions, target, threads, _panels_from(problem, constants))
        if cut is not None:
            return _winograd_taps(positions, cut, request)
    fixed = choose_fixed(problem, target, threads, constants)
    if fixed is not None:
        sums = _fixed(fixed, request)
        return sums if fixed is problem else _combined(sums, fixed, request)
    lower = _path(problem, constants)
    if lower is None:
        return None
    partial = split_depth(problem, _units(problem, request), threads)
    return lower(problem, request) if partial is None else _combined(lower(partial, request), partial, request)


def _input(number: int) -> Operand:
    return Operand(OperandKind.INPUT, number)


def _epilogue_inputs(request: Request) -> tuple[Operand, ...]:
    return tuple(_input(2 + number) for number in range(len(request.epilogue.inputs)))


def _reads(problem: Problem) -> tuple[Operand, ...]:
    """The operands of the epilogue that the contraction's kernel reads."""
    return tuple(_input(2 + read.input) for read in problem.reads)


def _path(problem: Problem, constants: frozenset[int]) -> Callable[[Problem, Request], Lowered] | None:
    """Return the function that lowers the problem, None for the generic loop nest."""
    if _wants_dot(problem, constants):
        return _dots
    return _panels if problem.columns and problem.columns[-1].strides[OUT] == 1 else None


def _units(problem: Problem, request: Request) -> int:
    """Return how many register tiles or groups of dot products the threads can share."""
    if _wants_dot(problem, request.constants):
        return dot_tiles(problem)
    panels_from = _panels_from(problem, request.constants)
    blocking = choose_blocking(problem, request.target, request.threads, panels_from)
    return problem.batch_count * extent_of(problem.columns[:-1]) * blocking.tile_count * blocking.panels


def _combined(sums: Lowered, partial: Problem, request: Request) -> Lowered:
    """The partial sums into a temporary, then their sums with the epilogue."""
    parts, label = partial.batch[0].extent, f"sum_{request.label}"
    between = TensorType(partial.dtype, (partial.sizes[OUT],))
    spec, extents, epilogue = request.spec, request.extents, request.epilogue
    kernel = sum_kernel(spec, extents, between, parts, epilogue, request.target, label, request.layout)
    return _followed(sums, between, kernel, request)


def _panels(problem: Problem, request: Request) -> Lowered:
    """Outer products over packed or directly read panels."""
    target, label = request.target, request.label
    panels_from = _panels_from(problem, request.constants)
    if amx_takes_pairs(problem, target, panels_from):
        return _pair_tiles(problem, panels_from, request)
    blocking = choose_blocking(problem, target, request.threads, panels_from)
    row, panel = _input(problem.row_operand), _input(problem.panel_operand)
    calls: list[KernelCall] = []
    temporaries: tuple[TensorType, ...] = ()
    size = problem.sizes[problem.panel_operand]
    if panels_from == PACKED:
        panels = packed_panels(problem, blocking.tile.width, blocking.tile.lanes)
        size = panels.size
        temporaries = (TensorType(problem.packed_dtype, (size,)),)
        source, panel = panel, Operand(OperandKind.TEMPORARY, 0)
        calls.append(KernelCall(pack_kernel(panels, f"pack_{label}"), (source, panel)))
    kernel = macro_kernel(problem, blocking, f"contract_{label}", size)
    calls.append(KernelCall(kernel, (row, panel, OUTPUT, *_reads(problem)), problem.flops))
    in_place = tuple((0, 2 + problem.reads[number].input) for number in sorted(blocking.overwritten))
    return Lowered(tuple(calls), temporaries, in_place)


def _pair_tiles(problem: Problem, panels_from: str, request: Request) -> Lowered:
    """Products of pairs on AMX, over panels in which every run of the depth is whole tiles."""
    found, label = choose_pairs_blocking(problem, request.target, request.threads, panels_from), request.label
    row, panel = _input(problem.row_operand), _input(problem.panel_operand)
    reads = _reads(problem)
    if panels_from != PACKED:
        kernel = amx_pairs_kernel(problem, found, f"contract_{label}", problem.sizes[problem.panel_operand])
        return Lowered((KernelCall(kernel, (row, panel, OUTPUT, *reads), problem.flops),))
    size = runs_size(problem, found.runs, found.width)
    place = Operand(OperandKind.TEMPORARY, 0)
    pack = pack_runs_kernel(problem, found.runs, found.width, f"pack_{label}")
    kernel = amx_pairs_kernel(problem, found, f"contract_{label}", size)
    calls = (KernelCall(pack, (panel, place)), KernelCall(kernel, (row, place, OUTPUT, *reads), problem.flops))
    return Lowered(calls, (TensorType(problem.packed_dtype, (size,)),))


def _fixed(problem: Problem, request: Request) -> Lowered:
    """Products of bytes on AMX; the weights themselves are for operands that fixed point does not hold."""
    target, label = request.target, request.label
    found = choose_fixed_blocking(problem, target, request.threads)
    row, weights = _input(problem.row_operand), _input(problem.panel_operand)
    types = [TensorType(t, (n,)) for t, n in zip(FIXED_DTYPES, fixed_sizes(problem, found), strict=True)]
    split = [Operand(OperandKind.TEMPORARY, number) for number in range(len(types))]
    calls = [KernelCall(fixed_weights_kernel(problem, found, target, f"split_{label}"), (weights, *split))]
    if found.ahead:
        rows = SplitRowsKernel(problem, found)
        sizes = rows.row_sizes(rows.chunks * rows.chunk_tiles)
        types += [TensorType(t, (n,)) for t, n in zip(ROW_BUFFERS.values(), sizes, strict=True)]
        ahead = [Operand(OperandKind.TEMPORARY, number) for number in range(len(split), len(types))]
        calls.append(KernelCall(rows.build_split(f"rows_{label}"), (row, *ahead)))
        split = [*ahead, *split]
    kernel = AmxFixedKernel(problem, found).build(f"contract_{label}", problem.sizes[problem.panel_operand])
    calls.append(KernelCall(kernel, (row, *split, weights, OUTPUT, *_reads(problem)), problem.flops))
    return Lowered(tuple(calls), tuple(types))


def _winograd(found: WinogradProblem, blocking: WinogradBlocking, request: Request) -> Lowered:
    """Winograd's filtering; for blocks that go the direct way constant weights are packed ahead."""
    problem, tile, label = found.problem, blocking.tile, request.label
    constant = problem.panel_operand in request.constants
    weights = _input(problem.panel_operand)
    types: list[TensorType] = []
    calls: list[KernelCall] = []

    def made(kernel: Kernel, *sources: Operand) -> list[Operand]:
        """Call a kernel on ``sources``; return the temporaries that it writes."""
        written = [buffer for buffer in kernel.buffers if buffer.writable]
        places = [Operand(OperandKind.TEMPORARY, len(types) + number) for number in range(len(written))]
        types.extend(TensorType(buffer.dtype, (buffer.size or 0,)) for buffer in written)
        calls.append(KernelCall(kernel, (*sources, *places)))
        return places

    transformed = made(transform_weights_kernel(found, tile, f"transform_{label}"), weights)
    if blocking.fixed:
        split = made(split_weights_kernel(found, blocking, f"split_{label}"), *transformed)
        transformed = [*split, *made(worst_columns_kernel(blocking, f"worst_{label}"), split[-1])]
    limits = made(limit_kernel(found, tile.lanes, f"limit_{label}"), weights)
    panel, panel_size = weights, problem.sizes[problem.panel_operand]
    if constant:
        panels = packed_panels(problem, tile.width, tile.lanes)
        panel_size = panels.size
        [panel] = made(pack_kernel(panels, f"pack_{label}"), weights)
    build = FixedWinogradKernel if blocking.fixed else WinogradKernel
    loops = build(found, blocking, request.target, PACKED if constant else LOCAL)
    kernel = loops.build(f"contract_{label}", panel_size)
    operands = (_input(problem.row_operand), *transformed, *limits, panel, OUTPUT, *_reads(problem))
    calls.append(KernelCall(kernel, operands, problem.flops))
    in_place = tuple((0, 2 + problem.reads[number].input) for number in sorted(loops.overwritten))
    return Lowered(tuple(calls), tuple(types), in_place)


def _winograd_taps(found: TapsProblem, blocking: TapsBlocking, request: Request) -> Lowered:
    """Winograd's filtering of a weight gradient: one kernel for both operands as they are."""
    problem = found.problem
    loops = TapsKernel(found, blocking, request.target, _panels_from(problem, request.constants))
    operands = (_input(problem.row_operand), _input(problem.panel_operand), OUTPUT)
    return Lowered((KernelCall(loops.build(f"contract_{request.label}"), operands, problem.flops),))


def _of_halves(request: Request, result: DType) -> Lowered:
    """Operands narrower than the sums: bfloat16 by pairs where the target multiplies them, else widened first."""
    types, target = (request.lhs, request.rhs), request.target
    if request.lhs.dtype is bfloat16 and result is float32 and 0 not in request.extents.values():
        problem = request.analyzed()
        if problem is None:
            return _two_steps(request, result)
        pairs = paired(problem)
        if pairs is not None and pairs_pay(pairs, target, request.constants):
            return _panels(pairs, request)
    wide = TensorType(result, types[0].shape), TensorType(result, types[1].shape)
    lowered = _lowered(replace(request, lhs=wide[0], rhs=wide[1]), result)
    places = [Operand(OperandKind.TEMPORARY, len(lowered.temporaries) + k) for k in range(2)]
    sizes = [prod(int(d) for d in t.shape) for t in wide]  # type: ignore[call-overload]
    copies = [copy_kernel(narrow.dtype, size, target, result) for narrow, size in zip(types, sizes, strict=True)]
    calls = [KernelCall(kernel, (_input(k), places[k])) for k, kernel in enumerate(copies)]
    moves = {_input(k): place for k, place in enumerate(places)}
    calls += [replace(c, operands=tuple(moves.get(o, o) for o in c.operands)) for c in lowered.calls]
    return Lowered(tuple(calls), (*lowered.temporaries, *wide), lowered.in_place)


def _wants_dot(problem: Problem, constants: frozenset[int]) -> bool:
    """Vectors along the depth pay where one side has few vectors and the other would have to be packed for them."""
    if not fits_dot(problem) or problem.spread:
        return False
    many, _, _, _ = sides(problem)
    few = min(problem.row_count, problem.column_count)
    if problem.depth[-1].extent < 8:
        return False
    if many == problem.panel_operand and many in constants and problem.columns:
        return False
    return few <= FEW_VECTORS


def _dots(problem: Problem, request: Request) -> Lowered:
    many, few, _, _ = sides(problem)
    kernel = dot_kernel(problem, request.target, request.threads, f"contract_{request.label}")
    return Lowered((KernelCall(kernel, (_input(many), _input(few), OUTPUT, *_reads(problem)), problem.flops),))


def _panels_from(problem: Problem, constants: frozenset[int]) -> str:
    """Pack constants ahead, and others where that is needed for vectors or enough rows use each panel."""
    if problem.spread:
        return DIRECT
    if problem.panel_operand in constants:
        return PACKED
    if not problem.pairs and problem.columns[-1].strides[problem.panel_operand] == 1 and _reads_in_place(problem):
        return DIRECT
    return LOCAL if can_block(problem) or problem.depth_count <= MOST_LOCAL_DEPTH else PACKED


def _reads_in_place(problem: Problem) -> bool:
    """Whether too few rows use each panel to repay packing it; the wider the operand's rows, the slower in place."""
    apart = problem.depth[-1].strides[problem.panel_operand] * problem.dtype.itemsize if problem.depth else 0
    if problem.row_count < 96:
        return apart % 4096 != 0 or problem.row_count < 40
    return problem.row_count < 192 and apart <= 2048


def _two_steps(request: Request, result: DType) -> Lowered:
    """The contraction into a temporary, then the epilogue in a kernel of its own."""
    spec, extents, label = request.spec, request.extents, f"epilogue_{request.label}"
    first = _lowered(replace(request, epilogue=no_epilogue(result), layout=None), result)
    between = TensorType(result, group_shape(spec.output, extents))
    kernel = epilogue_kernel(spec, extents, between, request.epilogue, request.target, label, request.layout)
    return _followed(first, between, kernel, request)


def _followed(first: Lowered, between: TensorType, kernel: Kernel, request: Request) -> Lowered:
    """``first`` into a temporary of type ``between``, then the ``kernel`` that reads it and the epilogue's inputs."""
    place = Operand(OperandKind.TEMPORARY, len(first.temporaries))
    calls = [replace(call, operands=tuple(place if o == OUTPUT else o for o in call.operands)) for call in first.calls]
    calls.append(KernelCall(kernel, (place, OUTPUT, *_epilogue_inputs(request))))
    return Lowered(tuple(calls), (*first.temporaries, between))
