"""Small ONNX models, well formed or not."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear_model(batch="batch", weights=None, op="Gemm", name="x", opset=20):
    """Return y = x W + b with x (batch, 4) and W (4, 3), by the op ``op``."""
    generator = np.random.default_rng(0)
    w = generator.standard_normal((4, 3)).astype(np.float32) if weights is None else weights
    b = generator.standard_normal(3).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, [name, "W", "b"], ["y"], name="dense")],
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(w, "W"), numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="a test")
    model.ir_version = 9
    return model


def write_model(path, **options):
    onnx.save(linear_model(**options), path)
    return path
