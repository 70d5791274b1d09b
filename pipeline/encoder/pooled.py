"""`StatePooler`: from what the directions of the last layer keep of their states to pooled rows, in NumPy.

- Sums, maxima and last states are kept while states are computed. The first token's, the end's and attention read the
  states of all tokens, which then take the memory of the text, 4 bytes per token and unit.
- Attention is computed in float64, step after step, so a row's bits hardly depend on its batch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lengthwise.encoder.model import PackedEncoder

Output = Literal["sum", "max", "last", "states", "floats"]  # the last two: of all tokens, as operands and in float32
_OUTPUTS: Mapping[str, Output] = MappingProxyType(
    {
        "sum": "sum",
        "mean": "sum",
        "max": "max",
        "last": "last",
        "first": "floats",
        "end": "floats",
        "attention": "floats",
    }
)
_BLOCK_TOKENS = 4_096


class StatePooler:
    """Pools the states of packed batches.

    Attributes:
        outputs: what the directions have to keep.
    """

    def __init__(self, encoder: PackedEncoder) -> None:
        """Copy what it needs of the encoder."""
        self._parts = encoder.config.pooling_parts
        self.outputs: frozenset[Output] = frozenset(_OUTPUTS[part] for part in self._parts)
        self._attention = None if encoder.attention is None else copy.deepcopy(encoder.attention).double()

    def join(
        self,
        directions: Sequence[Mapping[str, NDArray[Any]]],
        states: NDArray[np.floating] | None,
        steps: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> list[NDArray[np.floating]]:
        """The parts of pooled rows side by side, [batch, state_dim] each.

        Args:
            directions: the kept sums, maxima and last states of each direction, [batch, hidden].
            states: of all tokens in the order of the forward direction, [tokens, state_dim], if they are kept.
            steps: int64[longest], rows per step, never more than in the step before.
            lengths: int64[batch], in descending order.
        """
        return [self._part(part, directions, states, steps, lengths) for part in self._parts]

    def _part(
        self,
        part: str,
        directions: Sequence[Mapping[str, NDArray[Any]]],
        states: NDArray[np.floating] | None,
        steps: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> NDArray[np.floating]:
        if part in ("mean", "sum", "max", "last"):
            return np.concatenate([pool_direction(part, found, lengths) for found in directions], axis=1)
        if states is None:
            raise ValueError(f"{part} pooling needs the states of all tokens")
        rows = np.arange(len(lengths))
        if part == "first":
            return states[rows]
        starts = np.cumsum(steps) - steps
        if part == "end":
            return states[starts[lengths - 1] + rows]
        return self._attend(states, starts, steps)

    def _attend(
        self, states: NDArray[np.floating], starts: NDArray[np.int64], steps: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        scores, batch = self._scores(states), int(steps[0])
        parts = [slice(start, start + rows) for start, rows in zip(starts.tolist(), steps.tolist(), strict=True)]
        largest = np.full(batch, -np.inf)
        for part in parts:
            of_rows = largest[: part.stop - part.start]
            np.maximum(of_rows, scores[part], out=of_rows)
        norms, total = np.zeros((batch, 1)), np.zeros((batch, states.shape[1]))
        for part in parts:
            rows = part.stop - part.start
            weights = np.exp(scores[part] - largest[:rows])[:, None]
            norms[:rows] += weights
            total[:rows] += weights * states[part]
        return total / norms

    def _scores(self, states: NDArray[np.floating]) -> NDArray[np.float64]:
        import torch

        if self._attention is None:
            raise ValueError("this encoder has no attention")
        with torch.inference_mode():
            blocks = torch.from_numpy(states).split(_BLOCK_TOKENS)
            scores = torch.cat([self._attention.scores(block.double()) for block in blocks])
        return scores.numpy()


def pool_direction(part: str, kept: Mapping[str, NDArray[Any]], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """A direction's mean, sum, maximum or last state of rows of these lengths, of what is kept of it."""
    return kept["sum"] / lengths[:, None] if part == "mean" else kept[part]
