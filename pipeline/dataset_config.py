"""The settings of a dataset: where rows come from, and how their files are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from lengthwise.util.settings import PositiveInt, Settings

ColumnType = Literal["string", "int32", "int64", "float32", "float64", "bool", "date32", "timestamp[us]"]
NonEmpty = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[NonEmpty, ...], Field(strict=False)]
OUTPUT_COLUMNS = ("embedding", "num_tokens", "truncated")
BAD_ROW = "__bad_row__"  # the column of a dataset that says why a row is malformed; null for all others


class CsvSettings(Settings):
    """How CSV and tab-separated files are written."""

    renamed: ClassVar[Mapping[str, str]] = {
        "encoding": "dataset.encoding",
        "types": "dataset.types",
        "sep": "delimiter",
        "names": "column_names",
    }

    delimiter: str | None = Field(
        None, description="the character between cells; by a file's extension if null: a tab in .tsv, else a comma"
    )
    quoting: Literal["standard", "none"] | None = Field(
        None,
        description="standard: a cell in double quotes may hold delimiters and line breaks; none: quotes are text;"
        " null: standard, but a cell of several lines that may be rows is malformed",
    )
    escape: str | None = Field(
        None, description="a character before a quote or delimiter that is text, e.g. a backslash"
    )
    column_names: Names = Field((), description="the columns of files without a header")
    header: bool | None = Field(
        None, description="whether the first row holds the names; if null, unless column_names gives them"
    )

    @field_validator("delimiter", "escape")
    @classmethod
    def _is_one_character(cls, value: str | None) -> str | None:
        if value == "\\t":  # as YAML reads it in single quotes, or without any
            return "\t"
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(
                f"is {value!r}, not one character that is neither a quote nor a line break; a tab is written \\t"
            )
        return value

    @field_validator("escape")
    @classmethod
    def _escape_is_no_delimiter(cls, escape: str | None, info: ValidationInfo) -> str | None:
        if escape is not None and escape == (info.data.get("delimiter") or ","):
            raise ValueError(f"is {escape!r}, which is the delimiter too; set dataset.csv.delimiter to another one")
        return escape

    @field_validator("column_names")
    @classmethod
    def _names_are_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError(f"is {list(names)}, which names a column twice; give each a name of its own")
        return names

    @field_validator("header")
    @classmethod
    def _columns_have_names(cls, header: bool | None, info: ValidationInfo) -> bool | None:
        if header is False and not info.data.get("column_names", True):
            raise ValueError("is false, but the columns have no names; set dataset.csv.column_names too")
        return header


class DatasetSettings(Settings):
    """Where the rows come from."""

    path: str = Field(description="a hub name, a file, a glob, or a folder (of files, or made by save_to_disk)")
    name: str | None = Field(None, description="the hub dataset's configuration")
    revision: str | None = Field(None, description="the hub dataset's branch, tag or commit")
    split: str = Field("train", description="the split to read")
    format: Literal["parquet", "json", "csv", "text", "arrow"] | None = Field(
        None, description="the format of local files; by their extensions if null"
    )
    encoding: str | None = Field(
        None, description="the encoding of CSV, JSON and text files, such as cp1252 or utf-16; UTF-8 if null"
    )
    field: NonEmpty | None = Field(
        None, description="the field that holds the rows of a JSON file; a.b for the field b of the field a"
    )
    types: dict[NonEmpty, ColumnType] = Field(
        {}, description="types of columns; if not given, strings in CSV, and otherwise those of the file"
    )
    csv: CsvSettings = CsvSettings()
    text_column: str = Field("text", description="the column of texts")
    keep_columns: Names = Field((), description="columns copied beside the vectors")
    key: NonEmpty | None = Field(
        None,
        description="a kept column whose values are distinct; a run with encode.reuse then writes changes/, by which a"
        " database that holds the first of those folders is brought up to date",
        exclude_if=lambda value: value is None,
    )
    streaming: bool = Field(False, description="read without a local copy; the number of rows is then unknown")
    shard_rows: PositiveInt = Field(65_536, description="rows per shard, the unit of work and commit")

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str | None) -> str | None:
        try:
            "".encode("utf-8" if encoding is None else encoding)  # refuses codecs that are not of text, such as base64
        except LookupError:
            raise ValueError(f"is {encoding!r}, which is no encoding that Python knows; e.g. cp1252, utf-16") from None
        return encoding

    @field_validator("keep_columns")
    @classmethod
    def _kept_columns_are_distinct(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if BAD_ROW in columns:
            raise ValueError(f"holds {BAD_ROW!r}, a name that is used internally; rename the column in the input")
        reserved = sorted(set(columns) & set(OUTPUT_COLUMNS))
        if reserved:
            raise ValueError(f"holds {reserved}, which the output itself writes; rename them in the input")
        if len(set(columns)) != len(columns):
            raise ValueError(f"is {list(columns)}, which names a column twice; name each once")
        return columns

    @field_validator("key")
    @classmethod
    def _key_is_kept(cls, key: str | None, info: ValidationInfo) -> str | None:
        if key is not None and key not in info.data.get("keep_columns", (key,)):
            raise ValueError(f"is {key!r}, which is not in dataset.keep_columns; add it there")
        return key
