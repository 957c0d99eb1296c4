"""All op families; importing this package registers every op."""

from dlc.ir.ops import contract, elementwise, reduce, shape

__all__ = ["contract", "elementwise", "reduce", "shape"]
