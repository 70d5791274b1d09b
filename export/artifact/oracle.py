"""The oracle: what PyTorch computes for each row of a batch alone.

Rows are encoded one at a time, at their own length and without padding, so no row can depend on another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.encoder.model import PackedEncoder


@dataclass(frozen=True)
class Oracle:
    """The correct outputs for a batch.

    Attributes:
        vectors: float32[batch, dim], zeros for rows of length 0.
        states: float32[batch, sequence, state_dim], zero beyond a row's length; None where only vectors are known.
    """

    vectors: NDArray[np.float32]
    states: NDArray[np.float32] | None


def compute_oracle(encoder: PackedEncoder, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Oracle:
    """Encode each row alone.

    Args:
        encoder: the packed encoder, in evaluation mode.
        input_ids: int64[batch, sequence], right-padded with any ids.
        lengths: int64[batch], from 0 to sequence.
    """
    config = encoder.config
    vectors = np.zeros((len(lengths), config.dim), np.float32)
    states = np.zeros((*input_ids.shape, config.state_dim), np.float32)
    with torch.inference_mode():
        for row, length in enumerate(lengths):
            if length:
                ids, own_length = torch.from_numpy(input_ids[row : row + 1, :length]), torch.tensor([length])
                vectors[row] = encoder(ids, own_length).numpy()[0]
                states[row, :length] = encoder.token_states(ids, own_length)[0].numpy()[0]
    return Oracle(vectors, states)
