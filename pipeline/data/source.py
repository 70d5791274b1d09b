"""An opened dataset, cut into shards: contiguous row ranges, in the dataset's order.

- Only the needed columns are read, as Arrow tables, which is an order of magnitude faster than rows of Python objects
  (github.com/huggingface/datasets/issues/5821).
- A stream is read table by table, and each table is cast to the types of the first one (`compat.iter_arrow_tables`).
- A dataset that grows is cut into sections, one for the rows of each time: a shard has rows of one section, so that
  those of earlier sections stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lengthwise.config import DatasetSettings
from lengthwise.data.readers import describe_error, known_cause, missing_column_error, no_rows_error
from lengthwise.data.tables import BAD_ROW
from lengthwise.errors import ColumnError, DatasetError, LengthwiseError, ShortInputError
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


@dataclass(frozen=True)
class Section:
    """A range of a dataset's rows whose shards are numbered by themselves.

    Attributes:
        start: its first row in the data that is read.
        rows: how many it has; None for all that follow.
        first_row: what its first row is numbered.
        first_index: what its first shard is numbered.
    """

    start: int = 0
    rows: int | None = None
    first_row: int = 0
    first_index: int = 0

    def shard_ranges(self, shard_rows: int) -> Iterator[tuple[int, int, int, int]]:
        """(index, first row, start, stop) of each shard; of a section without an end they do not end either."""
        shards = count() if self.rows is None else range(-(-self.rows // shard_rows))
        for number in shards:
            before = number * shard_rows
            rows = shard_rows if self.rows is None else min(shard_rows, self.rows - before)
            yield self.first_index + number, self.first_row + before, self.start + before, self.start + before + rows


class Source:
    """An opened dataset.

    Attributes:
        settings: what it was opened with.
        num_rows: the number of rows of its sections; None for a stream that has not been read to its end.
        data_rows: the number of rows of the data that they are sections of; None for a stream.
        sections: which of its rows are read, and how these are numbered.
        fingerprint: a hash of the rows' origin; equal for equal inputs.
        features: the types of the text column and the kept columns.
        versions: of each file, a string that changes with its contents, by its name, in reading order; empty where
            rows do not come from files, or the files were not looked at.
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
        self.versions: Mapping[str, str] = {}
        self.settings, self._no_rows = settings, no_rows  # what there is if there are no rows, for the error
        self.fingerprint = fingerprint
        self._is_stream = not isinstance(data, datasets.Dataset)
        self.num_rows = self.data_rows = None if self._is_stream else len(data)
        if self.num_rows == 0:
            raise no_rows_error(settings, no_rows)
        self.features = _select_features(data.features or _infer_features(data, settings), settings)
        marks = [BAD_ROW] if BAD_ROW in (data.features or {}) else []
        data = data if self._is_stream else data.select_columns([*self.features, *marks])
        self._data = data.with_format("arrow")
        self.sections: tuple[Section, ...] = (Section(rows=self.num_rows),)
        self._cursor: Iterator[Shard] | None = None
        self._next_index = 0  # the shard that the cursor gives next

    def with_sections(self, sections: Sequence[Section]) -> Source:
        """The same dataset, of which only these sections are read.

        Args:
            sections: in the order of their rows and shards, apart from each other; only the last one may have no end.
        """
        other, rows = copy.copy(self), self.num_rows
        if rows is not None:
            sections = [
                replace(each, rows=max(0, rows - each.start)) if each.rows is None else each for each in sections
            ]
        other.sections, other._cursor = tuple(sections), None
        known = [each.rows for each in sections if each.rows is not None]
        other.num_rows = sum(known) if len(known) == len(sections) else None
        return other

    @property
    def num_shards(self) -> int | None:
        """The number of shards; None for a stream that has not been read to its end."""
        size = self.settings.shard_rows
        if self.num_rows is None:
            return None
        ended = self.num_rows - sum(each.rows or 0 for each in self.sections)  # of a section whose end was not known
        return sum(-(-(ended if each.rows is None else each.rows) // size) for each in self.sections)

    def indices(self) -> Iterator[int]:
        """The numbers of the shards; those of a stream that has not been read to its end do not end."""
        return (index for index, *_ in islice(self._shard_ranges(), self.num_shards))

    def shards(self, selected: Callable[[int], bool] | None = None) -> Iterator[Shard]:
        """The shards, in order.

        Args:
            selected: called once per shard with its index; returns whether to read it. None selects all. The rows of
                other shards are skipped; those of a stream are read and dropped.

        Raises:
            DatasetError: the input ends early or cannot be read.
        """
        if not self._is_stream:
            for index, *place in self._shard_ranges():
                if selected is None or selected(index):
                    yield self._slice(index, *place)
            return
        num_rows = 0
        for shard in self._stream():
            num_rows += shard.table.num_rows
            if selected is None or selected(shard.index):
                yield shard
        if not num_rows and self.sections == (Section(),):
            raise no_rows_error(self.settings, self._no_rows)
        self.num_rows = num_rows

    def read(self, index: int) -> Shard:
        """One shard, by its index; a stream is read up to it.

        Raises:
            IndexError: there is no such shard.
            DatasetError: the input ends early or cannot be read.
        """
        if not self._is_stream:
            for number, *place in self._shard_ranges():
                if number == index:
                    return self._slice(index, *place)
            raise IndexError(index)
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
        numbers = {self._row_of_data(row): row for row in rows}
        if self._locate is None or max(numbers, default=0) > _MAX_LOCATED:
            return {}
        try:
            return {numbers[row]: place for row, place in self._locate(list(numbers)).items()}
        except (LengthwiseError, OSError):  # the rows have an error already, which this would only replace
            return {}

    def texts(self) -> Iterator[str]:
        """The texts, in order, without those that are null, not UTF-8, or of malformed rows."""
        for shard in self.shards():
            for encoded in shard.texts.cast(pa.large_binary()).to_pylist():
                text = _decode(encoded)
                if text is not None:
                    yield text

    def _shard_ranges(self) -> Iterator[tuple[int, int, int, int]]:
        """(index, first row, start, stop) of the shards of all sections."""
        for section in self.sections:
            yield from section.shard_ranges(self.settings.shard_rows)

    def _row_of_data(self, row: int) -> int:
        """The number that a row has in the data that is read."""
        for section in reversed(self.sections):
            if row >= section.first_row:
                return row - section.first_row + section.start
        return row

    def _slice(self, index: int, first_row: int, start: int, stop: int) -> Shard:
        if start >= len(self._data):
            raise self._ends_early(index)
        with self._wrap_errors():
            table = self._data[start:stop]
        return _make_shard(index, first_row, self._cast(table, start))

    def _stream(self) -> Iterator[Shard]:
        with self._wrap_errors():
            rows = _StreamRows(self._cast_tables())
            for index, first_row, start, stop in self._shard_ranges():
                table = rows.take(start, stop)
                if table is not None:
                    yield _make_shard(index, first_row, table)
                if table is None or table.num_rows < stop - start:
                    self._check_end(index)
                    return

    def _cast_tables(self) -> Iterator[pa.Table]:
        first_row = 0
        for table in iter_arrow_tables(self._data, min(self.settings.shard_rows, _BATCH_ROWS)):
            yield self._cast(table, first_row)
            first_row += table.num_rows

    def _check_end(self, index: int) -> None:
        """Raise a ShortInputError where a stream ended in a shard whose rows it should have."""
        last = self.sections[-1]
        if last.rows is not None or index < last.first_index:
            raise self._ends_early(index)

    def _ends_early(self, index: int) -> ShortInputError:
        return ShortInputError(f"{self.settings.path}: the rows end early, in shard {index}; check the input")

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


class _StreamRows:
    """The rows of a stream of tables, taken in ascending ranges."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._held: list[pa.Table] = []
        self._first = self._end = 0  # of the rows that are held

    def take(self, start: int, stop: int) -> pa.Table | None:
        """The rows from `start` to `stop`, fewer where the stream ends, None where it has ended; others are dropped."""
        while self._end < stop and (table := next(self._tables, None)) is not None:
            self._end += table.num_rows
            if self._end > start:
                self._held.append(table)
            else:
                self._first = self._end
        if self._end <= start:
            return None
        joined = pa.concat_tables(self._held)
        begin, self._first = start - self._first, min(stop, self._end)
        self._held = [joined.slice(begin + stop - start)] if self._end > stop else []
        return joined.slice(begin, stop - start)


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
        is_plain = isinstance(feature, datasets.Value)
        remedy = f"dataset.types.{settings.text_column} to string" if is_plain else "make one text of each row's values"
        raise ColumnError(
            f"{settings.path}: the column {settings.text_column!r} is {feature}, not text",
            [settings.text_column],
            f"set dataset.text_column to a column of strings, or {remedy}",
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
