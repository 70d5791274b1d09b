"""The encoder on an NVIDIA GPU: cuDNN's LSTM, several batches in flight, and no more than fits into memory.

- A batch has a stream slot of its own: a CUDA stream and page-locked memory. While one slot's batch is computed,
  another's ids are copied in and a third's vectors out; a slot's thread waits for its own vectors only.
- Rows of one length go to cuDNN as they are, which is its fast path; the rest is packed. Rows are sorted from the
  longest to the shortest on the host, since PyTorch's own sorting makes the host wait for the GPU.
- Tensor cores take half precision in multiples of eight only, so an embedding of 300 is padded with four columns of
  zeros, and the weights that it is multiplied by with four more (docs.nvidia.com, "Deep Learning Performance").
- TF32 is off in float32: it would move vectors by more than exports may differ. In bfloat16 it has to be on, because
  PyTorch takes "off" to mean no tensor cores at all (`tf32_settings`).
- Memory per cell (a token's place in the padded batch) is measured once, on two small batches. Free memory then limits
  how many slots are used and how large a batch may be. A batch that is split may differ in the last bits.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lengthwise.config import Precision
from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder.order import encode_longest_first
from lengthwise.encoder.padding import read_batch
from lengthwise.errors import LengthwiseError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STREAM_SLOTS = 3  # one batch computed, one copied in, one copied out
_TENSOR_CORE_MULTIPLE = 8  # of 16-bit numbers
_USABLE_SHARE = 0.8  # of the free memory
_PROBE_ROWS, _PROBE_TOKENS = (64, 320), 16
_BF16_SINCE = (8, 0)  # compute capability
_CUDNN_WITH_BF16 = 91_300
log = logging.getLogger(__name__)


class StreamSlot(Protocol):
    """Copies and computes one batch at a time."""

    def run(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`compute` of the ids on the device, copied back to the host."""


class CudaStreamSlot:
    """A CUDA stream with page-locked memory, which PyTorch caches."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._done = torch.cuda.Event(blocking=True)  # the waiting thread sleeps

    def run(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`compute` of the ids on the device, copied back to the host."""
        with torch.cuda.stream(self._stream):
            vectors = compute(torch.from_numpy(input_ids).pin_memory().to(self._device, non_blocking=True))
            fetched = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
            fetched.copy_(vectors, non_blocking=True)
            self._done.record()
        self._done.synchronize()
        return fetched.numpy()


