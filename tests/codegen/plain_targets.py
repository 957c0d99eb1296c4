"""Processors as schedules see them, whatever this one is, and this one with tiles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlc.codegen.llvm.target import host_target
from dlc.codegen.target import CpuTarget

HOST = host_target()
TILES = HOST if HOST.has("amx-int8") or not HOST.has_masks else host_target("amx-emulated")
"""This processor with tiles, emulated if it has none (which takes AVX-512)."""
FMA = host_target("avx512")
needs_tiles = pytest.mark.skipif(not TILES.has("amx-int8"), reason="this processor has neither AMX nor AVX-512")
AMX = CpuTarget(
    name="x86-64 amx",
    triple="x86_64-unknown-linux-gnu",
    cpu="x86-64",
    features=("amx-bf16", "amx-int8", "amx-tile", "avx512bw", "avx512dq", "avx512f", "avx512vl"),
    vector_bytes=64,
    vector_registers=32,
    has_fma=True,
    has_masks=True,
    l1_bytes=48 << 10,
    l2_bytes=2 << 20,
    l3_bytes=8 << 20,
)
AVX512 = replace(AMX, name="x86-64 avx512", features=tuple(f for f in AMX.features if not f.startswith("amx")))
AVX2 = replace(
    AVX512, name="x86-64 avx2", features=("avx", "avx2", "fma"), vector_bytes=32, vector_registers=16, has_masks=False
)
