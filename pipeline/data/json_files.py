"""JSON files: the types of columns follow from all their values, not from the first block of them.

- Strings, integers, numbers, booleans and nested values keep their type if a column has one of these only. A column
  that mixes them is of strings, with numbers as they are written; so is one whose numbers the type cannot hold, or
  whose values are nested deeper than any type should be.
- Types are found before the rows are read, in one more pass over the file, if columns are kept. Of remote files that
  are streamed, only the beginning is looked at: what does not fit later is an error that names `dataset.types`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile
from lengthwise.data.floats import INT64
from lengthwise.data.json_values import JsonObject, read_values
from lengthwise.data.readers import wrap_file_errors
from lengthwise.data.tables import (
    NEGATIVE_ZERO,
    JsonFloat,
    Malformed,
    column_types,
    make_tables,
    row_error,
    to_plain,
    to_text,
)
from lengthwise.errors import DatasetError

NO_ROWS = "there is no value in it"
_FIRST_ROWS = 1_000
_MAX_DEPTH = 32  # of nested types; Arrow refuses to write more than 63
_EXACT_IN_FLOAT = 2**53
_SINGLE_TYPES = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), JsonFloat: pa.float64(), float: pa.float64()}


def read_schema(files: Sequence[DataFile], settings: DatasetSettings, *, thorough: bool) -> pa.Schema:
    """The columns of the first rows, and all needed ones that are found: their declared types, or what they hold.

    Args:
        thorough: look at all values of the columns that are kept, rather than at those of the first rows.
    """
    declared = column_types(settings)
    columns = {name: _Column() for name in [settings.text_column, *settings.keep_columns, *declared]}
    others: dict[str, Any] = {}
    kept = set(settings.keep_columns) - set(declared) - {settings.text_column}
    for number, row in enumerate(_read_objects(files, settings)):
        for name, column in columns.items():
            if name in row:
                column.add(row[name])
        if number < _FIRST_ROWS:
            others |= {name: row[name] for name in row if name not in columns and name not in others}
        elif all(column.is_known for column in columns.values()) and not (thorough and kept):
            break
    found = {name: column.find_type() for name, column in columns.items() if column.is_present}
    for name, value in others.items():
        found[name] = _infer([value]) or pa.string()
    return pa.schema([(name, declared.get(name, data_type)) for name, data_type in found.items()])


def read_tables(file: DataFile, schema: pa.Schema, settings: DatasetSettings, *, keep_bad: bool) -> Iterator[pa.Table]:
    """The rows of a file."""
    return make_tables(read_rows(file, schema, settings), file, schema, settings, keep_bad=keep_bad)


def read_rows(
    file: DataFile, schema: pa.Schema, settings: DatasetSettings
) -> Iterator[tuple[int, Sequence[Any] | Malformed]]:
    """Each row's line and its values of the columns."""
    declared = column_types(settings)
    as_text = {
        field.name
        for field in schema
        if field.type == pa.string() and (field.name != settings.text_column or field.name in declared)
    }
    names = schema.names
    for line, value in read_values(file, settings):
        row = _as_row(value)
        if not isinstance(row, Malformed) and (twice := _find_repeated(row, names)) is not None:
            row = Malformed(f"the field {twice} is written twice in one object", to_text(row) or "")
        if isinstance(row, Malformed):
            yield line, row
        else:
            yield line, [to_text(row.get(name)) if name in as_text else row.get(name) for name in names]


def missing_column_hint(values: pa.Schema, settings: DatasetSettings) -> str:
    """What may be the reason that a column is missing, for its error."""
    nested = [field.name for field in values if pa.types.is_struct(getattr(field.type, "value_type", field.type))]
    if not nested:
        return "; rows that are strings have the column 'text'" if values.names == ["text"] else ""
    return f"; if the rows are in a field, set dataset.field to it, such as {nested[0]!r}"


