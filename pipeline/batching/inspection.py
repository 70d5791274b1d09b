"""What a run's texts would cost, before any model is loaded: lengths, flags, and three ways to batch the same rows.

Notable decisions:
- What batches cost is a property of the engine, and told from the run's settings: no model is loaded for it.
- The plan is the one that encoding would make: rows of the same ids are computed once. Batches in dataset order
  compute every row, as a loop over a dataset does.
- Costs of different kinds of engine are compared in one unit, a token in a large batch of equal lengths, as if that
  took the same time everywhere. They say which way is better and by about how much, not how long it takes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.plan import (
    PACKED,
    PACKED_CUDA,
    PADDED_CUDA,
    BatchCosts,
    BatchPlan,
    PlanReport,
    engine_costs,
    plan_batches,
    plan_in_order,
    report_plan,
)
from lengthwise.config import EncodeSettings, RunConfig
from lengthwise.tokens.ragged import RaggedTokens


@dataclass(frozen=True)
class Strategy:
    """A way to batch rows.

    Attributes:
        name: for people.
        costs: what its batches cost.
        planned: whether rows are planned by these costs; else they are taken in the dataset's order, 64 a batch.
    """

    name: str
    costs: BatchCosts
    planned: bool = False

    def plan(self, lengths: NDArray[np.integer]) -> BatchPlan:
        """The batches of rows of these lengths."""
        return plan_batches(lengths, self.costs) if self.planned else plan_in_order(lengths)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What is in a shard, and what its batches would cost.

    Attributes:
        lengths: int64[rows], tokens a row, nothing cut off.
        max_length: the most tokens that a row would be encoded with, or None.
        empty: rows of a text, but no token.
        null: rows of no text.
        refused: rows of a text that the tokenizer refuses.
        repeated: rows of tokens whose ids stand in an earlier row.
        strategies: each way to batch the rows, and what it costs; the planned one is the last.
    """

    lengths: NDArray[np.int64]
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

    @property
    def encoded_lengths(self) -> NDArray[np.int64]:
        """int64[rows], tokens a row as it would be encoded: `max_length` at the most."""
        return np.minimum(self.lengths, np.iinfo(np.int64).max if self.max_length is None else self.max_length)

    def relative_cost(self, report: PlanReport) -> float:
        """A cost of `strategies` as a multiple of the planned one; 1 where there is nothing to encode."""
        planned = self.strategies[-1][1].cost
        return report.cost / planned if planned else 1.0


def inspect_tokens(tokens: RaggedTokens, run: RunConfig, max_length: int | None = None) -> Inspection:
    """What encoding a shard would cost.

    Args:
        tokens: the shard, tokenized without a `max_length`. Rows that are equal only where they are cut are taken as
            different here.
        max_length: the most tokens that a row would be encoded with.
    """
    first, _ = tokens.distinct_rows()
    found = Inspection(
        lengths=tokens.lengths,
        max_length=max_length,
        empty=int(tokens.empty.sum()),
        null=int(tokens.null.sum()),
        refused=len(tokens.bad.keys() - np.flatnonzero(tokens.null).tolist()),
        repeated=int(np.count_nonzero(tokens.lengths) - np.count_nonzero(tokens.lengths[first])),
        strategies=(),
    )
    every, distinct = found.encoded_lengths, found.encoded_lengths[first]
    return replace(
        found,
        strategies=tuple(
            (strategy, _report(strategy, distinct if strategy.planned else every)) for strategy in strategies(run)
        ),
    )


def strategies(run: RunConfig) -> tuple[Strategy, Strategy, Strategy]:
    """Dataset order, its padding computed; dataset order, packed; and the plan that the run would make."""
    costs = expected_costs(run.encode)
    return (
        Strategy("dataset order, padded", costs.padded()),
        Strategy("dataset order, packed", PACKED_CUDA if costs in (PACKED_CUDA, PADDED_CUDA) else PACKED),
        Strategy("planned", costs.within(run.batching), planned=True),
    )


def expected_costs(settings: EncodeSettings) -> BatchCosts:
    """What batches will cost the engine that these settings ask for; `auto` is a GPU where the driver's tools are."""
    on_gpu = settings.device == "cuda" or (settings.device == "auto" and shutil.which("nvidia-smi") is not None)
    return engine_costs(settings.engine, settings.precision, on_gpu=on_gpu)


def length_percentiles(counts: NDArray[np.integer], percents: tuple[float, ...]) -> tuple[int, ...]:
    """The smallest length that so many percent of the rows do not exceed, for each of `percents`.

    Args:
        counts: [longest + 1], how many rows have each length.
    """
    reached = np.cumsum(counts)
    if not len(reached) or not reached[-1]:
        return (0,) * len(percents)
    return tuple(int(np.searchsorted(reached, np.ceil(reached[-1] * percent / 100))) for percent in percents)


def _report(strategy: Strategy, lengths: NDArray[np.int64]) -> PlanReport:
    return report_plan(lengths, strategy.plan(lengths), strategy.costs)
