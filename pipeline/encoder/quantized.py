"""`QuantizedEncoder`: the encoder in int8 on a CPU, or with the fused kernel in bfloat16.

- The LSTM's products are in int8 or bfloat16 (`encoder.fused`, or int8 without the kernel: `encoder.int8`). Inputs of
  the first layer, gates, pooling, projections and normalisation are in float32 or float64.
- **A text's vector has the same bits alone and in any batch, on any number of threads.** So projections are products of
  one order of sums: of the kernel, or else in float64, rounded once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise.encoder.int8 import Float64Linear, Float64Mean, Int8Direction
from lengthwise.encoder.kernel import has_kernel
from lengthwise.encoder.layers import LstmLayers
from lengthwise.encoder.model import NORM_FLOOR, PackedEncoder
from lengthwise.encoder.order import encode_longest_first

if TYPE_CHECKING:
    from torch import nn

Rows = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Means = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


class QuantizedEncoder:
    """Computes the vectors of a `PackedEncoder` in int8 or bfloat16 on the CPU.

    It works on a copy of the weights: later changes to the encoder have no effect.

    Attributes:
        is_fused: whether the fused kernel computes; vectors differ slightly without it.
    """

    def __init__(
        self,
        encoder: PackedEncoder,
        fused: bool | None = None,
        like: LstmLayers | None = None,
        precision: Literal["int8", "bf16"] = "int8",
    ) -> None:
        """Prepare the weights.

        Args:
            fused: whether to use the fused kernel; by default where it runs. Only it computes in bf16.
            like: layers of the same encoder in float32, in the fused kernel, whose table is used too.
        """
        self.config = encoder.config
        self.is_fused = has_kernel() if fused is None else fused
        encoder = copy.deepcopy(encoder).eval().to("cpu").float()
        if self.is_fused:
            from lengthwise.encoder.fused import FusedDirection

            self._layers = LstmLayers(encoder, partial(FusedDirection, precision=precision), like)
        else:
            self._layers = LstmLayers(encoder, Int8Direction)
        self._head = _Head(encoder, self.is_fused)

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of a batch in any order; a batch that is sorted from longest to shortest is not sorted again.

        Args:
            input_ids: int64[batch, sequence], right-padded.
            lengths: int64[batch], each from 1 to sequence.

        Returns:
            float32[batch, dim], in the order of the input.
        """
        return encode_longest_first(self._encode_sorted, input_ids, lengths)

    def _encode_sorted(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._head(self._layers.pool(input_ids, lengths), input_ids, lengths)


class _Head:
    """From pooled states to vectors, as `PackedEncoder.finish`."""

    def __init__(self, encoder: PackedEncoder, fused: bool) -> None:
        make_linear: Callable[[nn.Linear], Rows] = _fused_linear if fused else _float64_linear
        self._normalize = encoder.config.normalize
        self._projection = None if encoder.projection is None else make_linear(encoder.projection)
        self._static_projection = None
        if encoder.static_projection is not None:
            self._static_projection = make_linear(encoder.static_projection)
            embedding = encoder.embedding.weight.detach().numpy()
            self._mean: Means = _fused_mean(embedding) if fused else Float64Mean(embedding)

    def __call__(
        self, pooled: NDArray[np.float32], input_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """float32[rows, pooled_dim] to float32[rows, dim]."""
        vectors = pooled if self._projection is None else self._projection(pooled)
        if self._static_projection is not None:
            vectors = vectors + self._static_projection(self._mean(input_ids, lengths))
        if self._normalize:
            norms = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
            vectors = (vectors / np.maximum(norms, NORM_FLOOR)).astype(np.float32)
        return vectors


def _fused_linear(linear: nn.Linear) -> Rows:
    from lengthwise.encoder.fused import FusedLinear

    return FusedLinear(*_weight_and_bias(linear))


def _float64_linear(linear: nn.Linear) -> Rows:
    return Float64Linear(*_weight_and_bias(linear))


def _fused_mean(embedding: NDArray[np.float32]) -> Means:
    from lengthwise.encoder.fused import FusedMean

    return FusedMean(embedding)


def _weight_and_bias(linear: nn.Linear) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    return linear.weight.detach().numpy(), None if linear.bias is None else linear.bias.detach().numpy()
