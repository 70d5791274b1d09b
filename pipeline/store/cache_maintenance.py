"""Looks after a cache of vectors: what is in it, whether its files are whole, and how segments are removed and joined.

Notable decisions:
- Runs need no lock to use a cache, so everything here is safe beside them: a segment that a run has opened and finds
  gone costs that run the time to encode its rows again.
- Joining only appends to the log: a line for the new segment, and one for each that is retired by it. A crash before
  leaves files that are in no log, one in between leaves some texts twice, and neither is a problem.
- The files of segments that were joined are kept for a day, for the runs that have opened them.
- Pruning appends to the log too, and writes it anew only to forget segments that were retired more than a day ago. A
  segment that a run adds in that moment is in no log then, and its texts are encoded again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lengthwise.errors import StoreError
from lengthwise.store.cache import open_subfolders, read_sound_identity, write_segment, written_at
from lengthwise.store.fingerprint import identity_hash
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import DATA, HASHES, IDENTITY, LOCK, RECORDS
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.protocol import Folder, wrap_os_errors
from lengthwise.store.records import ShardRecord, log_lines, parse_retired, retired_lines
from lengthwise.store.recovery import read_records

JOINED_BYTES = 2**27  # of a segment's file; those of less than half of it are joined
_DAY = 86_400
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheReport:
    """What a cache holds of one model.

    Attributes:
        name: of its subfolder, the start of the identity's hash.
        identity: what the vectors depend on; None if that file is damaged.
        rows, segments, bytes: how many are recorded, and the size of their files.
        damaged: segments whose files are missing or changed, with the reason; empty unless they were read.
        unrecorded: files of no recorded segment, which a crash leaves, and `compact_cache` for a day.
    """

    name: str
    identity: Mapping[str, Any] | None
    rows: int
    segments: int
    bytes: int
    damaged: tuple[str, ...]
    unrecorded: int


@dataclass(frozen=True)
class Compaction:
    """What was done with the segments of one model.

    Attributes:
        joined: how many were joined.
        into: how many new ones they are.
        damaged: how many were removed because a file of theirs is missing or changed.
        repeated: rows that were left out, for they were there twice.
    """

    joined: int = 0
    into: int = 0
    damaged: int = 0
    repeated: int = 0


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
    for name, folder in [(str(place), place)] if is_folder_of_vectors else open_subfolders(url):
        with wrap_os_errors(f"{folder}: cannot be read", "fix that"):
            identity, records, files = read_sound_identity(folder), read_records(folder), folder.list_files()
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
    """Remove segments that are damaged, old or of one model, and files that are in no log since a day.

    Args:
        older_than_days: segments that were written before.
        model: the name of a subfolder, all of whose segments are removed.

    Returns:
        How many rows were removed, by subfolder.

    Raises:
        StoreError: there is no cache or no such model, another process changes it, or it cannot be written.
    """
    removed = {}
    subfolders = dict(open_subfolders(url))
    if model is not None and model not in subfolders:
        raise StoreError(f"{url}: has no model {model!r}, but {', '.join(subfolders)}; see lengthwise cache stats")
    for name, folder in subfolders.items():
        with _locked(folder, "pruned"):
            removed[name] = _prune(folder, older_than_days, everything=name == model)
    return removed


def compact_cache(url: str | Path) -> dict[str, Compaction]:
    """Join small segments, and remove those that are damaged; what is done, by subfolder.

    Raises:
        StoreError: there is no cache, another process changes it, or it cannot be written.
    """
    done = {}
    for name, folder in open_subfolders(url):
        with _locked(folder, "compacted"):
            done[name] = _compact(folder)
    return done


@contextmanager
def _locked(folder: Folder, verb: str) -> Iterator[None]:
    """Keep other processes from maintaining a subfolder; runs go on using it."""
    problem, remedy = f"{folder}: cannot be {verb}", "fix that, or wait until the other process has ended"
    with wrap_os_errors(problem, remedy), folder.lock(LOCK):
        yield


def _prune(folder: Folder, older_than_days: float | None, *, everything: bool) -> int:
    damaged, now = _damaged(folder, read_records(folder)), time.time()
    is_whole = read_sound_identity(folder) is not None
    records = read_records(folder)  # again: reading all files takes time, in which runs add segments
    kept = {
        index: record
        for index, record in records.items()
        if is_whole
        and not everything
        and index not in damaged
        and (older_than_days is None or now - written_at(index) <= older_than_days * _DAY)
    }
    gone = sorted(records.keys() - kept.keys())  # in no log, before their files are
    known = _retired(folder)
    retired = {index: when for index, when in known.items() if now - when <= _DAY}
    if not is_whole or len(retired) < len(known):
        folder.write(RECORDS, log_lines(kept.values()) + retired_lines(retired))
    elif gone:
        folder.append(RECORDS, retired_lines(dict.fromkeys(gone, now)))
    if not is_whole:
        folder.remove(IDENTITY)  # the next run writes it
    for index in gone:
        _remove_files(folder, records[index])
    _remove_unrecorded(folder, kept, retired)
    return sum(record.rows for index, record in records.items() if index not in kept)


def _compact(folder: Folder) -> Compaction:
    identity, records, now = read_sound_identity(folder), read_records(folder), time.time()
    if identity is None:
        log.warning("%s: its identity.json is damaged; lengthwise cache prune makes it usable again", folder)
        return Compaction()
    damaged = _damaged(folder, records)
    if damaged:
        folder.append(RECORDS, retired_lines(dict.fromkeys(damaged, now)))
        for index in damaged:
            _remove_files(folder, records[index])
    whole = {index: record for index, record in records.items() if index not in damaged}
    kept = PreviousFolder(folder, identity, whole)
    done = Compaction(damaged=len(damaged))
    for group in _groups(folder, whole):
        done = _join(folder, kept, group, done)
    _remove_unrecorded(folder, read_records(folder), _retired(folder))
    return done


def _groups(folder: Folder, records: Mapping[int, ShardRecord]) -> Iterator[list[int]]:
    """The numbers of small segments that are to be one, the oldest first."""
    group, size = [], 0
    for index in sorted(records):
        bytes_there = _size(folder, records[index].file)
        if bytes_there >= JOINED_BYTES // 2:
            continue
        group.append(index)
        size += bytes_there
        if size >= JOINED_BYTES:
            yield group
            group, size = [], 0
    if len(group) > 1:
        yield group


def _join(folder: Folder, kept: PreviousFolder, group: list[int], done: Compaction) -> Compaction:
    """Write the rows of some segments as one, each text once; what is done then.

    Raises:
        StoreError: one is damaged since they were compared, or the new one cannot be written.
    """
    tables, hashes = zip(*((kept.shard(index)[1].read(), kept.hashes(index)) for index in group), strict=True)
    joined = np.concatenate(hashes)
    first = _first_of_each(joined)
    table = pa.concat_tables(tables).take(pa.array(first))
    record = write_segment(folder, table, joined[first], identity_hash(kept.identity))
    folder.append(RECORDS, log_lines([record]) + retired_lines(dict.fromkeys(group, time.time())))
    repeated = len(joined) - len(first)
    return Compaction(done.joined + len(group), done.into + 1, done.damaged, done.repeated + repeated)


def _first_of_each(hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where each hash is first, in ascending order."""
    _, first = np.unique(np.ascontiguousarray(hashes).view("V16").reshape(-1), return_index=True)
    return np.sort(first)


def _retired(folder: Folder) -> dict[int, float]:
    return parse_retired(folder.read(RECORDS) or b"")


def _remove_files(folder: Folder, record: ShardRecord) -> None:
    for file in record.checksums:
        folder.remove(file)


def _remove_unrecorded(folder: Folder, records: Mapping[int, ShardRecord], retired: Mapping[int, float]) -> None:
    """Remove files that are in no log, or not any more, since a day."""
    now = time.time()
    for file in _unrecorded(folder.list_files(), records):
        number = _number(file)
        if now - max(written_at(number), retired.get(number, 0.0)) > _DAY:
            folder.remove(file)


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


def _number(file: str) -> int:
    """The number of the segment that a file, or a draft of one, is of; 0 if it has none."""
    digits = file.partition("shard-")[2].partition(".")[0]
    return int(digits) if digits.isdecimal() else 0
