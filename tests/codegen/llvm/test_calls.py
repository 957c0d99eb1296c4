"""Calls to LLVM without llvmlite's lock: what is refused is said, and threads get what one gets alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from dlc.codegen.llvm import calls as llvm_calls
from dlc.codegen.llvm.jit import assembly, compile_module
from dlc.codegen.llvm.target import host_target
from dlc.errors import CompileError

TARGET = host_target()


def text_of(functions: int) -> str:
    """Return a module whose functions each keep in memory what belongs in a register."""
    body = "entry:\n  %p = alloca i64\n  store i64 %x, ptr %p\n  %y = load i64, ptr %p\n  ret i64 %y\n"
    defined = [f"define i64 @f{number}(i64 %x) {{\n{body}}}" for number in range(functions)]
    return "\n".join([f'target triple = "{TARGET.triple}"', "declare void @elsewhere()", *defined])


@pytest.mark.parametrize(
    "text, problem",
    [
        ("define void @f() {", "end of file"),
        ("define i64 @f() {\nentry:\n  br label %entry\n}", "[Ee]ntry block"),
    ],
    ids=["no syntax", "no meaning"],
)
def test_a_refusal_says_why(text, problem):
    with pytest.raises(ValueError, match=problem), llvm_calls.parsed(text):
        pass
    with pytest.raises(CompileError, match=problem):
        compile_module(text, TARGET)


def test_every_function_is_simplified():
    text = assembly(text_of(3), TARGET)
    assert text.count("ret") >= 3 and "rsp" not in text and "elsewhere" not in text


def test_threads_compile_side_by_side():
    texts = [text_of(1 + number % 5) for number in range(40)]
    alone = [compile_module(text, TARGET) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: compile_module(text, TARGET), texts)) == alone
