"""Type rules refuse what makes no sense, with a reason; normalised attributes; special values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dlc.ir.ops  # noqa: F401  (registers every op)
from dlc.errors import TypeRuleError
from dlc.ir.builder import Builder
from dlc.ir.graph import Graph, Value
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode, all_ops
from dlc.ir.ops.random import threefry_array
from dlc.ir.types import DTYPES, TensorType, float32, tensor_type
from dlc.passes.autodiff.autodiff import gradients
from tests.ir.ops import samples_elementwise, samples_neural, samples_tensor
from tests.ir.ops.samples import Sample, samples_of

assert samples_elementwise and samples_neural and samples_tensor
F = "float32"

REFUSED: list[tuple[str, list[tuple], dict[str, Any], str]] = [
    ("reshape", [(2, 3)], {"shape": (4, 2)}, "cannot reshape 6 elements"),
    ("reshape", [(2, 3)], {"shape": (-1, 4)}, "4 does not divide"),
    ("reshape", [(2, 3)], {"shape": (-1, -1)}, "more than one -1"),
    ("reshape", [(2, 3)], {"shape": (-2, -3)}, "outside"),
    ("transpose", [(2, 3)], {"permutation": (0, 0)}, "each of the 2 dimensions once"),
    ("broadcast", [(3,)], {"shape": (2, 4), "dims": (1,)}, "cannot become 4"),
    ("broadcast", [()], {"shape": (2**30, 2**30), "dims": ()}, "more than"),
    ("slice", [(5,)], {"starts": 3, "limits": 2}, "below start"),
    ("slice", [(5,)], {"starts": 0, "limits": 6}, "beyond the extent"),
    ("slice", [(5,)], {"starts": 0, "limits": 5, "strides": 0}, "strides"),
    ("slice", [(5,)], {"starts": 0, "limits": 5, "strides": -1}, "strides"),
    ("reverse", [(5,)], {"axes": 1}, "out of range"),
    ("pad", [(5,), ()], {"low": -3, "high": -3}, "takes more than"),
    ("pad", [(5,), ()], {"low": 2**31, "high": 0}, "outside"),
    ("pad", [(5,), ()], {"low": 2**62, "high": 2**62}, "outside"),
    ("pad", [(5,), ()], {"low": 0, "high": 0, "interior": -1}, "interior"),
    ("pad", [(5,), (1,)], {"low": 0, "high": 0}, "rank-0 value"),
    ("concat", [(2, 3), (2, 4)], {"axis": 0}, "may differ along axis 0 only"),
    ("concat", [], {"axis": 0}, "at least one"),
    ("iota", [], {"shape": (3,), "axis": 1}, "out of range"),
    ("reduce_sum", [(2, 3)], {"axes": (0, 0)}, "twice"),
    ("reduce_sum", [(2, 3)], {"axes": 2}, "out of range"),
    ("argmax", [(2, 0)], {"axis": 1}, "no elements"),
    ("cumsum", [()], {"axis": 0}, "out of range"),
    ("reduce_window", [(5,)], {"combiner": "add", "window": 6}, "does not fit into 5"),
    ("reduce_window", [(5,)], {"combiner": "mean", "window": 2}, "combiner"),
    ("reduce_window", [(5,)], {"combiner": "add", "window": 2, "strides": 0}, "strides"),
    ("matmul", [(2, 3), (4, 5)], {}, "inner dimensions differ: 3 against 4"),
    ("matmul", [(), (4, 5)], {}, "rank 1 or more"),
    ("matmul", [(2, 3, 4), (3, 4, 5)], {}, "do not broadcast"),
    ("einsum", [(2, 3)], {"equation": "ij,jk->ik"}, "2 operands, not 1"),
    ("einsum", [(2, 3)], {"equation": "ij->k"}, "output labels"),
    ("einsum", [(2, 3)], {"equation": "ijk->k"}, "does not fit"),
    ("einsum", [(2, 3), (4, 5)], {"equation": "ij,jk->ik"}, "is both 3 and 4"),
    ("einsum", [(2, 3)], {"equation": "i1->i"}, "letters"),
    ("conv", [(1, 3, 5, 5), (4, 3, 3, 3)], {"strides": 0}, "strides"),
    ("conv", [(1, 3, 5, 5), (4, 3, 3, 3)], {"padding": -1}, "padding"),
    ("conv", [(1, 3, 5, 5), (4, 3, 3, 3)], {"padding": 2**40}, "padding"),
    ("conv", [(1, 3, 5, 5), (4, 3, 7, 3)], {}, "larger than 5"),
    ("conv", [(1, 3, 5, 5), (4, 2, 3, 3)], {}, "do not fit a kernel with 2"),
    ("conv", [(1, 4, 5, 5), (3, 2, 3, 3)], {"groups": 2}, "do not divide"),
    ("conv", [(1, 4, 5, 5), (3, 2, 3, 3)], {"groups": 0}, "groups"),
    ("conv", [(1, 4, 5, 5), (3, 4, 3)], {}, "rank 3"),
    ("conv", [(1, 4, 5, 5), (3, 4, 3, 3)], {"input": "nchh"}, "arrangement"),
    ("conv_transpose", [(1, 3, 5), (3, 4, 3)], {"output_padding": 1}, "output_padding"),
    ("conv_transpose", [(1, 3, 1), (3, 4, 1)], {"padding": 1}, "leaves nothing"),
    ("max_pool", [(1, 1, 5)], {"window": 2, "strides": 0}, "strides"),
    ("max_pool", [(1, 1, 5)], {"window": 2, "padding": 2}, "smaller than the window"),
    ("avg_pool", [(1, 1, 5)], {"window": 7}, "larger than 5"),
    ("softmax", [()], {}, "out of range"),
    ("layer_norm", [(2, 3), (2,), (3,)], {}, "must have shape"),
    ("group_norm", [(2, 6), (6,), (6,)], {"groups": 4}, "do not divide"),
    ("batch_norm", [(2, 3), (3,), (3,), (3,), (2,)], {}, "must have shape"),
    ("attention", [(2, 3), (4, 5), (4, 3)], {}, "last dimension"),
    ("attention", [(2, 3), (4, 3), (4, 3), (5, 4)], {}, "does not broadcast|do not broadcast"),
    ("lstm", [(5, 2, 3), (16, 3), (16, 4), (15,), (2, 4), (2, 4)], {}, "bias has shape"),
    ("mse_loss", [(2, 3), (3, 2)], {}, "different shapes"),
    ("mse_loss", [(2, 3), (2, 3)], {"reduction": "average"}, "reduction"),
    ("cross_entropy", [(2, 3), (2,)], {}, "integers of shape"),
    ("dropout", [(2, 3), (2,)], {}, "uint32"),
    ("sgd_update", [(2,), (3,), (2,), (), ()], {}, "one type"),
    ("sgd_update", [(2,), (2,), (2,), (), ()], {"nesterov": True}, "nesterov"),
    ("adam_update", [(2,), (2,), (2,), (), ()], {}, "2 states"),
    ("gather", [(3,), (2,)], {}, "must be integers"),
    ("clamp", [(3,)], {"upper": 2.0}, "has no attribute upper"),
    ("leaky_relu", [(3,)], {"alpha": "steep"}, "must be float"),
    ("gelu", [(3,)], {"approximate": "fast"}, "approximate"),
    ("softmax", [(3,), (3,)], {}, "takes 1 operands, got 2"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: f"{c[0]}-{c[3]}")
def test_refused(case: tuple) -> None:
    name, shapes, attributes, reason = case
    b = Builder()
    inputs = [b.input(f"x{k}", tensor_type(F, shape)) for k, shape in enumerate(shapes)]
    with pytest.raises(TypeRuleError, match=reason) as caught:
        b.emit(name, inputs, attributes)
    assert name in str(caught.value)


def faults(sample: Sample) -> list[tuple[str, list[TensorType]]]:
    """Return operand types that break most rules: another rank, another dtype, one more dimension element."""
    types = [tensor_type(a.dtype, a.shape) for a in sample.arrays]
    found = []
    for k, t in enumerate(types):
        for what, changed in (
            ("rank", TensorType(t.dtype, (*t.shape, 2))),
            ("string", TensorType(DTYPES["string"], t.shape)),
            ("extent", TensorType(t.dtype, (*t.shape[:-1], 1009) if t.shape else (1009,))),
        ):
            found.append((f"{what} of operand {k}", [*types[:k], changed, *types[k + 1 :]]))
    return found


@pytest.mark.parametrize("name", sorted(all_ops()))
def test_wrong_operands_give_typed_errors_only(name: str) -> None:
    """Whatever the operands' types, a type rule succeeds or raises TypeRuleError; so does the expansion."""
    for sample in samples_of(name):
        for _, types in faults(sample):
            b = Builder()
            inputs = [b.input(f"x{k}", t) for k, t in enumerate(types)]
            try:
                b.emit(name, inputs, sample.attributes)
            except TypeRuleError as error:
                assert str(error).startswith(name)
                continue
            node = b.nodes[-1]
            if node.op.expand is not None:
                for mode in Mode:
                    results = node.op.expand(b, node.inputs, node.attributes, mode)
                    assert tuple(v.type for v in results) == node.output_types


