"""Matrix product and einsum: composites that expand to contractions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder, broadcast_shapes
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.types import TensorType, bool_


def check_numbers(inputs: Types) -> None:
    """Raise TypeRuleError unless all operands have one numeric dtype."""
    if any(t.dtype is not inputs[0].dtype for t in inputs):
        raise TypeRuleError("operand dtypes differ; cast them first")
    if inputs[0].dtype is bool_ or inputs[0].dtype.kind not in ("int", "uint", "float"):
        raise TypeRuleError(f"takes numbers, not {inputs[0].dtype}; cast first")


# -- matmul ------------------------------------------------------------------------------


def matmul_type(inputs: Types, attributes: Attributes) -> Types:
    """NumPy's matmul: (..., m, k) and (..., k, n) -> (..., m, n), vectors as single rows or columns."""
    a, c = inputs
    check_numbers(inputs)
    if not a.rank or not c.rank:
        raise TypeRuleError("takes tensors of rank 1 or more; multiply by a scalar with mul")
    depth = c.shape[-2] if c.rank > 1 else c.shape[0]
    if a.shape[-1] != depth:
        raise TypeRuleError(f"inner dimensions differ: {a.shape[-1]} against {depth}")
    batch = broadcast_shapes(a.shape[:-2], c.shape[:-2])
    rows = a.shape[-2:-1] if a.rank > 1 else ()
    columns = c.shape[-1:] if c.rank > 1 else ()
    return (TensorType(a.dtype, (*batch, *rows, *columns)),)


def matmul_evaluate(attributes: Attributes, a: np.ndarray, c: np.ndarray) -> np.ndarray:
    """np.matmul; 16-bit floats are multiplied in float32."""
    if a.dtype.itemsize < 4 and a.dtype.kind not in "iu":
        return np.matmul(a.astype(np.float32), c.astype(np.float32)).astype(a.dtype)
    with np.errstate(all="ignore"):
        return np.matmul(a, c)


def _batch_side(b: Builder, value: Value, batch: Sequence[Dim], core: int) -> tuple[Value, list[str]]:
    """Name the batch axes of one operand; those that it repeats along are reshaped away."""
    own = value.type.shape[: value.type.rank - core]
    offset = len(batch) - len(own)
    kept = [k for k, d in enumerate(own) if d != 1 or batch[k + offset] == 1]
    shape = (*(own[k] for k in kept), *value.type.shape[len(own) :])
    return b.reshape_to(value, shape), [f"b{k + offset}" for k in kept]


def matmul_expand(b: Builder, inputs: tuple[Value, ...], attributes: Attributes, mode: Mode) -> Sequence[Value]:
    """One contraction; broadcast batch axes are axes that an operand does not read."""
    a, c = inputs
    left_core, right_core = (["m", "k"][-a.type.rank :], ["k", "n"][: c.type.rank])
    batch = broadcast_shapes(a.type.shape[:-2], c.type.shape[:-2])
    a, left = _batch_side(b, a, batch, len(left_core))
    c, right = _batch_side(b, c, batch, len(right_core))
    output = [f"b{k}" for k in range(len(batch))] + left_core[:-1] + right_core[1:]
    spec = f"{' '.join(left + left_core)}, {' '.join(right + right_core)} -> {' '.join(output)}"
    return (b.contract(a, c, spec=spec),)


register(
    OpDef(
        name="matmul",
        arity=2,
        infer=matmul_type,
        evaluate=matmul_evaluate,
        expand=matmul_expand,
        doc="Matrix product with NumPy's rules for batches and vectors.",
    )
)


# -- einsum ------------------------------------------------------------------------------


