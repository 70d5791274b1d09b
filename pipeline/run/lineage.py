"""What an input that grows has in common with what a folder holds of it.

An input is what some files hold that were first read together, its `Lineage`, or a dataset that is not made of files.
Whether its files are those that were read is seen by their contents. If they are not, all rows that were encoded are
read again: the texts have to have the recorded hashes, and kept columns their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pyarrow as pa

from lengthwise.config import RunConfig
from lengthwise.data.input import FoundFiles, Input
from lengthwise.data.source import Section, Shard, Source
from lengthwise.errors import DatasetError, NoRowsError, ShortInputError
from lengthwise.store.input_record import InputRecord, Segment
from lengthwise.store.parquet import wrap_arrow_errors
from lengthwise.store.previous import PreviousFolder
from lengthwise.store.text_hashes import hash_texts

_NAMED = 5  # files in a message


@dataclass(frozen=True)
class Lineage:
    """An input, and the segments of a folder that hold its rows.

    Attributes:
        names: of its files; none where it is not made of files.
        segments: in the order of their rows; none of an input that is new.
        sections: where their rows are in the input, and in the folder.
        versions: of its files, as they are now.
        is_changed: whether these are not those of the last segment.
        open: opens the input, as it is now.
    """

    names: tuple[str, ...]
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    versions: Mapping[str, str]
    is_changed: bool
    open: Callable[[], Source]

    @cached_property
    def source(self) -> Source:
        """The whole input, opened once."""
        return self.open()

    @property
    def is_available(self) -> bool:
        """Whether all of its files can be read now."""
        return len(self.versions) == len(self.names)

    @property
    def rows(self) -> int:
        """How many of its rows the folder has, once all segments have ended."""
        return sum(segment.rows or 0 for segment in self.segments)

    def describe(self) -> str:
        """Its files, for messages: those that have changed, where some have."""
        before = self.segments[-1].files if self.segments else {}
        changed = [name for name in self.names if before.get(name) != self.versions.get(name)]
        return name_some(changed or self.names)


def name_some(names: Sequence[str]) -> str:
    """Files, for messages."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def place_segments(record: InputRecord, shard_rows: int) -> list[Section]:
    """Where the rows of each segment are in their input and in the folder; no segment but the last may lack its end."""
    sections, row, index = [], 0, 0
    for segment in record.segments:
        sections.append(Section(segment.start, segment.rows, row, index))
        row += segment.rows or 0
        index += -(-(segment.rows or 0) // shard_rows)
    return sections


def find_lineages(
    found: Input, record: InputRecord, config: RunConfig, *, one_by_one: bool = False, is_partial: bool = False
) -> list[Lineage]:
    """The inputs of a folder, in the order in which they were first added, and those that are new.

    Args:
        found: the run's input, as it is now.
        record: what the folder has.
        one_by_one: whether each new file is an input, rather than all of them together.
        is_partial: whether files that are there and were left out of `found` are to be taken for unchanged.

    Raises:
        DatasetError: a file that the folder has rows of is gone, or empty.
    """
    placed = list(zip(record.segments, place_segments(record, config.dataset.shard_rows), strict=True))
    recorded = [name for segment in record.segments for name in segment.names]
    if found.files is None and recorded:
        raise DatasetError(
            f"{config.dataset.path}: does not name files that can be read one by one, and {config.encode.output} has"
            f" rows of {name_some(recorded)}; set dataset.path to those, or choose another encode.output"
        )
    if found.files is None or any(not segment.files for segment in record.segments):
        source = found.open_whole(None)
        is_changed = not placed or source.fingerprint != placed[-1][0].fingerprint
        return [Lineage((), *_columns(placed), {}, is_changed, lambda: source)]
    versions = found.files.versions()
    groups: dict[tuple[str, ...], list[tuple[Segment, Section]]] = {}
    for segment, section in placed:
        groups.setdefault(segment.names, []).append((segment, section))
    known = {name for names in groups for name in names}
    _check_present(known, found.files, versions if not is_partial else None, config)
    lineages = []
    for names, group in groups.items():
        current = {name: versions[name] for name in names if name in versions}
        lineage = Lineage(names, *_columns(group), current, False, partial(found.files.open, None, current))
        is_changed = lineage.is_available and current != dict(group[-1][0].files)
        lineages.append(replace(lineage, is_changed=is_changed))
    new = {name: version for name, version in versions.items() if name not in known}
    for chosen in [{name: version} for name, version in new.items()] if one_by_one else [new] if new else []:
        lineages.append(Lineage(tuple(chosen), (), (), chosen, True, partial(found.files.open, None, chosen)))
    return lineages


def check_rows(lineage: Lineage, store_folder: str, committed: PreviousFolder, config: RunConfig) -> None:
    """Compare the rows that were encoded with those that the input has now.

    Args:
        store_folder: the folder's name, for messages.
        committed: its shards; only those that are to be compared.

    Raises:
        DatasetError: they differ, a kept column has another type, or there is nothing to compare them by.
    """
    sections = list(lineage.sections)
    indices = [index for index in committed.records if any(_has(section, index, config) for section in sections)]
    if not all(committed.has_hashes(index) for index in indices):
        raise DatasetError(
            f"{config.dataset.path}: {lineage.describe() or 'the input'} has changed, and whether the rows that were"
            f" encoded are still the same cannot be seen: {store_folder} has neither hashes of its texts"
            " (encode.row_hashes) nor, as a kept column, the texts; encode the input into a new folder"
        )
    seen = set()
    with suppress(ShortInputError, NoRowsError):  # the first shard that is not seen then is the answer
        for shard in lineage.source.with_sections(sections).shards(set(indices).__contains__):
            seen.add(shard.index)
            if (row := _first_difference(shard, committed, lineage, config)) is not None:
                raise _changed(lineage, shard.first_row + row, store_folder, config)
    for index in sorted(set(indices) - seen):
        raise _changed(lineage, committed.records[index].first_row, store_folder, config)


def other_type(lineage: Lineage, name: str, now: object, before: object, config: RunConfig) -> DatasetError:
    """The error for a kept column whose type is not that of the rows that were encoded."""
    return DatasetError(
        f"{config.dataset.path}: the column {name!r} is {now} in rows that are new"
        f" ({lineage.describe() or 'of the input'}), and {before} in those that were encoded; change the new ones, set"
        f" dataset.types.{name}, or encode all of them into a new folder{_reuse(config.encode.output)}"
    )


def _columns(
    placed: Sequence[tuple[Segment, Section]],
) -> tuple[tuple[Segment, ...], tuple[Section, ...]]:
    return tuple(segment for segment, _ in placed), tuple(section for _, section in placed)


def _has(section: Section, index: int, config: RunConfig) -> bool:
    shards = None if section.rows is None else -(-section.rows // config.dataset.shard_rows)
    return index >= section.first_index and (shards is None or index < section.first_index + shards)


def _check_present(known: set[str], files: FoundFiles, versions: Mapping[str, str] | None, config: RunConfig) -> None:
    """Raise a DatasetError where a file is gone or empty; `versions` are those of all files that are read, if known."""
    there = {files.name(path) for path in files.present} if versions is None else versions.keys()
    empty = {files.name(path) for path in files.empty}
    for lost, now, remedy in (
        (known - there, "is not there any more", "put it back"),
        (known & empty, "is empty now", "put its rows back"),
    ):
        if lost:
            raise DatasetError(
                f"{config.dataset.path}: {name_some(sorted(lost))} was encoded into {config.encode.output}, and {now};"
                f" {remedy}, or encode what is there into a new folder{_reuse(config.encode.output)}"
            )


def _changed(lineage: Lineage, row: int, store_folder: str, config: RunConfig) -> DatasetError:
    files = f" ({lineage.describe()} has changed)" if lineage.names else ""
    return DatasetError(
        f"{config.dataset.path}: row {row} of {store_folder} is not that row of the input any more{files}; rows may"
        " only be added after those of the files that were encoded together: put the old ones back, or encode the"
        f" input into a new folder{_reuse(store_folder)}"
    )


def _reuse(folder: str) -> str:
    return f" with encode.reuse={folder}, which encodes only texts that are new"


def _first_difference(shard: Shard, committed: PreviousFolder, lineage: Lineage, config: RunConfig) -> int | None:
    """The first row of a shard that is not the one that was encoded, by its number in the shard; None if all are.

    Raises:
        DatasetError: a kept column has other values because it has another type, as one later row may cause.
    """
    record, names = committed.records[shard.index], list(config.dataset.keep_columns)
    if shard.table.num_rows != record.rows:
        return min(shard.table.num_rows, record.rows)
    differs = np.zeros(record.rows, np.bool_)
    if record.hashes is not None:
        differs |= (hash_texts(shard.texts) != committed.hashes(shard.index)).any(axis=1)
    if names:
        _, file = committed.shard(shard.index)
        with wrap_arrow_errors(record.file):
            stored = file.read(names)
        kept = shard.select(names)
        is_other = _differing(stored, kept)
        types = {name: (kept.schema.field(name).type, stored.schema.field(name).type) for name in names}
        for name, (now, before) in types.items() if is_other.any() else ():
            if now != before:
                raise other_type(lineage, name, now, before, config)
        differs |= is_other
    return int(np.flatnonzero(differs)[0]) if differs.any() else None


def _differing(stored: pa.Table, kept: pa.Table) -> np.ndarray:
    """bool[rows], which rows differ; a NaN is equal to itself."""
    if stored.equals(kept):
        return np.zeros(len(kept), np.bool_)
    pairs = zip(_rows(stored), _rows(kept), strict=True)
    return np.array([before != now for before, now in pairs], np.bool_)


def _rows(table: pa.Table) -> Iterator[str]:
    return (repr(row) for row in table.to_pylist())
