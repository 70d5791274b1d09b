"""An artifact as an engine of `pipeline.encode`: onnxruntime computes, and PyTorch need not be installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.artifact import Artifact
from export.runtimes.base import NotRunnable
from export.runtimes.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from pipeline.batching import engine_costs
from pipeline.config import CONFIG_FILE, load_encoder_config
from pipeline.errors import ArtifactError
from pipeline.machine import cores
from pipeline.prefetch import in_threads

T = TypeVar("T")
R = TypeVar("R")
_GPU_WORKERS = 2


class OnnxEngine:
    """Runs the native graph of an artifact, batches side by side, each on one thread.

    Attributes:
        name: the provider and the graph; part of a run's identity.
        config: the encoder's.
        costs: what batches cost here: onnxruntime computes every row up to the longest.
        reference: None; the graph computes in float32.
        weights: fingerprint of the encoder's weights.
    """

    reference = None

    def __init__(
        self, artifact: Artifact, device: Literal["cpu", "cuda", "auto"] = "cpu", workers: int | None = None
    ) -> None:
        """Load the graph.

        Args:
            workers: batches at a time; one a core (on a GPU, two) where it is left out.

        Raises:
            ArtifactError: onnxruntime is not installed, or `device` is cuda and a GPU does not really run the graph.
        """
        self.config = load_encoder_config(artifact.folder / CONFIG_FILE)
        self.weights = str(artifact.manifest["weights"])
        self._runtime = _loaded(artifact.folder, device)
        on_gpu = isinstance(self._runtime, OnnxRuntimeCuda)
        self.costs = engine_costs("onnx", "fp32", on_gpu=on_gpu)
        self.name = f"{self._runtime.name} {self._runtime.file}"
        self._workers = workers or (_GPU_WORKERS if on_gpu else cores())

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim]."""
        attention_mask = (np.arange(input_ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return self._runtime.vectors(input_ids, attention_mask)

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`function` of each item, in order, on the engine's workers."""
        return in_threads(function, items, self._workers)


def _loaded(folder: Path, device: Literal["cpu", "cuda", "auto"]) -> OnnxRuntimeCpu:
    if device != "cpu":
        cuda = OnnxRuntimeCuda()
        try:
            cuda.load(folder)
            return cuda
        except NotRunnable as error:
            if device == "cuda":
                raise ArtifactError(f"encode.device is cuda, but {error}; set it to cpu or auto") from error
    cpu = OnnxRuntimeCpu(threads=1)
    try:
        cpu.load(folder)
    except NotRunnable as error:
        raise ArtifactError(f"{folder}: cannot be run: {error}") from error
    return cpu
