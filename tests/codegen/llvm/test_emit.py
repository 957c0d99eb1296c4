"""What the emitter promises beyond values: register promotion, masks, guards, calls, scratch, aliasing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dlc.codegen.emulate import emulate, nearest
from dlc.codegen.llvm.emit import emit_module, symbol_of
from dlc.codegen.llvm.jit import assembly, compile_module, load_objects
from dlc.codegen.target import CpuTarget
from dlc.errors import CompileError
from dlc.ir.expr import Expr, Horizontal, Load, Var, apply, cast, const, select
from dlc.ir.kernel import (
    Accumulate,
    Alloc,
    Buffer,
    Call,
    For,
    If,
    Kernel,
    Let,
    LoopKind,
    Prefetch,
    Space,
    Stmt,
    Store,
    Window,
)
from dlc.ir.types import bool_, float32, float64, int32, int64
from dlc.ir.verify_kernel import verify
from tests.codegen.kernel_native import Function, index, same, targets, variables

SERIAL, UNROLL, VECTOR, PARALLEL = LoopKind.SERIAL, LoopKind.UNROLL, LoopKind.VECTOR, LoopKind.PARALLEL
EACH_TARGET = pytest.mark.parametrize("target", targets(), ids=lambda t: t.name.split()[-1])


def microkernel(rows: int, columns: int, lanes: int) -> Kernel:
    """c[rows, columns*lanes] += a[depth, rows]^T b[depth, columns*lanes], accumulators in a local array."""
    k, r, c, l, depth = variables("k r c l depth")

    def block(make) -> Stmt:
        inner = For(l, const(lanes), VECTOR, (make(),))
        return For(r, const(rows), UNROLL, (For(c, const(columns), UNROLL, (inner,)),))

    slot = index((r, columns * lanes), (c, lanes), l)
    product = apply(
        "mul",
        Load("a", index((k, rows), r), float32),
        Load("b", index((k, columns * lanes), (c, lanes), l), float32),
    )
    return Kernel(
        "micro",
        (Buffer("a", float32, None), Buffer("b", float32, None), Buffer("c", float32, None, writable=True)),
        (depth,),
        (
            Alloc(Buffer("acc", float32, rows * columns * lanes, Space.LOCAL, True)),
            block(lambda: Store("acc", slot, const(0.0, float32))),
            For(k, depth, SERIAL, (block(lambda: Accumulate("acc", slot, "fma", product)),)),
            block(lambda: Accumulate("c", slot, "add", Load("acc", slot, float32))),
        ),
    )


def caller(micro: Kernel, sizes: tuple[int, int, int], depth: int) -> Kernel:
    names = ("a", "b", "c")
    buffers = tuple(Buffer(n, float32, s, writable=n == "c") for n, s in zip(names, sizes, strict=True))
    return Kernel("gemm", buffers, (), (Call(micro, tuple(Window(n, const(0)) for n in names), (const(depth),)),))


@EACH_TARGET
def test_accumulators_stay_in_registers(target: CpuTarget) -> None:
    rows, columns = (12, 2) if target.vector_bytes == 64 else (4, 2)
    lanes = target.lanes(4)
    micro = microkernel(rows, columns, lanes)
    entry = caller(micro, (rows * 40, columns * lanes * 40, rows * columns * lanes), 40)
    verify(entry)
    text = assembly(emit_module([entry], target).text, target)
    symbol = symbol_of(micro)
    body = text[text.index(f"\n{symbol}:") : text.index(f".size\t{symbol}")]
    assert not re.search(r"\((%rsp|%rbp)", body), "accumulators are spilled to the stack"
    if target.has_fma:
        assert body.count("vfmadd") == rows * columns
    assert ("%zmm" in body) == (target.vector_bytes == 64)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, rows), np.float32), rng.standard_normal((40, columns * lanes), np.float32)
    c = rng.standard_normal((rows, columns * lanes), np.float32)
    expected = c + a.T.astype(np.float64) @ b.astype(np.float64)
    Function(entry, target)(a, b, c)
    np.testing.assert_allclose(c, expected, rtol=0, atol=2e-5)


@EACH_TARGET
def test_called_kernels_are_shared_and_take_windows(target: CpuTarget) -> None:
    x, n, i = variables("x n i")
    fill = Kernel(
        "fill",
        (Buffer("o", float32, None, writable=True),),
        (x, n),
        (For(i, n, SERIAL, (Store("o", i, cast(apply("add", x, i), float32)),)),),
    )
    entry = Kernel(
        "twice",
        (Buffer("o", float32, 8, writable=True),),
        (),
        (
            Call(fill, (Window("o", const(1)),), (const(10), const(3))),
            Call(fill, (Window("o", const(5)),), (const(20), const(0))),
            Call(fill, (Window("o", const(5)),), (const(-7), const(2))),
        ),
    )
    verify(entry)
    o = np.zeros(8, np.float32)
    function = Function(entry, target)
    function(o)
    assert o.tolist() == [0, 10, 11, 12, 0, -7, -6, 0]
    assert function.text.count(f"define internal void @{symbol_of(fill)}(") == 1


@EACH_TARGET
def test_masks_and_guards_never_touch_what_is_outside(target: CpuTarget) -> None:
    """Arrays end at an unmapped page: a stray read or write would kill the process."""
    import mmap

    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 3 * page)
    import ctypes

    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(base), page, 0) == 0
    assert libc.mprotect(ctypes.c_void_p(base + 2 * page), page, 0) == 0
    middle = np.ctypeslib.as_array((ctypes.c_float * (page // 4)).from_address(base + page))
    i, l = variables("i l")
    lanes, size = 16, page // 4 - 3
    at = index((i, lanes), l)
    start, end = page // 4 - size, page // 4
    shifted = index(at, -5)
    inside = apply("bit_and", apply("less_equal", const(0), shifted), apply("less", shifted, const(size)))
    padded = select(inside, Load("x", shifted, float32), const(-1.0, float32))
    loop = For(l, const(lanes), VECTOR, (Store("o", at, padded),), apply("less", at, const(size + 10)))
    buffers = (Buffer("x", float32, size), Buffer("o", float32, size + 10, writable=True))
    kernel = Kernel("pad", buffers, (), (For(i, const(-(-(size + 10) // lanes)), SERIAL, (loop,)),))
    values = np.arange(size, dtype=np.float32)
    expected = np.concatenate([np.full(5, -1.0), values, np.full(5, -1.0)]).astype(np.float32)
    function = Function(kernel, target)
    for where in (slice(start, end), slice(0, size)):  # against the page after, against the page before
        x = middle[where]
        x[:] = values
        out = np.zeros(size + 10, np.float32)
        function(x, out)
        assert np.array_equal(out, expected)
    scalar = Kernel("pad1", buffers, (), (For(i, const(size + 10), SERIAL, (_scalar_pad(i, size),)),))
    x = middle[start:end]
    x[:] = values
    out = np.zeros(size + 10, np.float32)
    Function(scalar, target)(x, out)
    assert np.array_equal(out, expected)


def _scalar_pad(i: Var, size: int) -> Stmt:
    shifted = index(i, -5)
    inside = apply("bit_and", apply("less_equal", const(0), shifted), apply("less", shifted, const(size)))
    return Store("o", i, select(inside, Load("x", shifted, float32), const(-1.0, float32)))


@EACH_TARGET
def test_horizontal_sums_by_halves(target: CpuTarget) -> None:
    l = Var("l")
    for width in (1, 2, 8, 16, 32):
        kernel = Kernel(
            "total",
            (Buffer("x", float32, width), Buffer("o", float32, 2, writable=True)),
            (),
            (
                Alloc(Buffer("acc", float32, width, Space.LOCAL, True)),
                For(l, const(width), VECTOR, (Store("acc", l, Load("x", l, float32)),)),
                Store("o", const(0), Horizontal("add", "acc", const(0), width, float32)),
                Store("o", const(1), Horizontal("maximum", "acc", const(0), width, float32)),
            ),
        )
        verify(kernel)
        x = np.random.default_rng(width).standard_normal(width, np.float32) * np.float32(1e3)
        got, expected = np.zeros(2, np.float32), np.zeros(2, np.float32)
        Function(kernel, target)(x, got)
        emulate(kernel, [x, expected])
        assert np.array_equal(got, expected)


@EACH_TARGET
def test_lanes_that_meet_in_one_element_add_up(target: CpuTarget) -> None:
    l = Var("l")
    at = Load("k", l, int64)
    scatter = Accumulate("o", at, "add", Load("x", l, float32))
    kernel = Kernel(
        "scatter",
        (Buffer("x", float32, 16), Buffer("k", int64, 16), Buffer("o", float32, 4, writable=True)),
        (),
        (For(l, const(16), VECTOR, (scatter, Accumulate("o", const(3), "add", const(1.0, float32)))),),
    )
    x = np.arange(16, dtype=np.float32)
    k = np.array([0, 1, 2, 0] * 4)
    o = np.zeros(4, np.float32)
    Function(kernel, target)(x, k, o)
    assert o.tolist() == [x[k == 0].sum(), x[k == 1].sum(), x[k == 2].sum(), 16.0]


@EACH_TARGET
def test_in_place_outputs_read_before_they_write(target: CpuTarget) -> None:
    i, l = variables("i l")
    lanes = target.lanes(4)
    at = index((i, lanes), l)
    value = apply("sub", Load("x", at, float32), apply("mul", Load("g", at, float32), const(0.5, float32)))
    kernel = Kernel(
        "update",
        (
            Buffer("x", float32, 64),
            Buffer("g", float32, 64),
            Buffer("o", float32, 64, writable=True, aliases="x"),
        ),
        (),
        (For(i, const(64 // lanes), PARALLEL, (For(l, const(lanes), VECTOR, (Store("o", at, value),)),)),),
    )
    verify(kernel)
    x = np.arange(64, dtype=np.float32)
    g = np.ones(64, np.float32)
    function = Function(kernel, target)
    function(x, g, x)
    assert np.array_equal(x, np.arange(64) - 0.5)
    assert "ptr noalias readonly %b1" in function.text
    assert "ptr %b0" in function.text


@EACH_TARGET
def test_large_arrays_live_in_scratch(target: CpuTarget) -> None:
    i, j = variables("i j")
    kernel = Kernel(
        "transpose",
        (Buffer("x", float64, 64 * 64), Buffer("o", float64, 64 * 64, writable=True)),
        (),
        (
            Alloc(Buffer("big", float64, 64 * 64, Space.LOCAL, True)),
            Alloc(Buffer("more", float64, 600, Space.LOCAL, True)),
            For(i, const(64), SERIAL, (For(j, const(64), SERIAL, (_copy("big", "x", (i, 64), j),)),)),
            For(i, const(600), SERIAL, (Store("more", i, const(2.0, float64)),)),
            For(i, const(64), SERIAL, (For(j, const(64), SERIAL, (_copy("o", "big", (j, 64), i, (i, 64), j),)),)),
        ),
    )
    x = np.random.default_rng(0).standard_normal((64, 64))
    o = np.zeros((64, 64))
    function = Function(kernel, target)
    assert function.scratch.size >= 64 * 64 * 8 + 4800
    function(x, o)
    assert np.array_equal(o, x.T)


def _copy(to: str, source: str, *where: Expr | tuple[Expr, int]) -> Stmt:
    read, write = where[:2], where[2:] or where[:2]
    return Store(to, index(*write), Load(source, index(*read), float64))


@EACH_TARGET
def test_tasks_run_in_any_order_and_part(target: CpuTarget) -> None:
    i, j, k = variables("i j k")
    at = index((i, 12), (j, 4), k)
    body = Store("o", at, cast(index((i, 100), (j, 10), k), int32))
    loops: Stmt = body
    for variable, extent in ((k, 4), (j, 3), (i, 5)):
        loops = For(variable, const(extent), PARALLEL, (loops,))
    kernel = Kernel("tasks", (Buffer("o", int32, 60, writable=True),), (), (loops,))
    expected, got = np.zeros(60, np.int32), np.zeros(60, np.int32)
    emulate(kernel, [expected])
    function = Function(kernel, target)
    for begin, end in ((37, 60), (0, 13), (13, 37), (20, 20)):
        function(got, begin=begin, end=end)
    assert np.array_equal(got, expected)


@EACH_TARGET
def test_shadowing_let_and_uniform_if(target: CpuTarget) -> None:
    i, v = Var("i"), Var("v", float32)
    x = Load("x", i, float32)
    kernel = Kernel(
        "branches",
        (Buffer("x", float32, 10), Buffer("o", float32, 10, writable=True)),
        (),
        (
            For(
                i,
                const(10),
                SERIAL,
                (
                    Let(v, x),
                    Prefetch("x", i),
                    If(apply("greater", v, const(0.0, float32)), (Let(v, apply("neg", v)), Store("o", i, v))),
                    If(apply("less_equal", v, const(0.0, float32)), (Store("o", i, apply("mul", v, v)),)),
                ),
            ),
        ),
    )
    verify(kernel)
    x = np.linspace(-2, 2, 10).astype(np.float32)
    got, expected = np.zeros(10, np.float32), np.zeros(10, np.float32)
    Function(kernel, target)(x, got)
    emulate(kernel, [x, expected])
    assert same(got, expected)
    assert np.array_equal(expected, np.where(x > 0, -x, x * x))


@EACH_TARGET
def test_deep_expressions_do_not_recurse(target: CpuTarget) -> None:
    value: Expr = Load("x", const(0), float32)
    for _ in range(5000):
        value = apply("add", value, const(1.0, float32))
    kernel = Kernel(
        "deep", (Buffer("x", float32, 1), Buffer("o", float32, 1, writable=True)), (), (Store("o", const(0), value),)
    )
    verify(kernel)
    x, o = np.zeros(1, np.float32), np.zeros(1, np.float32)
    Function(kernel, target)(x, o)
    assert o[0] == 5000.0
    emulate(kernel, [x, o])
    assert o[0] == 5000.0


def test_same_object_loads_twice_and_closes() -> None:
    target = targets()[-1]
    kernel = Kernel("one", (Buffer("o", float32, 1, writable=True),), (), (Store("o", const(0), const(1.0, float32)),))
    module = emit_module([kernel], target)
    image = compile_module(module.text, target)
    first, second = load_objects([image]), load_objects([image])
    symbol = module.symbols["one"]
    assert first.address(symbol) != second.address(symbol)
    first.close()
    with pytest.raises(CompileError, match="closed"):
        first.address(symbol)
    with pytest.raises(CompileError, match="does not resolve"):
        second.address("no_such_symbol")


def test_errors_name_the_kernel() -> None:
    target = targets()[0]
    l, r = variables("l r")
    nested = For(r, const(4), VECTOR, (Store("o", r, const(True, bool_)),))
    bad = Kernel("bad", (Buffer("o", bool_, 4, writable=True),), (), (For(l, const(4), VECTOR, (nested,)),))
    with pytest.raises(CompileError, match="kernel bad: vector loop r"):
        emit_module([bad], target)
    unknown = Kernel("lost", (), (), (Store("nowhere", const(0), const(1.0, float32)),))
    with pytest.raises(CompileError, match="kernel lost: buffer 'nowhere'"):
        emit_module([unknown], target)
    with pytest.raises(CompileError, match="two kernels"):
        emit_module([unknown_free(), unknown_free()], target)


def unknown_free() -> Kernel:
    return Kernel("same", (Buffer("o", float32, 1, writable=True),), (), ())


def test_rows_chosen_by_data_are_read_contiguously() -> None:
    """An embedding: the row number comes from memory, the columns are lanes."""
    target = targets()[-1]
    i, l = variables("i l")
    row = Load("k", i, int64)
    wrapped = select(apply("less", row, const(0)), apply("add", row, const(10)), row)
    read = Load("x", apply("add", apply("mul", wrapped, const(16)), l), float32)
    lanes = For(l, const(16), VECTOR, (Store("o", index((i, 16), l), read),))
    buffers = (Buffer("x", float32, 160), Buffer("k", int64, 5), Buffer("o", float32, 80, writable=True))
    kernel = Kernel("embed", buffers, (), (For(i, const(5), SERIAL, (lanes,)),))
    x, k, o = np.arange(160, dtype=np.float32), np.array([3, -1, 0, 9, -10]), np.zeros(80, np.float32)
    function = Function(kernel, target)
    function(x, k, o)
    assert np.array_equal(o.reshape(5, 16), x.reshape(10, 16)[k])
    assert "gather" not in function.text


@EACH_TARGET
@pytest.mark.parametrize("lanes", [1, 16])
def test_nearest_whole_numbers(target: CpuTarget, lanes: int) -> None:
    i = Var("i")
    body = Store("o", i, apply("nearest", Load("x", i, float32)))
    loop = For(i, const(16), VECTOR if lanes > 1 else SERIAL, (body,))
    buffers = (Buffer("x", float32, 16), Buffer("o", int32, 16, writable=True))
    kernel = Kernel("whole", buffers, (), (loop,))
    verify(kernel)
    near = [0.0, -0.0, 0.5, 1.5, -0.5, -2.5, 2.49, -7.51, 2.0**23 + 1, -(2.0**30), 2.0**31 - 128, -(2.0**31)]
    x = np.array([*near, 3, -3, 1e-40, 8388607.5], np.float32)
    native, emulated = np.zeros(16, np.int32), np.zeros(16, np.int32)
    Function(kernel, target)(x, native)
    emulate(kernel, [x, emulated])
    assert np.array_equal(native, np.rint(x.astype(np.float64)).astype(np.int32))
    assert np.array_equal(native, emulated)


def test_nearest_in_the_emulator_where_no_whole_number_is_near() -> None:
    for value in (np.inf, -np.inf, np.nan, 2.0**31, -3e38):
        assert nearest(np.float32(value)) == -(2**31)
