"""A folder of vectors: parquet shards, committed one by one, and the identity that they belong to.

    folder/
      README.md             a dataset card, so that `load_dataset(folder)` finds the shards
      run.yaml              the resolved configuration
      identity.json         what the vectors depend on, and its hash
      shards.jsonl          one record a committed shard, appended
      manifest.json         totals; written last, so its presence means that the run is complete
      data/shard-000000.parquet ...
      quarantine/shard-000000.jsonl ...   rows that were set aside, where there are any

Notable decisions:
- Shards have a folder to themselves, so that pandas, polars and DuckDB can be pointed at it as it is.
- A shard is written beside its place, flushed to the disk, renamed, and only then recorded: it exists whole or
  not at all. One without a record is written again.
- One run writes to a folder at a time. The parts of a run that is divided write side by side, each its own shards and
  its own log of records (`shards-00003-of-00064.jsonl`); whoever opens the folder alone the next time joins the logs.
- Records do not tell in which order, by whom, or in how many attempts shards were written. So the folder of a run that
  was disturbed ends byte for byte as that of one that was not.
- Vectors are stored plain with zstd: a dictionary would make a column of distinct floats larger
  (github.com/apache/arrow/issues/49715).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.config import BadRows
from lengthwise.errors import StoreError
from lengthwise.store.fingerprint import describe_changes, identity_hash
from lengthwise.store.folder import open_folder
from lengthwise.store.local import is_draft
from lengthwise.store.protocol import Folder
from lengthwise.store.records import QUARANTINE, Part, ShardRecord, quarantine_file, record_line, records_of
from lengthwise.util.files import hashed_file
from lengthwise.util.threads import parallel_map

DATA, RUN, IDENTITY, RECORDS, MANIFEST = "data", "run.yaml", "identity.json", "shards.jsonl", "manifest.json"
CARD, LOCK = "README.md", ".lock"
ROW_GROUP_ROWS = 8_192
COUNTS = ("rows", "tokens", "empty", "null", "bad", "truncated")
_OURS = re.compile(
    r"README\.md|run\.yaml|identity\.json|manifest\.json|report\.(md|png)|shards(-\d+-of-\d+)?\.jsonl"
    rf"|{DATA}/shard-\d+\.parquet|{QUARANTINE}/shard-\d+\.jsonl"
)
_FILES_AT_A_TIME = 16  # are looked into at the end; of an object store, each takes its time to answer
_GOES_ON = "the shards before it are safe, and the same command goes on from there"
_LOG = re.compile(r"shards(-\d+-of-\d+)?\.jsonl")
log = logging.getLogger(__name__)


class VectorStore:
    """The shards of one run in one folder; a context manager, since the folder is locked until it is closed.

    Attributes:
        folder: where they lie.
        identity: the hash of what the run's vectors depend on.
        records: of the committed shards, by their index.
    """

    def __init__(
        self,
        folder: Folder,
        identity: str,
        records: dict[int, ShardRecord],
        log_name: str,
        bad_rows: BadRows,
        lock: ExitStack,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.records = records
        self._log, self._bad_rows, self._lock = log_name, bad_rows, lock
        self._was_finished = folder.read(MANIFEST) is not None

    @classmethod
    def open(
        cls,
        folder: str | Path,
        identity: Mapping[str, Any],
        run_yaml: str,
        *,
        bad_rows: BadRows = "error",
        part: Part | None = None,
        fresh: bool = False,
    ) -> VectorStore:
        """Open a folder for a run: an empty or new one, or one that holds shards of the same run.

        Args:
            folder: a path, or a URL that fsspec knows.
            identity: everything that the bytes of the vectors depend on, as JSON-ready values.
            run_yaml: the resolved configuration, saved beside the vectors.
            bad_rows: what is written for a row that cannot be encoded. A shard with such rows that was written under
                another policy does not count as committed.
            part: which part of a divided run writes; the whole run if None.
            fresh: remove the shards that are there, whatever run they are of.

        Raises:
            StoreError: the folder holds another run's vectors, or something else; another process writes to it; or it
                cannot be written.
        """
        place = open_folder(folder)
        log_name, lock_name = (RECORDS, LOCK) if part is None else (f"shards-{part}.jsonl", f"{LOCK}-{part}")
        record: dict[str, Any] = {"sha256": identity_hash(identity), "depends_on": dict(identity)}
        with ExitStack() as stack, _told(f"{place}: cannot be written", "mend that, or choose another encode.output"):
            _refuse_what_is_not_ours(place)
            _lock(place, lock_name, part, stack)
            if fresh:
                _start_over(place, part)
            else:
                _refuse_another_run(place, identity)
            # First, since a folder that a crash left without an identity would not be known as ours again.
            if place.read(IDENTITY) != (identity_bytes := _json_bytes(record)):
                place.write(IDENTITY, identity_bytes)
            if place.read(RUN) != run_yaml.encode():
                place.write(RUN, run_yaml.encode())
            records = _read_records(place)
            if part is None:
                _tidy(place, records)
            elif place.read(log_name) is not None:
                own = [record for record in records.values() if part.owns(record.index)]
                place.write(log_name, b"".join(map(record_line, own)))  # without a line that a crash cut off
            return cls(place, record["sha256"], records, log_name, bad_rows, stack.pop_all())

    def __enter__(self) -> VectorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder's lock."""
        self._lock.close()

    def committed(self, index: int) -> ShardRecord | None:
        """The record of a shard whose files are there and unchanged, else None."""
        record = self.records.get(index)
        if record is not None and not self._stands(record):
            self._reopen()
            return None
        return record

    def _stands(self, record: ShardRecord) -> bool:
        if record.bad and self._bad_rows != "error" and (self._bad_rows == "quarantine") != bool(record.quarantine):
            log.warning("%s has rows that cannot be encoded: written again, for encode.bad_rows", record.file)
            return False
        for name, sha256 in record.checksums.items():
            with _told(f"{self.folder.at(name)}: cannot be read", "mend that; the same command goes on from there"):
                found = self.folder.sha256(name)
            if found != sha256:
                log.warning("%s is missing or not what was written; its shard is encoded again", self.folder.at(name))
                return False
        return True

    def _reopen(self) -> None:
        """Take the manifest of a folder that is not complete any more: it speaks of a shard's last version."""
        if self._was_finished:
            with _told(f"{self.folder.at(MANIFEST)}: cannot be removed", "mend that, or choose another encode.output"):
                self.folder.remove(MANIFEST)
            self._was_finished = False

    def commit(self, table: pa.Table, counts: Mapping[str, Any], set_aside: bytes | None = None) -> ShardRecord:
        """Write a shard's table, then its record; see `write_shard`."""
        record = write_shard(self.folder, self.identity, table, counts, set_aside)
        self.add(record)
        return record

    def add(self, record: ShardRecord) -> None:
        """Record a shard that was written."""
        with _told(f"{self.folder.at(self._log)}: cannot be written", _GOES_ON):
            self.folder.check_lock()
            self._reopen()
            self.folder.append(self._log, record_line(record))
        self.records[record.index] = record

    def finish(self, rows: int, shard_rows: int, card: str) -> dict[str, Any]:
        """Check that everything is there; then write the dataset card and, last, the manifest, which is returned.

        Args:
            rows: how many the input has.
            shard_rows: how many a shard has, but for the last one.
            card: the README.md.

        Raises:
            StoreError: shards are missing, or do not fit the input or each other.
        """
        with _told(f"{self.folder}: cannot be written", "mend that; the shards are safe, and the same command goes on"):
            records = self._complete_records(rows, shard_rows)
            totals = {name: sum(getattr(record, name) for record in records) for name in COUNTS}
            manifest = {"identity": self.identity, **totals, "shards": [asdict(record) for record in records]}
            self._check_schemas(records)
            self.folder.check_lock()
            self.folder.write(RECORDS, b"".join(map(record_line, records)))
            known = {name for record in records for name in record.checksums}
            for name in self.folder.names():
                if not name.startswith((f"{DATA}/", f"{QUARANTINE}/")) or name in known:
                    continue
                if _OURS.fullmatch(name) or is_draft(name):  # drafts are of workers that died while this run went on
                    self.folder.remove(name)
            self.folder.write(CARD, card.encode())
            self.folder.write(MANIFEST, _json_bytes(manifest))
            self._was_finished = True
        return manifest

    def _complete_records(self, rows: int, shard_rows: int) -> list[ShardRecord]:
        names = set(self.folder.names())
        shards = -(-rows // shard_rows)
        missing = [
            index
            for index in range(shards)
            if index not in self.records or not names.issuperset(self.records[index].checksums)
        ]
        if missing:
            raise StoreError(
                f"{self.folder}: {len(missing)} of {shards} shards are not there (numbers {_ranges(missing)});"
                " run the command that encodes them again"
            )
        records = [self.records[index] for index in range(shards)]
        for index, record in enumerate(records):
            expected = min(shard_rows, rows - index * shard_rows)
            if (record.first_row, record.rows) != (index * shard_rows, expected):
                raise StoreError(
                    f"{self.folder.at(record.file)}: has the rows {record.first_row} to"
                    f" {record.first_row + record.rows - 1}, but the input has {expected} rows from"
                    f" {index * shard_rows} there; encode again with --fresh"
                )
        return records

    def _check_schemas(self, records: list[ShardRecord]) -> None:
        first = None
        for record, schema in zip(records, parallel_map(self._schema, records, _FILES_AT_A_TIME), strict=True):
            first = first or schema
            if not schema.equals(first, check_metadata=True):
                raise StoreError(
                    f"{self.folder.at(record.file)}: its columns are {_columns(schema)}, those of the first shard"
                    f" {_columns(first)}; encode again with --fresh"
                )

    def _schema(self, record: ShardRecord) -> pa.Schema:
        try:
            with self.folder.open(record.file) as file:
                return pq.read_schema(file)
        except pa.ArrowException as error:
            raise StoreError(
                f"{self.folder.at(record.file)}: cannot be read ({error}); remove it, and run the command that"
                " encodes again"
            ) from error


def write_shard(
    folder: Folder, identity: str, table: pa.Table, counts: Mapping[str, Any], set_aside: bytes | None = None
) -> ShardRecord:
    """Write a shard's table, whole or not at all, for a store to record.

    Args:
        identity: the hash that the folder must still have: another run may have started it over.
        table: the rows, in the dataset's order.
        counts: the record's fields beside `rows`, `file`, `sha256` and `quarantine`.
        set_aside: the lines of the shard's file in the quarantine, if it has one.

    Raises:
        StoreError: it cannot be written, or the folder is another run's by now.
    """
    file, aside = f"{DATA}/shard-{counts['index']:06d}.parquet", quarantine_file(counts["index"])
    plain = [name for name in table.column_names if name != "embedding"]
    # Pages end where chunks end, and a stream has others than a file: in one piece, so that bytes are equal.
    whole = table.combine_chunks()
    told = _told(f"{folder.at(file)}: the shard cannot be written", _GOES_ON)
    with told, folder.draft(file) as part:
        with hashed_file(part) as file_of_rows:
            pq.write_table(
                whole,
                file_of_rows,
                compression="zstd",
                use_dictionary=plain,
                write_statistics=plain,  # nobody looks for the smallest value of a vector, which takes long to find
                row_group_size=ROW_GROUP_ROWS,
            )
        found = read_identity(folder)  # as late as can be: what follows takes moments
        if found is None or identity_hash(found) != identity:
            raise StoreError(f"{folder}: another run has started it over; this one has ended")
        if set_aside is None:
            folder.remove(aside)
        else:
            folder.write(aside, set_aside)
    return ShardRecord(
        **counts,
        rows=table.num_rows,
        file=file,
        sha256=file_of_rows.sha256,
        quarantine=None if set_aside is None else hashlib.sha256(set_aside).hexdigest(),
    )


def vector_table(
    kept: pa.Table,
    vectors: NDArray[np.floating],
    num_tokens: NDArray[np.int64],
    truncated: NDArray[np.bool_],
    absent: NDArray[np.bool_] | None = None,
) -> pa.Table:
    """A shard's table: the kept columns, then embedding fixed_size_list[dim], num_tokens int32, truncated bool.

    Args:
        absent: bool[rows], the rows whose embedding is null.
    """
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    mask = None if absent is None else pa.array(absent)
    table = kept.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=mask))
    table = table.append_column("num_tokens", pa.array(num_tokens.astype(np.int32)))
    return table.append_column("truncated", pa.array(truncated))


