"""Targets: restrictions only ever take features away, and code keeps to what is left."""

from __future__ import annotations

import re

import pytest

from dlc.codegen.llvm.emit import emit_module
from dlc.codegen.llvm.jit import assembly
from dlc.codegen.llvm.target import host_target
from dlc.errors import ConfigError
from dlc.ir.expr import Load, apply, const
from dlc.ir.kernel import Buffer, For, Kernel, LoopKind, Store
from dlc.ir.types import float32
from tests.codegen.kernel_native import Function, targets, variables


def test_restrictions_only_remove() -> None:
    host = set(host_target().features)
    for restriction in ("generic", "avx2", "avx512", "native", "-avx512f", "-fma", "avx512,-avx2", "-avx"):
        if not host_target().triple.startswith("x86_64") and "avx" in restriction:
            continue
        target = host_target(restriction)
        assert set(target.features) <= host, restriction
        assert target.vector_bytes <= host_target().vector_bytes


@pytest.mark.skipif(not host_target().triple.startswith("x86_64"), reason="names features of x86-64")
def test_levels_of_x86() -> None:
    generic = host_target("generic")
    assert (generic.vector_bytes, generic.has_fma, generic.has_masks, generic.features) == (16, False, False, ())
    assert not any(f.startswith("avx512") for f in host_target("-avx512f").features)
    assert host_target("-fma").vector_bytes == 16, "without fma the AVX2 code paths make no sense"
    assert "avx" not in host_target("-avx").feature_string
    if "avx2" in host_target().features:
        middle = host_target("avx2")
        assert (middle.vector_bytes, middle.vector_registers, middle.has_masks) == (32, 16, False)


def test_tiles_are_emulated_on_request_only() -> None:
    host = host_target()
    assert host.emulated == ()
    if not host.has_masks:
        with pytest.raises(ConfigError, match="AVX-512, which is not there"):
            host_target("amx-emulated")
        return
    target = host_target("amx-emulated")
    assert all(target.has(feature) and f"+{feature}" not in target.feature_string for feature in target.emulated)
    assert "amx-int8" in target.emulated
    assert not host_target("avx512").has("amx-int8")
    assert host_target("amx-emulated,-amx-int8").emulated == ("amx-bf16", "amx-tile")
    with pytest.raises(ConfigError, match="'avx2,amx-emulated'"):
        host_target("avx2,amx-emulated")


def test_unknown_items_are_named() -> None:
    with pytest.raises(ConfigError, match="'fast' is not one of"):
        host_target("avx2,fast" if host_target().triple.startswith("x86_64") else "fast")


def test_cache_sizes_are_plausible() -> None:
    target = host_target()
    assert 8 << 10 <= target.l1_bytes <= 1 << 20
    assert target.l1_bytes < target.l2_bytes <= 64 << 20
    assert target.lanes(4) == target.vector_bytes // 4


@pytest.mark.skipif(not host_target().triple.startswith("x86_64"), reason="reads x86-64 assembly")
@pytest.mark.parametrize("target", targets(), ids=lambda t: t.name.split()[-1])
def test_code_uses_the_widest_registers_and_no_wider(target) -> None:
    i, l = variables("i l")
    at = apply("add", apply("mul", i, const(32)), l)
    value = apply("erf", apply("tanh", Load("x", at, float32)))
    loop = For(i, const(4), LoopKind.SERIAL, (For(l, const(32), LoopKind.VECTOR, (Store("o", at, value),)),))
    kernel = Kernel("wide", (Buffer("x", float32, 128), Buffer("o", float32, 128, writable=True)), (), (loop,))
    text = assembly(emit_module([kernel], target).text, target)
    used = {name: f"%{name}mm" in text for name in "xyz"}
    assert used["z"] == (target.vector_bytes == 64)
    assert used["y"] or used["z"] or target.vector_bytes == 16
    assert not used["y"] or target.vector_bytes >= 32
    if target.vector_bytes < 64:
        assert "%k1" not in text
    if not target.has_fma:
        assert "vfmadd" not in text
        assert not re.search(r"^\tv[a-z]", text, re.MULTILINE), "an AVX instruction in baseline code"
    Function(kernel, target)
