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


def branching_model():
    """Return y = exp(x) if c, else log(x): a model that only the interpreter runs."""
    x, y, c = (helper.make_tensor_value_info(n, t, shape) for n, t, shape in (
        ("x", TensorProto.FLOAT, [3]), ("y", TensorProto.FLOAT, [3]), ("c", TensorProto.BOOL, [])))  # fmt: skip
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["x"], [f"{op}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{op}_y", TensorProto.FLOAT, [3])],
        )
        for name, op in (("then_branch", "Exp"), ("else_branch", "Log"))
    }
    graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], name="choice", **branches)], "choice", [x, c], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    return model
