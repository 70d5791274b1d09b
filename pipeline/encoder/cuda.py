"""The encoder on an NVIDIA GPU: cuDNN's LSTM, several batches on their way at a time, and no more than fits.

Notable decisions:
- A batch has a lane to itself: a stream and page-locked memory. While one lane's batch is computed, another's ids are
  copied in and a third's vectors out; the thread of a lane waits for nothing but its own vectors.
- Rows of one length go to cuDNN as they are, which is its fast way; the residue is packed. For that, rows go from the
  longest to the shortest, sorted here, since PyTorch's own sorting makes the processor wait for the GPU.
- Tensor cores take half precision in eights only, so an embedding of 300 is given four more columns of zeros, and the
  LSTM four more weights to multiply them with (docs.nvidia.com, "Deep Learning Performance", tensor core requirements).
- TF32 is off in float32: it would move vectors by more than exports may differ. In bfloat16 it has to be on, for
  PyTorch takes "off" to mean no tensor cores at all (`settings_for`).
- What a cell (a row's place for a token) takes is measured once, by two small batches. As many lanes are used, and
  batches as large taken at once, as the memory that is free allows. A batch that is cut for it may differ in the last
  bits.
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
from lengthwise.errors import LengthwiseError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LANES = 3  # one batch computed, one copied in, one copied out
_EIGHT = 8  # what tensor cores take numbers of 16 bits in
_SHARE = 0.8  # of the memory that is free
_PROBE_ROWS, _PROBE_TOKENS = (64, 320), 16
_BF16_SINCE = (8, 0)  # compute capability
_CUDNN_WITH_BF16 = 91_300
log = logging.getLogger(__name__)


class Lane(Protocol):
    """What one batch at a time is copied and computed through."""

    def run(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`compute` of the ids on the device, brought back."""


class CudaLane:
    """A stream of its own and page-locked memory, which PyTorch keeps and hands out again."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._done = torch.cuda.Event(blocking=True)  # the thread that waits leaves its core to others

    def run(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`compute` of the ids on the device, brought back."""
        with torch.cuda.stream(self._stream):
            vectors = compute(torch.from_numpy(input_ids).pin_memory().to(self._device, non_blocking=True))
            fetched = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
            fetched.copy_(vectors, non_blocking=True)
            self._done.record()
        self._done.synchronize()
        return fetched.numpy()


