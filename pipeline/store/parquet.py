"""A shard as a parquet file.

Vectors are stored plain with zstd: a dictionary would make a column of distinct floats larger
(github.com/apache/arrow/issues/49715).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lengthwise.errors import StoreError
from lengthwise.store.fingerprint import identity_hash, read_identity
from lengthwise.store.layout import hashes_file, quarantine_file, shard_file
from lengthwise.store.protocol import Folder, wrap_os_errors
from lengthwise.store.records import ShardRecord
from lengthwise.util.files import hashed_file

ROW_GROUP_ROWS = 8_192
RESUMABLE = "the shards before it are safe, and the same command resumes from there"


@dataclass(frozen=True, eq=False)
class ShardContents:
    """The contents of a shard's file, their sha256 (hex), and the number of its rows."""

    contents: bytes
    sha256: str
    num_rows: int


def vector_table(
    kept: pa.Table,
    vectors: NDArray[np.floating] | None,
    num_tokens: NDArray[np.int64],
    truncated: NDArray[np.bool_],
    is_null: NDArray[np.bool_] | None = None,
    labels: Mapping[str, NDArray[np.float32] | pa.Array] = MappingProxyType({}),
) -> pa.Table:
    """A shard's table: the kept columns, then embedding fixed_size_list[dim], labels, num_tokens int32, truncated bool.

    Args:
        kept: the dataset's columns to keep.
        vectors: float32 or float16[rows, dim]; None if they are not stored.
        num_tokens: int64[rows].
        truncated: bool[rows].
        is_null: bool[rows], the rows whose embedding and labels are null.
        labels: further columns by name, [rows, labels] or an array of Arrow.
    """
    mask = None if is_null is None else pa.array(is_null)
    table = kept
    for name, values in {**({} if vectors is None else {"embedding": vectors}), **labels}.items():
        if isinstance(values, pa.Array):
            column = values if mask is None else pc.if_else(mask, pa.scalar(None, values.type), values)
        else:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)
        table = table.append_column(name, column)
    table = table.append_column("num_tokens", pa.array(num_tokens.astype(np.int32)))
    return table.append_column("truncated", pa.array(truncated))


def write_shard(
    folder: Folder,
    identity: str,
    table: pa.Table | ShardContents,
    counts: Mapping[str, Any],
    quarantine: bytes | None = None,
    hashes: bytes | None = None,
) -> ShardRecord:
    """Write a shard's table, in full or not at all, for a store to record.

    Args:
        identity: the hash that the folder must still have: another run may have started it over.
        table: the rows, in the dataset's order; or the contents of a file that has them.
        counts: the record's fields beside `rows`, `file`, `sha256`, `quarantine` and `hashes`.
        quarantine: the lines of the shard's file in the quarantine, if it has one.
        hashes: the contents of its file of text hashes, if it has one.

    Raises:
        StoreError: it cannot be written, or the folder is another run's by now.
    """
    index = counts["index"]
    file, aside = shard_file(index), quarantine_file(index)
    with wrap_os_errors(f"{folder.location(file)}: the shard cannot be written", RESUMABLE), folder.draft(file) as part:
        if isinstance(table, ShardContents):
            part.write_bytes(table.contents)
            sha256 = table.sha256
        else:
            with hashed_file(part) as parquet:
                _write_table(table, parquet)
            sha256 = parquet.sha256
        found = read_identity(folder)  # as late as possible: the rename that follows takes moments
        if found is None or identity_hash(found) != identity:
            raise StoreError(f"{folder}: another run has started it over; this run has ended")
        if quarantine is None:
            folder.remove(aside)
        else:
            folder.write(aside, quarantine)
        if hashes is not None:
            folder.write(hashes_file(index), hashes)
    return ShardRecord(
        **counts,
        rows=table.num_rows,
        file=file,
        sha256=sha256,
        quarantine=None if quarantine is None else hashlib.sha256(quarantine).hexdigest(),
        hashes=None if hashes is None else hashlib.sha256(hashes).hexdigest(),
    )


def is_written_alike(shard: pq.ParquetFile, schema: pa.Schema) -> bool:
    """Whether `write_shard` would write a table of this schema into a file like this one."""
    metadata, found = shard.metadata, shard.schema_arrow
    return bool(
        found.equals(schema)
        and found.metadata == schema.metadata
        and metadata.created_by == f"parquet-cpp-arrow version {pa.cpp_version}"
        and metadata.num_row_groups == -(-metadata.num_rows // ROW_GROUP_ROWS)
    )


def read_schema(folder: Folder, name: str) -> pa.Schema:
    """The columns of a shard's file.

    Raises:
        StoreError: it is not a parquet file.
    """
    with wrap_arrow_errors(folder.location(name)), folder.open(name) as file:
        return pq.read_schema(file)


@contextmanager
def wrap_arrow_errors(location: str) -> Iterator[None]:
    """Turn an error of pyarrow into a StoreError that names the shard's file."""
    try:
        yield
    except pa.ArrowException as error:
        raise StoreError(
            f"{location}: cannot be read ({error}); remove it, and run the command that encodes again"
        ) from error


def _write_table(table: pa.Table, file: Any) -> None:
    plain = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
    pq.write_table(
        table.combine_chunks(),  # pages end where chunks end, and chunks differ between a stream and a file
        file,
        compression="zstd",
        use_dictionary=plain,
        write_statistics=plain,  # nothing needs a vector column's smallest value, which takes long to find
        row_group_size=ROW_GROUP_ROWS,
    )