class StreamedEncoder:
    """Runs an encoder on a device through stream slots; any number of threads may call it.

    Attributes:
        slots: batches at a time.
        most_cells: rows x longest row of a batch that is computed at once; None for no limit.
    """

    def __init__(self, encoder: PackedEncoder, slots: Sequence[StreamSlot], max_batch_cells: int | None = None) -> None:
        self._encoder, self.slots, self.max_batch_cells = encoder, len(slots), max_batch_cells
        self._free: SimpleQueue[StreamSlot] = SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], each from 1 to sequence, to float32[batch, dim]."""
        input_ids, lengths = read_batch(input_ids, lengths, self._encoder.config)
        rows, longest = input_ids.shape
        max_rows = rows if self.max_batch_cells is None else max(1, self.max_batch_cells // longest)
        if rows <= max_rows:
            return self._encode_part(input_ids, lengths)
        cuts = np.array_split(np.arange(rows), -(-rows // max_rows))
        return np.concatenate([self._encode_part(input_ids[part], lengths[part]) for part in cuts])

    def _encode_part(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        if (lengths == input_ids.shape[1]).all():
            return self._run_in_slot(self._encoder.forward_equal_lengths, input_ids)
        return encode_longest_first(self._encode_sorted, input_ids, lengths)

    def _encode_sorted(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        on_host = torch.from_numpy(lengths)
        return self._run_in_slot(lambda ids: self._encoder(ids, on_host, is_sorted=True), input_ids)

    def _with_arithmetic(self, compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Kernels are chosen at launch, so nothing is held while the GPU computes."""

        def launch(ids: Tensor) -> Tensor:
            with arithmetic(self._encoder.embedding.weight.dtype):
                return compute(ids)

        return launch

    def _run_in_slot(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        slot = self._free.get()
        try:
            with torch.inference_mode():
                return slot.run(self._with_arithmetic(compute), input_ids)
        finally:
            self._free.put(slot)


def make_cuda_encoder(
    encoder: PackedEncoder, device: torch.device, precision: Precision, slots: int, max_cells: int
) -> StreamedEncoder:
    """A copy of an encoder on a GPU; later changes to the encoder have no effect on it.

    Args:
        slots: batches at a time, if as many of `max_cells` fit into memory; at least one.
        max_cells: of the largest batch to expect.

    Raises:
        LengthwiseError: the GPU cannot compute in this precision.
    """
    check_precision(precision, torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    if precision == "bf16" and not cudnn_has_bf16():
        log.warning("PyTorch's LSTM takes bfloat16 through cuDNN from 9.13 on: precision fp16 is faster here")
    on_device = convert_encoder(
        encoder if precision == "fp32" else pad_to_multiple_of_8(encoder), device, DTYPES[precision]
    )
    stream_slots = [CudaStreamSlot(device) for _ in range(slots)]
    torch.cuda.synchronize(device)  # the weights have arrived before another stream reads them
    free = _USABLE_SHARE * _free_bytes(device)
    used, max_batch_cells = slots_and_cells(
        free, bytes_per_cell(StreamedEncoder(on_device, stream_slots[:1]), device), slots, max_cells
    )
    return StreamedEncoder(on_device, stream_slots[:used], max_batch_cells)


def bytes_per_cell(encoder: StreamedEncoder, device: torch.device) -> float:
    """Measured memory per additional cell, the larger of batches of equal and of mixed lengths."""
    peaks = []
    for rows in _PROBE_ROWS[:1] + _PROBE_ROWS:  # the first run allocates what libraries keep
        equal = np.full(rows, _PROBE_TOKENS)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for lengths in (equal, equal - np.arange(rows) % 2):
            encoder(np.zeros((rows, _PROBE_TOKENS), np.int64), lengths)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return max(1.0, (peaks[2] - peaks[1]) / ((_PROBE_ROWS[1] - _PROBE_ROWS[0]) * _PROBE_TOKENS))


def slots_and_cells(free: float, cell_bytes: float, slots: int, max_cells: int) -> tuple[int, int]:
    """How many slots fit into the free bytes, and how many cells each batch may have.

    Fewer slots are preferred to smaller batches: a batch that is not split is the planned one.
    """
    cells = max(1, int(free / cell_bytes))
    used = max(1, min(slots, cells // max_cells))
    return used, cells // used


def pad_to_multiple_of_8(encoder: PackedEncoder) -> PackedEncoder:
    """The same encoder with its embedding padded by zero columns to a multiple of eight; itself if it is one."""
    missing = -encoder.config.embedding_dim % _TENSOR_CORE_MULTIPLE
    if not missing:
        return encoder
    first = f"{encoder.config.cell}.weight_ih_l0"
    widened = {"embedding.weight", first, f"{first}_reverse", "static_projection.weight"}
    weights = {
        name: torch.nn.functional.pad(weight, (0, missing)) if name in widened else weight
        for name, weight in encoder.state_dict().items()
    }
    wider = PackedEncoder(encoder.config.model_copy(update={"embedding_dim": encoder.config.embedding_dim + missing}))
    wider.load_state_dict(weights)
    return wider


def convert_encoder(encoder: PackedEncoder, device: torch.device, dtype: torch.dtype) -> PackedEncoder:
    """A copy whose embedding and LSTM compute in `dtype`; the head stays in float32."""
    copied = copy.deepcopy(encoder).eval().to(device)
    copied.embedding.to(dtype)
    copied.rnn.to(dtype)
    if device.type == "cuda":
        flatten_weights(copied.rnn)
    return copied


def flatten_weights(rnn: torch.nn.RNNBase) -> None:
    """Put the weights of recurrent layers into one block of memory, which cuDNN otherwise does at every call.

    PyTorch has done so where its list of what cuDNN takes has the type; bfloat16 is not on it (torch 2.13), although
    its LSTM goes through cuDNN.
    """
    dtype, listed = rnn.all_weights[0][0].dtype, torch.backends.cudnn.CUDNN_TENSOR_DTYPES
    if dtype in listed or not cudnn_has_bf16():
        return
    listed.add(dtype)
    try:
        with arithmetic(dtype):
            rnn.flatten_parameters()
    finally:
        listed.discard(dtype)


def cudnn_has_bf16() -> bool:
    """Whether cuDNN's LSTM takes bfloat16, as it does from 9.13 on (github.com/pytorch/pytorch/pull/164411)."""
    return (torch.backends.cudnn.version() or 0) >= _CUDNN_WITH_BF16


def check_precision(precision: Precision, name: str, capability: tuple[int, int]) -> None:
    """Refuse bfloat16 where a GPU lacks it.

    Args:
        name: of the GPU, for the message.
        capability: its compute capability, major and minor.

    Raises:
        LengthwiseError: it does.
    """
    if precision == "bf16" and capability < _BF16_SINCE:
        raise LengthwiseError(
            f"the precision is bf16, which {name} (compute capability {capability[0]}.{capability[1]}) does not"
            " compute; choose fp16 or fp32"
        )


def _free_bytes(device: torch.device) -> int:
    """Memory that the driver has free, and that PyTorch has cached."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


class _Arithmetic:
    """How many threads use PyTorch's process-wide arithmetic settings, and which ones."""

    def __init__(self) -> None:
        self.turn, self.changed, self.inside = threading.Lock(), threading.Condition(), 0
        self.settings: tuple[str, str] | None = None
        self.before: list[str] = []


_arithmetic = _Arithmetic()


@contextmanager
def arithmetic(dtype: torch.dtype) -> Iterator[None]:
    """PyTorch's settings as an LSTM in `dtype` and its float32 head need them, independent of the program's.

    They are process-wide: a thread that needs others waits until the last user has left, and later threads queue
    behind it, so a thread inside must not enter again.
    `torch.backends.cudnn.flags` would switch cuDNN itself off besides. Reading `torch.backends.cudnn.allow_tf32`
    meanwhile raises an error in PyTorch, which does not mix its older flags with these.
    """
    required, backends = tf32_settings(dtype), tf32_backends()
    with _arithmetic.turn, _arithmetic.changed:
        _arithmetic.changed.wait_for(lambda: not _arithmetic.inside or _arithmetic.settings == required)
        if not _arithmetic.inside:
            _arithmetic.settings, _arithmetic.before = required, [backend.fp32_precision for backend in backends]
            for backend, precision in zip(backends, required, strict=True):
                backend.fp32_precision = precision
        _arithmetic.inside += 1
    try:
        yield
    finally:
        with _arithmetic.changed:
            _arithmetic.inside -= 1
            if not _arithmetic.inside:
                for backend, precision in zip(backends, _arithmetic.before, strict=True):
                    backend.fp32_precision = precision
                _arithmetic.changed.notify_all()


def tf32_settings(dtype: torch.dtype) -> tuple[str, str]:
    """The precision for each of `tf32_backends`, for an LSTM in `dtype`.

    Where TF32 is off, PyTorch asks cuDNN for CUDNN_FMA_MATH in every type but float16, so bfloat16 would be kept from
    tensor cores (ATen/cudnn/Descriptors.h of torch 2.13, as since github.com/pytorch/pytorch/pull/120277). With it on,
    cuDNN is free to choose, and computes bfloat16 as it is.
    """
    return ("tf32" if dtype == torch.bfloat16 else "ieee"), "ieee"


def tf32_backends() -> tuple[Any, Any]:
    """The settings objects that say whether LSTMs and products on a GPU may use TF32."""
    return torch.backends.cudnn.rnn, torch.backends.cuda.matmul
