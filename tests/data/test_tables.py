"""Tables of rows: their size is limited by all cells that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lengthwise.config import DatasetSettings
from lengthwise.data import csv_files, json_files
from lengthwise.data.files import DataFile


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "nested.jsonl"])
def test_long_cells_of_any_kept_column_end_a_table(tmp_path: Path, name: str) -> None:
    long = "x" * 2**20
    file = DataFile(str(tmp_path / name))
    row = {"text": "a", "id": [{"b": long}] if name == "nested.jsonl" else long}
    contents = "text,id\n" + f"a,{long}\n" * 40 if name == "rows.csv" else f"{json.dumps(row)}\n" * 40
    Path(file.path).write_text(contents)
    settings = DatasetSettings(path=file.path, keep_columns=("id",))
    if name == "rows.csv":
        tables = csv_files.read_tables(file, csv_files.read_schema([file], settings), settings, keep_bad=False)
    else:
        schema = json_files.read_schema([file], settings, thorough=True)
        tables = json_files.read_tables(file, schema, settings, keep_bad=False)
    assert list(map(len, tables)) == [16, 16, 8]
