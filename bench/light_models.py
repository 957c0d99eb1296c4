"""The light models of the onnx wheel, and their copies with random weights."""

from __future__ import annotations

import glob
import os
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

PATHS = sorted(glob.glob(f"{os.path.dirname(onnx.__file__)}/backend/test/data/light/*.onnx"))
NAMES = [os.path.basename(p)[6:-5] for p in PATHS]
ROLES = {
    "BatchNormalization": ("", "scale", "bias", "mean", "variance"),
    "Conv": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
}


def stored_output(path: str) -> np.ndarray:
    return numpy_helper.to_array(onnx.load_tensor(path.replace(".onnx", "_output_0.pb")))


def random_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Replace every weight, which are all one constant, by seeded values of both signs, scaled by fan-in."""
    generator = np.random.default_rng(seed)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    shapes = {
        n.output[0]: tuple(int(d) for d in stored[n.input[0]]) for n in graph.node if n.op_type == "ConstantOfShape"
    }
    shapes.update((n, a.shape) for n, a in stored.items() if a.dtype == np.float32)
    roles: dict[str, str] = {}
    through = {n.output[0]: n.input[0] for n in graph.node if n.op_type in ("Unsqueeze", "Reshape")}
    for node in graph.node:
        for position, name in enumerate(node.input):
            roles.setdefault(through.get(name, name), (ROLES.get(node.op_type, ()) + ("",) * 9)[position])
            if node.op_type in ("Mul", "Add") and name in through:
                roles[through[name]] = "scale" if node.op_type == "Mul" else "bias"
    weights = {name: _draw(generator, roles.get(name, ""), shape) for name, shape in shapes.items()}
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [t for t in graph.initializer if t.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    inputs = [i for i in graph.input if i.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)
    made.ir_version = 4  # initializers need not be inputs
    return made


def _draw(generator: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
    match role:
        case "scale" | "variance":
            drawn = generator.uniform(0.7, 1.3, shape)
        case "mean" | "bias":
            drawn = generator.uniform(-0.2, 0.2, shape)
        case _:
            fan = max(prod(shape[1:]), 1)
            drawn = generator.normal(size=shape) * (2.0 / fan) ** 0.5
    return drawn.astype(np.float32)
