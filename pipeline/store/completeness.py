"""Checks that a folder has every row of the input, in shards of the same columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from lengthwise.errors import StoreError
from lengthwise.store.input_record import shard_ranges
from lengthwise.store.parquet import read_schema
from lengthwise.store.protocol import Folder
from lengthwise.store.records import ShardRecord
from lengthwise.store.recovery import PARALLEL_FILES
from lengthwise.util.threads import parallel_map

_MAX_RANGES = 10  # in a message


def complete_records(
    folder: Folder, records: Mapping[int, ShardRecord], segment_rows: Sequence[int], shard_rows: int
) -> list[ShardRecord]:
    """The records of all shards, in order.

    Args:
        records: the committed shards', by index.
        segment_rows: how many rows each segment of the input has (`store.input_record`).
        shard_rows: how many each shard has, but for the last one of a segment.

    Raises:
        StoreError: shards are missing, or have other rows than the input has there.
    """
    names = set(folder.list_files())
    ranges = list(shard_ranges(segment_rows, shard_rows))
    shards = range(len(ranges))
    missing = [index for index in shards if index not in records or not names.issuperset(records[index].checksums)]
    if missing:
        raise StoreError(
            f"{folder}: {len(missing)} of {len(shards)} shards are missing (numbers {_describe_ranges(missing)});"
            " run the command that encodes them again"
        )
    complete = [records[index] for index in shards]
    for record, (first_row, expected) in zip(complete, ranges, strict=True):
        if (record.first_row, record.rows) != (first_row, expected):
            raise StoreError(
                f"{folder.location(record.file)}: has the rows {record.first_row} to"
                f" {record.first_row + record.rows - 1}, but the input has {expected} rows from"
                f" {first_row} there; encode again with --fresh"
            )
    return complete


def check_same_columns(folder: Folder, records: list[ShardRecord]) -> None:
    """Raise a StoreError where a shard has other columns than the first one."""
    schemas = parallel_map(lambda record: read_schema(folder, record.file), records, PARALLEL_FILES)
    first = None
    for record, schema in zip(records, schemas, strict=True):
        first = first or schema
        if not schema.equals(first, check_metadata=True):
            raise StoreError(
                f"{folder.location(record.file)}: its columns are {_describe_columns(schema)}, those of the first shard"
                f" {_describe_columns(first)}; encode again with --fresh"
            )


def _describe_columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _describe_ranges(numbers: list[int]) -> str:
    """Sorted numbers as ranges: "0-3, 7"."""
    among = set(numbers)
    starts = [number for number in numbers if number - 1 not in among]
    ends = [number for number in numbers if number + 1 not in among]
    shown = [f"{start}-{end}" if end > start else f"{start}" for start, end in zip(starts, ends, strict=True)]
    return ", ".join(shown[:_MAX_RANGES]) + (", ..." if len(shown) > _MAX_RANGES else "")
