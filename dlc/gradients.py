"""``dlc.grad``: gradients as a graph. Apart from the facade, so that loading a model does not load autodiff."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlc.facade import ir_graph
from dlc.ir.graph import Graph
from dlc.passes.autodiff.autodiff import grad as grad_graph


def grad(graph: Any, of: str, wrt: Sequence[str]) -> Graph:
    """Return the graph with an output ``grad_<name>`` added for each of ``wrt``: the gradient of ``of``.

    ``of`` names a rank-0 float output, ``wrt`` float inputs, parameters, or outputs computed on the way to it.
    Gradients may be differentiated again. Raises NotDifferentiableError naming the node that has no derivative.
    """
    return grad_graph(ir_graph(graph), of=of, wrt=wrt)
