"""Rows of texts as parquet files, the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lengthwise.util.files import write_atomically


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows with one text per column; missing parent folders are made.

    Raises:
        StoreError: it cannot be written; the previous file is unchanged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(columns)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
