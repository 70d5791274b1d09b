"""Lengths to batches: a pure function of the lengths and of what batches cost the engine that runs them.

Rows are sorted by length and cut where the cut is cheapest. What is cheap differs: PyTorch's own LSTM is fast on a
CPU only where all lengths of a batch are equal, onnxruntime computes every row up to the longest, and the step-wise
encoder does not care. So costs are data (`BatchCosts`), one set a kind of engine, and there is one planner.

The cost of a batch is its work, in tokens, and a fixed part for each time step: a step reads the recurrent weights
and starts its kernels whether one row is left or a hundred.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import BatchingSettings, Precision


@dataclass(frozen=True)
class BatchCosts:
    """What batches cost an engine, in the time that one token takes in a large batch of equal lengths.

    Attributes:
        max_tokens: the most cells (rows x longest row) a batch may have.
        max_rows: the most rows a batch may have.
        step: what a time step costs beside its tokens.
        mixed: the factor by which a batch of different lengths is slower.
        pads: whether the cells beyond a row's end are computed too.
    """

    max_tokens: int
    max_rows: int
    step: float
    mixed: float = 1.0
    pads: bool = False

    def within(self, settings: BatchingSettings) -> BatchCosts:
        """The same with a run's own limits."""
        given = {name: value for name, value in settings.model_dump().items() if value is not None}
        return replace(self, **given)

    def padded(self) -> BatchCosts:
        """The same where padding is computed, as it is without packing."""
        return replace(self, pads=True, mixed=1.0)

    def of_batch(self, longest: int, rows: int, tokens: int) -> float:
        """The cost of one batch."""
        equal = tokens == longest * rows
        work = longest * rows if self.pads else tokens
        return (work + self.step * longest) * (1.0 if equal else self.mixed)

    def rows_that_fit(self, longest: int) -> int:
        """How many rows of this length a batch may have; at least one."""
        return max(1, min(self.max_rows, self.max_tokens // longest))


# Measured by `scripts/benchmark.py kernel` (docs/benchmarks.md): a step of n rows takes a + b n, and a / b is `step`;
# `mixed` is what rows of different lengths cost PyTorch's packed LSTM: 1.8 to 2.9 on a CPU with AVX2, 2.3 to 3.5 on one
# with AVX-512, where its kernel for equal lengths is faster yet. Nothing was measured on a GPU so far, so the two for
# CUDA are guesses: a step takes some 10 microseconds there, in which the products of some hundred rows are done.
STEPWISE = BatchCosts(max_tokens=131_072, max_rows=512, step=8)
PACKED = BatchCosts(max_tokens=4_096, max_rows=128, step=4, mixed=2.0)
PADDED = BatchCosts(max_tokens=4_096, max_rows=128, step=2, pads=True)
PACKED_CUDA = BatchCosts(max_tokens=131_072, max_rows=4_096, step=256, mixed=2.0)
PADDED_CUDA = BatchCosts(max_tokens=65_536, max_rows=2_048, step=256, pads=True)


def engine_costs(engine: Literal["torch", "onnx"], precision: Precision, *, on_gpu: bool) -> BatchCosts:
    """What batches cost an engine, without making it."""
    if engine == "onnx":
        return PADDED_CUDA if on_gpu else PADDED
    if on_gpu:
        return PACKED_CUDA
    return STEPWISE if precision == "fp32" else PACKED


_PARTS, _FEWEST_ROWS = 16, 64  # batches that a plan has at least, where they still have so many rows


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Which rows are encoded together.

    In a plan of `plan_batches`, every row of at least one token is in exactly one batch and rows of no tokens are in
    none; rows go from the longest to the shortest, equal ones in their own order.

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
        cells: tokens and padding that are computed.
        cost: in tokens, see `BatchCosts`.
    """

    rows: int = 0
    tokens: int = 0
    batches: int = 0
    cells: int = 0
    cost: float = 0.0

    @property
    def padding(self) -> float:
        """The part of what is computed that is padding, 0 to 1."""
        return 1 - self.tokens / self.cells if self.cells else 0.0

    def __add__(self, other: PlanReport) -> PlanReport:
        """Both together."""
        return PlanReport(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def plan_batches(lengths: NDArray[np.integer], costs: BatchCosts = STEPWISE) -> BatchPlan:
    """The cheapest plan.

    A batch is a run of rows in falling order of length: rows of one length (as many batches as they need, as even as
    can be), or all rows of some neighbouring lengths. Of all such plans this is one whose cost is the smallest. Few
    rows are cut into smaller batches than many, so that several workers have something to do; how many there are has
    no part in it.

    Args:
        lengths: [rows], tokens a row; zero is allowed.

    Returns:
        The plan: the same for the same lengths and costs, whatever runs it.
    """
    lengths = lengths.astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    costs = replace(costs, max_rows=min(costs.max_rows, max(_FEWEST_ROWS, -(-len(order) // _PARTS))))
    distinct, counts = np.unique(lengths[order], return_counts=True)
    sizes = _cheapest_cut(distinct[::-1].tolist(), counts[::-1].tolist(), costs)
    return BatchPlan(order, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]))


def plan_in_order(lengths: NDArray[np.integer], rows: int = 64) -> BatchPlan:
    """What is done without a plan: so many rows a batch, in their own order."""
    encoded = np.flatnonzero(lengths)
    starts = np.append(np.arange(0, len(encoded), rows), len(encoded))
    return BatchPlan(encoded, starts.astype(np.int64))


def report_plan(lengths: NDArray[np.integer], plan: BatchPlan, costs: BatchCosts = STEPWISE) -> PlanReport:
    """What `plan` costs on rows of these lengths."""
    batches = [lengths[batch].astype(np.int64) for batch in plan]
    shapes = [(int(batch.max()), len(batch), int(batch.sum())) for batch in batches]
    tokens = sum(tokens for _, _, tokens in shapes)
    return PlanReport(
        rows=len(plan.rows),
        tokens=tokens,
        batches=len(plan),
        cells=sum(longest * rows for longest, rows, _ in shapes) if costs.pads else tokens,
        cost=sum(costs.of_batch(*shape) for shape in shapes),
    )


def _cheapest_cut(distinct: list[int], counts: list[int], costs: BatchCosts) -> list[int]:
    """Batch sizes for rows of these lengths, the longest first, by dynamic programming from the shortest up."""
    cheapest = [0.0] * (len(distinct) + 1)  # of the rows from each length down
    stops = [0] * len(distinct)  # where the batch that starts at each length ends
    for start in reversed(range(len(distinct))):
        longest, room = distinct[start], costs.rows_that_fit(distinct[start])
        batches = -(-counts[start] // room)
        best = longest * (counts[start] + batches * costs.step) + cheapest[start + 1]
        stops[start] = start + 1
        rows, tokens = counts[start], counts[start] * longest
        for stop in range(start + 1, len(distinct)):
            rows += counts[stop]
            tokens += counts[stop] * distinct[stop]
            if rows > room:
                break
            cost = costs.of_batch(longest, rows, tokens) + cheapest[stop + 1]
            if cost < best:
                best, stops[start] = cost, stop + 1
        cheapest[start] = best
    sizes: list[int] = []
    start = 0
    while start < len(distinct):
        rows = sum(counts[start : stops[start]])
        batches = -(-rows // costs.rows_that_fit(distinct[start]))
        sizes += [rows // batches + (batch < rows % batches) for batch in range(batches)]
        start = stops[start]
    return sizes
