"""Symbolic dimensions: arithmetic agrees with ints under every binding, text reads back equal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlc.errors import DlcError
from dlc.ir.dims import bind_dim, exact_quotient, parse_dim, size_of, symbol, symbols_of

N, M = symbol("n"), symbol("m")
BINDINGS = st.fixed_dictionaries({"n": st.integers(0, 12), "m": st.integers(0, 12)})


def expressions():
    leaves = st.sampled_from([N, M]) | st.integers(-5, 9)
    operators = st.sampled_from(["+", "-", "*", "//"])
    return st.recursive(leaves, lambda inner: st.tuples(operators, inner, inner), max_leaves=8)


def build(expression):
    match expression:
        case ("+", a, b):
            return build(a) + build(b)
        case ("-", a, b):
            return build(a) - build(b)
        case ("*", a, b):
            return build(a) * build(b)
        case ("//", a, b):
            divisor = build(b)
            return build(a) // (divisor if divisor != 0 else 1)
    return expression


def evaluate(expression, binding):
    match expression:
        case ("+", a, b):
            return evaluate(a, binding) + evaluate(b, binding)
        case ("-", a, b):
            return evaluate(a, binding) - evaluate(b, binding)
        case ("*", a, b):
            return evaluate(a, binding) * evaluate(b, binding)
        case ("//", a, b):
            divisor = evaluate(b, binding) if build(b) != 0 else 1
            return evaluate(a, binding) // divisor
        case int():
            return expression
    return binding[str(expression)]


@settings(max_examples=300, deadline=None)
@given(expressions(), BINDINGS)
def test_arithmetic_agrees_with_ints(expression, binding):
    try:
        wanted = evaluate(expression, binding)
    except ZeroDivisionError:
        return
    dim = build(expression)
    try:
        found = bind_dim(dim, binding)
    except ZeroDivisionError:
        return
    assert found == wanted


@settings(max_examples=300, deadline=None)
@given(expressions())
def test_text_reads_back_equal(expression):
    try:
        dim = build(expression)
    except ZeroDivisionError:
        return
    assert parse_dim(str(dim)) == dim


def test_canonical_forms_are_equal():
    assert N * 2 + M - N == M + N
    assert (N + 1) * (N - 1) == N * N - 1
    assert N - N == 0 and isinstance(N - N, int)
    assert (N * M * 6) // (M * 2) == N * 3
    assert (N * 4 + 3) // 4 == N
    assert (N * 4 + 5) // 4 == N + 1
    assert str(N * 8 + 4) == "n*8 + 4"


def test_exact_quotients():
    assert exact_quotient(12, 4) == 3 and exact_quotient(12, 5) is None
    assert exact_quotient(N * 12, 4) == N * 3 and exact_quotient(N * 3, 2) is None
    assert exact_quotient(N, N) == 1 and exact_quotient((N + 1) * M, N + 1) == M
    assert exact_quotient(3, 0) is None


def test_symbols_and_sizes():
    assert symbols_of((N + 1) // 2 * M) == {"n", "m"} and symbols_of(3) == set()
    assert size_of((N, 4, 2)) == N * 8 and size_of(()) == 1


def test_partial_binding_keeps_the_rest():
    assert bind_dim(N * M + N, {"n": 3}) == M * 3 + 3
    assert bind_dim((N + 1) // 2, {"n": 7}) == 4


def test_misuse_is_explained():
    with pytest.raises(TypeError, match="symbolic; bind it first"):
        range(N)
    with pytest.raises(DlcError, match="not an identifier"):
        symbol("batch size")
    for text in ("n +", "n % 2", "f(n)", "n.x", "1.5"):
        with pytest.raises(DlcError):
            parse_dim(text)
