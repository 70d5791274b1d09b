"""A folder of vectors whose input grows, opened for adding rows.

What is encoded is decided here, and not how: on one machine, on a cluster, as one part, or not at all, so that only the
record of the rows is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lengthwise.config import RunConfig
from lengthwise.data.input import Input
from lengthwise.data.readers import no_rows_error, reading_record
from lengthwise.data.source import Section, Source
from lengthwise.errors import NoRowsError, StoreError
from lengthwise.run.finalize import finalize
from lengthwise.run.lineage import Lineage, check_rows, find_lineages, other_type, place_segments
from lengthwise.run.local import make_report, pending_filter
from lengthwise.run.precision import PrecisionChoice
from lengthwise.run.reuse import Reuse
from lengthwise.run.stats import EncodeReport, ShardStats
from lengthwise.store.fingerprint import describe_changes
from lengthwise.store.input_record import InputRecord, Segment
from lengthwise.store.parquet import read_schema
from lengthwise.store.parts import Part
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.protocol import wrap_os_errors
from lengthwise.store.records import ShardRecord
from lengthwise.store.vectors import VectorStore
from lengthwise.util.system import cpu_count
from lengthwise.util.threads import parallel_map

_NO_RECORD = object()
_PLAN = "run lengthwise encode with --plan, which records them, and then the parts again"
# Encodes and commits the shards of a source for whose numbers a function is true.
EncodeShards = Callable[[Source, Callable[[int], bool], VectorStore, Reuse], ShardStats]


@dataclass(frozen=True)
class Added:
    """Rows that were added and committed.

    Attributes:
        names: of their files; none where shards that had been missing were encoded.
        rows: how many they are.
        seconds: how long it took.
        total: how many rows the folder has now.
    """

    names: tuple[str, ...]
    rows: int
    seconds: float
    total: int


@dataclass(frozen=True)
class Planned:
    """What the parts of a run share.

    Attributes:
        rows, shards: of the folder, once they have ended.
        pending: how many of the shards are to be encoded.
    """

    rows: int
    shards: int
    pending: int


class AppendRun:
    """A folder of vectors whose input grows, opened for adding rows.

    Attributes:
        stats: of the shards that were encoded.
        is_checked: whether no shard is missing of the rows that were begun.
    """

    def __init__(self, config: RunConfig, store: VectorStore, reuse: Reuse, encode: EncodeShards) -> None:
        self._config, self._store, self._reuse, self._encode_shards = config, store, reuse, encode
        self._intact: dict[int, ShardRecord] = {}  # shards whose sha256 was compared
        self._ended: dict[tuple[str, ...], Mapping[str, str]] = {}  # versions that have no more rows
        self.is_checked = False
        self.stats = ShardStats()

    @property
    def record(self) -> InputRecord:
        """What the folder has."""
        return self._store.input or InputRecord(reading_record(self._config.dataset))

    def encode_all(self, found: Input) -> None:
        """Encode what is missing and what is new, and complete the folder.

        Raises:
            NoRowsError: the input has no rows.
            LengthwiseError: as `update`.
        """
        self._update_whole(found)
        self.finish()

    def plan(self, found: Input) -> Planned:
        """`update` with a function that encodes nothing.

        Raises:
            LengthwiseError: as `encode_all`.
        """
        self._update_whole(found)
        shards = _count_shards(self.record, self._config)
        sections = place_segments(self.record, self._config.dataset.shard_rows)
        return Planned(self.record.rows or 0, shards, shards - sum(len(self._verify(each)) for each in sections))

    def encode_part(self, found: Input, part: Part) -> None:
        """Encode the shards of a part, of rows that are recorded.

        Raises:
            DatasetError: as `update`.
            StoreError: the input has rows that are not recorded.
        """
        store, record = self._store, self.record
        if not record.rows or record.fingerprint != store.identity["input"]:
            raise StoreError(f"{store.folder}: the rows that its parts are to share are not recorded; {_PLAN}")
        self._check_reading(record)
        lineages = find_lineages(found, record, self._config)
        check_no_more(lineages, store, record, self._config, f"once no other part runs, {_PLAN}")
        is_pending = pending_filter(store, part, lambda rows: None)
        for lineage in lineages:
            for section in lineage.sections:
                self._encode_missing(lineage, section, filter(is_pending, self._indices(section)))

    def update(self, found: Input, *, one_by_one: bool = False, is_partial: bool = False) -> Iterator[Added]:
        """Encode what is missing, and then what is new; yields after each input that is new or has grown.

        Args:
            found: the run's input, as it is now.
            one_by_one, is_partial: as for `find_lineages`.

        Raises:
            DatasetError: a file is gone, or rows are not those that were encoded.
            StoreError: the folder is of another run, or cannot be written.
        """
        if not self.is_checked:
            self._settle(found, is_partial)
        options = {"one_by_one": one_by_one, "is_partial": is_partial}
        lineages = find_lineages(found, self.record, self._config, **options)
        if self._close_changed(lineages):
            lineages = find_lineages(found, self.record, self._config, **options)
        changed = [lineage for lineage in lineages if lineage.is_changed and not self._has_ended(lineage)]
        for lineage in changed:
            if lineage.segments:
                check_rows(lineage, self._config.encode.output, self._committed(lineage), self._config)
        if not self.is_checked:
            started, before = time.perf_counter(), self.stats.rows
            if not all(self._complete(lineage) for lineage in lineages):
                return  # until the files can be read
            self.is_checked = True
            if self.stats.rows > before:
                yield Added((), self.stats.rows - before, time.perf_counter() - started, self.record.rows or 0)
        for lineage in changed:
            started = time.perf_counter()
            if rows := self._add_rows(lineage):
                yield Added(lineage.names, rows, time.perf_counter() - started, self.record.rows or 0)
            else:
                self._ended[lineage.names] = lineage.versions

    def report(
        self, seconds: float, choice: PrecisionChoice | None = None, *, is_complete: bool = True
    ) -> EncodeReport:
        """What was done, in so many seconds."""
        notes = self._reuse.describe(self.stats.reused)
        return make_report(self._store, self.stats, seconds, is_complete=is_complete, choice=choice, reuse=notes)

    def finish(self) -> dict[str, Any]:
        """Write the card and the manifest of what the folder has now; returns the manifest."""
        return finalize(self._store, self._config, self.record)

    def _update_whole(self, found: Input) -> None:
        """`update` to its end, which has to leave rows."""
        for _ in self.update(found):
            pass
        if not self.record.segments:
            raise no_rows_error(self._config.dataset)

    def _settle(self, found: Input, is_partial: bool) -> None:
        """Bring the record and the identity into agreement, as before a crash, or before there was a record."""
        store, reading = self._store, reading_record(self._config.dataset)
        record = store.input
        if record is None:
            record = InputRecord(reading)
            if store.identity["input"]:
                if is_partial:
                    raise StoreError(
                        f"{store.folder}: its run did not append, and has not ended; run it once with encode.append,"
                        " without --follow"
                    )
                record = record.with_segment(_adopted(found, store.identity["input"]))
        self._check_reading(record)
        if all(record.first(count).fingerprint != store.identity["input"] for count in range(len(record.segments) + 1)):
            raise StoreError(
                f"{store.folder}: input.json is not that of identity.json; start over with --fresh, or choose another"
                " encode.output"
            )
        sections = place_segments(record, self._config.dataset.shard_rows)
        begun = sum(section.first_index <= max(store.records, default=-1) for section in sections)
        record = record.first(begun)
        if record != store.input or record.fingerprint != store.identity["input"]:
            store.set_input(record)

    def _check_reading(self, record: InputRecord) -> None:
        """Refuse a folder whose rows were read with other settings."""
        if changes := describe_changes(record.reading, reading_record(self._config.dataset)):
            raise StoreError(
                f"{self._store.folder}: its rows were read in another way ({changes}); use the settings of dataset as"
                " they were, or choose another encode.output"
            )

    def _close_changed(self, lineages: list[Lineage]) -> bool:
        """End a segment that was not completed before its input changed, after the rows that were encoded."""
        segments = self.record.segments
        for lineage in lineages:
            if not (lineage.is_changed and lineage.segments and lineage.segments[-1] is segments[-1]):
                continue
            section = lineage.sections[-1]
            committed, rows = self._store.records, 0
            index = section.first_index
            while (found := committed.get(index)) is not None and found.first_row == section.first_row + rows:
                rows, index = rows + found.rows, index + 1
                if found.rows < self._config.dataset.shard_rows:
                    break
            if rows != section.rows:
                self._store.discard([number for number in committed if number >= index])
                shorter = self.record.with_rows(rows) if rows else self.record.first(len(segments) - 1)
                self._store.set_input(shorter)
                return True
        return False

    def _has_ended(self, lineage: Lineage) -> bool:
        return self._ended.get(lineage.names) == lineage.versions and bool(lineage.names)

    def _committed(self, lineage: Lineage) -> PreviousFolder:
        """The shards of an input that are unchanged."""
        records = {index: record for section in lineage.sections for index, record in self._verify(section).items()}
        return PreviousFolder(self._store.folder, dict(self._store.identity), records)

    def _verify(self, section: Section) -> dict[int, ShardRecord]:
        """The records of a section's shards whose files are unchanged; the section has to have ended."""
        indices = self._indices(section)
        new = [index for index in indices if self._intact.get(index) != self._store.records.get(index, _NO_RECORD)]
        for index, record in zip(new, parallel_map(self._store.committed, new, cpu_count()), strict=True):
            if record is not None:
                self._intact[index] = record
            else:
                self._intact.pop(index, None)
        return {index: self._intact[index] for index in indices if index in self._intact}

    def _indices(self, section: Section) -> list[int]:
        """The numbers of a section's shards; the section has to have ended."""
        return [index for index, *_ in section.shard_ranges(self._config.dataset.shard_rows)]

    def _complete(self, lineage: Lineage) -> bool:
        """Encode shards of an input that are missing or damaged, and the rest of one that was not completed.

        Returns:
            Whether that could be done, or nothing was to be done.
        """
        for segment, section in zip(lineage.segments, lineage.sections, strict=True):
            if segment.rows is None:
                if not lineage.is_available:
                    return False
                source = lineage.source.with_sections([section])
                self._encode(source, lambda index: self._store.committed(index) is None)
                self._store.set_input(self.record.with_rows(source.count_rows()))
                continue
            intact = self._verify(section)
            missing = [index for index in self._indices(section) if index not in intact]
            if missing and not lineage.is_available:
                return False
            self._encode_missing(lineage, section, missing)
        return True

    def _encode_missing(self, lineage: Lineage, section: Section, indices: Iterable[int]) -> None:
        """Encode shards of a section; the input is opened only if there are any."""
        if missing := set(indices):
            self._encode(lineage.source.with_sections([section]), missing.__contains__)

    def _add_rows(self, lineage: Lineage) -> int:
        """Encode the rows that an input has after those that the folder has; returns how many they were."""
        record = self.record
        new = _find_new(lineage, record, self._config)
        if new is None:
            return 0
        self._check_types(new, lineage)
        files = {name: lineage.versions[name] for name in lineage.names}
        self._store.set_input(record.with_segment(Segment(new.fingerprint, lineage.rows, new.num_rows, files)))
        self._encode(new, lambda index: True)
        rows = new.count_rows()
        self._store.set_input(self.record.with_rows(rows))
        return rows

    def _encode(self, source: Source, is_pending: Callable[[int], bool]) -> None:
        self.stats += self._encode_shards(source, is_pending, self._store, self._reuse)

    def _check_types(self, source: Source, lineage: Lineage) -> None:
        """Refuse rows whose kept columns are not of the type of those that were encoded."""
        if not self._store.records:
            return
        import datasets

        first = self._store.records[min(self._store.records)].file
        location = self._store.folder.location(first)
        with wrap_os_errors(f"{location}: cannot be read", "fix that; the same command resumes from there"):
            before = datasets.Features.from_arrow_schema(read_schema(self._store.folder, first))
        for name in self._config.dataset.keep_columns:
            if before.get(name) != source.features[name]:
                raise other_type(lineage, name, source.features[name], before.get(name), self._config)


