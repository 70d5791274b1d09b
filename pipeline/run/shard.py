"""Encodes one shard, from its texts to its committed file, wherever a run does it.

On one machine the steps of neighbouring shards overlap (`lengthwise.run.local`); on a cluster each worker runs them
one after the other (`lengthwise.run.cluster`). The steps are the same, and so are the bytes.

Notable decisions:
- A shard is tokenized and encoded in chunks of at most `CHUNK_BYTES` of text, so that a shard of long texts needs no
  more memory for its ids than any other. Shards of usual texts are one chunk.
- The engine waits for nothing that can be done before or after it: batches are planned where texts are tokenized, and
  vectors are checked and cast where they are written.
- Rows that cannot be encoded are handled here for all reasons alike: those that tokenizing finds, and vectors that the
  stored type cannot hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lengthwise.batching.plan import plan_in_order, report_plan
from lengthwise.config import RunConfig
from lengthwise.data.dataset import Shard, Source
from lengthwise.encoder.engine import Engine, PlannedTokens, Progress, encode_planned, encode_tokens, plan_tokens
from lengthwise.encoder.padding import read_lengths
from lengthwise.errors import BadRowsError, TextError
from lengthwise.run.labels import check_columns, label_columns
from lengthwise.run.stats import ShardStats, StageSeconds
from lengthwise.store.cast import cast_vectors
from lengthwise.store.parquet import vector_table, write_shard
from lengthwise.store.protocol import Folder
from lengthwise.store.records import ShardRecord
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import split_texts, tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

CHUNK_BYTES = 64 * 2**20
_SAMPLED_ROWS = 64  # per chunk, compared with float32 where a lower precision was asked for


@dataclass(frozen=True, eq=False)
class PlannedChunk:
    """Some rows of a shard, ready for the engine.

    Attributes:
        ids: the rows' ids and their batches.
        stats: what is known of them before they are encoded.
        is_last: whether the shard ends with it.
    """

    ids: PlannedTokens
    stats: ShardStats
    is_last: bool


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of a chunk in a precision below float32, and in float32: int64[sampled], and [sampled, dim] of both."""

    rows: NDArray[np.int64]
    found: NDArray[np.float32]
    exact: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EncodedChunk:
    """Some rows of a shard, encoded; their ids are not kept.

    Attributes:
        vectors: float32[rows, dim], or in the stored type once they are cast.
        lengths: int64[rows], tokens.
        truncated: bool[rows].
        empty, null: how many rows have no tokens, and no text.
        bad: why a row could not be encoded, by its number in the chunk.
        sample: what the deviation from float32 is measured on.
        stats: what the chunk took.
    """

    vectors: NDArray[np.floating]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    empty: int
    null: int
    bad: dict[int, str]
    sample: Sample | None
    stats: ShardStats


