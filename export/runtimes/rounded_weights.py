"""What a precision does to an encoder by itself: PyTorch in float32, with weights rounded to those of a graph.

A graph below float32 may be too coarse for an encoder without being wrong. It is if this computes vectors that are
about as far off: then the precision is the reason, and not the graph or its runtime.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from lengthwise.encoder.model import PackedEncoder
from lengthwise.export.graphs.trace import ClientEncoder
from lengthwise.export.graphs.variants import FP16
from lengthwise.export.runtimes.pytorch import EncoderRuntime, ModuleRuntime

_LEVELS = 63  # of a weight in 7 bits, as in the 8-bit graphs


class RoundedWeights(EncoderRuntime, ModuleRuntime):
    """The packed encoder, with its embedding and its recurrent weights in a graph's precision."""

    name = "pytorch (rounded weights)"

    def __init__(self, encoder: PackedEncoder, variant: str) -> None:
        """`variant`: a graph below float32."""
        super().__init__(encoder)
        self._variant = variant

    def load(self, path: Path) -> None:
        encoder = copy.deepcopy(self._load_encoder(path))
        with torch.no_grad():
            for name, weight in encoder.named_parameters():
                if name == "embedding.weight":
                    weight.copy_(self._rounded(weight.T).T)  # a scale for each column
                elif ".weight_ih" in name or ".weight_hh" in name:
                    weight.copy_(self._rounded(weight))
        self._model = ClientEncoder(encoder).eval()

    def _rounded(self, weight: Tensor) -> Tensor:
        if self._variant == FP16:
            return weight.half().float()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / _LEVELS
        return (weight / scale).round() * scale
