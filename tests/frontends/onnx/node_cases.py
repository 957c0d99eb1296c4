"""The cases of onnx.backend.test as models with arrays, and their comparison."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test import loader
from onnx.backend.test.case.node import collect_testcases

from dlc.errors import DlcError
from dlc.frontends.onnx import load
from dlc.ir.graph import Graph

RANDOM = ("bernoulli", "training_dropout")
"""Cases whose results nobody can predict, or that are in training mode."""

# The expanded form rounds to float16 after every step, and dlc multiplies in float32.
ROUNDED = {"test_attention_4d_causal_fp16_expanded"}


@dataclass(frozen=True)
class Case:
    name: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]
    rtol: float
    atol: float


@lru_cache(maxsize=1)
def cases() -> list[Case]:
    """All node cases, and the stored ones of the wheel that have tensors only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [
            Case(c.name, c.model, _arrays(c.data_sets[0][0]), _arrays(c.data_sets[0][1]), c.rtol, c.atol)
            for c in collect_testcases(None)
        ]
    tensors = [c for c in found if all(isinstance(v, np.ndarray | np.generic) for v in (*c.inputs, *c.outputs))]
    return [*tensors, *_stored()]


def _arrays(values: Sequence[Any]) -> list[Any]:
    return [numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for v in values]


def _stored() -> Iterator[Case]:
    for kind in ("simple", "pytorch-converted"):
        for case in loader.load_model_tests(kind=kind):
            model = onnx.load(f"{case.model_dir}/model.onnx")
            infos = (*model.graph.input, *model.graph.output)
            folders = sorted(glob.glob(f"{case.model_dir}/test_data_set_0"))
            if not folders or any(i.type.WhichOneof("value") != "tensor_type" for i in infos):
                continue
            if len(glob.glob(f"{folders[0]}/*.pb")) != len(infos):
                continue

            def read(stem: str, count: int, folder: str = folders[0]) -> list[np.ndarray]:
                return [numpy_helper.to_array(onnx.load_tensor(f"{folder}/{stem}_{k}.pb")) for k in range(count)]

            inputs, outputs = read("input", len(model.graph.input)), read("output", len(model.graph.output))
            yield Case(case.name, model, inputs, outputs, case.rtol, case.atol)


def import_case(case: Case) -> tuple[Graph, dict[str, np.ndarray]] | None:
    """Import a case, its inputs as data or, where shapes depend on them, as constants; None if dlc refuses it."""
    names = [i.name for i in case.model.graph.input]
    feeds = dict(zip(names, case.inputs))
    try:
        shapes = {n: np.shape(a) for n, a in feeds.items()}
        graph = load(case.model)
        if not all(v.type.is_static for v in graph.inputs):
            graph = load(case.model, shapes=shapes)
    except DlcError:
        try:
            graph = load(with_constants(case))
        except (DlcError, TypeError, ValueError, AttributeError, NotImplementedError):  # inputs that are no tensors
            return None
        feeds = {}
    used = {s.name for s in graph.signature.inputs}
    return graph, {n: np.asarray(a) for n, a in feeds.items() if n in used}


def with_constants(case: Case) -> onnx.ModelProto:
    """The case's model with its inputs stored as initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    names = [i.name for i in model.graph.input]
    del model.graph.input[:]
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in zip(names, case.inputs))
    return model


def difference(case: Case, found: dict[str, np.ndarray]) -> str:
    """Say how results differ from what the case wants, or return an empty text."""
    for info, wanted in zip(case.model.graph.output, case.outputs):
        wanted, got = np.asarray(wanted), found[info.name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            return f"{info.name} is {got.dtype}{got.shape}, not {wanted.dtype}{wanted.shape}"
        if wanted.dtype.kind in "fc" or wanted.dtype.name.startswith(("bfloat", "float")):
            relative = max(case.rtol, 2**-6) if wanted.dtype.name == "bfloat16" else case.rtol
            close = np.allclose(
                got.astype(np.float64), wanted.astype(np.float64), rtol=relative, atol=case.atol, equal_nan=True
            )
            if not close:
                return f"{info.name} has other values"
        elif not (got == wanted).all():
            return f"{info.name} has other values"
    return ""
