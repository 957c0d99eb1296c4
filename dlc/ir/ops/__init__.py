"""All op families; importing this package registers every op."""

from dlc.ir.ops import contract, convolution, elementwise, linear, reduce, shape

__all__ = ["contract", "convolution", "elementwise", "linear", "reduce", "shape"]