def read_identity(folder: Folder) -> dict[str, Any] | None:
    """What the vectors in a folder depend on; None where it is no folder of vectors.

    Raises:
        StoreError: the file is damaged.
    """
    with _told(f"{folder.at(IDENTITY)}: cannot be read", "mend that, or choose another encode.output"):
        contents = folder.read(IDENTITY)
    if contents is None:
        return None
    try:
        value = json.loads(contents)
        depends_on = value["depends_on"]
        if value["sha256"] == identity_hash(depends_on) and isinstance(depends_on, dict):
            return depends_on
        problem = "its sha256 is not that of what it says"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise StoreError(
        f"{folder.at(IDENTITY)}: cannot be read ({problem}); the folder is damaged: start it over with --fresh, or"
        " choose another encode.output"
    )


def _lock(place: Folder, own: str, part: Part | None, stack: ExitStack) -> None:
    """Hold the run's or the part's lock, and make sure that nobody writes whom it does not go with."""
    try:
        stack.enter_context(place.lock(own))
    except BlockingIOError as error:
        raise _taken(place, str(error)) from None
    for name in place.names():
        goes_with = part is not None and name.endswith(f"-of-{part.count:05d}")
        if name.startswith(LOCK) and name != own and not goes_with and (holder := place.holder(name)):
            raise _taken(place, holder)


