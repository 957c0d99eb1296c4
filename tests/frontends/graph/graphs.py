"""Helpers: define a graph of arrays by a function of tensors and run it in the interpreter."""

import numpy as np

from dlc.frontends.graph import Graph, Tensor, input, output
from dlc.ir.interpret import interpret
from dlc.ir.opdef import Mode


def define(function, *arrays, seed=0, dtype="float32"):
    """Return the graph of ``function`` over one input per array (x0, x1, ...) with outputs y0, y1, ..."""
    with Graph("test", seed=seed, dtype=dtype) as graph:
        tensors = [input(f"x{k}", a.shape, a.dtype) for k, a in enumerate(arrays)]
        results = function(*tensors)
        for position, result in enumerate([results] if isinstance(results, Tensor) else results):
            output(f"y{position}", result)
    return graph


def run(function, *arrays, mode=Mode.INFERENCE, **options):
    """Return what ``function`` gives on ``arrays``: one array, or a list."""
    arrays = [np.asarray(a) for a in arrays]
    graph = define(function, *arrays, **options)
    outputs = interpret(graph.ir, {f"x{k}": a for k, a in enumerate(arrays)}, mode)
    results = [outputs[name] for name in graph.ir.signature.results]
    return results[0] if len(results) == 1 else results


def random(*shape, seed=0, dtype=np.float32):
    """Return normal values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)
