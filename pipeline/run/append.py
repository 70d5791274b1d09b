"""`encode.append`: goes on where a folder ends when its input has gained rows.

- Rows that are new become new shards. Those that were there stay byte for byte, which readers and copies of the folder
  can rely on; the last one may therefore be smaller than the others.
- Rows of files that were not there before come after all others, whatever the files' names: rows have the order in
  which they were added.
- Rows that were begun, and of which no shard was committed, are planned anew by the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.config import RunConfig
from lengthwise.data.input import Input, base_folder
from lengthwise.data.readers import no_rows_error, reading_record
from lengthwise.data.source import Section, Source
from lengthwise.encoder.engine import Engine
from lengthwise.errors import ConfigError, NoRowsError, StoreError
from lengthwise.run.finalize import drop_damaged, finalize, open_finished
from lengthwise.run.identity import input_identity, model_identity
from lengthwise.run.labels import check_columns
from lengthwise.run.lineage import Lineage, check_rows, find_lineages, other_type, place_segments
from lengthwise.run.local import encode_pending, make_report, open_store
from lengthwise.run.precision import PrecisionChoice
from lengthwise.run.progress import progress_bar
from lengthwise.run.reuse import Reuse
from lengthwise.run.reuse_folders import open_reuse
from lengthwise.run.shard import ShardEncoder
from lengthwise.run.stats import EncodeReport, ShardStats
from lengthwise.store.fingerprint import describe_changes
from lengthwise.store.input_record import InputRecord, Segment
from lengthwise.store.parquet import read_schema
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.protocol import wrap_os_errors
from lengthwise.store.records import ShardRecord
from lengthwise.store.vectors import VectorStore
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.util.system import cpu_count
from lengthwise.util.threads import parallel_map

_NO_RECORD = object()


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


def encode_append(
    config: RunConfig,
    found: Input,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> EncodeReport:
    """Encode the rows of an input that the folder `encode.output` does not have, into shards of their own.

    Args and errors are those of `lengthwise.run.local.encode_dataset`.

    Raises:
        DatasetError: rows that were encoded are gone or have changed.
    """
    started = time.perf_counter()
    with open_append(config, tokenizer, engine, fresh=fresh, show_progress=show_progress, choice=choice) as run:
        for _ in run.update(found):
            pass
        if not run.record.segments:
            raise no_rows_error(config.dataset)
        run.finish()
        return run.report(time.perf_counter() - started, choice)


@contextmanager
def open_append(
    config: RunConfig,
    tokenizer: TextTokenizer,
    engine: Engine,
    *,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> Iterator[AppendRun]:
    """The folder `encode.output`, locked for this run until the end of the block.

    Raises:
        StoreError: it is of another run, another process writes to it, or it cannot be written.
        ConfigError: the folder lies in that of the input, or the run has a key.
    """
    check_columns(config, engine.classifier)
    _check_is_elsewhere(config)
    if config.dataset.key is not None and config.encode.reuse:
        raise ConfigError(
            f"dataset.key is {config.dataset.key!r}, but a run with encode.append writes no changes/: its new shards"
            " are what has been added; leave it out"
        )
    identity = {**input_identity(config, ""), **model_identity(config, tokenizer, engine)}
    with (
        open_reuse(config, identity, batch_invariant=engine.batch_invariant) as reuse,
        open_store(config, identity, fresh=fresh, choice=choice, sources=reuse.sources, grows=True) as store,
    ):
        yield AppendRun(config, tokenizer, engine, store, reuse, show_progress=show_progress)


def finalize_appended(config: RunConfig, found: Input, *, verify: bool = True) -> dict[str, Any]:
    """`finalize_folder` for a run with `encode.append`.

    Raises:
        DatasetError: a file that the folder has rows of is gone, or its rows have changed.
        StoreError: as `finalize_folder`, or the input has rows that the folder has not.
    """
    with open_finished(config) as store:
        if verify:
            drop_damaged(store)
        record = store.input or InputRecord({})
        lineages = find_lineages(found, record, config) if record.rows else []
        for lineage in (lineage for lineage in lineages if lineage.is_changed):
            if lineage.segments:
                committed = PreviousFolder(store.folder, dict(store.identity), store.records)
                check_rows(lineage, config.encode.output, committed, config)
            if _find_new(lineage, record, config) is not None:
                raise StoreError(
                    f"{store.folder}: the input has more rows ({lineage.describe() or 'not of files'}); run the command"
                    " that encodes again"
                )
        if not lineages:
            raise StoreError(f"{store.folder}: its run has not ended; run the command that encodes again")
        return finalize(store, config, record)


class AppendRun:
    """A folder of vectors whose input grows, opened for adding rows.

    Attributes:
        stats: of the shards that were encoded.
        is_checked: whether no shard is missing of the rows that were begun.
    """

    def __init__(
        self,
        config: RunConfig,
        tokenizer: TextTokenizer,
        engine: Engine,
        store: VectorStore,
        reuse: Reuse,
        *,
        show_progress: bool = True,
    ) -> None:
        self._config, self._tokenizer, self._engine = config, tokenizer, engine
        self._store, self._reuse, self._show_progress = store, reuse, show_progress
        self._intact: dict[int, ShardRecord] = {}  # shards whose sha256 was compared
        self._ended: dict[tuple[str, ...], Mapping[str, str]] = {}  # versions that have no more rows
        self.is_checked = False
        self.stats = ShardStats()

    @property
    def record(self) -> InputRecord:
        """What the folder has."""
        return self._store.input or InputRecord(reading_record(self._config.dataset))

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

    def report(self, seconds: float, choice: PrecisionChoice | None = None) -> EncodeReport:
        """What was done, in so many seconds."""
        notes = self._reuse.describe(self.stats.reused)
        return make_report(self._store, self.stats, seconds, choice=choice, reuse=notes)

    def finish(self) -> dict[str, Any]:
        """Write the card and the manifest of what the folder has now; returns the manifest."""
        return finalize(self._store, self._config, self.record)

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
        if changes := describe_changes(record.reading, reading):
            raise StoreError(
                f"{store.folder}: its rows were read in another way ({changes}); use the settings of dataset as they"
                " were, or choose another encode.output"
            )
        if all(record.first(count).fingerprint != store.identity["input"] for count in range(len(record.segments) + 1)):
            raise StoreError(
                f"{store.folder}: input.json is not that of identity.json; start over with --fresh, or choose another"
                " encode.output"
            )
        sections = place_segments(record, self._config.dataset.shard_rows)
        if sections and not any(index >= sections[-1].first_index for index in store.records):
            record = record.first(len(record.segments) - 1)
        if record != store.input or record.fingerprint != store.identity["input"]:
            store.set_input(record)

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
        indices = [index for index, *_ in section.shard_ranges(self._config.dataset.shard_rows)]
        new = [index for index in indices if self._intact.get(index) != self._store.records.get(index, _NO_RECORD)]
        for index, record in zip(new, parallel_map(self._store.committed, new, cpu_count()), strict=True):
            if record is not None:
                self._intact[index] = record
            else:
                self._intact.pop(index, None)
        return {index: self._intact[index] for index in indices if index in self._intact}

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
            intact, size = self._verify(section), self._config.dataset.shard_rows
            missing = {index for index, *_ in section.shard_ranges(size) if index not in intact}
            if missing and not lineage.is_available:
                return False
            if missing:
                self._encode(lineage.source.with_sections([section]), missing.__contains__)
        return True

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
        store = self._store
        encoder = ShardEncoder(
            self._config, source, self._tokenizer, self._engine, store.folder, store.identity_hash, self._reuse
        )
        with progress_bar(source, None, self._show_progress) as bar:
            self.stats += encode_pending(source, encoder, store, is_pending, bar)

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


def _check_is_elsewhere(config: RunConfig) -> None:
    """Refuse an output in the input's folder, whose shards would be new files of the input."""
    source, output = config.dataset.path, config.encode.output
    if "**" in source:  # which matches folders at any depth
        source = base_folder(source, is_folder=False, is_glob=True)
    if "://" in source or "://" in output:
        is_inside = output.rstrip("/").startswith(f"{source.rstrip('/')}/")
    else:
        folder = Path(source).expanduser()
        is_inside = folder.is_dir() and Path(output).expanduser().resolve().is_relative_to(folder.resolve())
    if is_inside:
        raise ConfigError(
            f"encode.output is {output!r}, in the folder {source!r} that is read, where its shards would be new files;"
            " choose another encode.output"
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
