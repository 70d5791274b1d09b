"""Vectors as they are stored: those that the stored type cannot hold are found, and the rest brought into it.

Notable decisions:
- Vectors are gone through once, in slices of rows that stay in the cache, and nothing of their size is made beside
  them: a narrower type takes the front of the memory that they have.
- The largest and the smallest value of a slice tell whether a row of it has to be looked at: both are NaN where one
  value is.
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
        vectors: float32[rows, dim], of one block of memory, which is written over.
        dtype: float32, or a narrower type.

    Returns:
        [rows, dim] in `dtype`, zeros for the rows that it cannot hold; and why it cannot, by row, in order.
    """
    rows, dim = vectors.shape
    stored = np.ndarray(vectors.shape, dtype, buffer=vectors)
    largest = np.finfo(dtype).max
    found: dict[int, str] = {}
    step = max(1, _SLICE // dim)
    for start in range(0, rows, step):
        some = vectors[start : start + step]
        if not (some.max() <= largest and some.min() >= -largest):
            for row in np.flatnonzero(~(np.abs(some) <= largest).all(axis=1)).tolist():
                found[start + row] = _reason(some[row], largest)
                some[row] = 0
        if stored.dtype != vectors.dtype:
            stored[start : start + step] = some.astype(dtype)  # a copy, since the two may overlap
    return stored, found


def _reason(vector: NDArray[np.float32], largest: np.floating) -> str:
    if np.isfinite(vector).all():
        return f"its vector has values beyond {largest:.0f}, the most that {largest.dtype} holds"
    return "its vector is not finite, as of weights that are damaged"
