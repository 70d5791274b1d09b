"""Takes the vectors of texts that other runs have encoded from their folders: `encode.reuse`.

Notable decisions:
- Which folders can be used is decided when a run begins (`run.reuse_folders`).
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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.errors import StoreError
from lengthwise.run.stats import ShardStats
from lengthwise.store.cache import VectorCache
from lengthwise.store.fingerprint import identity_hash
from lengthwise.store.hash_index import HashIndex
from lengthwise.store.parquet import ShardContents, is_written_alike
from lengthwise.store.previous import PreviousFolder, StoredRows
from lengthwise.store.records import ReuseSources, ShardRecord

_CHECKED_ROWS, _CHECKED_SHARE = 16, 64  # of a chunk's rows from a folder, at most so many, and one in so many
_CANDIDATES = 64  # rows that say which shard may be a whole one of the run
_PER_ROW = ("rows", "folders", "vectors", "lengths", "truncated")
KEY_CHARS = 16  # as in the name of a dataset card's configuration
_OTHER_BITS = (
    "its vectors differ from those that are computed here, as another version or processor may cause: all of its rows"
    " are encoded again"
)
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


class _RecentTexts:
    """Texts that were added during the run: a few indexes, each at least twice as large as the next one."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.uint8], NDArray[np.int64], HashIndex]] = []

    def add(self, hashes: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        while self._parts and len(self._parts[-1][0]) < 2 * len(hashes):
            more_hashes, more_places, index = self._parts.pop()
            index.close()
            hashes, places = np.concatenate([more_hashes, hashes]), np.concatenate([more_places, places])
        self._parts.append((hashes, places, HashIndex([(hashes, places)], len(hashes))))

    def find(self, hashes: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        """Fill in the places, int64[n], that are -1."""
        for _, _, index in self._parts:
            missing = np.flatnonzero(places < 0)
            places[missing] = index.find(hashes[missing])

    def close(self) -> None:
        for _, _, index in self._parts:
            index.close()


class Reuse:
    """The folders whose vectors a run may take; a context manager, since their index may have a temporary file.

    Attributes:
        not_reused: why nothing of a folder is reused, by its path or URL.
        cache_key: the cache's among keys, if there is one.
    """

    def __init__(
        self,
        folders: Sequence[PreviousFolder],
        not_reused: Mapping[str, str] = {},
        *,
        half: Sequence[bool] = (),
        cache: VectorCache | None = None,
    ) -> None:
        """Take folders of the same vectors; see `run.reuse_folders`.

        Args:
            half: of each folder, whether its vectors are in float16.
            cache: where vectors that were computed are kept; it is one more folder.
        """
        self._folders, self.not_reused = list(folders), dict(not_reused)
        self._half = list(half) or [False] * len(self._folders)
        self._cache, self._kept, self._recent = cache, 0, _RecentTexts()
        self.cache_key: str | None = None
        if cache is not None:
            self._folders.append(cache.read())
            self._half.append(False)
            self.cache_key = self.key(len(self._folders) - 1)
        self._places = [(n, index) for n, folder in enumerate(self._folders) for index in sorted(folder.records)]
        sizes = [self._folders[number].records[index].rows for number, index in self._places]
        self._starts = np.cumsum([0, *sizes])
        self._bad_shards: set[int] = set()
        self._lock = threading.RLock()
        self._notes: dict[str, str] = {}

    def __enter__(self) -> Reuse:
        return self

    def __exit__(self, *_: object) -> None:
        self._recent.close()
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
            *([f"{self._kept:,} rows were added to {self._folders[-1]}"] if self._kept else ()),
            *(f"{name}: {note}" for name, note in self._notes.items()),
            *(f"nothing of {name}: {reason}" for name, reason in self.not_reused.items()),
        )

    @property
    def sources(self) -> ReuseSources:
        """The folders that vectors are taken from, without the cache, and why nothing of others is."""
        keys = {str(folder): self.key(number) for number, folder in enumerate(self._folders)}
        return ReuseSources({name: key for name, key in keys.items() if key != self.cache_key}, self.not_reused)

    def key(self, folder: int) -> str:
        """What names a folder in records, by its number: the start of its identity's hash, on any machine the same."""
        return identity_hash(self._folders[folder].identity)[:KEY_CHARS]

    def find(self, hashes: NDArray[np.uint8]) -> ReusedRows | None:
        """The rows of a chunk that the folders have.

        Args:
            hashes: of the chunk's texts, uint8[rows, 16].
        """
        with self._lock:
            places = self._find_places(hashes)
            rows = np.flatnonzero(places >= 0)
            shards = np.searchsorted(self._starts, places[rows], side="right") - 1
            found = [
                self._read(int(shard), rows[shards == shard], places[rows[shards == shard]] - self._starts[shard])
                for shard in np.unique(shards)
                if shard not in self._bad_shards
            ]
        parts = [part for part in found if part is not None and len(part.rows)]
        return _join(parts) if parts else None

    def keep(
        self,
        hashes: NDArray[np.uint8],
        vectors: NDArray[np.float32],
        lengths: NDArray[np.int64],
        truncated: NDArray[np.bool_],
    ) -> None:
        """Put rows into the cache that it does not have yet; without a cache, nothing happens."""
        cache = self._cache
        if cache is None:
            return
        _, first = np.unique(np.ascontiguousarray(hashes).view("V16").reshape(-1), return_index=True)
        with self._lock:
            first = np.sort(first[self._find_places(hashes[first]) < 0])
        if not len(first):
            return
        number = len(self._folders) - 1
        try:
            record = cache.add(hashes[first], vectors[first], lengths[first], truncated[first])
        except StoreError as error:
            log.warning("%s", error)
            self._note(number, "nothing more was put into it, for it could not be written")
            self._cache = None
            return
        with self._lock:
            self._folders[number].records[record.index] = record
            self._places.append((number, record.index))
            self._recent.add(hashes[first], self._starts[-1] + np.arange(len(first)))
            self._starts = np.append(self._starts, self._starts[-1] + len(first))
            self._kept += len(first)

    def _find_places(self, hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
        if not self._folders:
            return np.full(len(hashes), -1, np.int64)
        places = self._index.find(hashes)
        self._recent.find(hashes, places)
        return places

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
            return CopiedShard(record, ShardContents(contents, record.sha256, record.rows), self.key(number)), sample

    def known_hashes(self, texts: str) -> NDArray[np.uint8] | None:
        """The hashes of a shard's texts, uint8[rows, 16], if a folder has a shard of the same ones.

        Args:
            texts: the hash of them all, see `digest_texts`.
        """
        place = self._by_texts.get(texts)
        if place is None:
            return None
        number, index = place
        try:
            return self._folders[number].hashes(index)
        except StoreError:  # which `_entries` reports
            return None

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
    def _by_texts(self) -> dict[str, tuple[int, int]]:
        """The folder and shard of each hash of a whole shard's texts that is known."""
        records = {place: self._folders[place[0]].records[place[1]] for place in reversed(self._places)}
        return {record.texts: place for place, record in records.items() if record.texts is not None and record.hashes}

    @cached_property
    def _index(self) -> HashIndex:
        """Of what was there at the beginning."""
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
