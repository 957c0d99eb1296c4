"""Canonicalisation: one form for what can be written in several, with less work. Rules are beside it."""

from __future__ import annotations

from dataclasses import dataclass

from dlc.ir.graph import Graph
from dlc.ir.opdef import Mode
from dlc.passes.canonicalize.contract import CONTRACT_RULES
from dlc.passes.canonicalize.elementwise import ELEMENTWISE_RULES
from dlc.passes.canonicalize.movement import MOVEMENT_RULES
from dlc.passes.fixed import fixed_inputs
from dlc.passes.rewrite import rewrite


@dataclass(frozen=True)
class CanonicalizeOptions:
    """``mode`` decides which inputs are fixed: in inference scales move into weights, in training they do not."""

    mode: Mode = Mode.INFERENCE


def canonicalize(graph: Graph, options: CanonicalizeOptions = CanonicalizeOptions()) -> Graph:
    """Apply all rules until none matches; the same object if none did."""
    rules = (*MOVEMENT_RULES, *ELEMENTWISE_RULES, *CONTRACT_RULES)
    return rewrite(graph, rules, fixed=lambda g: fixed_inputs(g, options.mode))
