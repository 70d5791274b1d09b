"""`TorchEngine`: a PackedEncoder as an engine of `pipeline.encode`, on a CPU or a GPU.

Notable decisions:
- On a CPU in float32 the step-wise encoder computes (`pipeline.stepwise`); everywhere else PyTorch's own LSTM on packed
  batches, whose lengths the plan keeps equal, because that is what its fast kernels need.
- Batches run side by side, each on one thread. Threads that share one product wait for each other at its end, and
  lose a factor of ten where the machine has something else to do.
- On a GPU a worker has a stream and page-locked memory of its own: while one waits for its vectors, the next one's
  batch is copied and computed. TF32 is off in float32: it would move vectors by more than exports may differ.
- A batch that does not fit into memory is halved until it does. Its vectors may then differ in the last bits.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batching import engine_costs
from pipeline.config import Precision
from pipeline.encoder import PackedEncoder
from pipeline.errors import LengthwiseError
from pipeline.prefetch import in_threads
from pipeline.stepwise import StepwiseEncoder

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GPU_WORKERS = 3  # one batch computed, one copied in, one copied out


class TorchEngine:
    """Runs a PackedEncoder.

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
        self.device = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
        on_cpu = self.device.type == "cpu"
        if on_cpu and precision == "fp16":
            raise LengthwiseError("encode.precision is fp16, which PyTorch computes on a GPU only; set fp32 or bf16")
        if on_cpu and precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            log.warning("this CPU has no bfloat16 arithmetic: encode.precision = bf16 is slower here than fp32")
        self.name = f"torch {self.device.type}" + ("" if precision == "fp32" else f" {precision}")
        self.config = encoder.config
        self.reference = None if precision == "fp32" else TorchEngine(encoder, device, workers=workers)
        self._workers = workers or (torch.get_num_threads() if on_cpu else _GPU_WORKERS)
        self._local = threading.local()
        self.costs = engine_costs("torch", precision, on_gpu=not on_cpu)
        if on_cpu and precision == "fp32":
            self._encode: Callable[..., NDArray[np.float32]] = StepwiseEncoder(encoder.eval())
        else:
            self._encoder = _converted(encoder, self.device, _DTYPES[precision])
            self._encode = self._run_packed if on_cpu else self._run_on_gpu

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim]."""
        try:
            return self._encode(input_ids, lengths)
        except (RuntimeError, MemoryError) as error:
            if len(lengths) == 1 or not _out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(lengths) // 2
        log.warning("a batch of %d rows of up to %d tokens does not fit into memory; halved", *input_ids.shape)
        halves = (slice(None, half), slice(half, None))
        return np.concatenate([self.encode_batch(input_ids[part], lengths[part]) for part in halves])

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`function` of each item, in order, on the engine's workers."""
        threads = torch.get_num_threads()
        try:
            with _without_tf32():  # here, since it is the whole process's
                yield from in_threads(function, items, self._workers, partial(torch.set_num_threads, 1))
        finally:
            torch.set_num_threads(threads)  # for the MKL library, so is what the workers set

    def _vectors(self, input_ids: torch.Tensor, lengths: NDArray[np.int64]) -> torch.Tensor:
        """By the dense kernels where all lengths are equal, else packed; float32[batch, dim] on the ids' device."""
        if (lengths == input_ids.shape[1]).all():
            vectors: torch.Tensor = self._encoder.forward_equal(input_ids)
            return vectors
        packed: torch.Tensor = self._encoder(input_ids, torch.from_numpy(lengths))
        return packed

    def _run_packed(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return self._vectors(torch.from_numpy(input_ids), lengths).numpy()

    def _run_on_gpu(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self.device)
        stream = self._local.stream
        with torch.inference_mode(), torch.cuda.stream(stream), _without_tf32():
            ids = torch.from_numpy(input_ids).pin_memory().to(self.device, non_blocking=True)
            vectors = self._vectors(ids, lengths)
            fetched = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
            fetched.copy_(vectors, non_blocking=True)
            stream.synchronize()
        return fetched.numpy()


def _converted(encoder: PackedEncoder, device: torch.device, dtype: torch.dtype) -> PackedEncoder:
    """A copy whose embedding and LSTM compute in `dtype`; the head stays in float32."""
    copied = copy.deepcopy(encoder).eval().to(device)
    copied.embedding.to(dtype)
    copied.lstm.to(dtype)
    return copied


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """cuDNN in full float32; `torch.backends.cudnn.flags` would switch cuDNN itself off besides."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)  # what PyTorch's allocator of CPU memory says
