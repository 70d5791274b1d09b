"""`input.json` of a folder of vectors: which rows of which input are in it, so that a run can go on when it has grown.

- Rows that were added together are a segment. A shard has rows of one segment, so no shard is written again when rows
  are added; and segments are in the order in which they were added, whatever their files are called.
- The run's identity has a hash of the segments (`InputRecord.fingerprint`), that of an input read in one go for a
  single one. A segment is recorded here first and in the identity then, so after a crash the identity is that of
  this record or of a beginning of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lengthwise.store.layout import INPUT
from lengthwise.store.protocol import Folder, read_record

_FORMAT = 1


@dataclass(frozen=True)
class Segment:
    """Rows that were added together.

    Attributes:
        fingerprint: of the input that they were read from.
        start: how many rows of the same input earlier segments have.
        rows: how many they are; None while a stream has not been read to its end.
        files: the version of each file of the input, by its name, in reading order; empty where it has no files, or
            they were not looked at.
    """

    fingerprint: str
    start: int
    rows: int | None
    files: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its files. Segments with the same ones continue each other."""
        return tuple(self.files)


@dataclass(frozen=True)
class InputRecord:
    """All rows of a folder.

    Attributes:
        reading: the settings that decide what the rows of a file are.
        segments: in the order of their rows.
    """

    reading: Mapping[str, Any]
    segments: tuple[Segment, ...] = ()

    @property
    def fingerprint(self) -> str:
        """What the identity has of the input; empty without segments."""
        if len(self.segments) < 2:
            return "".join(segment.fingerprint for segment in self.segments)
        lines = "".join(f"{segment.fingerprint} {segment.start}\n" for segment in self.segments)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def rows(self) -> int | None:
        """How many rows there are; None while that of a segment is not known."""
        known = [segment.rows for segment in self.segments if segment.rows is not None]
        return sum(known) if len(known) == len(self.segments) else None

    def first(self, count: int) -> InputRecord:
        """The record of the first segments."""
        return replace(self, segments=self.segments[:count])

    def with_segment(self, segment: Segment) -> InputRecord:
        """The record with one more segment."""
        return replace(self, segments=(*self.segments, segment))

    def with_rows(self, rows: int) -> InputRecord:
        """The record whose last segment has so many rows."""
        return replace(self, segments=(*self.segments[:-1], replace(self.segments[-1], rows=rows)))

    def to_json(self) -> bytes:
        """The contents of input.json."""
        head = json.dumps({"format": _FORMAT, "reading": dict(self.reading)}).removesuffix("}")
        lines = ",\n".join(json.dumps(dict(vars(segment))) for segment in self.segments)
        return f'{head}, "segments": [\n{lines}\n]}}\n'.encode()

    def summary(self) -> dict[str, Any]:
        """The manifest's entry; empty where there is one segment."""
        if len(self.segments) < 2:
            return {}
        return {"segments": [{"rows": each.rows, "files": len(each.files)} for each in self.segments]}


def shard_ranges(segment_rows: Sequence[int], shard_rows: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of each shard of segments of so many rows."""
    start = 0
    for rows in segment_rows:
        for before in range(0, rows, shard_rows):
            yield start + before, min(shard_rows, rows - before)
        start += rows


def read_input(folder: Folder) -> InputRecord | None:
    """The record of a folder; None where there is none, as before the end of a run that does not append.

    Raises:
        StoreError: it is damaged, or cannot be read.
    """
    return read_record(folder, INPUT, _parse, "start over with --fresh, or choose another encode.output")


def _parse(contents: bytes) -> InputRecord:
    value = json.loads(contents)
    if value["format"] != _FORMAT:
        raise ValueError("it was written by another version of lengthwise")
    segments = tuple(
        Segment(str(each["fingerprint"]), int(each["start"]), _rows(each["rows"]), dict(each["files"]))
        for each in value["segments"]
    )
    return InputRecord(dict(value["reading"]), segments)


def _rows(value: Any) -> int | None:
    return None if value is None else int(value)
