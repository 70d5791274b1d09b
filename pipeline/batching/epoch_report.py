"""What an epoch of batches is like: padding, equal lengths, cost against random batches, and how rows are mixed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import BatchCosts
from lengthwise.batching.cut import batch_costs
from lengthwise.batching.epoch import EpochPlan

_ROWS_NAMED = 5


@dataclass(frozen=True)
class EpochReport:
    """The figures of one epoch, over all ranks.

    Attributes:
        rows: row numbers in batches, repeated ones included.
        tokens: their tokens.
        batches: their batches.
        cells: rows x longest row, summed over batches.
        equal_tokens: tokens in batches of equal lengths.
        cost: of all batches, in tokens, see `BatchCosts`.
        random_cost: of batches of as many rows each, drawn at random.
        imbalance: the largest of all steps' largest cost over mean cost.
        waiting: the share of the ranks' time that is spent waiting for the slowest, by cost.
        travel: how far a row is from its place in the dataset, on average, as a share of the rows; 1/3 for a random
            order.
        companions: the share of the rows of its batch that a row meets again in its batch of the next epoch; None where
            batches are not shuffled, or too many to be compared.
        over_budget: the first rows longer than `max_tokens`, each of which has a batch of its own.
        num_over_budget: how many there are.
        empty: rows of no tokens, which are in no batch.
        repeated: rows that were repeated so that every rank has a batch.
        dropped: rows that were left out under `drop_last`.
    """

    rows: int
    tokens: int
    batches: int
    cells: int
    equal_tokens: int
    cost: float
    random_cost: float
    imbalance: float
    waiting: float
    travel: float
    companions: float | None
    over_budget: tuple[int, ...]
    num_over_budget: int
    empty: int
    repeated: int
    dropped: int

    @property
    def padding(self) -> float:
        """The share of the cells that is padding, 0 to 1."""
        return 1 - self.tokens / self.cells if self.cells else 0.0

    @property
    def equal_share(self) -> float:
        """The share of the tokens that are in batches of equal lengths, 0 to 1."""
        return self.equal_tokens / self.tokens if self.tokens else 1.0

    def __str__(self) -> str:
        per_batch = self.rows / self.batches if self.batches else 0
        cost = self.cost / self.random_cost if self.random_cost else 1.0
        lines = [
            f"rows           {self.rows:,} ({self.tokens:,} tokens) in {self.batches:,} batches of {per_batch:.1f}",
            f"padding        {self.padding:.2%} of the cells",
            f"equal lengths  {self.equal_share:.1%} of the tokens are in batches of one length",
            f"cost           {cost:.2f} of random batches of as many rows",
            f"order          a row is {self.travel:.0%} of the dataset away from its place (33% in a random order)",
        ]
        if self.companions is not None:
            lines.append(f"companions     {self.companions:.1%} of a row's batch are with it again in the next epoch")
        if self.imbalance > 1:
            lines.append(
                f"balance        {self.imbalance:.3f} largest over mean; {self.waiting:.2%} of the time waiting"
            )
        if self.num_over_budget:
            more = ", ..." if self.num_over_budget > len(self.over_budget) else ""
            rows = ", ".join(map(str, self.over_budget)) + more
            lines.append(f"over budget    {self.num_over_budget:,} rows are longer than max_tokens, alone: {rows}")
        for name, number in (("empty", self.empty), ("repeated", self.repeated), ("dropped", self.dropped)):
            if number:
                lines.append(f"{name:<14} {number:,} rows")
        return "\n".join(lines)


def report_epoch(
    lengths: NDArray[np.integer],
    plans: Iterable[EpochPlan],
    following: EpochPlan | None,
    costs: BatchCosts,
    ranks: int,
) -> EpochReport:
    """Measure an epoch.

    Args:
        lengths: [rows], of the whole dataset.
        plans: of the epoch's windows.
        following: the plan of the next epoch, to see which rows meet again; of an epoch of one window.
        costs: as they were planned with.
        ranks: as they were planned for.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    imbalance, companions = 1.0, None
    for plan in plans:
        found = lengths[plan.rows].astype(np.int64)
        longest, tokens, sizes, cost = _batches(found, plan.starts, costs)
        steps = cost.reshape(-1, ranks)
        sums["travel"] += np.abs(np.arange(sums["rows"], sums["rows"] + len(found)) - plan.rows).sum(dtype=float)
        sums["rows"] += len(found)
        sums["tokens"] += tokens.sum()
        sums["batches"] += len(plan)
        sums["cells"] += (longest * sizes).sum()
        sums["equal_tokens"] += tokens[tokens == longest * sizes].sum()
        sums["cost"] += cost.sum()
        sums["random_cost"] += _random_cost(found, len(plan), costs)
        sums["slowest"] += steps.max(axis=1, initial=0).sum()
        sums["repeated"] += plan.repeated
        sums["dropped"] += plan.dropped
        if len(plan):
            imbalance = max(imbalance, float((steps.max(axis=1) / steps.mean(axis=1)).max()))
        if following is not None:
            companions = _companions(plan, following, len(lengths))
    over = np.flatnonzero(lengths > costs.max_tokens)
    counts = ("rows", "tokens", "batches", "cells", "equal_tokens", "repeated", "dropped")
    return EpochReport(
        **{name: int(sums[name]) for name in counts},
        cost=float(sums["cost"]),
        random_cost=float(sums["random_cost"]),
        imbalance=imbalance,
        waiting=float(1 - sums["cost"] / ranks / sums["slowest"]) if sums["slowest"] else 0.0,
        travel=float(sums["travel"] / max(1, sums["rows"]) / max(1, len(lengths))),
        companions=companions,
        over_budget=tuple(over[:_ROWS_NAMED].tolist()),
        num_over_budget=len(over),
        empty=int(np.count_nonzero(lengths == 0)),
    )


def _batches(
    lengths: NDArray[np.int64], starts: NDArray[np.int64], costs: BatchCosts
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Longest row, tokens, rows and cost of each batch."""
    sizes = np.diff(starts)
    if not len(sizes):
        return sizes, sizes, sizes, sizes.astype(float)
    longest, tokens = np.maximum.reduceat(lengths, starts[:-1]), np.add.reduceat(lengths, starts[:-1])
    return longest, tokens, sizes, batch_costs(longest, sizes, tokens, costs)


def _random_cost(lengths: NDArray[np.int64], batches: int, costs: BatchCosts) -> float:
    """The cost of the same rows in as many batches of random rows, each of about as many."""
    starts = np.linspace(0, len(lengths), batches + 1).astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(lengths)
    return float(_batches(shuffled, starts, costs)[3].sum())


def _companions(plan: EpochPlan, following: EpochPlan, rows: int) -> float:
    """The mean share of the other rows of a row's batch that are in its batch of the following epoch too."""
    batch_of = np.full(rows, -1, np.int64)
    batch_of[following.rows] = np.repeat(np.arange(len(following)), np.diff(following.starts))
    own = np.repeat(np.arange(len(plan)), np.diff(plan.starts))
    size = np.diff(plan.starts)[own]
    _, which, count = np.unique(
        own * (len(following) + 1) + batch_of[plan.rows], return_inverse=True, return_counts=True
    )
    several = size > 1
    return float(((count[which] - 1)[several] / (size - 1)[several]).mean()) if several.any() else 0.0
