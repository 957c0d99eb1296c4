"""The NumPy-named functions agree with NumPy: values, shapes and dtypes."""

from functools import partial

import numpy as np
import pytest

import dlc.frontends.graph as dlc
from dlc.errors import DlcError, TypeRuleError
from tests.frontends.graph.graphs import random, run

A = random(2, 3, 4)
B = random(2, 3, 4, seed=1)
POSITIVE = np.abs(A) + 0.1
SMALL = np.clip(A, -0.9, 0.9)
I = np.arange(-6, 6, dtype=np.int32).reshape(3, 4)
J = np.array([[3, -2, 5, 7]], dtype=np.int32)
BOOL = A > 0

UNARY = [
    ("negative", A),
    ("absolute", A),
    ("sign", A),
    ("exp", A),
    ("exp2", A),
    ("expm1", A),
    ("log", POSITIVE),
    ("log2", POSITIVE),
    ("log10", POSITIVE),
    ("log1p", POSITIVE),
    ("sqrt", POSITIVE),
    ("square", A),
    ("reciprocal", POSITIVE),
    ("sin", A),
    ("cos", A),
    ("tan", A),
    ("arcsin", SMALL),
    ("arccos", SMALL),
    ("arctan", A),
    ("sinh", A),
    ("cosh", A),
    ("tanh", A),
    ("arcsinh", A),
    ("arccosh", POSITIVE + 1),
    ("arctanh", SMALL),
    ("floor", A),
    ("ceil", A),
    ("round", A * 4),
    ("trunc", A * 4),
    ("isnan", A),
    ("isinf", A),
    ("isfinite", A),
    ("logical_not", A),
    ("logical_not", BOOL),
    ("bitwise_not", I),
    ("exp", I),
    ("sqrt", np.abs(I)),
    ("floor", I),
    ("negative", I),
    ("square", I),
    ("sin", I.astype(np.int16)),
    ("isnan", I),
]
BINARY = [
    ("add", A, B),
    ("subtract", A, B),
    ("multiply", A, B),
    ("divide", A, B),
    ("floor_divide", A, B),
    ("remainder", A, B),
    ("fmod", A, B),
    ("power", POSITIVE, B),
    ("maximum", A, B),
    ("minimum", A, B),
    ("arctan2", A, B),
    ("equal", I, J),
    ("less", A, B),
    ("greater_equal", I, J),
    ("logical_and", A, BOOL),
    ("logical_xor", BOOL, BOOL),
    ("bitwise_and", I, J),
    ("left_shift", np.abs(I), np.abs(J)),
    ("left_shift", I, J * 9),
    ("right_shift", I, J * 9),
    ("logaddexp", A, B),
    ("logaddexp", np.array([3, 200], np.uint8), np.array([5, 3], np.uint8)),
    ("logaddexp", np.array([np.inf, -np.inf, np.inf, 1]), np.array([np.inf, -np.inf, -np.inf, -np.inf])),
    ("add", I, J),
    ("divide", I, J),
    ("floor_divide", I, J),
    ("remainder", I, J),
    ("add", BOOL, BOOL),
    ("multiply", BOOL, BOOL),
    ("add", I, A[0]),
    ("maximum", I, J),
    ("add", A, B[0, 0]),
    ("multiply", A[:, :1], B[0]),
    ("add", I.astype(np.int8), J),
    ("subtract", A.astype(np.float64), B),
]


def check(got, wanted):
    assert got.dtype == wanted.dtype, f"{got.dtype} instead of {wanted.dtype}"
    assert got.shape == wanted.shape
    if wanted.dtype.kind == "f":
        tolerance = 1e-12 if wanted.dtype == np.float64 else 2e-3 if wanted.dtype == np.float16 else 2e-6
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name, x", UNARY, ids=lambda v: v if isinstance(v, str) else str(v.dtype))
def test_unary(name, x):
    check(run(getattr(dlc, name), x), getattr(np, name)(x))


@pytest.mark.parametrize("name, x, y", BINARY, ids=lambda v: v if isinstance(v, str) else str(v.dtype))
def test_binary(name, x, y):
    check(run(getattr(dlc, name), x, y), np.asarray(getattr(np, name)(x, y)))


@pytest.mark.parametrize("scalar", [2, -1.5, True])
@pytest.mark.parametrize("x", [A, I, BOOL, A.astype(np.float16), I.astype(np.uint8)], ids=lambda a: str(a.dtype))
@pytest.mark.parametrize("name", ["add", "multiply", "maximum", "less", "divide"])
def test_python_scalars_are_weak(name, x, scalar):
    with np.errstate(divide="ignore"):
        check(run(lambda t: getattr(dlc, name)(t, scalar), x), np.asarray(getattr(np, name)(x, scalar)))
        check(run(lambda t: getattr(dlc, name)(scalar, t), x), np.asarray(getattr(np, name)(scalar, x)))


