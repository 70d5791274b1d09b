"""The rows with the largest scores, of scores that come a block at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SORTED_WHOLE = 8  # blocks of up to this many times the wanted rows are sorted without a selection before


class BestRows:
    """The largest scores of each query so far, descending, and their rows; of equal scores, the first rows.

    Attributes:
        scores: float32[queries, n], n at most `top`.
        rows: int64[queries, n].
    """

    def __init__(self, queries: int, top: int) -> None:
        self._top = top
        self.scores: NDArray[np.float32] = np.empty((queries, 0), np.float32)
        self.rows: NDArray[np.int64] = np.empty((queries, 0), np.int64)

    @classmethod
    def stack(cls, parts: Sequence[BestRows], top: int) -> BestRows:
        """The rows of several sets of queries, which were compared with the same rows, as those of one set."""
        best = cls(sum(len(part.rows) for part in parts), top)
        if parts:
            best.scores = np.concatenate([part.scores for part in parts])
            best.rows = np.concatenate([part.rows for part in parts])
        return best

    def add(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Take in another block.

        Args:
            scores: float32[queries, n].
            rows: int64[n], or int64[queries, n] where each query has its own; after those of earlier blocks.
        """
        numbers = np.broadcast_to(rows, scores.shape)
        if self.scores.shape[1] == self._top:  # few columns of a later block are among the best of any query
            scores, numbers = _columns(scores, numbers, scores > self.scores[:, -1:])
        if scores.shape[1] > _SORTED_WHOLE * self._top:
            smallest = np.partition(scores, -self._top, axis=1)[:, -self._top, None]
            scores, numbers = _columns(scores, numbers, scores >= smallest)
        scores = np.concatenate([self.scores, scores], axis=1)
        numbers = np.concatenate([self.rows, numbers], axis=1)
        order = np.lexsort((numbers, -scores), axis=1)[:, : self._top]
        self.scores = np.take_along_axis(scores, order, axis=1)
        self.rows = np.take_along_axis(numbers, order, axis=1)


def _columns(
    scores: NDArray[np.float32], rows: NDArray[np.int64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The columns in which the mask is true for any query."""
    kept = mask.any(axis=0)
    return scores[:, kept], rows[:, kept]
