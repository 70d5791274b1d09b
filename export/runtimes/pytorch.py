"""PyTorch itself: its own LSTM on packed batches, and the engines that encode datasets on a CPU and on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.config import WEIGHTS_FILE
from lengthwise.encoder.checkpoint import load_encoder
from lengthwise.encoder.classify import LabelClassifier
from lengthwise.encoder.cuda import arithmetic
from lengthwise.encoder.model import PackedEncoder, encoder_classifier
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.export.graphs.trace import ClientEncoder
from lengthwise.export.graphs.variants import NATIVE
from lengthwise.export.runtimes.base import NotRunnable, Outputs, Runtime
from lengthwise.export.runtimes.tolerances import GPU_TOLERANCE


class ModuleRuntime(Runtime):
    """A PyTorch module with the inputs and outputs of the ONNX graph, on the CPU."""

    _model: Callable[..., tuple[torch.Tensor, ...]]

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        with torch.inference_mode():
            outputs = self._model(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        return tuple(output.numpy() for output in outputs)

    def describe(self) -> dict[str, str]:
        return {"torch": torch.__version__, "device": "cpu"}


class EncoderRuntime(Runtime):
    """Runs the encoder of a checkpoint."""

    files = MappingProxyType({NATIVE: WEIGHTS_FILE})

    def __init__(self, encoder: PackedEncoder | None = None) -> None:
        """`encoder`: the checkpoint's, if it is loaded already; otherwise `load` reads it."""
        self._encoder = encoder

    def _load_encoder(self, path: Path) -> PackedEncoder:
        encoder = load_encoder(path.parent) if self._encoder is None else self._encoder
        self.vocab_size = encoder.config.vocab_size
        return encoder


class PyTorchEager(EncoderRuntime, ModuleRuntime):
    """The packed encoder on batches, compared with its own single rows."""

    name = "pytorch (packed batches)"

    def load(self, path: Path) -> None:
        self._model = ClientEncoder(self._load_encoder(path)).eval()


class PyTorchStepwise(EncoderRuntime, ModuleRuntime):
    """Vectors and logits as datasets are encoded in float32 on a CPU; token states are those of `PyTorchEager`."""

    name = "pytorch (step-wise)"

    def load(self, path: Path) -> None:
        encoder = self._load_encoder(path)
        self._model = ClientEncoder(encoder).eval()
        self._stepwise, self._classifier = StepwiseEncoder(encoder), encoder_classifier(encoder)

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        states = super().run_unchecked(input_ids, attention_mask)[1]
        lengths = attention_mask.sum(axis=1)
        vectors = _encode_nonempty(self._stepwise, input_ids, lengths, self._stepwise.config.dim)
        return (vectors, states, *_logits(self._classifier, vectors))


class PyTorchCuda(EncoderRuntime):
    """Vectors and logits as datasets are encoded in float32 on a GPU; token states are the packed encoder's there."""

    name = "pytorch (cuda)"
    tolerance = GPU_TOLERANCE

    def load(self, path: Path) -> None:
        if not torch.cuda.is_available():
            built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
            raise NotRunnable(
                f"PyTorch {torch.__version__}, built {built}, finds no NVIDIA GPU here; run it on a machine with one"
            )
        encoder = self._load_encoder(path)
        self._engine = TorchEngine(encoder, "cuda")
        self._model = ClientEncoder(copy.deepcopy(encoder)).eval().to(self._engine.device)

    def run_unchecked(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        device = self._engine.device
        with torch.inference_mode(), arithmetic(torch.float32):
            states = self._model(torch.from_numpy(input_ids).to(device), torch.from_numpy(attention_mask).to(device))[1]
            fetched = states.cpu().numpy()
        lengths = attention_mask.sum(axis=1)
        vectors = _encode_nonempty(self._engine.encode_batch, input_ids, lengths, self._engine.config.dim)
        return (vectors, fetched, *_logits(self._engine.classifier, vectors))

    def describe(self) -> dict[str, str]:
        return {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(self._engine.device),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
        }


def _logits(classifier: LabelClassifier | None, vectors: NDArray[np.float32]) -> Outputs:
    return () if classifier is None else (classifier.logits(vectors),)


def _encode_nonempty(
    encode: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]],
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    dim: int,
) -> NDArray[np.float32]:
    """float32[batch, dim]: the result of `encode` for rows that have tokens, zeros for the others."""
    rows = np.flatnonzero(lengths)
    vectors = np.zeros((len(lengths), dim), np.float32)
    if len(rows):
        vectors[rows] = encode(input_ids[rows], lengths[rows])
    return vectors
