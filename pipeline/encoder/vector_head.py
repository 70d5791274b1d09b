"""`VectorHead`: from pooled states to vectors in NumPy, as `PackedEncoder.finish`, the same bits in any batch.

- In the fused kernel a product's sums have one order, whatever the number of rows.
- Without it products are in float64 and rounded once: the order of their sums can show where a sum lies within 1e-16 of
  the middle of two float32 numbers, about once in 1e8 values.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lengthwise.encoder.classify import ACTIVATIONS
from lengthwise.encoder.fused import FusedLinear, FusedMean
from lengthwise.encoder.heads import Dense
from lengthwise.encoder.int8 import Float64Linear, Float64Mean
from lengthwise.encoder.model import NORM_FLOOR, PackedEncoder

if TYPE_CHECKING:
    from torch import nn


class VectorHead:
    """Dense layers, projection, static residual and normalisation."""

    def __init__(self, encoder: PackedEncoder, fused: bool) -> None:
        """Copy the weights of an encoder in float32 on the CPU.

        Args:
            fused: whether the fused kernel multiplies.
        """
        self._normalize, self._fused = encoder.config.normalize, fused
        dense = [layer for layer in encoder.dense if isinstance(layer, Dense)]
        self._dense = [(_linear(layer, fused), layer.activation) for layer in dense]
        self._projection = None if encoder.projection is None else _linear(encoder.projection, fused)
        self._static_projection = None
        if encoder.static_projection is not None:
            self._static_projection = _linear(encoder.static_projection, fused)
            self._embedding = encoder.embedding.weight.detach().numpy()

    def __call__(
        self, pooled: NDArray[np.float32], input_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """float32[rows, pooled_dim] to float32[rows, dim]."""
        means = None if self._static_projection is None else self._mean(input_ids, lengths)
        return self.normalize(self.combine(self.project(pooled), means))

    @cached_property
    def _mean(self) -> FusedMean | Float64Mean:
        return FusedMean(self._embedding) if self._fused else Float64Mean(self._embedding)

    def project(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dense layers and projection: float32[rows, pooled_dim] to float32[rows, dim]."""
        for linear, activation in self._dense:
            pooled = ACTIVATIONS[activation](linear(pooled).astype(np.float64)).astype(np.float32)
        return pooled if self._projection is None else self._projection(pooled)

    def combine(self, projected: NDArray[np.float32], means: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Add the static residual, if there is one, of rows' mean embeddings, float32[rows, embedding_dim]."""
        if self._static_projection is None or means is None:
            return projected
        return projected + self._static_projection(means)

    def normalize(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of length 1, if the encoder's are."""
        if not self._normalize:
            return vectors
        norms = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
        normalized: NDArray[np.float32] = (vectors / np.maximum(norms, NORM_FLOOR)).astype(np.float32)
        return normalized


def _linear(linear: nn.Linear, fused: bool) -> FusedLinear | Float64Linear:
    weight, bias = linear.weight.detach().numpy(), None if linear.bias is None else linear.bias.detach().numpy()
    return FusedLinear(weight, bias) if fused else Float64Linear(weight, bias)
