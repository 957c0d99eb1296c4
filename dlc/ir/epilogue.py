"""Epilogue: what is done to each element of a contraction before it is stored.

A scalar expression over the accumulated value and reads of further tensors. It
must not know how contractions are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlc.errors import DlcError
from dlc.ir.expr import Expr, Read, Var, walk
from dlc.ir.types import DType, TensorType

ACCUMULATOR = "acc"


@dataclass(frozen=True)
class Epilogue:
    """``output[axes] = body``.

    ``body`` may use ``Var("acc", dtype of the contraction)``, ``Read(k, ...)`` of tensor ``inputs[k]`` and, inside
    and outside of reads, int64 variables named like the output axes of the contraction. ``dtype`` is the
    dtype of ``body``, of which the output is made.
    """

    body: Expr
    dtype: DType
    inputs: tuple[TensorType, ...] = ()

    def __post_init__(self) -> None:
        if self.body.dtype is not self.dtype:
            raise DlcError(f"an epilogue of dtype {self.dtype} has a body of dtype {self.body.dtype}; cast it")
        for node in walk(self.body):
            if isinstance(node, Read) and (
                node.input >= len(self.inputs) or len(node.indices) != self.inputs[node.input].rank
            ):
                raise DlcError(
                    f"an epilogue reads input {node.input} with {len(node.indices)} indices, which it does not have"
                )


def no_epilogue(dtype: DType) -> Epilogue:
    """Return the epilogue that stores the accumulated value as it is."""
    return Epilogue(Var(ACCUMULATOR, dtype), dtype)
