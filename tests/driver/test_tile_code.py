"""The machine code of tile (AMX) kernels, executed on processors without tiles by trapping their instructions.

``amx-emulated`` tests what is computed on tiles, this what a processor that has them would be given: operands that
fit each other, configured tiles, addresses and strides as LLVM encodes them.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlc.codegen.llvm.target import host_target
from tests.tile_traps.traps import COMPILER, build

HOST = host_target()
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(HOST.has("amx-int8"), reason="this processor executes tile instructions itself")
@pytest.mark.skipif(not HOST.has_masks, reason="code for tiles has AVX-512 instructions as well")
@pytest.mark.skipif(COMPILER is None, reason="the handler of traps is compiled by cc, which is not there")
def test_tile_instructions_give_the_bits_of_their_emulation(tmp_path):
    library = build(tmp_path)
    answers = []
    for features, more in (("amx-emulated", []), ("native", [str(library)])):
        results = tmp_path / f"{features}.npz"
        command = [sys.executable, "-m", "tests.tile_traps.child", str(results), *more]
        environment = {**os.environ, "DLC_CPU_FEATURES": features, "DLC_CACHE": "0"}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        answers.append(dict(np.load(results)))
    emulated, trapped = answers
    assert emulated.pop("executed") == 0
    assert trapped.pop("executed") > 1000
    assert trapped.keys() == emulated.keys()
    for name, expected in emulated.items():
        assert trapped[name].tobytes() == expected.tobytes(), name
