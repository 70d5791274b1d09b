"""An opened dataset, cut into shards: contiguous row ranges, in the dataset's order.

- Only the needed columns are read, as Arrow tables, which is an order of magnitude faster than rows of Python objects
  (github.com/huggingface/datasets/issues/5821).
- A stream is read table by table, and each table is cast to the types of the first one (`compat.iter_arrow_tables`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lengthwise.config import DatasetSettings
from lengthwise.data.readers import describe_error, known_cause, missing_column_error, no_rows_error
from lengthwise.data.tables import BAD_ROW
from lengthwise.errors import ColumnError, DatasetError, LengthwiseError
from lengthwise.util.compat import iter_arrow_tables

if TYPE_CHECKING:
    import datasets

_BATCH_ROWS = 1_000
_MAX_LOCATED = 1_000_000  # rows, which take seconds to read again


@dataclass(frozen=True)
class Shard:
    """A contiguous range of a dataset's rows.

    Attributes:
        index: its number, from 0.
        first_row: the dataset's row number of its first row.
        table: the text column and the kept columns of its rows.
        malformed: what is wrong with rows that could not be read, by their number in the table; their text is the line
            of the file, and their other columns are null.
    """

    index: int
    first_row: int
    table: pa.Table
    malformed: Mapping[int, str] = field(default_factory=dict)

    @property
    def texts(self) -> pa.ChunkedArray:
        """The first column: the texts, null in malformed rows."""
        texts = self.table.column(0)
        if not self.malformed:
            return texts
        mask = pa.array([row in self.malformed for row in range(len(texts))])
        return pc.if_else(mask, pa.scalar(None, texts.type), texts)

    def select(self, names: Sequence[str]) -> pa.Table:
        """Some columns, null in malformed rows; the text is null too where it is not UTF-8, which no reader takes."""
        text_column = self.table.column_names[0]
        texts = _without_invalid(self.texts) if text_column in names else self.texts
        return self.table.set_column(0, text_column, texts).select(list(names))


class Source:
    """An opened dataset.

    Attributes:
        settings: what it was opened with.
        num_rows: the number of rows; None for a stream that has not been read to its end.
        fingerprint: a hash of the rows' origin; equal for equal inputs.
        features: the types of the text column and the kept columns.
    """

    def __init__(
        self,
        data: datasets.Dataset | datasets.IterableDataset,
        fingerprint: str,
        settings: DatasetSettings,
        no_rows: str = "",
        locate: Callable[[Sequence[int]], dict[int, str]] | None = None,
    ) -> None:
        import datasets

        self._locate = locate
        self.settings, self._no_rows = settings, no_rows  # what there is if there are no rows, for the error
        self.fingerprint = fingerprint
        self._is_stream = not isinstance(data, datasets.Dataset)
        self.num_rows = None if self._is_stream else len(data)
        if self.num_rows == 0:
            raise no_rows_error(settings, no_rows)
        self.features = _select_features(data.features or _infer_features(data, settings), settings)
        marks = [BAD_ROW] if BAD_ROW in (data.features or {}) else []
        data = data if self._is_stream else data.select_columns([*self.features, *marks])
        self._data = data.with_format("arrow")
        self._cursor: Iterator[Shard] | None = None
        self._next_index = 0  # the shard that the cursor gives next

    @property
    def num_shards(self) -> int | None:
        """The number of shards; None for a stream that has not been read to its end."""
        return None if self.num_rows is None else -(-self.num_rows // self.settings.shard_rows)

    def shards(self, selected: Callable[[int], bool] | None = None) -> Iterator[Shard]:
        """The shards, in order.

        Args:
            selected: called once per shard with its index; returns whether to read it. None selects all. The rows of
                other shards are skipped; those of a stream are read and dropped.

        Raises:
            DatasetError: the input ends early or cannot be read.
        """
        if not self._is_stream:
            for index in range(self.num_shards or 0):
                if selected is None or selected(index):
                    yield self._slice(index)
            return
        num_rows = 0
        for shard in self._stream():
            num_rows += shard.table.num_rows
            if selected is None or selected(shard.index):
                yield shard
        if not num_rows:
            raise no_rows_error(self.settings, self._no_rows)
        self.num_rows = num_rows

    def read(self, index: int) -> Shard:
        """One shard, by its index; a stream is read up to it.

        Raises:
            IndexError: there is no such shard.
            DatasetError: the input ends early or cannot be read.
        """
        if not self._is_stream:
            if not 0 <= index < (self.num_shards or 0):
                raise IndexError(index)
            return self._slice(index)
        if self._cursor is None or self._next_index > index:
            self._cursor, self._next_index = self._stream(), 0
        cursor, self._cursor = self._cursor, None  # kept only if it neither fails nor ends
        for shard in cursor:
            self._next_index = shard.index + 1
            if shard.index == index:
                self._cursor = cursor
                return shard
        raise IndexError(index)

    def count_rows(self) -> int:
        """The number of rows; a stream is read to its end for it, once."""
        if self.num_rows is None:
            for _ in self.shards(lambda index: False):
                pass
        return self.num_rows or 0

    def locate(self, rows: Sequence[int]) -> dict[int, str]:
        """The file and line of some rows, where rows come from lines of files; the files are read again for it."""
        if self._locate is None or max(rows, default=0) > _MAX_LOCATED:
            return {}
        try:
            return self._locate(rows)
        except (LengthwiseError, OSError):  # the rows have an error already, which this would only replace
            return {}

    def texts(self) -> Iterator[str]:
        """The texts, in order, without those that are null, not UTF-8, or of malformed rows."""
        for shard in self.shards():
            for encoded in shard.texts.cast(pa.large_binary()).to_pylist():
                text = _decode(encoded)
                if text is not None:
                    yield text

    def _slice(self, index: int) -> Shard:
        first_row = index * self.settings.shard_rows
        with self._wrap_errors():
            table = self._data[first_row : first_row + self.settings.shard_rows]
        return _make_shard(index, first_row, self._cast(table, first_row))

    def _stream(self) -> Iterator[Shard]:
        first_row, index = 0, 0
        tables: list[pa.Table] = []
        size = self.settings.shard_rows
        with self._wrap_errors():
            for table in iter_arrow_tables(self._data, min(size, _BATCH_ROWS)):
                tables.append(self._cast(table, first_row + sum(map(len, tables))))
                while (num_rows := sum(map(len, tables))) >= size:
                    joined = pa.concat_tables(tables)
                    yield _make_shard(index, first_row, joined.slice(0, size))
                    index, first_row = index + 1, first_row + size
                    tables = [joined.slice(size)] if num_rows > size else []
            if tables:
                yield _make_shard(index, first_row, pa.concat_tables(tables))

    def _cast(self, table: pa.Table, first_row: int) -> pa.Table:
        """`_cast_table`, whose error names the dataset and its rows; with the column `BAD_ROW`, if there is one."""
        try:
            found = _cast_table(table, self.features)
            return found.append_column(BAD_ROW, table[BAD_ROW]) if BAD_ROW in table.column_names else found
        except _CastError as error:
            raise DatasetError(
                f"{self.settings.path}: the column {error.column!r} is {error.found} in rows {first_row} to"
                f" {first_row + table.num_rows - 1}, but {error.expected} before ({describe_error(error)}); set"
                f" dataset.types.{error.column} to the type of all rows, such as string, or fix the input"
            ) from error

    @contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        try:
            yield
        except LengthwiseError:
            raise
        except Exception as error:  # readers raise exceptions of any type
            if (known := known_cause(error)) is not None:
                raise known from error
            raise DatasetError(f"{self.settings.path}: the rows cannot be read ({describe_error(error)})") from error


def _make_shard(index: int, first_row: int, table: pa.Table) -> Shard:
    """A shard of a table that may have the column `BAD_ROW`."""
    if BAD_ROW not in table.column_names:
        return Shard(index, first_row, table)
    reasons = enumerate(table[BAD_ROW].to_pylist()) if table[BAD_ROW].null_count < len(table) else ()
    malformed = {row: reason for row, reason in reasons if reason is not None}
    return Shard(index, first_row, table.drop_columns([BAD_ROW]), malformed)


class _CastError(Exception):
    """A column does not have the type of the earlier rows, nor can it be cast to it; the cause says why."""

    def __init__(self, column: str, found: pa.DataType, expected: pa.DataType) -> None:
        super().__init__(column)
        self.column, self.found, self.expected = column, found, expected


def _cast_table(table: pa.Table, features: datasets.Features) -> pa.Table:
    """The columns of `features` with their types; a missing column is null.

    Raises:
        _CastError: a column cannot be cast.
    """
    schema = features.arrow_schema
    if table.schema.equals(schema):
        return table
    from datasets.table import cast_array_to_feature

    columns = []
    for expected in schema:
        if expected.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, expected.type))
            continue
        column = table[expected.name]
        try:
            columns.append(cast_array_to_feature(column, features[expected.name]))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise _CastError(expected.name, column.type, expected.type) from error
    return pa.table(columns, schema=schema)


def _without_invalid(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """The texts, null where they are not UTF-8."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        found = (_decode(encoded) for encoded in texts.cast(pa.large_binary()).to_pylist())
        return pa.chunked_array([pa.array(found, texts.type)])
    return texts


