"""PyTorch's training step as a contender: eager, eager with the fused optimizer, or compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from bench.peers.training import LEARNING_RATE, FirstLosses
from bench.suite import cases
from bench.torch_models import load_weights, torch_module
from dlc.cli.arrays import read_arrays
from dlc.cli.contenders import Request


def step(module: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: list, labels: torch.Tensor) -> float:
    """Do one step and return its loss, before the update."""
    optimizer.zero_grad(set_to_none=True)
    logits = module(*inputs)
    loss = functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
    loss.backward()
    optimizer.step()
    return loss.item()


class TorchTraining:
    """A module in training form with Adam; the loss is read after every step."""

    def __init__(self, request: Request) -> None:
        torch.set_num_threads(request.threads)
        case = cases()[request.options["case"]]
        self.module = torch_module(case.model, case.options)
        load_weights(self.module, read_arrays(Path(request.options["weights"])))
        self.module.train()
        fused = {"fused": True} if request.options["optimizer"] == "fused" else {}
        self.optimizer = torch.optim.Adam(self.module.parameters(), LEARNING_RATE, **fused)
        compiled = request.options["compile"]
        if compiled:
            self.module = torch.compile(self.module)
        self.cache = "on" if compiled else "off"
        how = "torch.compile (inductor, default mode)" if compiled else "eager"
        optimizer = "Adam(fused=True)" if fused else "Adam, as by default"
        self.settings = f"PyTorch {torch.__version__}, {how}, {optimizer}, {request.threads} threads"
        self.losses = FirstLosses()

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do one step."""
        *inputs, labels = (torch.from_numpy(array) for array in feeds.values())
        return self.losses.after(step(self.module, self.optimizer, inputs, labels))


def open_model(request: Request) -> TorchTraining:
    """Build the module, load its weights and make its optimizer."""
    return TorchTraining(request)
