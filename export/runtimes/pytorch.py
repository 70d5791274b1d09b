"""PyTorch itself: its own LSTM on packed batches, and the step-wise encoder that encodes datasets on a CPU."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from export.runtimes.base import Outputs, Runtime
from export.trace import ClientEncoder
from export.variants import NATIVE
from pipeline.checkpoint import WEIGHTS_FILE, load_encoder
from pipeline.stepwise import StepwiseEncoder


class PyTorchEager(Runtime):
    """Batches through the packed encoder, against its own rows one at a time."""

    name = "pytorch (packed batches)"
    files = MappingProxyType({NATIVE: WEIGHTS_FILE})

    def load(self, path: Path) -> None:
        self._model: torch.nn.Module = ClientEncoder(load_encoder(path.parent)).eval()

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        with torch.inference_mode():
            vectors, states = self._model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        return vectors.numpy(), states.numpy()

    def describe(self) -> dict[str, str]:
        return {"torch": torch.__version__, "device": "cpu"}


class PyTorchStepwise(PyTorchEager):
    """The vectors as `encode_dataset` computes them in float32; token states are those of `PyTorchEager`."""

    name = "pytorch (step-wise)"

    def load(self, path: Path) -> None:
        super().load(path)
        self._stepwise = StepwiseEncoder(load_encoder(path.parent))

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        _, states = super().run(input_ids, attention_mask)
        lengths = attention_mask.sum(axis=1)
        rows = np.flatnonzero(lengths)
        vectors = np.zeros((len(lengths), self._stepwise.config.dim), np.float32)
        if len(rows):
            vectors[rows] = self._stepwise(input_ids[rows], lengths[rows])
        return vectors, states
