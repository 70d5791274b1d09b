"""How far outputs are from the expected ones: one measure for validation and for the server's check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-150  # divides nothing by zero


@dataclass(frozen=True)
class Allowance:
    """By how much values may differ, under a tolerance t, beside t max(1, largest |value| of the row): t scale + fixed.

    Attributes:
        scale: float64, of the shape of the values.
        fixed: float64, of the same shape; it does not grow with the tolerance.
    """

    scale: NDArray[np.float64]
    fixed: NDArray[np.float64]

    def __add__(self, other: Allowance) -> Allowance:
        """The allowance of values that are sums."""
        return Allowance(self.scale + other.scale, self.fixed + other.fixed)

    def take(self, rows: NDArray[np.int64]) -> Allowance:
        """The allowance of some rows."""
        return Allowance(self.scale[rows], self.fixed[rows])


def scaled_difference(
    found: NDArray[np.floating], expected: NDArray[np.floating], allowance: Allowance | None = None
) -> NDArray[np.float64]:
    """The smallest tolerance under which each value passes; infinite where the shapes differ.

    It is |found - expected| / max(1, largest |expected| of the row), or, if that is smaller, what is left of the
    difference above `allowance.fixed`, divided by `allowance.scale`.
    """
    if found.shape != expected.shape:
        return np.full(1, np.inf)
    expected = expected.astype(np.float64)
    difference = np.abs(found - expected)
    usual = difference / np.abs(expected).max(axis=-1, keepdims=True, initial=1.0)
    if allowance is None:
        return usual
    rest = np.maximum(difference - allowance.fixed, 0)
    return np.minimum(usual, rest / np.maximum(allowance.scale, _TINY))


def largest_difference(
    found: NDArray[np.floating], expected: NDArray[np.floating], allowance: Allowance | None = None
) -> float:
    """The largest `scaled_difference`; infinite if a value is not a number, 0 if there are no values."""
    return float(np.nan_to_num(scaled_difference(found, expected, allowance), nan=np.inf).max(initial=0))


def cosines(found: NDArray[np.floating], expected: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine of each vector to the expected one, float64[batch]; NaN where a vector holds one, 0 where one is zeros."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(axis=1) / np.maximum(norms, 1e-30)
