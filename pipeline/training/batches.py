"""Runs rows of ids through the encoder in training: dense where their lengths are equal, else packed.

A batch of texts from the `LengthBatchSampler` is one length already. The texts of pairs are not: the distinct texts of
a group are cut into a few batches of like lengths, the cheapest by the costs of the planner, and the loss is computed
over all of their vectors.

In bfloat16 the LSTM alone is computed; its states are pooled, projected and compared in float32. All of it may run in
several threads at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lengthwise.batching.costs import PACKED_CUDA, BatchCosts
from lengthwise.batching.cut import cheapest_cut
from lengthwise.batching.sampler import TRAINING
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import ConfigError
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.train_config import AutoPrecision, TrainSettings
from lengthwise.training.losses import take_rows
from lengthwise.util.compat import cpu_has_bf16, onednn_has_bf16


def resolve_precision(precision: AutoPrecision, device_type: str) -> Literal["fp32", "bf16"]:
    """What `auto` means on a device: bfloat16 on a GPU, and on a processor that has its arithmetic."""
    if precision != "auto":
        return precision
    return "bf16" if device_type == "cuda" or cpu_has_bf16() else "fp32"


def training_precision(settings: TrainSettings, device_type: str) -> Literal["fp32", "bf16"]:
    """In which the LSTM is computed in training.

    Raises:
        ConfigError: PyTorch cannot do that here.
    """
    precision = resolve_precision(settings.precision, device_type)
    if precision == "bf16" and device_type == "cpu" and not onednn_has_bf16():
        raise ConfigError(
            "train.precision is bf16, in which PyTorch cannot train an LSTM on this CPU (without AVX-512); set it to"
            " fp32 or auto"
        )
    return precision


@dataclass(frozen=True, eq=False)
class CutRows:
    """Rows that run in several batches.

    Attributes:
        batches: int64, rows each.
        order: int64[rows], which of the rows each place of the batches has, one batch after the other.
    """

    batches: list[NDArray[np.int64]]
    order: NDArray[np.int64]

    def join(self, vectors: Sequence[Tensor]) -> Tensor:
        """The vectors of the batches as those of the rows, in their order: float32[rows, dim]."""
        joined = torch.cat(list(vectors))
        return take_rows(joined, torch.from_numpy(np.argsort(self.order, kind="stable")).to(joined.device))


class BatchRunner:
    """Runs rows through an encoder on one device.

    Attributes:
        encoder: what is run, in the mode for training or evaluation that it has.
        device: its device.
        costs: of batches there.
        tokens: how many tokens were run so far.
    """

    def __init__(self, encoder: PackedEncoder, max_tokens: int, precision: Literal["fp32", "bf16"]) -> None:
        """Run on the encoder's device, in batches of at most so many cells.

        Args:
            precision: of the LSTM, until `close`.
        """
        self.encoder, self.device = encoder, encoder.embedding.weight.device
        self.costs: BatchCosts = (PACKED_CUDA if self.device.type == "cuda" else TRAINING).with_limits(max_tokens)
        self.tokens, self._lock = 0, threading.Lock()
        self._hooks = _autocast_lstm(encoder.rnn, self.device.type) if precision == "bf16" else []
        encoder.embedding.sparse = True  # a dense gradient has the table's size, for every batch

    def rows(self, tokens: RaggedTokens, rows: NDArray[np.int64]) -> Tensor:
        """Vectors of rows as one batch: float32[rows, dim], with gradients. Every row has a token."""
        ids, lengths = tokens.pad_rows(rows, self.encoder.config.pad_token_id)
        with self._lock:
            self.tokens += int(lengths.sum())
        input_ids = torch.from_numpy(ids).to(self.device, non_blocking=True)
        if (lengths == ids.shape[1]).all():
            return self.encoder.forward_equal_lengths(input_ids)
        vectors: Tensor = self.encoder(input_ids, torch.from_numpy(lengths))
        return vectors

    def group(self, tokens: RaggedTokens, rows: NDArray[np.int64]) -> Tensor:
        """Vectors of rows in as few batches as is cheap: float32[rows, dim], with gradients. Every row has a token."""
        cut = self.cut(tokens, rows)
        return cut.join([self.rows(tokens, batch) for batch in cut.batches])

    def cut(self, tokens: RaggedTokens, rows: NDArray[np.int64]) -> CutRows:
        """Rows as batches of like lengths, as few as is cheap, the longest texts first."""
        lengths = tokens.offsets[rows + 1] - tokens.offsets[rows]
        order = np.argsort(-lengths, kind="stable")
        distinct, counts = np.unique(lengths, return_counts=True)
        ends = np.cumsum(cheapest_cut(distinct[::-1], counts[::-1], self.costs))
        return CutRows([rows[order[start:stop]] for start, stop in pairwise([0, *ends.tolist()])], order)

    def close(self) -> None:
        """Leave the encoder as it was."""
        for hook in self._hooks:
            hook.remove()
        self.encoder.embedding.sparse = False


def _autocast_lstm(lstm: nn.RNNBase, device_type: str) -> list[RemovableHandle]:
    """Compute an LSTM in bfloat16 until the hooks are removed; gradients and weights stay float32."""
    of_thread = threading.local()

    def enter(*_: object) -> None:
        of_thread.autocast = torch.autocast(device_type, torch.bfloat16)
        of_thread.autocast.__enter__()

    def leave(*_: object) -> None:
        of_thread.autocast.__exit__(None, None, None)

    return [lstm.register_forward_pre_hook(enter), lstm.register_forward_hook(leave, always_call=True)]
