"""Takes the vectors of texts that other runs have encoded from their folders: `encode.reuse`.

Notable decisions:
- A vector depends on the text and the model alone, so kept columns, filters, the order of the rows, shards and batches
  are no reason to compute it again. Model, tokenizer, tokenization and engine are: each must be the same
  (`vector_identity`). Vectors in float16 stand for themselves only, those in float32 for both.
- Only an engine that gives a row the same bits in any batch can take part: with another one the files would differ from
  those of a full run.
- Versions, the processor and the kernel are no part of an identity, but may change the last bits. So some of the rows
  are encoded all the same, and a folder whose vectors differ in a bit is not used from there on.
- A shard that did not change at all, kept columns included, is copied as a file.
- A shard whose sha256 does not match gives nothing away: its rows are encoded.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.config import RunConfig, TokenizationSettings
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.stats import ShardStats
from lengthwise.store.fingerprint import describe_changes, identity_hash
from lengthwise.store.hash_index import HashIndex
from lengthwise.store.parquet import ShardContents, is_written_alike
from lengthwise.store.previous import PreviousFolder, StoredRows
from lengthwise.store.records import ShardRecord

_CHECKED_ROWS, _CHECKED_SHARE = 16, 64  # of a chunk's rows from a folder, at most so many, and one in so many
_CANDIDATES = 64  # rows that say which shard may be a whole one of the run
_PER_ROW = ("rows", "folders", "vectors", "lengths", "truncated")
KEY_CHARS = 16  # as in the name of a dataset card's configuration
_OTHER_BITS = (
    "its vectors differ from those that are computed here, as another version or processor may cause: all of its rows"
    " are encoded again"
)
_MODEL = ("tokenizer", "encoder", "weights", "engine", *TokenizationSettings.model_fields)
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ReusedRows:
    """Rows of a chunk whose vectors other folders have.

    Attributes:
        rows: int64[reused], their numbers in the chunk, in ascending order.
        folders: int64[reused], the number of each one's folder.
        vectors: float32[reused, dim].
        lengths: int64[reused], tokens.
        truncated: bool[reused].
        checked: int64[checked], which of them are encoded all the same, to be compared; indices into `rows`.
    """

    rows: NDArray[np.int64]
    folders: NDArray[np.int64]
    vectors: NDArray[np.float32]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    checked: NDArray[np.int64]

    def encoded_rows(self, count: int) -> NDArray[np.int64]:
        """The rows of a chunk of `count` that are to be encoded: all others, and those to be compared."""
        encoded = np.ones(count, np.bool_)
        encoded[self.rows] = False
        encoded[self.rows[self.checked]] = True
        return np.flatnonzero(encoded)

    @property
    def unchecked(self) -> NDArray[np.bool_]:
        """bool[reused], the rows that are not encoded."""
        unchecked = np.ones(len(self.rows), np.bool_)
        unchecked[self.checked] = False
        return unchecked


@dataclass(frozen=True, eq=False)
class CopiedShard:
    """A shard of another folder that is, as it is, one of this run.

    Attributes:
        record: what is known of it there.
        contents: its file.
        folder: see `Reuse.key`.
    """

    record: ShardRecord
    contents: ShardContents
    folder: str

    def stats(self, encoded_tokens: int, encoded_rows: int) -> ShardStats:
        """What is known of its rows, beside what encoding some of them takes."""
        copied = self.record.tokens - encoded_tokens
        return ShardStats(
            rows=self.record.rows - encoded_rows,
            tokens=copied,
            copied_tokens=copied,
            reused={self.folder: self.record.rows - self.record.empty},
        )


class Reuse:
    """The folders whose vectors a run may take; a context manager, since their index may have a temporary file.

    Attributes:
        not_reused: why nothing of a folder is reused, by its path or URL.
    """

    def __init__(
        self, folders: Sequence[PreviousFolder], not_reused: Mapping[str, str] = {}, *, half: Sequence[bool] = ()
    ) -> None:
        """Take folders of the same vectors; see `open_reuse`.

        Args:
            half: of each folder, whether its vectors are in float16.
        """
        self._folders, self.not_reused = list(folders), dict(not_reused)
        self._half = half or [False] * len(self._folders)
        self._places = [(number, index) for number, folder in enumerate(folders) for index in sorted(folder.records)]
        sizes = [self._folders[number].records[index].rows for number, index in self._places]
        self._starts = np.cumsum([0, *sizes])
        self._bad_shards: set[int] = set()
        self._lock = threading.RLock()
        self._notes: dict[str, str] = {}

    def __enter__(self) -> Reuse:
        return self

    def __exit__(self, *_: object) -> None:
        if "_index" in self.__dict__:
            self._index.close()

    def describe(self, counts: Mapping[str, int]) -> tuple[str, ...]:
        """What was reused of which folder, what is wrong with it, and of which nothing is, a sentence each.

        Args:
            counts: `ShardStats.reused`.
        """
        names = {self.key(number): str(folder) for number, folder in enumerate(self._folders)}
        return (
            *(f"{counts.get(key, 0):,} rows have their vector from {name}" for key, name in names.items()),
            *(f"{name}: {note}" for name, note in self._notes.items()),
            *(f"nothing of {name}: {reason}" for name, reason in self.not_reused.items()),
        )

    def key(self, folder: int) -> str:
        """What names a folder in records, by its number: the start of its identity's hash, on any machine the same."""
        return identity_hash(self._folders[folder].identity)[:KEY_CHARS]

    def find(self, hashes: NDArray[np.uint8]) -> ReusedRows | None:
        """The rows of a chunk that the folders have.

        Args:
            hashes: of the chunk's texts, uint8[rows, 16].
        """
        with self._lock:
            places = self._index.find(hashes) if self._folders else np.full(len(hashes), -1, np.int64)
            rows = np.flatnonzero(places >= 0)
            shards = np.searchsorted(self._starts, places[rows], side="right") - 1
            found = [
                self._read(int(shard), rows[shards == shard], places[rows[shards == shard]] - self._starts[shard])
                for shard in np.unique(shards)
                if shard not in self._bad_shards
            ]
        parts = [part for part in found if part is not None and len(part.rows)]
        return _join(parts) if parts else None

    def find_shard(
        self, hashes: NDArray[np.uint8], schema: pa.Schema, kept: pa.Table
    ) -> tuple[CopiedShard, ReusedRows] | None:
        """A shard that has exactly these rows, and some of its rows to be compared with what the engine computes.

        Args:
            hashes: of the shard's texts, uint8[rows, 16].
            schema: of its file.
            kept: its kept columns.
        """
        with self._lock:
            places = self._index.find(hashes[:_CANDIDATES]) if self._folders else np.empty(0, np.int64)
            shards = np.searchsorted(self._starts, places[places >= 0], side="right") - 1
            if not len(shards):
                return None
            shard = int(np.bincount(shards).argmax())
            if shard in self._bad_shards:
                return None
            number, index = self._places[shard]
            folder = self._folders[number]
            try:
                if not folder.is_unchanged(index, hashes):
                    return None
                contents, file = folder.shard(index)
                if not (is_written_alike(file, schema) and file.read(kept.column_names).equals(kept)):
                    return None
                rows = _rows_of_a_group(file, index)
                stored = folder.rows(index, rows)
            except (StoreError, pa.ArrowException) as error:
                self._refuse(shard, error)
                return None
            record = folder.records[index]
            sample = _usable(stored, rows, np.arange(len(rows)), number)
            if not len(sample.rows):
                return None
            sample = replace(sample, **{name: getattr(sample, name)[sample.checked] for name in _PER_ROW})
            sample = replace(sample, checked=np.arange(len(sample.rows)))
            return CopiedShard(record, ShardContents(contents, record.rows), self.key(number)), sample

    def stats(self, reused: ReusedRows) -> ShardStats:
        """What is known of these rows, beside what encoding the checked ones takes."""
        new = reused.unchecked
        counts = np.bincount(reused.folders, minlength=len(self._folders)).tolist()
        copied = int(reused.lengths[new].sum())
        return ShardStats(
            rows=int(new.sum()),
            tokens=copied,
            copied_tokens=copied,
            reused=dict(sum((Counter({self.key(n): count}) for n, count in enumerate(counts) if count), Counter())),
        )

    def wrong_folders(self, reused: ReusedRows, vectors: NDArray[np.float32], lengths: NDArray[np.int64]) -> set[int]:
        """The folders some of whose vectors are not those that the engine computes.

        Args:
            vectors, lengths: of the checked rows, as they were computed now.
        """
        checked = reused.checked
        folders = reused.folders[checked]
        is_half = np.array(self._half, np.bool_)[folders]
        with np.errstate(over="ignore"):
            expected = np.where(is_half[:, None], vectors.astype(np.float16).astype(np.float32), vectors)
        same = (expected == reused.vectors[checked]).all(axis=1) & (lengths == reused.lengths[checked])
        return set(folders[~same].tolist())

    def distrust(self, folders: set[int]) -> None:
        """Take nothing of these folders from now on."""
        with self._lock:
            for number in sorted(folders):
                if self._note(number, _OTHER_BITS):
                    log.warning("%s: %s", self._folders[number], _OTHER_BITS)
                self._bad_shards |= {shard for shard, (owner, _) in enumerate(self._places) if owner == number}

    @cached_property
    def _index(self) -> HashIndex:
        return HashIndex(self._entries(), int(self._starts[-1]))

    def _entries(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        for shard, (number, index) in enumerate(self._places):
            try:
                hashes = self._folders[number].hashes(index)
            except StoreError as error:
                self._refuse(shard, error)
            else:
                yield hashes, np.arange(self._starts[shard], self._starts[shard + 1])

    def _read(self, shard: int, rows: NDArray[np.int64], places: NDArray[np.int64]) -> ReusedRows | None:
        """These rows of the chunk, which are at these places of a shard; None if the shard cannot be used."""
        number, index = self._places[shard]
        distinct, which = np.unique(places, return_inverse=True)
        try:
            stored = self._folders[number].rows(index, distinct)
        except StoreError as error:
            self._refuse(shard, error)
            return None
        return _usable(stored, rows, which, number)

    def _refuse(self, shard: int, error: Exception) -> None:
        log.warning("%s", error)
        self._bad_shards.add(shard)
        number = self._places[shard][0]
        count = sum(self._places[bad][0] == number for bad in self._bad_shards)
        self._note(number, f"{count} of its shards cannot be read: their rows are encoded again")

    def _note(self, folder: int, note: str) -> bool:
        """Note what is wrong with a folder; False where that is known."""
        name = str(self._folders[folder])
        is_new = self._notes.get(name) not in (note, _OTHER_BITS)
        if is_new:
            self._notes[name] = note
        return is_new


def open_reuse(config: RunConfig, identity: Mapping[str, Any], *, batch_invariant: bool) -> Reuse:
    """The folders of `encode.reuse` that can be used, and why the others cannot.

    Args:
        identity: the run's.
        batch_invariant: whether the engine is.

    Raises:
        ConfigError: a folder is the run's own output.
        StoreError: there is no folder of vectors.
    """
    usable: list[PreviousFolder] = []
    reasons: dict[str, str] = {}
    for url in config.encode.reuse:
        if _same_place(url, config.encode.output):
            raise ConfigError(
                f"encode.reuse holds {url!r}, which is encode.output; choose another encode.output, so that the"
                " folder to reuse stays as it is"
            )
        reason: str | None = None
        try:
            folder = PreviousFolder.open(url)
        except StoreError as error:
            reason = str(error)
        else:
            if folder is None:
                raise StoreError(f"{url}: not a folder of vectors; check encode.reuse")
            reason = _why_not(folder, config, identity, batch_invariant)
            if reason is None:
                usable.append(folder)
        if reason is not None:
            log.warning("no vector of %s is reused: %s", url, reason)
            reasons[url] = reason
    half = [folder.identity.get("vector_dtype") == "float16" for folder in usable]
    return Reuse(usable, reasons, half=half)


def vector_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's identity that a text's vector depends on, beside the text and the type it is stored in."""
    return {name: identity.get(name) for name in _MODEL}


def _why_not(
    folder: PreviousFolder, config: RunConfig, identity: Mapping[str, Any], batch_invariant: bool
) -> str | None:
    """Why no vector of a folder can stand for one of this run's; None if they can."""
    if list(config.encode.columns) != ["embedding"] or "embedding" not in folder.identity.get("columns", ["embedding"]):
        return "only embeddings are reused, and encode.columns has more, or has none there"
    if changes := describe_changes(vector_identity(folder.identity), vector_identity(identity)):
        return changes
    stored = folder.identity.get("vector_dtype"), config.encode.vector_dtype
    if stored[0] != stored[1] and stored[0] != "float32":
        return f"vector_dtype was {stored[0]}, is {stored[1]}"
    if not batch_invariant:
        return (
            "a vector of this engine depends on its batch in the last bits; install lengthwise[fast], or set"
            " encode.precision to int8"
        )
    if not folder.records:
        return "it has no committed shards"
    if not any(folder.has_hashes(index) for index in folder.records):
        return "it has neither hashes of its texts (encode.row_hashes) nor, as a kept column, the texts"
    return None


def _same_place(first: str, second: str) -> bool:
    if "://" in first or "://" in second:
        return first.rstrip("/") == second.rstrip("/")
    return Path(first).expanduser().resolve() == Path(second).expanduser().resolve()


def _usable(stored: StoredRows, rows: NDArray[np.int64], which: NDArray[np.int64], folder: int) -> ReusedRows:
    chosen = stored.usable[which]
    rows, which = rows[chosen], which[chosen]
    checked = min(_CHECKED_ROWS, -(-len(rows) // _CHECKED_SHARE))
    return ReusedRows(
        rows,
        np.full(len(rows), folder),
        stored.vectors[which],
        stored.lengths[which],
        stored.truncated[which],
        np.unique(np.linspace(0, len(rows) - 1, checked).astype(np.int64)) if len(rows) else np.empty(0, np.int64),
    )


def _rows_of_a_group(file: pq.ParquetFile, index: int) -> NDArray[np.int64]:
    """The rows of one row group of a shard: reading rows of all would read the whole shard."""
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    group = index % len(sizes)
    return np.arange(sizes[group]) + sum(sizes[:group])


def _join(parts: Sequence[ReusedRows]) -> ReusedRows:
    """The rows of several shards, in ascending order; each shard's checked rows are checked."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    is_checked = np.concatenate([~part.unchecked for part in parts])
    return ReusedRows(
        rows[order],
        np.concatenate([part.folders for part in parts])[order],
        np.concatenate([part.vectors for part in parts])[order],
        np.concatenate([part.lengths for part in parts])[order],
        np.concatenate([part.truncated for part in parts])[order],
        np.flatnonzero(is_checked[order]),
    )