class ShardEncoder:
    """Encodes the shards of a run, and writes them to a folder that a `VectorStore` has opened for it."""

    def __init__(
        self, config: RunConfig, source: Source, tokenizer: TextTokenizer, engine: Engine, folder: Folder, identity: str
    ) -> None:
        check_columns(config, engine.classifier)
        self._config, self._source, self._tokenizer, self._engine = config, source, tokenizer, engine
        self._folder, self._identity = folder, identity
        self._tokenization = config.resolve_tokenization(engine.config.tokenization)

    def encode(self, shard: Shard) -> tuple[ShardRecord, ShardStats]:
        """All steps, one after the other.

        Raises:
            TextError, StoreError: a row cannot be encoded, or the shard cannot be written.
        """
        return self.write(shard, [self.encode_chunk(chunk) for _, chunk in self.plan_chunks([shard])])

    def plan_chunks(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, PlannedChunk]]:
        """The chunks of each shard, tokenized and planned. Of the engine only its settings are used."""
        started = time.perf_counter()
        for shard in shards:
            texts = shard.texts
            for start, stop in split_texts(texts, len(texts), CHUNK_BYTES):
                is_last = stop == len(texts)
                yield shard, self._plan_chunk(texts[start:stop], shard, start, is_last, started)
                started = time.perf_counter()

    def encode_chunk(self, chunk: PlannedChunk, progress: Progress | None = None) -> EncodedChunk:
        """The vectors of a chunk, as the engine returns them.

        Args:
            progress: is called with rows that are done and their tokens.
        """
        started = time.perf_counter()
        tokens = chunk.ids.tokens
        vectors = encode_planned(chunk.ids, self._engine, progress)
        sample = self._sample(tokens, vectors)
        took = StageSeconds(encode=time.perf_counter() - started)
        return EncodedChunk(
            vectors=vectors,
            lengths=tokens.lengths,
            truncated=tokens.truncated,
            empty=int(tokens.empty.sum()),
            null=int(tokens.null.sum()),
            bad=dict(tokens.bad),
            sample=sample,
            stats=chunk.stats + ShardStats(stages=took),
        )

    def write(self, shard: Shard, chunks: Sequence[EncodedChunk]) -> tuple[ShardRecord, ShardStats]:
        """Write the shard of these chunks, whose vectors are overwritten. The caller adds the record to the store.

        Raises:
            TextError: a vector cannot be stored, and the policy is `error`.
            StoreError: the shard cannot be written.
        """
        started = time.perf_counter()
        labels = self._label_columns(chunks)
        chunks = self._cast_chunks(shard, chunks)
        quarantine = self._config.encode.bad_rows == "quarantine"
        bad = _join_bad_rows(chunks)
        is_null = np.zeros(shard.table.num_rows, np.bool_)
        is_null[list(bad)] = quarantine
        table = vector_table(
            shard.select(self._config.dataset.keep_columns),
            _join([chunk.vectors for chunk in chunks]) if "embedding" in self._config.encode.columns else None,
            _join([chunk.lengths for chunk in chunks]),
            _join([chunk.truncated for chunk in chunks]),
            is_null if bad else None,
            labels,
        )
        stats = sum((chunk.stats for chunk in chunks), ShardStats(shards=1))
        counts = {
            "index": shard.index,
            "first_row": shard.first_row,
            "tokens": stats.tokens,
            "empty": sum(chunk.empty for chunk in chunks),
            "null": sum(chunk.null for chunk in chunks),
            "bad": len(bad),
            "truncated": sum(int(chunk.truncated.sum()) for chunk in chunks),
            "max_deviation": stats.max_deviation,
            "min_cosine": stats.min_cosine,
        }
        lines = self._quarantine_lines(shard, bad) if bad and quarantine else None
        record = write_shard(self._folder, self._identity, self._with_features(table), counts, lines)
        return record, stats + ShardStats(stages=StageSeconds(write=time.perf_counter() - started))

    def _label_columns(self, chunks: Sequence[EncodedChunk]) -> dict[str, Any]:
        """The columns of labels, of vectors that are not cast yet."""
        columns, classifier = self._config.encode.columns, self._engine.classifier
        parts = [label_columns(columns, classifier, chunk.vectors.astype(np.float32, copy=False)) for chunk in chunks]
        return {
            name: pa.concat_arrays([part[name] for part in parts])
            if isinstance(values, pa.Array)
            else _join([part[name] for part in parts])
            for name, values in parts[0].items()
        }

    def _plan_chunk(
        self, texts: pa.ChunkedArray, shard: Shard, start: int, is_last: bool, started: float
    ) -> PlannedChunk:
        first_row = shard.first_row + start
        try:
            tokens = tokenize_texts(texts, self._tokenizer, self._tokenization, bad_rows=self._config.encode.bad_rows)
            tokens = _with_malformed(tokens, shard, start)
            ids = plan_tokens(tokens, self._engine, self._config.batching)
        except BadRowsError as error:
            counted = error.counted_from(first_row)
            raise counted.counted_from(first_row, self._source.locate(counted.named_rows)) from error.__cause__
        stats = self._planned_stats(ids)
        took = StageSeconds(tokenize=time.perf_counter() - started)
        return PlannedChunk(ids, stats + ShardStats(stages=took), is_last)

    def _planned_stats(self, ids: PlannedTokens) -> ShardStats:
        lengths = ids.tokens.lengths
        read = read_lengths(lengths, self._engine.config)
        in_order = report_plan(read, plan_in_order(read), self._engine.costs.padded())
        return ShardStats(
            rows=len(lengths),
            tokens=len(ids.tokens.values),
            repeated=in_order.rows - ids.report.rows,
            steps=ids.report.tokens * self._engine.config.directions,
            saved_steps=0 if ids.shared is None else ids.shared.saved,
            lengths=np.bincount(lengths),
            plan=ids.report,
            unplanned=in_order,
        )

    def _sample(self, tokens: RaggedTokens, vectors: NDArray[np.float32]) -> Sample | None:
        """Rows spread over the chunk, in float32 too; None where the engine computes in float32."""
        rows = np.flatnonzero(tokens.lengths)
        if self._engine.reference is None or not len(rows):
            return None
        rows = np.unique(rows[np.linspace(0, len(rows) - 1, _SAMPLED_ROWS).astype(int)])
        exact, _ = encode_tokens(tokens.take(rows), self._engine.reference, self._config.batching)
        return Sample(rows, vectors[rows], exact)

    def _cast_chunks(self, shard: Shard, chunks: Sequence[EncodedChunk]) -> list[EncodedChunk]:
        """The chunks with their vectors in the stored type, in the same memory; rows that it cannot hold are bad."""
        cast, first_row = [], shard.first_row
        for chunk in chunks:
            vectors, failures = cast_vectors(chunk.vectors, self._config.encode.vector_dtype)
            if failures and self._config.encode.bad_rows == "error":
                row, reason = next(iter(failures.items()))
                raise TextError(
                    f"row {first_row + row} cannot be stored: {reason}; set encode.vector_dtype to float32, check the"
                    " model, or set encode.bad_rows to quarantine or zero"
                )
            deviation, cosine = _measure_deviation(chunk.sample, failures)
            stats = chunk.stats + ShardStats(max_deviation=deviation, min_cosine=cosine)
            cast.append(replace(chunk, vectors=vectors, bad={**chunk.bad, **failures}, sample=None, stats=stats))
            first_row += len(chunk.lengths)
        return cast

    def _quarantine_lines(self, shard: Shard, bad: dict[int, str]) -> bytes:
        r"""A line of JSON per bad row: its number in the dataset, why it is bad, and its text.

        Bytes of the text that are not Unicode are written as `\xff`, for the byte 255, and the like.
        """
        texts = shard.table[self._config.dataset.text_column].take(list(bad)).cast(pa.large_binary()).to_pylist()
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
        """The table with the kept columns' `datasets` metadata, so that class names and the like are preserved."""
        import datasets

        features = datasets.Features.from_arrow_schema(table.schema)
        features.update({name: self._source.features[name] for name in self._config.dataset.keep_columns})
        return table.replace_schema_metadata(features.arrow_schema.metadata)


