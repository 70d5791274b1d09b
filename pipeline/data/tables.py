"""Rows of a text format, as Arrow tables of the needed columns; rows that are malformed are errors, or are marked.

A malformed row is an error that names file and line. If bad rows are kept (`encode.bad_rows`), it is a row of nulls
whose text is the line and whose column `BAD_ROW` says what is wrong with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile
from lengthwise.data.floats import UnfitNumberError, to_floats, type_name
from lengthwise.data.lines import find_undecodable, show_undecodable
from lengthwise.data.readers import describe_format
from lengthwise.dataset_config import BAD_ROW
from lengthwise.errors import DatasetError

_NOT_OF_THE_TYPE = (pa.ArrowException, UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError)
_TABLE_ROWS, _TABLE_CHARACTERS = 10_000, 16 * 2**20


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be read.

    Attributes:
        reason: what is wrong with it.
        text: the line or lines as they are in the file.
    """

    reason: str
    text: str


class JsonFloat(str):
    """A number of JSON with a fraction or an exponent, as it is written: the number itself is seldom needed."""

    __slots__ = ()


class _NegativeZero(int):
    """The integer that JSON writes as -0."""


NEGATIVE_ZERO = _NegativeZero(0)


def row_error(
    settings: DatasetSettings, file: DataFile, line: int, reason: str, *, is_header: bool = False
) -> DatasetError:
    """The error for a malformed row, or for a header, without which no row can be read."""
    remedy = "" if is_header else ", or set encode.bad_rows to quarantine, which sets such rows aside"
    return DatasetError(
        f"{settings.path}: the rows cannot be read ({file}, line {line}: {reason}){describe_format(file, settings)};"
        f" fix the line{remedy}"
    )


def make_tables(
    rows: Iterator[tuple[int, Sequence[Any] | Malformed]],
    file: DataFile,
    schema: pa.Schema,
    settings: DatasetSettings,
    *,
    keep_bad: bool,
) -> Iterator[pa.Table]:
    """The tables of a file's rows.

    Args:
        rows: each row's line, counted from 1, and its values in the order of `schema`.
        schema: the needed columns.
        keep_bad: whether a malformed row is marked, rather than an error.

    Raises:
        DatasetError: a row is malformed, and `keep_bad` is false.
    """
    block = _Block(file, schema, settings, keep_bad)
    for line, row in rows:
        block.add(line, row)
        if len(block.lines) >= _TABLE_ROWS or block.characters >= _TABLE_CHARACTERS:
            yield block.table()
            block = _Block(file, schema, settings, keep_bad)
    if block.lines:
        yield block.table()


class _Block:
    """Some rows of a file, by column."""

    def __init__(self, file: DataFile, schema: pa.Schema, settings: DatasetSettings, keep_bad: bool) -> None:
        self._file, self._schema, self._settings, self._keep_bad = file, schema, settings, keep_bad
        self._rows: list[Sequence[Any]] = []
        self._text = schema.get_field_index(settings.text_column)
        self._bad: dict[int, Malformed] = {}
        self.lines: list[int] = []
        self.characters = 0

    def add(self, line: int, row: Sequence[Any] | Malformed) -> None:
        """Add a row.

        Raises:
            DatasetError: it is malformed, and bad rows are not kept.
        """
        if isinstance(row, Malformed):
            self._set_bad(len(self.lines), line, row)
            row = [None] * len(self._schema)
        self.characters += sum(map(_count_characters, row))
        self.lines.append(line)
        self._rows.append(row)

    def table(self) -> pa.Table:
        """The rows, in the types of the schema."""
        columns = zip(*self._rows, strict=True)
        arrays = [self._to_array(field, values) for field, values in zip(self._schema, columns, strict=True)]
        if not self._keep_bad:
            return pa.table(arrays, schema=self._schema)
        if self._bad:
            columns = zip(*map(self._without_bad, range(len(self._rows))), strict=True)
            arrays = [self._to_array(field, values) for field, values in zip(self._schema, columns, strict=True)]
        reasons = [self._bad[row].reason if row in self._bad else None for row in range(len(self.lines))]
        return pa.table([*arrays, pa.array(reasons, pa.string())], schema=with_bad_row(self._schema))

    def _to_array(self, field: pa.Field, values: Sequence[Any]) -> pa.Array:
        """The values of a column; those that do not have its type are null, and their rows are bad."""
        try:
            return _convert(values, field.type)
        except _NOT_OF_THE_TYPE:
            converted = [self._convert_cell(field, row, value) for row, value in enumerate(values)]
            return pa.array(converted, field.type)

    def _convert_cell(self, field: pa.Field, row: int, value: Any) -> Any:
        try:
            return _convert([value], field.type)[0].as_py()
        except _NOT_OF_THE_TYPE as error:
            reason = self._explain(field, value, error)
            text = to_text(self._rows[row][self._text]) or ""
            self._set_bad(row, self.lines[row], Malformed(f"the column {field.name!r}: {reason}", text))
            return None

    def _explain(self, field: pa.Field, value: Any, error: Exception) -> str:
        """Why a value does not have the type of its column, and the remedy."""
        setting = f"dataset.types.{field.name}"
        if isinstance(value, str) and (undecodable := find_undecodable(value, self._settings)) is not None:
            return undecodable
        if isinstance(error, UnfitNumberError):
            return f"{error}; set {setting} to {' or '.join(error.types)}"
        if field.type == pa.string():
            return f"{_describe(value)} is not a string; set {setting} to string to read it as it is written"
        return f"{_describe(value)} is not of the type {type_name(field.type)}; {setting} sets the type"

    def _set_bad(self, row: int, line: int, malformed: Malformed) -> None:
        if not self._keep_bad:
            raise row_error(self._settings, self._file, line, malformed.reason)
        located = f"{self._file}, line {line}: {malformed.reason}"
        self._bad.setdefault(row, Malformed(located, show_undecodable(malformed.text)))

    def _without_bad(self, row: int) -> Sequence[Any]:
        """The values of a row; of a bad one, null except for the text."""
        if row not in self._bad:
            return self._rows[row]
        values: list[Any] = [None] * len(self._schema)
        values[self._text] = self._bad[row].text
        return values


