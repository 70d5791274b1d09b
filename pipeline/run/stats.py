"""What a run measures: per shard, summed over shards, and as the report of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.plan import PlanReport
from lengthwise.store.records import Totals


@dataclass(frozen=True)
class StageSeconds:
    """Seconds in which each stage worked; stages overlap, so their sum may exceed the run's duration.

    Attributes:
        tokenize: reading, tokenizing, planning.
        encode: the engine's batches, and what is done with them before the next ones.
        write: checking, casting and writing vectors.
        engine: of `encode`, the engine's batches alone.
    """

    tokenize: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    engine: float = 0.0

    def __add__(self, other: StageSeconds) -> StageSeconds:
        """The sum of both."""
        return StageSeconds(
            self.tokenize + other.tokenize,
            self.encode + other.encode,
            self.write + other.write,
            self.engine + other.engine,
        )


@dataclass(frozen=True)
class ShardStats:
    """What encoding some shards took.

    Attributes:
        shards, rows, tokens: how many were encoded.
        repeated: rows with the ids of an earlier row of their chunk, which were not computed again.
        steps: LSTM steps of the other rows, over all directions.
        saved_steps: those that rows have in common, and that were computed for another row.
        lengths: int64[longest + 1], how many rows have each number of tokens.
        plan: what their batches cost.
        unplanned: what batches of 64 rows in the dataset's order would cost, with padding.
        stages: where the time went.
        max_deviation, min_cosine: compared with float32; None unless a lower precision was asked for.
        reused: rows whose vector another folder had, by the start of that folder's identity; `rows` has them too.
        copied_tokens: of those rows, but for the ones that were encoded to be compared; `tokens` has them too.
    """

    shards: int = 0
    rows: int = 0
    tokens: int = 0
    repeated: int = 0
    steps: int = 0
    saved_steps: int = 0
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    plan: PlanReport = PlanReport()
    unplanned: PlanReport = PlanReport()
    stages: StageSeconds = StageSeconds()
    max_deviation: float | None = None
    min_cosine: float | None = None
    reused: Mapping[str, int] = field(default_factory=dict)
    copied_tokens: int = 0

    def __add__(self, other: ShardStats) -> ShardStats:
        """The sum of both; of deviations and cosines, the worst."""
        deviations = [value for value in (self.max_deviation, other.max_deviation) if value is not None]
        cosines = [value for value in (self.min_cosine, other.min_cosine) if value is not None]
        return ShardStats(
            self.shards + other.shards,
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.repeated + other.repeated,
            self.steps + other.steps,
            self.saved_steps + other.saved_steps,
            _add_counts(self.lengths, other.lengths),
            self.plan + other.plan,
            self.unplanned + other.unplanned,
            self.stages + other.stages,
            max(deviations, default=None),
            min(cosines, default=None),
            dict(Counter(self.reused) + Counter(other.reused)),
            self.copied_tokens + other.copied_tokens,
        )


@dataclass(frozen=True)
class EncodeReport:
    """What a run did.

    Attributes:
        totals: of the whole folder; of one part of a divided run, of the shards that it knows of.
        encoded: of the shards that this run encoded; the others existed already.
        is_complete: whether the folder is, as it is unless the run was one part of several.
        engine: the name of the engine.
        seconds: the run's duration, verifying existing shards included.
        chosen: how the precision was chosen; empty where it was given.
        reuse: what was reused of which folder, and why not more, a sentence each.
    """

    totals: Totals
    encoded: ShardStats
    is_complete: bool
    engine: str
    seconds: float
    chosen: str = ""
    reuse: tuple[str, ...] = ()

    @property
    def computed_tokens(self) -> int:
        """Tokens that this run encoded; those of rows whose vector it took from elsewhere are not counted."""
        return self.encoded.tokens - self.encoded.copied_tokens

    @property
    def saved_seconds(self) -> float | None:
        """An estimate of what the engine would have taken for the tokens of reused vectors, in seconds.

        They are assumed to cost what this run's other tokens did; None where it encoded none, or reused nothing.
        """
        if not self.computed_tokens or not self.encoded.copied_tokens:
            return None
        return self.encoded.copied_tokens * self.encoded.stages.engine / self.computed_tokens

    def describe_saved(self) -> str:
        """`saved_seconds` as a sentence, with what it is estimated from; empty where there is no estimate."""
        if (seconds := self.saved_seconds) is None:
            return ""
        return (
            f"an estimated {seconds:,.1f} s of the engine, for {self.encoded.copied_tokens:,} tokens at the"
            f" {1e6 * self.encoded.stages.engine / self.computed_tokens:,.1f} µs that each of the"
            f" {self.computed_tokens:,} encoded tokens took"
        )

    @property
    def tokens_per_second(self) -> float:
        """Tokens that this run encoded per second, reading and writing included; 0 where it encoded none."""
        return self.computed_tokens / self.seconds if self.computed_tokens else 0.0


def _add_counts(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of two arrays of counts, of which one may be shorter."""
    total = np.zeros(max(len(first), len(second)), np.int64)
    total[: len(first)] += first
    total[: len(second)] += second
    return total