class StreamedEncoder:
    """The vectors of an encoder on a device, through lanes; any number of threads may call it.

    Attributes:
        lanes: batches at a time.
        most_cells: rows x longest row of a batch that is computed at once; None for no limit.
    """

    def __init__(self, encoder: PackedEncoder, lanes: Sequence[Lane], most_cells: int | None = None) -> None:
        self._encoder, self.lanes, self.most_cells = encoder, len(lanes), most_cells
        self._free: SimpleQueue[Lane] = SimpleQueue()
        for lane in lanes:
            self._free.put(lane)

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], each from 1 to sequence, to float32[batch, dim]."""
        rows, longest = input_ids.shape
        room = rows if self.most_cells is None else max(1, self.most_cells // longest)
        if rows <= room:
            return self._at_once(input_ids, lengths)
        cuts = np.array_split(np.arange(rows), -(-rows // room))
        return np.concatenate([self._at_once(input_ids[part], lengths[part]) for part in cuts])

    def _at_once(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        if (lengths == input_ids.shape[1]).all():
            return self._through_a_lane(self._encoder.forward_equal, input_ids)
        order = np.argsort(-lengths, kind="stable")
        in_order = torch.from_numpy(lengths[order])
        vectors = self._through_a_lane(lambda ids: self._encoder(ids, in_order, in_order=True), input_ids[order])
        unsorted = np.empty_like(vectors)
        unsorted[order] = vectors
        return unsorted

    def _in_its_arithmetic(self, compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The kernels are chosen while they are launched; nothing is held while the GPU computes."""

        def launch(ids: Tensor) -> Tensor:
            with arithmetic(self._encoder.embedding.weight.dtype):
                return compute(ids)

        return launch

    def _through_a_lane(self, compute: Callable[[Tensor], Tensor], input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        lane = self._free.get()
        try:
            with torch.inference_mode():
                return lane.run(self._in_its_arithmetic(compute), input_ids)
        finally:
            self._free.put(lane)


def encoder_on_cuda(
    encoder: PackedEncoder, device: torch.device, precision: Precision, lanes: int, max_cells: int
) -> StreamedEncoder:
    """A copy of an encoder on a GPU: what is changed in the encoder afterwards has no effect.

    Args:
        lanes: batches at a time, if as many of `max_cells` fit into memory; at least one.
        max_cells: of the largest batches that are to be expected.

    Raises:
        LengthwiseError: the GPU cannot compute in this precision.
    """
    check_precision(precision, torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    if precision == "bf16" and not cudnn_has_bf16():
        log.warning("PyTorch's LSTM takes bfloat16 through cuDNN from 9.13 on: encode.precision = fp16 is faster here")
    on_device = converted(encoder if precision == "fp32" else pad_to_multiple_of_8(encoder), device, DTYPES[precision])
    made = [CudaLane(device) for _ in range(lanes)]
    torch.cuda.synchronize(device)  # the weights are there before another stream reads them
    free = _SHARE * _free_bytes(device)
    used, most_cells = lanes_and_cells(
        free, bytes_a_cell(StreamedEncoder(on_device, made[:1]), device), lanes, max_cells
    )
    return StreamedEncoder(on_device, made[:used], most_cells)


def bytes_a_cell(encoder: StreamedEncoder, device: torch.device) -> float:
    """Memory that a cell more takes, of batches of one length and of mixed ones, whichever is more; measured."""
    peaks = []
    for rows in _PROBE_ROWS[:1] + _PROBE_ROWS:  # the first time, libraries take memory that they keep
        equal = np.full(rows, _PROBE_TOKENS)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for lengths in (equal, equal - np.arange(rows) % 2):
            encoder(np.zeros((rows, _PROBE_TOKENS), np.int64), lengths)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return max(1.0, (peaks[2] - peaks[1]) / ((_PROBE_ROWS[1] - _PROBE_ROWS[0]) * _PROBE_TOKENS))


def lanes_and_cells(free: float, cell_bytes: float, lanes: int, max_cells: int) -> tuple[int, int]:
    """How many batches at a time, and how many cells a batch may have, in so many free bytes.

    Fewer lanes come before smaller batches: a batch that is not cut is the one that was planned.
    """
    cells = max(1, int(free / cell_bytes))
    used = max(1, min(lanes, cells // max_cells))
    return used, cells // used


def pad_to_multiple_of_8(encoder: PackedEncoder) -> PackedEncoder:
    """The same encoder with columns of zeros after its embedding's, up to a multiple of eight; itself if it is one."""
    missing = -encoder.config.embedding_dim % _EIGHT
    if not missing:
        return encoder
    widened = {"embedding.weight", "lstm.weight_ih_l0", "lstm.weight_ih_l0_reverse"}
    weights = {
        name: torch.nn.functional.pad(weight, (0, missing)) if name in widened else weight
        for name, weight in encoder.state_dict().items()
    }
    wider = PackedEncoder(encoder.config.model_copy(update={"embedding_dim": encoder.config.embedding_dim + missing}))
    wider.load_state_dict(weights)
    return wider


def converted(encoder: PackedEncoder, device: torch.device, dtype: torch.dtype) -> PackedEncoder:
    """A copy whose embedding and LSTM compute in `dtype`; the head stays in float32."""
    copied = copy.deepcopy(encoder).eval().to(device)
    copied.embedding.to(dtype)
    copied.lstm.to(dtype)
    if device.type == "cuda":
        flatten_lstm_weights(copied.lstm)
    return copied


def flatten_lstm_weights(lstm: torch.nn.LSTM) -> None:
    """Put the weights of an LSTM into one piece of memory, which cuDNN otherwise does anew at every call.

    PyTorch has done so where its list of what cuDNN takes has the type; bfloat16 is not on it (torch 2.13), although
    its LSTM goes through cuDNN.
    """
    dtype, listed = lstm.all_weights[0][0].dtype, torch.backends.cudnn.CUDNN_TENSOR_DTYPES
    if dtype in listed or not cudnn_has_bf16():
        return
    listed.add(dtype)
    try:
        with arithmetic(dtype):
            lstm.flatten_parameters()
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
            f"encode.precision is bf16, which {name} (compute capability {capability[0]}.{capability[1]}) does not"
            " compute; set fp16 or fp32"
        )


def _free_bytes(device: torch.device) -> int:
    """What the driver has left, and what PyTorch keeps without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


class _Arithmetic:
    """Who is using PyTorch's settings of arithmetic, which are the whole process's."""

    def __init__(self) -> None:
        self.turn, self.changed, self.inside = threading.Lock(), threading.Condition(), 0
        self.settings: tuple[str, str] | None = None
        self.before: list[str] = []


_arithmetic = _Arithmetic()


@contextmanager
def arithmetic(dtype: torch.dtype) -> Iterator[None]:
    """PyTorch's settings as an LSTM in `dtype` and its float32 head need them, whatever the program has set.

    They are the whole process's: a thread that needs others waits until the last one is outside, and whoever comes
    after it waits for it, so a thread that is inside does not ask again.
    `torch.backends.cudnn.flags` would switch cuDNN itself off besides. Whoever reads `torch.backends.cudnn.allow_tf32`
    meanwhile gets an error of PyTorch's, which does not mix its older flags with these.
    """
    ours, places = settings_for(dtype), tf32_places()
    with _arithmetic.turn, _arithmetic.changed:
        _arithmetic.changed.wait_for(lambda: not _arithmetic.inside or _arithmetic.settings == ours)
        if not _arithmetic.inside:
            _arithmetic.settings, _arithmetic.before = ours, [place.fp32_precision for place in places]
            for place, precision in zip(places, ours, strict=True):
                place.fp32_precision = precision
        _arithmetic.inside += 1
    try:
        yield
    finally:
        with _arithmetic.changed:
            _arithmetic.inside -= 1
            if not _arithmetic.inside:
                for place, precision in zip(places, _arithmetic.before, strict=True):
                    place.fp32_precision = precision
                _arithmetic.changed.notify_all()


def settings_for(dtype: torch.dtype) -> tuple[str, str]:
    """What is set in each of `tf32_places`, for an LSTM in `dtype`.

    Where TF32 is off, PyTorch asks cuDNN for CUDNN_FMA_MATH in every type but float16, so bfloat16 would be kept from
    tensor cores (ATen/cudnn/Descriptors.h of torch 2.13, as since github.com/pytorch/pytorch/pull/120277). With it on,
    cuDNN has its choice, and takes bfloat16 as it is.
    """
    return ("tf32" if dtype == torch.bfloat16 else "ieee"), "ieee"


def tf32_places() -> tuple[Any, Any]:
    """Where PyTorch keeps whether LSTMs and products on a GPU may use TF32."""
    return torch.backends.cudnn.rnn, torch.backends.cuda.matmul
