"""The oracle: what PyTorch computes for each row of a batch alone.

Rows are encoded one at a time, at their own length and without padding, so no row can depend on another.

A sum over time adds up the errors of its states. What a value of it may differ by is estimated here, per row and value
(`accumulated_error`, and `mean_error` for a static residual beside it), since a projection can cancel large sums into a
small value, whose size then says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.encoder.model import PackedEncoder
from lengthwise.export.artifact.difference import Allowance

_FACTORS = (1, 1.0001, 1.0004, 1.001)


@dataclass(frozen=True)
class Oracle:
    """The correct outputs for a batch.

    Attributes:
        vectors: float32[batch, dim], zeros for rows of length 0.
        states: float32[batch, sequence, state_dim], zero beyond a row's length; None where only vectors are known.
        allowance: what each value may differ by, of the shape of `vectors`; None unless states are summed. See
            `accumulated_error` and `mean_error`.
    """

    vectors: NDArray[np.float32]
    states: NDArray[np.float32] | None
    allowance: Allowance | None = None


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
    weights = _summed_weights(encoder)
    allowance = None if weights is None else Allowance(np.zeros(vectors.shape), np.zeros(vectors.shape))
    with torch.inference_mode():
        for row, length in enumerate(lengths):
            if length:
                ids, own_length = torch.from_numpy(input_ids[row : row + 1, :length]), torch.tensor([length])
                vectors[row] = encoder(ids, own_length).numpy()[0]
                states[row, :length] = encoder.token_states(ids, own_length).states.numpy()[0]
                if allowance is not None and weights is not None:
                    of_row = accumulated_error(states[row, :length], weights)
                    if encoder.static_projection is not None:
                        embeddings = encoder.embedding(ids)[0].numpy()
                        of_row += mean_error(embeddings, _float64(encoder.static_projection))
                    allowance.scale[row], allowance.fixed[row] = of_row.scale, of_row.fixed
    return Oracle(vectors, states, allowance)


def accumulated_error(states: NDArray[np.float32], weights: NDArray[np.float64]) -> Allowance:
    """How many times the error of one state the values of a sum over time may have, and what its rounding adds.

    Errors are taken for independent. A sum S_j of T states, each off by e, which is itself rounded to e S_j, is off by
    e sqrt(T + S_j^2), and a value sum_j w_ij S_j of the vector by e sqrt(sum_j w_ij^2 (T + S_j^2)). Rounding errors are
    close to independent: they add up as the square root of their number, not, as in the worst case, as their number
    (N. J. Higham and T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41,
    2019).

    Where a text repeats a token, rounding errors are not: each step then rounds the sum the same way. So the error that
    these states have when they are summed from the first to the last in float32 is added, twice: a difference is of two
    sums. It depends on the last bits of the states, which differ between runtimes, so the largest error for some
    slightly larger states is taken. Every precision sums in float32, so this does not grow with the tolerance.

    Args:
        states: float32[tokens, state_dim].
        weights: float64[dim, state_dim], of the projection; the identity without one.

    Returns:
        The scale and the fixed part, float64[dim] each.
    """
    sums = states.sum(axis=0, dtype=np.float64)
    independent = np.sqrt(weights**2 @ (len(states) + sums**2))
    rounded = [np.abs(weights @ _rounding(states * np.float32(factor))) for factor in _FACTORS]
    return Allowance(independent, 2 * np.max(rounded, axis=0))


def mean_error(values: NDArray[np.float32], weights: NDArray[np.float64]) -> Allowance:
    """As `accumulated_error`, for a map of the mean of values that have no errors of their own.

    A mean m_j is rounded to e m_j, and its sum has the error of summing these values in float32.

    Args:
        values: float32[tokens, width], at least one token.
        weights: float64[dim, width].

    Returns:
        As `accumulated_error`.
    """
    mean = values.mean(axis=0, dtype=np.float64)
    rounded = np.abs(weights @ _rounding(values)) / len(values)
    return Allowance(np.sqrt(weights**2 @ mean**2), 2 * rounded)


def _rounding(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The error of summing values, [tokens, width], from the first to the last in float32: float64[width]."""
    totals = np.cumsum(values, axis=0, dtype=np.float32)[-1:].sum(axis=0, dtype=np.float64)
    error: NDArray[np.float64] = totals - values.sum(axis=0, dtype=np.float64)
    return error


def _summed_weights(encoder: PackedEncoder) -> NDArray[np.float64] | None:
    """The weights of the sums over time in a vector, float64[dim, state_dim]; None if it is no sum.

    A sum that is scaled to length 1 is the same vector as the mean, so it is judged as the mean is.
    """
    config = encoder.config
    if config.pooling != "sum" or config.normalize:
        return None
    return np.eye(config.state_dim) if encoder.projection is None else _float64(encoder.projection)


def _float64(layer: torch.nn.Linear) -> NDArray[np.float64]:
    """The weights of a Linear layer, [out, in]."""
    return layer.weight.detach().numpy().astype(np.float64)
