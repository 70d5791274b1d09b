"""Rows of the same ids: found by a hash of each row, then proven by comparing the ids.

Notable decisions:
- A 64-bit hash a row, the sum of its scrambled (position, id) pairs, is what NumPy makes of flat arrays without a
  Python object a row and without holding Python's lock, which a dictionary of the rows' bytes holds all the time.
- A hash proves nothing, so every row is compared with the one that it stands for. Where two rows differ after all,
  which 65,536 rows do once in some ten thousand million shards, the dictionary decides.
- The ids are gone through in slices that stay in the cache. Slices know nothing of where rows end, so that one row of
  millions of ids needs no more memory than any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_SLICE = 32_768  # ids; with what is made of each, about a megabyte


def distinct_rows(values: NDArray[np.int32], offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each sequence of ids, and which of these each row equals.

    Args:
        values: int32[tokens], the ids of all rows.
        offsets: int64[rows + 1]; row i is `values[offsets[i]:offsets[i + 1]]`, and the first begins at 0.

    Returns:
        int64[distinct], rising, and int64[rows], numbers of these.
    """
    stands_for = _first_of_equals(_row_hashes(values, offsets))
    if not _are_equal(values, offsets, stands_for):
        return _by_dictionary(values, offsets)
    is_first = stands_for == np.arange(len(stands_for))
    return np.flatnonzero(is_first), (np.cumsum(is_first) - 1)[stands_for]


def _row_hashes(values: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64[rows], the sum of a row's scrambled (position, id) pairs; 0 for a row of no ids."""
    hashes = np.zeros(len(offsets) - 1, np.uint64)
    for start, stop, rows, counts in _slices(offsets):
        positions = np.arange(start + 1, stop + 1) - np.repeat(offsets[rows], counts)  # from 1: no pair is all zeros
        pairs = positions.view(np.uint64) << np.uint64(32) | values[start:stop].view(np.uint32)
        hashes[rows] += np.add.reduceat(_scrambled(pairs), np.cumsum(counts) - counts)
    return hashes


def _scrambled(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """MurmurHash3's last step for 64 bits (github.com/aappleby/smhasher), in place: one-to-one, and 0 to 0."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        numbers ^= numbers >> np.uint64(33)
        numbers *= np.uint64(factor)
    numbers ^= numbers >> np.uint64(33)
    return numbers


def _first_of_equals(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """int64[rows], the first row of the same hash."""
    order = np.argsort(hashes)
    in_order = hashes[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = in_order[1:] != in_order[:-1]
    first = np.empty(len(order), np.int64)
    first[order] = np.minimum.reduceat(order, np.flatnonzero(begins))[np.cumsum(begins) - 1]
    return first


def _are_equal(values: NDArray[np.int32], offsets: NDArray[np.int64], stands_for: NDArray[np.int64]) -> bool:
    """Whether every row has the ids of the one that it stands for."""
    own = np.flatnonzero(stands_for != np.arange(len(stands_for)))
    other, lengths = stands_for[own], np.diff(offsets)
    if (lengths[own] != lengths[other]).any():
        return False
    among = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[own])])  # offsets of these rows alone
    for start, stop, rows, counts in _slices(among):
        places = np.arange(start, stop) - np.repeat(among[rows], counts)
        own_ids, other_ids = (values[places + np.repeat(offsets[side[rows]], counts)] for side in (own, other))
        if (own_ids != other_ids).any():
            return False
    return True


def _slices(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]]:
    """Where a slice of ids begins and ends, the rows that have ids in it, and how many each has there."""
    for start in range(0, int(offsets[-1]), _SLICE):
        stop = min(start + _SLICE, int(offsets[-1]))
        low, high = int(np.searchsorted(offsets, start, side="right")) - 1, int(np.searchsorted(offsets, stop))
        bounds = np.clip(offsets[low : high + 1], start, stop)
        counts = bounds[1:] - bounds[:-1]
        there = np.flatnonzero(counts)
        yield start, stop, low + there, counts[there]


def _by_dictionary(
    values: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same without a hash of ours."""
    numbers: dict[bytes, int] = {}
    data, ends = values.tobytes(), (offsets * values.itemsize).tolist()
    rows = (data[start:stop] for start, stop in pairwise(ends))
    same_as = np.fromiter((numbers.setdefault(row, len(numbers)) for row in rows), np.int64, len(offsets) - 1)
    return np.unique(same_as, return_index=True)[1], same_as