def _taken(place: Folder, holder: str) -> StoreError:
    return StoreError(
        f"{place}: {holder}, is writing to this folder; wait until it is done, stop it, or choose another encode.output"
    )


def _start_over(place: Folder, part: Part | None) -> None:
    if part is not None:
        raise StoreError(
            f"{place}: part {part.index} cannot start the folder over, since other parts write to it too; remove it"
        )
    # The manifest first, since it would speak of shards that are gone. The identity stays until another takes its
    # place: without one, the folder would not be known as ours after a crash.
    for name in sorted(place.names(), key=lambda name: name != MANIFEST):
        if name != IDENTITY and (_OURS.fullmatch(name) or is_draft(name)):
            place.remove(name)


def _tidy(place: Folder, records: dict[int, ShardRecord]) -> None:
    """Remove what a crash left half-written, and join the logs of parts; only while nobody else writes."""
    names = place.names()
    # Also since appending to a line that a crash cut off would lose the next record too.
    place.write(RECORDS, b"".join(map(record_line, records.values())))
    for name in names:
        if is_draft(name) or (_LOG.fullmatch(name) and name != RECORDS):
            place.remove(name)

    def free(lock: str) -> None:
        with suppress(BlockingIOError), place.lock(lock):  # giving it back removes it
            pass

    locks_of_the_dead = [name for name in names if name != LOCK and name.startswith(LOCK)]
    list(parallel_map(free, locks_of_the_dead, _FILES_AT_A_TIME))  # since a lock at a URL takes seconds


