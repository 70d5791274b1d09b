"""Writes dataset files in every format, and reads their rows."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from lengthwise.config import DatasetSettings
from lengthwise.data.dataset import Source, open_dataset
from lengthwise.util.settings import parse_settings

Row = dict[str, Any]

ROWS: list[Row] = [
    {"text": "the cat sat", "id": 3},
    {"text": "a dog, \"barked\" at\u2028the 'moon'", "id": 1},
    {"text": "007", "id": 2},
    {"text": "näive 😀", "id": 5},
    {"text": "last", "id": 4},
]
ROW_TEXTS = [row["text"] for row in ROWS]


def rows_as_read(path: Path | str) -> list[Row]:
    """`ROWS` as the file's format has them: the cells of CSV are strings."""
    is_csv = re.search(r"\.[ct]sv(\.\w+)?$", str(path))
    return [{**row, "id": str(row["id"])} for row in ROWS] if is_csv else ROWS


def open_source(path: Path | str, *, keep_malformed: bool = False, **changes: Any) -> Source:
    settings = parse_settings(DatasetSettings, {"path": str(path), **changes}, "test")
    return open_dataset(settings, keep_malformed=keep_malformed)


def read_rows(source: Source) -> list[Row]:
    return [row for shard in source.shards() for row in shard.table.to_pylist()]


def read_texts(path: Path | str, **changes: Any) -> list[str | None]:
    return [row["text"] for row in read_rows(open_source(path, **changes))]


def read_malformed(path: Path | str, **changes: Any) -> tuple[list[Row], dict[int, str]]:
    """All rows, and what is wrong with the malformed ones."""
    shards = list(open_source(path, keep_malformed=True, **changes).shards())
    rows = [row for shard in shards for row in shard.table.to_pylist()]
    malformed = {shard.first_row + row: reason for shard in shards for row, reason in shard.malformed.items()}
    return rows, malformed


def to_json_lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def to_csv(rows: Sequence[Row], delimiter: str) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.csv.WriteOptions(delimiter=delimiter)
    pa.csv.write_csv(pa.Table.from_pylist(list(rows)), sink, options)
    return sink.getvalue().to_pybytes()


def write(path: Path, rows: Sequence[Row] = ROWS) -> Path:
    """Write rows in the format of the file's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    extension = path.name.lower().removesuffix(".gz").removesuffix(".bz2").rpartition(".")[2]
    if extension == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    if extension == "arrow":
        table = pa.Table.from_pylist(list(rows))
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        return path
    contents = {
        "json": lambda: json.dumps(rows, indent=1).encode(),
        "jsonl": lambda: to_json_lines(rows),
        "ndjson": lambda: to_json_lines(rows),
        "csv": lambda: to_csv(rows, ","),
        "tsv": lambda: to_csv(rows, "\t"),
        "txt": lambda: "".join(f"{row['text']}\n" for row in rows).encode(),
    }[extension]()
    compress = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix.lower(), bytes)
    path.write_bytes(compress(contents))
    return path


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a new folder for each example of a property test."""
    return lambda: tmp_path_factory.mktemp("example")
