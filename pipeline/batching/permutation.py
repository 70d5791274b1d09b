"""A random order of `range(n)` of which any part can be computed alone, without memory for the rest.

A Feistel network over a rectangle that holds `n` cells is a bijection for any round function; numbers beyond
`n` are sent through it again until they fall below (M. Luby and C. Rackoff, 1988; J. Black and P. Rogaway, "Ciphers
with arbitrary finite domains", 2002).
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4


class Permutation:
    """A bijection of `range(size)`, the same for the same size and seed.

    Args:
        size: how many numbers are permuted.
        seed: non-negative integers.
    """

    def __init__(self, size: int, seed: int | tuple[int, ...]) -> None:
        self.size = size
        self._heights = (isqrt(max(0, size - 1)) + 1, -(-size // (isqrt(max(0, size - 1)) + 1)))
        self._keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.size

    def part(self, start: int, stop: int) -> NDArray[np.int64]:
        """int64[stop - start], the numbers at consecutive places of the order."""
        return self.at(np.arange(start, min(stop, self.size)))

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[places], the numbers at these places of the order."""
        numbers = self._once(places.astype(np.uint64))
        while (beyond := np.flatnonzero(numbers >= self.size)).size:
            numbers[beyond] = self._once(numbers[beyond])
        return numbers.astype(np.int64)

    def _once(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        height, width = map(np.uint64, self._heights)
        left = numbers // width
        right = numbers - left * width
        for key in self._keys:
            total = left + _scramble(right + key)
            left, right = right, total - total // height * height  # NumPy divides by a scalar faster than it takes `%`
            height, width = width, height
        return left * width + right


def _scramble(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finishing steps of SplitMix64 (G. Steele, D. Lea and C. Flood, 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (numbers ^ (numbers >> np.uint64(31))) >> np.uint64(1)  # so that a sum does not overflow
