"""Rows of texts are written whole, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from lengthwise.cli.corpora.parquet_files import write_rows


def test_rows_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new/rows.parquet"
    write_rows(path, ("anchor", "positive"), [("a", "b"), ("ä", "")])
    first = path.read_bytes()
    assert pq.read_table(path).to_pylist() == [{"anchor": "a", "positive": "b"}, {"anchor": "ä", "positive": ""}]
    write_rows(path, ("anchor",), [])
    assert pq.read_table(path).to_pydict() == {"anchor": []}
    write_rows(path, ("anchor", "positive"), [("a", "b"), ("ä", "")])
    assert path.read_bytes() == first
    assert [each.name for each in path.parent.iterdir()] == ["rows.parquet"]
