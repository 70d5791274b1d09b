"""Text files: each line is a row of the column `text`, a blank one too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile
from lengthwise.data.lines import find_zero_bytes, open_text
from lengthwise.data.tables import Malformed, make_tables

NO_ROWS = "there is no line in it"
_SCHEMA = pa.schema({"text": pa.string()})


def read_schema(files: Sequence[DataFile], settings: DatasetSettings) -> pa.Schema:
    """The one column that a text file has."""
    return _SCHEMA


def read_tables(file: DataFile, schema: pa.Schema, settings: DatasetSettings, *, keep_bad: bool) -> Iterator[pa.Table]:
    """The rows of a file."""
    return make_tables(read_rows(file, schema, settings), file, schema, settings, keep_bad=keep_bad)


def read_rows(
    file: DataFile, schema: pa.Schema, settings: DatasetSettings
) -> Iterator[tuple[int, Sequence[Any] | Malformed]]:
    """Each line's number and text."""
    with open_text(file, settings, newline=None) as text:
        for number, line in enumerate(text, 1):
            zeros = find_zero_bytes(line)
            yield number, [line.removesuffix("\n")] if zeros is None else Malformed(zeros, line.removesuffix("\n"))
