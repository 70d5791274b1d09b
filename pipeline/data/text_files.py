"""Text files: each line is a row of the column `text`, a blank one too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile
from lengthwise.data.lines import open_text
from lengthwise.data.tables import Malformed, make_tables

NO_ROWS = "there is no line in it"
_SCHEMA = pa.schema({"text": pa.string()})


def read_schema(files: Sequence[DataFile], settings: DatasetSettings) -> pa.Schema:
    """The one column that a text file has."""
    return _SCHEMA


def read_tables(file: DataFile, schema: pa.Schema, settings: DatasetSettings, *, keep_bad: bool) -> Iterator[pa.Table]:
    """The rows of a file."""

    def rows() -> Iterator[tuple[int, Sequence[Any] | Malformed]]:
        with open_text(file, settings, newline=None) as text:
            for number, line in enumerate(text, 1):
                yield number, [line.removesuffix("\n")]

    return make_tables(rows(), file, schema, settings, keep_bad=keep_bad)
