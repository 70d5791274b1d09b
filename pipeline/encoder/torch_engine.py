"""`TorchEngine`: a PackedEncoder as an `Engine`, on a CPU or a GPU.

- On a CPU in float32 the step-wise encoder computes (`encoder.stepwise`), in int8 the quantized one
  (`encoder.quantized`), in bfloat16 that too where the CPU multiplies it fast, else PyTorch's own LSTM, on batches
  whose lengths the plan keeps equal, as its dense kernel requires; on a GPU cuDNN (`encoder.cuda`).
- Batches run in parallel on one thread each. Threads that share a product wait for each other at its end, which is up
  to ten times slower on a busy machine.
- A batch that does not fit into memory is split (`encoder.oom`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.batching.costs import engine_costs
from lengthwise.config import Precision, RunConfig
from lengthwise.encoder.checkpoint import load_checkpoint, weights_fingerprint
from lengthwise.encoder.cuda import DTYPES, STREAM_SLOTS, convert_encoder, make_cuda_encoder
from lengthwise.encoder.kernel import has_bf16_kernel, kernel_computes, missing_for_kernel
from lengthwise.encoder.model import PackedEncoder, encoder_classifier
from lengthwise.encoder.oom import split_on_oom
from lengthwise.encoder.padding import read_batch
from lengthwise.encoder.quantized import QuantizedEncoder
from lengthwise.encoder.rates import measure_rates, random_tokens
from lengthwise.encoder.sharing import PrefixSharing, missing_for_sharing
from lengthwise.encoder.state_cache import StateCache
from lengthwise.encoder.stepwise import StepwiseEncoder
from lengthwise.errors import LengthwiseError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.threads import parallel_map

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)
_OOM_MESSAGES = (  # of host memory, of page-locked memory, and of memory that cuDNN and cuBLAS allocate
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_EXTRA_THREADS = 2  # pad ids and store vectors while the other threads wait for the GPU


class TorchEngine:
    """Runs a copy of a PackedEncoder.

    Attributes:
        name: device and precision; part of a run's identity, since both affect the last bits.
        config: of the encoder.
        costs: of batches on this device in this precision.
        reference: the same encoder in float32 where this engine has a lower precision, else None.
        fingerprint: sha256 (hex) of the weights.
        sharing: how the rows of a shard share steps, if they can.
        classifier: from vectors to labels, if the encoder has them.
        batch_invariant: whether a row's vector has the same bits in any batch: in int8, and in the fused kernel.
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
            workers: number of batches in parallel; PyTorch's number of threads by default (on a GPU three, or as many
                as fit into memory).

        Raises:
            LengthwiseError: there is no GPU, or the device cannot compute in this precision.
        """
        self.device = _choose_device(device, precision)
        on_gpu = self.device.type == "cuda"
        self.name = f"torch {self.device.type}" + ("" if precision == "fp32" else f" {precision}")
        self.config = encoder.config
        self.fingerprint = weights_fingerprint(encoder)
        self.classifier = encoder_classifier(encoder)
        in_kernel = kernel_computes(encoder.config)
        fused_bf16 = in_kernel and has_bf16_kernel()
        self.costs = engine_costs("torch", precision, on_gpu=on_gpu, fused_bf16=fused_bf16)
        if not in_kernel and not on_gpu and precision != "int8":
            self.name += " unfused"
            log.warning(
                "the encoder runs without the fused kernel, more slowly: %s", missing_for_kernel(encoder.config)
            )
        self.reference: TorchEngine | None = None
        if precision != "fp32":
            self.reference = TorchEngine(encoder, "cpu" if precision == "int8" else device, workers=workers)
        self._threads = torch.get_num_threads()
        self._workers = workers or self._threads
        self.sharing: PrefixSharing | None = None
        self.batch_invariant = False
        self._encode: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
        if on_gpu:
            on_device = make_cuda_encoder(
                encoder, self.device, precision, workers or STREAM_SLOTS, self.costs.max_tokens
            )
            self._encode, self._workers = on_device, on_device.slots + _EXTRA_THREADS
        elif precision == "fp32":
            self._encode = stepwise = StepwiseEncoder(encoder)
            self.sharing, self.batch_invariant = stepwise.sharing, stepwise.fused_layers is not None
            self.name += " onednn" if stepwise.uses_onednn else ""
        elif precision == "int8" or (precision == "bf16" and fused_bf16):
            self._encode = quantized = self._quantize(encoder, precision)
            self.sharing, self.batch_invariant = quantized.sharing, True
        else:
            self._encoder = convert_encoder(encoder, self.device, DTYPES[precision])
            self._encode = self._run_in_bf16
            self._warn_if_slower(precision)

    def _quantize(self, encoder: PackedEncoder, precision: Literal["int8", "bf16"]) -> QuantizedEncoder:
        """The encoder in this precision; its name has the kernel, as another one rounds some states the other way."""
        exact = None if self.reference is None else self.reference._encode
        like = exact.fused_layers if isinstance(exact, StepwiseEncoder) else None
        quantized = QuantizedEncoder(encoder, like=like, precision=precision)
        if precision == "bf16":
            self.name += " fused"
        elif not quantized.is_fused:
            self.name += " unfused"
            log.warning("int8 runs without the fused kernel, more slowly: %s", missing_for_kernel(self.config))
        return quantized

    def _warn_if_slower(self, precision: Precision) -> None:
        """Measure this engine, which does not run in the fused kernel, against float32."""
        if self.reference is None:
            return
        exact, ours = measure_rates([self.reference, self], random_tokens(self.config.vocab_size))
        if ours < exact:
            log.warning(
                "precision %s is slower than fp32 on this CPU: %s and %s tokens per second of CPU time, measured on"
                " random ids; choose int8 or fp32",
                precision,
                f"{ours:,.0f}",
                f"{exact:,.0f}",
            )

    def cache_states(self, max_bytes: int) -> StateCache:
        """Keep states of beginnings from batch to batch from now on, see `encoder.state_cache`; vectors are the same.

        Raises:
            LengthwiseError: rows of this encoder cannot share steps here.
        """
        if self.sharing is None:
            on_gpu = self.device.type != "cpu"
            missing = "the engine runs on a GPU" if on_gpu else missing_for_sharing(self.config)
            raise LengthwiseError(f"no states are kept: {missing}")
        return self.sharing.cache_states(max_bytes)

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """int64[batch, sequence], right-padded, and int64[batch], from 1 to sequence, to float32[batch, dim].

        Raises:
            LengthwiseError: a single row does not fit into memory.
        """
        return split_on_oom(
            self._encode,
            input_ids,
            lengths,
            is_oom=_is_oom,
            device=self.device.type,
            release=torch.cuda.empty_cache if self.device.type == "cuda" else None,
        )

    @property
    def workers(self) -> int:
        """Batches that run in parallel."""
        return self._workers

    def run_all(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Map `function` over items, in order, on the engine's workers."""
        try:
            yield from parallel_map(function, items, self._workers, partial(torch.set_num_threads, 1))
        finally:
            torch.set_num_threads(self._threads)  # a worker's setting is also the default of new threads

    def _run_in_bf16(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """With the fused kernel where all lengths are equal, else packed."""
        input_ids, lengths = read_batch(input_ids, lengths, self.config)
        ids = torch.from_numpy(input_ids)
        with torch.inference_mode():
            equal = (lengths == ids.shape[1]).all()
            vectors = (
                self._encoder.forward_equal_lengths(ids) if equal else self._encoder(ids, torch.from_numpy(lengths))
            )
        return vectors.numpy()


def open_torch(config: RunConfig, workers: int | None = None) -> tuple[TorchEngine, TextTokenizer]:
    """The engine and tokenizer of a run, from the checkpoint at model.path.

    Args:
        workers: number of batches in parallel, as for TorchEngine.

    Raises:
        LengthwiseError: encoder or tokenizer cannot be loaded, or they do not fit each other.
        ValueError: the precision is `auto`, which the run has to resolve first.
    """
    precision = config.encode.precision
    if precision == "auto":
        raise ValueError("encode.precision is auto, which no engine has; resolve it first")
    encoder, tokenizer = load_checkpoint(config.model.path, config.tokenizer.path)
    return TorchEngine(encoder, config.encode.device, precision, workers), tokenizer


def _choose_device(device: Literal["cpu", "cuda", "auto"], precision: Precision) -> torch.device:
    """Where an engine computes.

    Raises:
        LengthwiseError: there is no GPU, or the device cannot compute in this precision.
    """
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise LengthwiseError("the device is cuda, but PyTorch finds no GPU here; choose cpu or auto")
    if precision == "int8" and device == "cuda":
        raise LengthwiseError("the precision is int8, which is computed on a CPU only; choose cpu, or fp16 or bf16")
    on_gpu = has_gpu and device != "cpu" and precision != "int8"
    if precision == "fp16" and not on_gpu:
        raise LengthwiseError("the precision is fp16, which PyTorch computes on a GPU only; choose fp32, bf16 or int8")
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _is_oom(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(message in str(error) for message in _OOM_MESSAGES)