def parse_equation(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Return the labels of every operand and of the output; an ellipsis becomes labels ``.0``, ``.1``, ...

    Raises TypeRuleError for a malformed equation or one that does not fit the operands' ranks.
    """
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise TypeRuleError(f"equation {equation!r} has {len(terms)} operands, not {len(ranks)}")
    for term in [*terms, right]:
        plain = term.replace("...", "", 1)
        if plain and not (plain.isascii() and plain.isalpha()):
            raise TypeRuleError(f"equation {equation!r}: {term!r} must be letters with at most one '...'")
    hidden = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    most = max(hidden, default=0)
    operands = []
    for term, rank, count in zip(terms, ranks, hidden, strict=True):
        labels = _spell(term, count, most)
        if count < 0 or len(labels) != rank:
            raise TypeRuleError(f"equation {equation!r}: {term!r} does not fit an operand of rank {rank}")
        operands.append(labels)
    if arrow:
        output = _spell(right, most if "..." in right else 0, most)
    else:
        everything = [c for t in terms for c in t if c != "."]
        output = [f".{k}" for k in range(most)] + sorted(c for c in set(everything) if everything.count(c) == 1)
    known = {label for labels in operands for label in labels}
    if len(set(output)) != len(output) or not set(output) <= known:
        raise TypeRuleError(f"equation {equation!r}: output labels must be distinct and occur in an operand")
    return operands, output


def _spell(term: str, count: int, most: int) -> list[str]:
    before, dots, after = term.partition("...")
    return [*before, *([f".{k}" for k in range(most - count, most)] if dots else []), *after]


def _label_extents(equation: str, operands: list[list[str]], shapes: Sequence[Sequence[Dim]]) -> dict[str, Dim]:
    extents: dict[str, Dim] = {}
    for labels, shape in zip(operands, shapes, strict=True):
        for label, dim in zip(labels, shape, strict=True):
            if extents.get(label, 1) == 1:
                extents[label] = dim
            elif dim != 1 and dim != extents[label]:
                raise TypeRuleError(f"equation {equation!r}: label {label!r} is both {extents[label]} and {dim}")
    return extents


def einsum_type(inputs: Types, attributes: Attributes) -> Types:
    """Operands of one numeric dtype -> that dtype, shaped by the equation's output."""
    if not inputs:
        raise TypeRuleError("takes at least one operand")
    check_numbers(inputs)
    equation = attributes["equation"]
    operands, output = parse_equation(equation, [t.rank for t in inputs])
    extents = _label_extents(equation, operands, [t.shape for t in inputs])
    return (TensorType(inputs[0].dtype, tuple(extents[label] for label in output)),)


def einsum_evaluate(attributes: Attributes, *arrays: np.ndarray) -> np.ndarray:
    """np.einsum; 16-bit floats are multiplied in float32."""
    dtype = arrays[0].dtype
    if dtype.itemsize < 4 and dtype.kind not in "iu":
        arrays = tuple(a.astype(np.float32) for a in arrays)
    return np.asarray(np.einsum(attributes["equation"], *arrays, optimize=len(arrays) > 1)).astype(dtype)


def _simplify(
    b: Builder, value: Value, labels: list[str], extents: dict[str, Dim], wanted: set[str]
) -> tuple[Value, list[str]]:
    """Drop stretched size-1 dimensions, take diagonals of repeated labels, sum what nobody else wants."""
    shape = value.type.shape
    kept = [k for k, label in enumerate(labels) if shape[k] != 1 or extents[label] == 1]
    value, labels = b.reshape_to(value, tuple(shape[k] for k in kept)), [labels[k] for k in kept]
    for label in [c for c in dict.fromkeys(labels) if labels.count(c) > 1]:
        while labels.count(label) > 1:
            first, second = (k for k, c in enumerate(labels) if c == label and labels[:k].count(label) < 2)
            shape = value.type.shape
            same = b.equal(b.iota(shape=shape, axis=first), b.iota(shape=shape, axis=second))
            value = b.reduce_sum(b.where(same, value, b.zeros_like(value)), axes=(second,))
            labels = labels[:second] + labels[second + 1 :]
    alone = tuple(k for k, label in enumerate(labels) if label not in wanted)
    if alone:
        value = b.reduce_sum(value, axes=alone)
    return value, [label for k, label in enumerate(labels) if k not in alone]


def einsum_expand(b: Builder, inputs: tuple[Value, ...], attributes: Attributes, mode: Mode) -> Sequence[Value]:
    """Contract the operands from left to right."""
    operands, output = parse_equation(attributes["equation"], [v.type.rank for v in inputs])
    extents = _label_extents(attributes["equation"], operands, [v.type.shape for v in inputs])
    terms = []
    for position, (value, labels) in enumerate(zip(inputs, operands, strict=True)):
        others = (label for k, other in enumerate(operands) if k != position for label in other)
        terms.append(_simplify(b, value, labels, extents, {*output, *others}))
    value, labels = terms[0]
    for position, (right, right_labels) in enumerate(terms[1:], start=1):
        later = {label for _, other in terms[position + 1 :] for label in other}
        # A label whose other operands are stretched along it occurs in one term only: sum it there.
        value, labels = _simplify(b, value, labels, extents, {*output, *later, *right_labels})
        right, right_labels = _simplify(b, right, right_labels, extents, {*output, *later, *labels})
        joined = list(dict.fromkeys(labels + right_labels))
        result = [c for c in output if c in joined] + [c for c in joined if c in later and c not in output]
        spec = f"{_names(labels)}, {_names(right_labels)} -> {_names(result)}"
        value, labels = b.contract(value, right, spec=spec), result
    value, labels = _simplify(b, value, labels, extents, set(output))
    return (b.transpose_to(value, [labels.index(c) for c in output]),)


def _names(labels: list[str]) -> str:
    return " ".join(f"e{c[1:]}" if c[0] == "." else c if c.islower() else f"upper_{c.lower()}" for c in labels)


register(
    OpDef(
        name="einsum",
        arity=None,
        infer=einsum_type,
        evaluate=einsum_evaluate,
        attributes={"equation": Attribute((str,), doc="as for numpy.einsum, with letters and '...'")},
        expand=einsum_expand,
        doc="Sum of products given by an equation, as numpy.einsum.",
    )
)
