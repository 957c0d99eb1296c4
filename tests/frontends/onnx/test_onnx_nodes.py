"""Every case of onnx.backend.test that dlc imports gives its stored results in the interpreter."""

from __future__ import annotations

from node_cases import RANDOM, ROUNDED, cases, difference, import_case

from dlc.errors import DlcError
from dlc.frontends.onnx import load
from dlc.ir.interpret import interpret

PASSING = 1714
"""At least so many cases pass; raise it as coverage grows."""


def test_cases_of_the_standard() -> None:
    passed, wrong = 0, []
    for case in cases():
        found = import_case(case)
        if found is None:
            continue
        fault = difference(case, interpret(found[0], found[1]))
        if fault and case.name not in ROUNDED and not any(word in case.name for word in RANDOM):
            wrong.append(f"{case.name}: {fault}")
        passed += not fault
    assert not wrong
    assert passed >= PASSING


def test_refusals_are_typed() -> None:
    refused = 0
    for case in cases():
        try:
            load(case.model)
        except DlcError as error:
            refused += 1
            assert len(str(error)) > 20
    assert refused < 600  # many cases feed shapes as data