def _select_features(features: datasets.Features, settings: DatasetSettings) -> datasets.Features:
    """The types of the text column and the kept columns.

    Raises:
        DatasetError: a column is missing, or the text column does not hold strings.
    """
    import datasets

    columns = list(dict.fromkeys([settings.text_column, *settings.keep_columns]))
    missing = [name for name in columns if name not in features]
    if missing:
        raise missing_column_error(missing, [name for name in features if name != BAD_ROW], settings)
    features = datasets.Features(
        {**features, **{name: datasets.Value(alias) for name, alias in settings.types.items() if name in features}}
    )
    feature = features[settings.text_column]
    if not isinstance(feature, datasets.Value) or feature.dtype not in ("string", "large_string"):
        raise ColumnError(
            f"{settings.path}: the column {settings.text_column!r} is {feature}, not text",
            [settings.text_column],
            f"set dataset.text_column to a column of strings, or dataset.types.{settings.text_column} to string",
        )
    return datasets.Features({name: features[name] for name in columns})


def _infer_features(data: datasets.IterableDataset, settings: DatasetSettings) -> datasets.Features:
    """The types of the first rows of a stream that does not declare them."""
    import datasets

    try:
        table = next(iter(data.with_format("arrow").iter(batch_size=_BATCH_ROWS)), None)
    except Exception as error:  # readers raise exceptions of any type
        raise DatasetError(f"{settings.path}: the rows cannot be read ({describe_error(error)})") from error
    if table is None or not table.num_rows:
        raise no_rows_error(settings)
    return datasets.Features.from_arrow_schema(table.schema)


def _decode(encoded: bytes | None) -> str | None:
    """A text, or None if it is null or not UTF-8."""
    try:
        return None if encoded is None else encoded.decode()
    except UnicodeDecodeError:
        return None
