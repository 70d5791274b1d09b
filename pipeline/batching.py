"""Lengths to batches: a pure function, and a report of what the batches cost.

Why lengths decide: on a CPU, PyTorch runs a packed batch through its fast LSTM kernel only where all rows are
equally long; any other packed batch falls into a loop over time steps that is two to three times slower
(aten/src/ATen/native/RNN.cpp). So rows are put together by length, and a batch of equal lengths is what every
cut aims for; near lengths share a batch only where a length has too few rows.

Cutting goes from the longest row down. For batches that are contiguous in sorted order, the sum of their
longest rows, which is what sequential steps cost, is then the smallest there is, and a partial batch ends up
among the shortest rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.config import BatchingSettings


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Which rows are encoded together.

    Every row of at least one token is in exactly one batch; rows of no tokens are in none. Within a batch, rows
    go from the longest to the shortest, equal ones in their own order.

    Attributes:
        rows: int64[encoded rows], row numbers, one batch after the other.
        starts: int64[batches + 1]; batch b is `rows[starts[b]:starts[b + 1]]`.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for start, stop in pairwise(self.starts):
            yield self.rows[start:stop]


@dataclass(frozen=True)
class PlanReport:
    """What a plan costs.

    Attributes:
        rows: encoded rows.
        tokens: their tokens.
        batches: their batches.
        distinct_lengths: different lengths among them.
        equal_rows: rows in batches of one length.
        padded_cells: cells of the batches' rectangles, padding included.
        unplanned_cells: cells of the rectangles if as many rows a batch as the plan has on average were taken in
            the rows' own order.
    """

    rows: int
    tokens: int
    batches: int
    distinct_lengths: int
    equal_rows: int
    padded_cells: int
    unplanned_cells: int

    @property
    def padding(self) -> float:
        """The part of the rectangles that is padding, 0 to 1."""
        return 1 - self.tokens / self.padded_cells if self.padded_cells else 0.0

    @property
    def unplanned_padding(self) -> float:
        """The same for batches in the rows' own order."""
        return 1 - self.tokens / self.unplanned_cells if self.unplanned_cells else 0.0

    def __add__(self, other: PlanReport) -> PlanReport:
        """Both together; of distinct lengths the larger count, since the lengths themselves are gone."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        sums["distinct_lengths"] = max(self.distinct_lengths, other.distinct_lengths)
        return PlanReport(**sums)


def plan_batches(lengths: NDArray[np.integer], settings: BatchingSettings = BatchingSettings()) -> BatchPlan:
    """Put rows into batches by their lengths.

    A batch holds at most `max_rows` rows and at most `max_tokens` cells (rows x longest row); a row that is longer
    than `max_tokens` is a batch by itself. A length of at least `min_equal_rows` rows gets batches of its own, as
    even in size as can be; rows of rarer lengths share batches with their neighbours.

    Args:
        lengths: [rows], tokens a row; zero is allowed.

    Returns:
        The plan: the same for the same lengths and settings, whatever runs it.
    """
    lengths = lengths.astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    ordered = lengths[order]
    sizes: list[int] = []
    chosen: list[NDArray[np.int64]] = []
    rare: list[NDArray[np.int64]] = []
    edges = [*np.flatnonzero(np.diff(ordered, prepend=0)).tolist(), len(order)]
    for start, stop in pairwise(edges):
        count, room = stop - start, _rows_that_fit(int(ordered[start]), settings)
        if count < min(settings.min_equal_rows, room):
            rare.append(order[start:stop])
            continue
        pieces = -(-count // room)
        chosen.append(order[start:stop])
        sizes += [count // pieces + (piece < count % pieces) for piece in range(pieces)]
    if rare:
        rest = np.concatenate(rare)
        chosen.append(rest)
        sizes += _cut_from_longest(lengths[rest], settings)
    rows = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    return BatchPlan(rows, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]))


def report_plan(lengths: NDArray[np.integer], plan: BatchPlan) -> PlanReport:
    """What `plan` costs on rows of these lengths."""
    planned = [lengths[batch] for batch in plan]
    encoded = lengths[lengths > 0].astype(np.int64)
    rows_a_batch = max(1, round(len(encoded) / max(1, len(plan))))
    unplanned = [encoded[start : start + rows_a_batch] for start in range(0, len(encoded), rows_a_batch)]
    return PlanReport(
        rows=len(encoded),
        tokens=int(encoded.sum()),
        batches=len(plan),
        distinct_lengths=len(np.unique(encoded)),
        equal_rows=sum(len(batch) for batch in planned if batch[0] == batch[-1]),
        padded_cells=sum(len(batch) * int(batch.max()) for batch in planned),
        unplanned_cells=sum(len(batch) * int(batch.max()) for batch in unplanned),
    )


def _rows_that_fit(longest: int, settings: BatchingSettings) -> int:
    return max(1, min(settings.max_rows, settings.max_tokens // longest))


def _cut_from_longest(lengths: NDArray[np.integer], settings: BatchingSettings) -> list[int]:
    """Batch sizes for rows in falling order of length."""
    sizes = []
    start = 0
    while start < len(lengths):
        size = min(_rows_that_fit(int(lengths[start]), settings), len(lengths) - start)
        sizes.append(size)
        start += size
    return sizes
