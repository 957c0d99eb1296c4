"""A processor with AMX, wherever tests run, and what they say where this one has none."""

from __future__ import annotations

import pytest

from dlc.codegen.llvm_target import host_target
from dlc.codegen.target import CpuTarget

HOST = host_target()
FMA = host_target("avx512")
needs_amx = pytest.mark.skipif(not HOST.has("amx-int8"), reason="this processor has no AMX")
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