def _with_malformed(tokens: RaggedTokens, shard: Shard, start: int) -> RaggedTokens:
    """The tokens of a shard's rows from `start` on; malformed rows, whose texts are null, are bad for what is wrong."""
    stop = start + len(tokens)
    malformed = {row - start: reason for row, reason in shard.malformed.items() if start <= row < stop}
    if not malformed:
        return tokens
    null = tokens.null.copy()
    null[list(malformed)] = False
    return replace(tokens, null=null, bad=dict(sorted({**tokens.bad, **malformed}.items())))


def _measure_deviation(sample: Sample | None, failures: dict[int, str]) -> tuple[float, float] | tuple[None, None]:
    """Largest difference and smallest cosine to float32, of the sampled rows that are stored."""
    if sample is None:
        return None, None
    stored = ~np.isin(sample.rows, list(failures))
    if not stored.any():
        return None, None
    exact, found = (vectors[stored].astype(np.float64) for vectors in (sample.exact, sample.found))
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (exact * found).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return float(np.abs(exact - found).max()), float(cosines.min())


def _join_bad_rows(chunks: Sequence[EncodedChunk]) -> dict[int, str]:
    """The bad rows of a shard's chunks, in order, by their number in the shard."""
    bad: dict[int, str] = {}
    start = 0
    for chunk in chunks:
        bad.update({start + row: chunk.bad[row] for row in sorted(chunk.bad)})
        start += len(chunk.lengths)
    return bad


def _join(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