def test_operators_take_numbers_on_either_side():
    for apply in (lambda t: 2 << abs(t), lambda t: -1000 >> abs(t), lambda t: t >> 1, lambda t: 7 % t, lambda t: 2 ^ t):
        check(run(apply, J), apply(J))


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1, -1)])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod", "var", "std", "any", "all"])
def test_reductions(name, axis, keepdims):
    for x in (A, (I * 3)[None], BOOL):
        if x is not A and axis is not None and name in ("mean", "var", "std"):
            continue
        if x is BOOL and name in ("max", "min", "var", "std", "mean"):
            continue
        wanted = np.asarray(getattr(np, name)(x, axis=axis, keepdims=keepdims))
        check(run(lambda t: getattr(dlc, name)(t, axis=axis, keepdims=keepdims), x), wanted)


def test_more_reductions():
    check(run(lambda t: t.var(axis=1, ddof=1), A), A.var(axis=1, ddof=1))
    with pytest.warns(RuntimeWarning):
        check(run(lambda t: t.var(axis=1, ddof=3), A[:, :2]), A[:, :2].var(axis=1, ddof=3))
    for axis in (None, 0, -1):
        check(run(partial(dlc.argmax, axis=axis), A), np.asarray(np.argmax(A, axis)))
        check(run(partial(dlc.argmin, axis=axis), BOOL), np.asarray(np.argmin(BOOL, axis)))
        check(run(partial(dlc.argmin, axis=axis), A), np.asarray(np.argmin(A, axis)))
        check(run(partial(dlc.cumsum, axis=axis), A), np.cumsum(A, axis))
    check(run(lambda t: dlc.argmax(t, 1, keepdims=True), A), np.argmax(A, 1, keepdims=True))
    check(run(lambda t: dlc.logsumexp(t, axis=(0, 2)), A), np.log(np.exp(A).sum((0, 2))))
    check(run(lambda t: dlc.norm(t, axis=-1), A), np.linalg.norm(A, axis=-1))
    check(run(lambda t: t.sum(dtype="float64"), A), np.asarray(A.sum(dtype=np.float64)))


SHAPES = [
    ("reshape", lambda d, x: d.reshape(x, (4, -1))),
    ("flatten method", lambda d, x: x.flatten()),
    ("transpose", lambda d, x: d.transpose(x)),
    ("transpose axes", lambda d, x: d.transpose(x, (1, 2, 0))),
    ("T", lambda d, x: x.T),
    ("swapaxes", lambda d, x: d.swapaxes(x, 0, -1)),
    ("moveaxis", lambda d, x: d.moveaxis(x, 0, -1)),
    ("moveaxis two", lambda d, x: d.moveaxis(x, (0, 1), (-1, 0))),
    ("squeeze", lambda d, x: d.squeeze(d.expand_dims(x, (0, -1)))),
    ("expand_dims", lambda d, x: d.expand_dims(x, (0, 2))),
    ("broadcast_to", lambda d, x: d.broadcast_to(x[:, :1], (5, 2, 3, 4))),
    ("concatenate", lambda d, x: d.concatenate([x, x * 2], axis=1)),
    ("concatenate flat", lambda d, x: d.concatenate([x, x[0]], axis=None)),
    ("stack", lambda d, x: d.stack([x, x + 1], axis=-1)),
    ("split", lambda d, x: d.split(x, 2, axis=-1)[1]),
    ("split beyond", lambda d, x: d.concatenate(d.split(x, [-2, 9], axis=2)[:2], axis=1)),
    ("split backwards", lambda d, x: d.split(x, np.array([2, 1]), axis=2)[1]),
    ("split at", lambda d, x: d.split(x, [1, 3], axis=2)[1]),
    ("flip", lambda d, x: d.flip(x, 1)),
    ("flip all", lambda d, x: d.flip(x)),
    ("roll", lambda d, x: d.roll(x, 3, axis=2)),
    ("roll back", lambda d, x: d.roll(x, -1, axis=1)),
    ("tile", lambda d, x: d.tile(x, (2, 1, 3))),
    ("tile more", lambda d, x: d.tile(x, (2, 1, 1, 1))),
    ("repeat", lambda d, x: d.repeat(x, 3, axis=1)),
    ("repeat flat", lambda d, x: d.repeat(x, 2)),
    ("pad", lambda d, x: d.pad(x, ((1, 0), (0, 2), (3, 3)))),
    ("pad value", lambda d, x: d.pad(x, 1, constant_values=7)),
    ("pad edge", lambda d, x: d.pad(x, ((0, 0), (2, 1), (1, 0)), mode="edge")),
    ("pad reflect", lambda d, x: d.pad(x, ((0, 1), (2, 1), (3, 0)), mode="reflect")),
    ("tril", lambda d, x: d.tril(x, -1)),
    ("triu", lambda d, x: d.triu(x, 1)),
    ("clip", lambda d, x: d.clip(x, -0.5, None)),
    ("where", lambda d, x: d.where(x > 0, x, 0)),
    ("take", lambda d, x: d.take(x, np.array([[0, -1], [2, 1]]), axis=1)),
    ("take flat", lambda d, x: d.take(x, np.array([0, 5, -1]))),
    ("take_along_axis", lambda d, x: d.take_along_axis(x, d.argmax(x, axis=1, keepdims=True), axis=1)),
    ("zeros_like", lambda d, x: d.zeros_like(x)),
    ("full_like", lambda d, x: d.full_like(x, 3)),
    ("outer", lambda d, x: d.outer(x[0, 0], x[0, 1])),
    ("inner", lambda d, x: d.inner(x, x)),
    ("tensordot", lambda d, x: d.tensordot(x, d.transpose(x, (1, 2, 0)), 2)),
    ("tensordot axes", lambda d, x: d.tensordot(x, x, ((0, 2), (0, 2)))),
    ("einsum", lambda d, x: d.einsum("bij,bkj->bik", x, x)),
    ("einsum trace of batch", lambda d, x: d.einsum("bij->j", x)),
    ("matmul vector", lambda d, x: d.matmul(x, x[0, 0])),
    ("matmul batch", lambda d, x: d.matmul(x, d.swapaxes(x, 1, 2))),
    ("dot", lambda d, x: d.dot(x[0], x[1].T)),
    ("dot rank 3", lambda d, x: d.dot(x, x[0].T)),
]


