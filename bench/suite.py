"""What is measured: the cases of inference and training, with the shapes and options of each, and the contenders."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from dlc.driver.options import PRECISIONS

INFERENCE, TRAINING = "inference", "training"


@dataclass(frozen=True)
class Case:
    """One row: a built-in model with its options and batch, or (``light``) a topology of the onnx wheel."""

    name: str
    kind: str
    model: str
    batch: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    light: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the definition, as prepared files record it."""
        return asdict(self)


MLP = {"hidden": (512, 512)}
RECURRENT = {"sequence": 100, "features": 128, "hidden": 256, "layers": 2}

_INFERENCE = (
    Case("resnet50", INFERENCE, "resnet50"),
    Case("resnet18", INFERENCE, "resnet18"),
    Case("mobilenet_v2", INFERENCE, "mobilenet_v2"),
    Case("efficientnet_b0", INFERENCE, "efficientnet_b0"),
    Case("convnext_tiny", INFERENCE, "convnext_tiny"),
    Case("vit_b", INFERENCE, "vit_b"),
    Case("unet", INFERENCE, "unet"),
    Case("bert_base", INFERENCE, "bert_base", options={"sequence": 128}),
    Case("distilbert", INFERENCE, "distilbert", options={"sequence": 128}),
    Case("gpt2", INFERENCE, "gpt2", options={"sequence": 64}),
    Case("llama_135m", INFERENCE, "llama_135m", options={"sequence": 64}),
    Case("lstm", INFERENCE, "lstm", 8, RECURRENT),
    Case("gru", INFERENCE, "gru", 8, RECURRENT),
    Case("mlp", INFERENCE, "mlp", 64, MLP),
)
_BATCHES = (
    Case("resnet50_x8", INFERENCE, "resnet50", 8),
    Case("resnet18_x32", INFERENCE, "resnet18", 32),
    Case("mobilenet_v2_x8", INFERENCE, "mobilenet_v2", 8),
    Case("mobilenet_v2_x32", INFERENCE, "mobilenet_v2", 32),
    Case("efficientnet_b0_x32", INFERENCE, "efficientnet_b0", 32),
    Case("distilbert_x8", INFERENCE, "distilbert", 8, {"sequence": 128}),
)
BATCHES = tuple(case.name for case in _BATCHES)
"""Larger batches, measured on request."""
_TRAINING = (
    Case("train_mlp", TRAINING, "mlp", 64, MLP),
    Case("train_cnn", TRAINING, "cnn", 64),
    Case("train_resnet18", TRAINING, "resnet18", 8),
    Case("train_gpt", TRAINING, "gpt_4x256", 8, {"sequence": 128}),
    Case("train_lstm", TRAINING, "lstm", 16, {"sequence": 64, "features": 64, "hidden": 256, "layers": 1}),
)


def light_names() -> list[str]:
    """Return the names of the topologies in the onnx wheel, found without importing it."""
    spec = find_spec("onnx")
    if spec is None or spec.origin is None:
        return []
    pattern = os.path.join(os.path.dirname(spec.origin), "backend", "test", "data", "light", "*.onnx")
    return [os.path.basename(path)[len("light_") : -len(".onnx")] for path in sorted(glob.glob(pattern))]


def cases() -> dict[str, Case]:
    """Return every case by name, in the order in which they are measured."""
    light = (Case(f"light_{name}", INFERENCE, name, light=True) for name in light_names())
    return {case.name: case for case in (*_INFERENCE, *_BATCHES, *_TRAINING, *light)}


@dataclass(frozen=True)
class Peer:
    """A contender as the benchmark names it: the module behind it, its options and the kinds of case it can run."""

    name: str
    module: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    light: bool = True  # whether it can run a model of which there is only the ONNX file
    models: tuple[str, ...] | None = None  # the only models that it has; None if it has all
    environment: Mapping[str, str] = field(default_factory=dict)  # variables of its process


_OPENVINO, _DLC = "bench.peers.openvino_cpu", "dlc"
_JAX = "bench.peers.jax_cpu"
_TORCH, _TORCH_TRAINING = "bench.peers.torch_inference", "bench.peers.torch_training"

# Those written in JAX (bench.jax_models, which is imported by the contender only).
_JAX_MODELS = ("mlp", "cnn", "resnet18", "resnet50", "gpt2", "gpt_4x256", "lstm")

PEERS = (
    Peer("dlc", _DLC, INFERENCE),
    Peer("dlc-avx512", _DLC, INFERENCE, environment={"DLC_CPU_FEATURES": "avx512"}),
    Peer("onnxruntime", "onnxruntime", INFERENCE),
    Peer("openvino", _OPENVINO, INFERENCE, {"precision": "f32"}),
    Peer("torch", _TORCH, INFERENCE, {"compile": False}, light=False),
    Peer("torch-compile", _TORCH, INFERENCE, {"compile": True}, light=False),
    Peer("jax", _JAX, INFERENCE, light=False, models=_JAX_MODELS),
    Peer("dlc-bf16", _DLC, INFERENCE, {"precision": "bfloat16"}),
    Peer("openvino-bf16", _OPENVINO, INFERENCE, {"precision": "bf16"}),
    Peer("dlc", "bench.peers.dlc_training", TRAINING),
    Peer("torch", _TORCH_TRAINING, TRAINING, {"optimizer": "default", "compile": False}),
    Peer("torch-fused", _TORCH_TRAINING, TRAINING, {"optimizer": "fused", "compile": False}),
    Peer("torch-compile", _TORCH_TRAINING, TRAINING, {"optimizer": "fused", "compile": True}),
    Peer("jax", _JAX, TRAINING, models=_JAX_MODELS),
)
PEER_NAMES = tuple(dict.fromkeys(peer.name for peer in PEERS))
# Those that dlc's float32 is compared with; the speed of a case is that of the fastest of them over dlc's.
RIVALS = {INFERENCE: ("onnxruntime", "openvino"), TRAINING: ("torch", "torch-fused", "torch-compile")}
# Contenders of lower precision: ours, and the one that it is compared with.
NARROW, NARROW_RIVAL = "dlc-bf16", "openvino-bf16"

# Compiling by torch takes most of a run's time: by default it is measured for a model of each kind, and for training.
COMPILED = ("resnet50", "mobilenet_v2", "bert_base", "gpt2", "mlp", *(case.name for case in _TRAINING))


def peers_of(case: Case, names: tuple[str, ...], compile_all: bool = False) -> list[Peer]:
    """Return the contenders of a case among ``names``, in a fixed order."""
    wanted = [p for p in PEERS if p.kind == case.kind and p.name in names and _known(p) and _has(p, case)]
    compiles = compile_all or case.name in COMPILED
    return [p for p in wanted if compiles or not p.options.get("compile")]


def _has(peer: Peer, case: Case) -> bool:
    """Whether the contender can run the model of a case."""
    return (peer.light or not case.light) and (peer.models is None or case.model in peer.models)


def _known(peer: Peer) -> bool:
    """Whether this dlc has the precision of one of its own contenders."""
    return peer.module != _DLC or peer.options.get("precision", PRECISIONS[0]) in PRECISIONS
