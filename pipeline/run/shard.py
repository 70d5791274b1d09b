"""One shard from its texts to its committed file: what a run does over and over, wherever it does it.

On one machine the steps of neighbouring shards overlap (`run.local`); on a cluster each worker takes them one after
the other (`lengthwise.run.cluster`). The steps are the same, and so are the bytes.

Notable decisions:
- A shard is tokenized and encoded in pieces of at most `PIECE_BYTES` of text, so that a shard whose texts are all long
  needs no more memory for its ids than any other. Shards of usual texts are one piece.
- What became of a row that cannot be encoded is decided here for all reasons alike: those that tokenizing finds, and
  vectors that the stored type cannot hold.
- The engine waits for nothing that can be done before or after: batches are planned where texts are tokenized, and
  vectors are looked at where they are written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lengthwise.batching.plan import PlanReport, plan_in_order, report_plan
from lengthwise.config import RunConfig
from lengthwise.data.dataset import Shard, Source
from lengthwise.encoder.engine import Engine, PlannedTokens, Progress, encode_planned, encode_tokens, plan_tokens
from lengthwise.errors import TextError
from lengthwise.store.cast import cast_vectors
from lengthwise.store.parquet import vector_table, write_shard
from lengthwise.store.protocol import Folder
from lengthwise.store.records import ShardRecord
from lengthwise.tokens.ragged import RaggedTokens, cut_texts, tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

PIECE_BYTES = 64 * 2**20
_DEVIATION_ROWS = 64  # of a piece, compared with float32 where a lower precision was asked for


@dataclass(frozen=True)
class StageSeconds:
    """Seconds in which each stage worked; stages overlap, so they add up to more than the run took.

    Attributes:
        tokenize: reading, tokenizing, planning.
        encode: the engine's batches.
        write: looking at the vectors, writing.
    """

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
class PlannedPiece:
    """Some rows of a shard, ready for the engine.

    Attributes:
        first_row: the dataset's row number of the first one.
        ids: them and their batches.
        stats: what is known of them so far.
    """

    first_row: int
    ids: PlannedTokens
    stats: ShardStats


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of a piece in a precision below float32, and in float32: int64[sampled], and [sampled, dim] of both."""

    rows: NDArray[np.int64]
    found: NDArray[np.float32]
    exact: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EncodedPiece:
    """Some rows of a shard: vectors [rows, dim], what stands beside them, and what they took.

    `bad` has the reason for each row that could not be encoded, by its number in the piece. The vectors are float32 and
    may be anything until `ShardEncoder.storable` has seen them.
    """

    first_row: int
    vectors: NDArray[np.floating]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    null: NDArray[np.bool_]
    bad: dict[int, str]
    sample: Sample | None
    stats: ShardStats


