"""What is known of a shard, as a line in a folder's log; and which shards a part of a divided run encodes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from lengthwise.errors import StoreError

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Part:
    """One of `count` processes that divide a run's shards: those whose number leaves the remainder `index`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise StoreError(f"part {self.index} of {self.count}: parts are numbered from 0 to {self.count - 1}")

    def __str__(self) -> str:
        return f"{self.index:05d}-of-{self.count:05d}"

    def owns(self, shard: int) -> bool:
        """Whether a shard is this part's to encode."""
        return shard % self.count == self.index


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a committed shard; counts are of rows unless they say tokens.

    `bad` counts the rows that could not be encoded, those without a text (`null`) among them. `quarantine` is the
    sha256 of the file that they were set aside in. `max_deviation` and `min_cosine` tell how far vectors of a precision
    below float32 are from those in float32, measured on some rows of the shard; they are null for a run in float32.
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
        set_aside = {} if self.quarantine is None else {quarantine_file(self.index): self.quarantine}
        return {self.file: self.sha256, **set_aside}


def quarantine_file(index: int) -> str:
    """Where the rows of a shard are set aside."""
    return f"{QUARANTINE}/shard-{index:06d}.jsonl"


def record_line(record: ShardRecord) -> bytes:
    """A record as a line of JSON."""
    return json.dumps(asdict(record)).encode() + b"\n"


def records_of(lines: bytes) -> dict[int, ShardRecord]:
    """Records by shard, the last one of each; a line that was cut off by a crash is left out."""
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
