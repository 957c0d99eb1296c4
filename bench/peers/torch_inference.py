"""PyTorch as a contender for inference: eager or compiled, with the weights of dlc's model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.suite import cases
from bench.torch_models import load_weights, torch_module
from dlc.cli.arrays import read_arrays
from dlc.cli.contenders import Request


class TorchInference:
    """A module in evaluation form under ``inference_mode``; arrays go in and out as tensors that share their memory."""

    def __init__(self, request: Request) -> None:
        torch.set_num_threads(request.threads)
        case = cases()[request.options["case"]]
        self.module = torch_module(case.model, case.options)
        load_weights(self.module, read_arrays(Path(request.options["weights"])))
        compiled = request.options["compile"]
        if compiled:
            self.module = torch.compile(self.module)
        self.cache = "on" if compiled else "off"
        how = "torch.compile (inductor, default mode)" if compiled else "eager"
        self.settings = f"PyTorch {torch.__version__}, {how}, inference_mode, {request.threads} threads"

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once."""
        with torch.inference_mode():
            results = self.module(*(torch.from_numpy(array) for array in feeds.values()))
        results = results if isinstance(results, tuple) else (results,)
        return {str(position): tensor.numpy() for position, tensor in enumerate(results)}


def open_model(request: Request) -> TorchInference:
    """Build the module and load its weights."""
    return TorchInference(request)