class ShardEncoder:
    """Turns shards into files; it needs its folder to have been opened for the run by a `VectorStore`."""

    def __init__(
        self, run: RunConfig, source: Source, tokenizer: TextTokenizer, engine: Engine, folder: Folder, identity: str
    ) -> None:
        self._run, self._source, self._tokenizer, self._engine = run, source, tokenizer, engine
        self._folder, self._identity = folder, identity
        self._tokenization = run.resolve_tokenization(engine.config.tokenization)

    def encode(self, shard: Shard) -> tuple[ShardRecord, ShardStats]:
        """All steps, one after the other.

        Raises:
            TextError, StoreError: a row cannot be encoded, or the shard cannot be written.
        """
        pieces = []
        began = time.perf_counter()
        for planned in self.planned(shard):
            pieces.append(self.storable(self.encoded(planned, time.perf_counter() - began)))
            began = time.perf_counter()
        return self.written(shard, pieces)

    def planned(self, shard: Shard) -> Iterator[PlannedPiece]:
        """A shard's pieces: tokenized, and their batches planned. The engine is not used, only its settings."""
        texts = shard.table[self._run.dataset.text_column]
        for start, stop in cut_texts(texts, len(texts), PIECE_BYTES):
            yield self._planned_piece(texts[start:stop], shard.first_row + start)

    def encoded(
        self, piece: PlannedPiece, planned_seconds: float = 0.0, progress: Progress | None = None
    ) -> EncodedPiece:
        """The vectors of a piece, as the engine gives them.

        Args:
            planned_seconds: what reading, tokenizing and planning it took.
            progress: is told of every row that is done, and how many tokens it had.
        """
        began = time.perf_counter()
        tokens = piece.ids.tokens
        vectors = encode_planned(piece.ids, self._engine, progress)
        sample = self._sample(tokens, vectors)
        took = StageSeconds(tokenize=planned_seconds, encode=time.perf_counter() - began)
        return EncodedPiece(
            first_row=piece.first_row,
            vectors=vectors,
            lengths=tokens.lengths,
            truncated=tokens.truncated,
            empty=tokens.empty,
            null=tokens.null,
            bad=dict(tokens.bad),
            sample=sample,
            stats=piece.stats + ShardStats(stages=took),
        )

    def storable(self, piece: EncodedPiece) -> EncodedPiece:
        """The piece with its vectors in the stored type, in the same memory; rows that it cannot hold are bad.

        Raises:
            TextError: there is such a row, and the policy is `error`.
        """
        began = time.perf_counter()
        vectors, unstorable = cast_vectors(piece.vectors, self._run.encode.vector_dtype)
        if unstorable and self._run.encode.bad_rows == "error":
            row, reason = next(iter(unstorable.items()))
            raise TextError(
                f"row {piece.first_row + row} cannot be stored: {reason}; set encode.vector_dtype to float32, check"
                " the model, or set encode.bad_rows to quarantine or zero"
            )
        largest, cosine = _deviation(piece.sample, unstorable)
        took = StageSeconds(write=time.perf_counter() - began)
        return replace(
            piece,
            vectors=vectors,
            bad={**piece.bad, **unstorable},
            sample=None,
            stats=piece.stats + ShardStats(stages=took, max_deviation=largest, min_cosine=cosine),
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

    def _planned_piece(self, texts: pa.ChunkedArray, first_row: int) -> PlannedPiece:
        tokens = tokenize_texts(
            texts,
            self._tokenizer,
            self._tokenization,
            bad_rows=self._run.encode.bad_rows,
            first_row=first_row,
        )
        ids = plan_tokens(tokens, self._engine, self._run.batching, first_row)
        return PlannedPiece(first_row, ids, self._planned_stats(ids))

    def _planned_stats(self, ids: PlannedTokens) -> ShardStats:
        """What is known of a piece before it is encoded."""
        lengths = ids.tokens.lengths
        in_order = report_plan(lengths, plan_in_order(lengths), self._engine.costs.padded())
        return ShardStats(
            rows=len(lengths),
            tokens=len(ids.tokens.values),
            repeated=in_order.rows - ids.report.rows,
            lengths=np.bincount(lengths),
            plan=ids.report,
            unplanned=in_order,
        )

    def _sample(self, tokens: RaggedTokens, vectors: NDArray[np.float32]) -> Sample | None:
        """Rows all over the piece, in float32 too; None where this is float32."""
        rows = np.flatnonzero(tokens.lengths)
        if self._engine.reference is None or not len(rows):
            return None
        rows = np.unique(rows[np.linspace(0, len(rows) - 1, _DEVIATION_ROWS).astype(int)])
        exact, _ = encode_tokens(tokens.take(rows), self._engine.reference, self._run.batching)
        return Sample(rows, vectors[rows], exact)

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


def _deviation(sample: Sample | None, unstorable: dict[int, str]) -> tuple[float, float] | tuple[None, None]:
    """Largest difference and smallest cosine to float32, of the sampled rows that are stored."""
    if sample is None:
        return None, None
    stored = ~np.isin(sample.rows, list(unstorable))
    if not stored.any():
        return None, None
    exact, found = (vectors[stored].astype(np.float64) for vectors in (sample.exact, sample.found))
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (exact * found).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return float(np.abs(exact - found).max()), float(cosines.min())


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
