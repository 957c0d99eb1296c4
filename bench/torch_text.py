"""The sequence models in torch: transformers' configurations with random weights, and recurrent classifiers.

Parameters have the names of dlc's models; what transformers adds (a tied output layer, masks and positions) has no
counterpart in dlc's graphs and is not loaded.
"""

from __future__ import annotations

import torch
import transformers
from torch import nn


class FromIds(nn.Module):
    """A transformers model of ids (and a mask) with plain tensors in and out, the outputs by name."""

    def __init__(self, model, *outputs):
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, input_ids, attention_mask=None):
        if attention_mask is None and torch.jit.is_tracing():
            # Without a mask transformers looks for packed sequences, which the exporter cannot express.
            attention_mask = torch.ones([int(extent) for extent in input_ids.shape], dtype=torch.int64)
        extra = {} if attention_mask is None else {"attention_mask": attention_mask}
        cached = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        made = self.model(input_ids=input_ids, return_dict=True, **extra, **cached)
        results = tuple(getattr(made, name) for name in self.outputs)
        return results if len(results) > 1 else results[0]


def bert_base(sequence=128, **sizes):
    return FromIds(transformers.BertModel(transformers.BertConfig(**sizes)), "last_hidden_state", "pooler_output")


def distilbert(sequence=128, **sizes):
    return FromIds(transformers.DistilBertModel(transformers.DistilBertConfig(**sizes)), "last_hidden_state")


def gpt2(sequence=64, **sizes):
    return FromIds(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)), "logits")


def gpt_4x256(sequence=128):
    return gpt2(
        vocab_size=4096,
        n_positions=128,
        n_embd=256,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


SMOL = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
}


def llama_135m(sequence=64, **sizes):
    given = {**SMOL, **sizes}
    config = transformers.LlamaConfig(**given, rms_norm_eps=1e-5, tie_word_embeddings=True)
    return FromIds(transformers.LlamaForCausalLM(config), "logits")


class Recurrent(nn.Module):
    """An LSTM or GRU and a linear layer on its last output."""

    def __init__(self, kind, features, hidden, layers, classes):
        super().__init__()
        setattr(self, kind, getattr(nn, kind.upper())(features, hidden, layers, batch_first=True))
        self.kind = kind
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.fc(getattr(self, self.kind)(x)[0][:, -1])


def lstm(sequence=128, features=128, hidden=256, layers=2, classes=10):
    return Recurrent("lstm", features, hidden, layers, classes)


def gru(sequence=128, features=128, hidden=256, layers=2, classes=10):
    return Recurrent("gru", features, hidden, layers, classes)
