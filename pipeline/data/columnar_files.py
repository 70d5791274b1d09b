"""Parquet and Arrow files: only the needed columns are read; the types of the others do not matter.

- A column has the type that holds the values of all files; a file that lacks a kept column has nulls there.
- Types that `datasets` does not know are converted where that changes no value: views to strings and lists,
  dictionaries to their values, a map to a list of its entries.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lengthwise.config import DatasetSettings
from lengthwise.data.files import DataFile, file_format, open_data_file
from lengthwise.data.floats import to_floats, type_name
from lengthwise.data.readers import wrap_file_errors
from lengthwise.data.tables import column_types, with_bad_row
from lengthwise.errors import DatasetError

NO_ROWS = "there is no row in it"
_BATCH_ROWS = 8_192
log = logging.getLogger(__name__)


def read_schema(files: Sequence[DataFile], settings: DatasetSettings) -> pa.Schema:
    """The columns of all files; the needed ones in the types that hold the values of all files.

    The metadata are those of the first file, which may hold features of `datasets`.

    Raises:
        DatasetError: a needed column is ambiguous, or has types that do not fit each other.
    """
    needed = dict.fromkeys([settings.text_column, *settings.keep_columns])
    schemas = {file: _file_schema(file, settings) for file in files}
    first = next(iter(schemas.values()))
    names = dict.fromkeys(name for schema in schemas.values() for name in schema.names)
    declared = column_types(settings)
    fields = []
    for name in names:
        if name not in needed:
            fields.append(pa.field(name, pa.null()))  # its type does not matter
            continue
        having = [file for file, schema in schemas.items() if _has_column(file, name, schema, settings)]
        found = {file: schemas[file].field(name) for file in having}
        merged = pa.field(name, declared[name]) if name in declared else _merge(name, found, settings)
        fields.append(merged)
    return pa.schema(fields, first.metadata)


def read_tables(file: DataFile, schema: pa.Schema, settings: DatasetSettings, *, keep_bad: bool) -> Iterator[pa.Table]:
    """The rows of a file."""
    first_row = 0
    for table in _read_batches(file, schema.names, settings):
        columns = [_cast(table, field, file, first_row, settings) for field in schema]
        first_row += table.num_rows
        if keep_bad:
            columns.append(pa.nulls(table.num_rows, pa.string()))
        yield pa.table(columns, schema=with_bad_row(schema) if keep_bad else schema)


def _read_batches(file: DataFile, names: Sequence[str], settings: DatasetSettings) -> Iterator[pa.Table]:
    with open_data_file(file) as raw:
        if _format(file, settings) == "parquet":
            reader = pq.ParquetFile(raw)
            chosen = [name for name in names if name in reader.schema_arrow.names]
            for batch in reader.iter_batches(_BATCH_ROWS, columns=chosen):
                yield _select(pa.Table.from_batches([batch]), chosen)
            if not chosen:  # all columns are null
                yield pa.table({"": pa.nulls(reader.metadata.num_rows)})
            return
        for batch in _open_arrow(raw):
            yield _select(pa.Table.from_batches([batch]), [name for name in names if name in batch.schema.names])


def _select(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns of these names; parquet also gives those of nested fields "a.b"."""
    return table.select([table.column_names.index(name) for name in names])