def _find_repeated(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """A field that is written twice, among the columns or in one of their values; None if there is none."""
    if isinstance(row, JsonObject) and (twice := row.repeated & set(names)):
        return repr(min(twice))
    for name in names:
        if not isinstance(row.get(name), dict | list):
            continue
        waiting = [row[name]]
        while waiting:
            item = waiting.pop()
            if isinstance(item, JsonObject):
                return f"{min(item.repeated)!r} of the column {name!r}"
            if isinstance(item, dict | list):
                waiting += item.values() if isinstance(item, dict) else item
    return None


class _Column:
    """What the values of a column have in common."""

    def __init__(self) -> None:
        self.is_present = False
        self._types: set[type] = set()
        self._low = self._high = 0
        self._fits = True
        self._nested: list[Any] = []
        self._nested_type: pa.DataType | None = pa.null()

    @property
    def is_known(self) -> bool:
        """Whether it has a value that is not null."""
        return bool(self._types)

    def add(self, value: Any) -> None:
        """Take in a value."""
        self.is_present = True
        if value is None:
            return
        kind = dict if isinstance(value, dict) else int if value is NEGATIVE_ZERO else type(value)
        self._types.add(kind)
        if kind is int:
            self._low, self._high = min(self._low, value), max(self._high, value)
        elif kind is JsonFloat:
            self._fits &= abs(float(value)) != float("inf")
        elif kind in (dict, list):
            self._nested.append(value)
            if len(self._nested) == _FIRST_ROWS:
                self._merge_nested()

    def find_type(self) -> pa.DataType:
        """The type that holds all values as they are; string if there is no other."""
        self._merge_nested()
        types = self._types
        if types & {dict, list}:
            return self._nested_type if len(types) == 1 and self._nested_type is not None else pa.string()
        if not self._fits or not (INT64[0] <= self._low and self._high <= INT64[1]):
            return pa.string()
        if len(types) == 1:
            return _SINGLE_TYPES[next(iter(types))]
        if types and types <= {int, float, JsonFloat} and max(-self._low, self._high) <= _EXACT_IN_FLOAT:
            return pa.float64()
        return pa.string()

    def _merge_nested(self) -> None:
        if self._nested and self._nested_type is not None:
            self._nested_type = _merge(self._nested_type, _infer(self._nested))
        self._nested = []


def _merge(first: pa.DataType, second: pa.DataType | None) -> pa.DataType | None:
    if second is None:
        return None
    schemas = [pa.schema({"values": each}) for each in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("values").type
    except pa.ArrowException:
        return None


def _infer(values: list[Any]) -> Any:
    """The type of nested values; None if there is none that holds them all."""
    try:
        found = pa.array([to_plain(value) for value in values]).type
        return found if _depth(found) <= _MAX_DEPTH else None
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, RecursionError):
        return None


def _depth(data_type: pa.DataType) -> int:
    """How many lists and structs a type has around its innermost values."""
    if not pa.types.is_nested(data_type):
        return 0
    return 1 + max((_depth(data_type.field(index).type) for index in range(data_type.num_fields)), default=0)


def _read_objects(files: Sequence[DataFile], settings: DatasetSettings) -> Iterator[Mapping[str, Any]]:
    """The rows that are not malformed; a file that is, from some point on, is left to `read_tables`."""
    found, first_error = False, None
    for file in files:
        try:
            with wrap_file_errors(file, settings):
                for line, value in read_values(file, settings):
                    row = _as_row(value)
                    if not isinstance(row, Malformed):
                        found = True
                        yield row
                    elif first_error is None:
                        first_error = row_error(settings, file, line, row.reason)
        except DatasetError as error:
            first_error = first_error or error
            break
    if not found and first_error is not None:
        raise first_error


def _as_row(value: Any) -> Mapping[str, Any] | Malformed:
    """A value as a row: null has no fields, and a string is a text."""
    if isinstance(value, dict | Malformed):
        return value
    if value is None:
        return {}
    if type(value) is str:
        return {"text": value}
    shown = (to_text(value) or "")[:1_000]
    return Malformed(f'{shown[:60]} is not an object, such as {{"text": "..."}}', shown)
