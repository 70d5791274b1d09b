"""Encodes one shard, from its texts to its committed file, wherever a run does it.

On one machine the steps of neighbouring shards overlap (`lengthwise.run.local`); on a cluster each worker runs them
one after the other (`lengthwise.run.cluster`). The steps are the same, and so are the bytes.

Notable decisions:
- A shard is tokenized and encoded in chunks of at most `CHUNK_BYTES` of text, so that a shard of long texts needs no
  more memory for its ids than any other. Shards of usual texts are one chunk.
- The engine waits for nothing that can be done before or after it: batches are planned where texts are tokenized, and
  vectors are checked and cast where they are written.
- Of rows whose vectors another folder has, only some are encoded, to be compared with what was found there
  (`lengthwise.run.reuse`); from there on they are rows like any other.
- Rows that cannot be encoded are handled here for all reasons alike: those that tokenizing finds, and vectors that the
  stored type cannot hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from lengthwise.run.reuse import CopiedShard, Reuse, ReusedRows
from lengthwise.run.stats import ShardStats, StageSeconds
from lengthwise.store.cast import cast_vectors
from lengthwise.store.parquet import vector_table, write_shard
from lengthwise.store.protocol import Folder
from lengthwise.store.records import ShardRecord
from lengthwise.store.text_hashes import digest_texts, hash_texts, hashes_to_bytes
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import split_texts, tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer

CHUNK_BYTES = 64 * 2**20
_COPIED_FIELDS = ("tokens", "empty", "null", "bad", "truncated", "max_deviation", "min_cosine")
_SAMPLED_ROWS = 64  # per chunk, compared with float32 where a lower precision was asked for


@dataclass(frozen=True, eq=False)
class PlannedChunk:
    """Some rows of a shard, ready for the engine.

    Attributes:
        ids: the ids and batches of the rows to encode.
        rows: int64[rows to encode], their numbers in the chunk.
        reused: the rows whose vectors are known; None if there are none.
        hashes: uint8[rows, 16], of the texts; None if they are not needed.
        stats: what is known of the rows before they are encoded.
        is_last: whether the shard ends with it.
        start, count: the number in the shard of its first row, and how many it has.
        copied: the whole shard, if another folder has it; `reused` are then some of its rows.
    """

    ids: PlannedTokens
    rows: NDArray[np.int64]
    reused: ReusedRows | None
    hashes: NDArray[np.uint8] | None
    stats: ShardStats
    is_last: bool
    start: int
    count: int
    copied: CopiedShard | None = None


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
        hashes: uint8[rows, 16], of the texts; None if they are not needed.
        stats: what the chunk took.
        copied: the whole shard, if another folder has it; the fields above are then of some of its rows.
        computed: int64[computed], the rows whose vectors the engine computed and no other folder has.
    """

    vectors: NDArray[np.floating]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    empty: int
    null: int
    bad: dict[int, str]
    sample: Sample | None
    hashes: NDArray[np.uint8] | None
    stats: ShardStats
    copied: CopiedShard | None
    computed: NDArray[np.int64]


