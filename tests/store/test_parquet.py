"""Shards as parquet files: their schema and their bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.stores import commit, commit_table, counts, open_store, table
from lengthwise.store.parquet import vector_table


def test_statistics_exist_for_all_columns_but_the_embedding(tmp_path: Path) -> None:
    (record,) = commit(open_store(tmp_path / "vectors"), 0)
    group = pq.ParquetFile(tmp_path / "vectors" / record.file).metadata.row_group(0)
    columns = (group.column(number) for number in range(group.num_columns))
    has_statistics = {column.path_in_schema.split(".")[0]: column.is_stats_set for column in columns}
    assert has_statistics.pop("embedding") is False
    assert set(has_statistics) >= {"num_tokens", "truncated"}
    assert all(has_statistics.values())


def test_bytes_do_not_depend_on_the_chunks_of_the_table(tmp_path: Path) -> None:
    """Streams, caches and memory cut the same rows into different chunks."""
    rows = 20_000
    whole = table(rows=rows).append_column("text", pa.array([f"{row:0300d}" for row in range(rows)]))
    cut = pa.concat_tables([whole.slice(start, 777) for start in range(0, rows, 777)])
    assert cut["text"].num_chunks > 1
    first = commit_table(open_store(tmp_path / "a"), whole, counts(0))
    second = commit_table(open_store(tmp_path / "b"), cut, counts(0))
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_schema_on_disk(tmp_path: Path, dtype: str) -> None:
    vectors = np.arange(6, dtype=dtype).reshape(2, 3)
    built = vector_table(pa.table({"id": ["a", "b"]}), vectors, np.array([3, 0]), np.array([True, False]))
    record = commit_table(open_store(tmp_path), built, counts(0))
    found = pq.read_table(tmp_path / record.file)
    value = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    assert found.schema.names == ["id", "embedding", "num_tokens", "truncated"]
    assert found.schema.types == [pa.string(), pa.list_(value, 3), pa.int32(), pa.bool_()]
    assert found["embedding"].to_pylist() == vectors.tolist()
    assert found["num_tokens"].to_pylist() == [3, 0]
    assert found["truncated"].to_pylist() == [True, False]


def test_table_without_kept_columns(tmp_path: Path) -> None:
    kept = pa.table({"text": ["a", "b"]}).select([])
    built = vector_table(kept, np.ones((2, 3), np.float32), np.array([1, 1]), np.array([False, False]))
    record = commit_table(open_store(tmp_path), built, counts(0))
    found = pq.read_table(tmp_path / record.file)
    assert found.column_names == ["embedding", "num_tokens", "truncated"]
    assert record.rows == found.num_rows == 2


def test_vectors_that_are_a_view_keep_their_order() -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2).T
    built = vector_table(pa.table({"id": [0, 1]}), vectors, np.array([1, 1]), np.array([False, False]))
    assert built["embedding"].to_pylist() == vectors.tolist()
