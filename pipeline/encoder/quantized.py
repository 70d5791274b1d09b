"""`QuantizedEncoder`: the encoder in int8 on a CPU, or with the fused kernel in bfloat16.

- The LSTM's products are in int8 or bfloat16 (`encoder.fused`, or int8 without the kernel: `encoder.int8`). Inputs of
  the first layer, gates, pooling, projections and normalisation are in float32 or float64.
- **A text's vector has the same bits alone and in any batch, on any number of threads**, projections included
  (`encoder.vector_head`).
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise.encoder.fused import FusedDirection
from lengthwise.encoder.int8 import Int8Direction
from lengthwise.encoder.kernel import has_bf16_kernel, has_kernel, kernel_computes
from lengthwise.encoder.layers import LstmLayers, MakeDirection
from lengthwise.encoder.model import PackedEncoder
from lengthwise.encoder.order import encode_longest_first
from lengthwise.encoder.padding import read_batch
from lengthwise.encoder.sharing import PrefixSharing
from lengthwise.encoder.vector_head import VectorHead


class QuantizedEncoder:
    """Computes the vectors of a `PackedEncoder` in int8 or bfloat16 on the CPU.

    It works on a copy of the weights: later changes to the encoder have no effect.

    Attributes:
        is_fused: whether the fused kernel computes; vectors differ slightly without it.
        sharing: how rows share steps, if they can.
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

        Raises:
            ValueError: the precision is bf16, which nothing computes here.
        """
        self.config = encoder.config
        self.is_fused = kernel_computes(encoder.config) and (has_kernel() if fused is None else fused)
        if precision == "bf16" and not (self.is_fused and has_bf16_kernel()):
            raise ValueError("only the fused kernel computes in bf16: an LSTM, on a CPU with AVX512-BF16")
        encoder = copy.deepcopy(encoder).eval().to("cpu").float()
        gate_activation = encoder.config.gate_activation
        make: MakeDirection = partial(Int8Direction, gate_activation=gate_activation)
        if self.is_fused:
            make = partial(FusedDirection, precision=precision, gate_activation=gate_activation)
        self._layers = LstmLayers(encoder, make, like if self.is_fused else None)
        self._head = VectorHead(encoder, self.is_fused)
        self.sharing = PrefixSharing.of(self._layers, self._head)

    def __call__(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of a batch in any order; a batch that is sorted from longest to shortest is not sorted again.

        Args:
            input_ids: int64[batch, sequence], right-padded.
            lengths: int64[batch], each from 1 to sequence.

        Returns:
            float32[batch, dim], in the order of the input.
        """
        return encode_longest_first(self._encode_sorted, *read_batch(input_ids, lengths, self.config))

    def _encode_sorted(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._head(self._layers.pool(input_ids, lengths), input_ids, lengths)