def _open_arrow(raw: Any) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow file, in the stream or the file format."""
    try:
        yield from pa.ipc.open_stream(raw)
    except pa.ArrowInvalid:
        raw.seek(0)
        reader = pa.ipc.open_file(raw)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _file_schema(file: DataFile, settings: DatasetSettings) -> pa.Schema:
    with wrap_file_errors(file, settings), open_data_file(file) as raw:
        if _format(file, settings) == "parquet":
            return pq.read_schema(raw)
        try:
            return pa.ipc.open_stream(raw).schema
        except pa.ArrowInvalid:
            raw.seek(0)
            return pa.ipc.open_file(raw).schema


def _format(file: DataFile, settings: DatasetSettings) -> str | None:
    return settings.format or file_format(file.name)


def _has_column(file: DataFile, name: str, schema: pa.Schema, settings: DatasetSettings) -> bool:
    """Whether a file has a needed column, which another file has."""
    count = schema.names.count(name)
    if count > 1:
        raise DatasetError(
            f"{settings.path}: {file} has {count} columns {name!r}; rename one, or set dataset.text_column and"
            " dataset.keep_columns to others"
        )
    if not count:
        message = f"{settings.path}: {file} has no column {name!r}, as other files have"
        if name == settings.text_column:
            raise DatasetError(f"{message}; leave the file out, or rename its column")
        log.warning("%s; its rows have null there", message)
    return count == 1


def _merge(name: str, found: dict[DataFile, pa.Field], settings: DatasetSettings) -> pa.Field:
    """A column in the type that holds the values of all files."""
    merged: pa.Field | None = None
    for file, field in found.items():
        field = field.with_type(_plain_type(field.type)).remove_metadata()
        try:
            schemas = [pa.schema([each]) for each in (merged or field, field)]
            merged = pa.unify_schemas(schemas, promote_options="permissive").field(0)
        except pa.ArrowException as error:
            raise DatasetError(
                f"{settings.path}: the column {name!r} is {field.type} in {file}, but {merged and merged.type} in other"
                f" files; set dataset.types.{name} to the type that it should have, such as string"
            ) from error
    return merged if merged is not None else pa.field(name, pa.null())


def _plain_type(data_type: pa.DataType) -> pa.DataType:
    """The type that `datasets` knows, of the same values."""
    if pa.types.is_string_view(data_type):
        return pa.string()
    if pa.types.is_binary_view(data_type):
        return pa.binary()
    if pa.types.is_dictionary(data_type):
        return _plain_type(data_type.value_type)
    if pa.types.is_map(data_type):
        entry = {"key": _plain_type(data_type.key_type), "value": _plain_type(data_type.item_type)}
        return pa.list_(pa.struct(entry))
    if isinstance(data_type, pa.BaseExtensionType) and type(data_type).__module__.startswith("pyarrow"):
        return _plain_type(data_type.storage_type)
    if pa.types.is_list(data_type) or _is_list_view(data_type):
        return pa.list_(_plain_type(data_type.value_type))
    if pa.types.is_large_list(data_type):
        return pa.large_list(_plain_type(data_type.value_type))
    if pa.types.is_struct(data_type):
        return pa.struct([(field.name, _plain_type(field.type)) for field in data_type])
    return data_type


def _is_list_view(data_type: pa.DataType) -> bool:
    return pa.types.is_list_view(data_type) or pa.types.is_large_list_view(data_type)


def _cast(table: pa.Table, field: pa.Field, file: DataFile, first_row: int, settings: DatasetSettings) -> Any:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name]
    if field.name != settings.text_column:  # a text is checked when it is tokenized, as a row of its own
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DatasetError(
                f"{settings.path}: the column {field.name!r} of {file} is damaged in rows {first_row} to"
                f" {first_row + table.num_rows - 1} ({error}); repair it, or leave it out of dataset.keep_columns"
            ) from error
    if column.type == field.type:
        return column
    try:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.cast(column.type.storage_type)
        return _convert(column, field.type)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DatasetError(
            f"{settings.path}: the column {field.name!r} of {file} is {type_name(column.type)} in rows {first_row} to"
            f" {first_row + table.num_rows - 1}, but should be {type_name(field.type)} ({error}); set"
            f" dataset.types.{field.name} to a type that holds its values, such as string"
        ) from error


def _convert(column: pa.ChunkedArray, target: pa.DataType) -> Any:
    """A column in another type.

    Raises:
        ArrowException, TypeError, ValueError: that would change a value, other than rounding a decimal.
    """
    if pa.types.is_null(column.type):
        return column.cast(target)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if is_text and pa.types.is_floating(target):
        return to_floats(column.to_pylist(), target)
    if not is_text and target != pa.string() and pa.types.is_boolean(column.type) != pa.types.is_boolean(target):
        raise ValueError("neither a number nor a boolean is the other")
    converted = column.cast(target)
    if pa.types.is_floating(target) and pc.any(pc.and_(pc.is_inf(_wide(converted)), _is_finite(column))).as_py():
        raise ValueError("a value is too large for it")
    if pa.types.is_date(target) and not is_text and not converted.cast(column.type).equals(column):
        raise ValueError("a value has a time of day, which a date has not")
    return converted


def _wide(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.float64())


def _is_finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_finite(_wide(column)) if pa.types.is_floating(column.type) else pc.is_valid(column)
