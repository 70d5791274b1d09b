"""A folder of vectors: parquet shards that are committed one by one, and the identity of the run that they belong to.

Notable decisions:
- A shard is written beside its place, flushed, renamed, and only then recorded: it exists in full or not at all. One
  without a record is written again.
- One run writes to a folder at a time. The parts of a divided run write side by side, each its own shards and its own
  log of records; the next process that opens the folder alone joins the logs.
- Records do not say in which order, by which process or in how many attempts shards were written. So the folder of an
  interrupted run ends byte for byte as that of one that was not.
- While rows are added, the manifest of those that were there stays: their shards do not change.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Container, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lengthwise.config import BadRows
from lengthwise.store.completeness import check_same_columns, complete_records
from lengthwise.store.fingerprint import identity_hash, read_identity, write_identity
from lengthwise.store.folder import open_folder
from lengthwise.store.input_record import InputRecord, read_input
from lengthwise.store.layout import (
    CARD,
    CHANGES_SUMMARY,
    DATA,
    HASHES,
    INPUT,
    MANIFEST,
    PRECISION,
    QUARANTINE,
    RECORDS,
    REUSE,
    RUN,
    is_own,
    log_file,
)
from lengthwise.store.parquet import RESUMABLE
from lengthwise.store.parts import Part
from lengthwise.store.protocol import Folder, wrap_os_errors
from lengthwise.store.records import ReuseSources, ShardRecord, Totals, log_lines, reuse_summary
from lengthwise.store.recovery import (
    check_is_vector_folder,
    check_same_run,
    is_abandoned,
    lock_folder,
    recover_records,
    start_over,
)

log = logging.getLogger(__name__)


class VectorStore:
    """The shards of one run in one folder; a context manager, since the folder is locked until it is closed.

    Attributes:
        folder: where the files are.
        identity: what the run's vectors depend on.
        identity_hash: its sha256 (hex).
        records: of the committed shards, by index.
        input: which rows of which input the folder has; None before the first run's end.
    """

    def __init__(
        self,
        folder: Folder,
        identity: Mapping[str, Any],
        records: dict[int, ShardRecord],
        log_name: str,
        bad_rows: BadRows,
        lock: ExitStack,
    ) -> None:
        self.folder, self.identity, self.identity_hash = folder, identity, identity_hash(identity)
        self.records, self.input = records, read_input(folder)
        self._log, self._bad_rows, self._lock = log_name, bad_rows, lock
        self._listed = _listed_shards(folder)  # those that the manifest lists; None without one
        self._compared: set[tuple[str, str]] = set()  # files whose columns were compared, and their sha256

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
        precision_json: bytes | None = None,
        sources: ReuseSources | None = None,
        grows: bool = False,
    ) -> VectorStore:
        """Open a folder for a run: an empty or new one, one where another run failed before it committed anything, or
        one that holds shards of the same run.

        Args:
            folder: a path, or a URL that fsspec knows.
            identity: everything that the bytes of the vectors depend on, as JSON-ready values.
            run_yaml: the resolved configuration, saved beside the vectors.
            bad_rows: what is written for a row that cannot be encoded. A shard with such rows that was written under
                another policy does not count as committed.
            part: which part of a divided run writes; the whole run if None.
            fresh: remove the existing shards, of this run or another.
            precision_json: how the run's precision was chosen, saved beside the vectors.
            sources: where the run may take vectors from, saved beside the vectors, with what earlier ones say of shards
                that are there; if None, what is there is kept.
            grows: leave the identity's input as it is in the folder, for `set_input` to change; "" in a new one.

        Raises:
            StoreError: the folder holds another run's vectors, or something else; another process writes to it; or it
                cannot be written.
        """
        place = open_folder(folder)
        with wrap_os_errors(f"{place}: cannot be written", "fix that, or choose another encode.output"):
            check_is_vector_folder(place)
            with ExitStack() as stack:
                stack.enter_context(lock_folder(place, part))
                if grows and not fresh:
                    found = read_identity(place)
                    identity = {**identity, "input": "" if found is None else found.get("input")}
                if fresh or (part is None and is_abandoned(place, identity)):
                    start_over(place, part)
                else:
                    check_same_run(place, identity)
                write_identity(place, identity)  # first: a folder without one would not be recognised after a crash
                records, reuse_json = recover_records(place, part), None
                if sources is not None:
                    earlier = ReuseSources.from_json(place.read(REUSE))
                    reuse_json = sources.with_earlier(earlier, records.values()).to_json()
                for name, contents in ((RUN, run_yaml.encode()), (PRECISION, precision_json), (REUSE, reuse_json)):
                    if contents == b"":
                        place.remove(name)
                    elif contents is not None and place.read(name) != contents:
                        place.write(name, contents)
                return cls(place, identity, records, log_file(part), bad_rows, stack.pop_all())

    def __enter__(self) -> VectorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder's lock."""
        self._lock.close()

    def committed(self, index: int) -> ShardRecord | None:
        """The record of a shard whose files exist and are unchanged, else None."""
        record = self.records.get(index)
        if record is not None and not self._is_intact(record):
            self._remove_manifest(index)
            return None
        return record

    def set_input(self, record: InputRecord) -> None:
        """Write which rows the folder has, or is going to have, and the identity that follows.

        Raises:
            StoreError: it cannot be written.
        """
        is_shorter = self.input is not None and len(record.segments) < len(self.input.segments)
        identity = {**self.identity, "input": record.fingerprint}
        with wrap_os_errors(f"{self.folder}: cannot be written", RESUMABLE):
            self.folder.check_lock()
            if is_shorter:  # first the identity, so that it is always one of a beginning of the record
                write_identity(self.folder, identity)
            self._write_input(record)
            write_identity(self.folder, identity)
        self.identity, self.identity_hash = identity, identity_hash(identity)

    def discard(self, indices: Iterable[int]) -> None:
        """Forget shards for good: other rows may get their numbers.

        Raises:
            StoreError: that cannot be written.
        """
        self.drop(indices)
        with wrap_os_errors(f"{self.folder.location(self._log)}: cannot be written", RESUMABLE):
            self.folder.check_lock()
            self.folder.write(self._log, log_lines(self.records.values()))

    def drop(self, indices: Iterable[int]) -> None:
        """Forget shards until the folder is opened again, so that they are encoded again."""
        for index in indices:
            if self.records.pop(index, None) is not None:
                self._remove_manifest(index)

    def totals(self) -> Totals:
        """The sums over the committed shards."""
        return Totals.of(self.records.values())

    def add(self, record: ShardRecord) -> None:
        """Record a shard that was written."""
        with wrap_os_errors(f"{self.folder.location(self._log)}: cannot be written", RESUMABLE):
            self.folder.check_lock()
            self._remove_manifest(record.index)
            self.folder.append(self._log, log_lines([record]))
        self.records[record.index] = record

    def finish(self, rows: int, shard_rows: int, card: str, record: InputRecord | None = None) -> dict[str, Any]:
        """Check that the folder is complete; then write the dataset card and, last, the manifest, which is returned.

        Args:
            rows: how many the input has.
            shard_rows: how many each shard has, but for the last one.
            card: the README.md.
            record: which rows of which input these are, to be written too.

        Raises:
            StoreError: shards are missing, or do not fit the input or each other.
        """
        segment_rows = [rows] if record is None else [segment.rows or 0 for segment in record.segments]
        with wrap_os_errors(
            f"{self.folder}: cannot be written", "fix that; the shards are safe, and the same command resumes"
        ):
            records = complete_records(self.folder, self.records, segment_rows, shard_rows)
            totals = asdict(Totals.of(records))
            reused = reuse_summary(records, ReuseSources.from_json(self.folder.read(REUSE)))
            shards = [record.to_json() for record in records]
            segments = {} if record is None else record.summary()
            manifest = {"identity": self.identity_hash, **totals, **reused, **segments, "shards": shards}
            self._compare_columns(records)
            self.folder.check_lock()
            self.folder.write(RECORDS, log_lines(records))
            self._remove_unrecorded(records)
            if record is not None:
                self._write_input(record)
            self.folder.write(CARD, card.encode())
            self.folder.write(MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
            self._listed = {record.index for record in records}
        return manifest

    def _is_intact(self, record: ShardRecord) -> bool:
        if record.bad and self._bad_rows != "error" and (self._bad_rows == "quarantine") != bool(record.quarantine):
            log.warning("%s has rows that cannot be encoded: written again, for encode.bad_rows", record.file)
            return False
        for name, sha256 in record.checksums.items():
            location = self.folder.location(name)
            with wrap_os_errors(f"{location}: cannot be read", "fix that; the same command resumes from there"):
                found = self.folder.sha256(name)
            if found != sha256:
                log.warning("%s is missing or was changed; its shard is encoded again", location)
                return False
        return True

    def _write_input(self, record: InputRecord) -> None:
        if record != self.input:
            self.folder.write(INPUT, record.to_json())
        self.input = record

    def _compare_columns(self, records: list[ShardRecord]) -> None:
        """`check_same_columns`, but for shards that this has done for before."""
        new = [record for record in records[1:] if (record.file, record.sha256) not in self._compared]
        check_same_columns(self.folder, [*records[:1], *new])
        self._compared.update((record.file, record.sha256) for record in new)

    def _remove_manifest(self, index: int) -> None:
        """Where the folder was complete and is not any more: manifest and changes are of a shard's former version."""
        if self._listed is not None and index in self._listed:
            location = self.folder.location(MANIFEST)
            with wrap_os_errors(f"{location}: cannot be removed", "fix that, or choose another encode.output"):
                self.folder.remove(CHANGES_SUMMARY)
                self.folder.remove(MANIFEST)
            self._listed = None

    def _remove_unrecorded(self, records: list[ShardRecord]) -> None:
        """Remove shards beyond the input's end, and drafts of workers that died during the run."""
        recorded = {name for record in records for name in record.checksums}
        for name in self.folder.list_files():
            if name.startswith((f"{DATA}/", f"{QUARANTINE}/", f"{HASHES}/")) and name not in recorded and is_own(name):
                self.folder.remove(name)


def _listed_shards(folder: Folder) -> Container[int] | None:
    """The numbers of the shards that a folder's manifest lists; None where there is no manifest."""
    contents = folder.read(MANIFEST)
    if contents is None:
        return None
    try:
        return {int(shard["index"]) for shard in json.loads(contents)["shards"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return range(sys.maxsize)  # a damaged one lists any
