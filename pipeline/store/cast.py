"""Casts vectors to the type that they are stored in, and finds those that it cannot hold.

Notable decisions:
- Vectors are read once, in slices of rows that stay in the cache, and no second array of their size is allocated: a
  narrower type is written to the front of their memory.
- The largest and the smallest value of a slice tell whether its rows have to be checked one by one: both are NaN where
  one value is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SLICE = 2**18  # values: a megabyte


def cast_vectors(
    vectors: NDArray[np.float32], dtype: type[np.floating] | str
) -> tuple[NDArray[np.floating], dict[int, str]]:
    """Vectors in the type that they are stored in.

    Args:
        vectors: float32[rows, dim], contiguous, which is overwritten.
        dtype: float32, or a narrower type.

    Returns:
        [rows, dim] in `dtype`, in the same memory, zeros for the rows that it cannot hold; and the reasons, by row, in
        order.
    """
    rows, dim = vectors.shape
    stored = np.ndarray(vectors.shape, dtype, buffer=vectors)
    largest = np.finfo(dtype).max
    failures: dict[int, str] = {}
    step = max(1, _SLICE // dim)
    for start in range(0, rows, step):
        chunk = vectors[start : start + step]
        if not (chunk.max() <= largest and chunk.min() >= -largest):
            for row in np.flatnonzero(~(np.abs(chunk) <= largest).all(axis=1)).tolist():
                failures[start + row] = _describe_failure(chunk[row], largest)
                chunk[row] = 0
        if stored.dtype != vectors.dtype:
            stored[start : start + step] = chunk.astype(dtype)  # a copy, since the two may overlap
    return stored, failures


def _describe_failure(vector: NDArray[np.float32], largest: np.floating) -> str:
    if np.isfinite(vector).all():
        return f"its vector has values beyond {largest:.0f}, the largest that {largest.dtype} holds"
    return "its vector is not finite, which damaged weights cause"
