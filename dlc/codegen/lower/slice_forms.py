"""Products of few rows that are read in slices of their columns, and how they are cut into tasks.

Tasks are groups of columns, the same of all slices, or groups of rows. It must not build kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from dlc.codegen.lower.contraction import lower_contraction
from dlc.codegen.target import CpuTarget
from dlc.ir.compute import Compute
from dlc.ir.contraction import ContractSpec, DimIndex, Group, infer_extents, parse_spec, side_axes
from dlc.ir.epilogue import no_epilogue
from dlc.ir.graph import Node, Value
from dlc.ir.lowering import Lowered, Operand, OperandKind
from dlc.ir.types import TensorType, float32

TASKS_PER_THREAD = 2
"""Tasks that each thread gets: a thread that is held up leaves one to others."""
CHAIN_BYTES_PER_CYCLE = 16
"""What a task of rows may read of the weights, all of which it needs, without waiting for the last cache level."""


@dataclass(frozen=True)
class Product:
    """A contraction whose result ``made`` is read in ``count`` slices of its columns.

    ``axis`` is the columns' axis, the first dimension of the operand ``weights`` and the last of the result.
    """

    node: Node
    spec: ContractSpec
    extents: Mapping[str, int]
    weights: int
    axis: str
    count: int

    @property
    def made(self) -> Value:
        """What the contraction makes."""
        return self.node.outputs[0]

    @property
    def ordered(self) -> TensorType:
        """The weights."""
        return self.node.input_types[self.weights]

    @property
    def multiplied(self) -> Value:
        """The operand that the weights multiply."""
        return self.node.inputs[1 - self.weights]

    def rows_cut(self) -> str:
        """Return the axis of the rows where these are one dimension of result and operand, "" elsewhere."""
        sides = (self.spec.lhs, self.spec.rhs)
        axis = _only_axis(self.spec.output[0])
        own = sides[1 - self.weights]
        once = own[0] == self.spec.output[0] and axis not in side_axes(own[1:])
        return axis if once and len(self.spec.output) == 2 and axis not in side_axes(sides[self.weights]) else ""


@dataclass(frozen=True)
class Slices:
    """Slices of ``width`` columns of all ``products``; ``part`` of each are taken together.

    ``chains`` groups of ``rows`` rows, the results' first dimension, are tasks; if there is one, groups of columns are.
    """

    products: tuple[Product, ...]
    width: int
    part: int
    chains: int
    rows: int

    @property
    def groups(self) -> int:
        """Groups that the columns are cut into."""
        return self.width // self.part

    @property
    def count(self) -> int:
        """Slices of all products."""
        return sum(p.count for p in self.products)

    def lowered(self, product: Product, target: CpuTarget) -> Lowered | None:
        """Return a product's contraction of one group; None if it makes anything ahead but of its weights."""
        columns = product.count * self.part
        types = list(product.node.input_types)
        old = types[product.weights]
        types[product.weights] = TensorType(old.dtype, (columns, *old.shape[1:]))
        extents = {**product.extents, product.axis: columns}
        if self.chains > 1:
            old = types[1 - product.weights]
            types[1 - product.weights] = TensorType(old.dtype, (self.rows, *old.shape[1:]))
            extents[product.rows_cut()] = self.rows
        fixed = frozenset({product.weights})
        found = lower_contraction(product.spec, extents, types[0], types[1], no_epilogue(float32), target, 1, fixed)
        ahead = {o for call in found.calls[:-1] for o in call.operands if o.kind is not OperandKind.TEMPORARY}
        return found if ahead <= {Operand(OperandKind.INPUT, product.weights)} else None


def find_slices(
    contractions: Sequence[Node],
    computes: Mapping[Value, Compute],
    outputs: Sequence[Value],
    fixed: Collection[Value],
) -> Slices | None:
    """Return the slices in which ``outputs`` read the contractions' results; None where that is not their form."""
    shapes = {computes[v].shape for v in outputs}
    if len(shapes) != 1 or () in shapes:
        return None
    shape = next(iter(shapes))
    products = [_product(node, shape, fixed) for node in contractions]
    found = tuple(p for p in products if p is not None)
    if len(found) != len(products):
        return None
    return Slices(found, shape[-1], shape[-1], chains=1, rows=prod(shape[:-1]))


def _product(node: Node, shape: tuple[int, ...], fixed: Collection[Value]) -> Product | None:
    """Return a contraction whose result has a whole number of slices of ``shape``; None where it has not."""
    types = node.input_types[0], node.input_types[1]
    result = node.outputs[0].type
    if any(t.dtype is not float32 for t in (*types, result)):
        return None
    whole = tuple(int(d) for d in result.shape)  # type: ignore[call-overload]
    if len(shape) != len(whole) or shape[:-1] != whole[:-1] or not 0 < shape[-1] < whole[-1] or whole[-1] % shape[-1]:
        return None
    spec = parse_spec(node.attributes["spec"])
    found = infer_extents(spec, types[0].shape, types[1].shape, dict(node.attributes["sizes"]))
    extents = {name: int(extent) for name, extent in found.items()}  # type: ignore[call-overload]
    axis = spec.output[-1]
    sides = (spec.lhs, spec.rhs)
    weights = [k for k in (0, 1) if node.inputs[k] in fixed and sides[k][0] == axis]
    if len(weights) != 1 or not isinstance(axis, Group) or len(axis.axes) != 1:
        return None
    if sum(a == axis.axes[0] for side in sides for d in side for a in d.axes) != 1:
        return None
    return Product(node, spec, extents, weights[0], axis.axes[0], whole[-1] // shape[-1])


def _part(slices: Slices, lanes: int, least: int) -> int | None:
    """Return the most columns of a slice for a group, ``least`` groups or more, such that panels are whole."""
    for groups in range(least, slices.width // lanes + 1):
        part = slices.width // groups
        whole = all(product.count * part % (2 * lanes) == 0 for product in slices.products)
        if slices.width % groups == 0 and part % lanes == 0 and whole:
            return part
    return None


def in_groups(slices: Slices, target: CpuTarget, threads: int) -> Slices | None:
    """Return the slices with groups of columns as tasks; None where there are too few columns."""
    part = _part(slices, target.lanes(float32.itemsize), TASKS_PER_THREAD * threads)
    return None if part is None else replace(slices, part=part)


def in_chains(slices: Slices, target: CpuTarget, threads: int) -> Slices | None:
    """Return the slices with a task of rows for each thread; None where it would wait for weights.

    Two multiply-adds a cycle use a vector of weights for every row, so fewer rows need more bytes of them a cycle.
    """
    lanes = target.lanes(float32.itemsize)
    rows = slices.rows // threads
    if threads == 1 or rows * threads != slices.rows or not all(p.rows_cut() for p in slices.products):
        return None
    if rows * CHAIN_BYTES_PER_CYCLE < 2 * lanes * float32.itemsize:
        return None
    block = rows * slices.count * slices.width * float32.itemsize
    part = _part(slices, lanes, max(1, -(-2 * block // target.l1_bytes)))
    return None if part is None else replace(slices, part=part, chains=threads, rows=rows)


def _only_axis(dim: DimIndex) -> str:
    """Return the one axis that a dimension is, "" where it is anything else."""
    return dim.axes[0] if isinstance(dim, Group) and len(dim.axes) == 1 else ""
