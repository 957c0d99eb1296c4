"""Named models built with the graph API, with seeded random weights, and the embedded example data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlc.errors import DlcError
from dlc.frontends.graph.scope import Graph
from dlc.frontends.models.examples import example_inputs
from dlc.frontends.models.handwritten import Split, digits
from dlc.frontends.models.text import BertConfig, GptConfig, bert, bert_base, gpt, gpt2, lstm, small_gpt
from dlc.frontends.models.vision import digits_cnn, mlp, mobilenet_v2, resnet18, resnet50
from dlc.ir import graph as ir_graph

REGISTRY: dict[str, Callable[..., Graph]] = {
    "mlp": mlp,
    "digits_cnn": digits_cnn,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "bert_base": bert_base,
    "gpt2": gpt2,
    "lstm": lstm,
    "small_gpt": small_gpt,
}


def names() -> tuple[str, ...]:
    """Return the names of the built-in models."""
    return tuple(REGISTRY)


def build(name: str, batch: Any = "batch", seed: int = 0, **options: Any) -> ir_graph.Graph:
    """Return the frozen graph of the model ``name``; the batch is symbolic unless given. DlcError for other names."""
    if name not in REGISTRY:
        raise DlcError(f"{name!r} is no built-in model; built-in are {', '.join(REGISTRY)}")
    return REGISTRY[name](batch=batch, seed=seed, **options).ir


__all__ = [
    "REGISTRY",
    "BertConfig",
    "GptConfig",
    "Split",
    "bert",
    "bert_base",
    "build",
    "digits",
    "digits_cnn",
    "example_inputs",
    "gpt",
    "gpt2",
    "lstm",
    "mlp",
    "mobilenet_v2",
    "names",
    "resnet18",
    "resnet50",
    "small_gpt",
]