def check_no_more(
    lineages: Iterable[Lineage], store: VectorStore, record: InputRecord, config: RunConfig, remedy: str
) -> None:
    """Refuse an input that has more rows than are recorded, or others than those that were encoded."""
    for lineage in (lineage for lineage in lineages if lineage.is_changed):
        if lineage.segments:
            committed = PreviousFolder(store.folder, dict(store.identity), store.records)
            check_rows(lineage, config.encode.output, committed, config)
        if _find_new(lineage, record, config) is not None:
            raise StoreError(
                f"{store.folder}: the input has more rows ({lineage.describe() or 'not of files'}); {remedy}"
            )


def _adopted(found: Input, fingerprint: str) -> Segment:
    """The segment of a folder that has none recorded: of an older version, or of a run that did not end."""
    if found.files is None:
        return Segment(fingerprint, 0, None, {})
    versions = found.files.versions()
    if found.files.fingerprint(versions) != fingerprint:
        versions = dict.fromkeys(versions, "")  # whichever they were, they have changed
    return Segment(fingerprint, 0, None, versions)


def _find_new(lineage: Lineage, record: InputRecord, config: RunConfig) -> Source | None:
    """The rows that an input has after those that are recorded, numbered as they follow; None if it has none."""
    try:
        source = lineage.source if lineage.segments else lineage.open()  # of many, one is open at a time
        new = source.with_sections([Section(lineage.rows, None, record.rows or 0, _count_shards(record, config))])
        is_empty = new.num_rows == 0 if new.num_rows is not None else next(new.shards(), None) is None
    except NoRowsError:
        return None
    return None if is_empty else new


def _count_shards(record: InputRecord, config: RunConfig) -> int:
    size = config.dataset.shard_rows
    return sum(-(-(segment.rows or 0) // size) for segment in record.segments)
