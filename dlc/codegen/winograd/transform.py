"""The kernels around Winograd's products: transforms of input tiles and of results, F(2x2, 3x3).

With d the 4 x 4 inputs of a tile and g the 3 x 3 weights of a pair of channels, its 2 x 2 outputs are
A' [(G g G') * (B' d B)] A (Lavin and Gray 2016), products summed over channels. It must not know how tiles
are scheduled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dlc.codegen.contract.index import ZERO, scaled, total
from dlc.codegen.contract.microkernel import LANES_UNIT
from dlc.codegen.winograd.problem import REACH, STEP
from dlc.codegen.winograd.vectors import LANE, Names, add, sub, vector_loop
from dlc.ir.epilogue import ACCUMULATOR
from dlc.ir.expr import Expr, Load, Var, apply, cast, const, substitute
from dlc.ir.kernel import Buffer, For, Kernel, Let, LoopKind, Stmt, Store
from dlc.ir.types import DType, float32


def _input_points(d: Sequence[Expr], name: Names) -> list[Expr]:
    """Return B' d: four inputs along an axis at the points 0, 1, -1 and infinity."""
    return [name(e) for e in (sub(d[0], d[2]), add(d[1], d[2]), sub(d[2], d[1]), sub(d[1], d[3]))]


def _results(m: Sequence[Expr], outputs: int, name: Names) -> list[Expr]:
    """Return A' m: the first ``outputs`` of two outputs along an axis from the products at four points."""
    pair = [name(add(m[0], add(m[1], m[2])))]
    if outputs > 1:
        pair.append(name(sub(sub(m[1], m[2]), m[3])))
    return pair


@lru_cache(maxsize=16)
def input_kernel(lanes: int, ragged: bool) -> Kernel:
    """Return the kernel (source, target) that transforms a line of tiles, channels side by side.

    Scalars: ``row1`` .. ``row3``, where the lines below the tiles' first begin; ``step`` between pixels of a line;
    ``last``, the last pixel that exists, which stands for those after it; ``tiles``; ``vectors`` of channels, after
    which come ``active`` more channels if ragged; ``pitch`` between tiles and ``plane`` between points.
    """
    rows: list[Expr] = [ZERO, *(Var(f"row{k}") for k in range(1, REACH))]
    column = [
        apply("mul", apply("minimum", total(scaled(Var("t"), STEP), const(k)), Var("last")), Var("step"))
        for k in range(REACH)
    ]
    lets: list[Stmt] = [Let(Var(f"column{k}"), value) for k, value in enumerate(column)]
    lets.append(Let(Var("place"), apply("mul", Var("t"), Var("pitch"))))

    def transformed(channel: Expr, active: Expr | None) -> Stmt:
        name = Names()
        pixels = [
            [name(Load("source", total(row, Var(f"column{k}"), channel, LANE), float32)) for k in range(REACH)]
            for row in rows
        ]
        along = [_input_points(line, name) for line in pixels]
        stores: list[Stmt] = []
        for j in range(REACH):
            for i, value in enumerate(_input_points([line[j] for line in along], name)):
                place = total(scaled(Var("plane"), i * REACH + j), Var("place"), channel, LANE)
                stores.append(Store("target", place, value))
        return vector_loop(lanes, *name.lets, *stores, active=active)

    loop = For(Var("c"), Var("vectors"), LoopKind.SERIAL, (transformed(scaled(Var("c"), lanes), None),))
    body: list[Stmt] = [*lets, loop]
    if ragged:
        body.append(transformed(scaled(Var("vectors"), lanes), apply("less", LANE, Var("active"))))
    names = ["row1", "row2", "row3", "step", "last", "tiles", "vectors", *(["active"] if ragged else [])]
    names += ["pitch", "plane"]
    buffers = (Buffer("source", float32, None), Buffer("target", float32, None, writable=True))
    tiles = For(Var("t"), Var("tiles"), LoopKind.SERIAL, tuple(body))
    text = f"winograd_input_{lanes}" + ("_ragged" if ragged else "")
    return Kernel(text, buffers, tuple(Var(n) for n in names), (tiles,))