@pytest.mark.parametrize("function", [f for _, f in SHAPES], ids=[n for n, _ in SHAPES])
def test_shape_functions(function):
    check(run(lambda t: function(dlc, t), A), np.asarray(function(np, A)))


def test_creation():
    check(run(lambda t: dlc.zeros((2, 3)) + t, A[0, 0, :3]), np.zeros((2, 3), np.float32) + A[0, 0, :3])
    check(run(lambda t: dlc.arange(2, 11, 3), A), np.arange(2, 11, 3))
    check(run(lambda t: dlc.arange(0.0, 1.0, 0.25), A), np.arange(0.0, 1.0, 0.25, dtype=np.float32))
    check(run(lambda t: dlc.arange(np.float32(2), step=np.float64(0.5)), A), np.arange(0, 2, 0.5, np.float32))
    check(run(lambda t: dlc.arange(np.int8(5)), A), np.arange(5))
    check(run(lambda t: dlc.eye(3, 4, 1), A), np.eye(3, 4, 1, dtype=np.float32))
    check(run(lambda t: dlc.iota((2, 3), 1), A), np.broadcast_to(np.arange(3), (2, 3)))
    check(run(lambda t: dlc.full((2,), 5, "int8"), A), np.full(2, 5, np.int8))
    check(run(lambda t: dlc.ones(3), A, dtype="float64"), np.ones(3))
    check(run(lambda t: dlc.one_hot(np.array([2, 0]), 3), A), np.eye(3, dtype=np.float32)[[2, 0]])


def test_scatter_add_adds_repeated_indices():
    wanted = A.copy()
    np.add.at(wanted, np.array([1, 1, 0]), np.ones((3, 3, 4), np.float32))
    check(run(lambda t: dlc.scatter_add(t, np.array([1, 1, 0]), np.ones((3, 3, 4), np.float32)), A), wanted)


def test_large_arrays_become_constant_inputs():
    big = random(10, 10)
    graph_result = run(lambda t: t @ big, random(3, 10))
    np.testing.assert_allclose(graph_result, random(3, 10) @ big, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda t: dlc.sum(t, axis=3), "out of range"),
        (lambda t: dlc.sum(t, axis=(0, 0)), "twice"),
        (lambda t: dlc.reshape(t, (5, -1)), "do not fill"),
        (lambda t: t + random(5), "broadcast"),
        (lambda t: dlc.concatenate([t, t[0]], axis=0), "rank"),
        (lambda t: dlc.split(t, 3, axis=2), "equal parts"),
        (lambda t: -(t > 0), "bool"),
        (lambda t: dlc.take(t, np.array([0.5])), "integer"),
        (lambda t: t & t, "bit_and"),
        (lambda t: dlc.matmul(t, t), "matmul"),
    ],
)
def test_wrong_use_is_a_type_rule_error_with_the_source_line(function, words):
    with pytest.raises(TypeRuleError, match=words) as caught:
        run(function, A)
    assert "test_functions.py:" in str(caught.value)


def test_foreign_operands_are_refused():
    with pytest.raises(DlcError, match="neither a tensor"):
        run(lambda t: t + "one", A)


def test_powers_of_two_are_exact_to_a_few_units_however_large():
    x = np.concatenate([np.linspace(-125, 127.9, 4001), np.arange(-126, 128)]).astype(np.float32)
    found, wanted = run(dlc.exp2, x), np.exp2(x.astype(np.float64))
    assert np.abs(found / wanted - 1).max() < 4 * 2.0**-23
