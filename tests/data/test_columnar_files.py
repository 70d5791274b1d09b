"""Parquet and Arrow files: only needed columns are read, with any others beside them, and files are joined by name."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.dataset_files import open_source, read_rows, read_texts
from lengthwise.errors import DatasetError

STREAMING = pytest.mark.parametrize("streaming", [False, True])
FORMATS = pytest.mark.parametrize("name", ["rows.parquet", "stream.arrow", "file.arrow"])
MAP = pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64()))


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return path
    open_writer = pa.ipc.new_file if path.name.startswith("file") else pa.ipc.new_stream
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)
    return path


@STREAMING
@FORMATS
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    ],
)
def test_every_kind_of_string_is_text(
    tmp_path: Path, name: str, column: pa.Array, expected: list[Any], streaming: bool
) -> None:
    path = write(tmp_path / name, pa.table({"text": column, "id": column}))
    rows = read_rows(open_source(path, keep_columns=("id",), streaming=streaming))
    assert rows == [{"text": value, "id": value} for value in expected]


UNNEEDED = {
    "map": {"x": MAP},
    "names": {"x": ["a", "b"], "y": MAP, "": [1, 2]},
    "nested": {"text.id": [{"id": 1}, {"id": 2}]},
    "views": {"x": pa.array([[1], [2]], pa.list_view(pa.int64())), "y": pa.array([b"a", b"b"], pa.binary_view())},
    "json": {"x": pa.array(["{}", "[]"], pa.json_())},
    "null": {"x": pa.nulls(2)},
    "half": {"x": pa.array([1.5, 2.5], pa.float16())},
}


@STREAMING
@FORMATS
@pytest.mark.parametrize("kind", UNNEEDED)
def test_unneeded_columns_do_not_matter(tmp_path: Path, name: str, kind: str, streaming: bool) -> None:
    if name.endswith("parquet") and kind == "views":
        pytest.skip("pyarrow does not write list views to parquet")
    path = write(tmp_path / name, pa.table({**UNNEEDED[kind], "text": ["a", "b"], "id": [1, 2]}))
    rows = read_rows(open_source(path, keep_columns=("id",), streaming=streaming))
    assert rows == [{"text": "a", "id": 1}, {"text": "b", "id": 2}]


@STREAMING
@FORMATS
def test_repeated_names(tmp_path: Path, name: str, streaming: bool) -> None:
    columns = [pa.array(values) for values in (["a"], [1], [2], [3])]
    path = write(tmp_path / name, pa.table(columns, names=["text", "x", "x", "id"]))
    assert read_rows(open_source(path, keep_columns=("id",), streaming=streaming)) == [{"text": "a", "id": 3}]
    with pytest.raises(DatasetError, match=rf"{name} has 2 columns 'x'; rename one"):
        open_source(path, keep_columns=("x",), streaming=streaming)


def test_damaged_column_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", pa.table({"text": ["a"], "id": [1], "x": ["never" * 10]}))
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(2)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    assert read_rows(open_source(path, keep_columns=("id",))) == [{"text": "a", "id": 1}]
    with pytest.raises(DatasetError, match="the rows cannot be read"):
        open_source(path, keep_columns=("x",))


@STREAMING
@FORMATS
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (MAP, [[{"key": "k", "value": 1}], []]),
        (pa.array([b"x", b"y"], pa.binary_view()), [b"x", b"y"]),
        (pa.array(['{"a": 1}', "[]"], pa.json_()), ['{"a": 1}', "[]"]),
        (pa.array([["x"], []], pa.list_(pa.string_view())), [["x"], []]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
    ],
)
def test_kept_columns_of_types_that_datasets_does_not_know(
    tmp_path: Path, name: str, column: pa.Array, expected: list[Any], streaming: bool
) -> None:
    path = write(tmp_path / name, pa.table({"text": ["a", "b"], "id": column}))
    rows = read_rows(open_source(path, keep_columns=("id",), streaming=streaming))
    assert [row["id"] for row in rows] == expected


@STREAMING
def test_column_with_a_dot_is_not_a_nested_field(tmp_path: Path, streaming: bool) -> None:
    path = write(tmp_path / "rows.parquet", pa.table({"a": [{"b": 7}], "text": ["t"], "a.b": [5], "c d/é": [1]}))
    kept = ("a.b", "c d/é", "a")
    rows = read_rows(open_source(path, keep_columns=kept, streaming=streaming))
    assert rows == [{"text": "t", "a.b": 5, "c d/é": 1, "a": {"b": 7}}]


@STREAMING
def test_files_are_joined_by_the_names_of_their_columns(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "a.parquet", pa.table({"text": ["a"], "id": [1], "x": [1], "n": pa.nulls(1)}))
    other = pa.table(
        {"id": pa.array([2], pa.int32()), "x": ["q"], "n": ["n"], "text": pa.array(["b"], pa.large_string())}
    )
    write(tmp_path / "b.parquet", other)
    write(tmp_path / "c.parquet", pa.table({"y": [[1]], "text": ["c"]}))
    rows = read_rows(open_source(tmp_path / "*.parquet", keep_columns=("id", "n"), streaming=streaming))
    assert [tuple(row.values()) for row in rows] == [("a", 1, None), ("b", 2, "n"), ("c", None, None)]


@STREAMING
def test_files_whose_types_do_not_fit(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "a.parquet", pa.table({"text": ["a"], "id": [1]}))
    write(tmp_path / "b.parquet", pa.table({"text": ["b"], "id": ["x"]}))
    kept = {"keep_columns": ("id",), "streaming": streaming}
    with pytest.raises(DatasetError, match=r"column 'id' is string in b\.parquet, but int64 in .* dataset\.types\.id"):
        open_source(tmp_path / "*.parquet", **kept)
    rows = read_rows(open_source(tmp_path / "*.parquet", types={"id": "string"}, **kept))
    assert [row["id"] for row in rows] == ["1", "x"]
    write(tmp_path / "b.parquet", pa.table({"txt": ["b"], "id": [2]}))
    with pytest.raises(DatasetError, match=r"b\.parquet has no column 'text', as other files have"):
        open_source(tmp_path / "*.parquet", **kept)


def test_number_column_can_be_read_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", pa.table({"text": [7, 8]}))
    with pytest.raises(DatasetError, match=r"int64.*not text; .* dataset\.types\.text to string"):
        open_source(path)
    assert read_texts(path, types={"text": "string"}) == ["7", "8"]


@pytest.mark.parametrize("streaming", [False, True])
def test_kept_column_that_is_no_unicode_is_refused(tmp_path: Path, streaming: bool) -> None:
    offsets, data = pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    damaged = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    pq.write_table(pa.table({"text": ["moon"], "id": damaged}), tmp_path / "rows.parquet")
    message = "the column 'id' of rows.parquet is damaged in rows 0 to 0 .*; repair it, or leave it out"
    with pytest.raises(DatasetError, match=message):
        read_rows(open_source(tmp_path / "rows.parquet", keep_columns=["id"], streaming=streaming))
    assert read_texts(tmp_path / "rows.parquet", streaming=streaming) == ["moon"]


@STREAMING
@pytest.mark.parametrize(
    ("values", "data_type", "problem"),
    [
        ([5, None], "bool", "neither a number nor a boolean is the other"),
        ([True], "int64", "neither a number nor a boolean is the other"),
        ([1e300], "float32", "a value is too large for it"),
        ([16777217], "float32", "16777217 not in range"),
        (["16777217"], "float32", "would become 16777216"),
        ([1.5], "int64", "truncated"),
        ([datetime(2020, 1, 1, 5)], "date32", "a value has a time of day"),
    ],
)
def test_declared_type_changes_no_value(
    tmp_path: Path, values: list[Any], data_type: str, problem: str, streaming: bool
) -> None:
    path = write(tmp_path / "rows.parquet", pa.table({"text": ["a"] * len(values), "id": values}))
    with pytest.raises(DatasetError, match=rf"should be {data_type} \(.*{problem}.*set dataset\.types\.id"):
        read_rows(open_source(path, keep_columns=("id",), types={"id": data_type}, streaming=streaming))


@pytest.mark.parametrize(
    ("values", "data_type", "expected"),
    [
        ([0.1, None, float("inf")], "float32", [np.float32(0.1), None, float("inf")]),
        ([1, None], "float64", [1.0, None]),
        ([None, None], "bool", [None, None]),
        (["true", None], "bool", [True, None]),
        ([datetime(2020, 1, 1), None], "date32", [date(2020, 1, 1), None]),
        ([1.5, None], "string", ["1.5", None]),
    ],
)
def test_declared_type(tmp_path: Path, values: list[Any], data_type: str, expected: list[Any]) -> None:
    path = write(tmp_path / "rows.parquet", pa.table({"text": ["a"] * len(values), "id": values}))
    rows = read_rows(open_source(path, keep_columns=("id",), types={"id": data_type}))
    assert [row["id"] for row in rows] == expected