@dataclass(frozen=True)
class OutputSpec:
    """The structure of an output transform.

    ``outputs`` lines of a line of tiles are stored; with ``half`` one more tile follows of which the first column
    alone exists. ``vectors`` of columns, the last one limited to ``active`` if ``masked``, lie in products
    ``width`` apart. ``reads`` gives dtype, lanes and whether it may be the output's own memory of each tensor
    that the epilogue ``body`` reads.
    """

    lanes: int
    width: int
    vectors: int
    masked: bool
    outputs: int
    half: bool
    body: Expr
    out_dtype: DType
    reads: tuple[tuple[DType, str, bool], ...]


@lru_cache(maxsize=256)
def output_kernel(spec: OutputSpec) -> Kernel:
    """Return the kernel (products, out, the epilogue's inputs) that stores a line of tiles.

    Scalars: ``tiles``, ``plane`` between points; for the output and every input of the epilogue the elements from
    line to line and from pixel to pixel; ``active`` if masked.
    """
    tensors = ["out", *(f"e{number}" for number in range(len(spec.reads)))]
    body: list[Stmt] = [For(Var("t"), Var("tiles"), LoopKind.SERIAL, tuple(_tile(spec, tensors, STEP)))]
    if spec.half:
        body += [Let(Var("t"), Var("tiles")), *_tile(spec, tensors, 1)]
    buffers = [Buffer("products", float32, None), Buffer("out", spec.out_dtype, None, writable=True)]
    for number, (dtype, _, overwritten) in enumerate(spec.reads):
        buffers.append(Buffer(f"e{number}", dtype, None, aliases="out" if overwritten else None))
    names = ["tiles", "plane"]
    names += [f"{tensor}_{move}" for tensor in tensors for move in ("line", "pixel")]
    names += ["active"] if spec.masked else []
    words = ["winograd_output", f"{spec.vectors}x{spec.lanes}", f"{spec.outputs}"]
    words += [word for word in ("half", "masked") if getattr(spec, word)]
    return Kernel("_".join(words), tuple(buffers), tuple(Var(n) for n in names), tuple(body))


def _tile(spec: OutputSpec, tensors: Sequence[str], columns: int) -> list[Stmt]:
    """Return the statements that store one tile, the first ``columns`` of it."""
    statements: list[Stmt] = []
    for tensor in tensors:
        start = apply("mul", Var("t"), scaled(Var(f"{tensor}_pixel"), STEP))
        statements.append(Let(Var(f"{tensor}_tile"), start))
    statements.append(Let(Var("place"), scaled(Var("t"), spec.width)))
    for vector in range(spec.vectors):
        lane = total(LANE, const(vector * spec.lanes))
        name = Names()
        products = [
            [
                name(Load("products", total(scaled(Var("plane"), i * REACH + j), Var("place"), lane), float32))
                for i in range(REACH)
            ]
            for j in range(REACH)
        ]
        along = [_results(line, spec.outputs, name) for line in products]
        stores: list[Stmt] = []
        for a in range(spec.outputs):
            for b, value in enumerate(_results([line[a] for line in along], columns, name)):
                stores.append(Store("out", total(_place("out", a, b), lane), _epilogue(spec, value, a, b, lane)))
        masked = spec.masked and vector == spec.vectors - 1
        active = apply("less", LANE, Var("active")) if masked else None
        statements.append(vector_loop(spec.lanes, *name.lets, *stores, active=active))
    return statements


def _place(tensor: str, line: int, pixel: int) -> Expr:
    """Return where an output of the tile lies in ``tensor``."""
    moves = scaled(Var(f"{tensor}_line"), line), scaled(Var(f"{tensor}_pixel"), pixel)
    return total(Var(f"{tensor}_tile"), *moves)


def _epilogue(spec: OutputSpec, value: Expr, line: int, pixel: int, lane: Expr) -> Expr:
    mapping: dict[Expr, Expr] = {Var(ACCUMULATOR, float32): value}
    for number, (dtype, lanes, _) in enumerate(spec.reads):
        place: Expr = _place(f"e{number}", line, pixel)
        if lanes == LANES_UNIT:
            place = total(place, lane)
        mapping[Var(f"read{number}", dtype)] = Load(f"e{number}", place, dtype)
    return cast(substitute(spec.body, mapping), spec.out_dtype)