def _read_records(place: Folder) -> dict[int, ShardRecord]:
    """Records by shard, of all logs."""
    found: dict[int, list[ShardRecord]] = {}
    for name in place.names():
        if _LOG.fullmatch(name):
            for index, record in records_of(place.read(name) or b"").items():
                found.setdefault(index, []).append(record)
    return {index: _current(place, records) for index, records in found.items()}


def _current(place: Folder, records: list[ShardRecord]) -> ShardRecord:
    """Of a shard's records in several logs, which do not say which is newest, the one of what is there."""
    if len(set(records)) > 1:
        for record in records:
            if all(place.sha256(name) == sha256 for name, sha256 in record.checksums.items()):
                return record
    return records[-1]


def _refuse_what_is_not_ours(place: Folder) -> None:
    """Raise a StoreError where there is something, and it is no folder of vectors."""
    try:
        names = place.names()
    except NotADirectoryError:
        names = ["a file"]
    unfinished = [name for name in names if name.startswith((LOCK, f".{IDENTITY}."))]
    if IDENTITY not in names and len(names) > len(unfinished):
        raise StoreError(f"{place}: not empty, and not a folder of vectors; choose another encode.output")


def _refuse_another_run(place: Folder, identity: Mapping[str, Any]) -> None:
    found = read_identity(place)
    if found is not None and identity_hash(found) != identity_hash(identity):
        raise StoreError(
            f"{place}: holds the vectors of another run ({describe_changes(found, identity)}); choose another"
            " encode.output, or start over with --fresh if those vectors are no longer wanted"
        )


@contextmanager
def _told(problem: str, remedy: str) -> Iterator[None]:
    """An OSError inside becomes a StoreError that says what, why and what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{problem} ({error}); {remedy}") from error


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _ranges(numbers: list[int], most: int = 10) -> str:
    """Sorted numbers in words: "0-3, 7"."""
    among = set(numbers)
    starts = [number for number in numbers if number - 1 not in among]
    ends = [number for number in numbers if number + 1 not in among]
    shown = [f"{start}-{end}" if end > start else f"{start}" for start, end in zip(starts, ends, strict=True)]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