ODD_VALUES: list[Any] = [
    -1, 0, 1, 7, 2**31, -(2**31), 2**70, (), (0,), (0, 0), (-1, -1), (2**31,) * 2, ((1, 2),), ((2**40, 0), (0, 0)), 1.5,
    float("nan"), float("inf"), "x", "", None, True, (True,), ("n",), (1.5, 2.0), DTYPES["string"],
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(all_ops()))
def test_odd_attributes_give_typed_errors_only(name: str) -> None:
    """Whatever an attribute's value, the type rule succeeds or raises TypeRuleError; so does the expansion."""
    samples = samples_of(name)
    for sample in samples[:: max(1, len(samples) // 3)]:
        for attribute in all_ops()[name].attributes:
            for value in ODD_VALUES:
                b = Builder()
                inputs = [b.input(f"x{k}", tensor_type(a.dtype, a.shape)) for k, a in enumerate(sample.arrays)]
                try:
                    b.emit(name, inputs, {**sample.attributes, attribute: value})
                except TypeRuleError as error:
                    assert str(error).startswith(name)
                    continue
                node = b.nodes[-1]
                if node.op.expand is not None:
                    results = node.op.expand(b, node.inputs, node.attributes, Mode.TRAINING)
                    assert tuple(v.type for v in results) == node.output_types, (sample.label, attribute, value)


def test_attributes_are_normalised() -> None:
    b = Builder()
    x = b.input("x", tensor_type(F, (2, 3, 4)))
    b.reduce_sum(x, axes=-1)
    b.softmax(x, axis=-2)
    b.reduce_max(x)
    b.transpose(x)
    b.pad(x, 0.0, low=1, high=0)
    reduce_sum, softmax, reduce_max, transpose, pad = (n for n in b.nodes if n.op.name != "constant")
    assert reduce_sum.attributes["axes"] == (2,)
    assert softmax.attributes["axis"] == 1
    assert reduce_max.attributes["axes"] == (0, 1, 2)
    assert transpose.attributes["permutation"] == (2, 1, 0)
    assert pad.attributes["low"] == (1, 1, 1) and pad.attributes["interior"] == (0, 0, 0)


def run(name: str, *arrays: np.ndarray, mode: Mode = Mode.INFERENCE, **attributes: Any) -> list[np.ndarray]:
    graph = single(name, arrays, attributes)
    return list(interpret(graph, {f"x{k}": a for k, a in enumerate(arrays)}, mode).values())


def single(name: str, arrays: tuple[np.ndarray, ...], attributes: dict) -> Graph:
    return Sample(name, arrays, attributes).graph()


def gradient(name: str, x: np.ndarray, **attributes: Any) -> np.ndarray:
    b = Builder()
    value = b.input("x", tensor_type(x.dtype, x.shape))
    y: Value = b.call(name, value, **attributes)
    found = gradients(b, b.reduce_sum(y), [value])[0]
    assert found is not None
    b.output("g", found)
    return interpret(b.finish(), {"x": x})["g"]


def test_relu_gradient_is_zero_at_zero() -> None:
    np.testing.assert_array_equal(gradient("relu", np.array([-1.0, 0.0, -0.0, 2.0])), [0, 0, 0, 1])


def test_max_pool_gradient_goes_to_the_first_maximum() -> None:
    x = np.array([[[1.0, 1.0, 1.0, 0.0, 2.0, 2.0]]])
    np.testing.assert_array_equal(gradient("max_pool", x, window=3, strides=3), [[[1, 0, 0, 0, 1, 0]]])
    np.testing.assert_array_equal(gradient("max_pool", x, window=3, strides=1), [[[1, 1, 0, 0, 2, 0]]])


def test_gradients_do_not_overflow() -> None:
    x = np.array([-1e4, -100.0, 0.0, 100.0, 1e4])
    for name in ("elu", "celu", "selu", "gelu", "silu", "softplus", "log_sigmoid", "mish", "softmax", "logsumexp"):
        assert np.isfinite(gradient(name, x)).all(), name


@pytest.mark.parametrize(
    ("rounds", "counter", "key", "words"),
    [
        # Random123's known-answer tests for threefry2x32.
        (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        (13, (0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0xFD36D048, 0x2D17272C)),
        (13, (0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xBA3E4725, 0xF27D669E)),
        (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (20, (0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry(rounds: int, counter: tuple, key: tuple, words: tuple) -> None:
    arrays = [tuple(np.array(w, np.uint32) for w in pair) for pair in (key, counter)]
    assert tuple(int(w) for w in threefry_array(*arrays, rounds)) == words


def test_random_numbers_are_distributed() -> None:
    key = np.array([1, 2], np.uint32)
    (u,) = run("random_uniform", key, shape=(200_000,))
    assert 0 <= u.min() and u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.003) and u.var() == pytest.approx(1 / 12, abs=0.001)
    (z,) = run("random_normal", key, shape=(200_000,))
    assert z.mean() == pytest.approx(0, abs=0.01) and z.var() == pytest.approx(1, abs=0.02)
    assert (z**4).mean() == pytest.approx(3, abs=0.1)
    (other,) = run("random_uniform", key, shape=(200_000,), stream=1)
    (later,) = run("random_uniform", run("key_next", key)[0], shape=(200_000,))
    for v in (other, later):
        assert abs(np.corrcoef(u, v)[0, 1]) < 0.01


def test_dropout_in_training() -> None:
    x, key = np.ones((200, 100), np.float32), np.array([1, 2], np.uint32)
    (y,) = run("dropout", x, key, mode=Mode.TRAINING, rate=0.3)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
    (same,) = run("dropout", x, key, mode=Mode.TRAINING, rate=0.3)
    np.testing.assert_array_equal(y, same)
    np.testing.assert_array_equal(run("dropout", x, key, rate=0.3)[0], x)
    assert not run("dropout", x, key, mode=Mode.TRAINING, rate=1.0)[0].any()


def test_scatter_applies_updates_in_order() -> None:
    x, places, updates = np.zeros(3, np.float32), np.array([[1], [1], [1]]), np.array([5.0, 7.0, 6.0], np.float32)
    np.testing.assert_array_equal(run("scatter_nd", x, places, updates)[0], [0, 6, 0])


def test_indices_wrap_once_and_clamp() -> None:
    x = np.arange(4, dtype=np.float32)
    places = np.array([-1, -4, -5, -99, 3, 4, 99])
    np.testing.assert_array_equal(run("gather", x, places)[0], [3, 0, 0, 0, 3, 3, 3])


def test_numbers_become_constants() -> None:
    b = Builder()
    x = b.input("x", TensorType(float32, (3,)))
    assert b.softplus(b.add(x, 1)).type == x.type
