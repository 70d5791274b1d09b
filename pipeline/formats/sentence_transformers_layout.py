"""What folders of sentence-transformers call things: read by `sentence_transformers`, written by its writer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SETTINGS_FILE = "config_sentence_transformers.json"
WORDS_FILE, LSTM_FILE, MODULE_FILE = "wordembedding_config.json", "lstm_config.json", "config.json"
WEIGHTS_FILE = "model.safetensors"
TABLE, LSTM_PREFIX, LINEAR = "emb_layer.weight", "encoder.", "linear"  # names of tensors
TOKENIZER_CLASS = "TransformersTokenizerWrapper"  # of a tokenizer.json
NO_LIMIT = 1_000_000  # the library's default max_seq_length
# The library's poolings that the encoder has, and what they are called here.
POOLINGS: Mapping[str, str] = MappingProxyType({"max": "max", "mean": "mean", "lasttoken": "end"})
# Activations by the encoder's names, as classes of PyTorch.
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        "identity": "torch.nn.modules.linear.Identity",
        "tanh": "torch.nn.modules.activation.Tanh",
        "relu": "torch.nn.modules.activation.ReLU",
        "sigmoid": "torch.nn.modules.activation.Sigmoid",
        "gelu": "torch.nn.modules.activation.GELU",
        "silu": "torch.nn.modules.activation.SiLU",
    }
)
