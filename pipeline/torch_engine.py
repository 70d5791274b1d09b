"""`TorchEngine`: a PackedEncoder as an engine of `pipeline.encode`, on a CPU or a GPU.

Notable decisions:
- On a CPU in float32 the step-wise encoder computes (`pipeline.stepwise`); everywhere else PyTorch's own LSTM on
  batches whose lengths the plan keeps equal, because that is what its fast kernels need; others are packed.
- Batches run side by side, each on one thread. Threads that share one product wait for each other at its end, and
  lose a factor of ten where the machine has something else to do.
- On a GPU a worker has a stream and page-locked memory of its own: while one waits for its vectors, the next one's
  batch is copied and computed. TF32 is off in float32: it would move vectors by more than exports may differ.
- A batch that does not fit into memory is halved until it does. Its vectors may then differ in the last bits.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batching import engine_costs
from pipeline.checkpoint import load_run_model, weights_fingerprint
from pipeline.config import Precision, RunConfig
from pipeline.encoder import PackedEncoder
from pipeline.errors import LengthwiseError
from pipeline.halving import encode_in_halves
from pipeline.prefetch import in_threads
from pipeline.stepwise import StepwiseEncoder
from pipeline.tokenizer import TextTokenizer

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GPU_WORKERS = 3  # one batch computed, one copied in, one copied out


class TorchEngine:
    """Runs a copy of a PackedEncoder.

    Attributes:
        name: device and precision; part of a run's identity, since both move the last bits.
        config: the encoder's.
        costs: what batches cost here.
        reference: the same encoder in float32, where this one's precision is lower, else None.
    """

    def __init__(
        self,
        encoder: PackedEncoder,
        device: Literal["cpu", "cuda", "auto"] = "cpu",
        precision: Precision = "fp32",
        workers: int | None = None,
    ) -> None:
        """Make the engine.

        Args:
            workers: batches at a time; as many as PyTorch has threads (on a GPU, three) where it is left out.

        Raises:
            LengthwiseError: there is no GPU, or the device cannot compute in this precision.
        """
        has_gpu = torch.cuda.is_available()
        if device == "cuda" and not has_gpu:
            raise LengthwiseError("encode.device is cuda, but PyTorch finds no GPU here; set it to cpu or auto")
        on_gpu = has_gpu and device != "cpu"
        if precision == "fp16" and not on_gpu:
            raise LengthwiseError("encode.precision is fp16, which PyTorch computes on a GPU only; set fp32 or bf16")
        if precision == "bf16" and not on_gpu and not cpu_has_bf16():
            log.warning("this CPU has no bfloat16 arithmetic: encode.precision = bf16 is slower here than fp32")
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.name = f"torch {self.device.type}" + ("" if precision == "fp32" else f" {precision}")
        self.config = encoder.config
        self.costs = engine_costs("torch", precision, on_gpu=on_gpu)
        self.reference = None if precision == "fp32" else TorchEngine(encoder, device, workers=workers)
        self._threads = torch.get_num_threads()
        self._workers = workers or (_GPU_WORKERS if on_gpu else self._threads)
        self._encode: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
        if on_gpu:
            self._encoder = _converted(encoder, self.device, _DTYPES[precision])
            self._streams: SimpleQueue[Any] = SimpleQueue()
            for _ in range(self._workers):
                self._streams.put(torch.cuda.Stream(self.device))
            torch.cuda.synchronize(self.device)  # the weights are there before another stream reads them
            self._encode = self._run_on_gpu
        elif precision == "fp32":
            self._encode = StepwiseEncoder(encoder)
        else:
            self._encoder = _converted(encoder, self.device, _DTYPES[precision])
            self._encode = self._run_on_cpu

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim].

        Raises:
            LengthwiseError: not even one row fits into memory.
        """
        return encode_in_halves(
            self._encode,
            input_ids,
            lengths,
            out_of_memory=_out_of_memory,
            device=self.device.type,
            release=torch.cuda.empty_cache if self.device.type == "cuda" else None,
        )

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`function` of each item, in order, on the engine's workers."""
        try:
            yield from in_threads(function, items, self._workers, partial(torch.set_num_threads, 1))
        finally:
            torch.set_num_threads(self._threads)  # what a worker sets is also what new threads begin with

    def _run_on_cpu(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return self._vectors(torch.from_numpy(input_ids), lengths).numpy()

    def _run_on_gpu(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        stream = self._streams.get()
        try:
            with torch.inference_mode(), torch.cuda.stream(stream), without_tf32():
                ids = torch.from_numpy(input_ids).pin_memory().to(self.device, non_blocking=True)
                vectors = self._vectors(ids, lengths)
                fetched = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
                fetched.copy_(vectors, non_blocking=True)
                stream.synchronize()
            return fetched.numpy()
        finally:
            self._streams.put(stream)

    def _vectors(self, input_ids: torch.Tensor, lengths: NDArray[np.int64]) -> torch.Tensor:
        """By the dense kernels where all lengths are equal, else packed; float32[batch, dim] on the ids' device."""
        if (lengths == input_ids.shape[1]).all():
            vectors: torch.Tensor = self._encoder.forward_equal(input_ids)
            return vectors
        packed: torch.Tensor = self._encoder(input_ids, torch.from_numpy(lengths))
        return packed


def open_torch(run: RunConfig, workers: int | None = None) -> tuple[TorchEngine, TextTokenizer, str]:
    """What a run encodes with: the checkpoint at model.path on an engine, its tokenizer, its weights' fingerprint.

    Args:
        workers: batches at a time, as for TorchEngine.

    Raises:
        LengthwiseError: one of them cannot be loaded, or they do not fit.
    """
    encoder, tokenizer = load_run_model(run)
    engine = TorchEngine(encoder, run.encode.device, run.encode.precision, workers)
    return engine, tokenizer, weights_fingerprint(encoder)


class without_tf32:
    """cuDNN and matrix products in full float32, for the whole process, while any thread is inside.

    `torch.backends.cudnn.flags` would switch cuDNN itself off besides.
    """

    _lock = threading.Lock()
    _inside = 0
    _before: tuple[str, str]

    def __enter__(self) -> None:
        cls = type(self)
        with cls._lock:
            if cls._inside == 0:
                cls._before = tuple(place.fp32_precision for place in _tf32_places())
                for place in _tf32_places():
                    place.fp32_precision = "ieee"
            cls._inside += 1

    def __exit__(self, *_: object) -> None:
        cls = type(self)
        with cls._lock:
            cls._inside -= 1
            if cls._inside == 0:
                for place, precision in zip(_tf32_places(), cls._before, strict=True):
                    place.fp32_precision = precision


def _tf32_places() -> tuple[Any, Any]:
    """Where PyTorch keeps whether LSTMs and products on a GPU may use TF32."""
    return torch.backends.cudnn.rnn, torch.backends.cuda.matmul


def cpu_has_bf16() -> bool:
    """Whether PyTorch's LSTM computes in bfloat16 on this CPU, and not only stores it."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _converted(encoder: PackedEncoder, device: torch.device, dtype: torch.dtype) -> PackedEncoder:
    """A copy whose embedding and LSTM compute in `dtype`; the head stays in float32."""
    copied = copy.deepcopy(encoder).eval().to(device)
    copied.embedding.to(dtype)
    copied.lstm.to(dtype)
    return copied


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator" in str(error)
