"""The standard's cases, compiled: right, or refused with a CompileError that says why."""

from __future__ import annotations

import pytest
from node_cases import RANDOM, cases, difference, import_case

import dlc
from dlc.errors import CompileError

HALF_PRECISION = "attention"
"""Cases whose stored results were rounded to float16 after every step; compiled code rounds at other places."""


@pytest.mark.parametrize(
    ("every", "first", "least"), [(48, 5, 25), *(pytest.param(4, k, 350, marks=pytest.mark.slow) for k in range(4))]
)
def test_compiled_cases(every: int, first: int, least: int) -> None:
    passed, wrong, refused = 0, [], 0
    for case in cases()[first::every]:
        found = import_case(case)
        if found is None or any(word in case.name for word in RANDOM):
            continue
        try:
            results = dlc.compile(found[0]).run(found[1])
        except CompileError:
            refused += 1
            continue
        fault = difference(case, results)
        if fault and not (HALF_PRECISION in case.name and "fp16" in case.name):
            wrong.append(f"{case.name}: {fault}")
        passed += not fault
    assert not wrong
    assert passed >= least, (passed, refused)