def with_bad_row(schema: pa.Schema) -> pa.Schema:
    """The schema with the column `BAD_ROW`."""
    return schema.append(pa.field(BAD_ROW, pa.string()))


def to_text(value: Any) -> str | None:
    """A value as JSON writes it, numbers as they were written, and a string as it is."""
    if value is None or type(value) is str:
        return value
    written: list[str] = []
    waiting = [value]  # a tuple holds what is written already; recursion would fail at the depth that is just read
    while waiting:
        item = waiting.pop()
        if isinstance(item, tuple | JsonFloat):
            written.append(item[0] if isinstance(item, tuple) else item)
        elif item is NEGATIVE_ZERO:
            written.append("-0")
        elif isinstance(item, dict):
            keys = [(f"{json.dumps(name, ensure_ascii=False)}: ",) for name in item]
            waiting += _enclose("{}", [list(pair) for pair in zip(keys, item.values(), strict=True)])
        elif isinstance(item, list):
            waiting += _enclose("[]", [[each] for each in item])
        else:
            written.append(json.dumps(item, ensure_ascii=False))
    return "".join(written)


def _enclose(brackets: str, items: list[list[Any]]) -> list[Any]:
    """Brackets and the items between them, the last one first."""
    parts: list[Any] = [(brackets[0],)]
    for number, item in enumerate(items):
        parts += [(", ",), *item] if number else item
    return [(brackets[1],), *reversed(parts)]


def to_plain(value: Any) -> Any:
    """A value of JSON with numbers of Python.

    Raises:
        OverflowError: a number is too large for a float.
    """
    if isinstance(value, JsonFloat):
        number = float(value)
        if math.isinf(number):
            raise OverflowError(f"{value} is too large")
        return number
    if isinstance(value, dict):
        return {name: to_plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    return 0 if value is NEGATIVE_ZERO else value


def _count_characters(cell: Any) -> int:
    """The characters of the strings of a cell."""
    if isinstance(cell, str):
        return len(cell)
    if not isinstance(cell, dict | list):
        return 0
    found, waiting = 0, [cell]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found += len(item)
        elif isinstance(item, dict | list):
            waiting += item.values() if isinstance(item, dict) else item
    return found


def _convert(values: Sequence[Any], target: pa.DataType) -> pa.Array:
    """Values of Python as an Arrow array.

    Raises:
        ArrowException, ValueError, TypeError, OverflowError: one does not have the type.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if pa.types.is_floating(target):
        return to_floats(["-0" if value is NEGATIVE_ZERO else value for value in values], target)
    if kinds <= {str}:
        array = pa.array(values, pa.string())
        if pa.types.is_integer(target) and pc.any(pc.match_substring_regex(array, _HEXADECIMAL)).as_py():
            raise ValueError("hexadecimal")  # Arrow would read 0xffffffffffffffff as -1
        return array if target == array.type else array.cast(target)
    if target == pa.string():
        raise TypeError("not a string")
    if kinds & _PARSED_LATE:
        values = [to_plain(value) for value in values]
    if pa.types.is_nested(target) or kinds == {_NATURAL.get(target)}:
        return pa.array(values, target)
    scalars = []
    for value in values:
        scalar = pa.scalar(value, pa.float64()) if isinstance(value, float) else pa.scalar(value)
        if pa.types.is_boolean(scalar.type) != pa.types.is_boolean(target) and isinstance(value, bool | int | float):
            raise ValueError("neither a number nor a boolean is the other")
        scalars.append(scalar.cast(target).as_py())
    return pa.array(scalars, target)


_HEXADECIMAL = "^[+-]?0[xX]"
_PARSED_LATE = {JsonFloat, _NegativeZero, dict, list}
_NATURAL = {pa.int64(): int, pa.int32(): int, pa.bool_(): bool}


def column_types(settings: DatasetSettings) -> Mapping[str, pa.DataType]:
    """`dataset.types` as Arrow types."""
    return {name: pa.type_for_alias(alias) for name, alias in settings.types.items()}


def _describe(value: Any) -> str:
    text = to_text(value) or ""
    shown = repr(value) if type(value) is str else text
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
