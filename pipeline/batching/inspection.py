"""What encoding a dataset's texts would cost, before a model is loaded: lengths, flags, and three ways to batch.

- Costs belong to the kind of engine and follow from the run's settings (`batching.costs`).
- The planned strategy computes rows of the same ids once, as encoding does. Batches in dataset order compute every
  row, as a loop over a dataset does.
- Costs of different kinds of engine are compared in one unit, a token in a large batch of equal lengths, as if that
  took the same time everywhere. They say which strategy is better and by about how much, not how long it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import PACKED, PACKED_CUDA, PADDED_CUDA, BatchCosts
from lengthwise.batching.plan import BatchPlan, PlanReport, plan_batches, plan_in_order, report_plan
from lengthwise.tokens.ragged import RaggedTokens


@dataclass(frozen=True)
class Strategy:
    """A way to batch rows.

    Attributes:
        name: shown to the user.
        costs: the costs of its batches.
        planned: whether batches are planned by these costs; else rows are in dataset order, 64 per batch.
    """

    name: str
    costs: BatchCosts
    planned: bool = False

    def plan(self, lengths: NDArray[np.integer]) -> BatchPlan:
        """The batches of rows of these lengths, int[rows]."""
        return plan_batches(lengths, self.costs) if self.planned else plan_in_order(lengths)


@dataclass(frozen=True, eq=False)
class Inspection:
    """The rows of a shard, and what their batches would cost.

    Attributes:
        lengths: int64[rows], tokens per row before truncation.
        encoded_lengths: int64[rows], tokens per row that are computed: cut, and with padding that the model reads.
        max_length: the limit at which a row would be truncated, or None.
        empty: rows of a text without tokens.
        null: rows without a text.
        refused: rows of a text that the tokenizer refuses.
        repeated: rows of tokens that have the ids of an earlier row.
        strategies: each strategy with its plan's report; the planned one is the last.
    """

    lengths: NDArray[np.int64]
    encoded_lengths: NDArray[np.int64]
    max_length: int | None
    empty: int
    null: int
    refused: int
    repeated: int
    strategies: tuple[tuple[Strategy, PlanReport], ...]

    @property
    def too_long(self) -> int:
        """Rows of more than `max_length` tokens."""
        return 0 if self.max_length is None else int((self.lengths > self.max_length).sum())

    def relative_cost(self, report: PlanReport) -> float:
        """The cost of a report in `strategies` as a multiple of the planned one; 1 where there is nothing to encode."""
        planned = self.strategies[-1][1].cost
        return report.cost / planned if planned else 1.0


def inspect_tokens(
    tokens: RaggedTokens,
    strategies: Sequence[Strategy],
    max_length: int | None = None,
    read_lengths: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> Inspection:
    """Count the rows of a shard, and compare strategies on them.

    Args:
        tokens: the shard, tokenized without a `max_length`. Rows that are equal only after truncation count as
            different.
        strategies: as `batch_strategies` gives them, the planned one last.
        max_length: the limit at which a row would be truncated.
        read_lengths: from tokens of a row to those that are computed, for a model that reads padding.
    """
    lengths = tokens.lengths
    encoded = lengths if max_length is None else np.minimum(lengths, max_length)
    encoded = encoded if read_lengths is None else read_lengths(encoded)
    first, _ = tokens.distinct_rows()
    return Inspection(
        lengths=lengths,
        encoded_lengths=encoded,
        max_length=max_length,
        empty=int(tokens.empty.sum()),
        null=int(tokens.null.sum()),
        refused=len(tokens.bad.keys() - np.flatnonzero(tokens.null).tolist()),
        repeated=int(np.count_nonzero(lengths) - np.count_nonzero(lengths[first])),
        strategies=tuple(
            (strategy, _report(strategy, encoded[first] if strategy.planned else encoded)) for strategy in strategies
        ),
    )


def batch_strategies(
    costs: BatchCosts, max_tokens: int | None = None, max_rows: int | None = None
) -> tuple[Strategy, Strategy, Strategy]:
    """Dataset order with padding; dataset order, packed; and the plan that the run would make.

    Args:
        costs: of the run's kind of engine, see `expected_costs`.
        max_tokens: the run's own limit of a batch's cells.
        max_rows: the run's own limit of a batch's rows.
    """
    return (
        Strategy("dataset order, padded", costs.padded()),
        Strategy("dataset order, packed", PACKED_CUDA if costs in (PACKED_CUDA, PADDED_CUDA) else PACKED),
        Strategy("planned", costs.with_limits(max_tokens, max_rows), planned=True),
    )


def length_percentiles(counts: NDArray[np.integer], percents: tuple[float, ...]) -> tuple[int, ...]:
    """Percentiles of the rows' lengths: for each percent, the smallest length that so many rows do not exceed.

    Args:
        counts: int[longest + 1], how many rows have each length.
    """
    reached = np.cumsum(counts)
    if not len(reached) or not reached[-1]:
        return (0,) * len(percents)
    return tuple(int(np.searchsorted(reached, np.ceil(reached[-1] * percent / 100))) for percent in percents)


def _report(strategy: Strategy, lengths: NDArray[np.int64]) -> PlanReport:
    return report_plan(lengths, strategy.plan(lengths), strategy.costs)
