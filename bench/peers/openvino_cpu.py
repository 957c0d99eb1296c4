"""OpenVINO's CPU plugin as a contender; the precision of inference is set explicitly."""

from __future__ import annotations

import numpy as np
import openvino as ov

from dlc.cli.contenders import Request


class OpenVino:
    """A compiled model and one request, tuned for latency in one stream."""

    cache = "off"

    def __init__(self, request: Request) -> None:
        precision = request.options["precision"]
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(request.threads),
            "INFERENCE_PRECISION_HINT": precision,
        }
        core = ov.Core()
        model = core.read_model(request.model)
        model.reshape({name: list(shape) for name, shape in request.shapes.items()})
        compiled = core.compile_model(model, "CPU", settings)
        self.outputs = [output.get_any_name() for output in compiled.outputs]
        self.request = compiled.create_infer_request()
        self.settings = f"OpenVINO {ov.__version__.partition('-')[0]}, CPU, " + ", ".join(
            f"{key}={value}" for key, value in settings.items()
        )

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once: inputs are read in place, outputs copied out of the request's buffers."""
        results = self.request.infer(feeds, share_inputs=True, share_outputs=False)
        return {name: results[position] for position, name in enumerate(self.outputs)}


def open_model(request: Request) -> OpenVino:
    """Read and compile the model."""
    return OpenVino(request)
