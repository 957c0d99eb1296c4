"""Places of tensors in the buffers of a kernel: at which element an index is found.

It must not know who decides where tensors lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlc.ir.expr import Expr
from dlc.ir.graph import Value
from dlc.ir.placement import Layout, Placement, row_major, span
from dlc.ir.simplify import Simplifier, strided_index, unravel
from dlc.ir.types import TensorType


@dataclass(frozen=True)
class Place:
    """A tensor of ``shape`` in ``buffer``: the strides of its dimensions, and the element at which it begins."""

    buffer: str
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    start: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the tensor's elements are the buffer's first ones, in their order."""
        return self.start == 0 and self.steps == row_major(self.shape)

    @property
    def end(self) -> int:
        """The element after the last one; the tensor is not empty."""
        return self.start + span(self.shape, self.steps)

    def index(self, indices: Sequence[Expr], simplify: Simplifier) -> Expr:
        """Return the element of the buffer at ``indices``."""
        return strided_index(indices, self.steps, self.start, simplify)

    def at(self, position: Expr, simplify: Simplifier) -> Expr:
        """Return the element of the buffer that is the tensor's at a row-major ``position``."""
        return position if self.is_whole else self.index(unravel(position, self.shape, simplify), simplify)


def whole(buffer: str, type_: TensorType) -> Place:
    """Return the place of a tensor that is a buffer of its own."""
    shape = static_shape(type_)
    return Place(buffer, shape, row_major(shape))


def static_shape(type_: TensorType) -> tuple[int, ...]:
    """Return the shape of a type without symbols."""
    return tuple(int(d) for d in type_.shape)  # type: ignore[call-overload]


def laid_out(buffer: str, type_: TensorType, layout: Layout | None) -> Place | None:
    """Return the place of a tensor in a buffer of its own and in ``layout``; None where its dimensions do not fit."""
    if layout is None:
        return whole(buffer, type_)
    shape = static_shape(type_)
    steps = layout.steps(shape)
    return None if steps is None else Place(buffer, shape, steps)


def places_of(
    inputs: Sequence[Value], outputs: Sequence[Value], placement: Placement
) -> tuple[dict[int, Place], dict[Value, Place]]:
    """Return the places of inputs, in buffers x0, x1, ... or inside outputs, and of outputs, in y0, y1, ...

    What ``placement`` wants of outputs may not fit them: these are whole, then.
    """
    given, wanted, inside = dict(placement.inputs), dict(placement.outputs), dict(placement.inside)
    results: dict[Value, Place] = {}
    for k, value in enumerate(outputs):
        results[value] = laid_out(f"y{k}", value.type, wanted.get(k)) or whole(f"y{k}", value.type)
    sources: dict[int, Place] = {}
    for k, value in enumerate(inputs):
        if k in inside:
            holder, start = results[outputs[inside[k].output]], inside[k].start
            first = holder.start + sum(i * step for i, step in zip(start, holder.steps, strict=True))
            sources[k] = Place(holder.buffer, static_shape(value.type), holder.steps, first)
            continue
        place = laid_out(f"x{k}", value.type, given.get(k))
        assert place is not None, "an input lies as it does: who places tensors asks whether its readers can read it"
        sources[k] = place
    return sources, results


def placed(outputs: Sequence[Value], results: Mapping[Value, Place], placement: Placement) -> tuple[int, ...]:
    """Return the numbers of the outputs whose places are what ``placement`` wants."""
    wanted = dict(placement.outputs)
    return tuple(k for k, v in enumerate(outputs) if k in wanted and laid_out("", v.type, wanted[k]) is not None)
