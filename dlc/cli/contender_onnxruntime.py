"""onnxruntime as a contender and as a reference."""

from __future__ import annotations

import numpy as np

from dlc.cli.contenders import Request
from dlc.cli.optional import onnxruntime
from dlc.errors import ConfigError

ort = onnxruntime()


class OnnxRuntime:
    """onnxruntime's CPU provider, all graph optimisations on, sequential execution."""

    def __init__(self, request: Request) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = request.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(request.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base of their own
            raise ConfigError(f"onnxruntime cannot load {request.model}: {error}") from error
        self.names = [output.name for output in self.session.get_outputs()]
        self.cache = "off"
        self.settings = f"onnxruntime {ort.__version__}, CPU provider, all optimisations, {request.threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        try:
            results = self.session.run(None, feeds)
        except Exception as error:
            raise ConfigError(f"onnxruntime cannot run this model on these inputs: {error}") from error
        return dict(zip(self.names, results, strict=True))


def open_model(request: Request) -> OnnxRuntime:
    """Make a session."""
    return OnnxRuntime(request)
