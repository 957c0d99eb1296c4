"""Builds a torch module by the name of dlc's model and loads dlc's weights into it by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.optional import optional

TEXT = ("bert_base", "distilbert", "gpt2", "gpt_4x256", "llama_135m", "lstm", "gru")
UNMATCHED = ("num_batches_tracked", "lm_head.weight", "position_ids", "token_type_ids", "attn.bias", "masked_bias")


def torch_module(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Return the module in evaluation form; transformers is imported for the text models only."""
    module = optional("bench.torch_text" if name in TEXT else "bench.torch_vision")
    return getattr(module, name)(**options).eval()


def load_weights(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> nn.Module:
    """Load ``arrays`` by name; ValueError unless every parameter of both sides has its counterpart."""
    inner = module.model if type(module).__name__ == "FromIds" else module
    given = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items() if name != "random_key"}
    missing, unexpected = inner.load_state_dict(given, strict=False)
    missing = [name for name in missing if not name.endswith(UNMATCHED)]
    if missing or unexpected:
        raise ValueError(f"weights do not match the module: missing {missing[:5]}, unknown {list(unexpected)[:5]}")
    return module
