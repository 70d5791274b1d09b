"""Batches from lengths: a pure function of the lengths and of the engine's costs.

- Rows are sorted by length and cut where the cut is cheapest, so one planner serves every engine.
- A plan does not depend on the number of workers: the same lengths and costs give the same plan everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import STEPWISE, BatchCosts
from lengthwise.batching.cut import cheapest_cut

_MIN_ROWS = 64  # rows are cut into at least so many batches as are asked for, as long as each has so many rows


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Which rows are encoded together.

    In a plan of `plan_batches`, every row of at least one token is in exactly one batch and rows of no tokens are in
    none. Rows go from the longest to the shortest; rows of equal length are in input order.

    Attributes:
        rows: int64[encoded rows], row numbers, batch after batch.
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
    """The size and cost of a plan.

    Attributes:
        rows: encoded rows.
        tokens: their tokens.
        batches: number of batches.
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
        """The share of the computed cells that is padding, 0 to 1."""
        return 1 - self.tokens / self.cells if self.cells else 0.0

    def __add__(self, other: PlanReport) -> PlanReport:
        """The sum of both, field by field."""
        return PlanReport(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def plan_batches(lengths: NDArray[np.integer], costs: BatchCosts = STEPWISE, *, min_batches: int = 16) -> BatchPlan:
    """The plan of the lowest cost.

    A batch is either rows of one length (in as many batches as the limits require, of even size) or all rows of
    several neighbouring lengths. Of all such plans this one has the lowest cost. Small inputs are cut into smaller
    batches, so that several workers have something to do.

    Args:
        lengths: int[rows], tokens per row; zero is allowed.
        min_batches: how many batches there are at least, unless they would have fewer than 64 rows.
    """
    lengths = lengths.astype(np.int64)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    costs = replace(costs, max_rows=min(costs.max_rows, max(_MIN_ROWS, -(-len(order) // min_batches))))
    distinct, counts = np.unique(lengths[order], return_counts=True)
    sizes = cheapest_cut(distinct[::-1], counts[::-1], costs)
    return BatchPlan(order, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


def plan_in_order(lengths: NDArray[np.integer], rows: int = 64) -> BatchPlan:
    """Batches of `rows` rows in input order, as encoding without a planner makes them."""
    encoded = np.flatnonzero(lengths)
    starts = np.append(np.arange(0, len(encoded), rows), len(encoded))
    return BatchPlan(encoded, starts.astype(np.int64))


def report_plan(lengths: NDArray[np.integer], plan: BatchPlan, costs: BatchCosts = STEPWISE) -> PlanReport:
    """Size and cost of `plan` for rows of these lengths."""
    batches = [lengths[batch].astype(np.int64) for batch in plan]
    shapes = [(int(batch.max()), len(batch), int(batch.sum())) for batch in batches]
    tokens = sum(tokens for _, _, tokens in shapes)
    return PlanReport(
        rows=len(plan.rows),
        tokens=tokens,
        batches=len(plan),
        cells=sum(longest * rows for longest, rows, _ in shapes) if costs.pads else tokens,
        cost=sum(costs.batch_cost(*shape) for shape in shapes),
    )
