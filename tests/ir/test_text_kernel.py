"""Kernels as text and as digests: readable, complete, deterministic, linear in shared expressions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlc.ir.expr import Horizontal, Load, Var, apply, cast, const, select
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
    Store,
    Window,
)
from dlc.ir.kernel_digest import fingerprint, renamed
from dlc.ir.text_kernel import print_kernel
from dlc.ir.types import float16, float32, int32

I, L, N = Var("i"), Var("l"), Var("n")
AT = apply("add", apply("mul", I, const(8)), L)


def scaled(**changes: object) -> Kernel:
    parts = {"dtype": float32, "size": 30, "kind": LoopKind.VECTOR, "writable": True, "factor": 2.0, "aliases": None}
    parts |= changes
    dtype = parts["dtype"]
    value = apply("mul", Load("x", AT, dtype), const(parts["factor"], dtype))
    lanes = For(L, const(8), parts["kind"], (Store("o", AT, value),), parts.get("active"))
    buffers = (
        Buffer("x", dtype, parts["size"]),
        Buffer("o", dtype, 30, writable=parts["writable"], aliases=parts["aliases"]),
    )
    return Kernel("scaled", buffers, (), (For(I, const(4), LoopKind.PARALLEL, (lanes,)),))


def test_reads_like_python() -> None:
    assert print_kernel(scaled(active=apply("less", AT, const(30)))) == (
        'def scaled(x: "float32[30]", o: "float32[30] writable"):\n'
        "    for i in parallel(4):\n"
        "        for l in vector(8, lambda l: (((i * 8) + l) < 30)):\n"
        "            o[((i * 8) + l)] = (x[(i * 8) + l] * float32(2.0))\n"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": float16},
        {"size": 31},
        {"kind": LoopKind.UNROLL},
        {"writable": False},
        {"factor": 3.0},
        {"factor": -0.0},
        {"aliases": "x"},
        {"active": apply("less", AT, const(30))},
        {"active": apply("less", AT, const(29))},
    ],
    ids=str,
)
def test_everything_that_matters_shows(changes: dict) -> None:
    assert print_kernel(scaled(**changes)) != print_kernel(scaled())
    assert fingerprint(scaled(**changes)) != fingerprint(scaled())


def test_names_and_notes_do_not_change_the_fingerprint() -> None:
    kernel = scaled()
    assert fingerprint(replace(kernel, name="other", note="from relu_7")) == fingerprint(kernel)
    other = renamed(kernel, "third")
    assert other.name == "third" and fingerprint(other) == fingerprint(replace(other)) == fingerprint(kernel)
    assert print_kernel(replace(kernel, note="from relu_7")) == print_kernel(kernel)
    assert print_kernel(scaled()) == print_kernel(scaled())


def test_every_statement_prints() -> None:
    micro = Kernel(
        "micro",
        (Buffer("a", float32, None), Buffer("o", float32, None, writable=True)),
        (N,),
        (
            For(
                I,
                N,
                LoopKind.SERIAL,
                (Accumulate("o", I, "fma", apply("mul", Load("a", I, float32), Load("a", I, float32))),),
            ),
        ),
    )
    body = (
        Alloc(Buffer("acc", float32, 8, Space.LOCAL, True)),
        For(L, const(8), LoopKind.UNROLL, (Store("acc", L, const(float("inf"), float32)),)),
        Let(Var("v", float32), Horizontal("add", "acc", const(0), 8, float32)),
        Prefetch("a", const(3)),
        If(
            apply("greater", Var("v", float32), const(0.0, float32)),
            (Accumulate("o", const(0), "maximum", Var("v", float32)),),
            (Accumulate("o", const(1), "add", cast(const(7, int32), float32)),),
        ),
        Call(micro, (Window("a", const(4)), Window("o", const(0))), (const(5),)),
    )
    kernel = Kernel("all", (Buffer("a", float32, 16), Buffer("o", float32, 9, writable=True)), (), body)
    assert print_kernel(kernel) == (
        'def micro(a: "float32[]", o: "float32[] writable", n: "int64"):\n'
        "    for i in range(n):\n"
        "        o[i] = fma(a[i], a[i], o[i])\n"
        "\n"
        'def all(a: "float32[16]", o: "float32[9] writable"):\n'
        "    acc = local(float32, 8)\n"
        "    for l in unroll(8):\n"
        "        acc[l] = float32(inf)\n"
        "    v = horizontal(add, acc, 0, 8)\n"
        "    prefetch(a, 3)\n"
        "    if (v > float32(0.0)):\n"
        "        o[0] = maximum(o[0], v)\n"
        "    else:\n"
        "        o[1] += cast(int32(7), float32)\n"
        "    micro(window(a, 4), window(o, 0), 5)\n"
    )


def test_shared_expressions_print_once() -> None:
    value = Load("x", const(0), float32)
    for _ in range(60):
        value = apply("add", value, value)
    guarded = Load("x", const(5), float32)
    for _ in range(60):
        guarded = apply("mul", guarded, guarded)
    chosen = select(apply("less", value, const(0.0, float32)), guarded, value)
    kernel = Kernel(
        "shared", (Buffer("x", float32, 1), Buffer("o", float32, 1, writable=True)), (), (Store("o", const(0), chosen),)
    )
    text = print_kernel(kernel)
    assert len(text) < 10_000
    assert "lambda: x[5]" in text, "reads behind a select stay lazy"


def test_names_that_python_takes_are_respelt() -> None:
    names = ["exp", "for", "float32", "x y", "t0", "vector"]
    buffers = tuple(Buffer(n, float32, 1, writable=True) for n in names)
    body = tuple(Store(n, const(0), const(float(k), float32)) for k, n in enumerate(names))
    text = print_kernel(Kernel("odd", buffers, (), body))
    compile(text, "kernel", "exec")
    assert text.count("exp_[0]") == 1


def test_called_kernels_with_one_name_are_told_apart() -> None:
    def make(value: float) -> Kernel:
        return Kernel(
            "k", (Buffer("o", float32, None, writable=True),), (), (Store("o", const(0), const(value, float32)),)
        )

    calls = tuple(Call(make(value), (Window("o", const(0)),), ()) for value in (1.0, 2.0, 1.0))
    text = print_kernel(Kernel("k", (Buffer("o", float32, 1, writable=True),), (), calls))
    assert text.count("def ") == 3
    assert [line.split("(")[0] for line in text.splitlines() if line.startswith("def ")] == [
        "def k_2",
        "def k_3",
        "def k",
    ]
