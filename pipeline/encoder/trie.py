"""Rows sorted by their ids, whose common beginnings a step-wise LSTM computes once: a trie of ids.

- A row continues the path of a row before it: the first `shared` tokens of both are the same, and only the other row
  computes them. For the reverse direction rows are read from their ends, so they share endings.
- Sorting is pyarrow's, of the ids' bytes. Sharing goes as deep as it pays: each further step of a block costs what a
  step of a batch costs (`BatchCosts.step`), however few rows are left in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lengthwise.tokens.ragged import RaggedTokens

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SortedRows:
    """Rows of one reading direction, sorted by their ids.

    Attributes:
        values: int32[tokens], ids of all rows in reading order.
        rows: int64[rows], which row each is.
        starts: int64[rows], where its ids begin in `values`.
        lengths: int64[rows], its ids, at least one.
        shared: int64[rows], how many of its first ids it has in common with the row before.
    """

    values: NDArray[np.int32]
    rows: Ints
    starts: Ints
    lengths: Ints
    shared: Ints

    @classmethod
    def sort(cls, tokens: RaggedTokens, rows: Ints, *, reverse: bool) -> SortedRows:
        """Sort rows that have ids, no two the same.

        Args:
            rows: int64[rows], numbers of rows in `tokens`.
            reverse: whether they are read from their ends.
        """
        values, starts, lengths = tokens.values, tokens.offsets[rows], tokens.lengths[rows]
        if reverse:
            values, starts = np.ascontiguousarray(values[::-1]), len(values) - starts - lengths
        order = _sorted_order(values, starts, lengths)
        rows, starts, lengths = rows[order], starts[order], lengths[order]
        return cls(values, rows, starts, lengths, _shared_with_previous(values, starts, lengths))

    def limit_depth(self, blocks: int, step: float) -> SortedRows:
        """The same, sharing as many steps as saves most, where each costs as much as `step` tokens per block."""
        saved = len(self.shared) - np.cumsum(np.bincount(self.shared))[:-1]  # rows that share step 1, 2, ...
        gains = np.cumsum(saved - blocks * step)
        deepest = int(gains.argmax()) + 1 if len(gains) and gains.max() > 0 else 0
        return SortedRows(self.values, self.rows, self.starts, self.lengths, np.minimum(self.shared, deepest))

    @property
    def saved(self) -> int:
        """Tokens that need not be computed."""
        return int(self.shared.sum())

    def blocks(self, count: int) -> Iterator[SortedRows]:
        """The rows in blocks of about equal size. The first row of a block shares nothing."""
        bounds = np.linspace(0, len(self.rows), count + 1).astype(int)
        for start, stop in pairwise(bounds.tolist()):
            if stop > start:
                shared = self.shared[start:stop].copy()
                shared[0] = 0
                part = slice(start, stop)
                yield SortedRows(self.values, self.rows[part], self.starts[part], self.lengths[part], shared)


@dataclass(frozen=True, eq=False)
class Level:
    """One step of a trie: from the states of some rows to those of their children, which are rows too.

    Attributes:
        parents: int64[parents], rows with a state; empty at the first level, whose children begin.
        bounds: int32[parents + 1], at the first level 2; parent p has the children from bounds[p] to bounds[p + 1].
        children: int64[children]. A child that is its own parent comes last of its parent's.
        sources: int64[children], the parent of each; at the first level itself.
        time: steps that the parents have behind them.
    """

    parents: Ints
    bounds: NDArray[np.int32]
    children: Ints
    sources: Ints
    time: int


class Trie:
    """A block of sorted rows as levels, which are steps that several rows share, and what is left of each row.

    Attributes:
        block: the rows.
        begun: int64[rows], steps of each row within the levels: those that it shares, and one more if it is longer.
    """

    def __init__(self, block: SortedRows) -> None:
        self.block = block
        following = np.append(block.shared[1:], 0)
        self.begun = np.minimum(np.maximum(block.shared, following) + 1, block.lengths)

    @property
    def remaining(self) -> Ints:
        """int64[rows], steps of each row after the levels."""
        return self.block.lengths - self.begun

    def levels(self) -> Iterator[Level]:
        """The levels, from the first token on. A row is its own parent once it has left another's path."""
        shared, begun = self.block.shared, self.begun
        by_shared = np.argsort(shared, kind="stable")
        counts = np.bincount(shared)
        ends = np.cumsum(counts)
        active = by_shared[: ends[0]]  # in the order of rows
        nothing = np.empty(0, np.int64)
        yield Level(nothing, np.array([0, len(active)], np.int32), active, active, 0)
        for time in range(1, int(begun.max())):
            continuing = active[begun[active] > time]
            entering = by_shared[ends[time - 1] : ends[time]] if time < len(ends) else nothing
            children = np.sort(np.concatenate([continuing, entering]))[::-1]
            sources = active[np.searchsorted(active, children, side="right") - 1]
            first = np.flatnonzero(np.diff(sources, prepend=-1))
            yield Level(sources[first], np.append(first, len(children)).astype(np.int32), children, sources, time)
            active = children[::-1]


def _sorted_order(values: NDArray[np.int32], starts: Ints, lengths: Ints) -> Ints:
    """The order of rows by their ids."""
    from pyarrow import compute

    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    taken = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    big_endian = values[taken].astype(">i4")
    buffers = [None, pa.py_buffer(4 * offsets), pa.py_buffer(big_endian)]
    keys = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(lengths), buffers)
    return compute.array_sort_indices(keys).to_numpy().astype(np.int64)


def _shared_with_previous(values: NDArray[np.int32], starts: Ints, lengths: Ints) -> Ints:
    """int64[rows], the ids that each of some sorted rows has in common with the one before it."""
    shared = np.zeros(len(lengths), np.int64)
    shorter = np.minimum(lengths[1:], lengths[:-1])
    alive, depth = np.arange(1, len(lengths)), 0
    while len(alive):
        alive = alive[shorter[alive - 1] > depth]
        alive = alive[values[starts[alive] + depth] == values[starts[alive - 1] + depth]]
        depth += 1
        shared[alive] = depth
    return shared
