"""Named models built with the graph API, with seeded random weights, and the embedded example data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlc.errors import DlcError
from dlc.frontends.graph.scope import Graph
from dlc.frontends.models.convnext import convnext_tiny
from dlc.frontends.models.distilbert import DistilBertConfig, distilbert
from dlc.frontends.models.efficientnet import efficientnet_b0
from dlc.frontends.models.examples import example_inputs
from dlc.frontends.models.handwritten import Split, digits
from dlc.frontends.models.llama import LlamaConfig, llama, llama_135m
from dlc.frontends.models.recurrent import gru, lstm
from dlc.frontends.models.text import BertConfig, GptConfig, bert, bert_base, gpt, gpt2, gpt_4x256, small_gpt
from dlc.frontends.models.unet import unet
from dlc.frontends.models.vision import cnn, digits_cnn, mlp, mobilenet_v2, resnet18, resnet50
from dlc.frontends.models.vision_transformer import VitConfig, vit, vit_b
from dlc.ir import graph as ir_graph

REGISTRY: dict[str, Callable[..., Graph]] = {
    function.__name__: function
    for function in (
        mlp,
        digits_cnn,
        cnn,
        resnet18,
        resnet50,
        mobilenet_v2,
        efficientnet_b0,
        convnext_tiny,
        vit_b,
        unet,
        bert_base,
        distilbert,
        gpt2,
        llama_135m,
        lstm,
        gru,
        small_gpt,
        gpt_4x256,
    )
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
    "DistilBertConfig",
    "GptConfig",
    "LlamaConfig",
    "Split",
    "VitConfig",
    "bert",
    "bert_base",
    "build",
    "cnn",
    "convnext_tiny",
    "digits",
    "digits_cnn",
    "distilbert",
    "efficientnet_b0",
    "example_inputs",
    "gpt",
    "gpt2",
    "gpt_4x256",
    "gru",
    "llama",
    "llama_135m",
    "lstm",
    "mlp",
    "mobilenet_v2",
    "names",
    "resnet18",
    "resnet50",
    "small_gpt",
    "unet",
    "vit",
    "vit_b",
]
