"""What is known of a shard, as a line in a folder's log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from lengthwise.store.layout import quarantine_file


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a committed shard.

    Attributes:
        index: the shard's number, from 0.
        first_row: the dataset's row number of its first row.
        rows, tokens: how many it has.
        empty: rows of no tokens.
        null: rows without a text, or whose text is not Unicode.
        bad: rows that could not be encoded, those of `null` among them.
        truncated: rows that were cut to the maximum length.
        max_deviation, min_cosine: how far vectors of a precision below float32 are from float32, measured on some rows;
            None in float32.
        file, sha256: its parquet file, and the file's sha256 (hex).
        quarantine: sha256 (hex) of its file in the quarantine; None where it has none.
    """

    index: int
    first_row: int
    rows: int
    tokens: int
    empty: int
    null: int
    bad: int
    truncated: int
    max_deviation: float | None
    min_cosine: float | None
    file: str
    sha256: str
    quarantine: str | None

    @property
    def checksums(self) -> dict[str, str]:
        """sha256 of each of its files, by name."""
        quarantine = {} if self.quarantine is None else {quarantine_file(self.index): self.quarantine}
        return {self.file: self.sha256, **quarantine}


@dataclass(frozen=True)
class Totals:
    """Sums over shards of the fields of `ShardRecord` that have these names."""

    rows: int = 0
    tokens: int = 0
    empty: int = 0
    null: int = 0
    bad: int = 0
    truncated: int = 0

    @classmethod
    def of(cls, records: Iterable[ShardRecord]) -> Totals:
        """The sums over these records."""
        records = list(records)
        return cls(**{field.name: sum(getattr(record, field.name) for record in records) for field in fields(cls)})


def log_lines(records: Iterable[ShardRecord]) -> bytes:
    """Records as lines of JSON."""
    return b"".join(json.dumps(asdict(record)).encode() + b"\n" for record in records)


def parse_log(lines: bytes) -> dict[int, ShardRecord]:
    """Records by shard, the last one of each; a line that a crash cut off is left out."""
    records = {}
    names = {field.name for field in fields(ShardRecord)}
    for line in lines.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and values.keys() == names and isinstance(values["index"], int):
            records[values["index"]] = ShardRecord(**values)
    return records
