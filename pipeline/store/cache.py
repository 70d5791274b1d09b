"""`VectorCache`: vectors kept by their texts' hashes, which several runs fill and use.

    4f2a.../identity.json      what the vectors of this subfolder depend on: model, tokenization, versions, processor
    4f2a.../shards.jsonl       log: one record per committed segment
    4f2a.../data/shard-1764450000000123.parquet, hashes/shard-1764450000000123.npy ...   a segment

Notable decisions:
- There is a subfolder per model and machine, which is read as any folder of vectors (`store.previous`); vectors are
  always in float32, and there is no text in it.
- A segment's number is the time and a random number, so runs that write side by side need no lock. One that is not in
  the log does not exist; `prune` removes it a day later.
- Nothing is ever changed. Whatever is damaged gives nothing away, and `prune` removes it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lengthwise.errors import StoreError
from lengthwise.store.fingerprint import describe_changes, identity_hash, read_identity, write_identity
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import DATA, HASHES, IDENTITY, LOCK, RECORDS
from lengthwise.store.parquet import vector_table, write_shard
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.protocol import Folder, wrap_os_errors
from lengthwise.store.records import ShardRecord, log_lines
from lengthwise.store.recovery import read_records
from lengthwise.store.text_hashes import hashes_to_bytes

NAME_CHARS = 16  # of the identity's hash
_DAY = 86_400
_REMEDY = "choose another encode.cache, or leave it out"
_UNIT = 1_000  # a segment's number is milliseconds times this, plus a random number


class VectorCache:
    """The vectors of one model in a cache."""

    def __init__(self, url: str | Path, identity: Mapping[str, Any]) -> None:
        """Open it, or make it.

        Args:
            url: the cache, a path or a URL.
            identity: everything that a text's vector depends on, as JSON-ready values.

        Raises:
            StoreError: it cannot be written, or its identity is damaged.
        """
        self._identity = _in_float32(identity)
        self._hash = identity_hash(self._identity)
        self._folder = open_folder(f"{str(url).rstrip('/')}/{self._hash[:NAME_CHARS]}")
        with wrap_os_errors(f"{self._folder}: cannot be written", _REMEDY):
            if read_identity(self._folder) is None:
                write_identity(self._folder, self._identity)

    def __str__(self) -> str:
        return str(self._folder)

    def read(self) -> PreviousFolder:
        """What it holds now.

        Raises:
            StoreError: it cannot be read.
        """
        with wrap_os_errors(f"{self._folder}: cannot be read", _REMEDY):
            return PreviousFolder(self._folder, self._identity, read_records(self._folder))

    def add(
        self,
        hashes: NDArray[np.uint8],
        vectors: NDArray[np.float32],
        lengths: NDArray[np.int64],
        truncated: NDArray[np.bool_],
    ) -> ShardRecord:
        """Keep the vectors of texts, as a new segment, whose record is returned.

        Args:
            hashes: uint8[rows, 16]; lengths: int64[rows], tokens; vectors: float32[rows, dim]; truncated: bool[rows].

        Raises:
            StoreError: it cannot be written.
        """
        counts = {
            "index": int(time.time() * 1_000) * _UNIT + secrets.randbelow(_UNIT),
            "first_row": 0,
            "tokens": int(lengths.sum()),
            "truncated": int(truncated.sum()),
            **dict.fromkeys(("empty", "null", "bad"), 0),
            **dict.fromkeys(("max_deviation", "min_cosine")),
        }
        no_columns = pa.table({"": np.zeros(len(lengths), np.bool_)}).select([])
        table = vector_table(no_columns, vectors, lengths, truncated)
        record = write_shard(self._folder, self._hash, table, counts, None, hashes_to_bytes(hashes))
        with wrap_os_errors(f"{self._folder.location(RECORDS)}: cannot be written", _REMEDY):
            self._folder.append(RECORDS, log_lines([record]))
        return record


def find_cached(url: str | Path, identity: Mapping[str, Any]) -> PreviousFolder:
    """The vectors of one model in a cache that exists.

    Args:
        identity: as for `VectorCache`.

    Raises:
        StoreError: there is no cache, it has no vectors of that model, or it cannot be read.
    """
    wanted, others = _in_float32(identity), []
    for name, folder in _open_subfolders(url):
        found = _identity(folder)
        if found == wanted:
            with wrap_os_errors(f"{folder}: cannot be read", "fix that"):
                return PreviousFolder(folder, found, read_records(folder), "lengthwise cache prune removes it")
        changes = "its identity.json is damaged" if found is None else describe_changes(found, wanted)
        others.append(f"{name}: {changes}")
    raise StoreError(
        f"{url}: has no vectors of the run's model, versions and processor ({'. '.join(others)}); give a run that"
        " used it"
    )


def _in_float32(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity, "vector_dtype": "float32"}


@dataclass(frozen=True)
class CacheReport:
    """What a cache holds of one model.

    Attributes:
        name: of its subfolder, the start of the identity's hash.
        identity: what the vectors depend on; None if that file is damaged.
        rows, segments, bytes: how many are recorded, and the size of their files.
        damaged: segments whose files are missing or changed, with the reason; empty unless they were read.
        unrecorded: files of no recorded segment, which a crash leaves.
    """

    name: str
    identity: Mapping[str, Any] | None
    rows: int
    segments: int
    bytes: int
    damaged: tuple[str, ...]
    unrecorded: int


def inspect_cache(url: str | Path, *, verify: bool = False) -> list[CacheReport]:
    """What a cache holds, by model; or what a folder of vectors holds.

    Args:
        verify: read every file, and compare its sha256.

    Raises:
        StoreError: there is no cache, or it cannot be read.
    """
    reports, place = [], open_folder(url)
    with wrap_os_errors(f"{place}: cannot be read", "check the path"):
        is_folder_of_vectors = place.read(IDENTITY) is not None
    for name, folder in [(str(place), place)] if is_folder_of_vectors else _open_subfolders(url):
        with wrap_os_errors(f"{folder}: cannot be read", "fix that"):
            identity, records, files = _identity(folder), read_records(folder), folder.list_files()
            damaged = _damaged(folder, records) if verify else {}
            sizes = sum(_size(folder, file) for record in records.values() for file in record.checksums)
        reports.append(
            CacheReport(
                name,
                identity,
                sum(record.rows for record in records.values()),
                len(records),
                sizes,
                tuple(damaged.values()),
                len(_unrecorded(files, records)),
            )
        )
    return reports


def prune_cache(url: str | Path, *, older_than_days: float | None = None, model: str | None = None) -> dict[str, int]:
    """Remove segments that are damaged, old or of one model, and files that a crash left a day ago.

    Args:
        older_than_days: segments that were written before.
        model: the name of a subfolder, all of whose segments are removed.

    Returns:
        How many rows were removed, by subfolder.

    Raises:
        StoreError: there is no cache or no such model, another process prunes it, or it cannot be written.
    """
    removed = {}
    subfolders = dict(_open_subfolders(url))
    if model is not None and model not in subfolders:
        raise StoreError(f"{url}: has no model {model!r}, but {', '.join(subfolders)}; see lengthwise cache stats")
    for name, folder in subfolders.items():
        problem, remedy = f"{folder}: cannot be pruned", "fix that, or wait until the other process has ended"
        with wrap_os_errors(problem, remedy), folder.lock(LOCK):
            removed[name] = _prune(folder, older_than_days, everything=name == model)
    return removed


def _prune(folder: Folder, older_than_days: float | None, *, everything: bool) -> int:
    records = read_records(folder)
    damaged, now = _damaged(folder, records), time.time()
    is_whole = _identity(folder) is not None
    kept = {
        index: record
        for index, record in records.items()
        if is_whole
        and not everything
        and index not in damaged
        and (older_than_days is None or now - _written_at(index) <= older_than_days * _DAY)
    }
    folder.write(RECORDS, log_lines(kept.values()))  # first: a file that is gone is then in no log
    if not is_whole:
        folder.remove(IDENTITY)  # the next run writes it
    for index in records.keys() - kept.keys():
        for file in records[index].checksums:
            folder.remove(file)
    for file in _unrecorded(folder.list_files(), kept):
        if now - _written_at(_number(file)) > _DAY:
            folder.remove(file)
    return sum(record.rows for index, record in records.items() if index not in kept)


def _open_subfolders(url: str | Path) -> Iterator[tuple[str, Folder]]:
    place = open_folder(url)
    with wrap_os_errors(f"{place}: cannot be read", "check the path"):
        files = place.list_files()
    names = sorted({file.partition("/")[0] for file in files if file.endswith(f"/{IDENTITY}")})
    if not names:
        raise StoreError(f"{url}: not a cache of vectors; give the folder of encode.cache")
    for name in names:
        yield name, open_folder(f"{str(url).rstrip('/')}/{name}")


def _identity(folder: Folder) -> dict[str, Any] | None:
    try:
        return read_identity(folder)
    except StoreError:
        return None


def _size(folder: Folder, file: str) -> int:
    try:
        with folder.open(file) as opened:
            return opened.seek(0, 2)
    except FileNotFoundError:
        return 0


def _damaged(folder: Folder, records: Mapping[int, ShardRecord]) -> dict[int, str]:
    """What is wrong with segments, by number."""
    found = {}
    for index, record in records.items():
        for file, sha256 in record.checksums.items():
            actual = folder.sha256(file)
            if actual != sha256:
                problem = "is missing" if actual is None else "was changed"
                found[index] = f"{folder.location(file)}: {problem}"
    return found


def _unrecorded(files: list[str], records: Mapping[int, ShardRecord]) -> list[str]:
    recorded = {file for record in records.values() for file in record.checksums}
    return [file for file in files if file.startswith((f"{DATA}/", f"{HASHES}/")) and file not in recorded]


def _written_at(index: int) -> float:
    """When a segment was written, in seconds since 1970."""
    return index / _UNIT / 1_000


def _number(file: str) -> int:
    """The number of the segment that a file, or a draft of one, is of; 0 if it has none."""
    digits = file.partition("shard-")[2].partition(".")[0]
    return int(digits) if digits.isdecimal() else 0
