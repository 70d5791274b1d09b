"""PyTorch itself, on packed batches: the same code that encodes datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.runtimes.base import Outputs, Runtime
from export.trace import ClientEncoder
from pipeline.checkpoint import load_encoder


class PyTorchEager(Runtime):
    """Batches through the packed encoder, against its own rows one at a time."""

    name = "pytorch (packed batches)"
    file = "model.safetensors"
    tolerance = 1e-6

    def load(self, artifact: Path) -> None:
        self._model: torch.nn.Module = ClientEncoder(load_encoder(artifact)).eval()

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        with torch.inference_mode():
            vectors, states = self._model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        return vectors.numpy(), states.numpy()

    def describe(self) -> dict[str, str]:
        return {"torch": torch.__version__, "device": "cpu"}
