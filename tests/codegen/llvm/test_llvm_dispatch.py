"""The text of pool and dispatcher compiles for every architecture it knows."""

from itertools import pairwise

import llvmlite.binding as llvm
import pytest

from dlc.codegen.llvm.dispatch import EXPORTS, PYTHON_EXPORTS, dispatcher_text, python_poll_text
from dlc.codegen.llvm.pool import LAYOUT
from dlc.errors import CompileError
from dlc.runtime.threads import RUNTIME_SYMBOLS

POOL_WORDS_APART = ("RUN_EPOCH", "ARRIVED", "BARRIER_EPOCH", "ABORT_AT", "WORKERS")


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_compiles_for(architecture):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(f"{architecture}-unknown-linux-gnu").create_target_machine(opt=2)
    assembly = ""
    for text, exports in ((dispatcher_text(architecture), EXPORTS), (python_poll_text(), PYTHON_EXPORTS)):
        module = llvm.parse_assembly(text)
        module.verify()
        defined = {f.name for f in module.functions if not f.is_declaration and f.linkage == llvm.Linkage.external}
        assert defined == set(exports)
        assert machine.emit_object(module)
        assembly += machine.emit_assembly(module)
    assert ("#98" in assembly) == (architecture == "aarch64")  # the number of the futex call
    assert ("\tpause" in assembly) == (architecture == "x86_64")


def test_other_architectures_are_a_typed_error():
    with pytest.raises(CompileError, match="riscv64"):
        dispatcher_text("riscv64")


def test_the_runtime_binds_what_is_exported():
    assert set(RUNTIME_SYMBOLS) == set(EXPORTS + PYTHON_EXPORTS)


def test_words_that_several_threads_write_are_apart():
    offsets = [LAYOUT[name] for name in POOL_WORDS_APART]
    assert all(later - earlier >= 128 for earlier, later in pairwise(offsets))
    assert LAYOUT["WORKER_BYTES"] % 128 == 0 and LAYOUT["WORKERS"] % 128 == 0
    assert LAYOUT["W_POOL"] - LAYOUT["W_COUNTER"] >= 128
