"""How far outputs are from the expected ones: one measure for validation and for the server's check."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def scaled_difference(
    found: NDArray[np.floating], expected: NDArray[np.floating], floors: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """|found - expected| / max(1, largest |expected| of the row, floors); infinite where the shapes differ.

    Args:
        floors: of the shape of `expected`, what each value is divided by at least; 1 where it is left out.
    """
    if found.shape != expected.shape:
        return np.full(1, np.inf)
    expected = expected.astype(np.float64)
    scale = np.abs(expected).max(axis=-1, keepdims=True, initial=1.0)
    return np.abs(found - expected) / (scale if floors is None else np.maximum(scale, floors))


def largest_difference(
    found: NDArray[np.floating], expected: NDArray[np.floating], floors: NDArray[np.float64] | None = None
) -> float:
    """The largest `scaled_difference`; infinite if a value is not a number, 0 if there are no values."""
    return float(np.nan_to_num(scaled_difference(found, expected, floors), nan=np.inf).max(initial=0))