class ShardEncoder:
    """Encodes the shards of a run, and writes them to a folder that a `VectorStore` has opened for it."""

    def __init__(
        self,
        config: RunConfig,
        source: Source,
        tokenizer: TextTokenizer,
        engine: Engine,
        folder: Folder,
        identity: str,
        reuse: Reuse | None = None,
    ) -> None:
        check_columns(config, engine.classifier)
        self._config, self._source, self._tokenizer, self._engine = config, source, tokenizer, engine
        self._folder, self._identity, self._reuse = folder, identity, reuse
        self._tokenization = config.resolve_tokenization(engine.config.tokenization)

    def encode(self, shard: Shard) -> tuple[ShardRecord, ShardStats]:
        """All steps, one after the other.

        Raises:
            TextError, StoreError: a row cannot be encoded, or the shard cannot be written.
        """
        return self.write(shard, [self.encode_chunk(shard, chunk) for _, chunk in self.plan_chunks([shard])])

    def plan_chunks(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, PlannedChunk]]:
        """The chunks of each shard, tokenized and planned. Of the engine only its settings are used."""
        started = time.perf_counter()
        for shard in shards:
            texts = shard.texts
            for start, stop in split_texts(texts, len(texts), CHUNK_BYTES):
                yield shard, self._plan_chunk(texts[start:stop], shard, start, started)
                started = time.perf_counter()

    def encode_chunk(self, shard: Shard, chunk: PlannedChunk, progress: Progress | None = None) -> EncodedChunk:
        """The vectors of a chunk, as the engine returns them, or as other folders have them.

        Args:
            progress: is called with rows that are done and their tokens.
        """
        started = time.perf_counter()
        tokens, rows, reused = chunk.ids.tokens, chunk.rows, chunk.reused
        vectors = encode_planned(chunk.ids, self._engine, progress)
        in_engine = time.perf_counter() - started
        if reused is not None and self._reuse is not None:
            compared = np.searchsorted(rows, reused.rows[reused.checked])
            wrong = self._reuse.wrong_folders(reused, vectors[compared], tokens.lengths[compared])
            if wrong:
                self._reuse.distrust(wrong)
                texts = shard.texts[chunk.start : chunk.start + chunk.count]
                return self.encode_chunk(shard, self._plan_chunk(texts, shard, chunk.start, started), progress)
        encoded = EncodedChunk(
            vectors=vectors,
            lengths=tokens.lengths,
            truncated=tokens.truncated,
            empty=int(tokens.empty.sum()),
            null=int(tokens.null.sum()),
            bad=dict(tokens.bad),
            sample=None,
            hashes=chunk.hashes,
            stats=chunk.stats,
            copied=chunk.copied,
            computed=rows if reused is None else np.setdiff1d(rows, reused.rows),
        )
        if progress is not None and len(rows) < chunk.count:
            progress(chunk.count - len(rows), 0)
        if reused is not None and chunk.copied is None:
            encoded = _with_reused(encoded, rows, reused)
        sample = self._sample(shard, chunk, encoded) if chunk.copied is None else None
        took = StageSeconds(encode=time.perf_counter() - started, engine=in_engine)
        return replace(encoded, sample=sample, stats=encoded.stats + ShardStats(stages=took))

    def write(self, shard: Shard, chunks: Sequence[EncodedChunk]) -> tuple[ShardRecord, ShardStats]:
        """Write the shard of these chunks, whose vectors are overwritten. The caller adds the record to the store.

        Raises:
            TextError: a vector cannot be stored, and the policy is `error`.
            StoreError: the shard cannot be written.
        """
        started = time.perf_counter()
        if chunks[0].copied is not None:
            return self._write_copied(shard, chunks[0], chunks[0].copied, started)
        self._keep(chunks)
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
            "texts": self._digest(shard),
            "reused": self._recorded(stats.reused),
        }
        lines = self._quarantine_lines(shard, bad) if bad and quarantine else None
        hashes = self._hashes_to_write(chunks)
        record = write_shard(self._folder, self._identity, self._with_features(table), counts, lines, hashes)
        return record, stats + ShardStats(stages=StageSeconds(write=time.perf_counter() - started))

    def _keep(self, chunks: Sequence[EncodedChunk]) -> None:
        """Put vectors that were computed into the run's cache, if it has one."""
        for chunk in chunks if self._reuse is not None and self._reuse.cache_key is not None else ():
            rows = chunk.computed[chunk.lengths[chunk.computed] > 0]
            rows = rows[np.isfinite(chunk.vectors[rows]).all(axis=1)]
            if self._reuse is not None and chunk.hashes is not None:
                self._reuse.keep(chunk.hashes[rows], chunk.vectors[rows], chunk.lengths[rows], chunk.truncated[rows])

    def _hashes_to_write(self, chunks: Sequence[EncodedChunk]) -> bytes | None:
        hashes = [chunk.hashes for chunk in chunks if chunk.hashes is not None]
        return hashes_to_bytes(_join(hashes)) if hashes and self._config.encode.writes_hashes else None

    def _digest(self, shard: Shard) -> str | None:
        return digest_texts(shard.texts) if self._config.encode.writes_hashes else None

    def _recorded(self, reused: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
        """Rows by folder, for a record; what a cache had is left out, for an interrupted run has more of it."""
        cache = None if self._reuse is None else self._reuse.cache_key
        return tuple(sorted((folder, rows) for folder, rows in reused.items() if folder != cache))

    def _write_copied(
        self, shard: Shard, chunk: EncodedChunk, copied: CopiedShard, started: float
    ) -> tuple[ShardRecord, ShardStats]:
        record = copied.record
        stats = chunk.stats + ShardStats(shards=1, max_deviation=record.max_deviation, min_cosine=record.min_cosine)
        counts = {
            **{name: getattr(record, name) for name in _COPIED_FIELDS},
            "index": shard.index,
            "first_row": shard.first_row,
            "texts": self._digest(shard),
            "reused": self._recorded(stats.reused),
        }
        hashes = self._hashes_to_write([chunk])
        record = write_shard(self._folder, self._identity, copied.contents, counts, None, hashes)
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

    def _plan_chunk(self, texts: pa.ChunkedArray, shard: Shard, start: int, started: float) -> PlannedChunk:
        first_row = shard.first_row + start
        has_cache = self._reuse is not None and self._reuse.cache_key is not None
        hashes = self._hash_texts(texts) if has_cache or self._config.encode.writes_hashes else None
        copied, reused = None, None
        if self._reuse is not None and hashes is not None:
            if len(texts) == shard.table.num_rows and (found := self._find_shard(shard, hashes)) is not None:
                copied, reused = found
            else:
                reused = self._reuse.find(hashes)
        rows = np.arange(len(texts))
        if reused is not None:
            rows = reused.rows if copied is not None else reused.encoded_rows(len(texts))
        try:
            ids = self._plan_rows(texts, rows, shard, start)
        except BadRowsError as error:
            counted = error.of_rows(rows.tolist()).counted_from(first_row)
            raise counted.counted_from(first_row, self._source.locate(counted.named_rows)) from error.__cause__
        stats = self._planned_stats(ids)
        if copied is not None:
            stats += copied.stats(len(ids.tokens.values), len(rows))
        elif reused is not None and self._reuse is not None:
            stats += self._reuse.stats(reused)
        stats += ShardStats(stages=StageSeconds(tokenize=time.perf_counter() - started))
        is_last = start + len(texts) == shard.table.num_rows
        return PlannedChunk(ids, rows, reused, hashes, stats, is_last, start, len(texts), copied)

    def _hash_texts(self, texts: pa.ChunkedArray) -> NDArray[np.uint8]:
        known = None if self._reuse is None else self._reuse.known_hashes(digest_texts(texts))
        return known if known is not None and len(known) == len(texts) else hash_texts(texts)

    def _find_shard(self, shard: Shard, hashes: NDArray[np.uint8]) -> tuple[CopiedShard, ReusedRows] | None:
        """The whole shard in another folder, if that has it."""
        if self._reuse is None or "embedding" not in self._config.encode.columns:
            return None
        kept = shard.select(self._config.dataset.keep_columns)
        no_vectors = np.zeros((0, self._engine.config.dim), self._config.encode.vector_dtype)
        empty = vector_table(kept.slice(0, 0), no_vectors, np.zeros(0, np.int64), np.zeros(0, np.bool_))
        return self._reuse.find_shard(hashes, self._with_features(empty).schema, kept)

    def _plan_rows(self, texts: pa.ChunkedArray, rows: NDArray[np.int64], shard: Shard, start: int) -> PlannedTokens:
        """The ids of some rows of a chunk, and their batches."""
        chosen = texts if len(rows) == len(texts) else texts.take(pa.array(rows))
        tokens = tokenize_texts(chosen, self._tokenizer, self._tokenization, bad_rows=self._config.encode.bad_rows)
        tokens = _with_malformed(tokens, shard, start + rows)
        return plan_tokens(tokens, self._engine, self._config.batching)

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

    def _sample(self, shard: Shard, chunk: PlannedChunk, encoded: EncodedChunk) -> Sample | None:
        """Rows spread over the chunk, in float32 too; None where the engine computes in float32.

        Of a chunk with reused vectors these are the same rows, tokenized and encoded again, so that the same deviation
        is found.
        """
        rows = np.flatnonzero(encoded.lengths)
        if self._engine.reference is None or not len(rows):
            return None
        rows = np.unique(rows[np.linspace(0, len(rows) - 1, _SAMPLED_ROWS).astype(int)])
        if chunk.reused is None:
            tokens, found = chunk.ids.tokens.take(rows), encoded.vectors[rows].astype(np.float32, copy=False)
        else:
            texts = shard.texts.take(pa.array(chunk.start + rows))
            tokens = tokenize_texts(texts, self._tokenizer, self._tokenization)
            found, _ = encode_tokens(tokens, self._engine, self._config.batching)
        exact, _ = encode_tokens(tokens, self._engine.reference, self._config.batching)
        return Sample(rows, found, exact)

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


def _with_malformed(tokens: RaggedTokens, shard: Shard, rows: NDArray[np.int64]) -> RaggedTokens:
    """The tokens of these rows of a shard; malformed rows, whose texts are null, are bad for what is wrong."""
    if not shard.malformed:
        return tokens
    numbers = {row: number for number, row in enumerate(rows.tolist())}
    malformed = {numbers[row]: reason for row, reason in shard.malformed.items() if row in numbers}
    null = tokens.null.copy()
    null[list(malformed)] = False
    return replace(tokens, null=null, bad=dict(sorted({**tokens.bad, **malformed}.items())))


def _with_reused(encoded: EncodedChunk, rows: NDArray[np.int64], reused: ReusedRows) -> EncodedChunk:
    """All rows of a chunk: those that were encoded, which are `rows` of it, and those that other folders have."""
    count, new = len(rows) + int(reused.unchecked.sum()), reused.unchecked
    vectors = np.zeros((count, encoded.vectors.shape[1]), np.float32)
    lengths, truncated = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    pairs = ((vectors, encoded.vectors, reused.vectors), (lengths, encoded.lengths, reused.lengths))
    for whole, computed, known in (*pairs, (truncated, encoded.truncated, reused.truncated)):
        whole[rows] = computed
        whole[reused.rows[new]] = known[new]
    return replace(
        encoded,
        vectors=vectors,
        lengths=lengths,
        truncated=truncated,
        bad={int(rows[row]): reason for row, reason in encoded.bad.items()},
    )


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
