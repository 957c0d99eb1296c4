"""Writes what the contenders of one case share: the model as an ONNX file, weights, inputs and a float64 reference.

    python -m bench.prepare resnet50

The ONNX file is the one that PyTorch's exporter writes of the torch module with dlc's weights, so that every runtime
reads what its users would give it. Files of an unchanged case are kept. Light topologies get random weights, and
onnxruntime's result as their reference.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bench.operations import count_flops, weight_bytes
from bench.optional import optional
from bench.peers.training import COMPARED, LEARNING_RATE
from bench.suite import TRAINING, Case, cases
from dlc.cli.arrays import write_arrays
from dlc.facade import load
from dlc.frontends import models
from dlc.frontends.graph import losses, optim
from dlc.ir.graph import Graph, Role
from dlc.ir.training import Clipping
from dlc.passes.pipeline import INFERENCE
from dlc.passes.pipeline import TRAINING as TRAINING_PASSES
from dlc.passes.train_step import TrainOptions, train_step
from dlc.training.step import Measured

FILES = Path(__file__).resolve().parent.parent / "build" / "bench"
VERSION = 3  # of the files' contents
INPUT_SETS = 4  # runs cycle through these, so that none is fed what the one before it was
SEED = 0


def folder_of(case: Case) -> Path:
    """Return where the files of a case lie."""
    return FILES / case.name


def prepared(case: Case) -> dict[str, Any] | None:
    """Return the facts of a prepared case, None if there are none or they are of another definition."""
    path = folder_of(case) / "facts.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text())
    return facts if facts["key"] == key_of(case) else None


def key_of(case: Case) -> str:
    """Return what the files of a case depend on, as text."""
    return json.dumps([VERSION, SEED, INPUT_SETS, case.to_json()], sort_keys=True, default=list)


def prepare(case: Case, threads: int) -> dict[str, Any]:
    """Write the files of a case and return its facts: FLOPs and least bytes of a run, input shapes, reference."""
    FILES.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{case.name}.", dir=FILES))
    try:
        facts = _write(case, folder, threads)
        shutil.rmtree(folder_of(case), ignore_errors=True)
        folder.rename(folder_of(case))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return facts


def _write(case: Case, folder: Path, threads: int) -> dict[str, Any]:
    if case.light:
        facts = _prepare_light(case, folder)
    elif case.kind == TRAINING:
        facts = _prepare_training(case, folder, threads)
    else:
        facts = _prepare_inference(case, folder, threads)
    facts["key"] = key_of(case)
    (folder / "facts.json").write_text(json.dumps(facts))
    return facts


def _weights(graph: Graph) -> dict[str, np.ndarray]:
    kept = (Role.PARAMETER, Role.STATE)
    return {s.name: s.initial for s in graph.signature.inputs if s.role in kept and s.initial is not None}


def _size(*arrays: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for group in arrays for array in group.values())


def _write_inputs(folder: Path, sets: list[dict[str, np.ndarray]]) -> dict[str, list[int]]:
    named = {f"{number}/{name}": array for number, feeds in enumerate(sets) for name, array in feeds.items()}
    write_arrays(folder / "inputs.npz", named)
    return {name: list(array.shape) for name, array in sets[0].items()}


def _input_sets(graph: Graph) -> list[dict[str, np.ndarray]]:
    sets = [models.example_inputs(graph, SEED + number) for number in range(INPUT_SETS)]
    for feeds in sets:
        for name in feeds:
            if name == "attention_mask":  # no padding: every token counts
                feeds[name] = np.ones_like(feeds[name])
    return sets


# -- inference --------------------------------------------------------------------------------------


def _prepare_inference(case: Case, folder: Path, threads: int) -> dict[str, Any]:
    torch, peers = optional("torch"), optional("bench.torch_models")
    torch.set_num_threads(threads)
    graph = models.build(case.model, batch=case.batch, seed=SEED, **case.options)
    weights = _weights(graph)
    write_arrays(folder / "weights.npz", weights)
    sets = _input_sets(graph)
    shapes = _write_inputs(folder, sets)
    module = peers.load_weights(peers.torch_module(case.model, case.options), weights)
    inputs = {name: torch.from_numpy(array) for name, array in sets[0].items()}
    path = folder / "model.onnx"
    _export(module, inputs, path)
    with torch.inference_mode():
        wide = [t.double() if t.is_floating_point() else t for t in inputs.values()]
        results = module.double()(*wide)
    results = results if isinstance(results, tuple) else (results,)
    reference = {str(number): tensor.numpy() for number, tensor in enumerate(results)}
    write_arrays(folder / "reference.npz", reference)
    size = weight_bytes(graph) + _size(sets[0]) + _size(reference) // 2
    return {"flops": count_flops(graph, INFERENCE), "bytes": size, "shapes": shapes, "reference": "PyTorch in float64"}


def _export(module: Any, inputs: dict[str, Any], path: Path) -> None:
    torch = optional("torch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.backends.mha.set_fastpath_enabled(False)  # it has no counterpart in ONNX
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tuple(inputs.values()), str(path), input_names=list(inputs), dynamo=False, opset_version=17
        )


def _prepare_light(case: Case, folder: Path) -> dict[str, Any]:
    onnx, onnxruntime, light = optional("onnx"), optional("onnxruntime"), optional("bench.light_models")
    (source,) = (path for path in light.PATHS if os.path.basename(path) == f"light_{case.model}.onnx")
    path = folder / "model.onnx"
    onnx.save(light.random_weights(onnx.load(source), SEED), path)
    graph = load(path)
    sets = _input_sets(graph)
    shapes = _write_inputs(folder, sets)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    reference = {str(number): array for number, array in enumerate(session.run(None, sets[0]))}
    write_arrays(folder / "reference.npz", reference)
    size = weight_bytes(graph) + _size(sets[0], reference)
    return {"flops": count_flops(graph, INFERENCE), "bytes": size, "shapes": shapes, "reference": "onnxruntime"}


# -- training ------------------------------------------------------------------------------------------


def _prepare_training(case: Case, folder: Path, threads: int) -> dict[str, Any]:
    torch, peers = optional("torch"), optional("bench.torch_models")
    step = optional("bench.peers.torch_training").step
    torch.set_num_threads(threads)
    graph = models.build(case.model, batch=case.batch, seed=SEED, **case.options)
    weights = _weights(graph)
    write_arrays(folder / "weights.npz", weights)
    sets = _input_sets(graph)
    (logits,) = (v.type.shape for v, n in zip(graph.outputs, graph.signature.outputs, strict=True) if n == "logits")
    for number, feeds in enumerate(sets):
        generator = np.random.default_rng([SEED, number])
        feeds["label"] = generator.integers(0, int(logits[-1]), [int(d) for d in logits[:-1]])
    shapes = _write_inputs(folder, sets)
    module = peers.load_weights(peers.torch_module(case.model, case.options), weights).double().train()
    optimizer = torch.optim.Adam(module.parameters(), LEARNING_RATE)
    wanted = []
    # A worker's first runs: one to start with, one before its first round, then the sets in turn.
    for number in (0, 0, *range(COMPARED - 2)):
        *inputs, labels = (torch.from_numpy(array) for array in sets[number].values())
        inputs = [t.double() if t.is_floating_point() else t for t in inputs]
        wanted.append(step(module, optimizer, inputs, labels))
    write_arrays(folder / "reference.npz", {"0": np.array(wanted)})
    parameters = {s.name: s.initial for s in graph.signature.inputs if s.role is Role.PARAMETER}
    # Each parameter and its two moments are read and written once.
    size = 6 * sum(array.nbytes for array in parameters.values()) + _size(sets[0])
    loss = Measured(losses.cross_entropy("logits", "label", axis=-1), ())
    composed = train_step(graph, TrainOptions(loss, optim.Adam(LEARNING_RATE), Clipping(None, None), None))
    return {
        "flops": count_flops(composed, TRAINING_PASSES),
        "bytes": size,
        "shapes": shapes,
        "reference": "PyTorch in float64",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=list(cases()))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    prepare(cases()[options.case], options.threads)


if __name__ == "__main__":
    main()
