"""The same contractions in NumPy, PyTorch and onnxruntime, as functions without arguments.

Convolutions run in PyTorch on channels-last tensors and in onnxruntime on its own NCHW ones (which it
reorders at both ends of a one-node model: its figures include that).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from contraction_cases import Case
from optional import optional

MATMUL = "m k, k n -> m n"


def peers(case: Case, arrays, extra, threads: int, wanted: list[str]) -> dict[str, Callable[[], object]]:
    """Return the peers in ``wanted`` that know the case."""
    found: dict[str, Callable[[], object] | None] = {}
    if "numpy" in wanted and case.spec == MATMUL:
        found["numpy"] = lambda: np.matmul(*arrays)
    if "torch" in wanted:
        found["torch"] = _torch(case, arrays, extra, threads)
    if "onnxruntime" in wanted and case.weights and (case.conv or case.spec == MATMUL):
        found["onnxruntime"] = _onnxruntime(case, arrays, extra, threads)
    return {name: function for name, function in found.items() if function is not None}


def _torch(case: Case, arrays, extra, threads: int) -> Callable[[], object] | None:
    torch = optional("torch")
    torch.set_num_threads(threads)
    a, b = (torch.from_numpy(array) for array in arrays)
    bias = torch.from_numpy(extra[0]) if extra else None
    if case.conv is not None:
        stride, groups = case.conv
        shapes = {4: (3, 2, 0, 1), 3: (2, 0, 1), 2: (1, 0)}
        w = b.permute(shapes[b.dim()])
        w = w if b.dim() == 4 else w.unsqueeze(1) if b.dim() == 3 else w.reshape(*w.shape, 1, 1)
        w = w.contiguous(memory_format=torch.channels_last)
        x = a.permute(0, 3, 1, 2)
        return lambda: torch.relu_(torch.nn.functional.conv2d(x, w, bias, stride, groups=groups))
    if "n h+r" in case.spec:
        x, dy = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
        kernel = case.lhs[1] - case.rhs[1] + 1
        w = torch.zeros((dy.shape[1], x.shape[1], kernel, kernel)).contiguous(memory_format=torch.channels_last)
        back = torch.ops.aten.convolution_backward
        return lambda: back(dy, x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    plain: dict[str, Callable[[], object]] = {
        MATMUL: (lambda: torch.addmm(bias, a, b)) if extra else (lambda: a @ b),
        "b k, b n -> k n": lambda: a.t() @ b,
        "b n, k n -> b k": lambda: a @ b.t(),
        "b k, k n -> b n": lambda: a @ b,
        "k, k n -> n": lambda: a @ b,
        "m k, k -> m": lambda: torch.mv(a, b),
        "s h d, t h d -> h s t": lambda: torch.matmul(a.permute(1, 0, 2), b.permute(1, 2, 0)),
        "h s t, t h d -> s h d": lambda: torch.matmul(a, b.permute(1, 0, 2)),
    }
    return plain.get(case.spec)


def _onnxruntime(case: Case, arrays, extra, threads: int) -> Callable[[], object]:
    ort, onnx = optional("onnxruntime"), optional("onnx")
    helper, numpy_helper, element = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    x, rhs = arrays
    if case.conv is not None:
        stride, groups = case.conv
        w = {4: rhs.transpose, 3: lambda *_: rhs.transpose(2, 0, 1)[:, None], 2: lambda *_: rhs.T[:, :, None, None]}
        values = {"w": w[rhs.ndim](3, 2, 0, 1), "b": extra[0]}
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[stride, stride], group=groups),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
        x = x.transpose(0, 3, 1, 2)
    else:
        values = {"w": rhs} | ({"b": extra[0]} if extra else {})
        nodes = [helper.make_node("Gemm" if extra else "MatMul", ["x", *values], ["y"])]
    x = np.ascontiguousarray(x)
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", element, x.shape)],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)
