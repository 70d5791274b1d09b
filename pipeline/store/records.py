"""What is known of a shard, as a line in a folder's log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from lengthwise.store.layout import hashes_file, quarantine_file


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
        hashes: sha256 (hex) of its file of text hashes; None where it has none.
        texts: the hash of all its texts, see `text_hashes.digest_texts`; None where they are not hashed.
        reused: how many rows have their vector from another folder, by the start of that folder's identity.
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
    hashes: str | None = None
    texts: str | None = None
    reused: tuple[tuple[str, int], ...] = ()

    @property
    def checksums(self) -> dict[str, str]:
        """sha256 of each of its files, by name."""
        quarantine = {} if self.quarantine is None else {quarantine_file(self.index): self.quarantine}
        hashes = {} if self.hashes is None else {hashes_file(self.index): self.hashes}
        return {self.file: self.sha256, **quarantine, **hashes}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; fields that older versions do not have are left out at their defaults."""
        values = dict(vars(self))
        for name, default in _OPTIONAL.items():
            if values[name] == default:
                del values[name]
        return values

    @classmethod
    def from_json(cls, values: Any) -> ShardRecord | None:
        """Read `to_json`'s values, those of older versions too; None for anything else."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not names - _OPTIONAL.keys() <= values.keys() <= names:
            return None
        try:
            reused = tuple((str(folder), int(rows)) for folder, rows in values.get("reused", ()))
        except (TypeError, ValueError):
            return None
        return cls(**{**values, "reused": reused}) if isinstance(values["index"], int) else None


_RETIRED = "retired_at"
_OPTIONAL = {field.name: field.default for field in fields(ShardRecord) if field.default is not MISSING}


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


def count_reused(records: Iterable[ShardRecord]) -> dict[str, int]:
    """How many rows have their vector from each other folder, by the start of its identity."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(dict(record.reused))
    return dict(counts)


@dataclass(frozen=True)
class ReuseSources:
    """Where a run may take vectors from: `reuse.json`, by which the end of a divided run knows it too.

    Attributes:
        folders: the start of each folder's identity, by the folder's path or URL.
        not_reused: why nothing of a folder or cache is reused, by its path or URL.
    """

    folders: Mapping[str, str] = field(default_factory=dict)
    not_reused: Mapping[str, str] = field(default_factory=dict)

    def with_earlier(self, earlier: ReuseSources, records: Iterable[ShardRecord]) -> ReuseSources:
        """These, and the folders named earlier that rows of these shards have their vector from."""
        used = count_reused(records)
        more = {name: key for name, key in earlier.folders.items() if key in used and name not in self.folders}
        return ReuseSources({**self.folders, **more}, self.not_reused)

    def to_json(self) -> bytes:
        """The contents of the file; empty where there is nothing to say."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n" if self.folders or self.not_reused else b""

    @classmethod
    def from_json(cls, contents: bytes | None) -> ReuseSources:
        """Read `to_json`'s contents; nothing of anything else."""
        try:
            values = json.loads(contents or b"{}")
            return cls(*({str(k): str(v) for k, v in values.get(f.name, {}).items()} for f in fields(cls)))
        except (ValueError, AttributeError, RecursionError):
            return cls()


def reuse_summary(records: Iterable[ShardRecord], sources: ReuseSources) -> dict[str, Any]:
    """The manifest's entry of what was reused from where, and why not more; empty where nothing was asked for."""
    counts = count_reused(records)
    if not counts and sources == ReuseSources():
        return {}
    return {"reused": {"rows": sum(counts.values()), "from": counts, **asdict(sources)}}


def describe_reuse(manifest: Mapping[str, Any]) -> list[str]:
    """What a manifest says of reused vectors, a sentence per folder."""
    found = manifest.get("reused", {"from": {}, "folders": {}, "not_reused": {}})
    names = {key: name for name, key in found["folders"].items()}
    return [
        *(f"{rows:,} rows have their vector from {names.get(key, key)}" for key, rows in found["from"].items()),
        *(f"nothing of {name}: {reason}" for name, reason in found["not_reused"].items()),
    ]


def log_lines(records: Iterable[ShardRecord]) -> bytes:
    """Records as lines of JSON."""
    return b"".join(json.dumps(record.to_json()).encode() + b"\n" for record in records)


def parse_log(lines: bytes) -> dict[int, ShardRecord]:
    """Records by shard, the last one of each; a line that a crash cut off is left out."""
    records = {}
    for values in _parse_lines(lines):
        record = ShardRecord.from_json(values)
        if record is not None:
            records[record.index] = record
        elif _is_retired(values):
            records.pop(values["index"], None)
    return records


def retired_lines(times: Mapping[int, float]) -> bytes:
    """Lines which say when records, by index, became invalid, in seconds since 1970: those of a cache's segments."""
    return b"".join(json.dumps({"index": index, _RETIRED: time}).encode() + b"\n" for index, time in times.items())


def parse_retired(lines: bytes) -> dict[int, float]:
    """When records became invalid, by index."""
    return {values["index"]: float(values[_RETIRED]) for values in _parse_lines(lines) if _is_retired(values)}


def _is_retired(values: Any) -> bool:
    return isinstance(values, dict) and values.keys() == {"index", _RETIRED} and isinstance(values["index"], int)


def _parse_lines(lines: bytes) -> Iterator[Any]:
    for line in lines.splitlines():
        with suppress(ValueError, RecursionError):
            yield json.loads(line)
