"""How far outputs are from the expected ones, and which tolerance that takes: one measure for validation and server."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e-3  # that rounding in float32 may make, relative to values above 1
_TINY = 1e-150  # divides nothing by zero


@dataclass(frozen=True)
class Allowance:
    """What values of sums may differ by under a tolerance t, where it is more than t max(1, largest |value|).

    It is t scale + fixed.

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


def scaled_difference(found: NDArray[np.floating], expected: NDArray[np.floating]) -> NDArray[np.float64]:
    """|found - expected| / max(1, largest |expected| of the row), per value; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return np.full(1, np.inf)
    right = expected.astype(np.float64)
    return np.abs(found - right) / _sizes(right)


def needed_tolerance(
    found: NDArray[np.floating],
    expected: NDArray[np.floating],
    allowance: Allowance | None = None,
    rounding: NDArray[np.float64] | None = None,
    *,
    by_length: bool = False,
) -> NDArray[np.float64]:
    """The smallest tolerance under which each value passes; infinite where the shapes differ.

    It is the `scaled_difference`, or, if that is smaller, what is left of the difference above `allowance.fixed`,
    divided by `allowance.scale`. It is 0 where the difference is within `rounding`.

    Args:
        found: float[rows, ..., width].
        expected: of the same shape.
        allowance: of sums over time.
        rounding: float64[rows], see `artifact.rounding`.
        by_length: whether differences are relative to the length (L2 norm) of a vector above 1 in place of its largest
            value, as below float32: a tenth of a vector's length moves its cosine by as little as 0.005.
    """
    if found.shape != expected.shape:
        return np.full(1, np.inf)
    right = expected.astype(np.float64)
    difference, sizes = np.abs(found - right), _lengths(right) if by_length else _sizes(right)
    needed = difference / sizes
    if allowance is not None:
        rest = np.maximum(difference - allowance.fixed, 0)
        needed = np.minimum(needed, rest / np.maximum(allowance.scale, _TINY))
    if rounding is not None:
        allowed = np.minimum(rounding.reshape(-1, *[1] * (right.ndim - 1)), LARGEST * sizes)
        needed = np.where(difference <= allowed, 0, needed)
    return needed


def _sizes(expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """By row, its largest value, at least 1."""
    largest: NDArray[np.float64] = np.abs(expected).max(axis=-1, keepdims=True, initial=1.0)
    return largest


def _lengths(expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """By row, its L2 norm, at least 1."""
    return np.maximum(np.linalg.norm(expected, axis=-1, keepdims=True), 1.0)


def largest(differences: NDArray[np.float64]) -> float:
    """The largest of differences or tolerances; infinite if one is not a number, 0 if there are none."""
    return float(np.nan_to_num(differences, nan=np.inf).max(initial=0))


def cosines(found: NDArray[np.floating], expected: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine of each vector to the expected one, float64[batch]; NaN where a vector holds one, 0 where one is zeros."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(axis=1) / np.maximum(norms, 1e-30)
