"""The specification of a contraction: which loop axes each operand dimension reads.

``"n h*2+r w*2+s (g c), r s c (g k) -> n h w (g k)"``: a dimension is one axis, a
row-major group ``(g c)``, or a window ``axis*stride+axis*dilation``. Matmul,
einsum, convolution and their gradients are all of this form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from dlc.errors import TypeRuleError
from dlc.ir.dims import Dim, Shape, exact_quotient


@dataclass(frozen=True)
class Group:
    """A dimension that is the row-major product of ``axes`` (one axis: the axis itself)."""

    axes: tuple[str, ...]

    def __str__(self) -> str:
        return self.axes[0] if len(self.axes) == 1 else f"({' '.join(self.axes)})"


@dataclass(frozen=True)
class WindowTerm:
    """A dimension read at ``sum(axis * coefficient)``, coefficients positive."""

    terms: tuple[tuple[str, int], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.terms)

    def __str__(self) -> str:
        return "+".join(name if c == 1 else f"{name}*{c}" for name, c in self.terms)


DimIndex = Group | WindowTerm


@dataclass(frozen=True)
class ContractSpec:
    """Dimension indices of lhs, rhs and output."""

    lhs: tuple[DimIndex, ...]
    rhs: tuple[DimIndex, ...]
    output: tuple[DimIndex, ...]

    def __str__(self) -> str:
        sides = [" ".join(map(str, side)) for side in (self.lhs, self.rhs, self.output)]
        return f"{sides[0]}, {sides[1]} -> {sides[2]}"

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis once: output axes first, then the reduced ones."""
        return tuple(dict.fromkeys(a for side in (self.output, self.lhs, self.rhs) for d in side for a in d.axes))

    @property
    def output_axes(self) -> tuple[str, ...]:
        return tuple(a for d in self.output for a in d.axes)

    @property
    def reduce_axes(self) -> tuple[str, ...]:
        kept = set(self.output_axes)
        return tuple(a for a in self.axes if a not in kept)


def side_axes(side: tuple[DimIndex, ...]) -> set[str]:
    """Return the axes that one operand's dimensions mention."""
    return {a for d in side for a in d.axes}


@lru_cache(maxsize=4096)
def parse_spec(text: str) -> ContractSpec:
    """Parse the text form; TypeRuleError if it is malformed."""
    try:
        operands, output = text.split("->")
        lhs, rhs = operands.split(",")
    except ValueError:
        raise TypeRuleError(f"contraction {text!r} must read 'lhs, rhs -> output'") from None
    spec = ContractSpec(_side(lhs, text), _side(rhs, text), _side(output, text))
    for dim in spec.output:
        if isinstance(dim, WindowTerm):
            raise TypeRuleError(f"contraction {text!r}: the output has a window {dim}; only operands may")
    names = spec.output_axes
    if len(set(names)) != len(names):
        raise TypeRuleError(f"contraction {text!r} names an output axis twice")
    return spec


def _side(text: str, whole: str) -> tuple[DimIndex, ...]:
    dims: list[DimIndex] = []
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()
    group: list[str] | None = None
    for token in tokens:
        if token == "(":
            group = []
        elif token == ")":
            if not group:
                raise TypeRuleError(f"contraction {whole!r} has an empty or unopened group")
            dims.append(Group(tuple(group)))
            group = None
        elif group is not None:
            group.append(token)
        elif "+" in token or "*" in token:
            terms = []
            for part in token.split("+"):
                name, _, coefficient = part.partition("*")
                terms.append((name, int(coefficient) if coefficient else 1))
            dims.append(WindowTerm(tuple(terms)))
        else:
            dims.append(Group((token,)))
    if group is not None:
        raise TypeRuleError(f"contraction {whole!r} has an unclosed group")
    return tuple(dims)


def infer_extents(spec: ContractSpec, lhs: Shape, rhs: Shape, sizes: Mapping[str, Dim]) -> dict[str, Dim]:
    """Return the extent of every axis; ``sizes`` gives what shapes leave open.

    Raises TypeRuleError where ranks or extents disagree or an extent cannot be found.
    """
    for name, side, shape in (("lhs", spec.lhs, lhs), ("rhs", spec.rhs, rhs)):
        if len(side) != len(shape):
            raise TypeRuleError(
                f"{name} has rank {len(shape)} but the contraction '{spec}' reads {len(side)} dimensions"
            )
    extents: dict[str, Dim] = dict(sizes)
    dims = [*zip(spec.lhs, lhs, strict=True), *zip(spec.rhs, rhs, strict=True)]
    # Groups first: a window need not cover its dimension, so what it says of an axis is only an upper bound.
    pending = sorted(dims, key=lambda pair: isinstance(pair[0], WindowTerm))
    while pending:
        solved = next((k for k, (index, dim) in enumerate(pending) if _solve(index, dim, extents, spec)), None)
        if solved is None:
            raise TypeRuleError(
                f"the extents of '{spec}' are not determined by {list(lhs)} and {list(rhs)}; give sizes"
            )
        del pending[solved]
    for index, dim in dims:
        _check(index, dim, extents, spec)
    return extents


def _solve(index: DimIndex, dim: Dim, extents: dict[str, Dim], spec: ContractSpec) -> bool:
    unknown = [a for a in index.axes if a not in extents]
    if not unknown:
        return True
    if len(unknown) > 1:
        return False
    if isinstance(index, Group):
        known: Dim = 1
        for axis in index.axes:
            if axis in extents:
                known = known * extents[axis]
        quotient = exact_quotient(dim, known)
        if quotient is None:
            raise TypeRuleError(f"'{spec}': dimension {dim} of group {index} is not a multiple of {known}")
        extents[unknown[0]] = quotient
        return True
    coefficients = dict(index.terms)
    span: Dim = dim - 1
    for axis, coefficient in index.terms:
        if axis in extents:
            span = span - (extents[axis] - 1) * coefficient
    if isinstance(span, int) and span < 0:
        raise TypeRuleError(f"'{spec}': the window {index} is larger than its dimension {dim}")
    extents[unknown[0]] = span // coefficients[unknown[0]] + 1
    return True


def _check(index: DimIndex, dim: Dim, extents: Mapping[str, Dim], spec: ContractSpec) -> None:
    if isinstance(index, Group):
        product: Dim = 1
        for axis in index.axes:
            product = product * extents[axis]
        if product != dim:
            raise TypeRuleError(f"'{spec}': {index} has extent {product} from one operand and {dim} from the other")
        return
    reach: Dim = 1
    for axis, coefficient in index.terms:
        reach = reach + (extents[axis] - 1) * coefficient
    empty = any(extents[a] == 0 for a in index.axes)
    if isinstance(reach, int) and isinstance(dim, int) and reach > dim and not empty:
        raise TypeRuleError(f"'{spec}': the window {index} reads up to {reach} in a dimension of {dim}")


def group_shape(side: tuple[DimIndex, ...], extents: Mapping[str, Dim]) -> Shape:
    """Return the shape of a side made of groups only (an output, or an operand without windows)."""
    shape: list[Dim] = []
    for index in side:
        product: Dim = 1
        for axis in index.axes:
            product = product * extents[axis]
        shape.append(product)
    return tuple(shape)
