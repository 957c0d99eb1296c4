"""What contractions on tiles share: where tensors lie for a row, and the operands of the epilogue over a block.

It must not know what tiles hold or how they are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping

from dlc.codegen.contract.analysis import FIRST_READ, OUT, merge
from dlc.codegen.contract.index import ZERO, decode, offset, scaled, total
from dlc.codegen.contract.macro import MacroKernel
from dlc.codegen.contract.microkernel import LANES_NONE, LANES_STRIDE, LANES_UNIT
from dlc.codegen.tiles.block_epilogue import BlockEpilogue
from dlc.ir.expr import Expr, Var, const
from dlc.ir.kernel import Window


class TileKernel(MacroKernel):
    """A contraction whose results lie in scratch memory before the epilogue."""

    def _place(self, tensor: int) -> tuple[str, Expr]:
        """Return a tensor's buffer and the constant part of its positions."""
        if tensor == OUT:
            return "out", ZERO
        return f"e{tensor - FIRST_READ}", const(self.problem.reads[tensor - FIRST_READ].offset)

    def _group_offset(self, tensor: int) -> Expr:
        return offset(decode(Var("group"), [a.extent for a in self.groups]), self.groups, tensor)

    def _row_offset(self, row: Expr, tensor: int) -> Expr:
        axes = merge(self.problem.rows, [tensor])
        return offset(decode(row, [a.extent for a in axes]), axes, tensor)

    def _epilogue_of(
        self, row: Expr, column: Expr, strides: Mapping[int, int], columns: Expr | None
    ) -> tuple[BlockEpilogue, tuple[Window, ...], tuple[Expr, ...]]:
        """Return the epilogue from ``row`` and ``column`` on, its tensors and its scalars but the number of rows.

        ``strides`` are those of rows; only ``columns`` exist where there are not enough for all lanes.
        """
        problem = self.problem
        windows, scalars, reads = [], [], []
        for tensor in self.tensors[1:]:
            stride = self.column.strides[tensor]
            name, constant = self._place(tensor)
            place = total(self._group_offset(tensor), self._row_offset(row, tensor), scaled(column, stride), constant)
            windows.append(Window(name, place))
            scalars.append(const(strides[tensor]))
            if tensor != OUT:
                lanes = LANES_NONE if stride == 0 else LANES_UNIT if stride == 1 else LANES_STRIDE
                reads.append((problem.reads[tensor - FIRST_READ].dtype, lanes))
                if lanes == LANES_STRIDE:
                    scalars.append(const(stride))
        spec = BlockEpilogue(problem.body, problem.out_dtype, tuple(reads), columns is not None)
        return spec, tuple(windows), (*scalars, *([] if columns is None else [columns]))
