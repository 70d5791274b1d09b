"""PyTorch itself: its own LSTM on packed batches, and what encodes datasets on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.encoder.checkpoint import WEIGHTS_FILE, load_encoder
from lengthwise.encoder.cuda import arithmetic
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.export.graphs.trace import ClientEncoder
from lengthwise.export.graphs.variants import NATIVE
from lengthwise.export.runtimes.base import NotRunnable, Outputs, Runtime


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
        return _of_real_rows(self._stepwise, input_ids, lengths, self._stepwise.config.dim), states


class PyTorchCuda(Runtime):
    """The vectors as `encode_dataset` computes them on a GPU in float32; token states of the packed encoder there."""

    name = "pytorch (cuda)"
    tolerance = 1e-5
    files = MappingProxyType({NATIVE: WEIGHTS_FILE})

    def load(self, path: Path) -> None:
        if not torch.cuda.is_available():
            built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
            raise NotRunnable(
                f"PyTorch {torch.__version__}, built {built}, finds no NVIDIA GPU here; run it on a machine with one"
            )
        encoder = load_encoder(path.parent)
        self._engine = TorchEngine(encoder, "cuda")
        self._model = ClientEncoder(encoder).eval().to(self._engine.device)

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        device = self._engine.device
        with torch.inference_mode(), arithmetic(torch.float32):
            _, states = self._model(torch.from_numpy(input_ids).to(device), torch.from_numpy(attention_mask).to(device))
            fetched = states.cpu().numpy()
        lengths = attention_mask.sum(axis=1)
        return _of_real_rows(self._engine.encode_batch, input_ids, lengths, self._engine.config.dim), fetched

    def describe(self) -> dict[str, str]:
        return {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(self._engine.device),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }


def _of_real_rows(
    encode: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]],
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    dim: int,
) -> NDArray[np.float32]:
    """float32[batch, dim]: what `encode` gives for the rows that have tokens, zeros for the others."""
    rows = np.flatnonzero(lengths)
    vectors = np.zeros((len(lengths), dim), np.float32)
    if len(rows):
        vectors[rows] = encode(input_ids[rows], lengths[rows])
    return vectors
