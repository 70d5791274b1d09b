"""Runs a teacher on rows of ids: in batches of one length, so that nothing is padded, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.util.threads import parallel_map

EncodeIds = Callable[[NDArray[np.int64]], NDArray[np.float32]]  # int64[rows, length] to float32[rows, dim]
_MAX_TOKENS = 4_096


def encode_equal_lengths(
    tokens: RaggedTokens, run: EncodeIds, workers: int, initializer: Callable[[], object] | None = None
) -> NDArray[np.float32]:
    """Vectors of rows: float32[rows, dim], in their order; zeros for a row of no tokens.

    Args:
        run: called with rows of one length, in `workers` threads, which each call `initializer` first.
    """
    batches = list(_batches(tokens.lengths))
    ids = (tokens.pad_rows(rows, 0)[0] for rows in batches)
    found = list(parallel_map(run, ids, workers, initializer))
    if not found:  # a single id shows the width
        return np.zeros((len(tokens), run(np.zeros((1, 1), np.int64)).shape[1]), np.float32)
    vectors = np.zeros((len(tokens), found[0].shape[1]), np.float32)
    for rows, part in zip(batches, found, strict=True):
        vectors[rows] = part
    return vectors


def _batches(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    order = np.argsort(-lengths, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(lengths[order])) + 1, len(order))
    start = 0
    for end in ends.tolist():
        length = int(lengths[order[start]]) if end else 0
        size = max(1, _MAX_TOKENS // max(1, length))
        for first in range(start, end if length else start, size):
            yield order[first : min(first + size, end)]
        start = end
