"""One shard from its texts to its committed file: what a run does over and over, wherever it does it.

On one machine the steps of neighbouring shards overlap (`pipeline.run`); on a cluster each worker takes them one after
the other (`pipeline.cluster`). The steps are the same, and so are the bytes.

Notable decisions:
- A shard is tokenized and encoded in pieces of at most `PIECE_BYTES` of text, so that a shard whose texts are all long
  needs no more memory for its ids than any other. Shards of usual texts are one piece.
- What became of a row that cannot be encoded is decided here for all reasons alike: those that tokenizing finds, and
  vectors that the stored type cannot hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.batching import PlanReport, plan_in_order, report_plan
from pipeline.config import RunConfig
from pipeline.dataset import Shard, Source
from pipeline.encode import Engine, Progress, encode_tokens
from pipeline.errors import TextError
from pipeline.folder import Folder
from pipeline.records import ShardRecord
from pipeline.store import vector_table, write_shard
from pipeline.tokenizer import TextTokenizer
from pipeline.tokens import TokenShard, cut_texts, tokenize_texts

PIECE_BYTES = 64 * 2**20
Deviation = tuple[float, float]
_DEVIATION_ROWS = 64  # of a piece, compared with float32 where a lower precision was asked for


@dataclass(frozen=True)
class StageSeconds:
    """Seconds in which each stage worked; stages overlap, so they add up to more than the run took."""

    tokenize: float = 0.0
    encode: float = 0.0
    write: float = 0.0


@dataclass(frozen=True)
class ShardStats:
    """What encoding some shards took.

    Attributes:
        shards, rows, tokens: how many were encoded.
        repeated: rows whose ids stood before in their piece, and were not computed again.
        lengths: int64[longest + 1], how many rows have each number of tokens.
        plan: what their batches cost.
        unplanned: what batches of 64 rows in the dataset's order would cost, their padding computed.
        stages: where the time went.
        max_deviation, min_cosine: from float32, where a precision below it was asked for.
    """

    shards: int = 0
    rows: int = 0
    tokens: int = 0
    repeated: int = 0
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    plan: PlanReport = PlanReport()
    unplanned: PlanReport = PlanReport()
    stages: StageSeconds = StageSeconds()
    max_deviation: float | None = None
    min_cosine: float | None = None

    def __add__(self, other: ShardStats) -> ShardStats:
        """Both together."""
        deviations = [value for value in (self.max_deviation, other.max_deviation) if value is not None]
        cosines = [value for value in (self.min_cosine, other.min_cosine) if value is not None]
        return ShardStats(
            self.shards + other.shards,
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.repeated + other.repeated,
            _added(self.lengths, other.lengths),
            self.plan + other.plan,
            self.unplanned + other.unplanned,
            StageSeconds(
                self.stages.tokenize + other.stages.tokenize,
                self.stages.encode + other.stages.encode,
                self.stages.write + other.stages.write,
            ),
            max(deviations, default=None),
            min(cosines, default=None),
        )


@dataclass(frozen=True, eq=False)
class EncodedPiece:
    """Some rows of a shard: vectors float32[rows, dim], what stands beside them, and what they took.

    `bad` has the reason for each row that could not be encoded, by its number in the piece.
    """

    vectors: NDArray[np.floating]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    null: NDArray[np.bool_]
    bad: dict[int, str]
    stats: ShardStats


class ShardEncoder:
    """Turns shards into files; it needs its folder to have been opened for the run by a `VectorStore`."""

    def __init__(
        self, run: RunConfig, source: Source, tokenizer: TextTokenizer, engine: Engine, folder: Folder, identity: str
    ) -> None:
        self._run, self._source, self._tokenizer, self._engine = run, source, tokenizer, engine
        self._folder, self._identity = folder, identity

    def encode(self, shard: Shard) -> tuple[ShardRecord, ShardStats]:
        """All steps, one after the other.

        Raises:
            TextError, StoreError: a row cannot be encoded, or the shard cannot be written.
        """
        pieces = []
        began = time.perf_counter()
        for first_row, tokens in self.tokenized(shard):
            pieces.append(self.encoded(tokens, first_row, time.perf_counter() - began))
            began = time.perf_counter()
        return self.written(shard, pieces)

    def tokenized(self, shard: Shard) -> Iterator[tuple[int, TokenShard]]:
        """A shard's pieces: the dataset's row number of the first row, and the ids."""
        texts = shard.table[self._run.dataset.text_column]
        for start, stop in cut_texts(texts, len(texts), PIECE_BYTES):
            first_row = shard.first_row + start
            yield (
                first_row,
                tokenize_texts(
                    texts[start:stop],
                    self._tokenizer,
                    max_length=self._run.tokenizer.max_length,
                    truncate=self._run.tokenizer.truncate,
                    add_special_tokens=self._run.tokenizer.add_special_tokens,
                    bad_rows=self._run.encode.bad_rows,
                    first_row=first_row,
                ),
            )

    def encoded(
        self, tokens: TokenShard, first_row: int, tokenize_seconds: float, progress: Progress | None = None
    ) -> EncodedPiece:
        """The vectors of a piece.

        Args:
            first_row: the dataset's row number of its first row.
            tokenize_seconds: what reading and tokenizing it took.
            progress: is told of every row that is done, and how many tokens it had.
        """
        began = time.perf_counter()
        vectors, plan = encode_tokens(tokens, self._engine, self._run.batching, progress, first_row)
        unstorable = self._unstorable(vectors, first_row)
        vectors[list(unstorable)] = 0
        lengths = tokens.lengths
        largest, cosine = self._deviation(tokens, vectors, unstorable) or (None, None)
        in_order = report_plan(lengths, plan_in_order(lengths), self._engine.costs.padded())
        stats = ShardStats(
            rows=len(tokens),
            tokens=len(tokens.values),
            repeated=in_order.rows - plan.rows,
            lengths=np.bincount(lengths),
            plan=plan,
            unplanned=in_order,
            stages=StageSeconds(tokenize=tokenize_seconds, encode=time.perf_counter() - began),
            max_deviation=largest,
            min_cosine=cosine,
        )
        return EncodedPiece(
            vectors=vectors.astype(self._run.encode.vector_dtype, copy=False),
            lengths=lengths,
            truncated=tokens.truncated,
            empty=tokens.empty,
            null=tokens.null,
            bad={**tokens.bad, **unstorable},
            stats=stats,
        )

    def written(self, shard: Shard, pieces: Sequence[EncodedPiece]) -> tuple[ShardRecord, ShardStats]:
        """Write the shard of these pieces; the record is the store's to add."""
        began = time.perf_counter()
        quarantine = self._run.encode.bad_rows == "quarantine"
        bad = _bad_of_all(pieces)
        absent = np.zeros(shard.table.num_rows, np.bool_)
        absent[list(bad)] = quarantine
        table = vector_table(
            shard.table.select(list(self._run.dataset.keep_columns)),
            _joined([piece.vectors for piece in pieces]),
            _joined([piece.lengths for piece in pieces]),
            _joined([piece.truncated for piece in pieces]),
            absent if bad else None,
        )
        stats = sum((piece.stats for piece in pieces), ShardStats(shards=1))
        counts = {
            "index": shard.index,
            "first_row": shard.first_row,
            "tokens": stats.tokens,
            "empty": sum(int(piece.empty.sum()) for piece in pieces),
            "null": sum(int(piece.null.sum()) for piece in pieces),
            "bad": len(bad),
            "truncated": sum(int(piece.truncated.sum()) for piece in pieces),
            "max_deviation": stats.max_deviation,
            "min_cosine": stats.min_cosine,
        }
        set_aside = self._set_aside(shard, bad) if bad and quarantine else None
        record = write_shard(self._folder, self._identity, self._with_features(table), counts, set_aside)
        return record, stats + ShardStats(stages=StageSeconds(write=time.perf_counter() - began))

    def _unstorable(self, vectors: NDArray[np.float32], first_row: int) -> dict[int, str]:
        """The rows whose vectors the stored type cannot hold, and why; under the policy `error`, the first ends it."""
        dtype = self._run.encode.vector_dtype
        largest = np.finfo(dtype).max
        found = {}
        for row in np.flatnonzero(~(np.abs(vectors) <= largest).all(axis=1)).tolist():
            if np.isfinite(vectors[row]).all():
                found[row] = f"its vector has values beyond {largest:.0f}, the most that {dtype} holds"
            else:
                found[row] = "its vector is not finite, as of weights that are damaged"
            if self._run.encode.bad_rows == "error":
                raise TextError(
                    f"row {first_row + row} cannot be stored: {found[row]}; set encode.vector_dtype to float32, check"
                    " the model, or set encode.bad_rows to quarantine or zero"
                )
        return found

    def _deviation(
        self, tokens: TokenShard, vectors: NDArray[np.float32], unstorable: dict[int, str]
    ) -> Deviation | None:
        """Largest difference and smallest cosine to float32, on rows all over the piece; None where this is float32."""
        rows = np.setdiff1d(np.flatnonzero(tokens.lengths), list(unstorable))
        if self._engine.reference is None or not len(rows):
            return None
        rows = np.unique(rows[np.linspace(0, len(rows) - 1, _DEVIATION_ROWS).astype(int)])
        exact = encode_tokens(tokens.take(rows), self._engine.reference, self._run.batching)[0].astype(np.float64)
        found = vectors[rows].astype(np.float64)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
        cosines = (exact * found).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
        return float(np.abs(exact - found).max()), float(cosines.min())

    def _set_aside(self, shard: Shard, bad: dict[int, str]) -> bytes:
        """A line of JSON a bad row: its number in the dataset, why it is bad, and its text.

        What is not Unicode in the text is written as `\\xff`, for the byte 255, and the like.
        """
        texts = shard.table[self._run.dataset.text_column].take(list(bad)).cast(pa.large_binary()).to_pylist()
        lines = (
            {
                "row": shard.first_row + row,
                "reason": reason,
                "text": None if text is None else text.decode("utf-8", "backslashreplace"),
            }
            for (row, reason), text in zip(bad.items(), texts, strict=True)
        )
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()

    def _with_features(self, table: pa.Table) -> pa.Table:
        """The table with `datasets` metadata of the kept columns, so that class names and the like survive."""
        import datasets

        features = datasets.Features.from_arrow_schema(table.schema)
        features.update({name: self._source.features[name] for name in self._run.dataset.keep_columns})
        return table.replace_schema_metadata(features.arrow_schema.metadata)


def _bad_of_all(pieces: Sequence[EncodedPiece]) -> dict[int, str]:
    """The bad rows of a shard's pieces, in order, by their number in the shard."""
    found: dict[int, str] = {}
    start = 0
    for piece in pieces:
        found.update({start + row: piece.bad[row] for row in sorted(piece.bad)})
        start += len(piece.lengths)
    return found


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _added(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two arrays of counts, of which one may be shorter."""
    total = np.zeros(max(len(first), len(second)), np.int64)
    total[: len(first)] += first
    total[: len(second)] += second
    return total
